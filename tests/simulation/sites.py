"""The other side: sites of several kinds, each of which answers by a script."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.config.schema import DiscardRoute, LmtpRoute, MaildirRoute, SmtpRoute
from mailgate.envelope import Envelope, EnvelopeRecipient, Origin, Tls
from mailgate.interfaces import Answer, DnsStatus, IResolver, OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import ConnectFailedError, IConnection, IConnector, ITransport, Result, Target
from mailgate.relay.client.terms import Terms
from mailgate.relay.sources import SYSTEM, Source
from mailgate.reply import Reply
from mailgate.tls.failures import TlsFailure
from tests.simulation.clock import VirtualClock

__all__ = ["KINDS", "Internet", "Kind", "Site"]

OK = Reply.of(250, "2.0.0", "taken")
BUSY = Reply.of(421, "4.7.0", "too many connections from your address, try again later")
THROTTLED = Reply.of(421, "4.7.28", "too many messages, slow down")
GREY = Reply.of(451, "4.7.1", "greylisted, try again later")
DOWN = Reply.of(451, "4.4.1", "no answer")

#: Seconds until a connection is there, and until it is clear that none will be.
_CONNECT, _NO_CONNECT = 0.1, 30.0


@dataclass(frozen=True, slots=True)
class Kind:
    """How a site behaves: seconds for each transaction, sessions at one time, messages a minute (0: any number), and
    seconds for which a sender that it does not know is put off. `is_dead`: nobody answers."""

    name: str
    service: float = 0.2
    sessions: int = 1000
    a_minute: int = 0
    grey: float = 0.0
    is_dead: bool = False

    def capacity(self, connections: int) -> float:
        """Messages a second that it takes at best, over so many connections at most."""
        if self.is_dead:
            return 0.0
        at_best = min(self.sessions, connections) / self.service
        return min(at_best, self.a_minute / 60) if self.a_minute else at_best


#: The kinds with their shares of the sites.
KINDS = {
    Kind("fast"): 0.60,
    Kind("slow", service=5.0, sessions=5): 0.18,
    Kind("dead", is_dead=True): 0.05,
    Kind("throttling", a_minute=30): 0.06,
    Kind("greylisting", grey=240.0): 0.06,
    Kind("one connection", service=0.5, sessions=1): 0.05,
}


@dataclass(slots=True)
class Site:
    """One site, and what it has seen."""

    kind: Kind
    sessions: int = 0
    minute: int = -1
    this_minute: int = 0
    first_seen: dict[str, float] = field(default_factory=dict)
    most_sessions: int = 0

    def answer(self, sender: str, recipient: str, now: float) -> Reply:
        """What becomes of a message."""
        kind = self.kind
        if kind.a_minute:
            if int(now // 60) != self.minute:
                self.minute, self.this_minute = int(now // 60), 0
            self.this_minute += 1
            if self.this_minute > kind.a_minute:
                return THROTTLED
        if kind.grey and now - self.first_seen.setdefault(f"{sender} {recipient}", now) < kind.grey:
            return GREY
        return OK


@implementer(IConnection)
class _Connection:
    def __init__(self, site: Site, target: Target, clock: VirtualClock) -> None:
        self._site = site
        self._clock = clock
        self.target = target
        self.is_usable = True
        self.messages = 0
        self.max_size = 0
        self.tls: Tls | None = None
        self.is_authenticated = False
        self.is_fallback = False
        self.is_for_domain = False
        self.tls_failure: TlsFailure = ""
        self.security = ""
        self._is_open = True

    def deliver(
        self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Awaitable[Sequence[Result]]:
        self.messages += 1
        self.is_usable = False
        waited: Deferred[Sequence[Result]] = Deferred()
        self._clock.callLater(self._site.kind.service, self._answer, waited, envelope, recipients)
        return waited

    def _answer(
        self, waited: Deferred[Sequence[Result]], envelope: Envelope, recipients: Sequence[EnvelopeRecipient]
    ) -> None:
        reply = self._site.answer(envelope.sender.local_part, recipients[0].address.local_part, self._clock.seconds())
        self.is_usable = reply.code != 421
        kind = OutcomeKind.DELIVERED if reply is OK else OutcomeKind.DEFERRED
        waited.callback([Result(one, kind, reply, self.target.host) for one in recipients])

    def close(self) -> None:
        self.is_usable = False
        if self._is_open:
            self._is_open = False
            self._site.sessions -= 1


@implementer(IConnector, IResolver)
class Internet:
    """DNS and every site there is: `sites` by their domains, each of which has one host."""

    def __init__(self, sites: Mapping[str, Site], clock: VirtualClock) -> None:
        self._sites = sites
        self._clock = clock
        self._addresses = {f"mx.{domain}": ip_address(0x0A000001 + number) for number, domain in enumerate(sites)}
        self._by_address = {str(self._addresses[f"mx.{domain}"]): site for domain, site in sites.items()}

    # -- IResolver

    def resolve(self, name: str, rdtype: str) -> Answer:
        if rdtype == "MX" and name in self._sites:
            return Answer(DnsStatus.FOUND, ((10, f"mx.{name}"),), 3600.0)
        if rdtype == "A" and name in self._addresses:
            return Answer(DnsStatus.FOUND, (self._addresses[name],), 3600.0)
        return Answer(DnsStatus.NODATA)

    def reverse(self, address: Any) -> Answer:
        return Answer(DnsStatus.NODATA)

    # -- IConnector

    def connect(
        self, target: Target, origin: Origin | None = None, *, try_tls: bool = False, source: Source = SYSTEM
    ) -> Deferred[IConnection]:
        site = self._by_address[target.address]
        waited: Deferred[IConnection] = Deferred()
        self._clock.callLater(_NO_CONNECT if site.kind.is_dead else _CONNECT, self._connected, waited, site, target)
        return waited

    def _connected(self, waited: Deferred[IConnection], site: Site, target: Target) -> None:
        if site.kind.is_dead:
            waited.errback(ConnectFailedError(target, DOWN, "timed out", stage="connect"))
        elif site.sessions >= site.kind.sessions:
            waited.errback(ConnectFailedError(target, BUSY, "421 too many connections", stage="greeting"))
        else:
            site.sessions += 1
            site.most_sessions = max(site.most_sessions, site.sessions)
            waited.callback(_Connection(site, target, self._clock))

    # -- Transports

    def use(self, terms: Mapping[str, Terms]) -> None:
        """There are none."""

    def connector(self, name: str, route: SmtpRoute | LmtpRoute) -> IConnector:
        return self

    def local(self, route: MaildirRoute | DiscardRoute) -> ITransport:
        raise AssertionError("everything goes to the Internet")
