"""One message, looked at in all the ways that were asked for; in a worker process."""

from __future__ import annotations

import codecs
import mmap
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from publicsuffixlist import PublicSuffixList

from mailgate.content.archives import Unpacker
from mailgate.content.fields import decode_octets, decode_words
from mailgate.content.kinds import Sniffer
from mailgate.content.links import LinkReader, urls_in
from mailgate.content.models import Examination, Part, Question, Rule
from mailgate.content.text import Page, read_html
from mailgate.content.walk import Leaf, Octets, Walk, is_message

__all__ = ["Examiner"]

#: Octets of the header section that are searched; rules for "raw" see all of the message.
_MOST_HEADER = 256 * 1024
#: Memory that one regular expression may take.
_EXPRESSION_MEMORY = 8 * 1024 * 1024


class Examiner:
    """Holds what is costly to make: libmagic, the list of public suffixes, compiled rules."""

    def __init__(self) -> None:
        self._sniffer = Sniffer()
        self._suffixes: PublicSuffixList | None = None

    def answer(self, question: Question) -> Examination:
        """What is found. OSError where the file of the message cannot be read."""
        if not question.path:
            return self._examine(question.data, question)
        with open(question.path, "rb") as file:
            try:
                octets: Octets = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:  # it is empty
                octets = b""
            return self._examine(octets, question)

    def _examine(self, octets: Octets, question: Question) -> Examination:
        return _Work(octets, question, self._sniffer.type_of, self._list_of_suffixes).done()

    def _list_of_suffixes(self) -> PublicSuffixList:
        if self._suffixes is None:
            self._suffixes = PublicSuffixList()
        return self._suffixes


class _Work:
    """One question about one message."""

    def __init__(
        self,
        octets: Octets,
        question: Question,
        type_of: Callable[[bytes], str],
        suffixes: Callable[[], PublicSuffixList],
    ) -> None:
        self._octets = octets
        self._question = question
        self._type_of = type_of
        self._walk = walk = Walk(octets, question.limits)
        self._unpacker = Unpacker(question.limits, type_of, walk.note, walk.spend, self._found)
        self._holder = -1
        self._links = LinkReader(suffixes()) if question.links else None
        self._rules = _Search(question.rules)
        self._parts: list[Part] = []
        self._room = question.limits.text

    def done(self) -> Examination:
        for leaf in self._walk.leaves():
            self._take(leaf)
        header = _header_of(self._octets)
        self._rules.header(header)
        if self._rules.wants("raw"):
            self._rules.look("raw", bytes(self._octets))
        if self._links is not None:
            if self._links.is_full:
                self._walk.note("links")
            self._links.add(urls_in(decode_words(_value(header, b"subject"))))
        return Examination(
            parts=tuple(self._parts),
            members=tuple(self._unpacker.members),
            links=tuple(self._links.links) if self._links else (),
            matches=tuple(self._rules.found),
            problems=tuple(self._walk.problems),
        )

    def _take(self, leaf: Leaf) -> None:
        found = [[self._type_of(way)] if way else [] for way in leaf.ways]
        types = list(dict.fromkeys(chain.from_iterable(found)))
        marks = list(leaf.marks)
        self._holder = leaf.holder
        if self._question.archives:
            name = leaf.names[0] if leaf.names else ""
            for way, of_way in zip(leaf.ways, found, strict=True):
                marks += self._unpacker.marks(leaf.number, way, of_way, name)
        self._parts.append(
            Part(
                number=leaf.number,
                start=leaf.start,
                body=leaf.body,
                end=leaf.end,
                holder=leaf.holder,
                type=leaf.header.type,
                types=tuple(types),
                names=tuple(leaf.names),
                size=len(leaf.ways[0]),
                marks=tuple(dict.fromkeys(marks)),
                also=tuple(leaf.header.types[1:]),
            )
        )
        if self._links is not None or self._rules.wants("text"):
            self._text(leaf, types)

    def _found(self, name: str, data: bytes) -> None:
        if is_message(name, data):
            self._walk.enter(data, self._holder)

    def _text(self, leaf: Leaf, types: Sequence[str]) -> None:
        declared = leaf.header.type
        is_html = "html" in declared or "text/html" in types
        if not (
            is_html or declared.startswith("text/") or not declared or any(one.startswith("text/") for one in types)
        ):
            return
        for way in leaf.ways:
            if self._room <= 0:
                self._walk.note("text")
                return
            charset = leaf.header.charsets[0] if leaf.header.charsets else _by_mark(way)
            text = decode_octets(way[: 4 * self._room], charset)[: self._room]
            self._room -= len(text)
            page = read_html(text) if is_html or "<a " in text[:100_000].lower() else Page(text)
            if page.is_cut:
                self._walk.note("links")
            if self._links is not None:
                self._links.add(f"{page.base.rstrip('/')}/" if one is page.base else one for one in page.links)
                self._links.add(urls_in(page.text))
                if self._question.bare_hosts:
                    self._links.add_bare(page.text)
            self._rules.look("text", page.text.encode("utf-8", "replace"))


class _Search:
    """Rules, and those that have matched. RE2 takes time linear in the text whatever the expression is."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.found: list[str] = []
        self._by_place: dict[str, list[tuple[str, Any]]] = {}
        for rule in rules:
            self._by_place.setdefault(rule.where, []).append((rule.name, _compiled(rule)))

    def wants(self, where: str) -> bool:
        return where in self._by_place

    def look(self, where: str, text: bytes) -> None:
        for name, pattern in self._by_place.get(where, ()):
            if name not in self.found and pattern.search(text):
                self.found.append(name)

    def header(self, header: bytes) -> None:
        if self.wants("headers"):
            self.look("headers", header)
        for where in self._by_place:
            if where.startswith("header:"):
                value = _value(header, where.removeprefix("header:").encode())
                self.look(where, decode_words(value).encode("utf-8", "replace"))


@lru_cache(maxsize=10_000)
def _compiled(rule: Rule) -> Any:
    import re2  # type: ignore[import-untyped]  # it has no types; only rules need it

    options = re2.Options()
    options.case_sensitive = not rule.ignore_case
    options.literal = rule.is_plain
    options.log_errors = False
    options.max_mem = _EXPRESSION_MEMORY
    return re2.compile(rule.pattern.encode(), options)


def _header_of(octets: Octets) -> bytes:
    start = octets[:_MOST_HEADER]
    ends = [at for at in (start.find(b"\r\n\r\n"), start.find(b"\n\n")) if at >= 0]
    return start[: min(ends)] if ends else start


def _value(header: bytes, name: bytes) -> str:
    """The values of all fields of a name, unfolded, each on a line."""
    values: list[bytes] = []
    is_open = False
    for line in header.split(b"\n"):
        line = line.rstrip(b"\r")
        if line[:1] in (b" ", b"\t"):
            if is_open:
                values[-1] += line
            continue
        key, colon, value = line.partition(b":")
        is_open = bool(colon) and key.strip().lower() == name
        if is_open:
            values.append(value.strip())
    return decode_octets(b"\n".join(values), "")


def _by_mark(way: bytes) -> str:
    """The charset that the octets begin with a mark of."""
    for mark, charset in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if way.startswith(mark):
            return charset
    return ""
