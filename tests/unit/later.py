"""Counters that answer later, as those of another machine do."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.interfaces import ICounters
from mailgate.stores.counters import MemoryCounters

__all__ = ["LaterCounters"]

T = TypeVar("T")


@implementer(ICounters)
class LaterCounters:
    """MemoryCounters behind a Deferred each. While it `holds`, what was asked is done and answered at `release`, in the
    order in which it was asked."""

    def __init__(self, clock: Clock, max_keys: int = 1000) -> None:
        self.kept = MemoryCounters(clock, max_keys)
        self.holds = False
        self._held: list[Deferred[None]] = []

    def hit(self, key: str, window: float, amount: int = 1) -> Deferred[int]:
        return self._ask().addCallback(lambda _: self.kept.hit(key, window, amount))

    def peek(self, key: str, window: float) -> Deferred[int]:
        return self._ask().addCallback(lambda _: self.kept.peek(key, window))

    def take(self, key: str, rate: float, burst: float, amount: float = 1.0) -> Deferred[float]:
        return self._ask().addCallback(lambda _: self.kept.take(key, rate, burst, amount))

    def get(self, key: str) -> Deferred[bytes | None]:
        return self._ask().addCallback(lambda _: self.kept.get(key))

    def put(self, key: str, value: bytes, ttl: float) -> Deferred[None]:
        return self._ask().addCallback(lambda _: self.kept.put(key, value, ttl))

    def add(self, key: str, value: bytes, ttl: float) -> Deferred[bytes | None]:
        return self._ask().addCallback(lambda _: self.kept.add(key, value, ttl))

    def forget(self, key: str) -> Deferred[None]:
        return self._ask().addCallback(lambda _: self.kept.forget(key))

    def release(self) -> None:
        """Answer what was asked so far; what is asked because of that is held again."""
        held, self._held = self._held, []
        for one in held:
            one.callback(None)

    def _ask(self) -> Deferred[None]:
        if not self.holds:
            return succeed(None)
        one: Deferred[None] = Deferred()
        self._held.append(one)
        return one
