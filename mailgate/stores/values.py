"""Small values by key, each for its time: what is asked for again outlives what came once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain

__all__ = ["MAX_VALUE", "Values", "checked"]

#: Octets of one value.
MAX_VALUE = 4096
#: Of the keys and the octets, the share that is for those which were asked for again.
_KNOWN = 0.75

_Entry = tuple[bytes, float, int]
"""A value, when its time is over, and the octets that are counted for it."""


def checked(value: bytes) -> bytes:
    """The value; ValueError where it is longer than counters take."""
    if len(value) > MAX_VALUE:
        raise ValueError(f"a value has at most {MAX_VALUE} octets, not {len(value)}")
    return value


class Values:
    """At most `max_keys`, and `max_octets` of keys and values together; `gone` hears of those that go because of that.

    Those that came once go before those that were asked for, or put, again: a flood of strangers does not drive out
    who is known. Among either the least recently used goes first.
    """

    def __init__(
        self, seconds: Callable[[], float], max_keys: int, max_octets: int, gone: Callable[[str], object]
    ) -> None:
        self._seconds = seconds
        self._max_keys = max_keys
        self._max_octets = max_octets
        self._gone = gone
        self._new: OrderedDict[str, _Entry] = OrderedDict()
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._octets = self._known_octets = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._known)

    def __iter__(self) -> Iterator[str]:
        return chain(self._new, self._known)

    @property
    def octets(self) -> int:
        """Of keys and values together."""
        return self._octets

    def get(self, key: str) -> bytes | None:
        """As in ICounters."""
        entry = self._take(key)
        if entry is None:
            return None
        if entry[1] <= self._seconds():
            self._gone(key)
            return None
        self._keep_known(key, entry)
        return entry[0]

    def put(self, key: str, value: bytes, ttl: float) -> None:
        """As in ICounters; ValueError where the value is too long."""
        self.load(key, checked(value), self._seconds() + ttl)

    def add(self, key: str, value: bytes, ttl: float) -> bytes | None:
        """As in ICounters; ValueError where the value is too long."""
        checked(value)
        found = self.get(key)
        if found is None:
            self.put(key, value, ttl)
        return found

    def forget(self, key: str) -> None:
        """As in ICounters."""
        self._take(key)

    def written(self, key: str) -> tuple[bytes, float] | None:
        """The value, and when its time is over; None where it is gone."""
        entry = self._known.get(key) or self._new.get(key)
        return None if entry is None else entry[:2]

    def load(self, key: str, value: bytes, expires: float) -> None:
        """Keep a value up to a moment."""
        entry = value, expires, len(key) + len(value)
        if self._take(key) is not None:
            self._keep_known(key, entry)
        else:
            self._new[key] = entry
            self._octets += entry[2]
        while len(self) > self._max_keys or self._octets > self._max_octets:
            oldest = next(iter(self._new or self._known))
            self._take(oldest)
            self._gone(oldest)

    def _take(self, key: str) -> _Entry | None:
        entry = self._new.pop(key, None)
        if entry is None:
            entry = self._known.pop(key, None)
            if entry is None:
                return None
            self._known_octets -= entry[2]
        self._octets -= entry[2]
        return entry

    def _keep_known(self, key: str, entry: _Entry) -> None:
        self._known[key] = entry
        self._octets += entry[2]
        self._known_octets += entry[2]
        while len(self._known) > self._max_keys * _KNOWN or self._known_octets > self._max_octets * _KNOWN:
            oldest, entry = self._known.popitem(last=False)
            self._known_octets -= entry[2]
            self._new[oldest] = entry
