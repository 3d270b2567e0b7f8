"""What a damaged database still holds: the rows around the pages that cannot be read.

A page that cannot be read ends a scan, from whichever end it comes. Behind it a row is found by its key, of which only
the pages on its way have to be whole: and the keys stand in the file.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from mailgate.spool.codec import CodecError, decode_envelope

__all__ = ["TABLES", "rows_of"]

Row = dict[str, object]

#: Every table, and the order of its rows in the file.
TABLES = {
    "fresh": ("id",),
    "messages": ("rowid",),
    "recipients": ("queue_id", "number"),
    "suspensions": ("kind", "name"),
    "counts": ("key",),
}
#: Rows that a disk may fail to give us: each time one may have to wait long.
_DISK_ERRORS = 100

# Of SQLite's file format: a leaf of a table with numbered rows begins with this octet, and its header has a length.
_LEAF = 13
_LEAF_HEADER = 8
#: Octets of a page, and cells that it may have.
_PAGE = 4096
_CELLS = (_PAGE - _LEAF_HEADER) // 2

_UNREADABLE = (sqlite3.Error, OverflowError, UnicodeError)


def rows_of(path: Path, old: sqlite3.Connection, table: str, new: sqlite3.Connection) -> Iterator[Row]:
    """All rows that can be read, by their columns, and none twice.

    `old` is the file `path`, with its log folded into it; `new` has the messages when it comes to their recipients.
    """
    found = _Rows(old, table)
    yield from found.from_both_ends()
    if found.is_whole:
        return
    if table in ("fresh", "messages"):
        for number in _numbers(path):
            yield from found.at(number)
    elif table == "recipients":
        for queue_id, text in new.execute("SELECT queue_id, envelope FROM messages"):
            # An envelope that cannot be read is set aside with whatever there is of it.
            with contextlib.suppress(CodecError):
                for one in decode_envelope(text).recipients:
                    yield from found.at(queue_id, one.number)


class _Rows:
    """The rows of one table. `is_whole`: every one could be read."""

    def __init__(self, old: sqlite3.Connection, table: str) -> None:
        self.is_whole = False
        self._old = old
        self._table = table
        self._key = TABLES[table]
        self._seen: set[tuple[object, ...]] = set()
        self._disk_errors = 0

    def from_both_ends(self) -> Iterator[Row]:
        """The rows before the first page that cannot be read, and those behind the last one."""
        for direction in ("ASC", "DESC"):
            order = ", ".join(f"{column} {direction}" for column in self._key)
            try:
                yield from self._new(f"ORDER BY {order}", ())
            except _UNREADABLE:
                continue
            self.is_whole = True
            return

    def at(self, *key: object) -> Iterator[Row]:
        """The row with this key, where it can be read and has not come yet."""
        if key in self._seen or self._disk_errors >= _DISK_ERRORS:
            return
        where = " AND ".join(f"{column} = ?" for column in self._key)
        try:
            yield from self._new(f"WHERE {where}", key, asked=key)
        except sqlite3.OperationalError:
            self._disk_errors += 1
        except _UNREADABLE:
            pass
        self._seen.add(key)

    def _new(self, rest: str, values: tuple[object, ...], *, asked: tuple[object, ...] | None = None) -> Iterator[Row]:
        """What has not come yet; what `asked` for a key has found may be another row, or none: a torn page's."""
        width = len(self._key)
        statement = f"SELECT {', '.join(self._key)}, * FROM {self._table} {rest}"  # noqa: S608  names of our own
        rows = self._old.execute(statement, values)
        names = [column[0] for column in rows.description[width:]]
        for row in rows:
            if row[:width] not in self._seen and asked in (None, row[:width]):
                self._seen.add(row[:width])
                yield dict(zip(names, row[width:], strict=True))


def _numbers(path: Path) -> Iterator[int]:
    """The numbers of rows that stand anywhere in the file, of whatever table, and what damage has made of some."""
    with path.open("rb") as file:
        while len(page := file.read(_PAGE)) == _PAGE:
            if page[0] != _LEAF:
                continue
            for cell in range(min(int.from_bytes(page[3:5]), _CELLS)):
                place = _LEAF_HEADER + 2 * cell
                _, at = _varint(page, int.from_bytes(page[place : place + 2]))
                number, _ = _varint(page, at)
                yield number


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """SQLite's number of one to nine octets there (of eight, at most), and where it ends."""
    number = 0
    for octet in page[at : at + 8]:
        number = number << 7 | octet & 127
        at += 1
        if octet < 128:
            break
    return number, at
