"""How verdicts are weighed against each other, and how votes on a message become one verdict per recipient.

Strongest first: Disconnect, Reject, Defer, Discard, Quarantine, Accept, Continue; of two equals the earlier counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from mailgate.address import Address
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.reply import Reply
from mailgate.verdict import Accept, Continue, Defer, Discard, Disconnect, Quarantine, Reject, Verdict

__all__ = [
    "CONTINUE",
    "STRENGTH",
    "Ballot",
    "Pending",
    "Several",
    "Votes",
    "each",
    "for_some",
    "is_refusal",
    "strongest",
    "whom_of",
]

#: What every stage that nobody objects at answers.
CONTINUE: Verdict = Continue()

#: Every kind of verdict, by strength.
STRENGTH: dict[type, int] = {
    kind: strength for strength, kind in enumerate((Continue, Accept, Quarantine, Discard, Defer, Reject, Disconnect))
}
_REFUSALS = (Defer, Reject, Disconnect)
_LOST = (*_REFUSALS, Discard)


@dataclass(frozen=True, slots=True)
class Several:
    """What a message filter says of different recipients: each verdict is a vote of its own."""

    verdicts: tuple[Verdict, ...]


Ballot = Verdict | Several
"""What a message filter answers."""


@dataclass(frozen=True, slots=True)
class Pending:
    """What a filter decided on before it could be acted upon: evidence that the pipeline adds.

    It stops no stage. On the session (from connect, helo, auth) it holds for every later message, on the
    transaction for this one, there with `recipient` set for that recipient only; with `is_for`, for the recipients of
    which that is so. A refusal is there only with `is_for`: those get it when they are named. At the message stage
    all counts as the first vote, so that a stronger one, a Reject, still gives the sender its answer.
    """

    verdict: Discard | Quarantine | Reject | Defer
    filter: str
    recipient: Address | None = None
    is_for: Callable[[Address], bool] | None = None


def each(ballots: Sequence[Ballot]) -> list[Verdict]:
    """Every verdict on its own."""
    return [one for ballot in ballots for one in (ballot.verdicts if isinstance(ballot, Several) else (ballot,))]


def is_refusal(verdict: Verdict) -> TypeGuard[Defer | Reject | Disconnect]:
    """Whether the peer is told no."""
    return isinstance(verdict, _REFUSALS)


def for_some(verdict: Verdict) -> Verdict:
    """The verdict of a filter that is for some recipients only: it ends no session, in which there may be others."""
    if not isinstance(verdict, Disconnect):
        return verdict
    text = verdict.reply.text
    if verdict.reply.is_permanent:
        return Reject(Reply.of(550, "5.7.1", text), verdict.reason, evidence=verdict.evidence)
    return Defer(Reply.of(450, "4.7.1", text), verdict.reason, evidence=verdict.evidence)


def strongest(verdicts: Sequence[Verdict]) -> int:
    """The place of the strongest, the first of equals."""
    if len(verdicts) == 1:
        return 0
    return max(range(len(verdicts)), key=lambda number: STRENGTH[type(verdicts[number])])


class Votes:
    """One verdict for each recipient of a transaction, in their order; each vote can only make it stronger."""

    __slots__ = ("_is_unanimous", "_places", "_recipients", "verdicts")

    def __init__(self, recipients: Sequence[Recipient]) -> None:
        self._recipients = recipients
        self.verdicts: list[Verdict] = [CONTINUE] * len(recipients)
        self._is_unanimous = bool(recipients)  # nothing was said against anybody
        self._places: dict[Address, list[int]] = {}  # of each recipient, once some are named

    def add(self, ballot: Ballot, among: Collection[Address] | None = None) -> None:
        """Count a vote, or several: each for the recipients that it names, or for all where it names none; of those
        `among` these, if given."""
        for verdict in each((ballot,)):
            strength = STRENGTH[type(verdict)]
            if strength >= STRENGTH[Quarantine]:
                self._strengthen(verdict, strength, whom_of(verdict, among))

    def add_pending(self, session: Session, transaction: Transaction) -> None:
        """Count what was decided before there was a message."""
        for evidence in (session.evidence, transaction.evidence):
            if evidence:
                for pending in evidence.all(Pending):
                    meant: Collection[Address] | None = None if pending.recipient is None else (pending.recipient,)
                    if pending.is_for is not None:
                        meant = {one.address for one in self._recipients if pending.is_for(one.address)}
                    self._strengthen(pending.verdict, STRENGTH[type(pending.verdict)], meant)

    def _strengthen(self, verdict: Verdict, strength: int, meant: Collection[Address] | None) -> None:
        self._is_unanimous = False
        for number in range(len(self.verdicts)) if meant is None else self._numbers(meant):
            if strength > STRENGTH[type(self.verdicts[number])]:
                self.verdicts[number] = verdict

    def _numbers(self, meant: Collection[Address]) -> Iterator[int]:
        """Where these stand: many verdicts that name a few each take no longer than one that names all."""
        if not self._places:
            for number, recipient in enumerate(self._recipients):
                self._places.setdefault(recipient.address, []).append(number)
        return (number for address in meant for number in self._places.get(address, ()))

    @property
    def all_refused(self) -> bool:
        """Whether no recipient is left that anything could still be decided for."""
        return all(isinstance(verdict, _REFUSALS) for verdict in self.verdicts)

    def is_refused(self, recipients: Collection[Address]) -> bool:
        """Whether nothing could still be decided for these."""
        return all(isinstance(one, _REFUSALS) for one in self._of(recipients))

    def may_be_kept_for(self, recipients: Collection[Address]) -> bool:
        """Whether anything of the message may be kept for any of these, where `somebody_gets_it`.

        A Reject is told only where all are refused: else it goes into quarantine, or into a report (`settled`).
        """
        return any(isinstance(one, Reject) or not isinstance(one, _LOST) for one in self._of(recipients))

    def _of(self, recipients: Collection[Address]) -> Iterator[Verdict]:
        pairs = zip(self._recipients, self.verdicts, strict=True)
        return (verdict for recipient, verdict in pairs if recipient.address in recipients)

    @property
    def somebody_gets_it(self) -> bool:
        """Whether the message may be kept for anyone, be it in quarantine: one that is refused for some only is."""
        if self._is_unanimous or any(not isinstance(verdict, _LOST) for verdict in self.verdicts):
            return True
        kinds = set(map(type, self.verdicts))
        return kinds == {Reject, Discard}


def whom_of(verdict: Verdict, among: Collection[Address] | None) -> Collection[Address] | None:
    """Those whom a verdict names, of those `among` whom its filter was asked about; None for all."""
    named = () if isinstance(verdict, (Disconnect, Continue, Accept)) else verdict.recipients
    if not named:
        return among
    return frozenset(named) if among is None else frozenset(named).intersection(among)
