"""The file that remembers calls by their keys, so that none is carried out twice: SQLite, for one thread at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from mailgate.stores.opened import open_file, transaction

__all__ = ["Entry", "Register"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    token TEXT NOT NULL,
    key TEXT NOT NULL,
    id TEXT NOT NULL,
    digest TEXT NOT NULL,
    day TEXT NOT NULL,
    made REAL NOT NULL,
    answer BLOB,
    PRIMARY KEY (token, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS calls_made ON calls (made);
"""


class Entry(Struct, frozen=True):
    """A call: its id, what tells it from others, the day (UTC) on which it began, and, once all of it is done, its
    answer."""

    id: str
    digest: str
    day: str
    answer: bytes | None = None


class Register:
    """`together` makes a transaction of what the other methods do. sqlite3.Error where the file cannot be used now."""

    def __init__(self, path: Path) -> None:
        self._database = open_file(path, _SCHEMA, survives_power=True)

    def together(self, calls: Sequence[Callable[[Register], object]]) -> Sequence[object]:
        """What each of the calls says of this register, in their order; durable, all of it or nothing."""
        with transaction(self._database):
            return [one(self) for one in calls]

    def begin(self, token: str, key: str, entry: Entry, now: float, before: float) -> Entry:
        """The call of this token with this key: the one that is known, or this one from now on. Those that were made
        `before` are forgotten."""
        self._database.execute("DELETE FROM calls WHERE made < ?", (before,))
        self._database.execute(
            "INSERT OR IGNORE INTO calls VALUES (?, ?, ?, ?, ?, ?, NULL)",
            (token, key, entry.id, entry.digest, entry.day, now),
        )
        found = self.find(token, key)
        return entry if found is None else found

    def find(self, token: str, key: str) -> Entry | None:
        """The call of this token with this key; None where none is known."""
        row = self._database.execute(
            "SELECT id, digest, day, answer FROM calls WHERE token = ? AND key = ?", (token, key)
        ).fetchone()
        return None if row is None else Entry(*row)

    def finish(self, token: str, key: str, answer: bytes) -> None:
        """All of it is done."""
        self._database.execute("UPDATE calls SET answer = ? WHERE token = ? AND key = ?", (answer, token, key))

    def forget(self, token: str, key: str) -> None:
        """Nothing of it has been done: the same key may be used anew."""
        self._database.execute("DELETE FROM calls WHERE token = ? AND key = ? AND answer IS NULL", (token, key))

    def unfinished(self) -> int:
        """How many were broken off, and wait to be made again."""
        row = self._database.execute("SELECT count(*) FROM calls WHERE answer IS NULL").fetchone()
        return int(row[0])

    def close(self) -> None:
        """End."""
        self._database.close()
