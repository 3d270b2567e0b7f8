"""The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt), both directions: octets to values and back.

A header is the first thing on a connection, and whoever writes it says who the client is: it is read only from peers
that the configuration names.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Generator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import TypeAlias

from mailgate.envelope import Tls
from mailgate.wire.proxy_tlv import CHECKSUM, ProxyError, add_checksum, read_tlvs, until, write_tlvs

__all__ = ["MAX_BLOCK", "MAX_LINE", "ProxyError", "ProxyHeader", "ProxyReader", "SocketAddress", "write_v1", "write_v2"]

#: The longest header of version 1, in octets with its CRLF (section 2.1).
MAX_LINE = 107
#: The longest block behind the 16 octets of a header of version 2: addresses and TLVs, in octets.
MAX_BLOCK = 4096

#: An address and a port.
SocketAddress: TypeAlias = tuple[IPv4Address | IPv6Address, int]

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = 16
_LOCAL, _PROXY = 0x20, 0x21
_INET, _INET6, _UNIX, _STREAM, _DATAGRAM = 1, 2, 3, 1, 2
#: Octets of the addresses and ports of each family.
_ADDRESSES = MappingProxyType({_INET: 12, _INET6: 36, _UNIX: 216})

_HEADS = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r\n")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
#: What completes the start of an address or a port, where anything does.
_ENDINGS = (b"", b"0", b":", b"::", b":0", b".0", b"0.0", b".0.0", b"0.0.0", b".0.0.0", b"0.0.0.0")
#: The shortest line behind each of the four fields.
_TAILS = MappingProxyType(
    {
        b"TCP4": (b" 0.0.0.0 0 0\r\n", b" 0 0\r\n", b" 0\r\n", b"\r\n"),
        b"TCP6": (b" :: 0 0\r\n", b" 0 0\r\n", b" 0\r\n", b"\r\n"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyHeader:
    """What a proxy told. `source` is the client, `destination` where it connected to, both None where not told.

    Then the real peer counts: LOCAL (`is_local`: the proxy speaks for itself, as in a health check), UNKNOWN, unix
    sockets, datagrams, UNSPEC. Addresses of IPv4 in IPv6 are IPv4. `server_name` is the name that the client asked
    for, `alpn` the protocol that TLS agreed on, `unique_id` the proxy's name for the connection (as octets: log them
    by their repr); "" and b"" where not told, and a text that is not printable counts as not told. `tls` is None
    where the client did not speak TLS with the proxy; its `subject` is the common name only.
    """

    source: SocketAddress | None = None
    destination: SocketAddress | None = None
    is_local: bool = False
    tls: Tls | None = None
    server_name: str = ""
    alpn: bytes = b""
    unique_id: bytes = b""


_Steps: TypeAlias = Generator[None, None, tuple[ProxyHeader, int]]


class ProxyReader:
    """Reads one header from the first octets of a connection; it keeps MAX_BLOCK and a little at most.

    The outcome does not depend on how the octets were cut. A fault of the form is found with the first octet that no
    header can have in its place, a wrong checksum with the last octet of the header.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._steps = _read(self._data)
        self._fault = ""

    def feed(self, data: bytes) -> tuple[ProxyHeader, bytes] | None:
        """The header and the octets behind it, None while more are needed; ProxyError where there is no header.

        Not to be called again once it has returned a header.
        """
        if self._fault:
            raise ProxyError(self._fault)
        self._data += data
        try:
            next(self._steps)
        except StopIteration as stop:
            result: tuple[ProxyHeader, int] = stop.value
            header, length = result
            return header, bytes(self._data[length:])
        except ProxyError as error:
            self._fault = error.reason
            self._data.clear()
            raise
        return None


def write_v1(source: SocketAddress | None, destination: SocketAddress | None) -> bytes:
    """The header of version 1; UNKNOWN where an address is None. ValueError where a port is none."""
    if source is None or destination is None:
        return b"PROXY UNKNOWN\r\n"
    first, second = _of_one_family(source[0], destination[0])
    protocol = "TCP4" if first.version == 4 else "TCP6"
    return f"PROXY {protocol} {first} {second} {_port(source[1])} {_port(destination[1])}\r\n".encode("ascii")


def write_v2(
    source: SocketAddress | None,
    destination: SocketAddress | None,
    *,
    tls: Tls | None = None,
    is_local: bool = False,
    unique_id: bytes = b"",
) -> bytes:
    """The header of version 2, with its checksum; UNSPEC where an address is None. ValueError where a port is none.

    With `is_local` the connection is the proxy's own, and no addresses are told. `unique_id` has 128 octets at most;
    ValueError where it has more. Of the client's certificate the common name is told and whether it was verified.
    """
    command, family, block = _LOCAL if is_local else _PROXY, 0, b""
    if source is not None and destination is not None and not is_local:
        first, second = _of_one_family(source[0], destination[0])
        family = (_INET if first.version == 4 else _INET6) << 4 | _STREAM
        block = first.packed + second.packed + struct.pack("!HH", _port(source[1]), _port(destination[1]))
    block += write_tlvs(tls, unique_id)
    return add_checksum(_SIGNATURE + struct.pack("!BBH", command, family, len(block) + CHECKSUM) + block)


def _read(data: bytearray) -> _Steps:
    """Yields where more octets are needed; returns the header and its length."""
    while len(data) < len(_SIGNATURE) and _SIGNATURE.startswith(bytes(data)):
        yield
    if data.startswith(_SIGNATURE):
        return (yield from _read_v2(data))
    return (yield from _read_v1(data))


def _read_v1(data: bytearray) -> _Steps:
    while True:
        end = data.find(b"\r\n", 0, MAX_LINE)
        header = _parse_line(bytes(data[: end + 2])) if end >= 0 else None
        if header is not None:
            return header, end + 2
        if end >= 0 or not _may_become_line(bytes(data)):
            raise ProxyError("malformed header of version 1" if data.startswith(_HEADS) else "no PROXY header")
        yield


def _parse_line(line: bytes) -> ProxyHeader | None:
    """The header that a line is, CRLF included; None where it is none (section 2.1)."""
    text = line[:-2].decode("latin-1")
    if len(line) > MAX_LINE or line[-2:] != b"\r\n" or "\r" in text or "\n" in text:
        return None
    words = text.split(" ")
    if words[:2] == ["PROXY", "UNKNOWN"]:
        return ProxyHeader()
    if len(words) != 6 or words[0] != "PROXY" or words[1] not in ("TCP4", "TCP6") or "%" in text:
        return None
    kind = IPv4Address if words[1] == "TCP4" else IPv6Address
    if not all(_PORT.fullmatch(word) and int(word) <= 65535 for word in words[4:]):
        return None
    try:
        source, destination = _plain(kind(words[2])), _plain(kind(words[3]))
    except ValueError:
        return None
    return ProxyHeader(source=(source, int(words[4])), destination=(destination, int(words[5])))


def _may_become_line(data: bytes) -> bool:
    """Whether some octets behind `data` make it a header of version 1."""
    if any(head.startswith(data) for head in _HEADS):
        return True
    if not data.startswith(_HEADS) or len(data) >= MAX_LINE:
        return False
    if data.startswith(b"PROXY UNKNOWN"):
        lines = [data + b"\n", data + b"\r\n"]
    else:
        tails, field = _TAILS[data[6:10]], data.count(b" ") - 2
        if field >= len(tails):
            return False
        lines = [data + b"\n", *(data + ending + tails[field] for ending in _ENDINGS)]
    return any(_parse_line(line) is not None for line in lines)


def _read_v2(data: bytearray) -> _Steps:
    yield from until(data, 13)
    if data[12] not in (_LOCAL, _PROXY):
        raise ProxyError("unknown version or command")
    is_local = data[12] == _LOCAL
    yield from until(data, 14)
    family, transport = data[13] >> 4, data[13] & 15
    if not is_local and (family > _UNIX or transport > _DATAGRAM):
        raise ProxyError("unknown family or protocol")
    yield from until(data, 15)
    if data[14] << 8 > MAX_BLOCK:
        raise ProxyError("header too long")
    yield from until(data, _FIXED)
    end = _FIXED + int.from_bytes(data[14:16], "big")
    if end > _FIXED + MAX_BLOCK:
        raise ProxyError("header too long")
    if is_local or not family:
        # The block is skipped unread (section 2.2): where it has addresses and where TLVs cannot be known.
        yield from until(data, end)
        return ProxyHeader(is_local=is_local), end
    start = _FIXED + _ADDRESSES[family]
    if start > end:
        raise ProxyError("no room for the addresses")
    told = yield from read_tlvs(data, start, end)
    source = destination = None
    if transport == _STREAM and family != _UNIX:
        source, destination = _addresses(bytes(data[_FIXED:start]))
    return ProxyHeader(
        source=source,
        destination=destination,
        tls=told.tls,
        server_name=told.server_name,
        alpn=told.alpn,
        unique_id=told.unique_id,
    ), end


def _addresses(block: bytes) -> tuple[SocketAddress, SocketAddress]:
    kind, size = (IPv4Address, 4) if len(block) == _ADDRESSES[_INET] else (IPv6Address, 16)
    source_port, destination_port = struct.unpack("!HH", block[2 * size :])
    source, destination = kind(block[:size]), kind(block[size : 2 * size])
    return (_plain(source), source_port), (_plain(destination), destination_port)


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _of_one_family(
    first: IPv4Address | IPv6Address, second: IPv4Address | IPv6Address
) -> tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address]:
    """Both addresses as IPv4 where they are, else as IPv6, without a scope."""
    first, second = _plain(first), _plain(second)
    if isinstance(first, IPv4Address) and isinstance(second, IPv4Address):
        return first, second
    return _as_ipv6(first), _as_ipv6(second)


def _as_ipv6(address: IPv4Address | IPv6Address) -> IPv6Address:
    return IPv6Address(bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed)


def _port(port: int) -> int:
    if not 0 <= port <= 65535:
        raise ValueError(f"no port: {port}")
    return port
