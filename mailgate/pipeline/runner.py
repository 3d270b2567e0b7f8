"""Runs the filters of a listener, stage by stage (`IPipeline`).

The filters of a stage are asked in the configured order, those of an inner group together: the strongest verdict
of a group counts (see `votes`). A refusal ends its stage, Accept skips the rest of it. Quarantine and Discard stop
nothing; before there is a message they are kept as `Pending` evidence. So a stage before the message answers Continue
or a refusal, and the message stage Quarantine and Discard, too.

A filter that is for some recipients only (`Scope`) is asked about these, and its answer is for these: at RCPT about
each of them, later about those of the transaction. Before RCPT nobody knows whom mail is for: it is asked, and what it
has decided waits for those that it is for. So does a refusal at DATA that is for some.

A stage whose filters all answer at once creates no Deferred and no coroutine.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from typing import Any, Generic, NamedTuple

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.address import Address
from mailgate.awaiting import run
from mailgate.envelope import Identity, Recipient, Session, TraceStep, Transaction
from mailgate.interfaces import IEvents, IPipeline
from mailgate.message import Message
from mailgate.pipeline.ask import MAX_STEPS, Asker, Scene
from mailgate.pipeline.judging import MessageStage, awaited
from mailgate.pipeline.looks import Look, Looks, scene_of
from mailgate.pipeline.member import (
    AUTH,
    CONNECT,
    DATA,
    HELO,
    MAIL,
    MESSAGE,
    MODIFY,
    RCPT,
    ROUTE,
    Asked,
    Member,
    Question,
    R,
    asked_of,
    route_among,
)
from mailgate.pipeline.votes import CONTINUE, Pending, for_some, is_refusal, strongest
from mailgate.reply import Reply
from mailgate.verdict import Accept, Defer, Discard, Disconnect, Quarantine, Reject, Verdict

__all__ = ["Member", "Pipeline"]

_Group = tuple[Asked[R], ...]
_Answers = list[Verdict | Deferred[Verdict]]

_TOO_MANY_GREETINGS = Disconnect(Reply.of(421, "4.7.0", "Too many greetings"), "too many greetings in one session")


class _Stage(NamedTuple, Generic[R]):
    groups: tuple[_Group[R], ...]
    is_for_all: bool  # whether every filter is for every recipient

    @classmethod
    def of(cls, question: Question[R], groups: Sequence[Sequence[Member]]) -> _Stage[R]:
        asked = [tuple(one for member in group if (one := asked_of(member, question))) for group in groups]
        found = tuple(group for group in asked if group)
        return cls(found, all(one.member.scope is None for group in found for one in group))

    @property
    def in_order(self) -> list[Asked[R]]:
        return [one for group in self.groups for one in group]


@implementer(IPipeline)
class Pipeline:
    """The filters in `groups`: one group after another, those of one group at the same time.

    `routes` are those that a router may name; None lets it name any. `late` are the names of the filters that are asked
    about the content only.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Member]],
        clock: IReactorTime,
        events: IEvents,
        routes: Collection[str] | None = None,
    ) -> None:
        self._asker = Asker(clock, events)
        self._connect = _Stage.of(CONNECT, groups)
        self._helo = _Stage.of(HELO, groups)
        self._auth = _Stage.of(AUTH, groups)
        self._mail = _Stage.of(MAIL, groups)
        self._rcpt = _Stage.of(RCPT, groups)
        self._data = _Stage.of(DATA, groups)
        self._message = MessageStage(self._asker, _Stage.of(MESSAGE, groups).groups, _Stage.of(MODIFY, groups).in_order)
        self._routers = _Stage.of(ROUTE if routes is None else route_among(routes), groups).in_order
        early = (self._connect, self._helo, self._auth, self._mail)
        self._holds = not all(stage.is_for_all for stage in early)  # refusals, until recipients are named
        self._asks_at_rcpt = bool(self._rcpt.groups or self._routers or self._holds)
        self.stages = self._asked()
        before = [*early, self._rcpt, self._data]
        asked = {one.member for stage in before for group in stage.groups for one in group}
        asked |= {one.member for one in self._routers}
        self.late = tuple(member.name for group in groups for member in group if member not in asked)

    def _asked(self) -> frozenset[str]:
        asked = {
            "connect": self._connect.groups,
            "helo": self._helo.groups,
            "auth": self._auth.groups,
            "mail": self._mail.groups,
            "rcpt": self._asks_at_rcpt,
            "data": self._data.groups,
        }
        return frozenset({stage for stage, somebody in asked.items() if somebody} | {"message"})

    def connect(self, session: Session) -> Verdict | Deferred[Verdict]:
        if not self._connect.groups:
            return CONTINUE
        return self._judge(self._connect, _of_session(session), (session,))

    def helo(self, session: Session) -> Verdict | Deferred[Verdict]:
        if not self._helo.groups:
            return CONTINUE
        if len(session.trace) >= MAX_STEPS:
            return _TOO_MANY_GREETINGS
        return self._judge(self._helo, _of_session(session), (session,))

    def auth(self, session: Session, identity: Identity) -> Verdict | Deferred[Verdict]:
        if not self._auth.groups:
            return CONTINUE
        return self._judge(self._auth, _of_session(session), (session, identity))

    def mail(self, session: Session, transaction: Transaction) -> Verdict | Deferred[Verdict]:
        if not self._mail.groups:
            return CONTINUE
        return self._judge(self._mail, scene_of(session, transaction), (session, transaction))

    def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | Deferred[Verdict]:
        if not self._asks_at_rcpt:
            return CONTINUE
        address = recipient.address
        scene = scene_of(session, transaction, str(address))
        if self._holds:
            held = _held_for(address, session, transaction)
            if held is not None:
                _note(held, scene)
                return held.verdict
        values = (session, transaction, recipient)
        verdict = self._judge(self._rcpt, scene, values, address)
        if not self._routers:
            return verdict
        return run(self._choose_route(verdict, scene, values, recipient))

    def data(self, session: Session, transaction: Transaction) -> Verdict | Deferred[Verdict]:
        if not self._data.groups:
            return CONTINUE
        scene, values = scene_of(session, transaction), (session, transaction)
        if self._data.is_for_all:
            return self._judge(self._data, scene, values)
        return run(self._judge_for_some(self._data, scene, values, None, Looks(session, transaction)))

    def message(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Verdict] | Deferred[Sequence[Verdict]]:
        return run(self._message.judge(session, transaction, message))

    def _judge(
        self, stage: _Stage[Verdict], scene: Scene, values: tuple[object, ...], recipient: Address | None = None
    ) -> Verdict | Deferred[Verdict]:
        if not stage.is_for_all:
            return run(self._judge_for_some(stage, scene, values, recipient))
        groups = stage.groups
        for place, group in enumerate(groups):
            answers = [self._asker.ask(asked, scene, values) for asked in group]
            if len(answers) > 1 or answers[0] is not CONTINUE:  # else, as mostly, there is nothing to weigh
                return run(self._weigh(groups[place:], answers, scene, values, recipient))
        return CONTINUE

    def _weigh(
        self,
        groups: tuple[_Group[Verdict], ...],
        answers: _Answers,
        scene: Scene,
        values: tuple[object, ...],
        recipient: Address | None,
    ) -> Generator[Deferred[Any], Any, Verdict]:
        """The rest of a stage, from a group on whose answers are given."""
        kept: list[Pending] = []
        for place, group in enumerate(groups):
            if place:
                answers = [self._asker.ask(asked, scene, values) for asked in group]
            verdicts = yield from awaited(answers)
            number = strongest(verdicts)
            verdict = verdicts[number]
            if verdict is CONTINUE:
                continue
            if is_refusal(verdict):
                return verdict
            if isinstance(verdict, Accept):
                break
            if isinstance(verdict, (Discard, Quarantine)):
                kept.append(Pending(verdict, group[number].member.name, recipient))
        _keep(kept, scene)
        return CONTINUE

    def _judge_for_some(
        self,
        stage: _Stage[Verdict],
        scene: Scene,
        values: tuple[object, ...],
        recipient: Address | None,
        looks: Looks | None = None,
    ) -> Generator[Deferred[Any], Any, Verdict]:
        """A stage with filters that are for some recipients only: about `recipient`, about those of `looks`, or before
        there are any."""
        kept: list[Pending] = []
        for group in stage.groups:
            seen = [(asked, _look(asked, scene, values, recipient, looks)) for asked in group]
            asking = [(asked, look) for asked, look in seen if look is not None]
            if not asking:
                continue
            answers: _Answers = [self._asker.ask(asked, look.scene, look.values) for asked, look in asking]
            verdicts = list((yield from awaited(answers)))
            for place, (asked, look) in enumerate(asking):
                verdict, scope = verdicts[place], asked.member.scope
                if scope is None or verdict is CONTINUE:
                    continue
                verdict = verdicts[place] = for_some(verdict)
                if recipient is None and (looks is None or look.among is not None):
                    verdicts[place] = CONTINUE
                    if isinstance(verdict, Reject | Defer | Discard | Quarantine):
                        kept.append(Pending(verdict, asked.member.name, is_for=scope.is_for))
            number = strongest(verdicts)
            verdict = verdicts[number]
            if is_refusal(verdict):
                return verdict
            if isinstance(verdict, Accept):
                break
            if isinstance(verdict, (Discard, Quarantine)):
                kept.append(Pending(verdict, asking[number][0].member.name, recipient))
        _keep(kept, scene)
        return CONTINUE

    def _choose_route(
        self,
        judged: Verdict | Deferred[Verdict],
        scene: Scene,
        values: tuple[object, ...],
        recipient: Recipient,
    ) -> Generator[Deferred[Any], Any, Verdict]:
        verdict: Verdict = (yield judged) if isinstance(judged, Deferred) else judged
        if is_refusal(verdict):
            return verdict
        for router in self._routers:
            scope = router.member.scope
            if scope is not None and not scope.is_for(recipient.address):
                continue
            answer = self._asker.ask(router, scene, values)
            route: str | Verdict | None = (yield answer) if isinstance(answer, Deferred) else answer
            if isinstance(route, str):
                recipient.route = route
                break
            if route is not None:
                return route
        return CONTINUE


def _look(
    asked: Asked[Verdict], scene: Scene, values: tuple[object, ...], recipient: Address | None, looks: Looks | None
) -> Look | None:
    """How a filter is asked before the message; None where it is for nobody who is known."""
    scope = asked.member.scope
    if scope is None:
        return Look(scene, values)
    if looks is not None:
        return looks.of(asked)
    if recipient is not None and not scope.is_for(recipient):
        return None
    return Look(replace(scene, is_for=scope.is_for), values)


def _keep(kept: Sequence[Pending], scene: Scene) -> None:
    for pending in kept:
        # A greeting that is repeated must not fill the memory.
        if pending not in scene.evidence:
            scene.evidence.add(pending)


def _held_for(address: Address, session: Session, transaction: Transaction) -> Pending | None:
    """The refusal that waits for this recipient, the strongest of several; None where there is none."""
    found = [
        pending
        for evidence in (session.evidence, transaction.evidence)
        for pending in evidence.all(Pending)
        if pending.is_for is not None and is_refusal(pending.verdict) and pending.is_for(address)
    ]
    return found[strongest([one.verdict for one in found])] if found else None


def _note(held: Pending, scene: Scene) -> None:
    word = type(held.verdict).__name__.lower()
    scene.trace.append(TraceStep("rcpt", held.filter, word, held.verdict.reason, recipient=scene.recipient))


def _of_session(session: Session) -> Scene:
    return Scene(session.trace, session.evidence, session.id)
