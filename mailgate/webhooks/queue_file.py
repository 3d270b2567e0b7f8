"""The queue of events for webhooks: SQLite, which all workers write and the first one reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailgate.stores.opened import open_file, transaction

__all__ = ["Batch", "Dropped", "QueueFile", "Queued"]

#: Events that are dropped at one time, until enough are.
_STEP = 100
#: Octets that one event takes beside its own.
_OVERHEAD = 64
_SCHEMA = """
CREATE TABLE IF NOT EXISTS hooks (
    name TEXT PRIMARY KEY,
    octets INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    hook TEXT NOT NULL,
    at REAL NOT NULL,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    line TEXT NOT NULL,
    octets INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS by_hook ON events (hook, id);
"""


@dataclass(frozen=True, slots=True)
class Queued:
    """An event for a webhook: when it was (seconds since the epoch), its `key`, by which repetitions are known, its
    kind, and what it tells as JSON."""

    hook: str
    at: float
    key: str
    kind: str
    line: str


@dataclass(frozen=True, slots=True)
class Batch:
    """The first events of a webhook, up to the one with the number `last`; `missed` events before or among them have
    been dropped since the last request that was taken."""

    events: Sequence[Queued]
    last: int
    missed: int


Dropped = Mapping[tuple[str, str], int]
"""How many events were dropped, by webhook and reason."""


class QueueFile:
    """Every method is one transaction; sqlite3.Error where the file cannot be used now. For one thread at a time.

    What is taken stays until it is `done`: whoever ends in between has it sent again.
    """

    def __init__(self, path: Path) -> None:
        self._database = open_file(path, _SCHEMA, survives_power=False)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def put(self, events: Sequence[Queued], max_size: Mapping[str, int]) -> Dropped:
        """Append these; where a webhook has more octets than `max_size` then, its oldest go."""
        dropped: Counter[tuple[str, str]] = Counter()
        added: Counter[str] = Counter()
        rows = []
        for one in events:
            octets = len(one.line) + _OVERHEAD
            added[one.hook] += octets
            rows.append((one.hook, one.at, one.key, one.kind, one.line, octets))
        with transaction(self._database):
            self._database.executemany(
                "INSERT INTO events (hook, at, key, kind, line, octets) VALUES (?, ?, ?, ?, ?, ?)", rows
            )
            for hook, octets in added.items():
                self._grow(hook, octets)
                while self._octets(hook) > max_size[hook] and (count := self._drop(hook, "1")):
                    dropped[hook, "size"] += count
        return dropped

    def miss(self, hook: str, count: int) -> None:
        """So many events for the webhook could not even be put here."""
        self._grow(hook, 0, count)

    def take(self, hook: str, *, limit: int, octets: int, oldest: float) -> tuple[Batch | None, Dropped]:
        """The first events of a webhook, `limit` and about so many octets at most; None where there are none. What is
        from before `oldest` is dropped first."""
        dropped: Counter[tuple[str, str]] = Counter()
        query = "SELECT id, at, key, kind, line, octets FROM events WHERE hook = ? ORDER BY id LIMIT ?"
        first = self._database.execute(query, (hook, 1)).fetchone()
        if first is None:
            return None, dropped
        if first[1] < oldest:
            with transaction(self._database):
                while count := self._drop(hook, "at < ?", oldest):
                    dropped[hook, "age"] += count
        events: list[Queued] = []
        last = 0
        for id_, at, key, kind, line, size in self._database.execute(query, (hook, limit)):
            if events and octets < size:
                break
            octets -= size
            events.append(Queued(hook, at, key, kind, line))
            last = id_
        if not events:
            return None, dropped
        (missed,) = self._database.execute("SELECT dropped FROM hooks WHERE name = ?", (hook,)).fetchone()
        return Batch(events, last, missed), dropped

    def done(self, hook: str, batch: Batch) -> None:
        """The webhook has taken this batch, and knows what it has missed."""
        with transaction(self._database):
            self._remove("SELECT id FROM events WHERE hook = ? AND id <= ?", hook, hook, batch.last)
            # A courier that has ended may have told of them, too.
            statement = "UPDATE hooks SET dropped = max(0, dropped - ?) WHERE name = ?"
            self._database.execute(statement, (batch.missed, hook))

    def keep_only(self, hooks: Collection[str]) -> Dropped:
        """Forget all other webhooks, and what waits for them."""
        dropped: Counter[tuple[str, str]] = Counter()
        with transaction(self._database):
            for (name,) in self._database.execute("SELECT name FROM hooks").fetchall():
                if name not in hooks:
                    query = "DELETE FROM events WHERE hook = ?"
                    dropped[name, "removed"] += self._database.execute(query, (name,)).rowcount
                    self._database.execute("DELETE FROM hooks WHERE name = ?", (name,))
        return +dropped

    def _grow(self, hook: str, octets: int, dropped: int = 0) -> None:
        statement = (
            "INSERT INTO hooks VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
            " SET octets = octets + excluded.octets, dropped = dropped + excluded.dropped"
        )
        self._database.execute(statement, (hook, octets, dropped))

    def _octets(self, hook: str) -> int:
        (octets,) = self._database.execute("SELECT octets FROM hooks WHERE name = ?", (hook,)).fetchone()
        return int(octets)

    def _drop(self, hook: str, condition: str, *values: object) -> int:
        """Drop some of the oldest for which the condition is true; how many."""
        first = f"SELECT id, at FROM events WHERE hook = ? ORDER BY id LIMIT {_STEP}"  # noqa: S608  constants
        count = self._remove(f"SELECT id FROM ({first}) WHERE {condition}", hook, hook, *values)  # noqa: S608  constants
        self._database.execute("UPDATE hooks SET dropped = dropped + ? WHERE name = ?", (count, hook))
        return count

    def _remove(self, which: str, hook: str, *values: object) -> int:
        """Remove the events whose ids the query gives."""
        query = f"SELECT coalesce(sum(octets), 0) FROM events WHERE id IN ({which})"  # noqa: S608  constants
        (octets,) = self._database.execute(query, values).fetchone()
        count = self._database.execute(f"DELETE FROM events WHERE id IN ({which})", values).rowcount  # noqa: S608
        self._database.execute("UPDATE hooks SET octets = octets - ? WHERE name = ?", (octets, hook))
        return count
