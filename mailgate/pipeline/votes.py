"""How verdicts are weighed against each other, and how votes on a message become one verdict per recipient.

Strongest first: Disconnect, Reject, Defer, Discard, Quarantine, Accept, Continue; of two equals the earlier counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from mailgate.address import Address
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.verdict import Accept, Continue, Defer, Discard, Disconnect, Quarantine, Reject, Verdict

__all__ = ["CONTINUE", "STRENGTH", "Pending", "Votes", "is_refusal", "strongest"]

#: What every stage that nobody objects at answers.
CONTINUE: Verdict = Continue()

#: Every kind of verdict, by strength.
STRENGTH: dict[type, int] = {
    kind: strength for strength, kind in enumerate((Continue, Accept, Quarantine, Discard, Defer, Reject, Disconnect))
}
_REFUSALS = (Defer, Reject, Disconnect)
_LOST = (*_REFUSALS, Discard)


@dataclass(frozen=True, slots=True)
class Pending:
    """A Discard or Quarantine that a filter decided on before there was a message: evidence that the pipeline adds.

    It stops no stage. On the session (from connect, helo, auth) it holds for every later message, on the
    transaction for this one, there with `recipient` set for that recipient only. At the message stage it counts
    as the first vote, so that a stronger one, a Reject, still gives the sender its answer.
    """

    verdict: Discard | Quarantine
    filter: str
    recipient: Address | None = None


def is_refusal(verdict: Verdict) -> TypeGuard[Defer | Reject | Disconnect]:
    """Whether the peer is told no."""
    return isinstance(verdict, _REFUSALS)


def strongest(verdicts: Sequence[Verdict]) -> int:
    """The place of the strongest, the first of equals."""
    if len(verdicts) == 1:
        return 0
    return max(range(len(verdicts)), key=lambda number: STRENGTH[type(verdicts[number])])


class Votes:
    """One verdict for each recipient of a transaction, in their order; each vote can only make it stronger."""

    __slots__ = ("_is_unanimous", "_recipients", "verdicts")

    def __init__(self, recipients: Sequence[Recipient]) -> None:
        self._recipients = recipients
        self.verdicts: list[Verdict] = [CONTINUE] * len(recipients)
        self._is_unanimous = bool(recipients)  # nothing was said against anybody

    def add(self, verdict: Verdict) -> None:
        """Count a vote: for the recipients that it names, or for all where it names none."""
        strength = STRENGTH[type(verdict)]
        if strength < STRENGTH[Quarantine]:
            return
        named = () if isinstance(verdict, (Disconnect, Continue, Accept)) else verdict.recipients
        self._strengthen(verdict, strength, frozenset(named))

    def add_pending(self, session: Session, transaction: Transaction) -> None:
        """Count what was decided before there was a message."""
        for evidence in (session.evidence, transaction.evidence):
            if evidence:
                for pending in evidence.all(Pending):
                    named = () if pending.recipient is None else (pending.recipient,)
                    self._strengthen(pending.verdict, STRENGTH[type(pending.verdict)], frozenset(named))

    def _strengthen(self, verdict: Verdict, strength: int, named: frozenset[Address]) -> None:
        self._is_unanimous = False
        for number, recipient in enumerate(self._recipients):
            if (not named or recipient.address in named) and strength > STRENGTH[type(self.verdicts[number])]:
                self.verdicts[number] = verdict

    @property
    def all_refused(self) -> bool:
        """Whether no recipient is left that anything could still be decided for."""
        return all(isinstance(verdict, _REFUSALS) for verdict in self.verdicts)

    @property
    def somebody_gets_it(self) -> bool:
        """Whether the message is kept for anyone, be it in quarantine."""
        return self._is_unanimous or any(not isinstance(verdict, _LOST) for verdict in self.verdicts)
