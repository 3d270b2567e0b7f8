"""What filters remember, in the memory of this process or of another one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.interfaces import ICounters
from mailgate.stores.buckets import Buckets
from mailgate.stores.values import Values, checked
from mailgate.stores.windows import Windows

__all__ = ["AskedCounters", "MemoryCounters"]

#: Octets of values, and of their keys, where nobody says how many.
_OCTETS = 32 * 1024 * 1024


@implementer(ICounters)
class MemoryCounters:
    """Windows, buckets and values, as the classes of these names keep them: at most `max_keys` of each, and
    `max_octets` of values with their keys.

    Whatever is asked takes about a microsecond, whatever the numbers.
    """

    def __init__(self, clock: IReactorTime, max_keys: int, max_octets: int = _OCTETS) -> None:
        self._windows = Windows(clock.seconds, max_keys, lambda place: self._changed("window", place))
        self._buckets = Buckets(clock.seconds, max_keys, lambda key: self._changed("bucket", key))
        self._values = Values(clock.seconds, max_keys, max_octets, lambda key: self._changed("value", key))

    def hit(self, key: str, window: float, amount: int = 1) -> int:
        return self._windows.hit(key, window, amount)

    def peek(self, key: str, window: float) -> int:
        return self._windows.peek(key, window)

    def take(self, key: str, rate: float, burst: float, amount: float = 1.0) -> float:
        return self._buckets.take(key, rate, burst, amount)

    def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    def put(self, key: str, value: bytes, ttl: float) -> None:
        self._values.put(key, value, ttl)

    def add(self, key: str, value: bytes, ttl: float) -> bytes | None:
        return self._values.add(key, value, ttl)

    def forget(self, key: str) -> None:
        self._values.forget(key)

    def open(self) -> None:
        """Begin: once, before anything is asked."""

    def close(self) -> None:
        """End: nothing is asked any more."""

    def _changed(self, kind: str, key: object) -> None:
        """What was kept under a key is gone."""


@implementer(ICounters)
class AskedCounters:
    """What another process keeps for several: `ask` takes the word of a method and its arguments and brings the answer,
    `tell` takes the same and brings nothing; the order is kept. Values go as text of one character for each octet, for
    whatever lies between carries no octets; and nothing goes that it may not carry either (TypeError)."""

    def __init__(self, ask: Callable[..., Deferred[Any]], tell: Callable[..., object]) -> None:
        self._ask = ask
        self._tell = tell

    def hit(self, key: str, window: float, amount: int = 1) -> Awaitable[int]:
        return self._ask("hit", *_plain(key, window, amount))

    def peek(self, key: str, window: float) -> Awaitable[int]:
        return self._ask("peek", *_plain(key, window))

    def take(self, key: str, rate: float, burst: float, amount: float = 1.0) -> Awaitable[float]:
        return self._ask("take", *_plain(key, rate, burst, amount))

    def get(self, key: str) -> Awaitable[bytes | None]:
        return self._ask("get", *_plain(key)).addCallback(_octets)

    def put(self, key: str, value: bytes, ttl: float) -> None:
        name, seconds = _plain(key, ttl)
        self._tell("put", name, checked(value).decode("latin-1"), seconds)

    def add(self, key: str, value: bytes, ttl: float) -> Awaitable[bytes | None]:
        name, seconds = _plain(key, ttl)
        return self._ask("put-new", name, checked(value).decode("latin-1"), seconds).addCallback(_octets)

    def forget(self, key: str) -> None:
        self._tell("forget", *_plain(key))


def _plain(key: str, *numbers: float) -> tuple[object, ...]:
    """The same; TypeError for what a filter without types may have given instead."""
    if not isinstance(key, str) or not all(isinstance(number, int | float) for number in numbers):
        raise TypeError("counters have a text for a key, and numbers")
    return (key, *numbers)


def _octets(text: str | None) -> bytes | None:
    return None if text is None else text.encode("latin-1")
