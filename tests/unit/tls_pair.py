"""Two sides of one TLS connection in memory, as Twisted runs them."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["Pair", "PlainClient", "Side"]


class _Wrapped(Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class Side:
    """One end: its OpenSSL connection, what came in, and why it was lost, if it was."""

    def __init__(
        self, creator: IOpenSSLClientConnectionCreator | IOpenSSLServerConnectionCreator, *, is_client: bool
    ) -> None:
        self._wrapped = _Wrapped()
        self._clock = Clock()
        self._transport = StringTransport()
        factory = TLSMemoryBIOFactory(creator, is_client, Factory.forProtocol(lambda: self._wrapped), self._clock)
        self._protocol = factory.buildProtocol(None)
        self._protocol.makeConnection(self._transport)
        self.connection: SSL.Connection = self._protocol.getHandle()

    @property
    def received(self) -> bytes:
        return self._wrapped.received

    @property
    def lost(self) -> BaseException | None:
        return self._wrapped.lost.value if self._wrapped.lost is not None else None

    def send(self, data: bytes) -> None:
        self._protocol.write(data)

    def sent(self) -> bytes:
        """What waits for the other end; the reactor has had its turn before."""
        self._clock.advance(0)
        data: bytes = self._transport.value()
        self._transport.clear()
        if self._transport.disconnecting and self.lost is None:
            self._protocol.connectionLost(Failure(connectionDone.value))
        return data

    def take(self, data: bytes) -> None:
        if data and self.lost is None:
            self._protocol.dataReceived(data)


class Pair:
    """A server and a client that have said to each other what they had to say."""

    def __init__(self, server: IOpenSSLServerConnectionCreator, client: IOpenSSLClientConnectionCreator) -> None:
        self.server = Side(server, is_client=False)
        self.client = Side(client, is_client=True)
        self.run()

    def run(self) -> None:
        """Carry octets to and fro until there are none."""
        while (there := self.client.sent()) + (back := self.server.sent()):
            self.server.take(there)
            self.client.take(back)

    @property
    def is_up(self) -> bool:
        """Whether the handshake succeeded: what either end says, the other hears."""
        heard = len(self.server.received), len(self.client.received)
        self.client.send(b"ping")
        self.server.send(b"pong")
        self.run()
        return (self.server.received[heard[0] :], self.client.received[heard[1] :]) == (b"ping", b"pong")


@implementer(IOpenSSLClientConnectionCreator)
class PlainClient:
    """A client with a context of the test's own, that asks for `name`."""

    def __init__(self, context: SSL.Context, name: str = "") -> None:
        self._context = context
        self._name = name
        self.session: SSL.Session | None = None

    def clientConnectionForTLS(self, protocol: object) -> SSL.Connection:  # noqa: N802 - Twisted's name
        connection = SSL.Connection(self._context)
        if self._name:
            connection.set_tlsext_host_name(self._name.encode())
        if self.session is not None:
            connection.set_session(self.session)
        return connection
