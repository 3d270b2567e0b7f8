"""The octets of a message: received once, kept in memory or in a file, never changed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mailgate.message.header import (
    MAX_HEADER,
    MAX_HEADER_LINES,
    HeaderField,
    begins_with_field,
    header_of,
    split_header,
)

__all__ = ["Content", "ContentWriter", "MemoryBudget", "Message", "behind_header", "header_problem"]

_CHUNK = 256 * 1024


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
            self._header = header_of(start)
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

    def part(self, start: int, end: int) -> bytes:
        """The octets from `start` up to `end`, or what there is of them; OSError where the file cannot be read."""
        if self._data is not None:
            return self._data[start:end]
        with self._path().open("rb") as file:
            file.seek(start)
            return file.read(end - start)

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


class Message:
    """Content with its header fields parsed once, on first use: what filters look at."""

    __slots__ = ("_by_name", "_fields", "content")

    def __init__(self, content: Content) -> None:
        self.content = content
        self._fields: list[HeaderField] | None = None
        self._by_name: dict[str, list[HeaderField]] | None = None

    @property
    def fields(self) -> list[HeaderField]:
        """The header fields as received, first to last."""
        if self._fields is None:
            self._fields = split_header(self.content.header)
        return self._fields

    def values(self, name: str) -> list[str]:
        """The unfolded values of every field of this name; case does not matter."""
        found = self._by_name
        if found is None:
            found = self._by_name = {}
            for field in self.fields:
                found.setdefault(field.name.lower(), []).append(field)
        return [field.value for field in found.get(name.lower(), ())]


def behind_header(content: Content) -> Iterator[bytes]:
    """What follows the header section, the empty line first."""
    skip = len(content.header)
    for chunk in content.chunks():
        if skip < len(chunk):
            yield chunk[skip:]
        skip = max(0, skip - len(chunk))


def header_problem(content: Content) -> str:
    """Why other programs may find other fields in the header section than we do, or more than anybody wants to look at;
    "" for honest mail. OSError where the content's file cannot be read.
    """
    header = content.header
    lines = header.count(b"\r\n")
    if not content.is_whole_lines and (header.count(b"\n") != lines or header.count(b"\r") != lines or b"\0" in header):
        return "the header section holds a bare CR or LF, or a NUL"
    is_cut = len(header) < content.size and content.part(len(header), len(header) + 2) != b"\r\n"
    if not (is_cut or lines > MAX_HEADER_LINES) or not begins_with_field(header):
        return ""  # text without any header, as simple programs send it, is a body to everybody
    most = f"{MAX_HEADER} octets" if is_cut else f"{MAX_HEADER_LINES} lines"
    return f"the header section has more than {most}"
