"""Reports to senders (RFC 3461, RFC 3464, RFC 6522, RFC 6533): composed here, sent like any other mail.

A report is all ASCII, whatever the original or a next hop's reply contained, so that every next hop takes it, with two
exceptions: one to an address that is not ASCII, and one that returns a whole message of 8-bit text.
"""

from __future__ import annotations

import re
from binascii import b2a_qp
from collections.abc import Callable, Sequence

from mailgate.address import NULL_PATH
from mailgate.envelope import Envelope, EnvelopeRecipient, MailParameters
from mailgate.interfaces import Outcome
from mailgate.message import Content, Message
from mailgate.relay.reports.fields import Action, Subject, action_of, delivery_status, to_date, to_fields
from mailgate.relay.reports.text import text_for_people, title
from mailgate.wire.content import MAX_LINE

__all__ = ["compose_report"]

#: Octets of the original's header section that a report carries, at most, and of a message that is returned whole.
_MAX_HEADER = 32 * 1024
_MAX_WHOLE = 1024 * 1024

_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,200}@[!-;=?-~]{1,200}>")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\0")


def compose_report(
    envelope: Envelope,
    outcomes: Sequence[Outcome],
    content: Content,
    *,
    hostname: str,
    now: float,
    queue_id: str,
    route: str,
    retry_until: float = 0.0,
    is_report: bool = False,
    sign: Callable[[bytes], bytes] | None = None,
) -> tuple[Envelope, Content] | None:
    """The report to the sender about recipients that were given up, are late, or got the message; None: none is owed.

    None is owed to the null sender (RFC 5321 section 6.1). Whether the sender wants to hear of a recipient is decided
    by the caller. `queue_id` and `route` are those of the report; late ones are tried until `retry_until`. A failed
    outcome whose reply is 4yz is one that has expired: its status is 4.4.7, and the reply is told as the last one.
    `is_report`: the message is itself a report of ours, and the envelope's sender here is whoever is told of that.
    `sign` puts a signature on the octets.
    """
    if not envelope.sender or not outcomes:
        return None
    parameters = envelope.parameters
    about = Subject(
        envelope=envelope,
        outcomes=outcomes,
        hostname=hostname,
        now=now,
        retry_until=retry_until,
        is_utf8=not envelope.sender.is_ascii,
        is_report=is_report,
    )
    report = _compose(about, content, queue_id)
    report = report if sign is None else sign(report)
    made = Envelope(
        queue_id=queue_id,
        sender=NULL_PATH,
        # Of a report nobody is to be told (RFC 3461 section 6.2).
        recipients=(EnvelopeRecipient(0, envelope.sender, route, notify=("NEVER",)),),
        received=now,
        size=len(report),
        parameters=MailParameters(
            body="7BIT" if report.isascii() else "8BITMIME",
            smtputf8=about.is_utf8,
            require_tls=parameters.require_tls,
            priority=parameters.priority,
        ),
    )
    return made, Content(report)


def _compose(about: Subject, content: Content, queue_id: str) -> bytes:
    whole = _whole(about, content)
    status = "global-delivery-status" if about.is_utf8 else "delivery-status"
    text = text_for_people(about, is_whole=whole is not None).encode()
    parts = (
        _part("text/plain; charset=utf-8", "Notification", text),
        _part(f"message/{status}", "Delivery report", delivery_status(about), as_it_is=True),
        _header(about, content) if whole is None else _message(about, whole),
    )
    body = b"".join(parts)
    boundary = f"=_{queue_id}"
    while boundary.encode() in body:
        boundary += "_"
    fields = [
        ("From", f"Mail Delivery System <MAILER-DAEMON@{about.hostname}>"),
        ("To", f"<{about.envelope.sender}>"),
        ("Subject", title(about)),
        ("Date", to_date(about.now)),
        ("Message-ID", f"<{queue_id}@{about.hostname}>"),
        ("Auto-Submitted", "auto-replied"),
        ("MIME-Version", "1.0"),
        ("Content-Type", f'multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"'),
    ]
    if not body.isascii():
        fields.append(("Content-Transfer-Encoding", "8bit"))
    if message_id := _message_id(content):
        fields[5:5] = [("In-Reply-To", message_id), ("References", message_id)]
    delimiter = f"--{boundary}\r\n".encode()
    return to_fields(fields) + b"\r\n" + b"".join(delimiter + part for part in parts) + f"--{boundary}--\r\n".encode()


# -- the original


def _whole(about: Subject, content: Content) -> bytes | None:
    """The original, where it is to be returned whole and can be; else its header section is enough.

    RFC 3461 section 4.3: only reports of failure return it; RFC 8689 section 5: none for which TLS was required.
    """
    parameters = about.envelope.parameters
    if parameters.ret != "FULL" or parameters.require_tls or content.size > _MAX_WHOLE:
        return None
    if not any(action_of(one) is Action.FAILED for one in about.outcomes):
        return None
    try:
        octets = content.read()
        header = content.header
        header.decode()
    except (OSError, UnicodeDecodeError):
        return None
    if _BARE.search(octets) or any(len(line) > MAX_LINE for line in octets.split(b"\r\n")):
        return None
    return octets if octets.endswith(b"\r\n") else octets + b"\r\n"


def _message(about: Subject, whole: bytes) -> bytes:
    header = whole.partition(b"\r\n\r\n")[0]
    if header.isascii():
        return _part("message/rfc822", about.original, whole, as_it_is=True)
    # It may be encoded, as message/rfc822 must not be (RFC 6532 section 3.7).
    return _part("message/global", about.original, whole, as_it_is=about.is_utf8)


def _header(about: Subject, content: Content) -> bytes:
    """The header section, cut at the end of a line."""
    try:
        header = content.header
    except OSError:  # the report is owed even where the content cannot be read
        header = b""
    if len(header) > _MAX_HEADER:
        header = header[:_MAX_HEADER]
        header = header[: header.rindex(b"\r\n") + 2] if b"\r\n" in header else b""
    description = f"Header of {about.original.lower()}"
    if about.is_utf8 and not header.isascii() and _is_utf8(header):
        return _part("message/global-headers", description, header, as_it_is=True)
    header = b"".join(line + b"\r\n" for line in header.splitlines())
    return _part("text/rfc822-headers; charset=utf-8", description, header)


def _message_id(content: Content) -> str:
    """The Message-ID, if it can be one."""
    try:
        ids = Message(content).values("Message-ID")
    except OSError:
        return ""
    return ids[0] if len(ids) == 1 and _MESSAGE_ID.fullmatch(ids[0]) else ""


def _is_utf8(octets: bytes) -> bool:
    """Whether it is UTF-8 that needs no encoding."""
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return not _BARE.search(octets) and all(len(line) <= MAX_LINE for line in octets.split(b"\r\n"))


def _part(kind: str, description: str, body: bytes, *, as_it_is: bool = False) -> bytes:
    """One body part, with the CRLF before the next boundary; what is not plain text is encoded (RFC 6522 section 4).

    `as_it_is`: it is fit for 8-bit mail, and of a kind that is not to be encoded.
    """
    fields = [("Content-Type", kind), ("Content-Description", description)]
    if as_it_is:
        if not body.isascii():
            fields.append(("Content-Transfer-Encoding", "8bit"))
    elif not body.isascii() or b"\0" in body or any(len(line) > MAX_LINE for line in body.split(b"\r\n")):
        fields.append(("Content-Transfer-Encoding", "quoted-printable"))
        body = b2a_qp(body, istext=True)
    return to_fields(fields) + b"\r\n" + body + b"\r\n"
