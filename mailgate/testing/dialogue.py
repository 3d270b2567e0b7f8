"""Conversations with the gateway that a mail administrator can read, and that prove themselves: how they are written.

The format is described in `tests/dialogues/README.md`; `mailgate.testing.player` holds them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from mailgate.interfaces import DnsStatus

__all__ = ["Dialogue", "DialogueError", "Line", "fits", "parse", "unescaped"]

_SECTION = re.compile(r"--- (config|zone|dialogue|events|queue|message|file (\S+))")
_ESCAPE = re.compile(r"\\(?:([rnt\\#])|x([0-9A-Fa-f]{2}))")
_ESCAPES = {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}


class DialogueError(AssertionError):
    """A dialogue that cannot be read, or did not go as it is written: FILE:LINE and what was otherwise."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a dialogue and its number."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A dialogue as it is written. `events` must be complete and in order; `queue` and `message` may be left out."""

    name: str
    title: str
    steps: Sequence[Line]
    events: Sequence[Line]
    config: str = ""
    zone: dict[str, dict[str, Any]] = field(default_factory=dict)
    """as MemoryResolver reads it"""
    files: dict[str, str] = field(default_factory=dict)
    queue: Sequence[Line] | None = None
    message: Sequence[Line] | None = None


def parse(text: str, name: str = "dialogue") -> Dialogue:
    """Read a dialogue; DialogueError where it is none."""
    sections: dict[str, list[Line]] = {"": []}
    current = sections[""]
    for number, one in enumerate(text.splitlines(), 1):
        if one.startswith("--- "):
            match = _SECTION.fullmatch(one.rstrip())
            if match is None or match[1] in sections:
                raise DialogueError(f"{name}:{number}: no section of a dialogue, or one that stands here twice: {one}")
            current = sections.setdefault(match[1], [])
        else:
            current.append(Line(number, one.rstrip()))
    for needed in ("dialogue", "events"):
        if needed not in sections:
            raise DialogueError(f"{name}:1: it has no section {needed}")
    return Dialogue(
        name,
        title="\n".join(line.text for line in sections[""]).strip(),
        steps=_without_comments(sections["dialogue"]),
        events=_without_comments(sections["events"]),
        config="\n".join(line.text for line in sections.get("config", ())),
        zone=_zone(_without_comments(sections.get("zone", ())), name),
        files={
            section.removeprefix("file "): "".join(f"{line.text}\n" for line in lines)
            for section, lines in sections.items()
            if section.startswith("file ")
        },
        queue=_without_comments(sections["queue"]) if "queue" in sections else None,
        message=_stripped(sections["message"]) if "message" in sections else None,
    )


def unescaped(text: str, number: int) -> bytes:
    """The octets of a `C*:` line, as it is sent for this number of times."""
    escapes = {**_ESCAPES, "#": str(number)}

    def octet(match: re.Match[str]) -> str:
        return escapes[match[1]] if match[1] else chr(int(match[2], 16))

    return _ESCAPE.sub(octet, text).encode("latin-1")


def fits(pattern: str, text: str) -> bool:
    """Whether the text is as the pattern says: `...` is any text, and /.../ a regular expression."""
    if len(pattern) > 1 and pattern[0] == pattern[-1] == "/":
        return re.fullmatch(pattern[1:-1], text) is not None
    return re.fullmatch(".*".join(map(re.escape, pattern.split("..."))), text, re.DOTALL) is not None


def _without_comments(lines: Iterable[Line]) -> list[Line]:
    return [line for line in lines if line.text and not line.text.startswith("#")]


def _stripped(lines: Sequence[Line]) -> list[Line]:
    """Without the empty lines at its ends."""
    kept = list(lines)
    while kept and not kept[-1].text:
        kept.pop()
    while kept and not kept[0].text:
        kept.pop(0)
    return kept


def _zone(lines: Iterable[Line], name: str) -> dict[str, dict[str, Any]]:
    """The records; several lines of one name and type are one set."""
    zone: dict[str, dict[str, Any]] = {}
    for line in lines:
        owner, rdtype, *values = line.text.split()
        with contextlib.suppress(ValueError):
            owner = ip_address(owner).reverse_pointer
        sets = zone.setdefault(owner.lower(), {})
        text = " ".join(values)
        records = text if text in DnsStatus.__members__ else _records(rdtype, text, values)
        if not records or isinstance(sets.get(rdtype, records), str) is not isinstance(records, str):
            raise DialogueError(f"{name}:{line.number}: no record: {line.text}")
        sets[rdtype] = records if isinstance(records, str) else [*sets.get(rdtype, ()), *records]
    return zone


def _records(rdtype: str, text: str, values: Sequence[str]) -> list[Any]:
    """What a line says; nothing where it is no record."""
    try:
        match rdtype:
            case "A" | "AAAA":
                return [ip_address(value) for value in values]
            case "MX":
                preference, host = values
                return [(int(preference), host)]
            case "PTR" | "CNAME":
                return list(values)
            case "TXT":
                return [text.strip('"')]
    except ValueError:
        pass
    return []
