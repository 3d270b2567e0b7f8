"""Who sends what to whom: the client, the session, the transaction, the envelope (RFC 5321, RFC 5598)."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from mailgate.address import Address
from mailgate.message import Edit

__all__ = [
    "Client",
    "Envelope",
    "EnvelopeRecipient",
    "Evidence",
    "Identity",
    "Recipient",
    "Session",
    "TraceStep",
    "Transaction",
    "new_id",
]

T = TypeVar("T")

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def new_id() -> str:
    """A new id, of 16 characters: the time in milliseconds, then 40 random bits. Later ids sort later.

    The alphabet (Crockford base 32) is in ASCII order and safe in file names, header fields and replies.
    """
    number = (time.time_ns() // 1_000_000 & (1 << 40) - 1) << 40 | secrets.randbits(40)
    pairs = _PAIRS  # two characters, ten bits, at a time
    return (
        f"{pairs[number >> 70]}{pairs[number >> 60 & 1023]}{pairs[number >> 50 & 1023]}{pairs[number >> 40 & 1023]}"
        f"{pairs[number >> 30 & 1023]}{pairs[number >> 20 & 1023]}{pairs[number >> 10 & 1023]}{pairs[number & 1023]}"
    )


class Evidence:
    """What filters found out, as typed values: each is found again by its type."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: list[object] = []

    def add(self, value: object) -> None:
        """Keep one result."""
        self._found.append(value)

    def get(self, kind: type[T]) -> T | None:
        """The latest result of this type, or None."""
        return next((value for value in reversed(self._found) if isinstance(value, kind)), None)

    def all(self, kind: type[T]) -> Iterator[T]:
        """Every result of this type, first to last."""
        return (value for value in self._found if isinstance(value, kind))

    def __iter__(self) -> Iterator[object]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


@functools.lru_cache(maxsize=4096)
def _told(name: str, address: IPv4Address | IPv6Address | None) -> str:
    return f"{name or 'unknown'}[{address or 'local'}]"


@dataclass(frozen=True, slots=True)
class Client:
    """The peer that connected. `address` is None for a unix socket; `name` is "" where rDNS gave none."""

    address: IPv4Address | IPv6Address | None
    port: int = 0
    name: str = ""

    def __str__(self) -> str:
        return _told(self.name, self.address)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the client has proved to be: `name` as authenticated, `mechanism` by which ("PLAIN", "network")."""

    name: str
    mechanism: str


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One filter at one stage: what it said, why, and how long it took (seconds).

    `verdict` is the verdict's word in lower case ("continue", "reject", ...); `enforced` is False in shadow
    mode, where the verdict was recorded and not acted on.
    """

    stage: str
    filter: str
    verdict: str
    reason: str = ""
    seconds: float = 0.0
    enforced: bool = True
    recipient: str = ""


@dataclass(slots=True, kw_only=True)
class Session:
    """One connection, as filters see it. `listener` is the listener's name, `role` its role (inbound...).

    `helo` is "" until HELO, EHLO or LHLO; `protocol` is the word for the Received field (RFC 3848).
    """

    id: str
    client: Client
    listener: str
    role: str
    hostname: str
    protocol: str = "SMTP"
    helo: str = ""
    identity: Identity | None = None
    early_octets: int = 0
    messages: int = 0
    trace: list[TraceStep] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(slots=True, kw_only=True)
class Recipient:
    """One accepted forward-path. `route` is the next hop's route, once it has been chosen."""

    address: Address
    route: str = ""


@dataclass(slots=True, kw_only=True)
class Transaction:
    """One mail transaction, from MAIL to its end.

    `id` becomes the queue id; `declared_size` is SIZE= in octets, or None; `body` is "7BIT" or "8BITMIME";
    `edits` are applied, in their order, when the message is sent on.
    """

    id: str
    sender: Address
    recipients: list[Recipient] = field(default_factory=list)
    declared_size: int | None = None
    body: str = "7BIT"
    edits: list[Edit] = field(default_factory=list)
    trace: list[TraceStep] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True, slots=True)
class EnvelopeRecipient:
    """A recipient of a message in the spool; `number` tells it from the message's other recipients.

    `quarantine` is the reason why it is kept back, or "" where it may be delivered. `refusal` is the reply (as text)
    with which a policy refuses it where the message was taken for others; a report is owed for it, and no attempt.
    """

    number: int
    address: Address
    route: str
    quarantine: str = ""
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What the spool keeps beside the content. `received` is in seconds since the epoch, UTC."""

    queue_id: str
    sender: Address
    recipients: tuple[EnvelopeRecipient, ...]
    received: float
    size: int
    body: str = "7BIT"
    client: str = ""
    edits: tuple[Edit, ...] = ()
