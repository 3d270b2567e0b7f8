"""Limits on what is open or sent at one time, and numbers that are added to, for one process."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.interfaces import ISlots, ITally

__all__ = ["LocalSlots", "LocalTally"]

#: Budgets that are kept before those are looked for that are full again.
_BUDGETS = 10_000
#: Holders of slots of one key that are told: the present queue of a site, and those of configurations before.
_HOLDERS = 16
#: Seconds that are no wait: what is left by counting with floats.
_NOTHING = 1e-5


@dataclass(slots=True, eq=False)
class _Waiting:
    """Somebody who waits for a slot, of which there are `limit`."""

    limit: int
    wanted: Callable[[], None]
    ready: Deferred[None]


@dataclass(slots=True)
class _Key:
    """Slots that are held; `holders` are to be told when somebody waits: who has held one since the last were free."""

    held: int = 0
    holders: dict[Callable[[], None], None] = field(default_factory=dict)
    waiting: deque[_Waiting] = field(default_factory=deque)

    def hold(self, wanted: Callable[[], None]) -> None:
        """Give one away."""
        self.held += 1
        self.holders[wanted] = None
        if len(self.holders) > _HOLDERS:
            del self.holders[next(iter(self.holders))]


@implementer(ISlots)
class LocalSlots:
    """ISlots of a gateway with one process.

    Who waits is served in order, as soon as the limit allows it that it has named. A holder is not told that it waits
    itself.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._keys: dict[str, _Key] = {}
        self._times: dict[str, tuple[float, float]] = {}  # when each was, or will be, paid to the end, at which rate
        self._most_times = _BUDGETS

    def acquire(self, key: str, limit: int, wanted: Callable[[], None]) -> Deferred[None] | None:
        found = self._keys.get(key)
        if found is None:
            found = self._keys[key] = _Key()
        if found.held < limit and not found.waiting:
            found.hold(wanted)
            return None
        one = _Waiting(limit, wanted, Deferred(lambda _: self._give_up(key, one)))
        found.waiting.append(one)
        for holder in list(found.holders):
            if holder != wanted:
                holder()
        return one.ready

    def release(self, key: str) -> None:
        found = self._keys.get(key)
        if found is not None and found.held:
            found.held -= 1
            self._serve(key, found)

    def spend(self, key: str, rate: float, amount: int = 1) -> float:
        now = self._clock.seconds()
        at, before = self._times.get(key) or (now, rate)
        # What is owed are things, not seconds: another rate pays it off in another time.
        at = now + max(at - now, 0.0) * before / rate
        if key not in self._times and len(self._times) >= self._most_times:
            self._times = {one: owed for one, owed in self._times.items() if owed[0] > now}
            self._most_times = max(_BUDGETS, 2 * len(self._times))
        self._times[key] = at + amount / rate, rate
        saved = (max(rate, 1.0) - 1.0) / rate
        wait = at - now - saved
        return wait if wait > _NOTHING else 0.0

    def _give_up(self, key: str, one: _Waiting) -> None:
        found = self._keys[key]
        found.waiting.remove(one)
        self._serve(key, found)

    def _serve(self, key: str, found: _Key) -> None:
        while (one := next((one for one in found.waiting if found.held < one.limit), None)) is not None:
            found.waiting.remove(one)
            found.hold(one.wanted)
            one.ready.callback(None)
        if not found.held and not found.waiting and self._keys.get(key) is found:
            del self._keys[key]


@implementer(ITally)
class LocalTally:
    """ITally of a gateway with one process."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()
        self._watchers: dict[str, list[Callable[[], None]]] = {}

    def add(self, key: str, amount: int) -> None:
        total = self._totals[key] + amount
        if total:
            self._totals[key] = total
        else:
            del self._totals[key]
        for changed in self._watchers.get(key, ()):
            changed()

    def total(self, key: str) -> int:
        return self._totals.get(key, 0)

    def watch(self, key: str, changed: Callable[[], None]) -> None:
        self._watchers.setdefault(key, []).append(changed)
