"""Stand-ins for what a filter is given, each made from plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from mailgate.address import Address
from mailgate.events import Event
from mailgate.interfaces import (
    Answer,
    ICounters,
    IEvents,
    IOriginals,
    IRecipientDirectory,
    IResolver,
    RecipientStatus,
)
from mailgate.message import Content

__all__ = ["EventRecorder", "FakeDirectory", "MemoryOriginals", "Silent"]

E = TypeVar("E", bound=Event)
T = TypeVar("T")


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


@implementer(IOriginals)
class MemoryOriginals:
    """Keeps what came in `kept`, by queue id; with an `error`, as a disk that is full, nothing."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.error: OSError | None = None

    def keep(self, queue_id: str, content: Content) -> Deferred[None]:
        if self.error is not None:
            return fail(self.error)
        self.kept[queue_id] = content.read()
        return succeed(None)
