"""What a milter changes about a message, as edits of ours.

The milter's header changes are carried out, in their order, on a list of the fields that it was shown; what is gone
from there, and what has come, are the edits. Fields that it leaves alone keep their octets and their order. A new field
stands above all that are left of those the milter was shown, or below them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.message import (
    AddHeader,
    AddRecipient,
    ChangeSender,
    Edit,
    HeaderField,
    RemoveHeader,
    RemoveRecipient,
)
from mailgate.scanners.milter.codec import (
    Change,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    MilterError,
    RecipientAdded,
    RecipientRemoved,
    SenderChanged,
)

__all__ = ["envelope_edits", "header_edits"]

_LINE_END = re.compile(r"[\r\n]+")


@dataclass(frozen=True, slots=True, eq=False)
class _New:
    """A field that the milter has made."""

    name: str
    value: str
    at_end: bool = True


def header_edits(fields: Sequence[HeaderField], changes: Iterable[Change], keeps_space: bool) -> list[Edit]:
    """The edits of the header, for fields as the milter was shown them. `keeps_space`: the space behind the colon is
    part of values (SMFIP_HDR_LEADSPC). MilterError where a change would not make one field."""
    now: list[HeaderField | _New] = list(fields)
    for change in changes:
        match change:
            case HeaderAdded(name, value):
                now.append(_new(name, value, keeps_space))
            case HeaderInserted(index, name, value):
                # Both 0 and 1 mean the top: Sendmail counts its own Received field, which we have not added yet.
                is_last = index >= max(len(now), 2)
                now.insert(index if index > 1 else 0, _new(name, value, keeps_space, at_end=is_last))
            case HeaderChanged(index, name, value):
                _change(now, max(index, 1), name, value, keeps_space)
    return _differences(fields, now)


def envelope_edits(changes: Iterable[Change]) -> list[Edit]:
    """The edits of the envelope; MilterError where an address is none. Parameters are not carried over."""
    edits: list[Edit] = []
    for change in changes:
        match change:
            case SenderChanged(address):
                edits.append(ChangeSender(_address(address, allow_null=True)))
            case RecipientAdded(address):
                edits.append(AddRecipient(_address(address)))
            case RecipientRemoved(address):
                edits.append(RemoveRecipient(_address(address)))
    return edits


def _change(now: list[HeaderField | _New], index: int, name: bytes, value: bytes, keeps_space: bool) -> None:
    wanted = name.decode("ascii", "replace").lower()
    places = [place for place, field in enumerate(now) if field.name.lower() == wanted]
    if index > len(places):
        if value:
            now.append(_new(name, value, keeps_space))
    elif value:
        now[places[index - 1]] = _new(name, value, keeps_space)
    else:
        del now[places[index - 1]]


def _differences(fields: Sequence[HeaderField], now: Sequence[HeaderField | _New]) -> list[Edit]:
    before = Counter(map(_known_as, fields))
    after = Counter(_known_as(field) for field in now if isinstance(field, HeaderField))
    gone = [known_as for known_as, count in before.items() if after[known_as] < count]
    edits: list[Edit] = [RemoveHeader(name, value) for name, value in gone]
    # A field that says the same as one that is gone is removed with it: it comes back.
    lost = set(gone)
    made = [
        _New(field.name, field.value) if isinstance(field, HeaderField) else field
        for field in now
        if isinstance(field, _New) or _known_as(field) in lost
    ]
    edits += [AddHeader(field.name, field.value) for field in reversed(made) if not field.at_end]
    edits += [AddHeader(field.name, field.value, at_end=True) for field in made if field.at_end]
    return edits


def _known_as(field: HeaderField) -> tuple[str, str]:
    """What a removal tells fields by."""
    return field.name.lower(), field.value


def _new(name: bytes, value: bytes, keeps_space: bool, *, at_end: bool = True) -> _New:
    text = value.decode("utf-8", "replace")
    first, *more = _LINE_END.split(text.removeprefix(" ") if keeps_space else text)
    folded = [line if line[0] in " \t" else f"\t{line}" for line in more if line.strip(" \t")]
    field = _New(name.decode("ascii", "replace"), "\r\n".join([first, *folded]), at_end)
    try:
        HeaderField.of(field.name, field.value)
    except ValueError as error:
        raise MilterError(str(error)[:200]) from None
    return field


def _address(octets: bytes, *, allow_null: bool = False) -> Address:
    try:
        text = octets.decode().strip()
    except UnicodeDecodeError:
        raise MilterError(f"{octets[:100]!r} is no address") from None
    text = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    if allow_null and not text:
        return NULL_PATH
    try:
        return Address.parse(text)
    except AddressError as error:
        raise MilterError(f"{text[:100]!r} is no address: {error}") from None
