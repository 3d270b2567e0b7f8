"""Strangers' HTTPS: found by our own resolver, whatever the system's says, at addresses that we accept; and no more is
read of it than an answer needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from mailgate.awaiting import answered
from mailgate.backends.questions import BackendError, Creators, IBackendReactor
from mailgate.interfaces import IResolver

__all__ = ["NamedEndpoints", "is_public"]

_Address: TypeAlias = IPv4Address | IPv6Address

#: Addresses of a host that are tried.
_MOST_ADDRESSES = 4
#: Octets that may come on a connection, those of TLS among them. Twisted bounds no header of an answer.
_MOST_OCTETS = 1024**2
#: RFC 6052 section 2.1.
_NAT64 = IPv6Network("64:ff9b::/96")


@implementer(IAgentEndpointFactory)
class NamedEndpoints:
    """For Twisted's Agent. `timeout` is for all addresses of a host together, in seconds; those that it does not
    `accept` are as if they were not there."""

    def __init__(
        self,
        reactor: IBackendReactor,
        resolver: IResolver,
        creators: Creators,
        timeout: float,
        accept: Callable[[_Address], bool] = lambda address: True,
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._creators = creators
        self._timeout = timeout
        self._accept = accept

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802  Twisted's name
        if uri.scheme != b"https":
            raise ValueError("only HTTPS is asked")
        host = uri.host.decode("ascii")
        return wrapClientTLS(self._creators(host), _Named(self, host, uri.port))

    async def connect(self, host: str, port: int, factory: IProtocolFactory) -> IProtocol:
        """A connection to the first address that takes it; BackendError, ConnectError or OSError."""
        addresses: list[_Address] = []
        for rdtype in ("A", "AAAA"):
            answer = await answered(self._resolver.resolve(host, rdtype))
            addresses += [one for one in answer.records if isinstance(one, IPv4Address | IPv6Address)]
        if not addresses:
            raise BackendError(f"{host} has no address")
        addresses = [one for one in addresses if self._accept(one)][:_MOST_ADDRESSES]
        if not addresses:
            raise BackendError(f"{host} has no address that we may ask")
        part = max(self._timeout / len(addresses), 1.0)
        error: Exception = BackendError(f"{host} cannot be reached")
        for address in addresses:
            kind = TCP4ClientEndpoint if address.version == 4 else TCP6ClientEndpoint
            endpoint = kind(self._reactor, str(address), port, timeout=part)
            try:
                bounded: Any = await endpoint.connect(_bounded(factory))
                connection: IProtocol = bounded.wrappedProtocol
                return connection
            except (ConnectError, OSError) as failure:
                error = failure
        raise error


@implementer(IStreamClientEndpoint)
class _Named:
    """One address of the host after another, each with its part of the time."""

    def __init__(self, endpoints: NamedEndpoints, host: str, port: int) -> None:
        self._endpoints = endpoints
        self._host = host
        self._port = port

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803  Twisted's name
        return Deferred.fromCoroutine(self._endpoints.connect(self._host, self._port, protocolFactory))


class _Bounded(ProtocolWrapper):
    """Ends a connection on which too much has come."""

    _left = _MOST_OCTETS

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.abortConnection()
        else:
            super().dataReceived(data)  # type: ignore[no-untyped-call]  # Twisted's


def _bounded(factory: IProtocolFactory) -> WrappingFactory:
    bounded = WrappingFactory(factory)
    bounded.protocol = _Bounded
    bounded.noisy = False
    return bounded


def is_public(address: _Address, but: Iterable[IPv4Network | IPv6Network] = ()) -> bool:
    """Whether an address is of the Internet, or in one of the networks `but`. One in IPv6 that stands for another in
    IPv4 is that."""
    if address.version == 6:
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        address = inner or address
    return (address.is_global and not address.is_multicast) or any(address in network for network in but)
