"""DNS from a zone, whose answers take their time."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.interfaces import Answer, IResolver
from mailgate.testing import MemoryResolver

__all__ = ["SlowResolver"]


@implementer(IResolver)
class SlowResolver:
    """Answers after `seconds`, or after those of the longest name in `delays` that the question ends in.

    `asked` holds every question, `open` how many await their answer, `most` how many did at one time.
    """

    def __init__(
        self, zone: Mapping[str, Any], clock: Clock, seconds: float = 0.02, delays: Mapping[str, float] | None = None
    ) -> None:
        self.known = MemoryResolver(zone)
        self._clock = clock
        self._seconds = seconds
        self._delays = delays or {}
        self.open = 0
        self.most = 0

    @property
    def asked(self) -> list[tuple[str, str]]:
        return self.known.asked

    def resolve(self, name: str, rdtype: str) -> Deferred[Answer]:
        ends = sorted((end for end in self._delays if name.endswith(end)), key=len)
        return self._later(self.known.resolve(name, rdtype), self._delays[ends[-1]] if ends else self._seconds)

    def reverse(self, address: IPv4Address | IPv6Address) -> Deferred[Answer]:
        return self._later(self.known.reverse(address), self._seconds)

    def _later(self, answer: Answer, seconds: float) -> Deferred[Answer]:
        def give_up(_: object) -> None:
            self.open -= 1
            call.cancel()

        def give() -> None:
            self.open -= 1
            waiter.callback(answer)

        self.open += 1
        self.most = max(self.most, self.open)
        waiter: Deferred[Answer] = Deferred(give_up)
        call = self._clock.callLater(seconds, give)
        return waiter
