"""What speaks for an account being in other hands: counts by identity, against limits and against its own history."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from mailgate.config.units import format_duration
from mailgate.filters.networks import block_of
from mailgate.filters.rate_limit_rules import shortened
from mailgate.filters.steps import Steps, ready
from mailgate.interfaces import ICounters

__all__ = ["Limits", "Signal", "Signals", "points"]

_USUAL = struct.Struct("!dqd")
#: How much the latest period counts in what is usual.
_SHARE = 0.1


class Limits(Protocol):
    """The options that say how much is too much, as in Options of the filter; times in seconds, 0 is off."""

    @property
    def window(self) -> float: ...
    @property
    def history(self) -> float: ...
    @property
    def volume_factor(self) -> float: ...
    @property
    def volume_least(self) -> int: ...
    @property
    def bounces(self) -> int: ...
    @property
    def unknown_recipients(self) -> int: ...
    @property
    def places_window(self) -> float: ...
    @property
    def networks(self) -> int: ...
    @property
    def countries(self) -> int: ...
    @property
    def wrong_passwords(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Signal:
    """One that speaks for it. `is_strong`: by itself; of the others it takes two."""

    name: str
    count: int
    limit: int
    window: float
    is_strong: bool
    more: str = ""

    def __str__(self) -> str:
        text = f"{self.name} {self.count} in {format_duration(self.window)}, limit {self.limit}"
        return f"{text} ({self.more})" if self.more else text


class Signals:
    """The counts of all identities, in the counters, which all workers share."""

    def __init__(self, limits: Limits, counters: ICounters, seconds: Callable[[], float]) -> None:
        self._limits = limits
        self._counters = counters
        self._seconds = seconds

    def sent(self, who: str, counted: str) -> Steps[Signal | None]:
        """Count a recipient of a message: the signal where there are more of them than this identity ever has.
        `counted` is the name by which it is counted now."""
        limits = self._limits
        if not limits.volume_least:
            return None
        mean = yield from self._mean(who)
        count = yield from ready(self._counters.hit(f"compromised sent {shortened(counted)}", limits.window))
        limit = self._most(mean)
        if count <= limit:
            return None
        return Signal("recipients", count, limit, limits.window, True, f"usually {mean:.1f}")

    def bounced(self, who: str, *, is_unknown: bool) -> Steps[None]:
        """Count a recipient that could not be reached for good; `is_unknown`: because there is none."""
        kinds = ("unknown", "bounces") if is_unknown else ("bounces",)
        for kind in kinds:
            yield from ready(self._counters.hit(f"compromised {kind} {shortened(who)}", self._limits.window))

    def refused(self, who: str) -> Steps[None]:
        """Count a recipient that was refused at RCPT because there is none."""
        yield from ready(self._counters.hit(f"compromised unknown {shortened(who)}", self._limits.window))

    def guessed(self, who: str, address: IPv4Address | IPv6Address) -> Steps[None]:
        """Count a wrong password for this name."""
        yield from ready(self._counters.hit(_guesses(who, address), self._limits.window))

    def seen(self, who: str, address: IPv4Address | IPv6Address | None, country: str) -> Steps[list[Signal]]:
        """The identity sends from there now: what speaks for others having its password."""
        limits, window = self._limits, self._limits.places_window
        found: list[Signal] = []
        places = [("networks", block_of(address) if address is not None else "", limits.networks)]
        places.append(("countries", country, limits.countries))
        for name, place, limit in places:
            if not place or not limit:
                continue
            key = f"compromised {name} {shortened(who)}"
            if (yield from ready(self._counters.add(f"{key} {place}", b"", window))) is None:
                count = yield from ready(self._counters.hit(key, window))
            else:
                count = yield from ready(self._counters.peek(key, window))
            if count > limit:
                found.append(Signal(name, count, limit, window, False, f"now {place}"))
        if address is not None and limits.wrong_passwords:
            count = yield from ready(self._counters.peek(_guesses(who, address), limits.window))
            if count >= limits.wrong_passwords:
                found.append(
                    Signal("wrong-passwords", count, limits.wrong_passwords, limits.window, False, block_of(address))
                )
        return found

    def failed(self, who: str) -> Steps[list[Signal]]:
        """What speaks for it of the mail that the identity has sent before."""
        limits = self._limits
        found: list[Signal] = []
        for kind, name, limit in (
            ("bounces", "bounces", limits.bounces),
            ("unknown", "unknown-recipients", limits.unknown_recipients),
        ):
            if not limit:
                continue
            count = yield from ready(self._counters.peek(f"compromised {kind} {shortened(who)}", limits.window))
            if count >= limit:
                found.append(Signal(name, count, limit, limits.window, True))
        return found

    def _most(self, mean: float) -> int:
        return max(self._limits.volume_least, int(mean * self._limits.volume_factor))

    def _mean(self, who: str) -> Steps[float]:
        """How many recipients the identity has in a period in which it sends, before this one; counts one in this.

        Of two workers that count at the same moment one may be lost: this is about what is usual.
        """
        key = f"compromised usual {shortened(who)}"
        period = int(self._seconds() // self._limits.window)
        value = yield from ready(self._counters.get(key))
        mean, last, count = _USUAL.unpack(value) if value and len(value) == _USUAL.size else (0.0, period, 0.0)
        if last != period:
            count = min(count, float(self._most(mean)))  # a flood does not become what is usual
            mean = mean + (count - mean) * _SHARE if mean else count
            count = 0.0
        yield from ready(self._counters.put(key, _USUAL.pack(mean, period, count + 1), self._limits.history))
        return float(mean)


def points(signals: Sequence[Signal]) -> float:
    """What they come to: 1.0 is enough."""
    return sum(1.0 if one.is_strong else 0.5 for one in signals)


def _guesses(who: str, address: IPv4Address | IPv6Address) -> str:
    return f"compromised wrong {shortened(who)} {block_of(address)}"
