"""What a client is told of the answers of a next hop."""

from __future__ import annotations

from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import Result
from mailgate.relay.findings import for_now
from mailgate.reply import Reply

__all__ = ["public", "spoken", "with_id"]

_CLOSING = "4.4.2"
#: Characters of an answer's last line that are left of it where our id is to stand behind it.
_LONGEST = 400


def public(result: Result) -> Reply:
    """The reply to a refusal: the next hop's own, where it has given one. What else there is to know, that is who it is
    and why it cannot be asked, is for our log only.

    421 would end the client's session with us, and 5yz would end a mail that may go another time (see `Result`).
    """
    reply = result.reply
    if result.kind is OutcomeKind.FAILED:
        return reply
    if not result.host and result.reason:
        status = for_now(reply).status or _CLOSING
        return Reply.of(451, status, "The next hop cannot take it now, try again later")
    if reply.code == 421 or not reply.is_transient:
        status = for_now(reply).status if reply.status else _CLOSING
        return Reply(451, status, reply.lines)
    return reply


def spoken(reply: Reply, *, utf8: bool) -> Reply:
    """As the client may hear it: in ASCII where its MAIL has not said SMTPUTF8 (RFC 6531 section 3.7.4)."""
    if utf8 or all(map(str.isascii, reply.lines)):
        return reply
    return Reply(reply.code, reply.status, tuple(line.encode("ascii", "replace").decode() for line in reply.lines))


def with_id(reply: Reply, queue_id: str) -> Reply:
    """A positive answer, with the id that our log knows the message by."""
    last = reply.lines[-1][:_LONGEST].rstrip()
    return Reply(reply.code, reply.status, (*reply.lines[:-1], f"{last} ({queue_id})".lstrip()))
