"""The time that peers have: one timer for all sessions of a listener."""

from __future__ import annotations

from math import inf
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["Vigil", "Watched"]

_log = Logger()

#: Seconds between two looks, for each connection that is looked at: so much later than its deadline one may be told,
#: and looking never takes more than a hundredth of the processor, whatever the deadlines.
_REST = 20e-6


class Watched(Protocol):
    """Who has until `deadline`, in seconds of the clock, inf for ever; it may be put off at any time."""

    deadline: float

    def out_of_time(self) -> None:
        """The deadline has come. Another one must be set, or it comes again at once."""


class Vigil:
    """Tells whom it watches when their time is over. Moving a deadline to a later time costs nothing; who moves one
    before `next` says `hasten`.
    """

    __slots__ = ("_call", "_clock", "_watched", "next")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._watched: dict[Watched, None] = {}
        self._call: IDelayedCall | None = None
        #: When it looks, inf for never.
        self.next = inf

    def watch(self, one: Watched) -> None:
        """Look after this one, too. Its first deadline is set with `hasten`."""
        self._watched[one] = None

    def leave(self, one: Watched) -> None:
        """Look after it no more. Safe to call twice."""
        self._watched.pop(one, None)
        if not self._watched and self._call is not None:
            self._call.cancel()
            self._call, self.next = None, inf

    def hasten(self, deadline: float) -> None:
        """Look then, where that is sooner."""
        if deadline >= self.next:
            return
        self.next = deadline
        delay = max(deadline - self._clock.seconds(), 0.0)
        if self._call is None:
            self._call = self._clock.callLater(delay, self._look)
        else:
            self._call.reset(delay)

    def _look(self) -> None:
        self._call, self.next = None, inf
        now = self._clock.seconds()
        for one in [one for one in self._watched if one.deadline <= now]:
            if one not in self._watched:  # left because of one before it
                continue
            try:
                one.out_of_time()
            except Exception:
                _log.failure("a session failed")
                one.deadline = inf
        soonest = min((one.deadline for one in self._watched), default=inf)
        if soonest < inf:
            self.hasten(max(soonest, now + len(self._watched) * _REST))
