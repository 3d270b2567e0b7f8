"""A text put into the body of a message: above or below what its sender wrote, in each form in which that is there.

Only the text that a reader is shown first is touched: the first text part of multipart/mixed, each alternative of
multipart/alternative, the root of multipart/related. The encoding and the charset of a part stay as they are wherever
they can hold the text; where they cannot, that part alone is encoded anew. What is signed or encrypted, reports,
attachments and the messages in a message are left alone.
"""

from __future__ import annotations

import base64
import binascii
import bisect
import codecs
import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from mailgate.message import AddHeader, HeaderEdit, RemoveHeader, Splice
from mailgate.mime.html import bottom_of, top_of
from mailgate.mime.structure import (
    Entity,
    Kind,
    Octets,
    RecodeError,
    Role,
    mime_fields,
    parameter_of,
    scan,
    with_fields,
)

__all__ = ["MAX_TEXT", "Inserted", "Insertion", "NotInsertedError", "insert"]

#: Octets of one text part that are read.
MAX_TEXT = 4 * 1024 * 1024
#: Alternatives of one text.
_MOST_LEAVES = 50

_SEALED = {
    "multipart/signed": "signed",
    "multipart/encrypted": "encrypted",
    "application/pkcs7-mime": "signed or encrypted",
    "application/x-pkcs7-mime": "signed or encrypted",
    "application/pgp-encrypted": "encrypted",
    "application/pgp": "signed or encrypted",
    "multipart/report": "a report",
}
_PGP = re.compile(rb"^-----BEGIN PGP (?:SIGNED )?MESSAGE", re.MULTILINE)
_DISPOSITION = re.compile(rb"(?im)^content-disposition[ \t]*+:((?:[^\r\n]++|\r\n(?=[ \t]))*)")
_ESCAPE = re.compile(rb"=([0-9A-Fa-f]{2})")
_SOFT = re.compile(rb"=[ \t]*+\r\n")
_LINE = re.compile(rb"[^\n]*+\n|[^\n]++")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*+={0,2}")
_CHARSET = re.compile(rb';\s*+charset\s*+=\s*+(?:"(?:[^"\\]++|\\.)*"|[^\s;]*+)', re.IGNORECASE | re.DOTALL)
_TYPE_FIELD = re.compile(rb"(?im)^content-type[ \t]*+:(?:[^\r\n]++|\r\n(?=[ \t]))*\r\n")
#: Codecs of Python that are no charset of mail, or need more than linear time.
_NO_CHARSETS = frozenset(
    {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "utf-7", "mbcs", "oem"}
)
_BOM = codecs.BOM_UTF8
_LONGEST = 900  # octets of a line that is put in; the rest of 998 is for what may stand beside it
_TYPE, _LABEL = "Content-Type", "Content-Transfer-Encoding"


class NotInsertedError(Exception):
    """The text has no place in this message, which stays as it is; the error's message says why, in a few words."""


@dataclass(frozen=True, slots=True)
class Insertion:
    """What is to be put in. `text` for text/plain, `html`, a fragment, for text/html.

    `marker`: a message that has it already, in one of the parts that would be changed, stays as it is; "" for none.
    """

    text: str
    html: str
    is_top: bool = False
    marker: str = ""


@dataclass(slots=True)
class Inserted:
    """What is to be done: splices of the body, and edits of the message's own header where its encoding changes."""

    splices: list[Splice] = field(default_factory=list)
    header: list[HeaderEdit] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Node:
    entity: Entity
    start: int  # of the header section
    header: bytes
    body: int
    end: int
    parts: list[_Node] = field(default_factory=list)


def insert(octets: Octets, header: bytes, body: int, insertion: Insertion, note: str = "") -> Inserted:
    """The edits that put it in. `octets` are the content as received, `header` the header section by which its body,
    from `body` on, is to be read.

    NotInsertedError where the message is signed or encrypted, a report, too deep or of too many parts, has no text
    that a reader is shown first, or has the marker.
    """
    if body < 2 or body >= len(octets):
        raise NotInsertedError("no body")
    try:
        root = _tree(octets, header, body)
    except RecodeError as error:
        raise NotInsertedError(str(error)) from None
    chosen = _chosen(root)
    if len(chosen) > _MOST_LEAVES:
        raise NotInsertedError("too many alternatives")
    leaves = [_Leaf(octets, node) for node in chosen]
    for leaf in leaves:
        if _PGP.search(leaf.decoded.replace(b"\r\n", b"\n")):
            raise NotInsertedError("signed or encrypted")
        if insertion.marker and _plain(insertion.marker) in leaf.words():
            raise NotInsertedError("it is there already")
    inserted = Inserted()
    reason = "no text"
    for leaf in leaves:
        try:
            edits = leaf.insert(insertion, note)
        except ValueError as error:  # what would have to be written anew is no mail
            reason = str(error)
            continue
        inserted.splices += edits.splices
        inserted.header += edits.header
    if not inserted.splices:
        raise NotInsertedError(reason)
    return inserted


def _tree(octets: Octets, header: bytes, body: int) -> _Node:
    message, pieces = scan(octets, header, body)
    nodes = {id(message): _Node(message, 0, header, body, body)}
    for piece in pieces:
        if piece.role is Role.HEADER:
            found = octets[piece.start : piece.end]
            node = _Node(piece.entity, piece.start, found, piece.end + 2, piece.end + 2)
            nodes[id(piece.entity)] = node
            if piece.entity.parent is not None:
                nodes[id(piece.entity.parent)].parts.append(node)
        elif piece.role is Role.BODY:
            nodes[id(piece.entity)].end = piece.end
    return nodes[id(message)]


def _chosen(node: _Node) -> list[_Node]:
    """The leaves that a reader is shown first. As deep as containers may nest, which is bounded."""
    type_ = node.entity.type
    if type_ in _SEALED:
        raise NotInsertedError(_SEALED[type_])
    if type_.startswith("multipart/"):
        if node.entity.kind is not Kind.MULTIPART:
            return []
        if type_ == "multipart/alternative":
            return [leaf for part in node.parts for leaf in _chosen(part)]
        for part in node.parts[:1] if type_ == "multipart/related" else node.parts:
            if leaves := _chosen(part):
                return leaves
        return []
    if type_ not in ("text/plain", "text/html") or node.entity.kind is not Kind.LEAF or _is_attached(node.header):
        return []
    return [node]


def _is_attached(header: bytes) -> bool:
    found = _DISPOSITION.search(header)
    if found is None:
        return False
    value = found[1].replace(b"\r\n", b"").strip().lower()
    return value.startswith(b"attachment") or b"filename" in value


class _Leaf:
    """A text part, decoded; offsets into `decoded` lead back to the octets."""

    def __init__(self, octets: Octets, node: _Node) -> None:
        self._node = node
        self._entity = node.entity
        if node.end - node.body > MAX_TEXT:
            raise NotInsertedError("a text part is too large")
        self._raw = octets[node.body : node.end]
        # The CRLF before a delimiter is not the body's; before an empty body it is that of the line above.
        self._lacks_end = not self._raw and node.entity.parent is not None and octets[node.end : node.end + 2] == b"--"
        self._is_html = node.entity.type == "text/html"
        type_ = mime_fields(node.header).get("content-type", b"")
        self._charset = _charset(parameter_of(type_, b"charset") or b"us-ascii")
        self._is_flowed = (parameter_of(type_, b"format") or b"").lower() == b"flowed"
        self._lines: list[bytes] = []
        match self._entity.label:
            case "quoted-printable":
                self._lines = _LINE.findall(self._raw)
                self.decoded = b"".join(map(_unquoted, self._lines))
            case "base64":
                self.decoded = _unbase64(self._raw)
            case _:
                self.decoded = self._raw

    def words(self) -> str:
        """Its text, as a marker is looked for in it."""
        text = self.decoded.decode(self._charset or "utf-8", "replace")
        return _plain(html.unescape(text) if self._is_html else text)

    def insert(self, insertion: Insertion, note: str) -> Inserted:
        """The edits; ValueError where there can be none."""
        if not self._charset:
            raise ValueError("a charset that is not known")
        if not (insertion.html if self._is_html else insertion.text):
            raise ValueError("no text for parts of this type")
        inserted = Inserted()
        at = self._place(insertion.is_top)
        if self._is_html:
            data = b"\r\n" + _folded(insertion.html).encode("ascii", "xmlcharrefreplace") + b"\r\n"
        else:
            text = self._framed(insertion)
            try:
                data = text.encode(self._charset)
                fits = data.isascii() or self._takes_eight_bits
            except UnicodeEncodeError:
                data, fits = b"", False
            if not fits:
                if self._rebuild(text, at, inserted, note):
                    return inserted
                data = unicodedata.normalize("NFKD", text).encode("ascii", "ignore")
        inserted.splices.append(self._spliced(data, at, note))
        return inserted

    @property
    def _takes_eight_bits(self) -> bool:
        # Where octets beyond US-ASCII are there already without being declared, more of them change nothing.
        return self._entity.label in ("8bit", "binary", "quoted-printable", "base64") or not self._raw.isascii()

    def _place(self, is_top: bool) -> int:
        if self._is_html:
            return top_of(self.decoded) if is_top else bottom_of(self.decoded)
        if is_top:
            return len(_BOM) if self.decoded.startswith(_BOM) else 0
        return len(self.decoded)

    def _framed(self, insertion: Insertion) -> str:
        """The lines that go in, with what sets them off from the text beside them."""
        lines = [one for line in insertion.text.splitlines() for one in _short(line)]
        if self._is_flowed:
            # RFC 3676: no line of ours flows into another, and none looks like a quotation (section 4.4).
            lines = [line if line == "-- " else line.rstrip(" ") for line in lines]
            lines = [f" {line}" if line.startswith((" ", ">", "From ")) else line for line in lines]
        text = "\r\n".join(lines)
        if insertion.is_top:
            return f"{text}\r\n\r\n"
        before = "" if not self.decoded else "\r\n" if self.decoded.endswith(b"\n") else "\r\n\r\n"
        # The line before a delimiter has its CRLF from that.
        return f"{before}{text}\r\n" if self.decoded.endswith(b"\n") else f"{before}{text}"

    def _spliced(self, data: bytes, at: int, note: str) -> Splice:
        start = self._node.body
        match self._entity.label:
            case "quoted-printable":
                place = start + self._raw_offset(at)
                return Splice(place, place, self._ended(_quoted(data)), note)
            case "base64":
                changed = self.decoded[:at] + data + self.decoded[at:]
                return Splice(start, self._node.end, self._base64(changed), note)
            case _:
                return Splice(start + at, start + at, self._ended(data), note)

    def _ended(self, data: bytes) -> bytes:
        return data + b"\r\n" if self._lacks_end and not data.endswith(b"\r\n") else data

    def _raw_offset(self, at: int) -> int:
        """The offset in quoted-printable of one in what that stands for."""
        if at == len(self.decoded):
            return len(self._raw)
        ends = list(accumulate(len(_unquoted(line)) for line in self._lines))
        number = bisect.bisect_right(ends, at)
        line = self._lines[number]
        within = at - (ends[number - 1] if number else 0)
        for escape in _ESCAPE.finditer(line):
            if escape.start() >= within:
                break
            within += 2
        return sum(map(len, self._lines[:number])) + within

    def _base64(self, data: bytes) -> bytes:
        encoded = base64.encodebytes(data).replace(b"\n", b"\r\n")
        return encoded if self._raw.endswith(b"\n") or self._lacks_end else encoded.removesuffix(b"\r\n")

    def _rebuild(self, text: str, at: int, inserted: Inserted, note: str) -> bool:
        """Encode the part anew, so that it can hold the text. False where nobody can tell what its octets mean."""
        try:
            before, after = self.decoded[:at].decode(self._charset), self.decoded[at:].decode(self._charset)
        except UnicodeDecodeError:
            return False
        charset = self._charset if _holds(self._charset, text) else "utf-8"
        changed = before.encode(charset) + text.encode(charset) + after.encode(charset)
        is_base64 = self._entity.label == "base64"
        label = "base64" if is_base64 else "quoted-printable"
        encoded = self._base64(changed) if is_base64 else _quoted(changed)
        node = self._node
        value = mime_fields(node.header).get("content-type", b"text/plain")
        if charset != self._charset:
            value = _CHARSET.sub(b"", value).rstrip(b"; \t") + b"; charset=utf-8"
        if not value.isascii():
            return False
        if self._entity.parent is None:
            if charset != self._charset:
                inserted.header += [RemoveHeader(_TYPE), AddHeader(_TYPE, _wrapped(value), at_end=True)]
            if self._entity.label != label:
                inserted.header += [RemoveHeader(_LABEL), AddHeader(_LABEL, label, at_end=True)]
            if "mime-version" not in mime_fields(node.header):
                inserted.header.append(AddHeader("MIME-Version", "1.0", at_end=True))
        else:
            try:
                header = with_fields(node.header, {_LABEL: label})
            except RecodeError:
                return False
            if charset != self._charset:
                header = _TYPE_FIELD.sub(b"", header) + f"{_TYPE}: {_wrapped(value)}\r\n".encode("ascii")
            inserted.splices.append(Splice(node.start, node.start + len(node.header), header, note))
        inserted.splices.append(Splice(node.body, node.end, self._ended(encoded), note))
        return True


def _charset(name: bytes) -> str:
    """Python's name of a charset in which US-ASCII stands for itself; "" for others."""
    try:
        codec = codecs.lookup(name.decode("ascii", "replace"))
        fits = codec.name not in _NO_CHARSETS and "a<\r\n>=".encode(codec.name) == b"a<\r\n>="
    except (LookupError, ValueError, TypeError):
        return ""
    return codec.name if fits else ""


def _holds(charset: str, text: str) -> bool:
    try:
        text.encode(charset)
    except UnicodeEncodeError:
        return False
    return True


def _plain(text: str) -> str:
    return " ".join(text.split())


def _short(line: str) -> Iterator[str]:
    """The line in pieces that no charset makes longer than a line of mail may be."""
    size = _LONGEST // 4 if not line.isascii() else _LONGEST
    yield from (line[at : at + size] for at in range(0, len(line), size)) if line else ("",)


def _folded(fragment: str) -> str:
    """HTML with CRLF, and with no line that is too long: broken at spaces, which in HTML are as good."""
    lines: list[str] = []
    for line in fragment.splitlines():
        while len(line.encode("ascii", "xmlcharrefreplace")) > _LONGEST:
            cut = line.rfind(" ", 1, _LONGEST // 10)
            cut = cut if cut > 0 else line.find(" ", 1)
            if cut < 0:
                break
            lines.append(line[:cut])
            line = line[cut + 1 :]
        lines.append(line)
    return "\r\n".join(lines)


def _unquoted(line: bytes) -> bytes:
    if b"=" not in line:
        return line
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), _SOFT.sub(b"", line))


def _quoted(data: bytes) -> bytes:
    """Quoted-printable, lines with CRLF."""
    lines = [binascii.b2a_qp(line, istext=True).replace(b"=\n", b"=\r\n") for line in data.split(b"\r\n")]
    return b"\r\n".join(lines)


def _unbase64(raw: bytes) -> bytes:
    clean = raw.translate(None, b" \t\r\n")
    if len(clean) % 4 or not _BASE64.fullmatch(clean):
        raise NotInsertedError("a text part in base64 that is damaged")
    return binascii.a2b_base64(clean)


def _wrapped(value: bytes) -> str:
    """A field's value with a line for each parameter where it is long."""
    text = value.decode("ascii")
    return text if len(text) < 60 else text.replace("; ", ";\r\n\t")
