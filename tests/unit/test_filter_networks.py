"""Networks are found by dictionary, and what one client is."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet, NetworkTable, block_of, client_of

V4 = st.builds(
    lambda number, length: ip_network((number, length), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)
)
V6 = st.builds(
    lambda number, length: ip_network((IPv6Address(number), length), strict=False),
    st.integers(0, 2**128 - 1),
    st.integers(0, 128),
)


@given(st.lists(V4 | V6, max_size=8), st.ip_addresses())
def test_a_set_holds_what_its_networks_hold(networks: list[object], address: IPv4Address | IPv6Address) -> None:
    seen = (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
    expected = any(seen in network for network in networks)  # type: ignore[operator]  # a strategy of both kinds
    assert (address in NetworkSet(networks)) == expected  # type: ignore[arg-type]


@given(st.lists(V4, min_size=1, max_size=8), st.data())
def test_every_address_of_a_network_is_found(networks: list[object], data: st.DataObject) -> None:
    network = data.draw(st.sampled_from(networks))
    number = data.draw(st.integers(int(network[0]), int(network[-1])))  # type: ignore[index]
    assert IPv4Address(number) in NetworkSet(networks)  # type: ignore[arg-type]


def test_the_longest_network_and_the_first_of_two_values_win() -> None:
    table: NetworkTable[str] = NetworkTable()
    for network, value in [("10.0.0.0/8", "wide"), ("10.1.0.0/16", "narrow"), ("10.0.0.0/8", "late"), ("::/0", "v6")]:
        table.add(ip_network(network), value)
    found = [table.find(ip_address(one)) for one in ("10.1.2.3", "10.2.2.3", "11.0.0.1", "2001:db8::1")]
    assert found == ["narrow", "wide", None, "v6"]


def test_an_ipv4_address_in_ipv6_form_is_the_same_client() -> None:
    mapped = ip_address("::ffff:192.0.2.1")
    assert mapped in NetworkSet([ip_network("192.0.2.0/24")])
    assert client_of(mapped) == client_of(ip_address("192.0.2.1")) == "192.0.2.1"


def test_a_unix_socket_is_in_no_network() -> None:
    assert None not in NetworkSet([ip_network("0.0.0.0/0"), ip_network("::/0")])


@pytest.mark.parametrize(
    ("address", "client", "block"),
    [
        ("192.0.2.77", "192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
    ],
)
def test_what_counts_as_one(address: str, client: str, block: str) -> None:
    assert (client_of(ip_address(address)), block_of(ip_address(address))) == (client, block)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.1.1", "172.31.0.1", "192.168.1.1", "fd00::1", "fe80::1"])
def test_local(address: str) -> None:
    assert ip_address(address) in NetworkSet(LOCAL_NETWORKS)


@pytest.mark.parametrize("address", ["192.0.2.1", "172.32.0.1", "2001:db8::1", "8.8.8.8"])
def test_not_local(address: str) -> None:
    assert ip_address(address) not in NetworkSet(LOCAL_NETWORKS)
