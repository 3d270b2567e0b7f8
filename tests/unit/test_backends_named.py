"""Where strangers' HTTPS is looked for: by our resolver, and not within our own networks."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any, cast

import pytest
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.web.client import URI

from mailgate.backends.named import NamedEndpoints, is_public
from mailgate.backends.questions import BackendError, IBackendReactor, verifying
from mailgate.testing import MemoryResolver

ZONE = {
    "one.test": {"A": ["192.0.2.1", "10.0.0.1", "8.8.8.8"], "AAAA": ["::1", "2001:4860:4860::8888"]},
    "inside.test": {"A": ["10.0.0.1"]},
    "many.test": {"A": [f"8.8.8.{number}" for number in range(20)]},
}


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.1", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1"),
        *("224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fd00::1", "ff02::1", "ff0e::1"),
        *("::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::"),
    ],
)
def test_addresses_that_are_not_of_the_internet(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(ip_address(address))


def test_networks_of_ours() -> None:
    networks = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
    assert is_public(ip_address("10.0.0.1"), networks)
    assert is_public(ip_address("::ffff:10.0.0.1"), networks)
    assert is_public(ip_address("fd00::1"), networks)
    assert not is_public(ip_address("192.168.0.1"), networks)


class Bench:
    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        reactor = cast(IBackendReactor, self.reactor)
        self.endpoints = NamedEndpoints(reactor, MemoryResolver(ZONE), verifying(reactor, None), 8.0, is_public)

    def connect(self, host: str) -> Deferred[Any]:
        endpoint = self.endpoints.endpointForURI(URI.fromBytes(f"https://{host}/".encode()))
        return endpoint.connect(Factory.forProtocol(Protocol))

    def asked(self) -> list[str]:
        return [host for host, *_ in self.reactor.tcpClients]

    def refuse(self) -> None:
        """The last one that was asked says no."""
        (_, _, factory, *_) = self.reactor.tcpClients[-1]
        factory.clientConnectionFailed(self.reactor.connectors[-1], Failure(error.ConnectionRefusedError()))


def test_what_is_not_accepted_is_as_if_it_were_not_there() -> None:
    bench = Bench()
    connecting = bench.connect("one.test")
    assert bench.asked() == ["8.8.8.8"]
    bench.refuse()
    assert bench.asked() == ["8.8.8.8", "2001:4860:4860::8888"]
    connecting.addErrback(lambda failure: None)
    connecting.cancel()


@pytest.mark.parametrize(
    ("host", "expected"), [("inside.test", "has no address that we may ask"), ("none.test", "has no address")]
)
def test_without_an_address_nobody_is_asked(host: str, expected: str) -> None:
    bench = Bench()
    found: list[Any] = []
    bench.connect(host).addErrback(found.append)
    assert found[0].check(BackendError)
    assert found[0].getErrorMessage() == f"{host} {expected}"
    assert bench.asked() == []


def test_of_many_addresses_four_are_asked() -> None:
    bench = Bench()
    found: list[Any] = []
    bench.connect("many.test").addErrback(found.append)
    for number in range(4):
        assert (len(bench.asked()), found) == (number + 1, [])
        bench.refuse()
    assert found[0].check(error.ConnectionRefusedError)
    assert len(bench.asked()) == 4


class Counting(Protocol):
    """Counts what comes."""

    came = 0

    def dataReceived(self, data: bytes) -> None:
        self.came += len(data)


def test_a_stranger_who_sends_without_end_is_cut_off() -> None:
    bench = Bench()
    connecting = Deferred.fromCoroutine(bench.endpoints.connect("one.test", 443, Factory.forProtocol(Counting)))
    (_, _, factory, *_) = bench.reactor.tcpClients[0]
    connection = factory.buildProtocol(None)
    assert connection is not None
    transport = StringTransport()
    connection.makeConnection(transport)
    found: list[Any] = []
    connecting.addBoth(found.append)
    for _ in range(16):
        connection.dataReceived(b"x" * 64 * 1024)
    assert (found[0].came, transport.disconnected) == (1024**2, False)
    connection.dataReceived(b"x")
    assert (found[0].came, transport.disconnected) == (1024**2, True)


def test_nothing_but_https() -> None:
    with pytest.raises(ValueError, match="only HTTPS"):
        Bench().endpoints.endpointForURI(URI.fromBytes(b"http://one.test/"))
