"""Stand-ins for what a filter is given, each made from plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.address import Address
from mailgate.events import Event
from mailgate.interfaces import (
    Answer,
    DnsStatus,
    ICounters,
    IEvents,
    IRecipientDirectory,
    IResolver,
    RecipientStatus,
)

__all__ = ["EventRecorder", "FakeDirectory", "FakeResolver", "Silent"]

E = TypeVar("E", bound=Event)
T = TypeVar("T")

Records = Iterable[object] | DnsStatus
"""What a question finds: its records, or how else it ends."""


@implementer(IResolver)
class FakeResolver:
    """DNS from a dictionary.

    Keys are (name, type): ("example.org", "MX"). A value is the records as `Answer` describes them, or a DnsStatus. A
    name that stands there for no type is NXDOMAIN, one that stands there for another type NODATA. `asked` holds
    every question, in order. `ttl` is that of every answer.
    """

    def __init__(self, zone: Mapping[tuple[str, str], Records] | None = None, ttl: float = 300.0) -> None:
        self._zone = {(_plain(name), rdtype.upper()): records for (name, rdtype), records in (zone or {}).items()}
        self._names = {name for name, _ in self._zone}
        self._ttl = ttl
        self.asked: list[tuple[str, str]] = []

    def resolve(self, name: str, rdtype: str) -> Answer:
        question = (_plain(name), rdtype.upper())
        self.asked.append(question)
        found = self._zone.get(question)
        if found is None:
            return Answer(DnsStatus.NODATA if question[0] in self._names else DnsStatus.NXDOMAIN, ttl=self._ttl)
        if isinstance(found, DnsStatus):
            return Answer(found, ttl=0.0 if Answer(found).is_temporary else self._ttl)
        records = tuple(found)
        return Answer(DnsStatus.FOUND if records else DnsStatus.NODATA, records, self._ttl)

    def reverse(self, address: IPv4Address | IPv6Address) -> Answer:
        return self.resolve(address.reverse_pointer, "PTR")


@implementer(IRecipientDirectory)
class FakeDirectory:
    """Knows the addresses that it was given, and answers `otherwise` for every other.

    `statuses` overrides single addresses: {"ann@example.org": RecipientStatus.UNAVAILABLE}. Case does not matter.
    """

    def __init__(
        self,
        known: Iterable[str] = (),
        statuses: Mapping[str, RecipientStatus] | None = None,
        otherwise: RecipientStatus = RecipientStatus.UNKNOWN,
    ) -> None:
        self._statuses = {address.lower(): RecipientStatus.KNOWN for address in known}
        self._statuses |= {address.lower(): status for address, status in (statuses or {}).items()}
        self._otherwise = otherwise

    def lookup(self, address: Address) -> RecipientStatus:
        return self._statuses.get(str(address).lower(), self._otherwise)


@implementer(IEvents)
class EventRecorder:
    """Keeps every event, in order, in `events`."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """Those of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


@implementer(IResolver, ICounters, IRecipientDirectory)
class Silent:
    """A resolver, counters and a directory that never answer, until they are cancelled.

    `asked` counts the questions, `open` those that nobody has cancelled.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.open = 0

    def resolve(self, name: str, rdtype: str) -> Deferred[Answer]:
        return self._never()

    def reverse(self, address: IPv4Address | IPv6Address) -> Deferred[Answer]:
        return self._never()

    def hit(self, key: str, window: float, amount: int = 1) -> Deferred[int]:
        return self._never()

    def peek(self, key: str, window: float) -> Deferred[int]:
        return self._never()

    def take(self, key: str, rate: float, burst: float, amount: float = 1.0) -> Deferred[float]:
        return self._never()

    def get(self, key: str) -> Deferred[bytes | None]:
        return self._never()

    def put(self, key: str, value: bytes, ttl: float) -> Deferred[None]:
        return self._never()

    def add(self, key: str, value: bytes, ttl: float) -> Deferred[bytes | None]:
        return self._never()

    def forget(self, key: str) -> Deferred[None]:
        return self._never()

    def lookup(self, address: Address) -> Deferred[RecipientStatus]:
        return self._never()

    def _never(self) -> Deferred[T]:
        def close(_: object) -> None:
            self.open -= 1

        self.asked += 1
        self.open += 1
        return Deferred(close)


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")
