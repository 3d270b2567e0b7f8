"""What filters, and other parts, are given to work with: DNS, counters, directories, events."""

from __future__ import annotations

import enum
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from msgspec import Struct
from twisted.internet.interfaces import IReactorTime
from zope.interface import Interface

from mailgate.address import NULL_PATH, Address
from mailgate.events import Event
from mailgate.interfaces.session import Expand
from mailgate.reply import Reply

__all__ = [
    "Answer",
    "DnsStatus",
    "FilterServices",
    "FindOwners",
    "ICounters",
    "IEvents",
    "IProber",
    "IRecipientDirectory",
    "IResolver",
    "ISuppressions",
    "ProbeResult",
    "RecipientStatus",
    "Suppression",
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
    null MX has the name "". `secure` is True where a trusted resolver vouched with DNSSEC; `ttl` in seconds. `alias`
    is the name that has the records where CNAMEs lead there, and otherwise "".
    """

    status: DnsStatus
    records: tuple[object, ...] = ()
    ttl: float = 0.0
    secure: bool = False
    alias: str = ""

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
    """What filters remember: counts over sliding windows, buckets, and small values. All workers share it.

    A store that cannot answer fails with an exception of its own kind, which is the filter's failure; what it forgets
    under pressure (too many keys) counts as never seen.
    """

    def hit(key: str, window: float, amount: int = 1) -> int | Awaitable[int]:
        """Add `amount` and return the count of the last `window` seconds, this one included."""

    def peek(key: str, window: float) -> int | Awaitable[int]:
        """The count of the last `window` seconds."""

    def take(key: str, rate: float, burst: float, amount: float = 1.0) -> float | Awaitable[float]:
        """Take `amount` out of a bucket that holds `burst` at most and fills by `rate` a second; it is full at first.

        0.0 where there was enough, else the seconds after which there will be, and nothing was taken.
        """

    def get(key: str) -> bytes | Awaitable[bytes | None] | None:
        """The value that was put; None where there is none, or its time is over."""

    def put(key: str, value: bytes, ttl: float) -> Awaitable[None] | None:
        """Keep a value (at most 4096 octets) for `ttl` seconds, in the place of the one before."""

    def add(key: str, value: bytes, ttl: float) -> bytes | Awaitable[bytes | None] | None:
        """Put a value where there is none: None then, and otherwise the one that is there, which stays."""

    def forget(key: str) -> Awaitable[None] | None:
        """Remove a value."""


class RecipientStatus(enum.Enum):
    """What a directory knows of an address."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    UNAVAILABLE = "unavailable"
    RESTRICTED = "restricted"
    """it exists, for mail from clients that may relay"""


class IRecipientDirectory(Interface):
    """Knows which recipients of our domains exist."""

    def lookup(address: Address) -> RecipientStatus | Awaitable[RecipientStatus]:
        """UNAVAILABLE where the source cannot be asked now.

        KNOWN for domains that take any recipient, and for those that are not ours.
        """


class IProber(Interface):
    """Asks a next hop whether it would take mail for an address, without sending any."""

    def probe(route: str, address: Address, *, stage: str, sender: Address = NULL_PATH) -> Awaitable[ProbeResult]:
        """Ask the hosts of a route up to the end of `stage`, "rcpt" or "data" (DATA is then not gone on with).

        Nothing raises but CancelledError: what cannot be told is UNAVAILABLE.
        """


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a next hop said of an address; `reply` as text, "" where there was none.

    `reason` says why nobody could be asked at all; "" where somebody has answered about the address.
    """

    status: RecipientStatus
    reply: str = ""
    reason: str = ""


class Suppression(Struct, frozen=True):
    """An address, or all of "@domain", gets no more mail of ours.

    `scope` says which mail: "" all, else the name of a stream, the address of a sender, or "@domain" of senders.
    `reason` is "bounce", "complaint", "unsubscribe" or "manual", `detail` the private cause. `added` and `until` are
    seconds since the epoch, `until` 0 where it is for good.
    """

    address: str
    scope: str = ""
    reason: str = "manual"
    detail: str = ""
    added: float = 0.0
    until: float = 0.0


class ISuppressions(Interface):
    """The addresses that get no more mail of ours; all workers share them. Fails with sqlite3.Error or OSError where
    they cannot be asked now."""

    def find(addresses: Sequence[Address], scopes: Sequence[str]) -> Awaitable[Mapping[Address, Suppression]]:
        """Those of the addresses that get none of the mail of any of these scopes, which should have "" among them."""

    def add(*entries: Suppression) -> Awaitable[Sequence[Suppression]]:
        """Keep these, on disk when it answers; those of them that were not there."""

    def remove(address: str, scope: str | None = None) -> Awaitable[Sequence[Suppression]]:
        """Remove an address from one scope, or from all; the entries that went."""

    def list(
        limit: int, after: tuple[str, str] = ("", ""), *, address: str = "", scope: str | None = None, reason: str = ""
    ) -> Awaitable[Sequence[Suppression]]:
        """At most `limit` entries behind one (address and scope), in the order of both, which may be narrowed down."""


class IEvents(Interface):
    """Where events are published."""

    def publish(event: Event) -> None:
        """Tell every observer; an observer that raises is logged and does not disturb the others."""


FindOwners = Callable[[str], Sequence[str] | Awaitable[Sequence[str] | None] | None]
"""Who may use an address (in lower case) as a sender, or all of "@domain": names of identities as they are written,
None where nobody may. It fails where the source cannot be asked now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterServices:
    """What a filter may use.

    `clock` is the reactor in the gateway, which also makes connections and has threads; in tests, and where a
    configuration is only checked, it is a Clock: nothing is begun while a filter is built.
    `local_domains` answers whether mail for a domain (lower case) is ours to take from anyone. `random` is for
    jitter and sampling, not for secrets; `state_dir` is private to this gateway. `owners` are the `[senders.NAME]`,
    `suppressions` None where there is nobody who keeps any. `classify` tells the category of a refusal, as in Bounced;
    `expand` whom an address stands for, as IAliases does. `content_dir` is where this process keeps content that comes
    in, None where it has no spool.
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
    owners: Mapping[str, FindOwners] = field(default_factory=dict)
    suppressions: ISuppressions | None = None
    classify: Callable[[Reply], str] = lambda reply: "other"
    expand: Expand = lambda address: None
    content_dir: Path | None = None

    @property
    def incoming(self) -> Path:
        """The directory for files of content that is made; what a crash leaves there the next start removes."""
        return self.state_dir / "incoming" if self.content_dir is None else self.content_dir
