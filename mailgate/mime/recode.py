"""Content converted for a next hop that cannot take it as it is (RFC 6152 section 3, RFC 3030 section 3).

Only the bodies that break the rule are encoded, each with its own Content-Transfer-Encoding; everything else keeps its
octets. Still, what was signed is not what arrives: a DKIM signature over the body does not survive. So this is done
only where the next hop leaves no other way.
"""

from __future__ import annotations

import binascii
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from mailgate.message import Content, Edit, apply_edits, behind_header
from mailgate.mime.structure import Entity, Kind, Octets, Piece, RecodeError, Role, scan, with_fields
from mailgate.wire.content import MAX_LINE

__all__ = ["ContentClass", "RecodeError", "Recoding", "Target", "classify", "recode", "recoded"]

#: What content needs of a path: lines of at most 998 octets of US-ASCII, the same with any octets but NUL, or neither.
ContentClass = Literal["7BIT", "8BIT", "BINARY"]
#: What content is made fit for: DATA without 8BITMIME, or with it.
Target = Literal["7BIT", "8BIT"]

_CLASSES: tuple[ContentClass, ...] = ("7BIT", "8BIT", "BINARY")
_LABELS = ("7bit", "8bit", "binary")

#: Octets that are read at once to be copied, to be encoded, and that are gathered before they are handed on.
_COPY, _PIECE, _GATHER = 192 * 1024, 57 * 512, 64 * 1024

#: Octets of one line of base64 (RFC 2045 section 6.8).
_BASE64_LINE = 76
_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))
#: Octets that quoted-printable writes as three.
_QUOTED = bytes(set(range(256)) - set(range(32, 127)) - set(b"\t\r\n")) + b"="

_Encoder = Callable[[Iterator[bytes]], Iterator[bytes]]


class _Survey(NamedTuple):
    raw: bool  # it has NUL, or CR or LF apart from CRLF
    long: bool  # it has lines of more than MAX_LINE octets; not looked for once it is raw
    eight_bit: bool

    @property
    def rank(self) -> int:
        return 2 if self.raw or self.long else int(self.eight_bit)


@dataclass(frozen=True, slots=True)
class _Step:
    """What comes next: `literal`, or the octets from `start` up to `end`, encoded where there is an encoder.

    `unquote`: they are quoted-printable themselves. `ending` follows, where the last line has no end.
    """

    start: int = 0
    end: int = 0
    encode: _Encoder | None = None
    unquote: bool = False
    ending: bytes = b""
    literal: bytes = b""


def classify(chunks: Iterable[bytes]) -> ContentClass:
    """What these octets are, whatever they were declared to be. Linear; keeps one chunk at a time."""
    return _CLASSES[_survey(chunks).rank]


def recode(content: Content, target: Target) -> Iterator[bytes]:
    """The content fit for `target`, without edits: see `recoded`. What fits already stays as it is, octet for octet."""
    return recoded(content, (), target)


def recoded(content: Content, edits: Sequence[Edit], target: Target) -> Iterator[bytes]:
    """The content after its edits, fit for `target`, in chunks of up to about 256 KiB.

    RecodeError and OSError are raised here, before the first octet; OSError later too, when the file fails while it is
    read. The content is read twice before that, in the calling thread: for large content that is not the reactor's.
    """
    header = apply_edits(content.header, edits)
    plan = Recoding.of(content, target, header)
    return _after(plan.header(header), plan.body())


class Recoding:
    """How one content is converted. It holds no octets, but offsets; the file, if there is one, is mapped."""

    def __init__(self, content: Content, rank: int) -> None:
        self._content = content
        self._rank = rank
        self._octets: Octets = b""
        self._message: Entity | None = None
        self._steps: list[_Step] = []

    @classmethod
    def of(cls, content: Content, target: Target, header: bytes | None = None) -> Recoding:
        """The plan for this content; RecodeError where there is none, OSError where the file cannot be read.

        `header` is its header section after edits, which says what the body is; that of the content if not given.
        """
        plan = cls(content, _CLASSES.index(target))
        chunks = content.chunks()
        if _survey(chunks).rank > plan._rank:
            if not content.in_memory:
                # Read all of it before it is mapped: what cannot be read is an OSError here, and a SIGBUS there.
                for _ in chunks:
                    pass
            plan._make(content.header if header is None else header)
        return plan

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to convert."""
        return self._message is not None

    @property
    def changes(self) -> Mapping[str, str]:
        """The fields that `header` puts into the message's own header section."""
        return {} if self._message is None else _fields_of(self._message)

    def header(self, edited: bytes) -> bytes:
        """The message's own header section, made from `edited`, which is that of the content after its edits.

        RecodeError where the next hop could not take it: header fields are not converted (RFC 6532 section 3).
        """
        if self._message is not None:
            edited = _with_changes(edited, self._message)
        survey = _survey((edited,))
        if survey.rank > self._rank:
            raise _unfit_header(survey)
        return edited

    def body(self) -> Iterator[bytes]:
        """Everything behind the header section, the empty line first."""
        if self._message is not None:
            return _gathered(self._converted())
        return behind_header(self._content)

    def _make(self, edited: bytes) -> None:
        octets = self._octets = _octets_of(self._content)
        header = self._content.header
        body = len(header) + 2
        if octets[len(header) : body] != b"\r\n":
            if len(header) < len(octets):
                raise RecodeError("the header section is too large to be converted")
            return  # a header section alone, which may be fit once it is edited
        self._message, pieces = scan(octets, edited, body)
        self._steps.append(_Step(len(header), body))
        headers: list[tuple[int, Piece]] = []
        for piece in pieces:
            if piece.role is Role.HEADER:
                headers.append((len(self._steps), piece))
            self._steps.append(self._step(piece))
        # What stays in a container is known only when all that is in it has been looked at.
        for place, piece in headers:
            _relabel(piece.entity, self._rank)
            if piece.entity.changes:
                self._steps[place] = _Step(literal=_with_changes(octets[piece.start : piece.end], piece.entity))
        _relabel(self._message, self._rank)

    def _step(self, piece: Piece) -> _Step:
        survey = _survey(_slices(self._octets, piece.start, piece.end, _COPY))
        entity = piece.entity
        if survey.rank <= self._rank:
            _stay(entity.parent if piece.role is Role.HEADER else entity, survey.rank)
            return _Step(piece.start, piece.end)
        if piece.role is Role.HEADER or piece.role is Role.FIXED:
            raise _unfit_header(survey)
        if piece.role is not Role.BODY:
            # It carries nothing (RFC 2046 section 5.1.1), unless the multipart is not what it says.
            if not entity.parts:
                raise RecodeError("a multipart without parts would have to be converted")
            return _Step()
        if entity.kind is not Kind.LEAF:
            raise RecodeError(f"something would have to be converted that must not be: {entity.type[:80]}")
        return self._encoded(piece, survey)

    def _encoded(self, piece: Piece, survey: _Survey) -> _Step:
        entity = piece.entity
        is_end = piece.end == len(self._octets)
        line_end = b"\r\n" if is_end else b""
        if entity.label == "base64":
            return _Step(piece.start, piece.end, _base64_again, ending=line_end)
        if entity.is_message and not entity.has_type and survey.eight_bit:
            entity.changes["Content-Type"] = "text/plain; charset=unknown-8bit"  # RFC 1428 section 3
        step = _Step(piece.start, piece.end, _base64, entity.label == "quoted-printable", line_end)
        if step.unquote:
            survey = _survey(self._read(step))
        if entity.type.startswith("text/") and not survey.raw and _is_mostly_plain(self._read(step)):
            # Its end must not add an end of line to the text.
            step = replace(step, encode=_quoted, ending=b"=\r\n" if is_end else b"")
        label = "quoted-printable" if step.encode is _quoted else "base64"
        entity.changes["Content-Transfer-Encoding"] = label
        return step

    def _read(self, step: _Step) -> Iterator[bytes]:
        chunks = _slices(self._octets, step.start, step.end, _COPY if step.encode is None else _PIECE)
        return _unquoted(chunks) if step.unquote else chunks

    def _converted(self) -> Iterator[bytes]:
        for step in self._steps:
            if step.encode is None:
                yield step.literal
                yield from self._read(step)
                continue
            chunk = b""
            for chunk in step.encode(self._read(step)):
                yield chunk
            if not chunk.endswith(b"\r\n"):
                yield step.ending


def _relabel(entity: Entity, rank: int) -> None:
    """A label that promises less than the next hop is told becomes that of what stays."""
    if entity.label in _LABELS[rank + 1 :]:
        entity.changes.setdefault("Content-Transfer-Encoding", _LABELS[entity.rank])


def _stay(entity: Entity | None, rank: int) -> None:
    while entity is not None and entity.rank < rank:
        entity.rank = rank
        entity = entity.parent


def _with_changes(header: bytes, entity: Entity) -> bytes:
    return with_fields(header, _fields_of(entity)) if entity.changes else header


def _fields_of(entity: Entity) -> dict[str, str]:
    # Without its version the other fields of a message mean nothing (RFC 2045 section 4).
    version = {"MIME-Version": "1.0"} if entity.is_message and entity.changes else {}
    return version | entity.changes


def _unfit_header(survey: _Survey) -> RecodeError:
    if survey.rank == 1:
        return RecodeError("header fields have octets beyond US-ASCII, which cannot be converted", "5.6.7")
    return RecodeError("header fields have NUL, a bare CR or LF, or lines that are too long")


def _octets_of(content: Content) -> Octets:
    if content.path is None:
        return content.read()
    with content.path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _slices(octets: Octets, start: int, end: int, size: int) -> Iterator[bytes]:
    return (octets[at : min(at + size, end)] for at in range(start, end, size))


def _after(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from chunks


def _gathered(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same octets, with small chunks put together."""
    waiting: list[bytes] = []
    size = 0
    for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= _GATHER:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
    if size:
        yield b"".join(waiting)


def _survey(chunks: Iterable[bytes]) -> _Survey:
    raw = long = eight_bit = False
    column = 0  # octets of the line that is not complete
    held = b""  # a CR whose LF may be in the next chunk
    for chunk in chunks:
        eight_bit = eight_bit or not chunk.isascii()
        if raw:
            if eight_bit:
                break  # nothing worse can come
            continue
        data = held + chunk if held else chunk
        held = b"\r" if data.endswith(b"\r") else b""
        if held:
            data = data[:-1]
        pairs = data.count(b"\r\n")
        raw = data.count(b"\n") != pairs or data.count(b"\r") != pairs or b"\0" in data
        if not raw and not long:
            column = _column(data, column)
            long = column > MAX_LINE
    return _Survey(raw or bool(held), long, eight_bit)


def _column(data: bytes, column: int) -> int:
    """The octets of the last line of `data`, which begins in column `column`; more than MAX_LINE for any long line."""
    start, length = -column, len(data)
    while length - start > MAX_LINE:
        found = data.rfind(b"\r\n", max(start, 0), start + MAX_LINE + 2)
        if found < 0:
            return MAX_LINE + 1
        start = found + 2
    last = data.rfind(b"\r\n", max(start, 0))
    return length - (last + 2 if last >= 0 else start)


def _is_mostly_plain(chunks: Iterator[bytes]) -> bool:
    """Whether quoted-printable (three octets for one) is shorter than base64 (four for three)."""
    size = quoted = 0
    for chunk in chunks:
        size += len(chunk)
        quoted += len(chunk) - len(chunk.translate(None, _QUOTED))
    return quoted * 6 < size


def _base64(chunks: Iterator[bytes]) -> Iterator[bytes]:
    return _in_lines(_base64_text(chunks))


def _base64_again(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Base64 whose lines are not fit: the same, in lines of its own."""
    return _in_lines(chunk.translate(None, _NOT_BASE64) for chunk in chunks)


def _base64_text(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        whole = len(data) // 3 * 3
        yield binascii.b2a_base64(data[:whole], newline=False)
        rest = data[whole:]
    yield binascii.b2a_base64(rest, newline=False)


def _in_lines(texts: Iterator[bytes]) -> Iterator[bytes]:
    """Lines of 76 octets with CRLF between them."""
    rest = line_end = b""
    for text in texts:
        data = rest + text
        whole = len(data) // _BASE64_LINE * _BASE64_LINE
        if whole:
            yield line_end + b"\r\n".join(data[at : at + _BASE64_LINE] for at in range(0, whole, _BASE64_LINE))
            line_end = b"\r\n"
        rest = data[whole:]
    if rest:
        yield line_end + rest


def _quoted(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Text with CRLF line ends in quoted-printable."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        whole = data.rfind(b"\n") + 1
        if whole:
            yield binascii.b2a_qp(data[:whole])
        else:
            # The line goes on for long: a soft line break here does it no harm.
            whole = len(data) - data.endswith(b"\r")
            if whole:
                yield _quoted_line(data[:whole]) + b"=\r\n"
        rest = data[whole:]
    if rest:
        yield _quoted_line(rest)


def _quoted_line(part: bytes) -> bytes:
    # Where there is no line end to learn from, soft line breaks come out with LF alone.
    return binascii.b2a_qp(part).replace(b"\n", b"\r\n")


def _unquoted(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        cut = data.rfind(b"=", len(data) - 2) if len(data) >= 2 else 0
        whole = len(data) if cut < 0 else cut
        yield binascii.a2b_qp(data[:whole])
        rest = data[whole:]
    yield binascii.a2b_qp(rest)
