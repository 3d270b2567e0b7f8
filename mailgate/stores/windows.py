"""Counts over sliding windows, each in a ring of an eighth of its window a slot."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

__all__ = ["Windows"]

#: Parts of a window that are forgotten as one.
_PARTS = 8
#: Those parts, and the one that has only begun.
_SLOTS = _PARTS + 1

Place = tuple[str, float]
"""A key and its window, in seconds."""


class _Ring:
    """One key's hits by the part of the window in which they came; `latest` is the number of the newest part."""

    __slots__ = ("latest", "slots", "total")

    def __init__(self, latest: int, slots: Sequence[int] = (0,) * _SLOTS) -> None:
        self.latest = latest
        self.slots = list(slots)
        self.total = sum(slots)

    def move_to(self, part: int) -> None:
        """Forget the parts that have left the window when `part` is the newest.

        Where the clock has stepped back, what was counted counts as of now: it would stay until the clock is there
        again.
        """
        if part < self.latest:
            self.slots = [0] * _SLOTS
            self.slots[part % _SLOTS] = self.total
        for passed in range(self.latest + 1, min(part, self.latest + _SLOTS) + 1):
            self.total -= self.slots[passed % _SLOTS]
            self.slots[passed % _SLOTS] = 0
        self.latest = part


class Windows:
    """Counts by key and window.

    A count is exact but for age: hits are forgotten an eighth of a window at a time, so it is never less than the
    hits of the last `window` seconds and never more than those of the last 9/8 of it. At most `max_keys` are kept;
    the least recently used go first, and begin at 0 when they return: whoever is refused, and so is asked about and not
    counted, is not forgotten for that. `gone` hears of those. The same key under another window is another counter.
    """

    def __init__(self, seconds: Callable[[], float], max_keys: int, gone: Callable[[Place], object]) -> None:
        self._seconds = seconds
        self._max_keys = max_keys
        self._gone = gone
        self._rings: OrderedDict[Place, _Ring] = OrderedDict()

    def hit(self, key: str, window: float, amount: int) -> int:
        """As in ICounters."""
        part = int(self._seconds() * _PARTS / window)
        rings = self._rings
        place = key, window
        ring = rings.get(place)
        if ring is None:
            ring = self._keep(place, _Ring(part))
        else:
            rings.move_to_end(place)
            if part != ring.latest:
                ring.move_to(part)
        ring.slots[ring.latest % _SLOTS] += amount
        ring.total += amount
        return ring.total

    def peek(self, key: str, window: float) -> int:
        """As in ICounters."""
        place = key, window
        ring = self._rings.get(place)
        if ring is None:
            return 0
        self._rings.move_to_end(place)
        part = int(self._seconds() * _PARTS / window)
        if part != ring.latest:
            ring.move_to(part)
        return ring.total

    def __iter__(self) -> Iterator[Place]:
        return iter(self._rings)

    def written(self, place: Place) -> tuple[tuple[float, ...], float] | None:
        """The numbers that `load` takes, and when they mean nothing any more; None where the counter is gone."""
        ring = self._rings.get(place)
        if ring is None:
            return None
        return (ring.latest, *ring.slots), (ring.latest + _SLOTS) * place[1] / _PARTS

    def load(self, place: Place, numbers: Sequence[float]) -> None:
        """Go on with what was written; ValueError where it is something else."""
        latest, *slots = map(int, numbers)
        if len(slots) != _SLOTS or place[1] <= 0:
            raise ValueError("no counter")
        self._rings.pop(place, None)
        self._keep(place, _Ring(latest, slots))

    def _keep(self, place: Place, ring: _Ring) -> _Ring:
        if len(self._rings) >= self._max_keys:
            oldest, _ = self._rings.popitem(last=False)
            self._gone(oldest)
        self._rings[place] = ring
        return ring
