"""What became of mail in the last hour: by recipient domain, site, route, source and stream.

Numbers since the start are in `metrics`; these are for somebody who looks at the queue now. They are kept in memory by
each worker, in `SLOTS` stretches of `STRETCH` seconds and the one that goes on, so that an event costs one look into a
dictionary. Who asks adds up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import add
from types import MappingProxyType
from typing import Literal, NamedTuple

from zope.interface import implementer

from mailgate.events import Bounced, BouncedBack, Complained, Deferred, Delivered, Event
from mailgate.interfaces import IEventObserver

__all__ = ["MOST", "OTHERS", "SLOTS", "STRETCH", "Counted", "Outcome", "RateKey", "Rates", "added", "is_of_the_way"]

RateKey = Literal["domain", "site", "route", "source", "stream"]
"""What outcomes are counted by, in the order of a place."""

SLOTS, STRETCH = 12, 300.0
#: Places with counts of their own in one stretch, those that came first; as many again where only the domain and the
#: site are left out, so that a letter to all the world still counts for its stream.
MOST = 500
#: What stands for all names that are not told of.
OTHERS = "(other)"

_Place = tuple[str, str, str, str, str]
_Slot = dict[_Place, list[int]]
_KEYS: Mapping[RateKey, int] = {"domain": 0, "site": 1, "route": 2, "source": 3, "stream": 4}
#: What only attempts name.
_OF_THE_WAY: frozenset[RateKey] = frozenset({"site", "route", "source"})


class Outcome(NamedTuple):
    """How often, in recipients: of attempts, the first three; of mail that was delivered before, the others."""

    delivered: int = 0
    deferred: int = 0
    bounced: int = 0
    bounced_back: int = 0
    complained: int = 0


class Counted(NamedTuple):
    """Outcomes by name since a moment (seconds since the epoch): those that happened most often, and the rest as
    `OTHERS`, last."""

    since: float
    rows: Sequence[tuple[str, Outcome]]


_KINDS: Mapping[type[Event], int] = {Delivered: 0, Deferred: 1, Bounced: 2, BouncedBack: 3, Complained: 4}
_FITS: Mapping[RateKey, Callable[[str, str], bool]] = {
    "site": lambda name, wanted: wanted.lower() in name,
    "domain": lambda name, wanted: name == wanted.lower(),
    "source": lambda name, wanted: name.lower() == wanted.lower(),
}


@implementer(IEventObserver)
class Rates:
    """Counts events; `now` is the time of the machine."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._begin(now())

    def observe(self, event: Event) -> None:
        kind = _KINDS.get(type(event))
        if kind is None:
            return
        if not self._starts <= event.at < self._ends:
            self._turn(event.at)
        match event:
            case Delivered() | Deferred() | Bounced():
                site, route, source = event.site, event.route, event.source
            case BouncedBack() | Complained():
                # A report does not say which way the mail had gone.
                site = route = source = ""
            case _:
                raise AssertionError(event)
        place = event.recipient.rpartition("@")[2].lower(), site, route, source, event.stream
        slot = self._slot
        counts = slot.get(place)
        if counts is None:
            if len(slot) >= MOST:
                place = (OTHERS, OTHERS, *place[2:]) if len(slot) < 2 * MOST else (OTHERS,) * 5
            counts = slot.setdefault(place, [0] * len(_KINDS))
        counts[kind] += 1

    def count(self, by: RateKey, limit: int, only: Mapping[RateKey, str] = MappingProxyType({})) -> Counted:
        """The `limit` names with the most outcomes, and all the rest as one.

        `only` are conditions, of which a site fits by any part of its name. By site, route or source, and with such a
        condition, what came back after the delivery is left out: it names none.
        """
        self._turn(self._now())
        number = _KEYS[by]
        tests = [(_KEYS[key], _FITS.get(key, str.__eq__), wanted) for key, wanted in only.items()]
        has_way = is_of_the_way(by, *only)
        sums: dict[str, list[int]] = {}
        for _, slot in self._slots:
            for place, counts in slot.items():
                if has_way and not place[2]:
                    continue
                if not tests or all(fits(place[at], wanted) for at, fits, wanted in tests):
                    _add(sums, place[number], counts)
        since = max(self._since, self._starts - SLOTS * STRETCH)
        return _told(since, sums, limit)

    def _begin(self, at: float) -> None:
        """Know nothing of before."""
        self._since = at
        self._slots: deque[tuple[float, _Slot]] = deque()
        self._open(at)

    def _open(self, at: float) -> None:
        """A new stretch, and none that is too old."""
        self._starts = at - at % STRETCH
        self._ends = self._starts + STRETCH
        self._slot: _Slot = {}
        while self._slots and self._slots[0][0] < self._starts - SLOTS * STRETCH:
            self._slots.popleft()
        self._slots.append((self._starts, self._slot))

    def _turn(self, at: float) -> None:
        if at >= self._ends:
            self._open(at)
        elif at < self._starts - STRETCH:
            # The clock has been put back: what lies in the future would never grow old.
            self._begin(at)


def is_of_the_way(*keys: RateKey) -> bool:
    """Whether one of them is what only attempts name."""
    return not _OF_THE_WAY.isdisjoint(keys)


def added(parts: Iterable[Counted], limit: int) -> Counted:
    """What several have counted by the same, as one. ValueError where there is nothing to add."""
    parts = list(parts)
    sums: dict[str, list[int]] = {}
    for part in parts:
        for name, outcome in part.rows:
            _add(sums, name, outcome)
    return _told(min(part.since for part in parts), sums, limit)


def _add(sums: dict[str, list[int]], name: str, counts: Sequence[int]) -> None:
    total = sums.get(name)
    if total is None:
        sums[name] = [*counts]
    else:
        total[:] = map(add, total, counts)


def _told(since: float, sums: dict[str, list[int]], limit: int) -> Counted:
    others = sums.pop(OTHERS, None)
    order = [name for _, name in sorted((-sum(counts), name) for name, counts in sums.items())]
    rest = {} if others is None else {OTHERS: others}
    for name in order[limit:]:
        _add(rest, OTHERS, sums[name])
    rows = [(name, Outcome(*sums[name])) for name in order[:limit]]
    return Counted(since, [*rows, *((name, Outcome(*counts)) for name, counts in rest.items())])
