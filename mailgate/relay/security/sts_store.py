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
from mailgate.stores.opened import OpenedFile, open_file, transaction

__all__ = ["Kept", "PolicyFile", "PolicyStore"]

T = TypeVar("T")

#: A policy is fetched anew when it is as old as this (seconds), or has held for half of its time.
_AGED = 86_400.0

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

    def is_aged(self, now: float) -> bool:
        """Whether it should be fetched anew."""
        return now > self.fetched + min(_AGED, (self.expires - self.fetched) / 2)


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
        row = (kept.domain, kept.expires, kept.fetched, now, msgspec.msgpack.encode(kept))
        with transaction(self._database):
            execute = self._database.execute
            execute("INSERT OR REPLACE INTO policies VALUES (?, ?, ?, ?, ?)", row)
            execute("DELETE FROM policies WHERE expires <= ?", (now,))
            (count,) = execute("SELECT count(*) FROM policies").fetchone()
            if count > self._limit:
                first = "SELECT domain FROM policies ORDER BY expires LIMIT ?"
                execute(f"DELETE FROM policies WHERE domain IN ({first})", (count - self._limit,))  # noqa: S608  constants

    def ageing(self, now: float, used_since: float, most: int) -> list[str]:
        """Domains whose policies should be fetched anew and were asked for since, those that expire first."""
        statement = (
            "SELECT domain FROM policies WHERE expires > ?1 AND used > ?2"
            " AND ?1 > fetched + min(?3, (expires - fetched) / 2) ORDER BY expires LIMIT ?4"
        )
        return [domain for (domain,) in self._database.execute(statement, (now, used_since, _AGED, most))]

    def close(self) -> None:
        """Close the file."""
        self._database.close()


class PolicyStore:
    """The file from the reactor's thread; opened when it is first asked. Deferreds fail with sqlite3.Error, OSError.
    A damaged file is set aside: its policies are fetched anew by those who are sent mail."""

    def __init__(self, path: Path, reactor: IReactorFromThreads) -> None:
        self._threads = Threads(reactor, 1, "mta-sts")
        self._file = OpenedFile(path, PolicyFile)
        self._is_used = False

    def run(self, work: Callable[[PolicyFile], T]) -> Deferred[T]:
        """What `work` makes of the file, in our thread; one after another."""
        self._is_used = True
        return self._threads.run(lambda: self._file.use(work))

    async def close(self) -> None:
        """End, when what was asked is done."""
        if self._is_used:
            await self._threads.run(self._file.close)
        self._threads.close()
