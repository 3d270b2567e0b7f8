"""All addresses that a directory knows, at one moment: what becomes of it when the directory has been read again.

Pure functions of what was read: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mailgate.recipients.ldap_entries import Entry

__all__ = ["EMPTY", "Changes", "Mark", "Snapshot", "Update", "changed", "replaced"]

#: So many addresses may always vanish: in a small directory they are a large share.
_FEW = 50
#: The names of what stands for addresses that the directory has no more and that stay. No entry is called so.
_HELD, _HELD_RESTRICTED = "\0held", "\0held restricted"


class Mark(NamedTuple):
    """How far a directory has been read: a server of Active Directory and its update sequence number then, which says
    something to that server only."""

    server: str
    number: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Entries by name. `addresses` says of each whether it is for internal mail only: it is where all of its entries
    are."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    addresses: Mapping[str, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Mapping[str, Entry]) -> Snapshot:
        """The snapshot of these entries."""
        addresses: dict[str, bool] = {}
        for entry in entries.values():
            for address in entry.addresses:
                addresses[address] = entry.is_restricted and addresses.get(address, True)
        return cls(entries, addresses)

    @property
    def held(self) -> int:
        """How many addresses have stayed that the directory had no more when it was read."""
        return sum(len(self.entries[name].addresses) for name in (_HELD, _HELD_RESTRICTED) if name in self.entries)


EMPTY = Snapshot()


@dataclass(frozen=True, slots=True)
class Changes:
    """What was read. `is_whole`: `entries` are all there are; else those that have changed, and `gone` are names of
    entries that are no recipients any more. `mark` is where the next changes begin, None where there is no telling."""

    entries: Mapping[str, Entry]
    gone: Collection[str] = ()
    is_whole: bool = True
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """The snapshot after a reading; `held` addresses would have vanished from it, too many at once, and have not."""

    snapshot: Snapshot
    held: int = 0


def replaced(old: Snapshot, changes: Changes, max_change: int, *, is_confirmed: bool = False) -> Update:
    """After all was read. Where more than `max_change` percent of the addresses would vanish, and more than 50, they
    stay beside what is new, unless that `is_confirmed`."""
    new = Snapshot.of({name: entry for name, entry in changes.entries.items() if entry.addresses})
    vanished = _vanished(old, new)
    if is_confirmed or not _is_mass(len(vanished), len(old.addresses), max_change):
        return Update(old if new.entries == old.entries else new)
    held = {
        _HELD: Entry(tuple(one for one in vanished if not old.addresses[one]), False),
        _HELD_RESTRICTED: Entry(tuple(one for one in vanished if old.addresses[one]), True),
    }
    return Update(Snapshot.of({**new.entries, **held}), len(vanished))


def changed(old: Snapshot, changes: Changes, max_change: int) -> Update:
    """After changes were read: with so many vanished that all should be read instead, `held` says so, and the snapshot
    is the old one."""
    entries = dict(old.entries)
    for name in changes.gone:
        entries.pop(name, None)
    for name, entry in changes.entries.items():
        if entry.addresses:
            entries[name] = entry
        else:
            entries.pop(name, None)
    if entries == old.entries:
        return Update(old)
    new = Snapshot.of(entries)
    vanished = len(_vanished(old, new))
    return Update(old, vanished) if _is_mass(vanished, len(old.addresses), max_change) else Update(new)


def _vanished(old: Snapshot, new: Snapshot) -> list[str]:
    return [address for address in old.addresses if address not in new.addresses]


def _is_mass(vanished: int, before: int, max_change: int) -> bool:
    return vanished > _FEW and vanished * 100 > before * max_change
