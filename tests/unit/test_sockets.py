"""Writing at once: nothing is lost and nothing overtakes, whatever fits into the socket, under TLS or not."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from OpenSSL import SSL
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, IReactorFDSet
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import implementer

from mailgate.sockets import has_unread, write_now
from mailgate.tls.store import CertificateStore
from tests.unit.certificates import issue


class _Reactor:
    """Notes who wants to be told that the socket can be written."""

    def __init__(self) -> None:
        self.writers: set[object] = set()

    def addWriter(self, writer: object) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: object) -> None:
        self.writers.discard(writer)

    def addReader(self, reader: object) -> None:
        pass

    def removeReader(self, reader: object) -> None:
        pass


@implementer(IHandshakeListener)
class _Protocol(Protocol):
    transport: Connection
    says_when_secure = b""

    def handshakeCompleted(self) -> None:
        if self.says_when_secure:
            write_now(self.transport, self.says_when_secure)


class _Near(Connection):
    _tlsClientDefault = False  # noqa: N815  startTLS looks at it


class Wire:
    """A transport of Twisted over a pair of sockets with little room, and its far end."""

    def __init__(self, clock: Clock) -> None:
        ours, self.far = socket.socketpair()
        for one in (ours, self.far):
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.reactor = _Reactor()
        self.clock = clock
        self.protocol = _Protocol()
        self.transport: Connection = _Near(ours, self.protocol, cast(IReactorFDSet, self.reactor))
        self.transport.connected = True
        self.protocol.transport = self.transport
        self.ours = ours

    @property
    def is_quiet(self) -> bool:
        """Whether the reactor has nothing to do for it."""
        return not self.reactor.writers and not self.clock.getDelayedCalls()

    def turn(self) -> None:
        """The reactor has its turn."""
        self.clock.advance(0)
        if self.reactor.writers:
            self.transport.doWrite()

    def read(self) -> bytes:
        try:
            return self.far.recv(1 << 20)
        except BlockingIOError:
            return b""

    def drain(self) -> bytes:
        """Everything that comes while the reactor does its work."""
        octets = self.read()
        while not self.is_quiet:
            self.turn()
            octets += self.read()
        return octets + self.read()

    def close(self) -> None:
        self.ours.close()
        self.far.close()


class SecureWire(Wire):
    """The same under TLS; the handshake is still to be made."""

    def __init__(self, clock: Clock, certificate: Path) -> None:
        super().__init__(clock)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.has_ended = False
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)
        self.transport.startTLS(CertificateStore(certificate, self.clock).server_creator("none"))
        # Twisted's own type of it is IProtocol, and getHandle is set on the transport by startTLS
        self.connection: SSL.Connection = self.transport.getHandle()  # type: ignore[assignment]

    def shake_hands(self) -> None:
        """Both sides, until there is nothing to be said."""
        for _ in range(3):
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
            self.far.send(self._out.read())
            self.transport.doRead()
            self.turn()
            self._in.write(super().read())

    def read(self) -> bytes:
        """What the client makes of it."""
        octets = b""
        while data := super().read():
            self._in.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            while more := self._tls.read(1 << 16):
                octets += more
            self.has_ended = True
        return octets


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return issue(None, "mailgate.test").write(tmp_path_factory.mktemp("tls") / "mailgate.pem")


@pytest.fixture
def young(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecureWire]:
    """Under TLS, before the handshake."""
    clock = Clock()
    monkeypatch.setattr("twisted.protocols.tls._get_default_clock", lambda: clock)
    wire = SecureWire(clock, certificate)
    yield wire
    wire.close()


@pytest.fixture
def secure(young: SecureWire) -> SecureWire:
    young.shake_hands()
    return young


@pytest.fixture
def clear() -> Iterator[Wire]:
    wire = Wire(Clock())
    yield wire
    wire.close()


@pytest.fixture(params=["clear", "secure"])
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.getfixturevalue(request.param)
    return found


def test_what_fits_is_out_at_once(wire: Wire) -> None:
    for reply in (b"250 OK\r\n", b"354 go on\r\n"):
        write_now(wire.transport, reply)
        assert wire.is_quiet
        assert wire.read() == reply


def test_what_does_not_fit_follows(wire: Wire) -> None:
    contents = [bytes([number]) * 16_000 for number in range(20)]
    for content in contents:
        write_now(wire.transport, content)
    assert not wire.is_quiet
    assert wire.drain() == b"".join(contents)


@pytest.mark.parametrize("sizes", [(1, 100), (100, 5_000), (1, 5_000, 16_384, 16_385, 60_000)])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_or_overtaken(wire: Wire, sizes: tuple[int, ...], seed: int) -> None:
    chance = random.Random(seed)
    sent = received = b""
    for number in range(200):
        data = bytes([number]) * chance.choice(sizes)
        if chance.random() < 0.8:
            write_now(wire.transport, data)
        else:
            wire.transport.write(data)
        sent += data
        if chance.random() < 0.5:
            wire.turn()
        if chance.random() < 0.5:
            received += wire.read()
    received += wire.drain()
    assert received == sent


def test_a_broken_connection_is_found_out_in_the_ordinary_way(wire: Wire) -> None:
    wire.far.close()
    write_now(wire.transport, b"250 OK\r\n")
    assert wire.reactor.writers
    assert isinstance(wire.transport.doWrite(), ConnectionLost)


def test_what_is_no_plain_open_socket_takes_the_ordinary_way(clear: Wire) -> None:
    other = StringTransport()
    write_now(other, b"x")
    assert other.value() == b"x"
    assert clear.transport._tempDataBuffer == []  # what write_now looks at is still there
    clear.transport.connected = False
    write_now(clear.transport, b"x")
    assert clear.read() == b""


def test_what_is_written_before_the_handshake_follows_it(young: SecureWire) -> None:
    write_now(young.transport, b"220 ")
    young.turn()
    assert Wire.read(young) == b""  # above all not in clear text
    young.protocol.says_when_secure = b"ready\r\n"
    young.shake_hands()
    assert young.drain() == b"220 ready\r\n"


def test_a_peer_that_takes_small_records_gets_everything(secure: SecureWire, monkeypatch: pytest.MonkeyPatch) -> None:
    send = secure.connection.send
    monkeypatch.setattr(secure.connection, "send", lambda data: send(data[:512]))
    content = bytes(range(256)) * 10
    write_now(secure.transport, content)
    write_now(secure.transport, b"end")
    assert secure.drain() == content + b"end"


def test_nothing_follows_the_end_of_tls(secure: SecureWire) -> None:
    write_now(secure.transport, b"221 bye\r\n")
    secure.transport.loseConnection()
    write_now(secure.transport, b"more")
    assert secure.drain() == b"221 bye\r\n"
    assert secure.has_ended


def test_a_connection_that_tls_gave_up_is_closed(secure: SecureWire) -> None:
    secure.connection.shutdown()  # as after an error, OpenSSL takes nothing more
    write_now(secure.transport, b"250 OK\r\n")
    assert not secure.transport.disconnecting
    secure.turn()
    assert secure.transport.disconnecting
    assert secure.drain() == b""


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_what_the_peer_has_said_unasked_is_seen(wire: Wire, is_wrapped: bool) -> None:
    transport: Any = wire.transport
    if is_wrapped:  # as the TLS of an endpoint
        wrapper = ProtocolWrapper(Factory(), Protocol())  # type: ignore[arg-type]  # it only holds them
        wrapper.transport = transport
        transport = wrapper
    assert not has_unread(transport)
    wire.far.send(b"x")
    assert has_unread(transport)
    assert has_unread(transport)  # it is there still
    assert wire.ours.recv(10) == b"x"
    assert not has_unread(transport)
    wire.far.close()
    assert has_unread(transport)
    wire.transport.connected = False
    assert not has_unread(transport)


def test_a_transport_of_tests_has_nothing_unread() -> None:
    assert not has_unread(StringTransport())
