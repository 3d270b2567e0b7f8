"""A message as an application reads it: who, what about, its text, and its attachments as ranges of its octets.

Everything is bounded, and works on octets that may lie in a mapped file. What no reader would agree about is left to
the application: the message goes with it as one attachment then.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import getaddresses, parsedate_to_datetime

from mailgate.content.fields import PartHeader, clean_name, decode_octets, decode_words, read_header
from mailgate.message import Content, HeaderEdit, HeaderField, apply_edits, split_header
from mailgate.mime.structure import Entity, Kind, Octets, Piece, RecodeError, Role, mime_fields, parameter_of, scan
from mailgate.relay.web_post.decoding import decoded

__all__ = ["Attachment", "Mail", "Mailbox", "read_mail"]

#: Octets of a text that is given as such; a longer one is an attachment.
_LONGEST_TEXT = 1024 * 1024
#: Characters of a field in which addresses are looked for, and how many of them are given.
_LONGEST_LIST, _MOST_ADDRESSES = 64 * 1024, 1000
#: Characters of a subject, a name...
_LONGEST_WORDS = 2000
_DISPOSITION = re.compile(r"\s*+([!#$%&'*+.^_`|~0-9A-Za-z-]{1,40})")
_SEALED = ("multipart/signed", "multipart/encrypted")
_QUOTED = re.compile(rb'["\\]')
#: Parts that are signed or encrypted and looked into: each is read from its beginning to the end of the message.
_MOST_ENTERED = 10


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address of a header field; the name is "" where there is none."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part that is no text to be shown. Its octets are those from `start` to `end`, decoded by `label`; `charset` is
    what its header says of them."""

    name: str
    type: str
    charset: str
    disposition: str
    content_id: str
    label: str
    start: int
    end: int

    def octets(self, whole: Octets) -> Iterator[bytes]:
        """What is in it, piece by piece."""
        return decoded(whole, self.start, self.end, self.label)


@dataclass(slots=True)
class Mail:
    """What was found. `date` is in seconds since the epoch, None where there is no date that can be read; `message_id`
    has no angle brackets. `fields` are all fields of the header, first to last, unfolded. `problem` says why the
    message was not taken apart, "" where it was."""

    fields: Sequence[tuple[str, str]]
    subject: str = ""
    date: float | None = None
    message_id: str = ""
    boxes: dict[str, list[Mailbox]] = field(default_factory=dict)
    text: str | None = None
    html: str | None = None
    attachments: list[Attachment] = field(default_factory=list)
    problem: str = ""


def read_mail(content: Content, edits: Sequence[HeaderEdit]) -> tuple[Mail, Octets]:
    """The message after its edits, and its octets as they lie here: those of the body are the same. OSError where they
    cannot be read, ValueError where an edit cannot be made."""
    octets = _octets_of(content)
    fields = split_header(apply_edits(content.header, edits))
    mail = _with_header(fields)
    body = len(content.header) + 2
    header = b"".join(one.raw for one in fields)
    try:
        whole, pieces = scan(octets, header, max(body, 2))
    except RecodeError as error:
        mail.problem = str(error)
    else:
        sorter = _Sorter(mail, octets)
        sorter.sort(header, whole, pieces)
        is_shown = mail.text is not None or mail.html is not None or mail.attachments
        if len(octets) > body and not (is_shown or sorter.has_parts):
            mail.problem = "the message has no part that its header tells of"
    if mail.problem:
        mail.attachments.append(Attachment("message.eml", "message/rfc822", "", "attachment", "", "", 0, len(octets)))
    return mail, octets


def _octets_of(content: Content) -> Octets:
    if content.path is None or not content.size:
        return content.read()  # no mapping is empty
    with content.path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _with_header(fields: Sequence[HeaderField]) -> Mail:
    named = [(one.name, one.value) for one in fields if one.name]
    first: dict[str, str] = {}
    for name, value in named:
        first.setdefault(name.lower(), value)
    mail = Mail(named)
    mail.subject = decode_words(first.get("subject", "")[:_LONGEST_WORDS])
    mail.message_id = first.get("message-id", "").strip().removeprefix("<").removesuffix(">")[:_LONGEST_WORDS]
    mail.date = _date(first.get("date", ""))
    for key in ("from", "to", "cc", "reply-to"):
        mail.boxes[key.replace("-", "_")] = _mailboxes([value for name, value in named if name.lower() == key])
    return mail


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text[:200]).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _mailboxes(values: Sequence[str]) -> list[Mailbox]:
    text = ", ".join(values)[:_LONGEST_LIST]
    try:
        found = getaddresses([text])
    except (RecursionError, ValueError, IndexError):  # nested comments without an end
        return []
    return [
        Mailbox(decode_words(name)[:_LONGEST_WORDS], address)
        for name, address in found[:_MOST_ADDRESSES]
        if address or name
    ]


class _Sorter:
    """Sorts the pieces of a scan into texts and attachments; what is sealed for those who convert is looked into."""

    def __init__(self, mail: Mail, octets: Octets) -> None:
        self._mail = mail
        self._octets = octets
        self._sealed: list[tuple[bytes, int, int]] = []  # boundary, start and end of what is still to be looked into
        self._entered = 0
        self.has_parts = False  # a part, though it may be empty

    def sort(self, header: bytes, whole: Entity, pieces: Sequence[Piece]) -> None:
        """All pieces behind this header."""
        self._sort(header, whole, pieces, len(self._octets))
        while self._sealed:
            boundary, start, end = self._sealed.pop()
            header = b'Content-Type: multipart/mixed; boundary="%b"\r\n' % _QUOTED.sub(rb"\\\g<0>", boundary)
            try:
                whole, pieces = scan(self._octets, header, start)
            except RecodeError:  # behind its end, where others are
                self._mail.attachments.append(_attachment(b"", "multipart/signed", "", "", start, end))
            else:
                self._sort(header, whole, pieces, end)
        self._mail.attachments.sort(key=lambda one: one.start)

    def _sort(self, header: bytes, whole: Entity, pieces: Sequence[Piece], limit: int) -> None:
        places: dict[Entity, tuple[int, int]] = {}  # of header sections: all of them may be as large as the message
        filled: set[Entity] = set()
        messages: dict[Entity, tuple[int, int]] = {}  # from the first octet of each message in it to the last
        for piece in pieces:
            if piece.start >= limit:
                break
            self.has_parts = self.has_parts or piece.entity is not whole
            end = min(piece.end, limit)
            holder = _holder(piece.entity)
            if piece.role is Role.HEADER:
                places[piece.entity] = piece.start, end
            if holder is None:
                if piece.role is Role.BODY:
                    own = header if piece.entity is whole else self._header(places, piece.entity)
                    filled.add(piece.entity)
                    self._take(own, piece.entity, piece.start, end)
            elif piece.entity is holder and piece.role is Role.HEADER:
                messages[holder] = end + 2, end + 2
            else:
                start, _ = messages.get(holder, (piece.start, end))
                messages[holder] = start, end
        for entity, (_, end) in places.items():
            if entity.kind in (Kind.LEAF, Kind.SEALED) and entity not in filled and _holder(entity) is None:
                self._take_empty(self._header(places, entity), entity, min(end + 2, limit))
        for holder, (start, end) in messages.items():
            own = header if holder is whole else self._header(places, holder)
            self._mail.attachments.append(_attachment(own, "message/rfc822", "message.eml", "", start, max(start, end)))

    def _header(self, places: Mapping[Entity, tuple[int, int]], entity: Entity) -> bytes:
        start, end = places.get(entity, (0, 0))
        return self._octets[start:end]

    def _take(self, header: bytes, entity: Entity, start: int, end: int) -> None:
        if entity.type in _SEALED and self._entered < _MOST_ENTERED:
            boundary = parameter_of(mime_fields(header).get("content-type", b""), b"boundary")
            if boundary:
                self._entered += 1
                self._sealed.append((boundary, start, end))
                return
        found = _attachment(header, entity.type, "", entity.label, start, end)
        if not self._shows(header, entity, found):
            self._mail.attachments.append(found)

    def _take_empty(self, header: bytes, entity: Entity, at: int) -> None:
        """A file without octets is one, and a text without any is not."""
        found = _attachment(header, entity.type, "", entity.label, at, at)
        if not _is_text(entity, found):
            self._mail.attachments.append(found)

    def _shows(self, header: bytes, entity: Entity, found: Attachment) -> bool:
        """Whether it is, or becomes part of, the text that is shown."""
        mail = self._mail
        if not _is_text(entity, found):
            return False
        if found.end - found.start > _LONGEST_TEXT or (entity.type == "text/html" and mail.html is not None):
            return False
        octets = b"".join(found.octets(self._octets))
        text = decode_octets(octets, found.charset).replace("\r\n", "\n")
        if entity.type == "text/html":
            mail.html = text
        elif mail.text is None:
            mail.text = text
        elif len(mail.text) + len(text) <= _LONGEST_TEXT:
            mail.text = f"{mail.text}\n{text}"
        else:
            return False
        return True


def _is_text(entity: Entity, found: Attachment) -> bool:
    """Whether readers show it, and do not offer it as a file."""
    return entity.type in ("text/plain", "text/html") and found.disposition != "attachment" and not found.name


def _holder(entity: Entity) -> Entity | None:
    """The outermost part that holds a message and this is in, or is."""
    found = None
    one: Entity | None = entity
    while one is not None:
        if one.kind is Kind.MESSAGE:
            found = one
        one = one.parent
    return found


def _attachment(header: bytes, type_: str, name: str, label: str, start: int, end: int) -> Attachment:
    read = _read(header)
    fields = {one.name.lower(): one.value for one in reversed(split_header(header)) if one.name}
    disposition = _DISPOSITION.match(fields.get("content-disposition", ""))
    content_id = fields.get("content-id", "").strip().removeprefix("<").removesuffix(">")
    return Attachment(
        name=clean_name(read.names[0]) if read.names else name,
        type=type_[:100],
        charset=read.charsets[0][:100] if read.charsets else "",
        disposition=disposition[1].lower() if disposition else "",
        content_id=content_id[:_LONGEST_WORDS],
        label=label,
        start=start,
        end=end,
    )


def _read(header: bytes) -> PartHeader:
    return read_header(header + b"\r\n", 0, lambda _: False)
