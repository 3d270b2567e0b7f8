"""What filters, and other parts, are given to work with: DNS, counters, directories, events."""

from __future__ import annotations

import enum
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from zope.interface import Interface

from mailgate.address import Address
from mailgate.events import Event

__all__ = [
    "Answer",
    "DnsStatus",
    "FilterServices",
    "ICounters",
    "IEvents",
    "IRecipientDirectory",
    "IResolver",
    "RecipientStatus",
]


class DnsStatus(enum.Enum):
    """The five ends of a question; the last two are temporary."""

    FOUND = "found"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"
    SERVFAIL = "servfail"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question.

    `records` depend on the type: A and AAAA are address objects, PTR and CNAME names, MX pairs of preference and
    name (sorted by preference), TXT octets joined per record. Names are lower case without a final dot; the
    null MX has the name "". `secure` is True where a trusted resolver vouched with DNSSEC; `ttl` in seconds.
    """

    status: DnsStatus
    records: tuple[object, ...] = ()
    ttl: float = 0.0
    secure: bool = False

    @property
    def is_temporary(self) -> bool:
        """Whether asking later may give another answer."""
        return self.status in (DnsStatus.SERVFAIL, DnsStatus.TIMEOUT)


class IResolver(Interface):
    """Asks DNS, with a cache and a deadline of its own. Never raises for what DNS answers, or does not."""

    def resolve(name: str, rdtype: str) -> Answer | Awaitable[Answer]:
        """Answer for `name` and a type such as "MX". A name that cannot be a domain name is NXDOMAIN."""

    def reverse(address: IPv4Address | IPv6Address) -> Answer | Awaitable[Answer]:
        """The PTR answer for an address."""


class ICounters(Interface):
    """Counts over sliding windows."""

    def hit(key: str, window: float, amount: int = 1) -> int | Awaitable[int]:
        """Add `amount` and return the count of the last `window` seconds, this one included."""

    def peek(key: str, window: float) -> int | Awaitable[int]:
        """The count of the last `window` seconds."""


class RecipientStatus(enum.Enum):
    """What a directory knows of an address."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    UNAVAILABLE = "unavailable"


class IRecipientDirectory(Interface):
    """Knows which recipients of our domains exist."""

    def lookup(address: Address) -> RecipientStatus | Awaitable[RecipientStatus]:
        """UNAVAILABLE where the source cannot be asked now.

        KNOWN for domains that take any recipient, and for those that are not ours.
        """


class IEvents(Interface):
    """Where events are published."""

    def publish(event: Event) -> None:
        """Tell every observer; an observer that raises is logged and does not disturb the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterServices:
    """What a filter may use.

    `local_domains` answers whether mail for a domain (lower case) is ours to take from anyone. `random` is for
    jitter and sampling, not for secrets; `state_dir` is private to this gateway.
    """

    clock: IReactorTime
    resolver: IResolver
    counters: ICounters
    directory: IRecipientDirectory
    local_domains: Callable[[str], bool]
    events: IEvents
    random: random.Random
    hostname: str
    state_dir: Path
