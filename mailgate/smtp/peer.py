"""Who is at the other end, by the transport and by a PROXY header; and why a handshake with them failed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from OpenSSL import SSL
from twisted.internet.address import IPv4Address as TCPv4
from twisted.internet.address import IPv6Address as TCPv6
from twisted.internet.interfaces import IAddress, IConsumer, IPushProducer, ITLSTransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from mailgate.config.schema import Network
from mailgate.envelope import Client, Tls
from mailgate.wire.proxy import ProxyHeader

__all__ = ["ServerTransport", "client_of", "handshake_fault", "is_in", "told_by", "was_silent"]


class ServerTransport(ITLSTransport, IConsumer, IPushProducer):
    """What a transport of the reactor provides; `protocol` is who gets what it reads: the session, or its TLS."""

    protocol: Protocol


def client_of(peer: IAddress) -> Client:
    """Who connected: a mapped IPv4 address is an IPv4 address; a unix socket's client has none."""
    if not isinstance(peer, (TCPv4, TCPv6)):
        return Client(None)
    return Client(_address(peer.host), peer.port)


@functools.lru_cache(maxsize=4096)
def _address(host: str) -> IPv4Address | IPv6Address:
    address = ip_address(host.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def is_in(client: Client, networks: Sequence[Network]) -> bool:
    """Whether the client's address is in one of these networks; a unix socket's is in none."""
    address = client.address
    return address is not None and any(address in network for network in networks)


def told_by(header: ProxyHeader, peer: Client) -> tuple[Client, Tls | None]:
    """The client that a PROXY header names, which is the peer itself for a check of health; and its TLS."""
    if header.source is None:
        return peer, None
    return Client(*header.source), header.tls


def was_silent(connection: SSL.Connection | None, reason: Failure) -> bool:
    """Whether the client went before it had said what TLS it speaks, like a check of health: nobody was refused."""
    return connection is not None and connection.client_random() is None and reason.check(SSL.Error) is None


def handshake_fault(reason: Failure) -> str:
    """What OpenSSL says, without its numbers; else why the connection was lost."""
    errors = getattr(reason.value, "args", ())
    if errors and isinstance(errors[0], list):
        return "; ".join(str(error[-1]) for error in errors[0]) or "the peer closed the connection"
    return reason.getErrorMessage()
