"""The spool: what keeps messages until each recipient has its outcome, and what is told of them."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from msgspec import Struct, field
from zope.interface import Interface

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.message import Content
from mailgate.reply import Reply

__all__ = [
    "LEASED_AT_ONCE",
    "TURN_LIFE",
    "AnsweredIn",
    "Destination",
    "EntryView",
    "Grouping",
    "Handover",
    "ISpool",
    "Lease",
    "Outcome",
    "OutcomeKind",
    "Return",
    "Selector",
    "SpoolError",
    "Summary",
    "Suspended",
    "Suspension",
    "SweepReport",
]

Suspended = Literal["route", "domain", "site", "sender"]
"""What deliveries may be suspended by."""

Grouping = Literal["domain", "site", "route", "sender", "source", "category", "state", "stream"]
"""What entries may be counted by."""


#: Recipients of one message that `accept` leases at most. One for more is kept without a lease, and leased in pieces.
LEASED_AT_ONCE = 100
#: Seconds after its place in the line at which what waits for its turn is looked at though nobody has asked for it.
TURN_LIFE = 600.0


class SpoolError(Exception):
    """The spool cannot read or write now: an answer to a peer is 4yz, and nothing may be delivered."""


class Destination(NamedTuple):
    """Where recipients go, as far as the spool knows: the name of a route, and the domain (lower case)."""

    route: str
    domain: str


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


AnsweredIn = Literal["smtp", "http"]
"""In which protocol a host answers."""


class Outcome(Struct, frozen=True):
    """One recipient's outcome of one attempt. `next_attempt` is used where it is deferred, `handover` where delivered.

    `host` names who answered ("" where nobody did), `reply` is the answer or, in its form, our own finding. `warned`:
    with this outcome the sender is told that the recipient's mail is late. `tls` is how the message travelled, for
    people: "TLSv1.3 TLS_AES_256_GCM_SHA384 verified", or "" where in clear text. `site` is the site that it went to, or
    was to go to; `source` the name of our own address that was used, and is to be used again; `category` what kind of
    deferral or failure it was ("mailbox-full", see mailgate.relay.replies.classify). `answered_in` is the protocol of
    the answer: in all but SMTP (and LMTP) the text of `reply` alone is the host's, and its codes are what we make of
    that.
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
    site: str = ""
    source: str = ""
    category: str = ""
    answered_in: AnsweredIn = "smtp"

    @property
    def said(self) -> str:
        """The answer in its own words: with the codes of `reply` where those are the host's, or the finding is ours."""
        return str(self.reply) if self.answered_in == "smtp" else self.reply.text


class Lease(Struct, frozen=True):
    """The right to deliver one message to some of its recipients until `until`; nobody else has it meanwhile.

    `attempts` counts those made before, by recipient number; `warned` holds the numbers of those of which the sender
    has been told that they are late; `sources` has the source of the last attempt, for those that have had one. `since`
    is when these could first be tried, in seconds since the epoch, where that was later than the message's arrival:
    their release (RFC 4865, or somebody's); 0 where it was not.
    """

    envelope: Envelope
    recipients: tuple[EnvelopeRecipient, ...]
    content: Content
    until: float
    attempts: Mapping[int, int]
    warned: frozenset[int] = frozenset()
    sources: Mapping[int, str] = field(default_factory=dict)
    since: float = 0.0


class Return(Struct, frozen=True):
    """A lease that is given back without an attempt.

    `due` is when its recipients are to be looked at again (0: at once) and `waits` why not now, for people. `in_turn`:
    they wait for room at their destinations; those with the least `due` come first when there is some (see
    ISpool.lease_in_turn), and they are looked at anyway some time after it (TURN_LIFE), so that none is forgotten.
    """

    lease: Lease
    due: float = 0.0
    waits: str = ""
    in_turn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which entries of the queue: all conditions that are set must hold; none set means every entry.

    `state` is queued, leased, held, quarantined or set-aside; addresses and domains compare in lower case; "<>" as
    `sender` is the null reverse-path; `older_than` is in seconds since arrival. `site` is any part of a site's name, a
    host of it for one; `reason` is a category, or any part of the last reply or of why it waits, in whatever case.
    """

    queue_id: str = ""
    sender: str = ""
    recipient: str = ""
    domain: str = ""
    route: str = ""
    site: str = ""
    source: str = ""
    reason: str = ""
    state: str = ""
    older_than: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView:
    """One recipient of one message in the spool, as an administrator sees it. It is not due before `not_before`, for
    which its sender has asked; 0 where for nothing.

    `site`, `source` and `category` are those of the last attempt; `waits` says why it waits, other than for
    `next_attempt` after the deferral of which `last_reply` tells.
    """

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
    site: str = ""
    source: str = ""
    category: str = ""
    waits: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Entries that have one thing in common: `key` is what. `oldest` is the arrival of the oldest, `due` counts those
    that are due now or wait for their turn."""

    key: str
    recipients: int
    due: int
    held: int
    oldest: float


class Suspension(Struct, frozen=True, kw_only=True):
    """No attempts for a route, a domain, a site or a sender, as an administrator wants it; `until` 0: until `resume`.

    A site is named by any host of it, a sender by an address or its domain; names are in lower case, but for routes'.
    """

    kind: Suspended
    name: str
    since: float
    until: float = 0.0
    reason: str = ""

    @property
    def told(self) -> str:
        """Why something waits because of it (`Return.waits`): "suspended: route internet (maintenance)". `resume` goes
        by this, so say it in no other words."""
        return f"suspended: {self.kind} {self.name}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What `sweep` found: set-aside entries and removed leftovers that were never acknowledged."""

    set_aside: tuple[str, ...]
    leftovers: int


EVERYTHING = Selector()


class ISpool(Interface):
    """Keeps messages until each recipient has its outcome. Every method fails with SpoolError, only."""

    def accept(envelope: Envelope, content: Content, until: float) -> Awaitable[Lease]:
        """Make the message durable, and lease it to the caller. The content's file, if any, is taken over.

        When this has succeeded the message survives `kill -9` and loss of power. When it has failed nothing of
        it remains, and the content is discarded. A message that is to be released later is not leased, but due then:
        the lease has no recipients. Nor has that of a message for more recipients than are leased in one piece: they
        are due at once.
        """

    def lease(limit: int, until: float, full: Container[Destination] = ()) -> Awaitable[Sequence[Lease]]:
        """Lease what is due, oldest next attempt first, but for what goes to a destination that is full: that waits for
        its turn from now on. Entries that cannot be read are set aside.

        `full` is asked in the spool's thread. At most `limit` recipients; fewer do not mean that nothing else is due,
        unless they are none.
        """

    def accept_all(messages: Sequence[tuple[Envelope, Content]], until: float) -> Awaitable[Sequence[Lease]]:
        """As accept for several messages, in one commit: all of them, or none. A lease for each."""

    def lease_in_turn(
        destination: Destination, limit: int, until: float, without: Sequence[str] = ()
    ) -> Awaitable[Sequence[Lease]]:
        """Lease up to `limit` recipients that wait for their turn at this destination, the least `due` first, those of
        messages with a higher priority before all others (RFC 6710).

        A destination without a domain is all that goes by its route. Those whose last attempt went out from a source
        in `without` (names) stay; where very many such come first, no others may be found.
        """

    def lease_selected(selector: Selector, limit: int, until: float) -> Awaitable[Sequence[Lease]]:
        """Lease what an operator has chosen, held and not yet due as well; not what is leased."""

    def waiting() -> Awaitable[Sequence[Destination]]:
        """The destinations at which anything waits for its turn."""

    def record(
        lease: Lease, outcomes: Sequence[Outcome], reports: Sequence[tuple[Envelope, Content]] = ()
    ) -> Awaitable[None]:
        """Write the outcomes, the end of the lease for those recipients, and the reports, in one commit."""

    def release_leases(returns: Sequence[Return]) -> Awaitable[None]:
        """Give back leases without an attempt."""

    def next_due() -> Awaitable[float | None]:
        """When the next recipient is due, or a lease ends; None where the spool is empty."""

    def view(selector: Selector, limit: int, after: tuple[str, int] | None = None) -> Awaitable[Sequence[EntryView]]:
        """Entries by queue id and number, from behind `after` on: pages of a queue of any length."""

    def summary(by: Grouping, limit: int, selector: Selector = EVERYTHING) -> Awaitable[Sequence[Summary]]:
        """How many entries there are by what they have in common: the most first, at most `limit` groups."""

    def content(queue_id: str) -> Awaitable[tuple[Envelope, Content] | None]:
        """A message with its envelope, for showing it; None where there is none of this id."""

    def hold(selector: Selector) -> Awaitable[int]:
        """Stop attempts until `release`; the number of recipients that changed. Leased ones finish theirs first."""

    def release(selector: Selector) -> Awaitable[int]:
        """End `hold` or quarantine: the recipients are due at once; the number that changed. The end of a quarantine is
        noted among the counters, as "DAY/released/ID/NUMBER"."""

    def quarantine(selector: Selector, reason: str) -> Awaitable[Sequence[EntryView]]:
        """Put what is queued or held into quarantine; those that were put there. What is leased stays as it is, and so
        does what somebody has released."""

    def retry(selector: Selector) -> Awaitable[int]:
        """Make queued recipients due now."""

    def reroute(selector: Selector, route: str) -> Awaitable[int]:
        """Send what is not leased by another route: due now, unless it is held; the number that changed."""

    def delete(selector: Selector) -> Awaitable[Sequence[EntryView]]:
        """Remove recipients that are not leased, without a report: those removed."""

    def suspend(suspension: Suspension) -> Awaitable[None]:
        """Note it, for this life and the next ones; one for the same kind and name takes its place."""

    def resume(kind: Suspended, name: str) -> Awaitable[bool]:
        """End one; whether there was any. What waits because of it is due at the next look."""

    def suspensions() -> Awaitable[Sequence[Suspension]]:
        """Those that are in force."""

    def add_counts(amounts: Mapping[str, int]) -> Awaitable[None]:
        """Add to counters that outlive us. A key begins with its day ("2026-11-26/..."); those of 40 days ago go, and
        those that come to 0 by something being taken away."""

    def counts(prefix: str) -> Awaitable[Mapping[str, int]]:
        """The counters whose keys begin so."""

    def sweep() -> Awaitable[SweepReport]:
        """At start: end leases of our own past life, set aside what cannot be read, remove leftovers."""

    def close() -> Awaitable[None]:
        """Write what waits and close."""
