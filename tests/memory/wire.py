"""A connection in memory, as its two ends see it."""

from __future__ import annotations

from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IPullProducer,
    IReactorTime,
)
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

__all__ = ["Wire"]


class Wire:
    """One end of a connection, with the octets on their way to the other."""

    def __init__(self, protocol: IProtocol, host: IAddress, peer: IAddress, clock: IReactorTime) -> None:
        self.protocol = protocol
        self.other: Wire
        self.is_closed = False
        self._host, self._peer = host, peer
        self._clock = clock
        self._out = b""
        self.is_paused = self._is_closing = False
        self._producer: IPullProducer | None = None
        self._tls: Any = None

    def write(self, data: bytes) -> None:
        if self._tls is not None:
            self._tls.write(data)
        else:
            self.send(data)

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name, as those below
        if self._tls is not None:
            self._tls.loseConnection()
        else:
            self.end()

    def abortConnection(self) -> None:  # noqa: N802
        self._out, self._is_closing, self._producer = b"", True, None

    def startTLS(  # noqa: N802
        self, creator: IOpenSSLClientConnectionCreator | IOpenSSLServerConnectionCreator, normal: bool = True
    ) -> None:
        """Go on under TLS, as a client; or, where that is not `normal`, as a server."""
        factory = TLSMemoryBIOFactory(creator, normal, Factory(), self._clock)
        self.protocol = self._tls = factory.protocol(factory, self.protocol, False)
        self._tls.makeConnection(_Below(self))

    def getHandle(self) -> SSL.Connection:  # noqa: N802
        """OpenSSL's connection."""
        return cast(SSL.Connection, self._tls.getHandle())

    def send(self, data: bytes) -> None:
        """Put octets on their way, below TLS if there is any."""
        if not self._is_closing:
            self._out += data

    def end(self) -> None:
        """Close when what was written has left."""
        self._is_closing = True

    def registerProducer(self, producer: IPullProducer, _streaming: bool) -> None:  # noqa: N802
        self._producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802
        self._producer = None

    def pauseProducing(self) -> None:
        self.is_paused = True

    def resumeProducing(self) -> None:
        self.is_paused = False

    def getPeer(self) -> IAddress:  # noqa: N802
        return self._peer

    def getHost(self) -> IAddress:  # noqa: N802
        return self._host

    @property
    def is_streaming(self) -> bool:
        """Whether somebody writes whenever what was written before has left."""
        return self._producer is not None

    def carry(self, piece: int) -> bool:
        """Carry at most `piece` octets over, or close; whether there was anything to do."""
        if self.is_closed:
            return False
        if not self._out and self._producer is not None:
            self._producer.resumeProducing()
        if self._out:
            if self.other.is_paused:
                return False
            data, self._out = self._out[:piece], self._out[piece:]
            self.other.protocol.dataReceived(data)
        elif self._is_closing:
            self.is_closed = self.other.is_closed = True
            for end in (self.other, self):
                end.protocol.connectionLost(Failure(ConnectionDone()))
        else:
            return False
        return True


class _Below:
    """What TLS writes to."""

    def __init__(self, wire: Wire) -> None:
        self.write, self.loseConnection = wire.send, wire.end
        self.abortConnection = wire.abortConnection
        self.getPeer, self.getHost = wire.getPeer, wire.getHost
