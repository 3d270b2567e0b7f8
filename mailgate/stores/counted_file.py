"""A file in which what is to be reported is counted until then: SQLite, for one thread of a process."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from mailgate.stores.opened import open_file, transaction

__all__ = ["Batch", "CountedFile", "HasDomain"]


class HasDomain(Protocol):
    """A policy, frozen, of the domain that is told."""

    @property
    def domain(self) -> str:
        """The domain."""


P = TypeVar("P", bound=HasDomain)
T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS days (
    day INTEGER PRIMARY KEY,
    rows INTEGER NOT NULL DEFAULT 0,
    missed INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY,
    day INTEGER NOT NULL,
    domain TEXT NOT NULL,
    policy TEXT NOT NULL,
    rows INTEGER NOT NULL DEFAULT 0,
    missed INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,
    claim TEXT NOT NULL DEFAULT '',
    claimed_until REAL NOT NULL DEFAULT 0,
    outcome TEXT,
    UNIQUE (day, domain, policy)
);
CREATE INDEX IF NOT EXISTS open_batches ON batches (day, due) WHERE outcome IS NULL;
CREATE TABLE IF NOT EXISTS tallies (
    batch INTEGER NOT NULL,
    digest BLOB NOT NULL,
    tally TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (batch, digest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sent (
    batch INTEGER NOT NULL,
    address TEXT NOT NULL,
    queue_id TEXT NOT NULL,
    PRIMARY KEY (batch, address)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Batch(Generic[P]):
    """What is one report: what happened on a day (since the epoch, UTC) under one policy.

    `missed` counts what is beyond the bounds. `attempts` were made to report it; `claim` shows that it is ours now.
    """

    id: int
    day: int
    policy: P
    missed: int
    attempts: int
    claim: str


class CountedFile(Generic[P, T]):
    """Every method is one transaction. sqlite3.Error where the file cannot be used now.

    Policies are structs of the type `policy`, and what is counted of each are structs of the type `tally`. A domain has
    at most `policies` batches and `domain_rows` kinds a day, and all domains together `day_rows` kinds: what is beyond
    is counted as missed. Several processes may use the same file.
    """

    def __init__(
        self,
        path: Path,
        policy: type[P],
        tally: type[T],
        *,
        policies: int = 4,
        domain_rows: int = 10_000,
        day_rows: int = 200_000,
    ) -> None:
        self._policy = policy
        self._tally = tally
        self._policies = policies
        self._domain_rows = domain_rows
        self._day_rows = day_rows
        self._database = open_file(path, _SCHEMA, survives_power=False)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # -- counting

    def add(self, counts: Mapping[tuple[int, P, T], int], missed: Mapping[int, int]) -> None:
        """Count these, by day, policy and kind; `missed` are those by day that nobody had the room to count by kind.

        A batch that has been reported stays as it was: what comes for it later is missed.
        """
        with transaction(self._database):
            for day, count in missed.items():
                self._miss(day, count)
            by_batch: dict[tuple[int, P], list[tuple[T, int]]] = {}
            for (day, policy, tally), count in counts.items():
                by_batch.setdefault((day, policy), []).append((tally, count))
            for (day, policy), tallies in by_batch.items():
                self._add(day, policy, tallies)

    def _add(self, day: int, policy: P, tallies: Sequence[tuple[T, int]]) -> None:
        execute = self._database.execute
        batch = self._batch(day, policy)
        execute("INSERT OR IGNORE INTO days (day) VALUES (?)", (day,))
        (day_rows,) = execute("SELECT rows FROM days WHERE day = ?", (day,)).fetchone()
        statement = "SELECT sum(rows) FROM batches WHERE day = ? AND domain = ?"
        domain_rows = execute(statement, (day, policy.domain)).fetchone()[0] or 0
        if batch is None:
            self._miss(day, sum(count for _, count in tallies))
            return
        room = min(self._domain_rows - domain_rows, self._day_rows - day_rows)
        added = missed = 0
        for tally, count in tallies:
            text = msgspec.json.encode(tally).decode()
            key = (batch, hashlib.blake2b(text.encode(), digest_size=16).digest())
            if execute("UPDATE tallies SET count = count + ? WHERE batch = ? AND digest = ?", (count, *key)).rowcount:
                continue
            if added >= room:
                missed += count
                continue
            execute("INSERT INTO tallies VALUES (?, ?, ?, ?)", (*key, text, count))
            added += 1
        execute("UPDATE batches SET rows = rows + ?, missed = missed + ? WHERE id = ?", (added, missed, batch))
        execute("UPDATE days SET rows = rows + ?, missed = missed + ? WHERE day = ?", (added, missed, day))

    def _batch(self, day: int, policy: P) -> int | None:
        """The id of the open batch; None where it has been reported, or there may be no more."""
        text = msgspec.json.encode(policy).decode()
        execute = self._database.execute
        statement = "SELECT id, outcome FROM batches WHERE day = ? AND domain = ? AND policy = ?"
        if found := execute(statement, (day, policy.domain, text)).fetchone():
            return found[0] if found[1] is None else None
        (count,) = execute("SELECT count(*) FROM batches WHERE day = ? AND domain = ?", (day, policy.domain)).fetchone()
        if count >= self._policies:
            return None
        (rows,) = execute("SELECT coalesce(max(rows), 0) FROM days WHERE day = ?", (day,)).fetchone()
        if rows >= self._day_rows:
            return None
        values = (day, policy.domain, text)
        return execute("INSERT INTO batches (day, domain, policy) VALUES (?, ?, ?)", values).lastrowid

    def _miss(self, day: int, count: int) -> None:
        statement = (
            "INSERT INTO days (day, missed) VALUES (?, ?)"
            " ON CONFLICT (day) DO UPDATE SET missed = missed + excluded.missed"
        )
        self._database.execute(statement, (day, count))

    # -- reporting

    def claim(self, before: int, now: float, until: float) -> Batch[P] | None:
        """The oldest open batch of a day before `before` that is due and that nobody has claimed: the caller's, until
        `until`."""
        with transaction(self._database):
            statement = (
                "SELECT id, day, policy, missed, attempts FROM batches"
                " WHERE outcome IS NULL AND day < ? AND due <= ? AND claimed_until <= ? ORDER BY day, due, id LIMIT 1"
            )
            row = self._database.execute(statement, (before, now, now)).fetchone()
            if row is None:
                return None
            id_, day, policy, missed, attempts = row
            claim = secrets.token_hex(8)
            self._database.execute("UPDATE batches SET claim = ?, claimed_until = ? WHERE id = ?", (claim, until, id_))
            return Batch(id_, day, msgspec.json.decode(policy, type=self._policy), missed, attempts, claim)

    def next_due(self, before: int) -> float | None:
        """When the next open batch of a day before `before` may be claimed; None where there is none."""
        statement = "SELECT min(max(due, claimed_until)) FROM batches WHERE outcome IS NULL AND day < ?"
        (due,) = self._database.execute(statement, (before,)).fetchone()
        return None if due is None else float(due)

    def tallies(self, batch: Batch[P]) -> list[tuple[T, int]]:
        """What a batch has, the most frequent kind first."""
        statement = "SELECT tally, count FROM tallies WHERE batch = ? ORDER BY count DESC, digest"
        rows = self._database.execute(statement, (batch.id,)).fetchall()
        return [(msgspec.json.decode(text, type=self._tally), count) for text, count in rows]

    def sent(self, batch: Batch[P]) -> frozenset[str]:
        """The addresses that have its report already."""
        rows = self._database.execute("SELECT address FROM sent WHERE batch = ?", (batch.id,)).fetchall()
        return frozenset(address for (address,) in rows)

    def note_sent(self, batch: Batch[P], address: str, queue_id: str) -> None:
        """Its report to this address is in the spool."""
        self._database.execute("INSERT OR REPLACE INTO sent VALUES (?, ?, ?)", (batch.id, address, queue_id))

    def put_off(self, batch: Batch[P], due: float, *, counts: bool = True) -> None:
        """Not now: it is nobody's until `due`. `counts` says whether that was an attempt."""
        statement = (
            "UPDATE batches SET claim = '', claimed_until = 0, due = ?, attempts = attempts + ?"
            " WHERE id = ? AND claim = ?"
        )
        self._database.execute(statement, (due, int(counts), batch.id, batch.claim))

    def finish(self, batch: Batch[P], outcome: str) -> None:
        """It is reported, or never will be; what was counted goes, and that it was done stays until `tidy`."""
        with transaction(self._database):
            statement = "UPDATE batches SET outcome = ?, claim = '', claimed_until = 0 WHERE id = ? AND claim = ?"
            if self._database.execute(statement, (outcome, batch.id, batch.claim)).rowcount:
                self._database.execute("DELETE FROM tallies WHERE batch = ?", (batch.id,))

    def tidy(self, oldest: int) -> list[Batch[P]]:
        """Forget the days before `oldest`; the batches of these that were never reported."""
        with transaction(self._database):
            execute = self._database.execute
            statement = "SELECT id, day, policy, missed, attempts FROM batches WHERE outcome IS NULL AND day < ?"
            left = [
                Batch(id_, day, msgspec.json.decode(policy, type=self._policy), missed, attempts, "")
                for id_, day, policy, missed, attempts in execute(statement, (oldest,))
            ]
            for table in ("tallies", "sent"):
                old = "SELECT id FROM batches WHERE day < ?"
                execute(f"DELETE FROM {table} WHERE batch IN ({old})", (oldest,))  # noqa: S608  constants
            execute("DELETE FROM batches WHERE day < ?", (oldest,))
            execute("DELETE FROM days WHERE day < ?", (oldest,))
            return left

    def missed(self, day: int) -> int:
        """How much of a day was not counted by kind."""
        row = self._database.execute("SELECT missed FROM days WHERE day = ?", (day,)).fetchone()
        return int(row[0]) if row else 0
