"""One moment after another by which something must have come."""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Deadline"]


class Deadline:
    """Calls `passed` when the moment has come that was set last.

    One delayed call serves all moments: it fires at most once per period, and then looks at the deadline.
    """

    __slots__ = ("_at", "_clock", "_looks_at", "_passed", "_watch")

    def __init__(self, clock: IReactorTime, passed: Callable[[], None]) -> None:
        self._clock = clock
        self._passed = passed
        self._at = math.inf
        self._watch: IDelayedCall | None = None
        self._looks_at = math.inf  # when it fires

    def set(self, seconds: float) -> None:
        """It is so many seconds from now."""
        self._at = at = self._clock.seconds() + seconds
        if self._watch is None:
            self._watch = self._clock.callLater(seconds, self._look)
            self._looks_at = at
        elif at < self._looks_at:
            self._watch.reset(seconds)
            self._looks_at = at

    def clear(self) -> None:
        """There is none, for now."""
        self._at = math.inf

    def stop(self) -> None:
        """There will be none any more."""
        self._at = math.inf
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self) -> None:
        self._watch = None
        left = self._at - self._clock.seconds()
        if left <= 0:
            self._passed()
        elif left < math.inf:
            self._watch = self._clock.callLater(left, self._look)
            self._looks_at = self._at
