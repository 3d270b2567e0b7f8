"""A next hop that speaks TLS, in memory: real handshakes, and a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from mailgate.envelope import Origin
from mailgate.relay.attempt import ConnectFailedError, IConnection, Target
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.client.connector import SmtpConnector
from tests.unit.peer import MX
from tests.unit.tls_pair import Side

__all__ = ["Host", "SecurableTransport", "ask"]


class SecurableTransport(StringTransport):
    """A transport in memory that can go on under TLS, as Twisted's sockets can."""

    def __init__(self, clock: MemoryReactorClock, connection: SmtpConnection) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self._clock = clock
        self._connection = connection
        self._tls: Any = None
        self._raw = StringTransport()
        connection.makeConnection(self)  # type: ignore[no-untyped-call]  # Twisted's

    def startTLS(self, creator: IOpenSSLClientConnectionCreator, normal: bool = True) -> None:  # noqa: N802  Twisted's
        factory = TLSMemoryBIOFactory(creator, True, Factory(), self._clock)
        self._tls = factory.protocol(factory, self._connection, False)
        self._tls.makeConnection(self._raw)

    def getHandle(self) -> SSL.Connection:  # noqa: N802  Twisted's name
        return cast(SSL.Connection, self._tls.getHandle())

    def write(self, data: bytes) -> None:
        if self._tls is not None:
            self._tls.write(data)
        else:
            super().write(data)  # type: ignore[no-untyped-call]  # Twisted's

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        if self._tls is not None:
            self._tls.loseConnection()
        else:
            super().loseConnection()  # type: ignore[no-untyped-call]  # Twisted's

    def abortConnection(self) -> None:  # noqa: N802  Twisted's name
        self._raw.abortConnection()
        super().abortConnection()  # type: ignore[no-untyped-call]  # Twisted's

    @property
    def is_secured(self) -> bool:
        return self._tls is not None

    @property
    def is_over(self) -> bool:
        return bool(self.disconnecting or self._raw.disconnecting)

    def sent(self) -> bytes:
        """What has left for the other end since."""
        self._clock.advance(0)
        data: bytes = self.value() + self._raw.value()  # type: ignore[no-untyped-call]  # Twisted's
        self.clear()  # type: ignore[no-untyped-call]  # Twisted's
        self._raw.clear()
        return data

    def take(self, data: bytes) -> None:
        """Octets from the other end."""
        (self._tls or self._connection).dataReceived(data)

    def lose(self) -> None:
        (self._tls or self._connection).connectionLost(Failure(ConnectionDone()))


@dataclass
class Host:
    """A next hop. `answer` says what it replies to a line, with the CRLF; where it says nothing, all goes well.

    `keywords` are what it offers to EHLO, `secure_keywords` under TLS. `starttls` is what it says to STARTTLS;
    `garbled`: no handshake follows. `header_size` octets come before everything else, and are kept in `header`.
    `sessions` holds what it was told, by connection.
    """

    creator: IOpenSSLServerConnectionCreator
    keywords: Sequence[bytes] = (b"STARTTLS",)
    secure_keywords: Sequence[bytes] = ()
    implicit: bool = False
    starttls: bytes = b"220 go ahead\r\n"
    garbled: bool = False
    answer: Callable[[bytes], bytes] = lambda line: b""
    header_size: int = 0
    header: bytes = b""
    sessions: list[list[bytes]] = field(default_factory=list)

    def reply(self, line: bytes, *, is_secure: bool) -> bytes:
        self.sessions[-1].append(line)
        if said := self.answer(line):
            return said
        if line.startswith((b"EHLO", b"LHLO")):
            *lines, last = b"mx.example.org", *(self.secure_keywords if is_secure else self.keywords)
            return b"".join(b"250-%b\r\n" % one for one in lines) + b"250 %b\r\n" % last
        return self.starttls if line == b"STARTTLS" else b"250 ok\r\n"


class _Conversation:
    """One connection to a host, at its end."""

    def __init__(self, host: Host, transport: SecurableTransport) -> None:
        self._host = host
        self._transport = transport
        self._side = Side(host.creator, is_client=False) if host.implicit else None
        self._heard = 0
        self._out = b""
        host.sessions.append([])
        self._say(b"220 mx.example.org\r\n")

    def turn(self) -> bool:
        """Take what has come and answer it; whether anything has happened."""
        data = self._transport.sent()
        missing = self._host.header_size - len(self._host.header)
        self._host.header += data[:missing]
        for line in self._plain(data[missing:]).split(b"\r\n")[:-1]:
            self._say(self._host.reply(line, is_secure=self._side is not None))
        out = self._out if self._side is None else self._side.sent()
        self._out = b""
        if out:
            self._transport.take(out)
        if self._transport.is_secured and self._side is None:
            if self._host.garbled:
                self._transport.take(b"554 what is this?\r\n")
            else:
                self._side = Side(self._host.creator, is_client=False)
        if self._transport.is_over:
            self._transport.lose()
            return False
        return bool(data or out)

    def _plain(self, data: bytes) -> bytes:
        if self._side is None:
            return data
        self._side.take(data)
        data, self._heard = self._side.received[self._heard :], len(self._side.received)
        return data

    def _say(self, data: bytes) -> None:
        if self._side is None:
            self._out += data
        elif data:
            self._side.send(data)


def ask(
    connector: SmtpConnector,
    reactor: MemoryReactorClock,
    host: Host,
    origin: Origin | None = None,
    then: Callable[[SmtpConnection], object] = lambda session: None,
    *,
    try_tls: bool = False,
    target: Target = MX,
) -> SmtpConnection | ConnectFailedError:
    """Connect, as often as the connector will have it: the session, with which `then` goes on, or why there is none."""
    found: list[Any] = []
    before = len(reactor.tcpClients)

    def opened(session: IConnection) -> IConnection:
        then(cast(SmtpConnection, session))
        return session

    connector.connect(target, origin, try_tls=try_tls).addCallback(opened).addBoth(found.append)
    while len(reactor.tcpClients) > before:
        factory: Any = reactor.tcpClients[before][2]
        before += 1
        transport = SecurableTransport(reactor, factory.buildProtocol(None))
        conversation = _Conversation(host, transport)
        while conversation.turn():
            pass
    (result,) = found
    return cast("SmtpConnection | ConnectFailedError", result.value if isinstance(result, Failure) else result)
