"""Services that are asked about users and recipients, in memory: a reactor, and the other end of connections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from queue import Queue
from typing import Any, TypeVar, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.auth.checker import IAuthReactor

__all__ = ["Asked", "Names", "Net", "failure_of", "is_waiting", "outcome"]

T = TypeVar("T")


@implementer(IHostnameResolver)
class Names:
    """Every name is at 192.0.2.1."""

    def resolveHostName(  # noqa: N802 (Twisted's)
        self,
        resolutionReceiver: Any,  # noqa: N803 (Twisted's)
        hostName: str,  # noqa: N803 (Twisted's)
        portNumber: int = 0,  # noqa: N803 (Twisted's)
        addressTypes: Sequence[type] | None = None,  # noqa: N803 (Twisted's)
        transportSemantics: str = "TCP",  # noqa: N803 (Twisted's)
    ) -> Any:
        resolutionReceiver.resolutionBegan(self)
        resolutionReceiver.addressResolved(IPv4Address("TCP", "192.0.2.1", portNumber))
        resolutionReceiver.resolutionComplete()
        return self


@implementer(IReactorPluggableNameResolver)
class _Reactor(MemoryReactorClock):
    """Time, connections and calls from threads, all of which the test sets going."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted is typed in part
        self.nameResolver = Names()
        self.handed: Queue[Any] = Queue()

    def callFromThread(self, function: Any, *args: Any) -> None:  # noqa: N802 (Twisted's)
        self.handed.put((function, args))


class _Transport(StringTransportWithDisconnection):
    def abortConnection(self) -> None:  # noqa: N802 (Twisted's)
        if self.connected:
            self.connected = False
            self.protocol.connectionLost(Failure(ConnectionAborted()))

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802 (Twisted's)
        """Whatever lies behind TLS may be told so."""


class Asked:
    """One connection, seen from the service."""

    def __init__(self, port: int, protocol: Any) -> None:
        self.port = port
        self.protocol = protocol
        self.transport = _Transport()  # type: ignore[no-untyped-call]  # Twisted is typed in part
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)

    @property
    def is_open(self) -> bool:
        return self.transport.connected

    def take(self) -> bytes:
        """What has been sent since the last time."""
        octets = self.transport.value()  # type: ignore[no-untyped-call]  # Twisted is typed in part
        self.transport.clear()  # type: ignore[no-untyped-call]  # Twisted is typed in part
        return cast(bytes, octets)

    def request(self) -> tuple[str, dict[str, str], bytes]:
        """The HTTP request that was sent: its line, its fields in lower case, its body."""
        head, _, body = self.take().partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        return line, {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}, body

    def say(self, octets: bytes) -> None:
        self.protocol.dataReceived(octets)

    def answer(self, status: int, body: bytes | object = b"", fields: str = "") -> None:
        """A response of HTTP; what is not octets is sent as JSON."""
        octets = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.say(f"HTTP/1.1 {status} X\r\nContent-Length: {len(octets)}\r\n{fields}\r\n".encode() + octets)

    def lose(self) -> None:
        self.transport.connected = False
        self.protocol.connectionLost(Failure(ConnectionDone()))


class Net:
    """The reactor, and what is connected over it."""

    def __init__(self) -> None:
        self.memory = _Reactor()
        self.reactor = cast(IAuthReactor, self.memory)
        self._seen = 0

    @property
    def has_more(self) -> bool:
        """Whether somebody wants to connect."""
        return len(self.memory.tcpClients) > self._seen

    def accept(self) -> Asked:
        """Take the next connection."""
        _, port, factory, *_ = self.memory.tcpClients[self._seen]
        self._seen += 1
        return Asked(port, factory.buildProtocol(None))

    def refuse(self) -> None:
        """Refuse the next connection; the endpoint sees that no address is left when its clock next ticks."""
        factory = self.memory.tcpClients[self._seen][2]
        connector = self.memory.connectors[self._seen]
        self._seen += 1
        factory.clientConnectionFailed(connector, Failure(ConnectError(string="refused")))
        self.advance(0.5)

    def advance(self, seconds: float) -> None:
        self.memory.advance(seconds)

    def wait(self, asked: Deferred[T]) -> T:
        """Run what threads hand over until it is there."""
        while not asked.called:
            function, args = self.memory.handed.get(timeout=60)
            function(*args)
        return outcome(asked)


def is_waiting(asked: Deferred[Any]) -> bool:
    return not asked.called


def outcome(asked: Deferred[T]) -> T:
    """What it has come to, raised where it is a failure."""
    results: list[Any] = []
    asked.addBoth(results.append)
    assert results, "there is no answer yet"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return cast(T, results[0])


def failure_of(asked: Deferred[Any]) -> Exception:
    """What it has failed with."""
    results: list[Any] = []
    asked.addBoth(results.append)
    assert results, "there is no answer yet"
    assert isinstance(results[0], Failure), results[0]
    return cast(Exception, results[0].value)
