"""The filters that are asked before each delivery attempt, as one."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.awaiting import run
from mailgate.envelope import Evidence
from mailgate.interfaces import AttemptContext, IDeliveryFilter, IEvents
from mailgate.pipeline.ask import Asker, Scene
from mailgate.pipeline.member import ATTEMPT, Member, asked_of
from mailgate.pipeline.votes import CONTINUE
from mailgate.verdict import Accept, Defer, Discard, Reject, Verdict

__all__ = ["DeliveryFilters"]


@implementer(IDeliveryFilter)
class DeliveryFilters:
    """Asks its members in order, with their deadlines, breakers and failure policies. Nothing raises.

    The verdict is Defer, Reject, Discard or Continue: the first objection ends the round, Accept skips the rest.
    False where it has no members: then there is nothing to ask.
    """

    def __init__(self, members: Sequence[Member], clock: IReactorTime, events: IEvents) -> None:
        self._asker = Asker(clock, events)
        self._asked = [asked for member in members if (asked := asked_of(member, ATTEMPT))]

    def __bool__(self) -> bool:
        return bool(self._asked)

    def on_attempt(self, attempt: AttemptContext) -> Verdict | Deferred[Verdict]:
        if not self._asked:
            return CONTINUE
        return run(self._judge(attempt))

    def _judge(self, attempt: AttemptContext) -> Generator[Deferred[Any], Any, Verdict]:
        scene = Scene([], Evidence(), queue_id=attempt.envelope.queue_id)
        for asked in self._asked:
            answer = self._asker.ask(asked, scene, (attempt,))
            verdict: Verdict = (yield answer) if isinstance(answer, Deferred) else answer
            if isinstance(verdict, Defer | Reject | Discard):
                return verdict
            if isinstance(verdict, Accept):
                break
        return CONTINUE
