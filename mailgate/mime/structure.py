"""The structure of a MIME message, by offsets into its octets (RFC 2045, RFC 2046): what may be re-encoded, and where.

The scanner goes through the octets once, whatever they hold, and looks into no body but for delimiter lines. It takes
time in proportion to their number, and memory in proportion to that of the parts.
"""

from __future__ import annotations

import enum
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mailgate.message import MAX_HEADER
from mailgate.wire.content import MAX_LINE

__all__ = [
    "MAX_NESTING",
    "MAX_PARTS",
    "Entity",
    "Kind",
    "Octets",
    "Piece",
    "RecodeError",
    "Role",
    "mime_fields",
    "parameter_of",
    "scan",
    "with_fields",
]

#: Containers inside one another, and entities of one message: what honest mail stays far below.
MAX_NESTING, MAX_PARTS = 100, 10_000

#: Octets with offsets: in memory, or of a file.
Octets = bytes | mmap.mmap

_LABEL_FIELD, _TYPE_FIELD = "content-transfer-encoding", "content-type"
_MIME_FIELD = re.compile(
    rb"(?im)^(content-type|content-transfer-encoding|mime-version)[ \t]*+:((?:[^\r\n]++|\r\n(?=[ \t]))*)(?:\r\n|\Z)"
)
_WELL_FORMED = re.compile(rb"(?:[!-9;-~]++:[^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*\r\n)*")
_TYPE = re.compile(rb"\s*+([!-.0-:<-~]++)\s*+/\s*+([!-:<-~]++)")
_PARAMETER = re.compile(rb';\s*+([^\s=;"]++)\s*+=\s*+(?:"((?:[^"\\]++|\\.)*)"?|([^\s;]*+))', re.DOTALL)
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_TOKEN = re.compile(rb'\s*+"?([^\s;("]++)')
# A line that may be a delimiter. It starts after CRLF and ends before CRLF: a lone CR or LF does neither.
_CANDIDATE = re.compile(rb"\r\n--([^\r\n]++)(?=\r\n|\Z)")

#: Octets that are searched at once, and those at their end in which a delimiter may begin that does not end there.
_WINDOW, _OVERLAP = 1024 * 1024, MAX_LINE + 8

_ENCODED = ("base64", "quoted-printable")
_DESCEND = ("message/rfc822", "message/news")
_SEALED = ("multipart/signed", "multipart/encrypted")


class RecodeError(Exception):
    """The content cannot be made fit for the next hop. `status` is the enhanced status code of that refusal.

    5.6.3: it would have to be converted, and must not or cannot be. 5.6.7: header fields have octets beyond US-ASCII.
    """

    def __init__(self, reason: str, status: Literal["5.6.3", "5.6.7"] = "5.6.3") -> None:
        super().__init__(reason)
        self.status = status


class Kind(enum.Enum):
    """What may be done about an entity's body."""

    LEAF = "it may be encoded"
    SEALED = "it must stay as it is: signed, encrypted, or of a type that allows no encoding"
    MULTIPART = "its parts may be encoded, one by one"
    MESSAGE = "the message in it may be converted"


class Role(enum.Enum):
    """What a piece of content is."""

    HEADER = "the header section of an entity, with its last CRLF"
    BODY = "the whole body of a leaf or of a sealed entity"
    PREAMBLE = "what stands before the first delimiter of a multipart"
    EPILOGUE = "what follows the last delimiter of a multipart"
    FIXED = "a delimiter line with the CRLF before it, the line between header and body, a header without body"


@dataclass(slots=True, eq=False)
class Entity:
    """A message or a body part.

    `type` is in lower case ("text/plain" where none is said), `label` its Content-Transfer-Encoding in lower case, ""
    where it has none or one that says nothing. `parts` counts the parts of a multipart. `rank` and `changes` belong
    to the one that converts: what stays in the entity (0 for 7-bit, 1 for 8-bit lines), and fields for its header.
    """

    kind: Kind
    type: str
    label: str
    parent: Entity | None
    is_message: bool
    has_type: bool
    parts: int = 0
    rank: int = 0
    changes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """The octets from `start` up to `end`. `entity` is the one whose header, body, preamble, delimiter... it is."""

    role: Role
    start: int
    end: int
    entity: Entity


def scan(octets: Octets, header: bytes, body: int) -> tuple[Entity, list[Piece]]:
    """The message itself, and the pieces of its body, which lies behind `header` from `body` on, first to last.

    `body` is at least 2 and a CRLF stands before it. The pieces leave nothing out. RecodeError beyond MAX_NESTING,
    MAX_PARTS, or MAX_HEADER for the header section of one part.
    """
    scanner = _Scanner(octets, header, body)
    scanner.run()
    return scanner.message, scanner.pieces


def mime_fields(header: bytes) -> dict[str, bytes]:
    """The first value of each of the three fields that MIME needs, unfolded; the names are in lower case."""
    fields: dict[str, bytes] = {}
    for match in _MIME_FIELD.finditer(header):
        fields.setdefault(match[1].lower().decode("ascii"), match[2].replace(b"\r\n", b"").strip(b" \t"))
    return fields


def parameter_of(value: bytes, name: bytes) -> bytes | None:
    """A parameter of an unfolded field value (RFC 2045 section 5.1), unquoted; `name` is in lower case. None where it
    has none, or writes it in the manner of RFC 2231."""
    for match in _PARAMETER.finditer(value):
        if match[1].lower() == name:
            return match[3] if match[2] is None else _QUOTED_PAIR.sub(rb"\1", match[2])
    return None


def with_fields(header: bytes, fields: Mapping[str, str]) -> bytes:
    """The header section with these fields; all other octets stay as they are.

    Content-Transfer-Encoding is replaced where it stands; of the others, what is there already wins. What is missing
    comes last. RecodeError where a line is no field: readers do not agree where such a header section ends.
    """
    if not _WELL_FORMED.fullmatch(header):
        raise RecodeError("a header section that would have to be changed has lines that are no fields")
    missing = {name.lower(): f"{name}: {value}\r\n".encode("ascii") for name, value in fields.items()}
    relabel = _LABEL_FIELD in missing

    def replaced(match: re.Match[bytes]) -> bytes:
        name = match[1].lower().decode("ascii")
        new = missing.pop(name, b"")
        return new if relabel and name == _LABEL_FIELD else match[0]

    return _MIME_FIELD.sub(replaced, header) + b"".join(missing.values())


class _Delimiter(NamedTuple):
    start: int  # the CRLF before the line
    end: int  # behind the line's own CRLF
    place: int  # of its multipart among the open containers
    is_last: bool


class _Scanner:
    def __init__(self, octets: Octets, header: bytes, body: int) -> None:
        self.pieces: list[Piece] = []
        self._octets = octets
        self._size = len(octets)
        self._candidates = _candidates(octets, body - 2)
        self._candidate = next(self._candidates, None)
        self._blank = -1  # the last CRLFCRLF that was found; `_size` where no more is
        self._count = 0
        # The open containers, outermost first, each with its boundary; and where in that list a boundary is.
        self._open: list[tuple[Entity, bytes]] = []
        self._places: dict[bytes, int] = {}
        # What is being read. It becomes a piece when its end is known.
        self._role, self._start = Role.BODY, body
        self.message = self._entity = self._entity_of(header, None)
        self._enter(self._entity, header, body)

    def run(self) -> None:
        while (delimiter := self._next_delimiter(self._size)) is not None:
            self._candidate = next(self._candidates, None)
            # The CRLF before a delimiter belongs to it, unless it ends the line before the body (RFC 2046, 5.1.1).
            at = max(self._start, delimiter.start)
            self._finish(at)
            multipart = self._open[delimiter.place][0]
            self._close(delimiter.place + (not delimiter.is_last))
            self.pieces.append(Piece(Role.FIXED, at, delimiter.end, multipart))
            if delimiter.is_last:
                self._read(Role.EPILOGUE, delimiter.end, multipart)
            else:
                multipart.parts += 1
                self._begin(delimiter.end, multipart)
        self._finish(self._size)

    def _next_delimiter(self, limit: int) -> _Delimiter | None:
        """The next delimiter of an open multipart that starts before `limit`; it stays the candidate."""
        while (candidate := self._candidate) is not None and candidate.start() < limit:
            if candidate.end() - candidate.start() <= MAX_LINE + 2:
                line = candidate[1].rstrip(b" \t")
                end = min(candidate.end() + 2, self._size)
                if (place := self._places.get(line)) is not None:
                    return _Delimiter(candidate.start(), end, place, False)
                if line.endswith(b"--") and (place := self._places.get(line[:-2])) is not None:
                    return _Delimiter(candidate.start(), end, place, True)
            self._candidate = next(self._candidates, None)
        return None

    def _begin(self, start: int, parent: Entity) -> None:
        """Read the header section from `start` on, of a part of `parent` or of the message in it."""
        # A header section may be empty: then the CRLF before `start` is the first half of what is looked for.
        if self._blank < start - 2:
            found = self._octets.find(b"\r\n\r\n", start - 2)
            self._blank = self._size if found < 0 else found
        if self._blank == self._size or self._next_delimiter(self._blank) is not None:
            self._read(Role.FIXED, start, parent)
            return
        end = self._blank + 2
        if end - start > MAX_HEADER:
            raise RecodeError(f"a part has a header section of more than {MAX_HEADER} octets")
        header = self._octets[start:end]
        entity = self._entity_of(header, parent)
        self.pieces += (Piece(Role.HEADER, start, end, entity), Piece(Role.FIXED, end, end + 2, entity))
        self._enter(entity, header, end + 2)

    def _enter(self, entity: Entity, header: bytes, body: int) -> None:
        if entity.kind is Kind.MULTIPART:
            self._push(entity, _boundary(header))
            self._read(Role.PREAMBLE, body, entity)
        elif entity.kind is Kind.MESSAGE:
            self._push(entity, b"")
            self._begin(body, entity)
        else:
            self._read(Role.BODY, body, entity)

    def _entity_of(self, header: bytes, parent: Entity | None) -> Entity:
        self._count += 1
        if self._count > MAX_PARTS:
            raise RecodeError(f"the message has more than {MAX_PARTS} parts")
        fields = mime_fields(header)
        token = _TOKEN.match(fields.get(_LABEL_FIELD, b""))
        label = token[1].lower().decode("latin-1") if token else ""
        written = _TYPE.match(fields.get(_TYPE_FIELD, b""))
        if written:
            type_ = b"/".join(written.groups()).lower().decode("ascii")
        else:
            type_ = "message/rfc822" if parent is not None and parent.type == "multipart/digest" else "text/plain"
        return Entity(
            kind=_kind_of(type_, label, header),
            type=type_,
            label=label,
            parent=parent,
            is_message=parent is None or parent.kind is Kind.MESSAGE,
            has_type=_TYPE_FIELD in fields,
        )

    def _read(self, role: Role, start: int, entity: Entity) -> None:
        self._role, self._start, self._entity = role, start, entity

    def _finish(self, end: int) -> None:
        if end > self._start:
            self.pieces.append(Piece(self._role, self._start, end, self._entity))

    def _push(self, entity: Entity, boundary: bytes) -> None:
        if len(self._open) == MAX_NESTING:
            raise RecodeError(f"the message has more than {MAX_NESTING} parts inside one another")
        if boundary:
            # A delimiter ends what is inside its multipart, even a multipart of the same boundary.
            self._places.setdefault(boundary, len(self._open))
        self._open.append((entity, boundary))

    def _close(self, place: int) -> None:
        """Close the containers from `place` on."""
        while len(self._open) > place:
            boundary = self._open.pop()[1]
            if self._places.get(boundary) == len(self._open):
                del self._places[boundary]


def _candidates(octets: Octets, at: int) -> Iterator[re.Match[bytes]]:
    """Lines from `at` on that may be delimiters, and some that are too long for that. It looks for them piece by piece:
    one search lets no other thread run until it ends."""
    size = len(octets)
    while at < size:
        end = min(at + _WINDOW, size)
        limit = end if end == size else end - _OVERLAP
        for match in _CANDIDATE.finditer(octets, at, end):
            if match.start() >= limit:
                break
            yield match
        at = limit


def _kind_of(type_: str, label: str, header: bytes) -> Kind:
    if type_.startswith("multipart/"):
        return Kind.MULTIPART if type_ not in _SEALED and _boundary(header) else Kind.SEALED
    if type_.startswith("message/") and label not in _ENCODED:
        if type_ in _DESCEND:
            return Kind.MESSAGE
        # RFC 2046 section 5.2 allows no encoding of the others; RFC 6532 section 3.7 does of message/global.
        return Kind.LEAF if type_.startswith("message/global") else Kind.SEALED
    # An encoding of its own must keep its label; other unknown words ("8bits", a charset) say as much as none.
    return Kind.SEALED if label.startswith(("x-", "uu")) else Kind.LEAF


def _boundary(header: bytes) -> bytes:
    return (parameter_of(mime_fields(header).get(_TYPE_FIELD, b""), b"boundary") or b"").rstrip(b" \t")
