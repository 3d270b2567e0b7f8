"""Messages that come as they are to be sent (message/rfc822): looked through, and given what they lack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import formatdate

from mailgate.address import Address
from mailgate.envelope import MailParameters, new_id
from mailgate.filters.authors import AmbiguousFieldError, addresses_in
from mailgate.message import MAX_HEADER, Content, Message, header_problem
from mailgate.message.edits import MAX_LINE
from mailgate.web.injection.composing import Draft, check_size
from mailgate.web.injection.pieces import lines_together
from mailgate.web.injection.problems import CallError

__all__ = ["raw_draft"]

_BARE_CR = re.compile(rb"\r(?!\n)")
#: What nobody else is to see, and what is not the sender's to say.
_REMOVED = frozenset({"bcc", "resent-bcc", "return-path"})


def raw_draft(
    octets: bytes,
    sender: Address | None,
    recipients: Sequence[tuple[str, Address]],
    *,
    hostname: str,
    now: float,
    release_at: float,
    most_octets: int,
) -> Draft:
    """The message; without a `sender` its author is the envelope's. CallError where it is none that can be sent.

    Lines may end in LF alone. Fields of blind copies go, and Date and Message-ID come where they are missing.
    """
    if len(octets) > most_octets + MAX_HEADER:  # whatever goes of its header
        check_size(octets, most_octets)
    octets = b"".join(map(_sent, lines_together(octets, b"\n")))
    if not octets.endswith(b"\r\n"):
        octets += b"\r\n"
    content = Content(octets)
    problem = header_problem(content)
    message = Message(content)
    if problem or not all(field.name for field in message.fields):
        raise CallError.bad("content", problem or "has a line in its header that is no field")
    author = _author(message)
    queue_id = new_id()
    added = b""
    if not message.values("Date"):
        added += f"Date: {formatdate(now, localtime=True)}\r\n".encode()
    if not message.values("Message-ID"):
        added += f"Message-ID: <{queue_id}@{hostname}>\r\n".encode()
    kept = b"".join(field.raw for field in message.fields if field.name.lower() not in _REMOVED)
    rest = octets[len(content.header) :] or b"\r\n"
    whole = kept + added + rest
    check_size(whole, most_octets)
    sender = sender or author
    is_ascii = sender.is_ascii and all(one.is_ascii for _, one in recipients) and kept.isascii()
    parameters = MailParameters(
        body="7BIT" if whole.isascii() else "8BITMIME", smtputf8=not is_ascii, release_at=release_at
    )
    return Draft(queue_id, 0, sender, tuple(recipients), whole, parameters)


def _sent(lines: bytes) -> bytes:
    """Some lines of a message as they are sent."""
    if _BARE_CR.search(lines) or b"\0" in lines:
        raise CallError.bad("content", "has a CR that ends no line, or a NUL")
    lines = lines.replace(b"\r\n", b"\n")
    if any(len(line) > MAX_LINE for line in lines.split(b"\n")):
        raise CallError.bad("content", f"has a line of more than {MAX_LINE} octets")
    return lines.replace(b"\n", b"\r\n")


def _author(message: Message) -> Address:
    values = message.values("From")
    if len(values) != 1:
        raise CallError.bad("content", "has one field From, as every message")
    try:
        found = addresses_in(values)
    except AmbiguousFieldError as error:
        raise CallError.bad("content", f"its From does not tell whom it is from: {error}") from None
    if not found:
        raise CallError.bad("content", "its From names nobody")
    return found[0]
