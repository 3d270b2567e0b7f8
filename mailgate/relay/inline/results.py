"""What the end of a session with a next hop means for each recipient."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from mailgate.envelope import EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import Result
from mailgate.relay.client.exchange import BrokenOffError
from mailgate.relay.client.session import LOST
from mailgate.relay.client.transaction import kind_of
from mailgate.reply import Reply

__all__ = ["NO_ANSWER", "TURNED_AWAY", "asleep", "broken", "is_unreached", "lost", "unreached"]

TURNED_AWAY = Reply.of(451, "4.3.2", "The next hop cannot be asked now")
NO_ANSWER = Reply.of(451, "4.4.2", "The next hop did not answer in time")


def is_unreached(result: Result) -> bool:
    """Whether the next hop has not had the message, nor said anything about it."""
    return result.kind is OutcomeKind.DEFERRED and result.next_host


def unreached(result: Result) -> Result:
    """A deferral as one that is about the way, and not about the mail."""
    if result.kind is not OutcomeKind.DEFERRED:
        return result
    return replace(result, next_host=True, again=False, host="")


def lost(recipient: EnvelopeRecipient, error: BrokenOffError) -> Result:
    """The session has ended before the content."""
    return Result(recipient, OutcomeKind.DEFERRED, error.reply, error.host, next_host=True, reason=str(error))


def asleep(recipient: EnvelopeRecipient, peer: str) -> Result:
    """A session that had rested has turned out to be dead before anything was said in it; another one is not."""
    reason = f"an idle connection to {peer} was not alive any more"
    return Result(recipient, OutcomeKind.DEFERRED, LOST, next_host=True, again=True, reason=reason)


def broken(recipients: Sequence[EnvelopeRecipient], error: BrokenOffError, peer: str) -> list[Result]:
    """What is known of each when the session ended; the first may have had their replies by LMTP."""
    replies = error.replies if error.end_sent else ()
    results = [Result(one, kind_of(reply), reply, peer) for one, reply in zip(recipients, replies, strict=False)]
    reason = f"{error}, after the end of data: it may have been delivered" if error.end_sent else str(error)
    is_ours = error.is_ours
    kind = OutcomeKind.FAILED if is_ours and error.reply.is_permanent else OutcomeKind.DEFERRED
    next_host = not error.end_sent and not is_ours
    results += [
        Result(one, kind, error.reply, error.host, next_host=next_host, reason=reason)
        for one in recipients[len(results) :]
    ]
    return results
