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
from mailgate.scanners.milter.error import MilterError
from mailgate.wire.milter.codec import (
    Change,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
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


@dataclass(slots=True, eq=False)
class _Place:
    """Where a field stands, with its name in lower case; None stands where it has been removed."""

    name: str
    field: HeaderField | _New | None


class _Fields:
    """The fields as they are changed. A milter may change as many as there are: none looks through all of them."""

    def __init__(self, fields: Iterable[HeaderField]) -> None:
        self._places = [_Place(field.name.lower(), field) for field in fields]
        self._by_name: dict[str, list[_Place]] = {}
        for place in self._places:
            self._by_name.setdefault(place.name, []).append(place)
        self._removed = 0
        self._unsorted: set[str] = set()  # names whose places are not in order

    def __len__(self) -> int:
        return len(self._places) - self._removed

    def left(self) -> list[HeaderField | _New]:
        """Those that are there."""
        return [place.field for place in self._places if place.field is not None]

    def append(self, new: _New) -> None:
        place = _Place(new.name.lower(), new)
        self._places.append(place)
        self._by_name.setdefault(place.name, []).append(place)

    def insert(self, index: int, new: _New) -> None:
        """Behind the first `index` fields."""
        place = _Place(new.name.lower(), new)
        if index and self._removed:
            self._places = [one for one in self._places if one.field is not None]
            self._removed = 0
        self._places.insert(index, place)
        self._by_name.setdefault(place.name, []).insert(0, place)
        if index:
            self._unsorted.add(place.name)

    def change(self, name: str, number: int, new: _New | None) -> None:
        """Put `new` in the place of that field of this name which has this number, from 1; None removes it."""
        if name in self._unsorted:
            self._unsorted.remove(name)
            self._by_name[name] = [one for one in self._places if one.name == name and one.field is not None]
        places = self._by_name.get(name, [])
        if number <= len(places):
            places[number - 1].field = new
            if new is None:
                del places[number - 1]
                self._removed += 1
        elif new is not None:
            self.append(new)


def header_edits(fields: Sequence[HeaderField], changes: Iterable[Change], keeps_space: bool) -> list[Edit]:
    """The edits of the header, for fields as the milter was shown them. `keeps_space`: the space behind the colon is
    part of values (SMFIP_HDR_LEADSPC). MilterError where a change would not make one field."""
    now = _Fields(fields)
    for change in changes:
        match change:
            case HeaderAdded(name, value):
                now.append(_new(name, value, keeps_space))
            case HeaderInserted(index, name, value):
                # Both 0 and 1 mean the top: Sendmail counts its own Received field, which we have not added yet.
                is_last = index >= max(len(now), 2)
                new = _new(name, value, keeps_space, at_end=is_last)
                if is_last:
                    now.append(new)
                else:
                    now.insert(index if index > 1 else 0, new)
            case HeaderChanged(index, name, value):
                changed_to = _new(name, value, keeps_space) if value else None
                now.change(name.decode("ascii", "replace").lower(), max(index, 1), changed_to)
    return _differences(fields, now.left())


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
