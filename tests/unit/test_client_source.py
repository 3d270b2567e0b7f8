"""Connections that go out from an address of ours, under its name."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any, cast

import pytest
from twisted.internet.error import ConnectBindError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from mailgate.relay.attempt import ConnectFailedError, Target
from mailgate.relay.client.connector import IClientReactor, SmtpConnector
from mailgate.relay.client.terms import PLAIN, Terms
from mailgate.relay.sources import SYSTEM, Source
from tests.unit.peer import LMTP, MX

MX6 = Target("mx.example.org", "2001:db8::25", 25)
V4 = Source("four", IPv4Address("192.0.2.7"), None, "out4.example.org")
V6 = Source("six", None, IPv6Address("2001:db8::7"), "")
BOTH = Source("both", IPv4Address("192.0.2.7"), IPv6Address("2001:db8::7"), "")
NAMED = Source("named", hostname="named.example.org")


class Stand:
    """A connector on a reactor that only notes what it is told."""

    def __init__(self, terms: Terms = PLAIN) -> None:
        self.reactor = MemoryReactorClock()
        reactor = cast(IClientReactor, self.reactor)
        self.connector = SmtpConnector(reactor, "gw.example.org", terms=terms)
        self.found: list[object] = []

    def connect(self, target: Target, source: Source) -> None:
        self.connector.connect(target, source=source).addBoth(self.found.append)

    def greeted(self, number: int = 0) -> str:
        """What is said first to the server of this connection."""
        transport = StringTransport()
        clients = self.reactor.tcpClients or self.reactor.unixClients
        factory: Any = clients[number][2 if self.reactor.tcpClients else 1]
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(transport)
        protocol.dataReceived(b"220 hello\r\n")
        return str(transport.value().strip(), "ascii")

    def bound(self) -> list[object]:
        return [client[4] for client in self.reactor.tcpClients]


@pytest.mark.parametrize(
    ("target", "source", "bound", "greeting"),
    [
        (MX, SYSTEM, None, "EHLO gw.example.org"),
        (MX, V4, ("192.0.2.7", 0), "EHLO out4.example.org"),
        (MX, BOTH, ("192.0.2.7", 0), "EHLO gw.example.org"),
        (MX6, BOTH, ("2001:db8::7", 0), "EHLO gw.example.org"),
        (MX6, V6, ("2001:db8::7", 0), "EHLO gw.example.org"),
        (MX, NAMED, None, "EHLO named.example.org"),
        (MX6, NAMED, None, "EHLO named.example.org"),
    ],
)
def test_address_and_name_are_those_of_the_source(target: Target, source: Source, bound: object, greeting: str) -> None:
    stand = Stand()
    stand.connect(target, source)
    assert stand.bound() == [bound]
    assert stand.greeted() == greeting


@pytest.mark.parametrize(("target", "source", "family"), [(MX, V6, "IPv4"), (MX6, V4, "IPv6")])
def test_a_family_without_an_address_is_left_out(target: Target, source: Source, family: str) -> None:
    stand = Stand()
    stand.connect(target, source)
    assert stand.reactor.tcpClients == []
    (failure,) = stand.found
    assert isinstance(failure, Failure)
    error = failure.value
    assert isinstance(error, ConnectFailedError)
    assert (error.stage, error.is_ours, error.reply.code) == ("connect", True, 451)
    assert error.reason == f"source {source.name} has no {family} address"
    assert not error.in_clear


def test_a_unix_socket_has_no_source_but_its_name() -> None:
    stand = Stand()
    stand.connect(LMTP, V6)
    assert stand.greeted() == "LHLO gw.example.org"
    other = Stand()
    other.connect(LMTP, V4)
    assert other.greeted() == "LHLO out4.example.org"


def test_an_address_that_is_not_ours_is_our_own_trouble() -> None:
    stand = Stand()
    stand.connect(MX, V4)
    factory: Any = stand.reactor.tcpClients[0][2]
    factory.clientConnectionFailed(None, Failure(ConnectBindError(99, "Cannot assign requested address")))
    (failure,) = stand.found
    assert isinstance(failure, Failure)
    error = failure.value
    assert isinstance(error, ConnectFailedError)
    assert (error.is_ours, error.reply.status) == (True, "4.3.5")


def test_the_second_try_in_clear_text_goes_out_from_the_same_address() -> None:
    stand = Stand(Terms(tls="opportunistic"))
    stand.connect(MX, V4)
    transport = StringTransport()
    factory: Any = stand.reactor.tcpClients[0][2]
    protocol = factory.buildProtocol(None)
    protocol.makeConnection(transport)
    for said in (b"220 hello\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"454 4.7.0 TLS not available\r\n"):
        protocol.dataReceived(said)
    assert stand.bound() == [("192.0.2.7", 0)] * 2
    assert stand.greeted(1) == "EHLO out4.example.org"
