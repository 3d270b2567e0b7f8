"""Every interface of the gateway: what its parts may know of one another, and what a filter provides.

Where a method returns `X | Awaitable[X]`, a plain value, a coroutine and a Deferred all serve; a plain value
costs nothing. Times are seconds (float), sizes octets. Everything runs in the reactor's thread unless it
says otherwise. A method that may fail names its exceptions; any other exception is a bug of the provider.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient, Identity, Recipient, Session, Transaction
from mailgate.events import Event
from mailgate.message import Content, Edit, Message
from mailgate.reply import Reply
from mailgate.verdict import Reject, Verdict

__all__ = [
    "Answer",
    "AttemptContext",
    "DnsStatus",
    "EntryView",
    "FilterServices",
    "Handover",
    "IAuthFilter",
    "IConnectFilter",
    "ICounters",
    "IDataFilter",
    "IDeliveryFilter",
    "IEventObserver",
    "IEvents",
    "IFilterFactory",
    "IHeloFilter",
    "IIntake",
    "IMailFilter",
    "IMessageFilter",
    "IMessageModifier",
    "IPipeline",
    "IRecipientDirectory",
    "IRecipientFilter",
    "IResolver",
    "IRouter",
    "IRouting",
    "ISpool",
    "Lease",
    "Outcome",
    "OutcomeKind",
    "RecipientStatus",
    "Selector",
    "SpoolError",
    "SweepReport",
]

MaybeVerdict = Verdict | None
Answered = MaybeVerdict | Awaitable[MaybeVerdict]


# --- Filters: the public contract -------------------------------------------------------------------------


class IConnectFilter(Interface):
    """Asked once per connection, before the banner; taking time here delays the banner."""

    def on_connect(session: Session) -> Answered:
        """Judge the client. `session.helo` and `session.identity` are not known yet."""


class IHeloFilter(Interface):
    """Asked at each HELO, EHLO or LHLO."""

    def on_helo(session: Session) -> Answered:
        """Judge the greeting in `session.helo`, which is a name or a literal by its form."""


class IAuthFilter(Interface):
    """Asked after AUTH has succeeded."""

    def on_auth(session: Session, identity: Identity) -> Answered:
        """Judge whether this identity may use this session."""


class IMailFilter(Interface):
    """Asked at MAIL FROM."""

    def on_mail(session: Session, transaction: Transaction) -> Answered:
        """Judge the sender, which is the null address for reports."""


class IRecipientFilter(Interface):
    """Asked at each RCPT TO, after relaying has been found allowed."""

    def on_rcpt(session: Session, transaction: Transaction, recipient: Recipient) -> Answered:
        """Judge one recipient. `transaction.recipients` holds those accepted before it."""


class IDataFilter(Interface):
    """Asked at DATA, before the content."""

    def on_data(session: Session, transaction: Transaction) -> Answered:
        """Judge the envelope as a whole."""


class IMessageFilter(Interface):
    """Asked when the content is complete. Looks and votes, changes nothing; may run beside others."""

    def on_message(session: Session, transaction: Transaction, message: Message) -> Answered:
        """Judge the message. A Reject, Defer, Quarantine or Discard may name single recipients."""


class IMessageModifier(Interface):
    """Asked after the votes, one after another in the configured order."""

    def modify(
        session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Edit] | Awaitable[Sequence[Edit]]:
        """The edits to record; the message itself stays as it is."""


class IRouter(Interface):
    """Asked for each accepted recipient; the first that names a route decides."""

    def route(session: Session, transaction: Transaction, recipient: Recipient) -> str | Awaitable[str | None] | None:
        """The name of a configured route, or None for no opinion."""


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """One delivery attempt: this message to these recipients by this route; `attempt` counts from 1."""

    envelope: Envelope
    recipients: tuple[EnvelopeRecipient, ...]
    route: str
    attempt: int


class IDeliveryFilter(Interface):
    """Asked before each delivery attempt."""

    def on_attempt(attempt: AttemptContext) -> Answered:
        """A Defer postpones the attempt, a Reject ends in a bounce; other verdicts let it go on."""


class IEventObserver(Interface):
    """Told of every event, after the fact. Must not raise and must not block."""

    def observe(event: Event) -> None:
        """Take notice."""


class IFilterFactory(IPlugin):
    """Makes a filter from its configuration. Found through the plugins of `mailgate.plugins`."""

    name: str = Attribute("the name, or kind, by which the configuration asks for it")
    summary: str = Attribute("one line for `mailgate filters`")
    options: type = Attribute("the frozen class of its configuration section; its fields' docs are the reference")

    def build(options: object, services: FilterServices) -> object:
        """The filter: an object that provides one or more stage interfaces. ValueError: the options cannot work."""


# --- What filters are given -------------------------------------------------------------------------------


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


# --- Between the session and the rest ---------------------------------------------------------------------


class IPipeline(Interface):
    """The configured filters of one listener. Every method records its trace on the session or transaction.

    The verdict is the one to act on: Continue where nobody objected. Nothing raises.
    """

    def connect(session: Session) -> Verdict | Awaitable[Verdict]:
        """Before the banner."""

    def helo(session: Session) -> Verdict | Awaitable[Verdict]:
        """After a greeting."""

    def auth(session: Session, identity: Identity) -> Verdict | Awaitable[Verdict]:
        """After AUTH."""

    def mail(session: Session, transaction: Transaction) -> Verdict | Awaitable[Verdict]:
        """At MAIL."""

    def rcpt(session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | Awaitable[Verdict]:
        """At RCPT; may set `recipient.route`."""

    def data(session: Session, transaction: Transaction) -> Verdict | Awaitable[Verdict]:
        """At DATA."""

    def message(
        session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Verdict] | Awaitable[Sequence[Verdict]]:
        """The votes of all message filters, then the modifiers: one verdict for each recipient, in order."""


class IRouting(Interface):
    """Decides by configuration where a recipient's mail goes, and whether this session may send it there."""

    def route(session: Session, transaction: Transaction, address: Address) -> str | Reject:
        """The route's name; a Reject where the session may not relay to this address."""


class IIntake(Interface):
    """Takes responsibility for messages."""

    def take(
        session: Session, transaction: Transaction, content: Content, verdicts: Sequence[Verdict]
    ) -> Awaitable[Sequence[Reply]]:
        """Make the message durable for the recipients whose verdict allows it: a reply for each recipient.

        A 2yz reply is given only when the message is durable. The content is the intake's from the call on,
        whatever comes of it. Errors of ours come back as 4yz replies; nothing raises.
        """

    def refuse_before_data(size: int | None) -> Reply | None:
        """452 where the spool cannot take a message (of this size) now, else None."""


# --- The spool --------------------------------------------------------------------------------------------


class SpoolError(Exception):
    """The spool cannot read or write now: an answer to a peer is 4yz, and nothing may be delivered."""


class OutcomeKind(enum.Enum):
    """How an attempt ended for one recipient."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"
    DISCARDED = "discarded"


class Handover(enum.Enum):
    """What a delivery leaves us to tell a sender who has asked for a report of success (RFC 3461 section 5.2)."""

    FINAL = "delivered to where it was to go: we report it as delivered"
    RELAYED = "handed to a system that sends no such reports: we report it as relayed"
    PASSED_ON = "handed on with the sender's wish: the next system reports"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One recipient's outcome of one attempt. `next_attempt` is used where it is deferred, `handover` where delivered.

    `host` names who answered ("" where nobody did), `reply` is the answer or, in its form, our own finding. `warned`:
    with this outcome the sender is told that the recipient's mail is late. `tls` is how the message travelled, for
    people: "TLSv1.3 TLS_AES_256_GCM_SHA384 verified", or "" where in clear text.
    """

    recipient: EnvelopeRecipient
    kind: OutcomeKind
    reply: Reply
    host: str = ""
    next_attempt: float = 0.0
    reason: str = ""
    handover: Handover = Handover.FINAL
    warned: bool = False
    tls: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to deliver one message to some of its recipients until `until`; nobody else has it meanwhile.

    `attempts` counts those made before, by recipient number; `warned` holds the numbers of those of which the sender
    has been told that they are late.
    """

    envelope: Envelope
    recipients: tuple[EnvelopeRecipient, ...]
    content: Content
    until: float
    attempts: Mapping[int, int]
    warned: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which entries of the queue: all conditions that are set must hold; none set means every entry.

    `state` is queued, leased, held, quarantined or set-aside; addresses and domains compare in lower case; "<>" as
    `sender` is the null reverse-path; `older_than` is in seconds since arrival.
    """

    queue_id: str = ""
    sender: str = ""
    recipient: str = ""
    domain: str = ""
    route: str = ""
    state: str = ""
    older_than: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView:
    """One recipient of one message in the spool, as an administrator sees it. It is not due before `not_before`, for
    which its sender has asked; 0 where for nothing."""

    queue_id: str
    number: int
    sender: str
    recipient: str
    route: str
    state: str
    size: int
    received: float
    attempts: int
    next_attempt: float
    last_reply: str
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What `sweep` found: set-aside entries and removed leftovers that were never acknowledged."""

    set_aside: tuple[str, ...]
    leftovers: int


class ISpool(Interface):
    """Keeps messages until each recipient has its outcome. Every method fails with SpoolError, only."""

    def accept(envelope: Envelope, content: Content, until: float) -> Awaitable[Lease]:
        """Make the message durable, and lease it to the caller. The content's file, if any, is taken over.

        When this has succeeded the message survives `kill -9` and loss of power. When it has failed nothing of
        it remains, and the content is discarded. A message that is to be released later is not leased, but due then:
        the lease has no recipients.
        """

    def lease(limit: int, until: float) -> Awaitable[Sequence[Lease]]:
        """Lease what is due, oldest next attempt first. Entries that cannot be read are set aside."""

    def record(
        lease: Lease, outcomes: Sequence[Outcome], reports: Sequence[tuple[Envelope, Content]] = ()
    ) -> Awaitable[None]:
        """Write the outcomes, the end of the lease for those recipients, and the reports, in one commit."""

    def release_leases(leases: Sequence[Lease]) -> Awaitable[None]:
        """Give back leases without an attempt: the recipients are due at once."""

    def next_due() -> Awaitable[float | None]:
        """When the next recipient is due, or a lease ends; None where the spool is empty."""

    def view(selector: Selector, limit: int, after: tuple[str, int] | None = None) -> Awaitable[Sequence[EntryView]]:
        """Entries by queue id and number, from behind `after` on: pages of a queue of any length."""

    def content(queue_id: str) -> Awaitable[tuple[Envelope, Content] | None]:
        """A message with its envelope, for showing it; None where there is none of this id."""

    def hold(selector: Selector) -> Awaitable[int]:
        """Stop attempts until `release`; the number of recipients that changed. Leased ones finish theirs first."""

    def release(selector: Selector) -> Awaitable[int]:
        """End `hold` or quarantine: the recipients are due at once; the number that changed."""

    def retry(selector: Selector) -> Awaitable[int]:
        """Make queued recipients due now."""

    def delete(selector: Selector) -> Awaitable[Sequence[EntryView]]:
        """Remove recipients that are not leased, without a report: those removed."""

    def sweep() -> Awaitable[SweepReport]:
        """At start: end leases of our own past life, set aside what cannot be read, remove leftovers."""

    def close() -> Awaitable[None]:
        """Write what waits and close."""
