"""Edits as changes that a milter asks for.

The mail server counts fields of one name from 1, of those that it has shown and as they are at that moment. So fields
that go are named first, from the last to the first: the numbers of the others stay what they were, whether a server
counts what it has removed or not. New fields come behind that. Where they are put in, places are counted from the top
of what will be delivered, with the server's own Received field, which it has not shown: 1 is below that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from mailgate.address import Address
from mailgate.message import Edit, HeaderField, edited_fields, is_of_header
from mailgate.relay.editing import EnvelopeChanges
from mailgate.wire.milter.codec import (
    Change,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    RecipientAdded,
    RecipientRemoved,
    SenderChanged,
)
from mailgate.wire.milter.negotiation import Agreement
from mailgate.wire.milter.words import Actions

__all__ = ["CannotChangeError", "check_right", "envelope_changes", "header_changes", "told"]

#: Where a new field stands above all that were shown.
_TOP = 1

_RIGHTS: dict[type[Change], tuple[Actions, str]] = {
    HeaderAdded: (Actions.ADD_HEADERS, "add header fields"),
    HeaderInserted: (Actions.ADD_HEADERS, "add header fields"),
    HeaderChanged: (Actions.CHANGE_HEADERS, "change header fields"),
    SenderChanged: (Actions.CHANGE_SENDER, "change the sender"),
    RecipientAdded: (Actions.ADD_RECIPIENTS, "add recipients"),
    RecipientRemoved: (Actions.REMOVE_RECIPIENTS, "remove recipients"),
}


class CannotChangeError(Exception):
    """The mail server does not let a milter do this."""


def check_right(changes: Sequence[Change], agreement: Agreement) -> None:
    """CannotChangeError where one of these was not agreed on."""
    for change in changes:
        right, what = _RIGHTS.get(type(change), (Actions(0), ""))
        if right and not agreement.actions & right:
            raise CannotChangeError(f"the mail server does not let us {what}")


def header_changes(fields: Sequence[HeaderField], edits: Sequence[Edit], *, keeps_space: bool) -> list[Change]:
    """What makes the fields, as they were shown, what these edits make of them."""
    of_header = [edit for edit in edits if is_of_header(edit)]
    if not of_header:
        return []
    now = edited_fields(fields, of_header)
    stays = {id(one) for one in now}
    there = {id(one) for one in fields}
    found: list[Change] = list(reversed(list(_removals(fields, stays))))
    kept = [place for place, one in enumerate(now) if id(one) in there]
    first, last = (kept[0], kept[-1]) if kept else (0, -1)
    above = now[:first] if kept else []
    found += [HeaderInserted(_TOP, *_written(one, keeps_space)) for one in reversed(above)]
    found += [
        HeaderInserted(_TOP + place, *_written(now[place], keeps_space))
        for place in range(first, last + 1)
        if id(now[place]) not in there
    ]
    found += [HeaderAdded(*_written(one, keeps_space)) for one in now[last + 1 :]]
    return found


def envelope_changes(
    edits: Sequence[Edit],
    sender: Address,
    recipients: Sequence[Address],
    gone: Sequence[Address],
    written: Mapping[Address, Iterable[bytes]] = MappingProxyType({}),
) -> list[Change]:
    """What makes the envelope that of those who stay: `recipients`, without those who are `gone` for other reasons.

    A mail server removes whom it finds by what the client has written, case and all: these are named in each of the
    ways in which they are `written`, too.
    """
    changes = EnvelopeChanges(edits, sender, lambda address, sender: "mta")
    removed = [address for address in recipients if changes.removes(address)]
    paths = [path for address in [*gone, *removed] for path in (f"<{address}>".encode(), *written.get(address, ()))]
    found: list[Change] = [RecipientRemoved(path) for path in dict.fromkeys(paths)]
    there = [*recipients, *gone]
    found += [RecipientAdded(f"<{one.address}>".encode()) for one in changes.added(there, 0)]
    path = changes.return_path(recipients[0]) if recipients else None
    path = changes.sender if path is None else path
    if path != sender:
        found.append(SenderChanged(f"<{path}>".encode()))
    return found


def told(changes: Sequence[Change], *, has_body: bool) -> Iterator[str]:
    """The changes in words."""
    for change in changes:
        match change:
            case HeaderAdded(name) | HeaderInserted(_, name):
                yield f"a new field {name.decode('ascii', 'replace')}"
            case HeaderChanged(index, name):
                yield f"without its field {name.decode('ascii', 'replace')} number {index}"
            case SenderChanged(address):
                yield f"from {address.decode('utf-8', 'replace')}"
            case RecipientAdded(address):
                yield f"also to {address.decode('utf-8', 'replace')}"
            case RecipientRemoved(address):
                yield f"not to {address.decode('utf-8', 'replace')}"
    if has_body:
        yield "another body"


def _removals(fields: Sequence[HeaderField], stays: set[int]) -> Iterator[Change]:
    numbers: dict[bytes, int] = {}
    for one in fields:
        name = one.raw.partition(b":")[0].rstrip(b" \t")
        number = numbers[name.lower()] = numbers.get(name.lower(), 0) + 1
        if id(one) not in stays:
            yield HeaderChanged(number, name, b"")


def _written(field: HeaderField, keeps_space: bool) -> tuple[bytes, bytes]:
    """Name and value; folding is by single LFs."""
    name, _, value = field.raw.removesuffix(b"\r\n").partition(b":")
    value = value.replace(b"\r\n", b"\n")
    return name.rstrip(b" \t"), value if keeps_space else value.removeprefix(b" ")
