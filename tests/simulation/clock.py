"""A clock that jumps from one call to the next, however many there are."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

__all__ = ["VirtualClock"]


@implementer(IReactorTime)
class VirtualClock:
    """IReactorTime in a heap; `seconds` is what the calls so far have made of it."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._calls: list[tuple[float, int, DelayedCall]] = []
        self._numbers = count()

    def seconds(self) -> float:
        return self._now

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kw: object) -> IDelayedCall:  # noqa: A002  Twisted's
        call = DelayedCall(self._now + delay, callable, args, kw, lambda _: None, self._push, self.seconds)
        self._push(call)
        return call

    def getDelayedCalls(self) -> list[IDelayedCall]:  # noqa: N802  Twisted's
        return [call for _, _, call in self._calls if call.active()]

    def run(self, until: float) -> None:
        """Let time pass."""
        calls = self._calls
        while calls and calls[0][0] <= until:
            at, _, call = heapq.heappop(calls)
            if call.cancelled or call.called:
                continue
            if call.getTime() > at:  # it was put off
                self._push(call)
                continue
            self._now = max(self._now, at)
            call.called = 1
            call.func(*call.args, **call.kw)
        self._now = until

    def _push(self, call: DelayedCall) -> None:
        heapq.heappush(self._calls, (call.getTime(), next(self._numbers), call))
