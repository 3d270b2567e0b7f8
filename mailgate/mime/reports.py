"""Reports about mail that come as mail: of delivery (RFC 3464, RFC 6533) and of complaints (RFC 5965).

Only what the report itself consists of is looked at, however much is in it: the parts of its multipart/report, the
beginning of its text, and of the message that it returns the header. So a report takes some milliseconds at most.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from typing import Literal

from mailgate.message import MAX_HEADER, HeaderField, split_header
from mailgate.mime.structure import Entity, Piece, RecodeError, Role, scan

__all__ = ["MAX_REPORT", "Fields", "Report", "read_report"]

#: Octets of a report that are looked at; what it returns comes last, and is cut.
MAX_REPORT = 256 * 1024
#: Lines of it that begin as boundaries do: what counts comes first, and each more takes time.
_MOST_BOUNDARIES = 200
#: Octets of a part with fields, and of text; blocks of fields; fields of a block.
_MOST_PART, _MOST_TEXT, _MOST_BLOCKS, _MOST_FIELDS = 64 * 1024, 16 * 1024, 200, 100
#: Characters of a value.
_LONGEST = 2000

_DELIVERY = ("message/delivery-status", "message/global-delivery-status")
_FEEDBACK = "message/feedback-report"
_RETURNED = ("message/rfc822", "message/global")
_RETURNED_HEADER = ("text/rfc822-headers", "message/global-headers", "message/rfc822-headers")
_LINE_END = re.compile(rb"\r?\n")
_BLANK = re.compile(rb"\r\n(?:[ \t]*\r\n)+")


class Fields:
    """A block of fields: names in any case, values in one line."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Sequence[HeaderField]) -> None:
        self._fields = [(one.name.lower(), one.value[:_LONGEST]) for one in fields[:_MOST_FIELDS] if one.name]

    def __bool__(self) -> bool:
        return bool(self._fields)

    def all(self, name: str) -> list[str]:
        """Every value of this name (lower case), first to last."""
        return [value for found, value in self._fields if found == name]

    def get(self, name: str) -> str:
        """The first value; "" where there is none."""
        return next(iter(self.all(name)), "")

    def typed(self, name: str) -> str:
        """The first value without the type before it: "rfc822; ann@example.org" is "ann@example.org"."""
        value = self.get(name)
        before, semicolon, behind = value.partition(";")
        return (behind if semicolon and "@" not in before else value).strip().removeprefix("<").removesuffix(">")


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says. `kind` is "delivery", "feedback", or "" for mail that has the form of neither.

    `about` are the fields about all of the message, of a feedback report all of its fields; `recipients` a block for
    each recipient of a delivery report. `returned` are the fields of the message that it is about, as far as they came
    back, and `text` the beginning of what people are to read.
    """

    kind: Literal["delivery", "feedback", ""]
    about: Fields
    recipients: Sequence[Fields]
    returned: Fields
    text: str


def read_report(octets: bytes) -> Report:
    """Read what begins with these octets (`MAX_REPORT` of them). Whatever they hold, nothing is raised."""
    octets = _beginning(octets[:MAX_REPORT])
    end = octets.find(b"\r\n\r\n", 0, MAX_HEADER)
    if end < 0:
        return Report("", Fields(()), (), Fields(()), "")
    header, body = octets[: end + 2], end + 4
    kind: Literal["delivery", "feedback", ""] = ""
    blocks: list[Fields] = []
    returned = Fields(())
    text = ""
    for entity, part in _parts(octets, header, body):
        if entity.type in _DELIVERY and not kind:
            kind, blocks = "delivery", list(_blocks(_decoded(entity, part)))
        elif entity.type == _FEEDBACK and not kind:
            kind, blocks = "feedback", list(_blocks(_decoded(entity, part)))[:1]
        elif entity.type in _RETURNED and not returned:
            returned = Fields(split_header(_header(part)))
        elif entity.type in _RETURNED_HEADER and not returned:
            returned = Fields(split_header(_header(_decoded(entity, part) + b"\r\n\r\n")))
        elif entity.type == "text/plain" and not text:
            text = _decoded(entity, part)[:_MOST_TEXT].decode("utf-8", "replace")
    about = blocks.pop(0) if blocks else Fields(())
    return Report(kind if about or blocks else "", about, blocks, returned, text)


def _beginning(octets: bytes) -> bytes:
    """What is before the first boundary that is too much."""
    place = -1
    for _ in range(_MOST_BOUNDARIES):
        place = octets.find(b"\n--", place + 1)
        if place < 0:
            return octets
    return octets[: place + 1]


def _parts(octets: bytes, header: bytes, body: int) -> Iterator[tuple[Entity, bytes]]:
    """The parts right in the message, or its body where it has none, each with what is behind its header."""
    try:
        message, pieces = scan(octets, header, body)
    except RecodeError:
        return
    if not _is_multipart(message):
        yield message, octets[body:]
        return
    place = 0
    while place < len(pieces):
        piece = pieces[place]
        place += 1
        if piece.role is not Role.HEADER or piece.entity.parent is not message:
            continue
        start = end = piece.end + 2
        while place < len(pieces) and _is_in(pieces[place], piece.entity):
            end = pieces[place].end
            place += 1
        yield piece.entity, octets[start:end]


def _is_multipart(entity: Entity) -> bool:
    return entity.type.startswith("multipart/") and entity.parts > 0


def _is_in(piece: Piece, entity: Entity) -> bool:
    found: Entity | None = piece.entity
    while found is not None and found is not entity:
        found = found.parent
    return found is entity


def _decoded(entity: Entity, part: bytes) -> bytes:
    """The part without its transfer encoding, with CRLF at the end of each line."""
    part = part[:_MOST_PART]
    if entity.label in ("base64", "quoted-printable"):
        whole = b"Content-Transfer-Encoding: " + entity.label.encode("ascii") + b"\r\n\r\n" + part
        payload = message_from_bytes(whole).get_payload(decode=True)
        part = payload if isinstance(payload, bytes) else b""
    return _LINE_END.sub(b"\r\n", part)


def _header(part: bytes) -> bytes:
    """The header section at the beginning of a message that came back."""
    part = part[:_MOST_PART]
    end = part.find(b"\r\n\r\n")
    return part if end < 0 else part[: end + 2]


def _blocks(octets: bytes) -> Iterator[Fields]:
    """Blocks of fields with empty lines between them."""
    found = 0
    for block in _BLANK.split(octets.strip(b"\r\n") + b"\r\n", _MOST_BLOCKS):
        fields = Fields(split_header(block + b"\r\n" if not block.endswith(b"\r\n") else block))
        if fields and found < _MOST_BLOCKS:
            found += 1
            yield fields
