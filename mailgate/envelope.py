"""Who sends what to whom: the client, the session, the transaction, the envelope (RFC 5321, RFC 5598)."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from msgspec import Struct, field

from mailgate.address import Address
from mailgate.message import Edit, For, HeaderEdit

__all__ = [
    "EIGHT_BIT_MAIL",
    "KEPT_STEPS",
    "NO_ORIGIN",
    "PLAIN_MAIL",
    "Client",
    "Envelope",
    "EnvelopeRecipient",
    "Evidence",
    "Identity",
    "Kept",
    "MailParameters",
    "Origin",
    "Recipient",
    "Session",
    "Target",
    "Tls",
    "TraceStep",
    "Transaction",
    "new_id",
    "origin_of",
]

T = TypeVar("T")

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
#: Random numbers for ids to come, and how many of them are drawn at a time.
_bits: list[int] = []
_IDS = 256
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def new_id() -> str:
    """A new id, of 16 characters: the time in milliseconds, then 40 random bits. Later ids sort later.

    The alphabet (Crockford base 32) is in ASCII order and safe in file names, header fields and replies.
    """
    number = (time.time_ns() // 1_000_000 & (1 << 40) - 1) << 40 | _random_bits()
    pairs = _PAIRS  # two characters, ten bits, at a time
    return (
        f"{pairs[number >> 70]}{pairs[number >> 60 & 1023]}{pairs[number >> 50 & 1023]}{pairs[number >> 40 & 1023]}"
        f"{pairs[number >> 30 & 1023]}{pairs[number >> 20 & 1023]}{pairs[number >> 10 & 1023]}{pairs[number & 1023]}"
    )


def _random_bits() -> int:
    """40 random bits; the system is asked for those of many ids at a time."""
    try:
        return _bits.pop()
    except IndexError:
        octets = os.urandom(5 * _IDS)
        _bits.extend(int.from_bytes(octets[at : at + 5]) for at in range(5, len(octets), 5))
        return int.from_bytes(octets[:5])


class Evidence(list[object]):
    """What filters found out, as typed values: each is found again by its type."""

    __slots__ = ("_meant",)

    _meant: dict[int, Callable[[Address], bool]]  # by the place of a result; not set where each is about all

    def add(self, value: object) -> None:
        """Keep one result."""
        self.append(value)

    def add_for(self, value: object, is_for: Callable[[Address], bool]) -> None:
        """Keep one result of a filter that is for some recipients only."""
        if self.is_about_all:
            self._meant = {}
        self._meant[len(self)] = is_for
        self.append(value)

    @property
    def is_about_all(self) -> bool:
        """Whether every result is about every recipient."""
        return not hasattr(self, "_meant")

    @staticmethod
    def shared(
        recipients: Iterable[Address], *evidence: Evidence
    ) -> Iterator[tuple[Sequence[Address], Sequence[object]]]:
        """The recipients for whom the same was found, and all that was: of the evidence of the session and of the
        transaction, one behind the other. However many results there are, each is looked at once for each group."""
        scopes = list({one for found in evidence if not found.is_about_all for one in found._meant.values()})
        groups: dict[tuple[bool, ...], list[Address]] = {}
        for address in recipients:
            groups.setdefault(tuple([is_for(address) for is_for in scopes]), []).append(address)
        for those, members in groups.items():
            found_for = {is_for for is_for, is_so in zip(scopes, those, strict=True) if is_so}
            yield members, [value for found in evidence for value in found._of(found_for)]

    def _of(self, scopes: Collection[Callable[[Address], bool]]) -> list[object]:
        """What was found for all, and for those in these scopes."""
        if self.is_about_all:
            return self
        meant = self._meant
        return [value for place, value in enumerate(self) if place not in meant or meant[place] in scopes]

    def get(self, kind: type[T]) -> T | None:
        """The latest result of this type, or None."""
        return next((value for value in reversed(self) if isinstance(value, kind)), None)

    def all(self, kind: type[T]) -> Iterator[T]:
        """Every result of this type, first to last."""
        return (value for value in self if isinstance(value, kind))


@functools.lru_cache(maxsize=4096)
def _told(name: str, address: IPv4Address | IPv6Address | None) -> str:
    return f"{name or 'unknown'}[{address or 'local'}]"


class Client(Struct, frozen=True):
    """The peer that connected. `address` is None for a unix socket; `name` is "" where rDNS gave none."""

    address: IPv4Address | IPv6Address | None
    port: int = 0
    name: str = ""

    def __str__(self) -> str:
        return _told(self.name, self.address)


class Identity(Struct, frozen=True):
    """Who the client has proved to be: `name` as authenticated, `mechanism` by which ("PLAIN", "network")."""

    name: str
    mechanism: str


class Tls(Struct, frozen=True, kw_only=True):
    """What the handshake of a connection came to.

    `version` is "TLSv1.3" and the like, `server_name` the name that the client asked for (SNI). `subject` (RFC 4514),
    `fingerprint` (SHA-256 of the certificate, lower-case hex) and `names` (its DNS names and mail addresses) are the
    peer's, empty where it has shown no certificate; `is_verified` tells whether its chain leads to an authority that
    we trust.
    """

    version: str
    cipher: str
    server_name: str = ""
    subject: str = ""
    fingerprint: str = ""
    names: tuple[str, ...] = ()
    is_verified: bool = False


class Origin(Struct, frozen=True, kw_only=True):
    """Where a message came from, as XCLIENT and XFORWARD name it; "" and 0 stand for what is not known.

    `protocol` is "SMTP" or "ESMTP" (LMTP: "LMTP"), `login` the name proved by AUTH, `ident` the id of the message at
    the system that sent it here, `source` "LOCAL" or "REMOTE".
    """

    address: str = ""
    port: int = 0
    name: str = ""
    helo: str = ""
    protocol: str = ""
    login: str = ""
    ident: str = ""
    source: str = ""

    @property
    def client(self) -> str:
        """It, as a Client is written; "" where its address is not known."""
        return f"{self.name or 'unknown'}[{self.address}]" if self.address else ""


#: Nothing is known.
NO_ORIGIN = Origin()


class MailParameters(Struct, frozen=True, kw_only=True):
    """What MAIL asked for, beside SIZE; it is kept through the spool and carried to the next hop.

    `body` is "7BIT", "8BITMIME" or "BINARYMIME" (RFC 6152, RFC 3030), `smtputf8` RFC 6531; `ret` is "FULL", "HDRS" or
    "", and `envid` the envelope's id in xtext (RFC 3461); `require_tls` is REQUIRETLS, and `tls_optional` that the
    message says `TLS-Required: no` (RFC 8689); `priority` is MT-PRIORITY (RFC 6710, -9 to 9), None where not given;
    `auth` is the value of AUTH= as it stands, "<>" or a mailbox in xtext (RFC 4954 section 5), None where not given.
    `release_at` (RFC 4865) and `deliver_by` (RFC 2852) are seconds since the epoch, 0 for none; `by_mode` is "R"
    (return it then) or "N" (notify the sender), `by_trace` that every relay is to report.
    """

    body: str = "7BIT"
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    require_tls: bool = False
    tls_optional: bool = False
    priority: int | None = None
    auth: str | None = None
    release_at: float = 0.0
    deliver_by: float = 0.0
    by_mode: str = ""
    by_trace: bool = False


#: MAIL without any parameter, and with the commonest.
PLAIN_MAIL, EIGHT_BIT_MAIL = MailParameters(), MailParameters(body="8BITMIME")


class TraceStep(Struct, frozen=True, omit_defaults=True):
    """One filter at one stage: what it said, why, and how long it took (seconds).

    `verdict` is the verdict's word in lower case ("continue", "reject", ...); `enforced` is False in shadow
    mode, where the verdict was recorded and not acted on. `found` is the evidence, in words.
    """

    stage: str
    filter: str
    verdict: str = "continue"
    reason: str = ""
    seconds: float = 0.0
    enforced: bool = True
    recipient: str = ""
    found: str = ""


class Session(Struct, kw_only=True):
    """One connection, as filters see it. `listener` is the listener's name, `role` its role (inbound...).

    `helo` is "" until HELO, EHLO or LHLO; `protocol` is the word for the Received field (RFC 3848): ESMTPSA and the
    like. `client` is who a trusted proxy says the client is, and then `proxy` the peer that said so; `destination` is
    the address and port that the client came to, where XCLIENT has told them (None, 0). `tls` is None in clear text;
    behind a proxy that ended TLS, it is what the proxy told. `carrier` is there on listeners with `judge_origin` only:
    the session of the mail server that has named this client, and brings its message.
    """

    id: str
    client: Client
    listener: str
    role: str
    hostname: str
    protocol: str = "SMTP"
    helo: str = ""
    identity: Identity | None = None
    tls: Tls | None = None
    proxy: Client | None = None
    destination: tuple[IPv4Address | IPv6Address | None, int] = (None, 0)
    early_octets: int = 0
    messages: int = 0
    carrier: Session | None = None
    trace: list[TraceStep] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)


class Target(Struct, frozen=True):
    """An address that mail for a recipient goes to in its place. `return_path` is the reverse-path of that mail, None
    for the sender itself."""

    address: Address
    route: str
    return_path: Address | None = None


class Recipient(Struct, kw_only=True):
    """One accepted forward-path. `route` is the next hop's route, once it has been chosen.

    `notify` holds the words of NOTIFY= in upper case, `orcpt` the value of ORCPT= as it stands (RFC 3461); both are
    empty where not given. Where the address stands for others, `targets` are those, each with its own route, and
    `route` is empty unless a filter names one for all of them.
    """

    address: Address
    route: str = ""
    notify: tuple[str, ...] = ()
    orcpt: str = ""
    targets: tuple[Target, ...] = ()


class Transaction(Struct, kw_only=True):
    """One mail transaction, from MAIL to its end.

    `id` becomes the queue id; `declared_size` is SIZE= in octets, or None; `edits` are carried out in their order:
    those of the body and of the envelope before the message is accepted, those of the header when it is sent on.
    `edits_for` are those that some recipients' messages have beyond these, in their order: none is shown to a filter,
    which finds in `edits` what the recipients have that it is asked about. `origin` is what XFORWARD told of this
    message, None where nothing. `judged_as` is the session that filters are shown, where that is not the one in which
    the message comes (`judge_origin`). `mark` as in Envelope.
    """

    id: str
    sender: Address
    recipients: list[Recipient] = field(default_factory=list)
    declared_size: int | None = None
    parameters: MailParameters = PLAIN_MAIL
    origin: Origin | None = None
    judged_as: Session | None = None
    edits: list[Edit] = field(default_factory=list)
    edits_for: tuple[For, ...] = ()
    trace: list[TraceStep] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)
    mark: str = ""


class EnvelopeRecipient(Struct, frozen=True):
    """A recipient of a message in the spool; `number` tells it from the message's other recipients.

    `quarantine` is the reason why it is kept back, or "" where it may be delivered. `refusal` is the reply (as text)
    with which a policy refuses it where the message was taken for others; a report is owed for it, and no attempt.
    `notify` and `orcpt` as in Recipient; `return_path` is the reverse-path that the next hop is told for this
    recipient, None for the sender, who gets the reports in any case.
    """

    number: int
    address: Address
    route: str
    quarantine: str = ""
    refusal: str = ""
    notify: tuple[str, ...] = ()
    orcpt: str = ""
    return_path: Address | None = None


KEPT_STEPS = 300
"""Steps of a trace that Kept has at most: where there were more, those that say "continue" go first."""


class Kept(Struct, frozen=True, kw_only=True):
    """Why a message is in quarantine, as its filters found it: the trace of its session and its transaction, and the
    facts of the evidence. `has_original`: the content was changed, and lies as it was received with the originals.

    Where not every fact is about every recipient, `facts_for` has the numbers of some of them, each time with the
    places in `facts` of those that are about these; who is in none has them all. `named` are the addresses by which the
    sender has named recipients that stand behind aliases: number, local part and domain.
    """

    steps: tuple[TraceStep, ...] = ()
    facts: tuple[str, ...] = ()
    has_original: bool = False
    facts_for: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    named: tuple[tuple[int, str, str], ...] = ()

    def facts_of(self, number: int) -> Sequence[str]:
        """Those about one recipient."""
        for numbers, places in self.facts_for:
            if number in numbers:
                return [self.facts[place] for place in places if 0 <= place < len(self.facts)]
        return self.facts

    def address_of(self, recipient: EnvelopeRecipient) -> Address:
        """By which the sender has named a recipient."""
        found = (Address(local, domain) for number, local, domain in self.named if number == recipient.number)
        return next(found, recipient.address)


class Envelope(Struct, frozen=True, kw_only=True):
    """What the spool keeps beside the content. `received` is in seconds since the epoch, UTC.

    `client` names who sent it, for people; `origin` is the same for a next hop that is told by XCLIENT or XFORWARD.
    `listener` is the name of the listener that took it, "" where it is our own. `kept` is there where any recipient is
    in quarantine. `stream` names the kind of mail that it is for its sender ("news", "invoices"), "" for none. `mark`
    is the key of a counter that becomes 1 in the commit that makes the message durable, "" for none; it is not kept.
    """

    queue_id: str
    sender: Address
    recipients: tuple[EnvelopeRecipient, ...]
    received: float
    size: int
    parameters: MailParameters = PLAIN_MAIL
    client: str = ""
    origin: Origin = NO_ORIGIN
    edits: tuple[HeaderEdit, ...] = ()
    listener: str = ""
    kept: Kept | None = None
    stream: str = ""
    mark: str = ""


def origin_of(session: Session) -> Origin:
    """Where the mail of a session comes from, as a next hop is told; who is known by its address only has no login."""
    client, identity, protocol = session.client, session.identity, session.protocol
    if protocol != "SMTP":
        protocol = "LMTP" if "LMTP" in protocol else "ESMTP"  # without what RFC 3848 and RFC 6531 add
    return Origin(
        address="" if client.address is None else str(client.address),
        port=client.port,
        name=client.name,
        helo=session.helo,
        protocol=protocol,
        login=identity.name if identity is not None and identity.mechanism != "network" else "",
        # A Postfix that is not told so completes and rewrites the header of mail from the Internet.
        source="REMOTE" if identity is None else "LOCAL",
    )
