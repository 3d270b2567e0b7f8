"""A rate that is kept by asking, for each thing, when it may be."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred
from mailgate.interfaces import ISlots

__all__ = ["Budget"]

_log = Logger()

#: Seconds until a budget is asked for again that could not be.
_AGAIN = 1.0


class Budget:
    """One of those that all workers share, by this key: when the next thing may be. `changed` is called when it may."""

    def __init__(self, key: str, slots: ISlots, clock: IReactorTime, changed: Callable[[], None]) -> None:
        self._key = key
        self._slots = slots
        self._clock = clock
        self._changed = changed
        self._is_paid = False  # the next one has what it takes
        self._paying = 0.0  # it will have that then; infinite: that is being asked
        self._asked_at = 0.0  # the rate by which that was asked
        self._timer: IDelayedCall | None = None

    def allows(self, rate: float) -> bool:
        """Whether the next one may be now, of so many a second (0.0: of any); where not, `changed` is called in time.
        It counts when `use` is called."""
        if not rate or self._is_paid:
            return True
        now = self._clock.seconds()
        if now < self._paying < math.inf:
            self._rescale(rate, now)
        if self._paying > now:
            if self._paying < math.inf:
                self._wait(self._paying - now)
            return False
        if self._paying:
            self._paying, self._is_paid = 0.0, True
            return True
        self._asked_at = rate
        answer = self._slots.spend(self._key, rate)
        if isinstance(answer, Awaitable):
            self._paying = math.inf
            as_deferred(answer).addCallbacks(self._told, self._untold)
            return self._is_paid
        return self._charged(answer)

    def use(self) -> None:
        """The next one is now."""
        self._is_paid = False

    def charge(self, rate: float) -> None:
        """The next one is now, whether it may or not: those behind it wait the longer."""
        if self._is_paid or not rate:
            self._is_paid = False
            return
        answer = self._slots.spend(self._key, rate)
        if isinstance(answer, Awaitable):
            as_deferred(answer).addErrback(self._unknown)

    def left(self, now: float) -> float:
        """Seconds until the next one may be: 0.0 where nobody has asked, infinite while that is not known."""
        return max(self._paying - now, 0.0)

    def stop(self) -> None:
        """Wait for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rescale(self, rate: float, now: float) -> None:
        """What has been charged by another rate is waited for by this one."""
        if rate != self._asked_at:
            self._paying = now + (self._paying - now) * self._asked_at / rate
            self._asked_at = rate
            self.stop()

    def _charged(self, delay: float) -> bool:
        self._is_paid = delay <= 0.0
        self._paying = 0.0 if self._is_paid else self._clock.seconds() + delay
        if not self._is_paid:
            self._wait(delay)
        return self._is_paid

    def _told(self, delay: float) -> None:
        if self._charged(delay):
            self._changed()

    def _untold(self, failure: Failure) -> None:
        self._unknown(failure)
        self._paying = 0.0
        self._wait(_AGAIN)

    def _unknown(self, failure: Failure) -> None:
        _log.warn("the rate of {key} is not known now: {error}", key=self._key, error=failure.getErrorMessage())

    def _wait(self, delay: float) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(delay, self._waited)

    def _waited(self) -> None:
        self._timer = None
        self._changed()
