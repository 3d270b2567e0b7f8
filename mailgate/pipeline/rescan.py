"""Asks the content filters of a pipeline again about mail that has waited (`IRescan`).

They are asked in their order, those of an inner group together, as when the message came; a filter in shadow mode has
no say. It ends where every recipient's mail is objected to by those that count. A filter that fails has not objected,
whatever its `on_failure` says: nothing is known then, and nothing is to be done. Breakers are of their own: what old
mail does to a scanner is not to keep it from the mail that comes now.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace as replace_member

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.envelope import Recipient, Session, Transaction
from mailgate.events import BreakerChanged, Event
from mailgate.findings import Remembered
from mailgate.interfaces import Again, IContentFilter, IEvents, IRescan, IWeighingFilter
from mailgate.message import Message
from mailgate.pipeline.ask import Asker, Scene, join
from mailgate.pipeline.member import MESSAGE, Asked, Member, asked_of
from mailgate.pipeline.votes import CONTINUE, Ballot, Votes, each, strongest
from mailgate.verdict import Accept, Defer, Verdict

__all__ = ["Rescan"]

_PASS = Again("pass")
_STRENGTH = {"pass": 0, "unknown": 1, "objects": 2}
#: Facts of a kind of filter that begin with another word.
_ALSO = {"uribl": ("uriwl",)}


@implementer(IRescan)
class Rescan:
    """The content filters in `groups`; `kinds` has the kind of each filter by its name, by which its facts begin."""

    def __init__(
        self, groups: Sequence[Sequence[Member]], kinds: Mapping[str, str], clock: IReactorTime, events: IEvents
    ) -> None:
        self._asker = Asker(clock, _WithoutBreakers(events))
        content = [[replace_member(one) for one in group if IContentFilter.providedBy(one.filter)] for group in groups]
        asked = [[ask for one in group if (ask := asked_of(one, MESSAGE)) is not None] for group in content]
        self._groups: list[list[Asked[Ballot]]] = [group for group in asked if group]
        self.names = frozenset(ask.member.name for group in asked for ask in group if ask.enforced)
        found = {kinds.get(ask.member.name, ask.member.name) for group in asked for ask in group}
        self._anew = found.union(*(_ALSO.get(kind, ()) for kind in found))

    async def ask(
        self,
        session: Session,
        transaction: Transaction,
        message: Message,
        facts: Sequence[str] | None,
        of: Container[str] | None = None,
    ) -> Sequence[Again]:
        scene = Scene(transaction.trace, transaction.evidence, session.id, transaction.id)
        # What the filters find anew is not to count beside what they found then.
        known = [fact for fact in facts or () if fact.partition(".")[0] not in self._anew]
        scene.evidence.extend(map(Remembered, _findings(known)))
        said = [_PASS] * len(transaction.recipients)
        for group in self._groups[: self._end_of(of)]:
            asked = [one for one in group if facts is not None or not IWeighingFilter.providedBy(one.member.filter)]
            ballots = await self._ballots(asked, scene, session, transaction, message)
            for one, ballot in zip(asked, ballots, strict=True):
                if not _counts(one, of):
                    continue
                found = _said(one, ballot, scene, transaction.recipients)
                said = [max(pair, key=_strength) for pair in zip(said, found, strict=True)]
            if _is_accepted(asked, ballots) or all(one.word == "objects" for one in said):
                break
        return said

    def _end_of(self, of: Container[str] | None) -> int:
        """How many groups have to be asked for what these filters say."""
        meant = [place for place, group in enumerate(self._groups, 1) if any(_counts(one, of) for one in group)]
        return max(meant, default=0)

    async def _ballots(
        self,
        group: Sequence[Asked[Ballot]],
        scene: Scene,
        session: Session,
        transaction: Transaction,
        message: Message,
    ) -> Sequence[Ballot]:
        """What the filters of a group answer; one that is for nobody of these has no objection."""
        answers: list[Ballot | Deferred[Ballot]] = []
        for one in group:
            meant = _meant(one, transaction.recipients)
            scope = one.member.scope
            if not meant:
                answers.append(CONTINUE)
            elif scope is None:
                answers.append(self._asker.ask(one, scene, (session, transaction, message)))
            else:
                own = replace(scene, is_for=scope.is_for)
                answers.append(self._asker.ask(one, own, (session, replace(transaction, recipients=meant), message)))
        return await join(answers)


@implementer(IEvents)
class _WithoutBreakers:
    """Events, but for those that would tell of our own breakers as if they were those of the pipeline."""

    def __init__(self, events: IEvents) -> None:
        self._events = events

    def publish(self, event: Event) -> None:
        if not isinstance(event, BreakerChanged):
            self._events.publish(event)


def _counts(asked: Asked[Ballot], of: Container[str] | None) -> bool:
    return of is None or asked.member.name in of


def _is_accepted(asked: Sequence[Asked[Ballot]], ballots: Sequence[Ballot]) -> bool:
    """Whether the pipeline asks nobody else then: a filter for all recipients accepts, and none beside it objects."""
    verdicts = each(ballots)
    if not verdicts or not isinstance(verdicts[strongest(verdicts)], Accept):
        return False
    return any(
        isinstance(ballot, Accept) and one.member.scope is None for one, ballot in zip(asked, ballots, strict=True)
    )


def _meant(asked: Asked[Ballot], recipients: Sequence[Recipient]) -> list[Recipient]:
    """Those of the recipients that the filter is for."""
    scope = asked.member.scope
    return [one for one in recipients if scope is None or scope.is_for(one.address)]


def _findings(facts: Sequence[str]) -> Sequence[tuple[str, ...]]:
    """The facts of each finding together, for of those one counts: the general comes before the special."""
    found: list[list[str]] = []
    for fact in facts:
        if found and fact.startswith(f"{found[-1][0]}."):
            found[-1].append(fact)
        else:
            found.append([fact])
    return [tuple(one) for one in found]


def _said(asked: Asked[Ballot], ballot: Ballot, scene: Scene, recipients: Sequence[Recipient]) -> Sequence[Again]:
    """What a filter says of each recipient."""
    name = asked.member.name
    meant = {one.address for one in _meant(asked, recipients)}
    failed = next((one for one in scene.trace if one.filter == name and one.verdict == "failure"), None)
    if failed is not None and asked.enforced:
        unknown = Again("unknown", name, failed.reason.rpartition(" (on_failure: ")[0] or failed.reason)
        return [unknown if one.address in meant else _PASS for one in recipients]
    votes = Votes(recipients)
    votes.add(ballot, meant)
    return [_of(name, one) for one in votes.verdicts]


def _of(name: str, verdict: Verdict) -> Again:
    if verdict is CONTINUE:
        return _PASS
    return Again("unknown" if isinstance(verdict, Defer) else "objects", name, getattr(verdict, "reason", ""))


def _strength(one: Again) -> int:
    return _STRENGTH[one.word]
