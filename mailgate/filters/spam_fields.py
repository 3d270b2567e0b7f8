"""Header fields of scanners: ours made of a score, and theirs made into edits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from email.charset import QP, Charset
from email.header import Header

from mailgate.message import AddHeader, Edit, RemoveHeader, split_header

__all__ = ["edits_between", "field_value", "folded_list", "is_field_name", "new_field", "subject_value", "whole_lines"]

_LINE_END = re.compile(r"\r\n|\r|\n")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_FIELD_NAME = re.compile(r"[!-9;-~]{1,70}")
#: Characters of a line, and of a whole value.
_WIDTH, _LONGEST = 76, 8000
#: Octets of a line that is folded only where it must be (RFC 5322 section 2.1.1): there is room for a name before it.
_LONGEST_LINE = 900


def is_field_name(text: str) -> bool:
    """Whether a header field can have this name (RFC 5322 section 2.2)."""
    return _FIELD_NAME.fullmatch(text) is not None


def field_value(text: str) -> str:
    """A text of another program's as the value of one field: its lines are folded, what is no text becomes "?"."""
    lines = [_CONTROL.sub("?", line).strip(" \t") for line in _LINE_END.split(text[:_LONGEST])]
    return "\r\n\t".join(part for line in lines if line for part in _parts(line))


def _parts(line: str) -> Iterator[str]:
    """The line, or pieces of it that are short enough; cut at spaces where there are any."""
    most = _LONGEST_LINE if line.isascii() else _LONGEST_LINE // 4
    while len(line) > most:
        at = line.rfind(" ", 1, most + 1)
        at = most if at < 0 else at
        yield line[:at].rstrip(" \t")
        line = line[at:].lstrip(" \t")
    if line:
        yield line


def new_field(name: str, text: str, *, at_end: bool = False) -> AddHeader | None:
    """The edit that adds this field; None where the name is none of a field, or nothing is left of the text."""
    value = field_value(text)
    return AddHeader(name, value, at_end) if is_field_name(name) and value else None


def whole_lines(octets: bytes) -> bytes:
    """These octets with each CR and LF that stands alone made a line end."""
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def folded_list(start: str, items: Iterable[str]) -> str:
    """`start` and the items with commas between them, folded where a line would be long."""
    lines, line, comma = [], start, ""
    for item in items:
        line += comma
        if comma and len(line) + len(item) > _WIDTH:
            lines.append(line)
            line = ""
        line += item
        comma = ","
    return "\r\n\t".join([*lines, line])


def subject_value(text: str) -> str:
    """A subject as the value of its field (RFC 2047)."""
    text = " ".join(text.split())[:_LONGEST]
    if text.isascii():
        return field_value(text)
    charset = Charset("utf-8")
    charset.header_encoding = QP
    return Header(text, charset, maxlinelen=_WIDTH, header_name="Subject").encode(linesep="\r\n")


def edits_between(before: bytes, after: bytes, ours: bytes = b"") -> list[Edit]:
    """What makes the fields of one header section into those of another, as a scanner has rewritten it.

    Where they stand among the others is not kept: what is new comes on top. `ours` are fields that the scanner was
    shown before them, and which nobody else sees.
    """
    after = whole_lines(after)
    shown, told = Counter(_raw(ours)) + Counter(_raw(before)), _raw(after)
    gone = Counter(_raw(before)) - Counter(told)
    edits: list[Edit] = []
    for field in split_header(before):
        if field.raw in gone and field.name:
            del gone[field.raw]
            edits.append(RemoveHeader(field.name, field.value))
    added = []
    for field in split_header(after):
        if shown[field.raw]:
            shown[field.raw] -= 1
        elif field.name:
            text = field.raw.partition(b":")[2].decode("utf-8", "replace")
            added.append(new_field(field.name, text))
    return edits + [one for one in reversed(added) if one is not None]


def _raw(header: bytes) -> Sequence[bytes]:
    return [field.raw for field in split_header(header)]
