"""Counts over sliding windows, in the memory of this process or of another one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.interfaces import ICounters

__all__ = ["AskedCounters", "MemoryCounters"]

#: Parts of a window that are forgotten as one.
_PARTS = 8
#: Those parts, and the one that has only begun.
_SLOTS = _PARTS + 1


class _Ring:
    """One key's hits by the part of the window in which they came; `latest` is the number of the newest part."""

    __slots__ = ("latest", "slots", "total")

    def __init__(self, latest: int) -> None:
        self.latest = latest
        self.slots = [0] * _SLOTS
        self.total = 0

    def move_to(self, part: int) -> None:
        """Forget the parts that have left the window when `part` is the newest."""
        for passed in range(self.latest + 1, min(part, self.latest + _SLOTS) + 1):
            self.total -= self.slots[passed % _SLOTS]
            self.slots[passed % _SLOTS] = 0
        self.latest = part


@implementer(ICounters)
class MemoryCounters:
    """Counts by key and window, each in a ring of an eighth of its window a slot.

    The count is exact but for age: hits are forgotten an eighth of a window at a time, so it is never less than the
    hits of the last `window` seconds and never more than those of the last 9/8 of it. At most `max_keys` are kept;
    the least recently hit go first, and begin at 0 when they return. A hit costs about a microsecond, whatever
    the numbers. The same key under another window is another counter.
    """

    def __init__(self, clock: IReactorTime, max_keys: int) -> None:
        self._seconds = clock.seconds
        self._max_keys = max_keys
        self._rings: OrderedDict[tuple[str, float], _Ring] = OrderedDict()

    def hit(self, key: str, window: float, amount: int = 1) -> int:
        part = int(self._seconds() * _PARTS / window)
        rings = self._rings
        place = key, window
        ring = rings.get(place)
        if ring is None:
            if len(rings) >= self._max_keys:
                rings.popitem(last=False)
            ring = rings[place] = _Ring(part)
        else:
            rings.move_to_end(place)
            if part > ring.latest:
                ring.move_to(part)
        ring.slots[ring.latest % _SLOTS] += amount
        ring.total += amount
        return ring.total

    def peek(self, key: str, window: float) -> int:
        ring = self._rings.get((key, window))
        if ring is None:
            return 0
        part = int(self._seconds() * _PARTS / window)
        if part > ring.latest:
            ring.move_to(part)
        return ring.total


@implementer(ICounters)
class AskedCounters:
    """Counts that another process keeps for several: `ask` takes "hit", a key, a window and an amount, or "peek", a key
    and a window, and brings the count."""

    def __init__(self, ask: Callable[..., Awaitable[int]]) -> None:
        self._ask = ask

    def hit(self, key: str, window: float, amount: int = 1) -> Awaitable[int]:
        return self._ask("hit", key, window, amount)

    def peek(self, key: str, window: float) -> Awaitable[int]:
        return self._ask("peek", key, window)
