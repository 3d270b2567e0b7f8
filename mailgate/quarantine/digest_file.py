"""The file that remembers which recipients have been told of which mail: SQLite, for one thread at a time."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from mailgate.stores.opened import open_file, transaction

__all__ = ["DigestFile", "Listed"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rounds (last TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS told (
    queue_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    seen TEXT NOT NULL,
    PRIMARY KEY (queue_id, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS served (
    recipient TEXT PRIMARY KEY,
    day TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pending (
    recipient TEXT NOT NULL,
    received REAL NOT NULL,
    queue_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    entry TEXT NOT NULL,
    PRIMARY KEY (recipient, received, queue_id, number)
) WITHOUT ROWID;
"""


class Listed(Struct, frozen=True, kw_only=True):
    """One entry of a digest; the fields are those of KeptEntry, in lengths that can be listed."""

    queue_id: str
    number: int
    sender: str
    recipient: str
    subject: str
    from_: str
    reason: str
    received: float
    expires: float


class DigestFile:
    """Every method is one transaction; sqlite3.Error where the file cannot be used now.

    A round begins with `begin`, brings every entry to `add`, then each recipient to `next` and `served`, and ends with
    `finish`. One that was broken off begins anew: who has been served that day is not served again.
    """

    def __init__(self, path: Path) -> None:
        self._database = open_file(path, _SCHEMA, survives_power=True)

    def last(self, otherwise: datetime.date) -> datetime.date:
        """The day of the last round; in a new file it is `otherwise` from now on."""
        row = self._database.execute("SELECT last FROM rounds").fetchone()
        if row is not None:
            return datetime.date.fromisoformat(row[0])
        self._database.execute("INSERT INTO rounds VALUES (?)", (otherwise.isoformat(),))
        return otherwise

    def correct(self, day: datetime.date) -> None:
        """The last round is that of this day, whatever was said before."""
        with transaction(self._database):
            self._database.execute("DELETE FROM rounds")
            self._database.execute("INSERT INTO rounds VALUES (?)", (day.isoformat(),))

    def begin(self) -> None:
        """Nothing is pending."""
        self._database.execute("DELETE FROM pending")

    def add(self, day: datetime.date, entries: Sequence[Listed]) -> None:
        """Entries of which recipients are to be told, unless they have been."""
        with transaction(self._database):
            for one in entries:
                place = one.queue_id, one.number
                seen = self._database.execute(
                    "UPDATE told SET seen = ? WHERE queue_id = ? AND number = ?", (day.isoformat(), *place)
                )
                if seen.rowcount:
                    continue
                entry = msgspec.json.encode(one).decode()
                self._database.execute(
                    "INSERT OR REPLACE INTO pending VALUES (?, ?, ?, ?, ?)",
                    (one.recipient.lower(), one.received, *place, entry),
                )

    def next(self, day: datetime.date, limit: int, behind: str = "") -> tuple[str, Sequence[Listed], int] | None:
        """The first recipient behind another who is not served that day: with the latest entries, at most `limit`, and
        how many there are; None where everybody is."""
        query = (
            "SELECT recipient, count(*) FROM pending WHERE recipient > ? AND NOT EXISTS "
            "(SELECT 1 FROM served WHERE served.recipient = pending.recipient AND served.day = ?) "
            "GROUP BY recipient ORDER BY recipient LIMIT 1"
        )
        row = self._database.execute(query, (behind, day.isoformat())).fetchone()
        if row is None:
            return None
        entries = self._database.execute(
            "SELECT entry FROM pending WHERE recipient = ? ORDER BY received DESC, queue_id DESC, number LIMIT ?",
            (row[0], limit),
        )
        return row[0], [msgspec.json.decode(entry, type=Listed) for (entry,) in entries], row[1]

    def served(self, day: datetime.date, recipient: str, entries: Sequence[Listed]) -> None:
        """The recipient has been told of these, and is told of no others that day."""
        with transaction(self._database):
            self._database.execute("INSERT OR REPLACE INTO served VALUES (?, ?)", (recipient, day.isoformat()))
            self._database.executemany(
                "INSERT OR REPLACE INTO told VALUES (?, ?, ?)",
                [(one.queue_id, one.number, day.isoformat()) for one in entries],
            )
            self._database.execute("DELETE FROM pending WHERE recipient = ?", (recipient,))

    def finish(self, day: datetime.date) -> None:
        """The round is over: what is not in quarantine any more is forgotten."""
        with transaction(self._database):
            self._database.execute("DELETE FROM told WHERE seen <> ?", (day.isoformat(),))
            self._database.execute("DELETE FROM served")
            self._database.execute("DELETE FROM pending")
            self._database.execute("UPDATE rounds SET last = ?", (day.isoformat(),))

    def close(self) -> None:
        """End."""
        self._database.close()
