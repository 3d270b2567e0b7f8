"""Header fields, and the header section that they make (RFC 5322 section 2.2)."""

from __future__ import annotations

import re

from msgspec import Struct

__all__ = ["MAX_HEADER", "MAX_HEADER_LINES", "HeaderField", "begins_with_field", "header_of", "split_header"]

#: The largest header section that is looked at, in octets. What is behind it counts as body.
MAX_HEADER = 256 * 1024
#: And its lines: a list of thousands of recipients, folded, has as many.
MAX_HEADER_LINES = 5000

_FIELD_NAME = re.compile(rb"[!-9;-~]+")
#: A field, folded where white space and more follow. What a part gives back nothing else can take. No group takes for
#: good: before 3.11.5 Python finds nothing then.
_FIELD = re.compile(rb"[!-9;-~]++:(?:[^\r\n\0]++|\r\n(?=[ \t]++[^ \t\r\n]))*\r\n")
_FIELD_BEGIN = re.compile(rb"[!-9;-~]++[ \t]*+:")
_NEXT_FIELD = re.compile(rb"\r\n(?![ \t])")


class HeaderField(Struct, frozen=True):
    """One header field as it stands: `raw` holds its octets with folding and the last CRLF."""

    raw: bytes

    @property
    def name(self) -> str:
        """The field's name as written; "" where the line is no field."""
        name = self.raw.partition(b":")[0].rstrip(b" \t")
        return name.decode("ascii") if _FIELD_NAME.fullmatch(name) and b":" in self.raw else ""

    @property
    def value(self) -> str:
        """The unfolded value without surrounding space; octets that are no UTF-8 are replaced."""
        value = self.raw.partition(b":")[2].replace(b"\r\n", b"")
        return value.strip(b" \t").decode("utf-8", "replace")

    @classmethod
    def of(cls, name: str, value: str) -> HeaderField:
        """A new field; `value` may be folded (CRLF, white space). ValueError where it is not one field."""
        raw = f"{name}: {value}\r\n".encode()
        if ":" in name or not _FIELD.fullmatch(raw):
            raise ValueError(f"not one header field: {name!r}: {value!r}")
        return cls(raw)


def split_header(header: bytes) -> list[HeaderField]:
    """The fields of a header section, first to last; lines that are no field come out with an empty name."""
    fields: list[HeaderField] = []
    start = 0
    for match in _NEXT_FIELD.finditer(header):
        fields.append(HeaderField(header[start : match.end()]))
        start = match.end()
    if start < len(header):
        fields.append(HeaderField(header[start:] + b"\r\n"))
    return fields


def begins_with_field(octets: bytes) -> bool:
    """Whether the first line is a header field."""
    return _FIELD_BEGIN.match(octets) is not None


def header_of(start: bytes) -> bytes:
    """The header section of what begins with these octets, with its last CRLF; at most MAX_HEADER octets of it."""
    if start.startswith(b"\r\n"):
        return b""
    end = start.find(b"\r\n\r\n", 0, MAX_HEADER)
    if end >= 0:
        return start[: end + 2]
    if len(start) < MAX_HEADER:
        return start
    return start[: start.rfind(b"\r\n", 0, MAX_HEADER) + 2]
