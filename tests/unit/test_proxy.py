"""The PROXY protocol: what is a header, where it ends, and from which octet on it is none."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address as Peer
from twisted.internet.address import IPv6Address as Peer6
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols.haproxy import proxyEndpoint

from mailgate.envelope import Tls
from mailgate.wire.proxy import (
    MAX_BLOCK,
    MAX_LINE,
    ProxyError,
    ProxyHeader,
    ProxyReader,
    SocketAddress,
    write_v1,
    write_v2,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT, SERVER = (IPv4Address("192.0.2.1"), 56324), (IPv4Address("198.51.100.25"), 25)
CLIENT6, SERVER6 = (IPv6Address("2001:db8::1"), 56324), (IPv6Address("2001:db8::25"), 25)
FOUR = CLIENT[0].packed + SERVER[0].packed + struct.pack("!HH", CLIENT[1], SERVER[1])
TLS = Tls(
    version="TLSv1.3",
    cipher="TLS_AES_256_GCM_SHA384",
    server_name="mx.example.org",
    subject="CN=client.example",
    is_verified=True,
)


def read(chunks: Iterable[bytes]) -> tuple[ProxyHeader, bytes] | str | None:
    """The header and what follows it, the reason why there is none, or None while octets are missing."""
    reader = ProxyReader()
    found: tuple[ProxyHeader, bytes] | None = None
    for chunk in chunks:
        if found is not None:
            found = found[0], found[1] + chunk
            continue
        try:
            found = reader.feed(chunk)
        except ProxyError as error:
            return error.reason
    return found


def octets(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def header_of(data: bytes) -> ProxyHeader:
    found = read([data])
    assert isinstance(found, tuple), found
    assert found[1] == b""
    return found[0]


def first_bad(data: bytes) -> int | None:
    """The index of the octet with which the reader gives up."""
    reader = ProxyReader()
    for index, octet in enumerate(octets(data)):
        try:
            assert reader.feed(octet) is None, f"a header of {index + 1} octets"
        except ProxyError:
            return index
    return None


def v2(block: bytes = b"", command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


def tlv(kind: int, value: bytes = b"") -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def ssl(client: int, verify: int, *parts: bytes) -> bytes:
    return tlv(0x20, struct.pack("!BI", client, verify) + b"".join(parts))


def crc32c(data: bytes) -> int:
    """Bit by bit, as the polynomial says."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _bit in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# Version 1


@pytest.mark.parametrize(
    ("line", "source", "destination"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.25 56324 25\r\n", CLIENT, SERVER),
        (b"PROXY TCP6 2001:db8::1 2001:DB8:0:0::25 56324 25\r\n", CLIENT6, SERVER6),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c633:6419 56324 25\r\n", CLIENT, SERVER),
        (b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::25 56324 25\r\n", CLIENT, SERVER6),
        (
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            (IPv4Address("255.255.255.255"), 65535),
            (IPv4Address("255.255.255.255"), 65535),
        ),
        (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", (IPv4Address(0), 0), (IPv4Address(0), 0)),
        (
            b"PROXY TCP6 " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n",
            (IPv6Address((1 << 128) - 1), 65535),
            (IPv6Address((1 << 128) - 1), 65535),
        ),
        (b"PROXY UNKNOWN\r\n", None, None),
        (b"PROXY UNKNOWN \r\n", None, None),
        (b"PROXY UNKNOWN 192.0.2.1 what \xff ever\r\n", None, None),
        (b"PROXY UNKNOWN " + b"f" * (MAX_LINE - 16) + b"\r\n", None, None),
    ],
)
def test_lines_of_version_1(line: bytes, source: SocketAddress | None, destination: SocketAddress | None) -> None:
    expected = ProxyHeader(source=source, destination=destination)
    assert read([line]) == read(octets(line)) == (expected, b"")
    assert read([line + b"EHLO x\r\n"]) == (expected, b"EHLO x\r\n")
    assert first_bad(line[:-1]) is None


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"", b"E"),
        (b"", b"\n"),
        (b"", b"\x16"),
        (b"", b" "),
        (b"\r", b"\r"),
        (b"\r\n", b"P"),
        (b"P", b"r"),
        (b"PROXY", b"\r"),
        (b"PROXY ", b" "),
        (b"PROXY ", b"t"),
        (b"PROXY TCP", b"5"),
        (b"PROXY TCP4", b"\r"),
        (b"PROXY TCP4 ", b" "),
        (b"PROXY TCP4 ", b":"),
        (b"PROXY TCP4 ", b"-"),
        (b"PROXY TCP4 0", b"1"),
        (b"PROXY TCP4 25", b"6"),
        (b"PROXY TCP4 1", b" "),
        (b"PROXY TCP4 1.", b"."),
        (b"PROXY TCP4 1.2.3.4", b"."),
        (b"PROXY TCP4 1.2.3.4 ", b" "),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 ", b"+"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 0", b"1"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 6553", b"6"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 65535", b"0"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1", b"\r"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2", b" "),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2", b"\n"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r", b"\r"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 ", b"\xb2"),
        (b"PROXY TCP6 ", b"g"),
        (b"PROXY TCP6 :", b"1"),
        (b"PROXY TCP6 ::", b":"),
        (b"PROXY TCP6 1", b"."),
        (b"PROXY TCP6 12345"[:-1], b"5"),
        (b"PROXY TCP6 1::2:", b":"),
        (b"PROXY TCP6 1:2:3:4:5:6:7:8", b":"),
        (b"PROXY TCP6 1:2:3:4:5:6:7", b" "),
        (b"PROXY TCP6 fe80::1", b"%"),
        (b"PROXY TCP6 fe80::1", b"/"),
        (b"PROXY TCP6 ::1 ::ffff:1.2.3", b" "),
        (b"PROXY UNKNOWN", b"X"),
        (b"PROXY UNKNOWN x", b"\n"),
        (b"PROXY UNKNOWN x\r", b"x"),
        (b"PROXY UNKNOWN " + b"f" * (MAX_LINE - 16), b"f"),
        (b"PROXY TCP6 " + b"0000:" * 6 + b"100.100.100.100 " + b"0000:" * 6 + b"100.100.100.10", b"0"),
    ],
)
def test_what_is_no_line_ends_with_the_octet_that_tells(good: bytes, bad: bytes) -> None:
    assert first_bad(good + bad) == len(good)
    reason = read([good + bad])
    assert isinstance(reason, str)
    assert read([good + bad + b" 1 2\r\n" * 50]) == reason


def test_a_fault_stays() -> None:
    reader = ProxyReader()
    for data in (b"EHLO x\r\n", b"PROXY UNKNOWN\r\n"):
        with pytest.raises(ProxyError, match="no PROXY header"):
            reader.feed(data)


def test_nothing_is_known_before_the_first_octet() -> None:
    assert read([b"", b""]) is None
    assert read([b"", b"PROXY UNKNOWN\r\n", b"", b"x"]) == (ProxyHeader(), b"x")


# Version 2


def test_a_header_of_a_load_balancer() -> None:
    # A header of a network load balancer at AWS: a checksum, a TLV of its own, padding.
    endpoint = b"\x01vpce-08d2bf15fac5001c9"
    addresses = bytes.fromhex("ac1f0771ac1f0a1fc8f20050")
    data = v2(addresses + bytes.fromhex("030004e8d6892d") + tlv(0xEA, endpoint) + tlv(4, bytes(36)))
    expected = ProxyHeader(source=(IPv4Address("172.31.7.113"), 51442), destination=(IPv4Address("172.31.10.31"), 80))
    assert read([data + b"rest"]) == (expected, b"rest")
    for index in (16, 20, 27, 35, len(data) - 1):
        damaged = bytearray(data)
        damaged[index] ^= 1
        assert read([bytes(damaged)]) == read(octets(bytes(damaged))) == "wrong checksum"


def test_the_checksum_is_that_of_rfc_4960() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    written = write_v2(CLIENT, SERVER)
    assert written == v2(FOUR + tlv(3, crc32c(v2(FOUR + tlv(3, bytes(4)))).to_bytes(4, "big")))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (v2(FOUR), ProxyHeader(source=CLIENT, destination=SERVER)),
        (
            v2(CLIENT6[0].packed + SERVER6[0].packed + struct.pack("!HH", 56324, 25), family=0x21),
            ProxyHeader(source=CLIENT6, destination=SERVER6),
        ),
        (
            v2(bytes(10) + b"\xff\xff\xc0\0\2\1" + SERVER6[0].packed + struct.pack("!HH", 56324, 25), family=0x21),
            ProxyHeader(source=CLIENT, destination=SERVER6),
        ),
        (v2(FOUR, family=0x12), ProxyHeader()),
        (v2(FOUR, family=0x10), ProxyHeader()),
        (v2(bytes(36), family=0x22), ProxyHeader()),
        (v2(b"/client\0".ljust(216, b"x"), family=0x31), ProxyHeader()),
        (v2(bytes(216), family=0x32), ProxyHeader()),
        (v2(family=0), ProxyHeader()),
        (v2(b"\x20what", family=0x01), ProxyHeader()),
        (v2(command=0x20, family=0), ProxyHeader(is_local=True)),
        (v2(FOUR, command=0x20), ProxyHeader(is_local=True)),
        (v2(b"\x03\x00\x04bad!" * 20, command=0x20, family=0xFF), ProxyHeader(is_local=True)),
        (
            v2(FOUR + tlv(4) + tlv(4, b"pad") + tlv(0x30, b"ns") + tlv(0xE0) * 2),
            ProxyHeader(source=CLIENT, destination=SERVER),
        ),
        (v2(FOUR + tlv(4, bytes(MAX_BLOCK - 15))), ProxyHeader(source=CLIENT, destination=SERVER)),
        (
            v2(FOUR + tlv(1, b"smtp") + tlv(5, b"u" * 128) + tlv(2, "mx.exämple".encode())),
            ProxyHeader(
                source=CLIENT, destination=SERVER, alpn=b"smtp", unique_id=b"u" * 128, server_name="mx.exämple"
            ),
        ),
        (v2(FOUR + tlv(2, b"\xff")), ProxyHeader(source=CLIENT, destination=SERVER)),
        (v2(FOUR + tlv(2, b"a\r\nb")), ProxyHeader(source=CLIENT, destination=SERVER)),
    ],
)
def test_headers_of_version_2(data: bytes, expected: ProxyHeader) -> None:
    assert read([data + b"EHLO"]) == read(octets(data + b"EHLO")) == (expected, b"EHLO")
    assert first_bad(data[:-1]) is None


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (SIGNATURE[:-1], b"\r"),
        (SIGNATURE, b"\x11"),
        (SIGNATURE, b"\x22"),
        (SIGNATURE, b"\x31"),
        (SIGNATURE + b"\x21", b"\x41"),
        (SIGNATURE + b"\x21", b"\x13"),
        (SIGNATURE + b"\x21\x11", b"\x11"),
        (SIGNATURE + b"\x21\x11\x10", b"\x01"),
        (SIGNATURE + b"\x20\x00\x10", b"\x01"),
        (SIGNATURE + b"\x21\x11\x00", b"\x0b"),
        (SIGNATURE + b"\x21\x21\x00", b"\x23"),
        (SIGNATURE + b"\x21\x31\x00", b"\xd7"),
        # One octet behind the addresses is no TLV, and neither are two.
        (SIGNATURE + b"\x21\x11\x00", b"\x0d"),
        (SIGNATURE + b"\x21\x11\x00", b"\x0e"),
        (v2(FOUR + b"\x04\x00\x01")[:-1], b"\x01"),
        (v2(FOUR + b"\x04\x01\x00")[:-2], b"\x01"),
        # What would be left behind the value is too little.
        (v2(FOUR + b"\x04\x00\x03....")[:-5], b"\x03"),
        (v2(FOUR + tlv(4, b"..") + b"\x04\x00\x01")[:-1], b"\x01"),
        # The checksum has four octets.
        (v2(FOUR + b"\x03\x00\x05....." + tlv(4))[:-9], b"\x05"),
        (v2(FOUR + b"\x03\x00\x05.....")[:-8], b"\x03"),
        (v2(FOUR + b"\x03\x01" + bytes(300))[:-301], b"\x01"),
        (v2(FOUR + b"\x03\x00\x00")[:-3], b"\x03"),
        (v2(FOUR + b"\x05\x00\x81" + bytes(129))[:-130], b"\x81"),
        # Each of those that are read is there once.
        (v2(FOUR + tlv(1) + tlv(1))[:-3], b"\x01"),
        (v2(FOUR + tlv(2, b"a") + tlv(4) + tlv(2, b"b"))[:-4], b"\x02"),
        (v2(FOUR + ssl(1, 0) + ssl(1, 0))[:-8], b"\x20"),
        # Inside SSL
        (v2(FOUR + tlv(0x20, bytes(4)))[:-7], b"\x20"),
        (v2(FOUR + tlv(0x20, bytes(6)))[:-9], b"\x20"),
        (v2(FOUR + tlv(0x20, bytes(7)) + tlv(4, bytes(9)))[:-20], b"\x07"),
        (v2(FOUR + ssl(1, 0, b"\x21\x00\x01"))[:-1], b"\x01"),
        (v2(FOUR + ssl(1, 0, b"\x21\x00\x09", bytes(8)) + tlv(4, bytes(30)))[:-42], b"\x09"),
        (v2(FOUR + ssl(1, 0, tlv(0x22, b"a"), tlv(0x22, b"b")))[:-4], b"\x22"),
    ],
)
def test_what_is_no_header_ends_with_the_octet_that_tells(good: bytes, bad: bytes) -> None:
    assert first_bad(good + bad) == len(good)
    reason = read([good + bad])
    assert isinstance(reason, str)
    assert read([good + bad + bytes(5000)]) == reason


def test_a_long_header_in_single_octets_is_read_once() -> None:
    data = v2(FOUR + tlv(4) * ((MAX_BLOCK - 12) // 3))
    assert read(octets(data)) == (ProxyHeader(source=CLIENT, destination=SERVER), b"")


# What a proxy tells of TLS


def tls_of(*parts: bytes, client: int, verify: int, before: bytes = b"") -> Tls | None:
    return header_of(v2(FOUR + before + ssl(client, verify, *parts))).tls


def test_tls_with_a_certificate() -> None:
    parts = [
        tlv(0x21, b"TLSv1.2"),
        tlv(0x22, b"client.example"),
        tlv(0x23, b"ECDHE-RSA-AES128-GCM-SHA256"),
        tlv(0x24, b"RSA-SHA256"),
        tlv(0x25, b"RSA2048"),
        tlv(0x28, b"a certificate"),
        tlv(0x03, b"not a checksum here"),
    ]
    assert tls_of(*parts, client=3, verify=0, before=tlv(2, b"mx.example")) == Tls(
        version="TLSv1.2",
        cipher="ECDHE-RSA-AES128-GCM-SHA256",
        server_name="mx.example",
        subject="CN=client.example",
        fingerprint=hashlib.sha256(b"a certificate").hexdigest(),
        is_verified=True,
    )


@pytest.mark.parametrize(
    ("client", "verify", "subject", "is_verified"),
    [
        (1, 0, "", False),
        (1, 1, "", False),
        (3, 0, "CN=a", True),
        (5, 0, "CN=a", True),
        (3, 18, "CN=a", False),
        (3, 1 << 31, "CN=a", False),
    ],
)
def test_whether_the_client_has_proved_its_name(client: int, verify: int, subject: str, is_verified: bool) -> None:
    tls = tls_of(tlv(0x22, b"a"), client=client, verify=verify)
    assert tls == Tls(version="", cipher="", subject=subject, is_verified=is_verified)


def test_without_the_flag_there_is_no_tls() -> None:
    assert tls_of(tlv(0x21, b"TLSv1.3"), tlv(0x22, b"a"), client=6, verify=0) is None


def test_a_tlv_for_a_name_outside_ssl_is_not_the_clients() -> None:
    assert tls_of(client=3, verify=0, before=tlv(0x22, b"root")) == Tls(version="", cipher="", is_verified=True)


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        (b"a,CN=root", r"CN=a\,CN=root"),
        (b'\\"+;<>', r"CN=\\\"\+\;\<\>"),
        (b" a ", r"CN=\ a\20"),
        (b" ", r"CN=\20"),
        (b"#0a", r"CN=\#0a"),
        (b"a\r\nX: y\0", r"CN=a\0D\0AX: y\00"),
        (b"\xff\xc3\xb6", r"CN=\FFö"),
        ("a\u2028".encode(), r"CN=a\E2\80\A8"),
    ],
)
def test_names_are_escaped_and_come_back(name: bytes, subject: str) -> None:
    tls = tls_of(tlv(0x22, name), client=3, verify=0)
    assert tls is not None
    assert tls.subject == subject
    assert tlv(0x22, name) in write_v2(CLIENT, SERVER, tls=tls)


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("O=Example,CN=a,CN=b", b"a"),
        (r"O=x\,CN=root,cn=b", b"b"),
        (r"O=x\\,CN=b", b"b"),
        ("UID=1+CN=b,C=DE", b"b"),
        ("CN=#0401ff,CN=c", b"c"),
    ],
)
def test_the_common_name_in_a_distinguished_name(subject: str, name: bytes) -> None:
    written = write_v2(CLIENT, SERVER, tls=Tls(version="", cipher="", subject=subject))
    assert ssl(3, 1, tlv(0x22, name)) in written


@pytest.mark.parametrize("subject", ["O=Example", "", "CN=", "CN=" + "a" * 256])
def test_no_common_name_is_told_where_there_is_none_or_too_long_a_one(subject: str) -> None:
    written = write_v2(CLIENT, SERVER, tls=Tls(version="v", cipher="", subject=subject))
    assert ssl(3 if subject else 1, 1, tlv(0x21, b"v")) in written


# Writing


@pytest.mark.parametrize(
    ("source", "destination", "line"),
    [
        (CLIENT, SERVER, b"PROXY TCP4 192.0.2.1 198.51.100.25 56324 25\r\n"),
        (CLIENT6, SERVER6, b"PROXY TCP6 2001:db8::1 2001:db8::25 56324 25\r\n"),
        ((IPv6Address("fe80::1%eth0"), 1), SERVER6, b"PROXY TCP6 fe80::1 2001:db8::25 1 25\r\n"),
        ((IPv6Address("::ffff:192.0.2.1"), 1), SERVER, b"PROXY TCP4 192.0.2.1 198.51.100.25 1 25\r\n"),
        (None, SERVER, b"PROXY UNKNOWN\r\n"),
        (CLIENT, None, b"PROXY UNKNOWN\r\n"),
    ],
)
def test_lines_as_they_are_written(
    source: SocketAddress | None, destination: SocketAddress | None, line: bytes
) -> None:
    assert write_v1(source, destination) == line


def test_mixed_families_are_written_as_ipv6() -> None:
    mapped = bytes(10) + b"\xff\xff" + CLIENT[0].packed
    assert write_v2(CLIENT, SERVER6)[13:48] == b"\x21\x00\x2b" + mapped + SERVER6[0].packed
    for write in (write_v1, write_v2):
        assert header_of(write(CLIENT, SERVER6)) == ProxyHeader(source=CLIENT, destination=SERVER6)
        assert header_of(write(CLIENT6, SERVER)) == ProxyHeader(source=CLIENT6, destination=SERVER)


def test_what_is_not_told() -> None:
    assert header_of(write_v2(None, SERVER)) == ProxyHeader()
    assert header_of(write_v2(CLIENT, None)) == ProxyHeader()
    local = write_v2(CLIENT, SERVER, is_local=True)
    assert local[12:14] == b"\x20\x00"
    assert CLIENT[0].packed not in local
    assert header_of(local) == ProxyHeader(is_local=True)


@pytest.mark.parametrize("port", [-1, 65536])
def test_what_is_no_port_is_not_written(port: int) -> None:
    for write in (write_v1, write_v2):
        with pytest.raises(ValueError, match="no port"):
            write((CLIENT[0], port), SERVER)
        with pytest.raises(ValueError, match="no port"):
            write(CLIENT, (SERVER[0], port))


def test_a_unique_id_has_128_octets_at_most() -> None:
    assert header_of(write_v2(CLIENT, SERVER, unique_id=b"\0" * 128)).unique_id == b"\0" * 128
    with pytest.raises(ValueError, match="too long"):
        write_v2(CLIENT, SERVER, unique_id=bytes(129))


class Wrapped(Protocol):
    """Notes what a server of Twisted hands on."""

    received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


@pytest.mark.parametrize(("source", "destination"), [(CLIENT, SERVER), (CLIENT6, SERVER6), (CLIENT6, SERVER)])
@pytest.mark.parametrize("tls", [None, TLS])
@pytest.mark.parametrize("version", [1, 2])
def test_twisted_reads_the_same(
    version: int, tls: Tls | None, source: SocketAddress, destination: SocketAddress
) -> None:
    reactor, made = MemoryReactorClock(), []

    class Server(Factory):
        def buildProtocol(self, addr: IAddress | None) -> Wrapped:
            made.append(Wrapped())
            return made[-1]

    proxyEndpoint(TCP4ServerEndpoint(reactor, 25)).listen(Server())
    connection = reactor.tcpServers[0][1].buildProtocol(Peer("TCP", "203.0.113.9", 4711))
    assert connection is not None
    connection.makeConnection(StringTransport())
    header = write_v1(source, destination) if version == 1 else write_v2(source, destination, tls=tls)
    connection.dataReceived(header + b"EHLO x\r\n")
    (protocol,) = made
    assert protocol.received == b"EHLO x\r\n"
    assert protocol.transport is not None
    assert [plain(protocol.transport.getPeer()), plain(protocol.transport.getHost())] == [source, destination]


def plain(peer: IAddress) -> SocketAddress:
    assert isinstance(peer, Peer | Peer6)
    address = ip_address(peer.host)
    return (address.ipv4_mapped or address if isinstance(address, IPv6Address) else address), peer.port


# Whatever comes


addresses = st.one_of(st.ip_addresses(v=4), st.integers(1 << 64, (1 << 128) - 1).map(IPv6Address))
sockets = st.tuples(addresses, st.integers(0, 65535))
names = st.text(min_size=1, max_size=60).filter(str.isprintable)
words = st.text(alphabet="ABCDEF-_.0123456789", max_size=40)


@st.composite
def handshakes(draw: st.DrawFn) -> Tls:
    name = draw(st.binary(min_size=1, max_size=80))
    header = header_of(v2(FOUR + ssl(3, draw(st.integers(0, 3)), tlv(0x21, draw(words).encode()), tlv(0x22, name))))
    assert header.tls is not None
    return header.tls


@given(sockets, sockets, st.none() | handshakes(), st.binary(max_size=128), st.lists(st.integers(1, 90), max_size=9))
def test_what_is_written_is_read(
    source: SocketAddress, destination: SocketAddress, tls: Tls | None, unique_id: bytes, cuts: list[int]
) -> None:
    told = ProxyHeader(source=source, destination=destination)
    data = write_v1(source, destination) + b"\r\nrest"
    assert read([data]) == read(_cut(data, cuts)) == (told, b"\r\nrest")
    told = ProxyHeader(source=source, destination=destination, tls=tls, unique_id=unique_id)
    data = write_v2(source, destination, tls=tls, unique_id=unique_id) + b"\r\nrest"
    assert read([data]) == read(_cut(data, cuts)) == (told, b"\r\nrest")


def _cut(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks = []
    for size in sizes:
        chunks.append(data[:size])
        data = data[size:]
    return [*chunks, data]


LINE_PIECES = [b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b" ", b"1", b"25", b".", b":", b"f", b"\r", b"\n", b"\r\n"]
LINE_STARTS = [b"PROXY TCP4 1.2.3.4 ", b"PROXY TCP6 ::1 ", b"65535", b"PROXY UNKNOWN ", b"%", b"\xff", b"0000:" * 7]
lines = st.lists(st.sampled_from(LINE_PIECES + LINE_STARTS), max_size=30).map(b"".join)
parts = st.builds(tlv, st.integers(0x20, 0x29), st.binary(max_size=9))
tlvs = st.lists(
    st.builds(tlv, st.sampled_from([1, 2, 3, 4, 5, 0x20, 0x21, 0xE0]), st.binary(max_size=12))
    | st.builds(ssl, st.integers(0, 255), st.integers(0, 9), parts, parts)
    | st.binary(max_size=3),
    max_size=6,
).map(b"".join)
blocks = st.builds(
    v2,
    st.builds(bytes.__add__, st.sampled_from([b"", FOUR, bytes(36), bytes(216)]), tlvs),
    st.sampled_from([0x20, 0x21, 0x21, 0x21, 0x22]),
    st.sampled_from([0, 0x11, 0x11, 0x11, 0x12, 0x21, 0x31, 0x41]),
)


@given(st.one_of(st.binary(), lines, blocks, blocks.map(lambda data: data[:-2])), st.lists(st.integers(0, 30)))
def test_whatever_comes_the_outcome_does_not_depend_on_the_chunks(data: bytes, cuts: list[int]) -> None:
    outcome = read([data])
    assert outcome == read(octets(data)) == read(_cut(data, cuts))


FIRST_TRIED = [*octets(b"\n\r :1.PROXYTCUNKW46\0\4"), *octets(bytes(range(256)))]


def is_refused(data: bytes) -> bool:
    outcome = read([data])
    return isinstance(outcome, str) and outcome != "wrong checksum"


def goes_on(head: bytes) -> bool:
    """Whether a header comes of `head` with any octets that the reader does not refuse, one by one."""
    while read([head]) is None:
        way = next((head + octet for octet in FIRST_TRIED if not is_refused(head + octet)), None)
        if way is None:
            return False
        head = way
    return not is_refused(head)


@settings(max_examples=60)
@given(st.one_of(lines, blocks, st.binary(max_size=3)), st.integers(0, 80))
def test_no_reader_waits_for_a_header_that_cannot_come(data: bytes, size: int) -> None:
    head = data[:size]
    if read([head]) is None and (len(head) < 16 or not head.startswith(SIGNATURE) or head[14] == 0):
        assert goes_on(head)
