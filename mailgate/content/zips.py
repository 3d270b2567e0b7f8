"""The tables of contents of a ZIP, of which programs believe different ones (APPNOTE 4.3)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mailgate.content.fields import decode_octets

__all__ = ["is_zip", "plain_zip", "zip_names"]

_FILE, _ENTRY, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
#: The fixed part of a local header, and of an entry of the central directory (4.3.7, 4.3.12).
_LOCAL, _CENTRAL = struct.Struct("<4x2xH10xI4xHH"), struct.Struct("<4x4xH18xHHH")
#: Ends of central directories of which the last are believed, and characters of a name.
_MOST_ENDS, _LONGEST_NAME = 3, 500
#: Entries of all tables that are made plain.
_MOST_ENTRIES = 200_000


def is_zip(data: bytes) -> bool:
    """Whether the octets begin as a ZIP does."""
    return data[:4] == _FILE or data[:8] in (b"PK00" + _FILE, b"PK\x07\x08" + _FILE)


def zip_names(data: bytes, most: int) -> Iterator[tuple[str, bool]]:
    """The names before the files, and those in the tables behind them, and whether the file is encrypted."""
    at = 0
    for _ in range(most):
        if data[at : at + 4] != _FILE or at + 30 > len(data):
            break
        flags, packed, length, extra = _LOCAL.unpack_from(data, at)
        yield from _named(data[at + 30 : at + 30 + length], flags)
        at += 30 + length + extra + packed
        if flags & 8 and not packed:  # its size stands behind it
            at = data.find(_FILE, at)
            if at < 0:
                break
    for at in _entries(data, most):
        flags, length, _, _ = _CENTRAL.unpack_from(data, at)
        yield from _named(data[at + 46 : at + 46 + length], flags)


def plain_zip(data: bytes) -> bytes:
    """The archive with all that is in it as plain files, as programs read it for which links, devices and folders by
    their attributes are none; what is a folder by its name stays one."""
    plain: bytearray | None = None
    if _ENTRY not in data:
        return data
    for at in _entries(data, _MOST_ENTRIES):
        kind = int.from_bytes(data[at + 38 : at + 42], "little")
        end = at + 46 + int.from_bytes(data[at + 28 : at + 30], "little")
        if (kind & 0x10 or kind >> 28 not in (0, 8)) and data[end - 1 : end] not in (b"/", b"\\"):
            plain = bytearray(data) if plain is None else plain
            plain[at + 5] = 0
            plain[at + 38 : at + 42] = bytes(4)
    return data if plain is None else bytes(plain)


def _entries(data: bytes, most: int) -> Iterator[int]:
    """Where the entries of central directories are."""
    starts: dict[int, None] = {}
    end, last = len(data), len(data)
    for _ in range(_MOST_ENDS):
        end = data.rfind(_END, 0, end)
        # Another one counts only where the last may be part of its comment, and not where a ZIP lies in this one.
        if end < 0 or end + 22 + int.from_bytes(data[end + 20 : end + 22], "little") < last:
            break
        last = min(last, end + 22)
        size = int.from_bytes(data[end + 12 : end + 16], "little")
        starts[int.from_bytes(data[end + 16 : end + 20], "little")] = None
        starts[max(end - size, 0)] = None  # where something stands before the archive
    found = [at for at in starts if data[at : at + 4] == _ENTRY] or [data.find(_ENTRY)]
    seen: set[int] = set()
    for at in found:
        while 0 <= at <= len(data) - 46 and data[at : at + 4] == _ENTRY and at not in seen and len(seen) < most:
            seen.add(at)
            yield at
            _, length, extra, comment = _CENTRAL.unpack_from(data, at)
            at += 46 + length + extra + comment


def _named(name: bytes, flags: int) -> Iterator[tuple[str, bool]]:
    if 0 < len(name) <= _LONGEST_NAME:
        text = decode_octets(name, "utf-8" if flags & 0x800 else "cp437")
        yield text.replace("\\", "/"), bool(flags & 1)
