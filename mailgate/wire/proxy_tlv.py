"""The TLVs of the PROXY protocol, version 2 (HAProxy's proxy-protocol.txt, sections 2.2.1 to 2.2.6)."""

from __future__ import annotations

import functools
import hashlib
import re
import struct
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from mailgate.envelope import Tls

__all__ = ["CHECKSUM", "ProxyError", "Told", "add_checksum", "read_tlvs", "until", "write_tlvs"]

#: Octets of the TLV for the checksum.
CHECKSUM = 7

_ALPN, _AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL = 0x01, 0x02, 0x03, 0x05, 0x20
#: The longest unique id, in octets.
_MAX_UNIQUE_ID = 128
_ANY = ((0, 65535),)
#: The ranges of lengths of the TLVs that are read, in octets; each may be there once. Inside SSL there are TLVs again.
_LENGTHS = MappingProxyType(
    {
        _ALPN: _ANY,
        _AUTHORITY: _ANY,
        _CRC32C: ((4, 4),),
        _UNIQUE_ID: ((0, _MAX_UNIQUE_ID),),
        _SSL: ((5, 5), (8, 65535)),
    }
)
_VERSION, _COMMON_NAME, _CIPHER, _CERTIFICATE = 0x21, 0x22, 0x23, 0x28
_SSL_LENGTHS = MappingProxyType(dict.fromkeys((_VERSION, _COMMON_NAME, _CIPHER, _CERTIFICATE), _ANY))
_CLIENT_TLS, _CLIENT_CERTIFICATE, _CLIENT_CERTIFICATE_EARLIER = 1, 2, 4
#: The longest text that is written into a TLV, in octets. What is longer is left out: a cut name is another name.
_MAX_TEXT = 255

#: A part of a distinguished name (RFC 4514), and an escape in it.
_COMPONENT = re.compile(r"(?:\\.|[^\\,+])+", re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:([0-9A-Fa-f]{2})|(.))", re.DOTALL)


class ProxyError(ValueError):
    """The octets are no header; `reason` says why, in our words only."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What TLVs say, as in ProxyHeader; empty where there are none."""

    tls: Tls | None = None
    server_name: str = ""
    alpn: bytes = b""
    unique_id: bytes = b""


def until(data: bytearray, size: int) -> Generator[None]:
    """Yields as long as `data` has fewer octets than `size`."""
    while len(data) < size:
        yield


def read_tlvs(data: bytearray, start: int, end: int) -> Generator[None, None, Told]:
    """What the TLVs of the header that `data` begins with say; they are between `start` and `end`.

    Yields where more octets are needed. ProxyError where a TLV is cut short or is there twice, or where the checksum
    is wrong; TLVs of other kinds are skipped.
    """
    found: dict[int, slice] = {}
    in_ssl: dict[int, slice] = {}
    yield from _walk(data, start, end, found, in_ssl)
    raw = bytes(data[:end])
    if _CRC32C in found and raw != _with_checksum(raw, found[_CRC32C]):
        raise ProxyError("wrong checksum")
    server_name = _text(raw, found.get(_AUTHORITY))
    return Told(
        tls=_tls(raw, found[_SSL], in_ssl, server_name) if _SSL in found else None,
        server_name=server_name,
        alpn=raw[found.get(_ALPN, slice(0))],
        unique_id=raw[found.get(_UNIQUE_ID, slice(0))],
    )


def write_tlvs(tls: Tls | None, unique_id: bytes) -> bytes:
    """The TLVs that tell of these; ValueError where the unique id has more than 128 octets."""
    block = b""
    if tls is not None:
        block += _text_tlv(_AUTHORITY, tls.server_name.encode("utf-8", "replace")) + _tls_tlv(tls)
    if len(unique_id) > _MAX_UNIQUE_ID:
        raise ValueError("the unique id is too long")
    return block + (_tlv(_UNIQUE_ID, unique_id) if unique_id else b"")


def add_checksum(header: bytes) -> bytes:
    """The header, whose length counts the CHECKSUM octets already, with the TLV for its checksum."""
    header += _tlv(_CRC32C, bytes(4))
    return _with_checksum(header, slice(len(header) - 4, len(header)))


def _walk(
    data: bytearray, start: int, end: int, found: dict[int, slice], in_ssl: dict[int, slice] | None
) -> Generator[None]:
    """Notes where the values of the TLVs between `start` and `end` are, and those inside the TLV for SSL."""
    lengths = _LENGTHS if in_ssl is not None else _SSL_LENGTHS
    while start < end:
        room = end - start - 3
        if room < 0:
            raise ProxyError("truncated TLV")
        yield from until(data, start + 1)
        kind = data[start]
        if kind in lengths and kind in found:
            raise ProxyError("a TLV is given twice")
        for known in range(3):
            yield from until(data, start + 1 + known)
            _check_length(bytes(data[start + 1 : start + 1 + known]), room, lengths.get(kind, _ANY))
        value = start + 3
        start = value + int.from_bytes(data[value - 2 : value], "big")
        found[kind] = slice(value, start)
        if kind == _SSL and in_ssl is not None:
            yield from _walk(data, value + 5, start, in_ssl, None)
    yield from until(data, end)


def _check_length(known: bytes, room: int, ranges: Sequence[tuple[int, int]]) -> None:
    """Whether the octets of a length that have come can still be those of a good one."""
    least, most = (int.from_bytes(known.ljust(2, filler), "big") for filler in (b"\x00", b"\xff"))
    for low, high in ranges:
        first, last = max(low, least), min(high, most)
        # Behind the value there is nothing, or another TLV with at least its three octets.
        if first <= last and (first <= room - 3 or first <= room <= last):
            return
    raise ProxyError("truncated TLV")


def _tls(raw: bytes, where: slice, found: Mapping[int, slice], server_name: str) -> Tls | None:
    client, verify = struct.unpack("!BI", raw[where][:5])
    if not client & _CLIENT_TLS:
        return None
    has_certificate = bool(client & (_CLIENT_CERTIFICATE | _CLIENT_CERTIFICATE_EARLIER))
    name, certificate = raw[found.get(_COMMON_NAME, slice(0))], raw[found.get(_CERTIFICATE, slice(0))]
    return Tls(
        version=_text(raw, found.get(_VERSION)),
        cipher=_text(raw, found.get(_CIPHER)),
        server_name=server_name,
        subject=f"CN={_escaped(name)}" if has_certificate and name else "",
        fingerprint=hashlib.sha256(certificate).hexdigest() if has_certificate and certificate else "",
        is_verified=has_certificate and verify == 0,
    )


def _tls_tlv(tls: Tls) -> bytes:
    has_certificate = bool(tls.subject or tls.fingerprint or tls.is_verified)
    return _tlv(
        _SSL,
        struct.pack("!BI", _CLIENT_TLS | (_CLIENT_CERTIFICATE if has_certificate else 0), 0 if tls.is_verified else 1)
        + _text_tlv(_VERSION, tls.version.encode("ascii", "replace"))
        + _text_tlv(_COMMON_NAME, _common_name(tls.subject))
        + _text_tlv(_CIPHER, tls.cipher.encode("ascii", "replace")),
    )


def _text_tlv(kind: int, text: bytes) -> bytes:
    return _tlv(kind, text) if 0 < len(text) <= _MAX_TEXT else b""


def _tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def _text(raw: bytes, where: slice | None) -> str:
    try:
        text = raw[where].decode() if where is not None else ""
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""


def _escaped(name: bytes) -> str:
    """A value in a distinguished name (RFC 4514 section 2.4): printable, whatever the client's certificate says."""
    characters = [
        ("\\" if char in '"+,;<>\\' else "") + char
        if char.isprintable()
        else "".join(f"\\{octet:02X}" for octet in char.encode("utf-8", "surrogateescape"))
        for char in name.decode("utf-8", "surrogateescape")
    ]
    if characters[-1] == " ":
        characters[-1] = "\\20"
    if characters[0] in (" ", "#"):
        characters[0] = "\\" + characters[0]
    return "".join(characters)


def _common_name(subject: str) -> bytes:
    """The first common name in a distinguished name, b"" where there is none."""
    for component in _COMPONENT.findall(subject):
        if component[:3].upper() == "CN=" and component[3:4] != "#":
            octets = component[3:].encode("utf-8", "replace")
            return _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()) if match[1] else match[2], octets)
    return b""


def _with_checksum(header: bytes, where: slice) -> bytes:
    """The header with its checksum, which is counted over the header with zeros there (section 2.2.3)."""
    before, behind = header[: where.start], header[where.stop :]
    return before + _crc32c(before + bytes(4) + behind).to_bytes(4, "big") + behind


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = list(range(256))
    for _bit in range(8):
        table = [value >> 1 ^ (0x82F63B78 if value & 1 else 0) for value in table]
    return tuple(table)


def _crc32c(data: bytes) -> int:
    """The checksum of RFC 4960 appendix B, as a number that is written high octet first."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for octet in data:
        crc = table[(crc ^ octet) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
