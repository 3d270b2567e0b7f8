"""The XML of DMARC aggregate reports that others made, as values: whatever comes is taken for an attack.

It is read as a stream, so memory is bounded by what is kept of it (RFC 9990 section 8.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from xml.parsers import expat

from mailgate.mailauth.dmarc.aggregate import (
    AggregateReport,
    AggregateRow,
    DkimOutcome,
    Override,
    PublishedPolicy,
    SpfOutcome,
)

__all__ = ["Budget", "ReportError", "parse_report"]

#: Octets that one name, tag or comment may have.
_MAX_TOKEN = 1024 * 1024
#: Elements inside one another; the schemas have six.
_MAX_DEPTH = 32
#: Characters of one value that are kept, and entries of one kind in a row.
_LONGEST, _MOST_RESULTS = 1000, 100
_NUMBER = re.compile(r"[0-9]{1,18}")
#: Between an element's namespace and its name, as the parser gives it.
_SPACE = " "


class ReportError(ValueError):
    """The octets are no report that can be read; the message says why, in one line."""


class Budget:
    """What is left of the octets and rows that one file may unpack to."""

    def __init__(self, octets: int, rows: int) -> None:
        self.octets = octets
        self.rows = rows

    def spend_octets(self, count: int) -> None:
        """ReportError where there are none left."""
        self.octets -= count
        if self.octets < 0:
            raise ReportError("is too large when it is unpacked")

    def spend_row(self) -> None:
        """ReportError where there are none left."""
        self.rows -= 1
        if self.rows < 0:
            raise ReportError("has too many rows")


def parse_report(pieces: Iterable[bytes], budget: Budget) -> AggregateReport:
    """The report in a document that comes in pieces; ReportError where it is none, or hostile.

    A document type, and with it every entity, ends the reading. Elements of another namespace than the first one's, and
    those that the schemas do not know, are passed over.
    """
    reading = _Reading(budget)
    total = 0
    try:
        for piece in pieces:
            budget.spend_octets(len(piece))
            total += len(piece)
            reading.parser.Parse(piece, False)
            # What does not end yet is gone through again with each piece.
            if total - max(reading.parser.CurrentByteIndex, 0) > _MAX_TOKEN:
                raise ReportError("has a tag or a comment that is too long")
        reading.parser.Parse(b"", True)
    except (expat.ExpatError, UnicodeError, LookupError) as error:
        raise ReportError(f"is no well-formed XML: {' '.join(str(error).split())[:200]}") from None
    return reading.report()


@dataclass(slots=True)
class _Node:
    """An element whose children are values or, where they may come several times, other nodes."""

    values: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, list[_Node]] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return self.values.get(name, "")

    def first(self, name: str) -> _Node:
        return (self.nodes.get(name) or [_EMPTY])[0]

    def all(self, name: str) -> list[_Node]:
        return self.nodes.get(name, [])[:_MOST_RESULTS]

    def number(self, name: str) -> int:
        if not _NUMBER.fullmatch(text := self.text(name).strip()):
            raise ReportError(f"has a <{name}> that is no number")
        return int(text)


_EMPTY = _Node()

#: Elements that hold others, each with those that it may be in. All else is a value, or an extension.
_CONTAINERS = {
    "report_metadata": "feedback",
    "policy_published": "feedback",
    "record": "feedback",
    "date_range": "report_metadata",
    "row": "record",
    "identifiers": "record",
    "auth_results": "record",
    "policy_evaluated": "row",
    "reason": "policy_evaluated",
    "dkim": "auth_results",
    "spf": "auth_results",
}


class _Reading:
    """One document: what the parser calls, and the rows so far."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.parser = parser = expat.ParserCreate(namespace_separator=_SPACE)
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        self._namespace = ""
        self._path: list[tuple[str, _Node | None]] = []
        self._text: list[str] = []
        self._room = 0
        self._root = _Node()
        self._rows: list[AggregateRow] = []
        self._errors: list[str] = []

    def report(self) -> AggregateReport:
        """What the document said, once all of it is there."""
        metadata = self._root.first("report_metadata")
        span = metadata.first("date_range")
        policy = self._root.first("policy_published")
        if not self._rows:
            raise ReportError("is a report without rows")
        begin, end = span.number("begin"), span.number("end")
        return AggregateReport(
            organization=metadata.text("org_name"),
            email=metadata.text("email"),
            contact=metadata.text("extra_contact_info"),
            report_id=metadata.text("report_id"),
            begin=begin,
            end=end,
            published=_published(policy),
            rows=tuple(self._rows),
            errors=tuple(self._errors),
            generator=metadata.text("generator"),
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        namespace, _, name = tag.rpartition(_SPACE)
        if len(self._path) >= _MAX_DEPTH:
            raise ReportError("has elements too deep inside one another")
        self._text.clear()
        self._room = _LONGEST
        if not self._path:
            if name != "feedback":
                raise ReportError(f"is no DMARC aggregate report: it begins with <{name[:40]}>")
            self._namespace = namespace
            self._path.append((name, self._root))
            return
        above, node = self._path[-1]
        inner: _Node | None = None
        if namespace == self._namespace and node is not None and _CONTAINERS.get(name) == above:
            inner = _Node()
        self._path.append((name if namespace == self._namespace else "", inner))

    def _characters(self, text: str) -> None:
        if self._room > 0:
            self._text.append(text[: self._room])
            self._room -= len(text)

    def _end(self, tag: str) -> None:
        name, node = self._path.pop()
        text = "".join(self._text).strip()
        self._text.clear()
        self._room = 0
        if not self._path or not name:
            return
        above, parent = self._path[-1]
        if parent is None:
            return
        if node is None:
            if name == "error" and above == "report_metadata" and len(self._errors) < _MOST_RESULTS:
                self._errors.append(text)
            elif name in _VALUES:
                parent.values.setdefault(name, text)
        elif name == "record":
            self._budget.spend_row()
            self._rows.append(_row(node))
        elif len(siblings := parent.nodes.setdefault(name, [])) < _MOST_RESULTS:
            siblings.append(node)


def _refuse_doctype(*_: object) -> None:
    raise ReportError("has a document type, which no report has: entities are refused")


#: What is kept of the elements that hold text.
_VALUES = frozenset(
    {
        *("org_name", "email", "extra_contact_info", "report_id", "generator", "begin", "end"),
        *("domain", "p", "sp", "np", "adkim", "aspf", "pct", "fo", "testing", "discovery_method"),
        *("source_ip", "count", "disposition", "dkim", "spf", "type", "comment"),
        *("header_from", "envelope_from", "envelope_to", "selector", "scope", "result", "human_result"),
    }
)


def _published(node: _Node) -> PublishedPolicy:
    if not node.text("domain"):
        raise ReportError("does not say which domain it is about")
    percent = node.text("pct")
    return PublishedPolicy(
        domain=node.text("domain").lower().removesuffix("."),
        policy=node.text("p"),
        subdomain_policy=node.text("sp"),
        missing_policy=node.text("np"),
        dkim_alignment=node.text("adkim"),
        spf_alignment=node.text("aspf"),
        is_testing=node.text("testing") == "y",
        failure_options=node.text("fo"),
        discovery=node.text("discovery_method"),
        percent=int(percent) if _NUMBER.fullmatch(percent) else 100,
    )


def _row(node: _Node) -> AggregateRow:
    row, identifiers, results = node.first("row"), node.first("identifiers"), node.first("auth_results")
    evaluated = row.first("policy_evaluated")
    return AggregateRow(
        source=_address(row.text("source_ip")),
        count=row.number("count"),
        disposition=evaluated.text("disposition").lower(),
        dkim=evaluated.text("dkim").lower(),
        spf=evaluated.text("spf").lower(),
        header_from=identifiers.text("header_from").lower(),
        envelope_from=identifiers.text("envelope_from").lower(),
        envelope_to=identifiers.text("envelope_to").lower(),
        overrides=tuple(Override(one.text("type"), one.text("comment")) for one in evaluated.all("reason")),
        dkim_results=tuple(
            DkimOutcome(one.text("domain").lower(), one.text("selector"), one.text("result"), one.text("human_result"))
            for one in results.all("dkim")
        ),
        spf_results=tuple(
            SpfOutcome(one.text("domain").lower(), one.text("scope"), one.text("result"), one.text("human_result"))
            for one in results.all("spf")
        ),
    )


def _address(text: str) -> str:
    """An address in its one spelling; what is none stays as it is."""
    try:
        return str(ip_address(text))
    except ValueError:
        return text
