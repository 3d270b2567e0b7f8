"""How fast one site is asked: its rates, and what is left of its limits after it has said "not so fast"."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred
from mailgate.events import SiteSlowed
from mailgate.interfaces import IEvents, ISlots
from mailgate.relay.limits import Limits, Signal
from mailgate.relay.wording import per_time, seconds

__all__ = ["Pace"]

_log = Logger()

#: The least that is left of a site's limits.
_LEAST = 1 / 4096
#: Messages a second for each connection that a site without a rate is taken to get, once it is slowed.
_USUAL = 10.0
#: Seconds until a budget is asked for again that could not be.
_AGAIN = 1.0


class Pace:
    """When the next message may begin, and how many connections there may be. `changed` is told when that changes.

    `key` is that of the budgets that all workers share.
    """

    def __init__(
        self,
        key: str,
        limits: Limits,
        *,
        site: str,
        source: str,
        slots: ISlots,
        clock: IReactorTime,
        events: IEvents,
        changed: Callable[[], None],
    ) -> None:
        self._key = key
        self._limits = limits
        self._site = site
        self._source = source
        self._slots = slots
        self._clock = clock
        self._events = events
        self._changed = changed
        self.factor = 1.0
        self.rests_until = 0.0
        self.reason = ""
        self._slowed_at = -math.inf
        self._recovery = 0.0
        self._recovering: IDelayedCall | None = None
        self._is_paid = False  # the next message has what it takes of the budget
        self._paying = 0.0  # it will have that then; infinite: that is being asked
        self._timer: IDelayedCall | None = None

    @property
    def connections(self) -> int:
        """How many there may be."""
        return max(int(self._limits.connections * self.factor), 1)

    @property
    def rate(self) -> float:
        """Messages a second; 0.0 for no limit."""
        if self.factor == 1.0:
            return self._limits.message_rate
        return (self._limits.message_rate or self._limits.connections * _USUAL) * self.factor

    @property
    def connection_rate(self) -> float:
        """New connections a second; 0.0 for no limit."""
        return self._limits.connection_rate * self.factor

    @property
    def is_held(self) -> bool:
        """Whether `may_begin` has to be asked."""
        return self.factor != 1.0 or self._limits.message_rate != 0.0 or self.rests_until != 0.0

    @property
    def is_slowed(self) -> bool:
        """Whether there is something to remember."""
        return self._recovering is not None or self.rests_until != 0.0

    # -- messages

    def may_begin(self) -> bool:
        """Whether the next message may begin now; where not, `changed` is called in time. It counts as begun when
        `begun` is called."""
        now = self._clock.seconds()
        if self.rests_until > now:
            self._wait(self.rests_until - now)
            return False
        self.rests_until = 0.0
        rate = self.rate
        if not rate or self._is_paid:
            return True
        if self._paying > now:
            if self._paying < math.inf:
                self._wait(self._paying - now)
            return False
        if self._paying:
            self._paying, self._is_paid = 0.0, True
            return True
        answer = self._slots.spend(f"{self._key} messages", rate)
        if isinstance(answer, Awaitable):
            self._paying = math.inf
            as_deferred(answer).addCallbacks(self._told, self._untold)
            return self._is_paid
        return self._charged(answer, now)

    def begun(self) -> None:
        """A message has begun."""
        self._is_paid = False

    def _charged(self, delay: float, now: float) -> bool:
        self._is_paid = delay <= 0.0
        self._paying = 0.0 if self._is_paid else now + delay
        if not self._is_paid:
            self._wait(delay)
        return self._is_paid

    def _told(self, delay: float) -> None:
        if self._charged(delay, self._clock.seconds()):
            self._changed()

    def _untold(self, failure: Failure) -> None:
        _log.warn("the rate of {site} is not known now: {error}", site=self._site, error=failure.getErrorMessage())
        self._paying = 0.0
        self._wait(_AGAIN)

    def _wait(self, delay: float) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(delay, self._waited)

    def _waited(self) -> None:
        self._timer = None
        self._changed()

    # -- slowing down

    def slow(self, signal: Signal, began: float) -> None:
        """The site has said so to an attempt that began then; what began before the last time counts as one with it."""
        now = self._clock.seconds()
        if began <= self._slowed_at:
            return
        self._slowed_at = now
        self.factor = max(self.factor / 2, _LEAST)
        self.reason = signal.reason
        self._recovery = signal.recovery
        if signal.rest:
            self.rests_until = now + signal.rest
        if self._recovering is not None:
            self._recovering.cancel()
        self._recovering = self._clock.callLater(signal.rest + signal.recovery, self._recover)
        self._tell()

    def forget(self) -> None:
        """An operator wants it tried as if nothing had been."""
        self.stop()
        if self.factor != 1.0 or self.rests_until:
            self.factor, self.rests_until, self.reason = 1.0, 0.0, ""
            self._tell()

    def stop(self) -> None:
        """Wait for nothing any more."""
        for call in (self._recovering, self._timer):
            if call is not None:
                call.cancel()
        self._recovering = self._timer = None

    def _recover(self) -> None:
        self._recovering = None
        self.factor = min(self.factor * 2, 1.0)
        if self.factor < 1.0:
            self._recovering = self._clock.callLater(self._recovery, self._recover)
        self._tell()

    def _tell(self) -> None:
        self._events.publish(
            SiteSlowed(
                at=self._clock.seconds(),
                site=self._site,
                source=self._source,
                factor=self.factor,
                rests_until=self.rests_until,
                reason=self.reason,
            )
        )
        self._changed()

    # -- for people

    def hindrance(self, title: str) -> str:
        """Why the next message does not begin now; "" where it may."""
        now = self._clock.seconds()
        if self.rests_until > now:
            return f"{title} rests for {seconds(self.rests_until - now)}: {self.reason}"
        if self._paying > now and (rate := self.rate):
            why = f" (slowed: {self.reason})" if self.factor < 1.0 else ""
            wait = f": in {seconds(self._paying - now)}" if self._paying < math.inf else ""
            return f"{per_time(rate)} to {title}{why}{wait}"
        return ""
