"""Runs the filters of a listener, stage by stage (`IPipeline`).

The filters of a stage are asked in the configured order, those of an inner group together: the strongest verdict
of a group counts (see `votes`). A refusal ends its stage, Accept skips the rest of it. Quarantine and Discard stop
nothing; before there is a message they are kept as `Pending` evidence. So a stage before the message answers Continue
or a refusal, and the message stage Quarantine and Discard, too.

A stage whose filters all answer at once creates no Deferred and no coroutine.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.address import Address
from mailgate.awaiting import run
from mailgate.envelope import Identity, Recipient, Session, Transaction
from mailgate.interfaces import IEvents, IPipeline
from mailgate.message import Message, check_body_edits
from mailgate.pipeline.ask import MAX_STEPS, Asker, Scene, join
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
from mailgate.pipeline.votes import CONTINUE, Pending, Votes, is_refusal, strongest
from mailgate.reply import Reply
from mailgate.verdict import Accept, Discard, Disconnect, Quarantine, Verdict

__all__ = ["Member", "Pipeline"]

_Group = tuple[Asked[R], ...]
_Stage = tuple[_Group[Verdict], ...]
_Verdicts = list[Verdict]
_Answers = list[Verdict | Deferred[Verdict]]

_TOO_MANY_GREETINGS = Disconnect(Reply.of(421, "4.7.0", "Too many greetings"), "too many greetings in one session")


@implementer(IPipeline)
class Pipeline:
    """The filters in `groups`: one group after another, those of one group at the same time.

    `routes` are those that a router may name; None lets it name any.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Member]],
        clock: IReactorTime,
        events: IEvents,
        routes: Collection[str] | None = None,
    ) -> None:
        self._asker = Asker(clock, events)
        self._connect = _stage(CONNECT, groups)
        self._helo = _stage(HELO, groups)
        self._auth = _stage(AUTH, groups)
        self._mail = _stage(MAIL, groups)
        self._rcpt = _stage(RCPT, groups)
        self._data = _stage(DATA, groups)
        self._message = _stage(MESSAGE, groups)
        self._modifiers = [asked for group in _stage(MODIFY, groups) for asked in group]
        self._routers = [
            asked for group in _stage(ROUTE if routes is None else route_among(routes), groups) for asked in group
        ]

    def connect(self, session: Session) -> Verdict | Deferred[Verdict]:
        if not self._connect:
            return CONTINUE
        return self._judge(self._connect, _of_session(session), (session,))

    def helo(self, session: Session) -> Verdict | Deferred[Verdict]:
        if not self._helo:
            return CONTINUE
        if len(session.trace) >= MAX_STEPS:
            return _TOO_MANY_GREETINGS
        return self._judge(self._helo, _of_session(session), (session,))

    def auth(self, session: Session, identity: Identity) -> Verdict | Deferred[Verdict]:
        if not self._auth:
            return CONTINUE
        return self._judge(self._auth, _of_session(session), (session, identity))

    def mail(self, session: Session, transaction: Transaction) -> Verdict | Deferred[Verdict]:
        if not self._mail:
            return CONTINUE
        return self._judge(self._mail, _of(session, transaction), (session, transaction))

    def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | Deferred[Verdict]:
        if not self._rcpt and not self._routers:
            return CONTINUE
        address = recipient.address
        scene = _of(session, transaction, str(address))
        values = (session, transaction, recipient)
        verdict = self._judge(self._rcpt, scene, values, address)
        if not self._routers:
            return verdict
        return run(self._choose_route(verdict, scene, values, recipient))

    def data(self, session: Session, transaction: Transaction) -> Verdict | Deferred[Verdict]:
        if not self._data:
            return CONTINUE
        return self._judge(self._data, _of(session, transaction), (session, transaction))

    def message(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Verdict] | Deferred[Sequence[Verdict]]:
        return run(self._judge_message(session, transaction, message))

    def _judge(
        self, stage: _Stage, scene: Scene, values: tuple[object, ...], recipient: Address | None = None
    ) -> Verdict | Deferred[Verdict]:
        for place, group in enumerate(stage):
            answers = [self._asker.ask(asked, scene, values) for asked in group]
            if len(answers) > 1 or answers[0] is not CONTINUE:  # else, as mostly, there is nothing to weigh
                return run(self._weigh(stage[place:], answers, scene, values, recipient))
        return CONTINUE

    def _weigh(
        self,
        stage: _Stage,
        answers: _Answers,
        scene: Scene,
        values: tuple[object, ...],
        recipient: Address | None,
    ) -> Generator[Deferred[Any], Any, Verdict]:
        """The rest of a stage, from a group on whose answers are given."""
        kept: list[Pending] = []
        for place, group in enumerate(stage):
            if place:
                answers = [self._asker.ask(asked, scene, values) for asked in group]
            verdicts = yield from _awaited(answers)
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
        for pending in kept:
            # A greeting that is repeated must not fill the memory.
            if pending not in scene.evidence:
                scene.evidence.add(pending)
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
            answer = self._asker.ask(router, scene, values)
            route: str | Verdict | None = (yield answer) if isinstance(answer, Deferred) else answer
            if isinstance(route, str):
                recipient.route = route
                break
            if route is not None:
                return route
        return CONTINUE

    def _judge_message(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Generator[Deferred[Any], Any, Sequence[Verdict]]:
        votes = Votes(transaction.recipients)
        votes.add_pending(session, transaction)
        scene = _of(session, transaction)
        values = (session, transaction, message)
        for group in self._message:
            answers = [self._asker.ask(asked, scene, values) for asked in group]
            if len(answers) == 1 and answers[0] is CONTINUE:
                continue
            verdicts = yield from _awaited(answers)
            heaviest = verdicts[strongest(verdicts)]
            if heaviest is CONTINUE:
                continue
            if isinstance(heaviest, Accept):
                break
            for verdict in verdicts:
                votes.add(verdict)
            if votes.all_refused:
                return votes.verdicts
        if self._modifiers:
            scene.check_edits = partial(check_body_edits, message.content, transaction.edits)
        for modifier in self._modifiers:
            if not votes.somebody_gets_it:
                break
            answer = self._asker.ask(modifier, scene, values)
            edits = (yield answer) if isinstance(answer, Deferred) else answer
            if isinstance(edits, tuple):
                transaction.edits.extend(edits)
            else:
                votes.add(edits)
        return votes.verdicts


def _awaited(answers: _Answers) -> Generator[Deferred[Any], Any, _Verdicts]:
    """What the filters of a group answer, once all have."""
    if len(answers) == 1:
        (only,) = answers
        return [(yield only) if isinstance(only, Deferred) else only]
    if any(isinstance(answer, Deferred) for answer in answers):
        verdicts: _Verdicts = yield Deferred.fromCoroutine(join(answers))
        return verdicts
    return answers  # type: ignore[return-value]  # none of them is a Deferred


def _stage(question: Question[R], groups: Sequence[Sequence[Member]]) -> tuple[_Group[R], ...]:
    asked = [tuple(one for member in group if (one := asked_of(member, question))) for group in groups]
    return tuple(group for group in asked if group)


def _of_session(session: Session) -> Scene:
    return Scene(session.trace, session.evidence, session.id)


def _of(session: Session, transaction: Transaction, recipient: str = "") -> Scene:
    return Scene(transaction.trace, transaction.evidence, session.id, transaction.id, recipient)
