"""What filters change about a message, recorded as values: its header, its body, its envelope.

Edits of the header are kept beside the content and applied when the message is sent on. Those of the body and of the
envelope are carried out before the message is accepted, and are never kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import groupby
from typing import TypeGuard

from msgspec import Struct

from mailgate.address import Address
from mailgate.message.content import Content, behind_header
from mailgate.message.header import HeaderField, split_header

__all__ = [
    "MAX_LINE",
    "AddHeader",
    "AddRecipient",
    "BodyEdit",
    "ChangeReturnPath",
    "ChangeSender",
    "Edit",
    "EnvelopeEdit",
    "For",
    "HeaderEdit",
    "RemoveHeader",
    "RemoveRecipient",
    "RenameHeader",
    "ReplaceBody",
    "Splice",
    "apply_edits",
    "check_lines",
    "edited_fields",
    "is_of_header",
    "release",
    "rendered",
]

#: The longest line that may come into being, in octets, without its CRLF (RFC 5322 section 2.1.1).
MAX_LINE = 998

_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


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


@dataclass(frozen=True, slots=True)
class Splice:
    """Put `data` in the place of the octets from `start` up to `end` of the content as received; where both are one,
    insert it there.

    Offsets count from the beginning of the content and lie in the body, behind the empty line. They are always those
    of the content as received, whatever other filters have spliced before: two splices may touch and must not overlap.
    What is inserted at one place stands in the order in which the filters were asked. `note` says for people what it
    is ("banner").

    ValueError: offsets that cannot be, or data with NUL, a CR or LF that is no CRLF, or a line over MAX_LINE octets.
    Whether the splice fits the content (it leaves each CRLF whole, and makes no line too long) is seen when the filter
    has answered, and counts as the filter's failure where it does not.
    """

    start: int
    end: int
    data: bytes
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"no octets of a content: {self.start} to {self.end}")
        check_lines((self.data,))


@dataclass(frozen=True, slots=True, eq=False)
class ReplaceBody:
    """Put `content`, the octets of a body alone, in the place of the whole body.

    It stands for the edits of the body that were made before it, whose number is `follows`: who makes one has taken
    those in (`edited_body` of mailgate.message has the body with them), and else loses what filters before have done;
    so any other number is the filter's failure. Nothing can be spliced into the body behind it, as the octets that
    were received are gone; a later ReplaceBody can.

    The content, with its file and its share of a memory budget, belongs to the edit from when the filter has returned
    it. It is read through when the edit is made: in a thread, where it lies in a file. ValueError where it has NUL, a
    CR or LF that is no CRLF, or a line over MAX_LINE octets; OSError where it cannot be read.
    """

    content: Content
    follows: int = 0
    note: str = ""
    is_ascii: bool = dataclass_field(init=False)

    def __post_init__(self) -> None:
        if self.follows < 0:
            raise ValueError("no number of edits: it is below 0")
        object.__setattr__(self, "is_ascii", check_lines(self.content.chunks()))


class AddRecipient(Struct, frozen=True):
    """Send the message to this address, too, by the route that the configuration has for it; no alias is looked up.

    Nothing changes where it is a recipient already.
    """

    address: Address

    def __post_init__(self) -> None:
        if not self.address:
            raise ValueError("the null address is no recipient")


class RemoveRecipient(Struct, frozen=True):
    """Send the message to this recipient no more. Where it stands for others, to none of those.

    A recipient whom a verdict has refused stays refused.
    """

    address: Address


class ChangeSender(Struct, frozen=True):
    """Give the message this reverse-path, which may be null: reports go there."""

    address: Address


class ChangeReturnPath(Struct, frozen=True):
    """Tell the next hop this reverse-path in the place of the sender: for these recipients, or for all where none is
    named. Reports come back to it; those that we make ourselves still go to the sender.

    Recipients are named as they were written to. Mail that aliases send on with a reverse-path of its own keeps that.
    """

    address: Address
    recipients: tuple[Address, ...] = ()


HeaderEdit = AddHeader | RemoveHeader | RenameHeader
"""What is kept beside the content, and applied when the message is sent on."""

BodyEdit = Splice | ReplaceBody
"""What makes another content, before the message is accepted."""

EnvelopeEdit = AddRecipient | RemoveRecipient | ChangeSender | ChangeReturnPath
"""What makes another envelope, before the message is accepted."""

Edit = HeaderEdit | BodyEdit | EnvelopeEdit


class For(Struct, frozen=True):
    """Edits for some of the recipients that the filter was asked about: these get a message of their own, the others
    one without the edits.

    Recipients are named as they were written to, before aliases; naming one that is not there changes nothing. An edit
    of the envelope is one of that message's envelope: its reverse-path, its recipients. Whoever is added gets one
    copy, that of the first who were to share theirs. ValueError where nobody is named.
    """

    recipients: tuple[Address, ...]
    edits: tuple[Edit, ...]

    def __post_init__(self) -> None:
        if not self.recipients:
            raise ValueError("edits for nobody: name the recipients, or return the edits themselves")


_OF_HEADER = (AddHeader, RemoveHeader, RenameHeader)


def is_of_header(edit: Edit) -> TypeGuard[HeaderEdit]:
    """Whether the edit is one of the header section."""
    return isinstance(edit, _OF_HEADER)


def release(edits: Iterable[object]) -> None:
    """Let go of what these edits hold, as they will not be carried out: files, shares of a memory budget.

    Safe to call twice; in the reactor's thread.
    """
    for edit in edits:
        if isinstance(edit, ReplaceBody):
            edit.content.discard()
            edit.content.give_back()
        elif isinstance(edit, For):
            release(edit.edits)


def apply_edits(header: bytes, edits: Sequence[Edit]) -> bytes:
    """The header section after the edits, in their order. Fields that no edit names keep their octets.

    Edits of other things than the header change nothing here.
    """
    of_header = [edit for edit in edits if is_of_header(edit)]
    if all(isinstance(edit, AddHeader) and not edit.at_end for edit in of_header):
        return b"".join([edit.raw for edit in reversed(of_header) if isinstance(edit, AddHeader)]) + header
    return b"".join([field.raw for field in edited_fields(split_header(header), of_header)])


def edited_fields(fields: Sequence[HeaderField], edits: Iterable[Edit]) -> list[HeaderField]:
    """The same for fields: those that stay are the objects that they were."""
    now = list(fields)
    # Removals that follow one another are made in one go: there may be as many as the message has fields.
    for removes, group in groupby(edits, _is_removal):
        if removes:
            now = list(_without(now, group))
            continue
        for edit in group:
            if isinstance(edit, AddHeader):
                now.insert(len(now) if edit.at_end else 0, HeaderField(edit.raw))
            elif isinstance(edit, RenameHeader):
                now = list(_renamed(now, edit))
    return now


def rendered(content: Content, edits: Sequence[Edit]) -> Iterator[bytes]:
    """The octets that are sent on: the edited header section, then the rest as it came.

    ValueError where an edit is not about the header: it would be lost.
    """
    if all(isinstance(edit, AddHeader) and not edit.at_end for edit in edits):
        # Fields on top need no parsing: this is the common case and the fast one.
        yield apply_edits(b"", edits)
        yield from content.chunks()
        return
    if not all(map(is_of_header, edits)):
        raise ValueError("edits of the body or of the envelope that have not been carried out")
    yield apply_edits(content.header, edits)
    yield from behind_header(content)


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


def check_lines(chunks: Iterable[bytes]) -> bool:
    """Whether these octets are all US-ASCII.

    ValueError where they are no lines that mail may have (RFC 5322 section 2.1.1, RFC 5321 section 2.3.8).
    """
    is_ascii = True
    rest = b""  # of the line that has not ended yet
    for chunk in chunks:
        is_ascii = is_ascii and chunk.isascii()
        data = rest + chunk
        whole = data.removesuffix(b"\r")  # its LF may be in the next chunk
        if b"\0" in chunk or _BARE.search(whole):
            raise ValueError("a NUL, or a CR or LF that is no CRLF")
        at = 0
        while len(whole) - at > MAX_LINE:
            end = whole.rfind(b"\r\n", at, at + MAX_LINE + 2)
            if end < 0:
                raise ValueError(f"a line of more than {MAX_LINE} octets")
            at = end + 2
        rest = data[data.rfind(b"\n") + 1 :]
    if rest.endswith(b"\r"):
        raise ValueError("a CR that is no CRLF")
    return is_ascii
