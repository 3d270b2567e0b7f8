"""Networks and clients: a look-up that stays fast with many networks, and what counts as one client."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, TypeGuard, TypeVar

from mailgate.config.schema import Network
from mailgate.dns.names import unmapped

__all__ = ["LOCAL_NETWORKS", "NetworkSet", "NetworkTable", "block_of", "client_of", "is_known", "prefix_of"]

T = TypeVar("T")

#: Loopback, private and link-local networks (RFC 1122, RFC 1918, RFC 3927, RFC 4193, RFC 4291).
LOCAL_NETWORKS: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
)


class NetworkTable(Generic[T]):
    """Networks with a value each. A look-up asks one dictionary for each length of prefix that occurs.

    The value of the longest prefix is found; the first of two values for one network stays.
    """

    def __init__(self) -> None:
        self._v4: dict[int, dict[int, T]] = {}
        self._v6: dict[int, dict[int, T]] = {}

    def add(self, network: Network, value: T) -> None:
        """Give a network a value, unless it has one."""
        # The shift that leaves the prefix is the key; the smallest shift is the longest prefix.
        shift = network.max_prefixlen - network.prefixlen
        tables = self._v4 if network.version == 4 else self._v6
        if shift not in tables:
            tables[shift] = {}
            ordered = sorted(tables.items())
            tables.clear()
            tables.update(ordered)
        tables[shift].setdefault(int(network.network_address) >> shift, value)

    def find(self, address: IPv4Address | IPv6Address | None) -> T | None:
        """The value of the longest network that holds the address; None where none does, or without an address.

        An IPv4 address that is written as an IPv6 one (RFC 4291 section 2.5.5.2) is looked up as IPv4.
        """
        if address is None:
            return None
        address = unmapped(address)
        number = int(address)
        for shift, table in (self._v4 if address.version == 4 else self._v6).items():
            value = table.get(number >> shift)
            if value is not None:
                return value
        return None

    def __bool__(self) -> bool:
        return bool(self._v4 or self._v6)


class NetworkSet:
    """A set of networks: `address in networks`. A client without an address (a unix socket) is in none."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._table: NetworkTable[bool] = NetworkTable()
        for network in networks:
            self._table.add(network, True)

    def __contains__(self, address: IPv4Address | IPv6Address | None) -> bool:
        return self._table.find(address) is not None

    def __bool__(self) -> bool:
        return bool(self._table)


def is_known(address: IPv4Address | IPv6Address | None) -> TypeGuard[IPv4Address | IPv6Address]:
    """Whether it tells one client from another. None is a unix socket's; the unspecified one stands for all clients of
    which a trusted proxy could not tell the address: they have nothing in common."""
    return address is not None and not address.is_unspecified


def client_of(address: IPv4Address | IPv6Address) -> str:
    """What counts as one client: an IPv4 address, or the /64 that one host of IPv6 may have to itself."""
    return prefix_of(address, 32, 64)


def block_of(address: IPv4Address | IPv6Address) -> str:
    """The neighbourhood of a client: its /24 of IPv4, or its /48 of IPv6."""
    return prefix_of(address, 24, 48)


def prefix_of(address: IPv4Address | IPv6Address, v4: int, v6: int) -> str:
    """The network that an address is in, by the length of its prefix for IPv4 and for IPv6; the address itself where
    that is all of it."""
    address = unmapped(address)
    length = v4 if isinstance(address, IPv4Address) else v6
    if length == address.max_prefixlen:
        return str(address)
    shift = address.max_prefixlen - length
    return f"{type(address)(int(address) >> shift << shift)}/{length}"
