"""How much of the public Internet a list of networks holds."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import TypeGuard

__all__ = ["public_space"]

#: IPv4 space that is nobody's on the Internet (RFC 6890), and multicast and above.
_NOT_PUBLIC = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
]
_V6_PUBLIC = IPv6Network("2000::/3")
#: Where IPv6 holds the whole of IPv4: mapped, and behind NAT64 (RFC 4291, RFC 6052).
_V6_WITH_V4 = [IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96")]
#: A large site has this much; more is a whole provider, or the Internet.
_MOST_V4, _MOST_V6 = 2**16, 2**96


def public_space(networks: Sequence[IPv4Network | IPv6Network]) -> str:
    """How much public space the networks hold in words; "" where a site may have that much."""
    v4 = [network for network in networks if isinstance(network, IPv4Network)]
    v6 = [network for network in networks if _is_v6(network)]
    # All of IPv4 is in these networks, whatever form a client's address comes in.
    for network in v6:
        for whole in _V6_WITH_V4:
            if network.overlaps(whole):
                v4.append(_embedded(network))
    count = 0
    for found in collapse_addresses(v4):
        inside = [private for private in _NOT_PUBLIC if private.overlaps(found)]
        count += found.num_addresses - sum(min(found.num_addresses, private.num_addresses) for private in inside)
    if count > _MOST_V4:
        return f"{count:,} public IPv4 addresses"
    shared = [network for network in collapse_addresses(v6) if network.overlaps(_V6_PUBLIC)]
    if sum(min(network.num_addresses, _V6_PUBLIC.num_addresses) for network in shared) > _MOST_V6:
        return "more than one /32 of public IPv6 addresses"
    return ""


def _embedded(network: IPv6Network) -> IPv4Network:
    """The IPv4 network in the last 32 bits of one that overlaps with a /96."""
    return IPv4Network((int(network.network_address) & 0xFFFFFFFF, max(network.prefixlen - 96, 0)), strict=False)


def _is_v6(network: IPv4Network | IPv6Network) -> TypeGuard[IPv6Network]:
    return isinstance(network, IPv6Network)
