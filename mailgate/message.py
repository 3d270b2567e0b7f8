"""A message's content, its header fields, and the edits that are recorded on it (RFC 5322 section 2)."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

__all__ = [
    "MAX_HEADER",
    "AddHeader",
    "Content",
    "ContentWriter",
    "Edit",
    "HeaderField",
    "MemoryBudget",
    "Message",
    "RemoveHeader",
    "RenameHeader",
    "apply_edits",
    "behind_header",
    "rendered",
    "split_header",
]

#: The largest header section that is looked at, in octets. What is behind it counts as body.
MAX_HEADER = 256 * 1024

_CHUNK = 256 * 1024
_FIELD_NAME = re.compile(rb"[!-9;-~]+")
#: A field, folded where white space and more follow. What a part gives back nothing else can take. No group takes for
#: good: before 3.11.5 Python finds nothing then.
_FIELD = re.compile(rb"[!-9;-~]++:(?:[^\r\n\0]++|\r\n(?=[ \t]++[^ \t\r\n]))*\r\n")
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


class MemoryBudget:
    """Octets of content that all who share it may keep in memory, from when it comes in until it is durable."""

    __slots__ = ("ceiling", "used")

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.used = 0


class Content:
    """The octets of one message, received once and never changed.

    In memory, or in a file that whoever holds the content owns (`discard` removes it; the spool takes it
    over). `size` counts octets; `header` is the header section with its last CRLF, without the empty line. What lies in
    memory may have a share of a budget, which whoever is done with receiving it gives back. `is_whole_lines`: whoever
    received it has seen that each CR and each LF of it is part of a CRLF.
    """

    __slots__ = ("_budget", "_data", "_header", "is_whole_lines", "path", "size")

    def __init__(
        self, data: bytes | None, path: Path | None = None, size: int = 0, budget: MemoryBudget | None = None
    ) -> None:
        if (data is None) == (path is None):
            raise ValueError("content lies in memory or in a file")
        self._data = data
        self._header: bytes | None = None
        self._budget = budget
        self.is_whole_lines = False
        self.path = path
        self.size = len(data) if data is not None else size

    @classmethod
    def in_file(cls, path: Path) -> Content:
        """Content that lies in a file; OSError where it does not."""
        return cls(None, path, path.stat().st_size)

    @property
    def in_memory(self) -> bool:
        """Whether `read` costs nothing."""
        return self._data is not None

    @property
    def header(self) -> bytes:
        """The header section, each field with its CRLF; at most MAX_HEADER octets of it."""
        if self._header is None:
            start = self._data if self._data is not None else next(self.chunks(MAX_HEADER), b"")
            self._header = _header_of(start)
        return self._header

    def chunks(self, size: int = _CHUNK) -> Iterator[bytes]:
        """The octets in pieces of at most `size`; OSError where the file cannot be read."""
        if self._data is not None:
            if len(self._data) <= size:
                yield self._data
            else:
                yield from (self._data[at : at + size] for at in range(0, len(self._data), size))
            return
        with self._path().open("rb") as file:
            while chunk := file.read(size):
                yield chunk

    def read(self) -> bytes:
        """All octets at once."""
        return self._data if self._data is not None else self._path().read_bytes()

    def discard(self) -> None:
        """Remove the file, if there is one; for content that nobody has taken over. Never raises."""
        if self.path is not None:
            # A disk that cannot even do this is no reason to fail: the next start removes what stays.
            with contextlib.suppress(OSError):
                self.path.unlink()

    def give_back(self) -> None:
        """Its share of the budget is free again. Safe to call twice; in the reactor's thread."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.used -= self.size

    def _path(self) -> Path:
        if self.path is None:
            raise ValueError("the content has no file")
        return self.path


class ContentWriter:
    """Gathers content as it comes: in memory up to `memory_limit` octets, then in a new file in `directory`; there at
    once where the `budget` that is shared with others has been spent.

    `write` and `finish` raise OSError when the disk does (ENOSPC, EDQUOT); `abandon` then removes the file.
    The file is not synced here: the spool does that before it says that the message is durable.
    """

    def __init__(self, directory: Path, memory_limit: int, budget: MemoryBudget | None = None) -> None:
        self._directory = directory
        self._limit = memory_limit
        self._budget = MemoryBudget(memory_limit) if budget is None else budget
        self._held = 0  # octets of the budget
        self._first = b""  # most content comes in one piece, and need not be copied
        self._more = bytearray()
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self.size = 0

    def write(self, data: bytes) -> None:
        """Add octets."""
        self.size += len(data)
        if self._file is not None:
            self._file.write(data)
            return
        if self._first or self._more:
            self._more += data
        else:
            self._first = data
        budget = self._budget
        budget.used += len(data)
        self._held += len(data)
        if self.size > self._limit or budget.used > budget.ceiling:
            self._spill()

    def finish(self) -> Content:
        """The content, with its share of the budget; nothing can be written behind it."""
        if self._file is None or self._path is None:
            self._held = 0
            return Content(self._first + self._more if self._more else self._first, budget=self._budget)
        self._file.close()
        return Content(None, self._path, self.size)

    def abandon(self) -> None:
        """Throw away what came so far. Safe at any time before `finish` has returned; never raises."""
        self._first, self._more = b"", bytearray()
        self._give_back()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _give_back(self) -> None:
        self._budget.used -= self._held
        self._held = 0

    def _spill(self) -> None:
        self._give_back()
        descriptor, name = tempfile.mkstemp(prefix="incoming-", dir=self._directory)
        self._path = Path(name)
        self._file = os.fdopen(descriptor, "wb", buffering=_CHUNK)
        self._file.write(self._first)
        self._file.write(self._more)
        self._first, self._more = b"", bytearray()


@dataclass(frozen=True, slots=True)
class AddHeader:
    """Put a field at the top of the header section, or at its end. ValueError where it would not be one field."""

    name: str
    value: str
    at_end: bool = False
    raw: bytes = dataclass_field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "raw", HeaderField.of(self.name, self.value).raw)


class RemoveHeader(Struct, frozen=True):
    """Remove every field of this name (case does not matter), or only those whose value is `value`."""

    name: str
    value: str | None = None


class RenameHeader(Struct, frozen=True):
    """Give every field of this name another name; its value keeps its octets."""

    name: str
    to: str


Edit = AddHeader | RemoveHeader | RenameHeader


class Message:
    """Content with its header fields parsed once, on first use: what filters look at."""

    __slots__ = ("_fields", "content")

    def __init__(self, content: Content) -> None:
        self.content = content
        self._fields: list[HeaderField] | None = None

    @property
    def fields(self) -> list[HeaderField]:
        """The header fields as received, first to last."""
        if self._fields is None:
            self._fields = split_header(self.content.header)
        return self._fields

    def values(self, name: str) -> list[str]:
        """The unfolded values of every field of this name; case does not matter."""
        wanted = name.lower()
        return [field.value for field in self.fields if field.name.lower() == wanted]


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


def apply_edits(header: bytes, edits: Sequence[Edit]) -> bytes:
    """The header section after the edits, in their order. Fields that no edit names keep their octets."""
    top = b""
    fields: list[HeaderField] | None = None
    # Removals that follow one another are made in one go: there may be as many as the message has fields.
    for removes, group in groupby(edits, _is_removal):
        if removes:
            fields = split_header(top + header) if fields is None else fields
            fields = list(_without(fields, group))
            continue
        for edit in group:
            if isinstance(edit, AddHeader):
                raw = edit.raw
                if not edit.at_end and fields is None:
                    top = raw + top
                    continue
                fields = split_header(top + header) if fields is None else fields
                fields.insert(len(fields) if edit.at_end else 0, HeaderField(raw))
            elif isinstance(edit, RenameHeader):
                fields = split_header(top + header) if fields is None else fields
                fields = list(_renamed(fields, edit))
    return top + header if fields is None else b"".join(field.raw for field in fields)


def rendered(content: Content, edits: Sequence[Edit]) -> Iterator[bytes]:
    """The octets that are sent on: the edited header section, then the rest as it came."""
    if all(isinstance(edit, AddHeader) and not edit.at_end for edit in edits):
        # Fields on top need no parsing: this is the common case and the fast one.
        yield apply_edits(b"", edits)
        yield from content.chunks()
        return
    yield apply_edits(content.header, edits)
    yield from behind_header(content)


def behind_header(content: Content) -> Iterator[bytes]:
    """What follows the header section, the empty line first."""
    skip = len(content.header)
    for chunk in content.chunks():
        if skip < len(chunk):
            yield chunk[skip:]
        skip = max(0, skip - len(chunk))


def _is_removal(edit: Edit) -> bool:
    return isinstance(edit, RemoveHeader)


def _without(fields: Iterable[HeaderField], edits: Iterable[Edit]) -> Iterator[HeaderField]:
    """The fields that none of these removals is about."""
    whole: set[str] = set()
    some: dict[str, set[str]] = {}
    for edit in edits:
        if isinstance(edit, RemoveHeader):
            if edit.value is None:
                whole.add(edit.name.lower())
            else:
                some.setdefault(edit.name.lower(), set()).add(edit.value)
    for field in fields:
        name = field.name.lower()
        if name not in whole and (name not in some or field.value not in some[name]):
            yield field


def _renamed(fields: Iterable[HeaderField], edit: RenameHeader) -> Iterator[HeaderField]:
    name = edit.name.lower()
    for field in fields:
        if field.name.lower() != name:
            yield field
        else:
            yield HeaderField(edit.to.encode("ascii") + b":" + field.raw.partition(b":")[2])


def _header_of(start: bytes) -> bytes:
    if start.startswith(b"\r\n"):
        return b""
    end = start.find(b"\r\n\r\n", 0, MAX_HEADER)
    if end >= 0:
        return start[: end + 2]
    if len(start) < MAX_HEADER:
        return start
    return start[: start.rfind(b"\r\n", 0, MAX_HEADER) + 2]
