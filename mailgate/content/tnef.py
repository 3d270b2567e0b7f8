"""Files in winmail.dat, as Outlook sends them to Outlook (MS-OXTNEF)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from mailgate.content.fields import decode_octets

__all__ = ["SIGNATURE", "tnef_files"]

SIGNATURE = b"\x78\x9f\x3e\x22"

#: Attributes of one stream that are read, and names of one file.
_MOST, _MOST_NAMES = 20_000, 8
#: Level, tag, and length of an attribute; a checksum of two octets is behind its data.
_HEAD = struct.Struct("<BII")
_BEGINS_FILE, _TITLE, _TRANSPORT_NAME, _DATA, _PROPERTIES = 0x69002, 0x18010, 0x69001, 0x6800F, 0x69005
#: PidTagAttachFilename and PidTagAttachLongFilename among the properties, in 8-bit octets or UTF-16, and the length.
_NAME = re.compile(rb"(?s)([\x1e\x1f])\x00[\x04\x07]\x37\x01\x00\x00\x00(....)")


def tnef_files(data: bytes) -> Iterator[tuple[list[str], bytes]]:
    """The files, each with all names that it has; messages inside come without a name. ValueError where the stream ends
    too early, or never."""
    names: list[str] = []
    content = b""
    at = 6
    for _ in range(_MOST):
        if at + _HEAD.size > len(data):
            break
        _, tag, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        value = data[at : at + length]
        at += length + 2
        if tag == _BEGINS_FILE:
            if names or content:
                yield names, content
            names, content = [], b""
        elif tag in (_TITLE, _TRANSPORT_NAME):
            names.append(decode_octets(value.partition(b"\0")[0], ""))
        elif tag == _DATA:
            content = value
        elif tag == _PROPERTIES:
            names += _names(value)
            if (inner := value.find(SIGNATURE)) >= 0:
                yield [], value[inner:]
    else:
        raise ValueError("too many attributes")
    if names or content:
        yield names, content
    if at > len(data):
        raise ValueError("it ends too early")


def _names(value: bytes) -> Iterator[str]:
    for number, match in enumerate(_NAME.finditer(value)):
        if number == _MOST_NAMES:
            return
        text = value[match.end() : match.end() + int.from_bytes(match[2], "little")]
        is_wide = match[1] == b"\x1f"
        yield decode_octets(text, "utf-16-le" if is_wide else "").partition("\0")[0]
