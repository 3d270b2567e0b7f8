"""The file in which MTA-STS policies outlive the process: SQLite, in a thread of its own. Workers share it.

What is there is the memory that keeps an attacker from taking a policy away by hiding it (RFC 8461 section 10.2).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

from mailgate.backends.threads import Threads
from mailgate.relay.security.sts_policy import StsPolicy
from mailgate.stores.opened import open_file

__all__ = ["Kept", "PolicyFile", "PolicyStore"]

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS policies (
    domain TEXT PRIMARY KEY,
    expires REAL NOT NULL,
    fetched REAL NOT NULL,
    used REAL NOT NULL,
    kept BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_expiry ON policies (expires);
"""


class Kept(Struct, frozen=True, kw_only=True):
    """A policy that holds until `expires`, as it was announced under `id`; times in seconds since the epoch."""

    domain: str
    id: str
    policy: StsPolicy
    fetched: float
    expires: float


class PolicyFile:
    """Every method is one transaction; sqlite3.Error. At most `limit` policies are kept: those that expire first go."""

    def __init__(self, path: Path, *, limit: int = 100_000) -> None:
        self._limit = limit
        self._database = open_file(path, _SCHEMA, survives_power=False)

    def get(self, domain: str, now: float) -> Kept | None:
        """The policy of a domain that holds now; that it was asked for is noted, at most once a day."""
        execute = self._database.execute
        row = execute("SELECT kept, used FROM policies WHERE domain = ? AND expires > ?", (domain, now)).fetchone()
        if row is None:
            return None
        if row[1] < now - 86400:
            execute("UPDATE policies SET used = ? WHERE domain = ?", (now, domain))
        return msgspec.msgpack.decode(row[0], type=Kept)

    def put(self, kept: Kept, now: float) -> None:
        """Keep one, in the place of the domain's before."""
        execute = self._database.execute
        row = (kept.domain, kept.expires, kept.fetched, now, msgspec.msgpack.encode(kept))
        execute("INSERT OR REPLACE INTO policies VALUES (?, ?, ?, ?, ?)", row)
        execute("DELETE FROM policies WHERE expires <= ?", (now,))
        (count,) = execute("SELECT count(*) FROM policies").fetchone()
        if count > self._limit:
            first = "SELECT domain FROM policies ORDER BY expires LIMIT ?"
            execute(f"DELETE FROM policies WHERE domain IN ({first})", (count - self._limit,))  # noqa: S608  constants

    def ageing(self, fetched_before: float, used_since: float, most: int) -> list[str]:
        """Domains whose policies are older than that and were asked for since, those that expire first."""
        statement = "SELECT domain FROM policies WHERE fetched < ? AND used > ? ORDER BY expires LIMIT ?"
        return [domain for (domain,) in self._database.execute(statement, (fetched_before, used_since, most))]

    def close(self) -> None:
        """Close the file."""
        self._database.close()


class PolicyStore:
    """The file from the reactor's thread; opened when it is first asked. Deferreds fail with sqlite3.Error, OSError."""

    def __init__(self, path: Path, reactor: IReactorFromThreads) -> None:
        self._path = path
        self._threads = Threads(reactor, 1, "mta-sts")
        self._file: PolicyFile | None = None

    def run(self, work: Callable[[PolicyFile], T]) -> Deferred[T]:
        """What `work` makes of the file, in our thread; one after another."""
        return self._threads.run(lambda: work(self._opened()))

    async def close(self) -> None:
        """End, when what was asked is done."""
        if self._file is not None:
            await self._threads.run(self._file.close)
        self._threads.close()

    def _opened(self) -> PolicyFile:
        if self._file is None:
            self._file = PolicyFile(self._path)
        return self._file
