"""Writing at once: nothing is lost and nothing overtakes, whatever fits into the socket."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from typing import cast

import pytest
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport

from mailgate.sockets import write_now


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


class Wire:
    """A transport of Twisted over a pair of sockets with little room, and its far end."""

    def __init__(self) -> None:
        ours, self.far = socket.socketpair()
        for one in (ours, self.far):
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.reactor = _Reactor()
        self.transport = Connection(ours, Protocol(), cast(IReactorFDSet, self.reactor))
        self.transport.connected = True
        self.ours = ours

    def read(self) -> bytes:
        try:
            return self.far.recv(1 << 20)
        except BlockingIOError:
            return b""

    def drain(self) -> bytes:
        """Everything that comes while the reactor does its work."""
        octets = self.read()
        while self.reactor.writers:
            self.transport.doWrite()
            octets += self.read()
        return octets + self.read()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.ours.close()
    wire.far.close()


def test_what_fits_is_out_at_once(wire: Wire) -> None:
    write_now(wire.transport, b"250 OK\r\n")
    assert wire.read() == b"250 OK\r\n"
    assert not wire.reactor.writers


def test_nothing_is_lost_or_overtaken(wire: Wire) -> None:
    chance = random.Random(5)
    sent = received = b""
    for number in range(300):
        data = bytes([number % 251]) * chance.choice((1, 100, 5_000, 60_000))
        if chance.random() < 0.8:
            write_now(wire.transport, data)
        else:
            wire.transport.write(data)
        sent += data
        if chance.random() < 0.3:
            received += wire.read()
        if chance.random() < 0.2 and wire.reactor.writers:
            wire.transport.doWrite()
    received += wire.drain()
    assert received == sent


def test_what_is_no_plain_open_socket_takes_the_ordinary_way(wire: Wire) -> None:
    other = StringTransport()
    write_now(other, b"x")
    assert other.value() == b"x"
    wire.transport.TLS = True
    assert wire.transport._tempDataBuffer == []  # what write_now looks at is still there
    wire.transport.TLS = False
    wire.transport.connected = False
    write_now(wire.transport, b"x")
    assert wire.read() == b""
