"""Reports of failed delivery (RFC 3464, RFC 6522): composed here, sent like any other mail.

A report is all ASCII, whatever the original or a next hop's reply contained, so that every next hop takes it.
"""

from __future__ import annotations

import re
import textwrap
from binascii import b2a_qp
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import Outcome
from mailgate.message import Content, HeaderField, Message
from mailgate.reply import Reply
from mailgate.wire.content import MAX_LINE

__all__ = ["compose_report", "status_of"]

#: Octets of the original's header section that a report carries, at most.
_MAX_ORIGINAL = 32 * 1024
#: Recipients that the text for people names; the part for programs names all.
_MAX_NAMED = 50
#: Characters of a reply that a report carries.
_MAX_DIAGNOSTIC = 900

_UNPRINTABLE = re.compile(r"[^ -~]")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,200}@[!-;=?-~]{1,200}>")

#: The enhanced status that stands in for a reply without one, by code (RFC 3463, RFC 5248); X.0.0 for others.
_STATUS = {
    421: "4.3.2",
    450: "4.2.0",
    452: "4.3.1",
    455: "4.5.4",
    500: "5.5.2",
    501: "5.5.4",
    502: "5.5.1",
    503: "5.5.1",
    504: "5.5.4",
    521: "5.3.2",
    530: "5.7.0",
    535: "5.7.8",
    551: "5.1.6",
    552: "5.2.2",
    553: "5.1.3",
    555: "5.5.4",
    556: "5.1.10",
}

#: What the sender can do, by the beginning of the status; the first that fits.
_ADVICE = (
    ("4.4.7", "Delivery was tried again and again until the time for it was over. Please try again later."),
    ("5.1.8", "Your own address was not accepted. Please check how it is written in your mail program."),
    ("5.1.7", "Your own address was not accepted. Please check how it is written in your mail program."),
    ("5.1.", "Please check how the address is written; it may have a typing error or may no longer exist."),
    ("5.2.2", "The mailbox is full. Please reach the recipient in another way, or try again later."),
    ("5.2.3", "The message is too large for this mailbox. Please send a smaller one."),
    ("5.3.4", "The message is too large. Please send a smaller one, or share large files in another way."),
    (
        "5.4.",
        "The recipient's mail system cannot be found. Please check the part of the address behind the @.",
    ),
    ("5.6.", "The recipient's mail system cannot take this form of message. Please send it as plain text."),
    (
        "5.7.",
        "A mail system has a rule against this message. The text above may say which one it is.",
    ),
    ("", "The text above says why. If it does not help you, please ask your postmaster and show this report."),
)


def compose_report(
    envelope: Envelope,
    failed: Sequence[Outcome],
    content: Content,
    *,
    hostname: str,
    now: float,
    queue_id: str,
    route: str,
) -> tuple[Envelope, Content] | None:
    """The report to the sender about recipients that were given up; None where none is owed.

    None is owed to the null sender (RFC 5321 section 6.1). `queue_id` and `route` are those of the report. A failed
    outcome whose reply is 4yz is one that has expired: its status is 4.4.7, and the reply is told as the last one.
    """
    if not envelope.sender or not failed:
        return None
    report = _compose(envelope, failed, content, hostname, now, queue_id)
    recipient = EnvelopeRecipient(0, envelope.sender, route)
    return (
        Envelope(queue_id=queue_id, sender=NULL_PATH, recipients=(recipient,), received=now, size=len(report)),
        Content(report),
    )


def status_of(reply: Reply) -> str:
    """The enhanced status of a reply; one made from its code where it has none."""
    return reply.status or _STATUS.get(reply.code) or f"{reply.code // 100}.0.0"


def _compose(
    envelope: Envelope, failed: Sequence[Outcome], content: Content, hostname: str, now: float, queue_id: str
) -> bytes:
    header, message_id = _original(content)
    parts = (
        _part("text/plain; charset=utf-8", "Notification", _text(envelope, failed, hostname, now).encode()),
        _part("message/delivery-status", "Delivery report", _delivery_status(envelope, failed, hostname, now)),
        _part("text/rfc822-headers; charset=utf-8", "Header of the undelivered message", header),
    )
    boundary = f"=_{queue_id}"
    while any(boundary.encode() in part for part in parts):
        boundary += "_"
    fields = [
        ("From", f"Mail Delivery System <MAILER-DAEMON@{hostname}>"),
        ("To", f"<{envelope.sender}>"),
        ("Subject", "Your message could not be delivered"),
        ("Date", _date(now)),
        ("Message-ID", f"<{queue_id}@{hostname}>"),
        ("Auto-Submitted", "auto-replied"),
        ("MIME-Version", "1.0"),
        ("Content-Type", f'multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"'),
    ]
    if message_id:
        fields[5:5] = [("In-Reply-To", message_id), ("References", message_id)]
    delimiter = f"--{boundary}\r\n".encode()
    body = b"".join(delimiter + part for part in parts)
    return _fields(fields) + b"\r\n" + body + f"--{boundary}--\r\n".encode()


def _text(envelope: Envelope, failed: Sequence[Outcome], hostname: str, now: float) -> str:
    lines = [
        f"This is the mail system at {hostname}.",
        "",
        f"Your message of {_date(envelope.received)} could not be delivered to:",
    ]
    for outcome in failed[:_MAX_NAMED]:
        expired = outcome.reply.is_transient
        answer = f"{outcome.host} said: {_diagnostic(outcome)}" if outcome.host else _diagnostic(outcome)
        if expired:
            answer = f"given up after {_span(now - envelope.received)}; the last answer: {answer}"
        lines += ["", f"  <{outcome.recipient.address}>"]
        lines += textwrap.wrap(answer, 76, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
        lines += textwrap.wrap(_advice(outcome), 76, initial_indent="    ", subsequent_indent="    ")
    if len(failed) > _MAX_NAMED:
        lines += ["", f"and to {len(failed) - _MAX_NAMED} more, which the report attached to this message names."]
    lines += [
        "",
        "No more attempts will be made for these recipients. The header of your message is attached.",
        f"Its id here was {envelope.queue_id}.",
        "",
    ]
    return "\r\n".join(lines)


def _delivery_status(envelope: Envelope, failed: Sequence[Outcome], hostname: str, now: float) -> bytes:
    groups = [
        _fields(
            [
                ("Reporting-MTA", f"dns; {hostname}"),
                ("X-Mailgate-Queue-Id", envelope.queue_id),
                ("Arrival-Date", _date(envelope.received)),
            ]
        )
    ]
    for outcome in failed:
        host = outcome.host
        fields = [
            ("Final-Recipient", _typed(outcome.recipient.address)),
            ("Action", "failed"),
            ("Status", _status(outcome)),
        ]
        if host:
            name = f"x-unix; {host}" if host.startswith("/") else f"dns; {host.partition('[')[0] or host}"
            fields.append(("Remote-MTA", _ascii(name)))
        diagnostic = f"{'smtp' if host else 'x-mailgate'}; {_ascii(_diagnostic(outcome))}"
        folded = textwrap.wrap(diagnostic, 70, break_long_words=False, break_on_hyphens=False)
        fields += [("Diagnostic-Code", "\r\n\t".join(folded)), ("Last-Attempt-Date", _date(now))]
        groups.append(_fields(fields))
    return b"\r\n".join(groups)


def _original(content: Content) -> tuple[bytes, str]:
    """The header section, cut at the end of a line, and the Message-ID if it can be one."""
    try:
        header = content.header
        ids = Message(content).values("Message-ID")
    except OSError:  # the report is owed even where the content cannot be read
        return b"", ""
    if len(header) > _MAX_ORIGINAL:
        header = header[: header.rfind(b"\r\n", 0, _MAX_ORIGINAL) + 2]
    header = b"".join(line + b"\r\n" for line in header.splitlines())
    return header, ids[0] if len(ids) == 1 and _MESSAGE_ID.fullmatch(ids[0]) else ""


def _part(kind: str, description: str, body: bytes) -> bytes:
    """One body part, with the CRLF before the next boundary; what is not plain text is encoded (RFC 6522 section 4)."""
    fields = [("Content-Type", kind), ("Content-Description", description)]
    if not body.isascii() or b"\0" in body or any(len(line) > MAX_LINE for line in body.split(b"\r\n")):
        fields.append(("Content-Transfer-Encoding", "quoted-printable"))
        body = b2a_qp(body, istext=True)
    return _fields(fields) + b"\r\n" + body + b"\r\n"


def _fields(fields: Sequence[tuple[str, str]]) -> bytes:
    return b"".join(HeaderField.of(name, value).raw for name, value in fields)


def _status(outcome: Outcome) -> str:
    return "4.4.7" if outcome.reply.is_transient else status_of(outcome.reply)


def _advice(outcome: Outcome) -> str:
    status = _status(outcome)
    return next(advice for start, advice in _ADVICE if status.startswith(start))


def _diagnostic(outcome: Outcome) -> str:
    return str(outcome.reply)[:_MAX_DIAGNOSTIC]


def _typed(address: Address) -> str:
    text = str(address)
    if text.isascii():
        return f"rfc822; {text}"
    return "utf-8; " + "".join(one if one.isascii() else f"\\x{{{ord(one):X}}}" for one in text)  # RFC 6533 section 3


def _ascii(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)


def _date(at: float) -> str:
    return format_datetime(datetime.fromtimestamp(at, UTC))


def _span(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = round(seconds / length)
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return "less than a minute"
