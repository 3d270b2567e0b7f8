"""DNS servers in memory that say what a test wants, over UDP and TCP, and the resolver that asks them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import twisted.internet.address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IReactorUDP
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.dns.resolver import Resolver
from mailgate.interfaces import Answer

__all__ = [
    "FIRST",
    "SECOND",
    "WAY",
    "Handler",
    "Message",
    "Network",
    "Socket",
    "ask",
    "connect",
    "pending",
    "response_to",
    "serving",
    "truncated",
    "with_length",
]

FIRST, SECOND = ("192.0.2.1", 53), ("192.0.2.2", 5353)
#: Time that a datagram is on its way.
WAY = 0.001

Message = dns.message.Message
Handler = Callable[[Message], Message | bytes | None]


@implementer(IListeningPort)
class Socket:
    """A UDP socket of the network below."""

    def __init__(self, network: Network, protocol: DatagramProtocol, interface: str) -> None:
        self.network = network
        self.protocol = protocol
        self.interface = interface
        self.peer = ("", 0)
        self.sent: list[bytes] = []
        self.is_open = True

    def connect(self, host: str, port: int) -> None:
        if (host, port) in self.network.unreachable:
            raise OSError(101, "Network is unreachable")
        self.peer = host, port

    def write(self, packet: bytes, addr: tuple[str, int] | None = None) -> None:
        assert self.is_open
        self.sent.append(packet)
        self.network.asked.append((self.peer, dns.message.from_wire(packet)))
        if self.peer in self.network.refusing:
            self.protocol.connectionRefused()
            return
        if self.peer in self.network.ending:
            self.network.callLater(WAY, self.end)
            return
        handler = self.network.servers.get(self.peer)
        response = handler(dns.message.from_wire(packet)) if handler else None
        if response is not None:
            wire = response if isinstance(response, bytes) else response.to_wire(max_size=65535)
            self.network.callLater(WAY, self.receive, wire, self.peer)

    def receive(self, wire: bytes, source: tuple[str, int]) -> None:
        if self.is_open:
            self.protocol.datagramReceived(wire, source)

    def startListening(self) -> None:  # noqa: N802 (Twisted's)
        raise NotImplementedError

    def stopListening(self) -> None:  # noqa: N802 (Twisted's)
        self.network.callLater(0, self.end)

    def end(self) -> None:
        """Close it, as a reactor does that was asked to, or that learns that nobody listens on the other side."""
        if self.is_open:
            self.is_open = False
            self.protocol.doStop()

    def getHost(self) -> None:  # type: ignore[override]  # noqa: N802 (Twisted's)
        raise NotImplementedError


@implementer(IReactorUDP)
class Network(MemoryReactorClock):
    """Servers by address; `asked` is what came to any of them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.servers: dict[tuple[str, int], Handler] = {}
        self.refusing: set[tuple[str, int]] = set()
        self.ending: set[tuple[str, int]] = set()
        self.unreachable: set[tuple[str, int]] = set()
        self.sockets: list[Socket] = []
        self.asked: list[tuple[tuple[str, int], Message]] = []

    def listenUDP(  # noqa: N802 (Twisted's)
        self,
        port: int,
        protocol: DatagramProtocol,
        interface: str = "",
        maxPacketSize: int = 8192,  # noqa: N803 (Twisted's)
    ) -> Socket:
        assert port == 0
        socket = Socket(self, protocol, interface)
        self.sockets.append(socket)
        protocol.makeConnection(socket)  # type: ignore[arg-type]  # as much of a transport as is used
        return socket

    @property
    def open_sockets(self) -> list[Socket]:
        return [socket for socket in self.sockets if socket.is_open]

    def resolver(
        self, *servers: tuple[str, int], timeout: float = 6.0, cache_size: int = 100, seed: int = 1
    ) -> Resolver:
        return Resolver(self, servers or [FIRST], timeout, cache_size, Random(seed))


def response_to(
    query: Message,
    *answer: str,
    authority: tuple[str, ...] = (),
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    flags: int = 0,
) -> Message:
    """A response with these records ("name ttl type data")."""
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(rcode)
    response.flags |= flags
    for section, lines in ((response.answer, answer), (response.authority, authority)):
        sets: dict[tuple[str, str, str], list[str]] = {}
        for line in lines:
            name, ttl, rdtype, data = line.split(" ", 3)
            sets.setdefault((name, ttl, rdtype), []).append(data)
        for (name, ttl, rdtype), data_of_all in sets.items():
            section.append(dns.rrset.from_text(name, int(ttl), "IN", rdtype, *data_of_all))
    return response


def serving(*answer: str, **more: object) -> Handler:
    return lambda query: response_to(query, *answer, **more)  # type: ignore[arg-type]  # handed through


def pending(answer: Answer | Awaitable[Answer]) -> list[Answer | Failure]:
    """Where the answer will be put."""
    assert isinstance(answer, Deferred)
    found: list[Answer | Failure] = []
    answer.addBoth(found.append)
    return found


def ask(network: Network, resolver: Resolver, name: str, rdtype: str) -> Answer:
    """Ask, and let the datagrams arrive."""
    found = pending(resolver.resolve(name, rdtype))
    assert not found
    network.advance(WAY)
    (answer,) = found
    assert isinstance(answer, Answer)
    return answer


def truncated(query: Message) -> bytes:
    """A truncated response that breaks off within a record."""
    response = response_to(query, 'x.test. 60 TXT "cut off"', flags=dns.flags.TC)
    return response.to_wire()[:-15]


def connect(network: Network) -> tuple[StringTransport, Message, Callable[[bytes], None], Callable[[], None]]:
    """Accept the newest TCP connection: its transport, the query on it, and how to send and to close."""
    host, port, factory, _, _ = network.tcpClients[-1]
    assert (host, port) == FIRST
    protocol = factory.buildProtocol(twisted.internet.address.IPv4Address("TCP", host, port))
    assert protocol is not None
    transport = StringTransport()
    protocol.makeConnection(transport)
    sent = transport.value()
    assert int.from_bytes(sent[:2], "big") == len(sent) - 2
    lost = Failure(ConnectionResetError("reset"))
    return transport, dns.message.from_wire(sent[2:]), protocol.dataReceived, lambda: protocol.connectionLost(lost)


def with_length(wire: bytes) -> bytes:
    return len(wire).to_bytes(2, "big") + wire
