"""The leaves of a message by its MIME structure (RFC 2045, RFC 2046), whatever is wrong with it.

Programs that show mail do not agree about broken structures, so this reading takes all that any of them might take for
a part: every boundary that is given or looks like one, preambles and epilogues, and parts behind the last delimiter.
It goes over the octets a bounded number of times, and uses no recursion.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from itertools import chain

from mailgate.content.closed import closed_by_octets, closed_by_type
from mailgate.content.decode import decoded
from mailgate.content.fields import PartHeader, clean_name, decode_octets, read_header
from mailgate.content.intext import files_in
from mailgate.content.models import Limits, Problem

__all__ = ["Leaf", "Octets", "Walk", "is_message"]

Octets = bytes | mmap.mmap

#: Gives leaves, and then where to go on, whether that is behind a last delimiter, and the level of what is there.
_Turn = Generator["Leaf", None, tuple[int, bool, int]]

#: Lines that begin with two hyphens and are looked at; octets in which a delimiter is looked for that nobody gives.
_MOST_LINES, _GUESS_IN = 200_000, 64 * 1024
#: How a message begins that is in something else.
_MIME_FIELD = re.compile(rb"(?:mime-version|content-(?:type|transfer-encoding|disposition))[ \t]*+:", re.IGNORECASE)
_MIME_VERSION = re.compile(rb"(?:\A|\n|\xbf)mime-version[ \t]*+:", re.IGNORECASE)
#: Octets in which the header of a message is looked for that is not said to be one.
_MESSAGE_IN = 1000
#: The longest line that may be a delimiter.
_LONGEST = 10_000


@dataclass(slots=True)
class Leaf:
    """A part with no parts of its own; `ways` are what its body decodes to, the likeliest first.

    Offsets are -1 in what is encoded; `holder` is then the number of the leaf that has them.
    """

    number: int
    header: PartHeader
    start: int
    body: int
    end: int
    holder: int
    ways: list[bytes]
    names: list[str]
    marks: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Source:
    """Octets to walk: the message, or what a part decodes to. `base` is their offset in the message, or -1."""

    octets: Octets
    base: int
    holder: int
    level: int
    boundary: bytes | None = None


class Walk:
    """`problems` say what was left out, when the leaves have been taken."""

    def __init__(self, octets: Octets, limits: Limits) -> None:
        self.problems: list[Problem] = []
        self.used = 0  # octets that decoding has yielded
        self.count = 0
        self.is_full = False  # there are more leaves than may be taken: what follows is not looked at
        self._limits = limits
        self._sources = [_Source(octets, 0, -1, 0)]
        self._lines = 0
        self._level = 0

    def leaves(self) -> Iterator[Leaf]:
        """The leaves, first to last; those of encoded messages behind the others."""
        while self._sources and not self.is_full:
            source = self._sources.pop(0)
            self._level = source.level
            yield from _Reading(self, source).leaves()

    def enter(self, octets: bytes, holder: int) -> None:
        """Walk a message, too, that lies in an archive which is in the leaf that has been given last."""
        if self.may_enter(self._level + 1):
            self.add(_Source(octets, -1, holder, self._level + 1))

    def take(self) -> int:
        """The number of the next leaf; -1 where there are too many."""
        if self.count >= self._limits.parts:
            self.is_full = True
            self.note("parts")
            return -1
        self.count += 1
        return self.count - 1

    def note(self, kind: str) -> None:
        """Something was left out."""
        problem = Problem(kind)
        if problem not in self.problems:
            self.problems.append(problem)

    def may_enter(self, level: int) -> bool:
        """Whether one may go a level deeper."""
        if level < self._limits.nesting:
            return True
        self.note("nesting")
        return False

    def may_look(self) -> bool:
        """Whether another line may be looked at."""
        self._lines += 1
        if self._lines <= _MOST_LINES:
            return True
        self.note("lines")
        return False

    @property
    def most_octets(self) -> int:
        """What decoding may yield in all."""
        return self._limits.octets

    def spend(self, octets: int) -> bool:
        """Whether decoding may yield so many octets more."""
        self.used += octets
        if self.used <= self._limits.octets:
            return True
        self.note("octets")
        return False

    def add(self, source: _Source) -> None:
        """Walk these octets later."""
        self._sources.append(source)


class _Reading:
    """One source, from its first octet to its last."""

    def __init__(self, walk: Walk, source: _Source) -> None:
        self._walk = walk
        self._source = source
        self._octets = source.octets
        self._size = len(source.octets)
        # The boundaries that are in force, and the levels of their multiparts.
        self._open: list[tuple[bytes, int]] = []
        self._exact: dict[bytes, int] = {}

    def leaves(self) -> Iterator[Leaf]:
        source = self._source
        at, level = 0, source.level
        if source.boundary is not None:
            self._push([source.boundary], level)
            at, is_last, level = yield from self._between(0, "preamble")
        else:
            is_last = False
        while at < self._size and not self._walk.is_full:
            if is_last:
                at, is_last, level = yield from self._between(at, "epilogue")
            else:
                at, is_last, level = yield from self._entity(at, level)

    def _entity(self, start: int, level: int) -> _Turn:
        """One entity."""
        at, signed = start, False
        while True:
            header = read_header(self._octets, at, lambda line: self._matched(line) is not None)
            if header.is_crowded:
                self._walk.note("headers")
            main = header.type.partition("/")[0]
            is_multipart = any(one.startswith("multipart") for one in header.types)
            closed = closed_by_type(header.types)
            has_parts = is_multipart or (main == "message" and header.end < self._size)
            if (header.names or closed) and not header.is_cut and has_parts:
                yield from self._shell(header, closed)
            if is_multipart and not header.is_cut:
                signed = any("signed" in one for one in header.types)
                if self._walk.may_enter(level + 1):
                    boundaries = header.boundaries or [one for one in [self._guess(header.end)] if one is not None]
                    if boundaries:
                        header.boundaries = boundaries
                        self._push(boundaries, level + 1)
                        return (yield from self._between(header.end, "preamble", header, start))
                return (yield from self._leaf(start, header, []))
            if main == "message" and not header.is_cut and not _is_encoded(header.labels):
                if not self._walk.may_enter(level + 1):
                    return (yield from self._leaf(start, header, []))
                at, level = header.end, level + 1
                continue
            return (yield from self._leaf(start, header, ["signed"] if signed else []))

    def _shell(self, header: PartHeader, marks: list[str]) -> Iterator[Leaf]:
        """The names of what has parts: for some programs it is a file, and not looked into."""
        if (number := self._walk.take()) >= 0:
            yield Leaf(number, header, -1, -1, -1, number, [b""], list(header.names), marks)

    def _leaf(self, start: int, header: PartHeader, marks: list[str]) -> _Turn:
        end, following, is_last, level = self._next(header.end)
        body = self._octets[header.end : end]
        yield from self._made(start, header, header.end, end, body, marks)
        return following, is_last, level

    def _between(self, start: int, mark: str, header: PartHeader | None = None, whole: int = -1) -> _Turn:
        """What stands before, between or behind the parts of a multipart."""
        end, following, is_last, level = self._next(start)
        body = self._octets[start:end]
        if mark == "preamble" and header is not None and not self._is_mine(header, end):
            # None of its delimiters is there: perhaps the boundary is given wrongly.
            guessed = self._guess(start, end)
            level_in = self._source.level + len(self._open) + 1
            if guessed is not None and self._walk.may_enter(level_in) and self._walk.spend(len(body)):
                base = self._source.base + start if self._source.base >= 0 else -1
                self._walk.add(_Source(body, base, self._source.holder, level_in, guessed))
            else:
                yield from self._made(whole, header, start, end, body, [])
        elif body.strip(b" \t\r\n"):
            yield from self._made(start, PartHeader(start), start, end, body, [mark])
        return following, is_last, level

    def _is_mine(self, header: PartHeader, end: int) -> bool:
        if end >= self._size:
            return False
        line = bytes(self._octets[end : end + _LONGEST]).lstrip(b"\r\n")[2:]
        return any(line.startswith(one) for one in header.boundaries)

    def _made(self, start: int, header: PartHeader, at: int, end: int, body: bytes, marks: list[str]) -> Iterator[Leaf]:
        """The leaf, the files in its text, and what is to be walked of it later."""
        walk, source = self._walk, self._source
        number = walk.take()
        if number < 0:
            return
        ways = decoded(body, header.labels)
        kept = []
        for way in ways:
            if way is ways[0] or walk.spend(len(way)):
                kept.append(way)
        marks = [*marks, *closed_by_type(header.types), *closed_by_octets(kept, is_cms=_is_cms(header))]
        base = source.base
        holder = number if base >= 0 else source.holder
        offsets = (base + start, base + at, base + end) if base >= 0 else (-1, -1, -1)
        leaf = Leaf(number, header, *offsets, holder, kept, list(header.names), marks)
        yield leaf
        level = source.level + len(self._open) + 1
        if header.type.startswith("message/") or _looks_like_message(kept[0], header):
            for way in kept:
                is_new = way is not body or (not header.type.startswith("message/") and walk.spend(len(way)))
                if is_new and walk.may_enter(level):
                    walk.add(_Source(way, -1, holder, level))
        elif header.boundaries and _is_encoded(header.labels):
            # A multipart must not be encoded; some programs decode it all the same.
            for way in kept:
                if way is not body and walk.may_enter(level):
                    walk.add(_Source(way, -1, holder, level, header.boundaries[0]))
        elif header.type.partition("/")[0] in ("text", ""):
            guessed = _guess(body)
            if guessed is not None and walk.may_enter(level) and walk.spend(len(body)):
                walk.add(_Source(body, base + at if base >= 0 else -1, holder, level, guessed))
        if _is_cms(header):
            # What is signed and not encrypted lies open in the octets of CMS (RFC 8551 section 3.5.2).
            for way in kept:
                begins = _MIME_FIELD.search(way)
                if begins and walk.may_enter(level) and walk.spend(len(way)):
                    walk.add(_Source(way[begins.start() :], -1, holder, level))
        for file in chain.from_iterable(files_in(way, walk.most_octets) for way in kept):
            if (inner := walk.take()) < 0 or not walk.spend(len(file.data)):
                return
            names = list(filter(None, [clean_name(decode_octets(file.name, ""))]))
            yield Leaf(inner, PartHeader(0), -1, -1, -1, holder, [file.data], names, [file.form])

    def _push(self, boundaries: list[bytes], level: int) -> None:
        if any(len(boundary) > _LONGEST - 4 for boundary in boundaries):
            self._walk.note("headers")
        for boundary in dict.fromkeys(boundaries):
            self._exact[boundary] = len(self._open)
            self._open.append((boundary, level))

    def _next(self, start: int) -> tuple[int, int, bool, int]:
        """The next delimiter in force: where the line break before it is, what is behind it, whether it is a last one,
        and the level of what follows."""
        found = -1 if start == 0 and self._octets[:2] == b"--" else self._find(start - 1)
        while self._open and found < self._size and self._walk.may_look():
            line = bytes(self._octets[found + 3 : found + 3 + _LONGEST]).partition(b"\n")[0]
            matched = self._matched(line.rstrip(b"\r"))
            if matched is not None:
                place, is_last = matched
                level = self._open[place][1]
                self._close(level)
                end = max(start, found - 1 if found > 0 and self._octets[found - 1 : found] == b"\r" else found)
                newline = self._octets.find(b"\n", found + 1)
                return end, self._size if newline < 0 else newline + 1, is_last, level
            found = self._find(found + 1)
        return self._size, self._size, False, 0

    def _find(self, at: int) -> int:
        """The line break before the next line that may be a delimiter, or the end."""
        found = self._octets.find(b"\n--", max(0, at))
        return self._size if found < 0 else found

    def _matched(self, line: bytes) -> tuple[int, bool] | None:
        """Which boundary the line begins with, and whether it is the last delimiter (RFC 2046 section 5.1.1)."""
        line = line.rstrip(b" \t")
        if (place := self._exact.get(line)) is not None:
            return place, False
        if line.endswith(b"--") and (place := self._exact.get(line[:-2])) is not None:
            return place, True
        best = -1
        for index, (boundary, _) in enumerate(self._open):
            if boundary and line.startswith(boundary) and (best < 0 or len(boundary) > len(self._open[best][0])):
                best = index
        if best < 0:
            return None
        return best, line[len(self._open[best][0]) :].startswith(b"--")

    def _close(self, level: int) -> None:
        """Close the multiparts inside the one of this level, which stays: parts may come behind its last delimiter."""
        while self._open and self._open[-1][1] > level:
            self._open.pop()
        self._exact = {boundary: index for index, (boundary, _) in enumerate(self._open)}

    def _guess(self, start: int, end: int | None = None) -> bytes | None:
        stop = start + _GUESS_IN if end is None else min(end, start + _GUESS_IN)
        return _guess(self._octets[max(0, start - 1) : stop])


def _is_cms(header: PartHeader) -> bool:
    return any("pkcs7" in one for one in header.types) or any(
        one.lower().endswith((".p7m", ".p7z")) for one in header.names
    )


def _is_encoded(labels: list[str]) -> bool:
    return any("64" in one or "quoted" in one or "uu" in one for one in labels)


def _guess(body: bytes) -> bytes | None:
    """A boundary by the look of a delimiter: a line with hyphens, and behind it a field of MIME."""
    window = body[:_GUESS_IN]
    lower = window.lower()
    at = lower.find(b"\ncontent-")
    while at >= 0:
        before = window.rfind(b"\n", 0, at)
        line = window[before + 1 : at].rstrip(b" \t\r")
        if line.startswith(b"--") and 2 < len(line) <= _LONGEST:
            return line[2:]
        at = lower.find(b"\ncontent-", at + 1)
    return None


def is_message(name: str, data: bytes) -> bool:
    """Whether a file is opened as a message: by its name, or as programs of Office do with what begins like one."""
    return _is_message_name(name) or _MIME_VERSION.search(data[:_MESSAGE_IN]) is not None


def _is_message_name(name: str) -> bool:
    return name.lower().endswith((".eml", ".mht", ".mhtml"))


def _looks_like_message(way: bytes, header: PartHeader) -> bool:
    """Whether what an attachment of a general type decodes to begins as a message does."""
    if any(map(_is_message_name, header.names)):
        return True
    if header.type.startswith("application/") and is_message("", way):
        return True
    # Without a type it may be a part of multipart/digest.
    if header.type not in ("application/octet-stream", "text/rfc822-headers", ""):
        return False
    start = way[:200].lstrip(b"\r\n").lower()
    return start.startswith((b"received:", b"return-path:", b"from:", b"delivered-to:", b"subject:")) or bool(
        _MIME_FIELD.match(start)
    )
