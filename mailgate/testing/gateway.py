"""The receiving half of a gateway in memory: from a configuration to its spool, without reactor, sockets or network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType

from twisted.internet.address import IPv4Address as TCPv4
from twisted.internet.address import IPv6Address as TCPv6
from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.assembly import assemble
from mailgate.awaiting import at_once
from mailgate.config.load import load
from mailgate.events import Event
from mailgate.interfaces import IEventObserver, IFilterFactory, Lease, Selector
from mailgate.message import MemoryBudget
from mailgate.observe.hub import EventHub
from mailgate.pipeline.registry import Registry
from mailgate.rehearsal.store import Accounts
from mailgate.relay.editing import ContentEditor
from mailgate.relay.intake import Intake
from mailgate.smtp.factory import Listener
from mailgate.stores.counters import MemoryCounters
from mailgate.stores.slots import LocalTally
from mailgate.testing.fakes import MemoryOriginals
from mailgate.testing.spool import MemorySpool
from mailgate.testing.users import memory_users
from mailgate.testing.zone import MemoryResolver, Zone

__all__ = ["MemoryClient", "MemoryGateway"]

#: When the clock begins: Thu, 01 Jan 2026 12:00:00 UTC.
_START = 1_767_268_800.0
_STEP = 0.1


class MemoryGateway:
    """The gateway that the configuration in `path` makes, with its own parser, filters, sessions and intake.

    ConfigError where `mailgate check` would have one. DNS is `zone` (see MemoryResolver); time stands still but for
    `pass_time`. `filters` are kinds beside the installed ones. `users` are those of every `[auth.NAME]`, with their
    passwords: AUTH PLAIN and LOGIN ask nobody else. There is no TLS: what a listener wants or does under TLS only, it
    takes in clear text, passwords included. What was taken is in `spool`, what the relay would have been given in
    `leases`, and everything that happened in `events`; what was found of copies is kept by `rehearsed`.
    """

    def __init__(
        self,
        path: Path,
        zone: Zone = MappingProxyType({}),
        filters: Iterable[IFilterFactory] = (),
        users: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.clock = Clock()
        self.clock.rightNow = _START
        self.events: list[Event] = []
        self.leases: list[Lease] = []
        self.resolver = MemoryResolver(zone)
        self.spool = MemorySpool(self.clock)
        hub = EventHub([_Notes(self.events)])
        registry = _Registry(filters)
        loaded = load(path, registry.find)
        config = loaded.config
        counters = MemoryCounters(self.clock, config.counters.max_keys)
        incoming = config.gateway.state_dir / "incoming"
        assembly = assemble(
            loaded,
            registry,
            clock=self.clock,
            resolver=self.resolver,
            counters=counters,
            events=hub,
            random=Random(1),  # noqa: S311  tests want the same numbers each time
            users=dict.fromkeys(config.auth, memory_users(users, self.clock)),
            incoming=incoming,
        )
        for observer in assembly.observers:
            hub.add(observer)
        incoming.mkdir(parents=True, exist_ok=True)
        intake = Intake(
            self.spool,
            refusal=lambda size: self.spool.error,
            deliver=self.leases.append,
            events=hub,
            clock=self.clock,
            editor=ContentEditor(incoming, self.clock),
            next_hop=assembly.routing.next_hop,
            originals=MemoryOriginals(),
        )
        self.rehearsed = Accounts(incoming.parent / "rehearsal.db", at_once, self.clock.seconds)
        self.rehearsed.use(config.rehearsal.keep, config.rehearsal.max_mails, config.rehearsal.max_size)
        self.listeners: dict[str, Listener] = {}
        for configured in config.listeners:
            section = configured.model_copy(
                update={"tls": "off", "client_certificates": "none", "auth_without_tls": True}
            )
            services = assembly.session_services(
                section,
                clock=self.clock,
                resolver=self.resolver,
                events=hub,
                intake=intake,
                incoming=incoming,
                budget=MemoryBudget(config.gateway.memory_ceiling),
                counters=counters,
                turn=self._turn,
                secret=b"of the tests",
                rehearsed=self.rehearsed,
            )
            self.listeners[section.name] = Listener(section, LocalTally())
            self.listeners[section.name].serve(section, services)

    def connect(self, address: str = "192.0.2.1", listener: str = "") -> MemoryClient:
        """A client at this address (a path for a unix socket); the first listener where none is named.

        KeyError where there is none of this name.
        """
        return MemoryClient(self.listeners[listener or next(iter(self.listeners))], address)

    async def _turn(self, domain: str) -> int:
        return await self.spool.retry(Selector(domain=domain))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, in small steps."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(min(_STEP if seconds < 60 else 1.0, end - self.clock.seconds()))


class MemoryClient:
    """One client's end of a connection."""

    def __init__(self, listener: Listener, address: str) -> None:
        peer: IAddress
        if address.startswith("/"):
            peer = UNIXAddress(address)
        else:
            peer = (TCPv6 if ":" in address else TCPv4)("TCP", address, 40000)
        self._transport = StringTransport(peerAddress=peer)
        self._protocol = listener.buildProtocol(None)
        self._protocol.makeConnection(self._transport)  # type: ignore[no-untyped-call]  # Twisted's
        self._is_gone = False

    def send(self, octets: bytes) -> None:
        """Send octets, in one piece; a server that has closed the connection does not get them."""
        if not self.is_closed:
            self._protocol.dataReceived(octets)

    def said(self) -> list[str]:
        """The lines of the server since the last look, without their CRLF."""
        octets: bytes = self._transport.value()
        self._transport.clear()
        return octets.decode().removesuffix("\r\n").split("\r\n") if octets else []

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed the connection."""
        return self._is_gone or bool(self._transport.disconnecting)

    def disconnect(self) -> None:
        """The connection is gone, by whomever. Safe to call twice."""
        if not self._is_gone:
            self._is_gone = True
            self._protocol.connectionLost(Failure(ConnectionDone()))


@implementer(IEventObserver)
class _Notes:
    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def observe(self, event: Event) -> None:
        self._events.append(event)


class _Registry(Registry):
    """The installed filters and a few more."""

    def __init__(self, more: Iterable[IFilterFactory]) -> None:
        super().__init__()
        self._more = {factory.name: factory for factory in more}

    def find(self, kind: str) -> IFilterFactory:
        return self._more.get(kind) or super().find(kind)
