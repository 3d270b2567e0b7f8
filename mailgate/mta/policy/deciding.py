"""What becomes of mail before its content is there: from verdicts to actions of access(5).

Postfix has one message for all its recipients: what it holds or discards, it does for all of them. So mail is discarded
only where that is meant for all, and what is meant for some is held: nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mailgate.envelope import Recipient, Session, Transaction
from mailgate.pipeline.votes import Pending, Votes
from mailgate.reply import Reply
from mailgate.verdict import Defer, Discard, Disconnect, Quarantine, Reject, Verdict

__all__ = ["DUNNO", "LATER", "Decision", "decide", "refusal"]

#: We have nothing against it: the next restriction is asked. Never OK, which would end them.
DUNNO = "DUNNO"
#: We could not tell: deferred, unless a later restriction refuses it for good.
LATER = "DEFER_IF_PERMIT 4.3.0 Local error, try again later"

_OBJECTIONS = (Reject, Defer, Discard, Quarantine)


class Decision(NamedTuple):
    """`word` is "continue", "quarantine" or "discard", for this reason; or "refuse", with what to refuse it by."""

    word: str
    reason: str = ""
    verdict: Reject | Defer | None = None


_CONTINUE = Decision("continue")


def refusal(verdict: Reject | Defer | Disconnect) -> str:
    """The action; Postfix ends the session at 421 and 521."""
    reply = verdict.reply
    if isinstance(verdict, Disconnect):
        reply = Reply(421 if reply.is_transient else 521, reply.status, reply.lines)
    return str(reply)


def decide(session: Session, transaction: Transaction, recipients: Sequence[Recipient], *, is_whole: bool) -> Decision:
    """What filters have decided on before there is a message, about these recipients. `is_whole`: they are all that
    there will be."""
    general = list(_general(session, transaction))
    discard = next((one for one in general if isinstance(one, Discard)), None)
    if discard is not None:
        return Decision("discard", discard.reason)
    votes = Votes(recipients)
    votes.add_pending(session, transaction)
    objections: list[Verdict] = [one for one in votes.verdicts if isinstance(one, _OBJECTIONS)] or list(general)
    if not objections:
        return _CONTINUE
    refused = [one for one in objections if isinstance(one, Reject | Defer)]
    later = next((one for one in refused if isinstance(one, Defer)), None)
    if later is not None or len(refused) == len(recipients) > 0:
        return Decision("refuse", verdict=later or refused[0])
    reason = "; ".join(dict.fromkeys(map(_reason, objections)))
    if is_whole and len(objections) == len(recipients) and all(isinstance(one, Discard) for one in objections):
        return Decision("discard", reason)
    return Decision("quarantine", reason)


def _reason(verdict: Verdict) -> str:
    match verdict:
        case Reject():
            return f"refused: {verdict.reply} ({verdict.reason})"
        case Discard():
            return f"to be discarded for some: {verdict.reason}"
        case Quarantine():
            return verdict.reason
    return ""


def _general(session: Session, transaction: Transaction) -> Iterator[Verdict]:
    """What was decided about all recipients there may be."""
    for evidence in (session.evidence, transaction.evidence):
        for pending in evidence.all(Pending):
            if pending.recipient is None and pending.is_for is None:
                yield pending.verdict
