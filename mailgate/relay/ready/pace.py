"""How fast one site is asked: its rates, and what is left of its limits after it has said "not so fast"."""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mailgate.events import SiteSlowed
from mailgate.interfaces import IEvents, ISlots
from mailgate.relay.ready.budget import Budget
from mailgate.relay.replies.limits import Limits, Signal
from mailgate.relay.wording import per_time, seconds

__all__ = ["Pace"]

#: The least that is left of a site's limits.
_LEAST = 1 / 4096
#: Messages a second for each connection that a site without a rate is taken to get, once it is slowed.
_USUAL = 10.0


class Pace:
    """When the next message may begin, and the next connection, and how many of these there may be. `changed` is told
    when that changes.

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
        self._limits = limits
        self._site = site
        self._source = source
        self._clock = clock
        self._events = events
        self._changed = changed
        self.factor = 1.0
        self.rests_until = 0.0
        self.reason = ""
        self._slowed_at = -math.inf
        self._recovery = 0.0
        self._recovering: IDelayedCall | None = None
        self._messages = Budget(f"{key} messages", slots, clock, changed)
        self._connections = Budget(f"{key} connections", slots, clock, changed)
        self._timer: IDelayedCall | None = None  # for the end of the rest

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
        """Whether `may_begin` and `may_connect` have to be asked."""
        limits = self._limits
        has_rate = limits.message_rate != 0.0 or limits.connection_rate != 0.0
        return has_rate or self.factor != 1.0 or self.rests_until != 0.0

    @property
    def is_slowed(self) -> bool:
        """Whether there is something to remember."""
        return self._recovering is not None or self.rests_until != 0.0

    # -- messages and connections

    def may_begin(self) -> bool:
        """Whether the next message may begin now; where not, `changed` is called in time. It counts as begun when
        `begun` is called."""
        now = self._clock.seconds()
        if self.rests_until > now:
            self._wait(self.rests_until - now)
            return False
        self.rests_until = 0.0
        return self._messages.allows(self.rate)

    def begun(self) -> None:
        """A message has begun."""
        self._messages.use()

    def may_connect(self) -> bool:
        """Whether there may be one more connection now, as `may_begin`. It counts when `connecting` is called."""
        return self._connections.allows(self.connection_rate)

    def connecting(self) -> None:
        """There is one more, whether it may be or not: who has begun an attempt asks all hosts."""
        if self._limits.connection_rate:
            self._connections.charge(self.connection_rate)

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
        self._messages.stop()
        self._connections.stop()

    def _recover(self) -> None:
        self._recovering = None
        if self.rests_until <= self._clock.seconds():
            self.rests_until = 0.0
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

    @property
    def slowed(self) -> str:
        """What is left of the limits, why, and how long for; "" where all of them are."""
        if self._recovering is None or self.factor == 1.0:
            return ""
        left = self._recovering.getTime() - self._clock.seconds()
        return f"slowed to 1/{1 / self.factor:.0f} by {self._rule}, for {seconds(left)} yet"

    @property
    def _rule(self) -> str:
        return "a rule that is built in" if self.reason == "built in" else self.reason

    def hindrance(self, title: str) -> str:
        """Why the next message does not begin now; "" where it may."""
        now = self._clock.seconds()
        if self.rests_until > now:
            return f"{title} rests for {seconds(self.rests_until - now)}: {self._rule}"
        for budget, rate, what in (
            (self._messages, self.rate, "messages"),
            (self._connections, self.connection_rate, "connections"),
        ):
            if rate and (left := budget.left(now)):
                why = f" ({self.slowed})" if self.slowed else ""
                wait = f": in {seconds(left)}" if left < math.inf else ""
                return f"{per_time(rate, what)} to {title}{why}{wait}"
        return ""
