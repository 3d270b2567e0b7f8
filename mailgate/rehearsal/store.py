"""What was found of copies: kept in a file beside the spool, for as long and as much as the configuration says.

What has gone before its time is counted in the same file, by the hour and the reason, so that a report can tell what it
does not know of, also after a restart.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import msgspec
from twisted.logger import Logger

from mailgate.awaiting import InThread
from mailgate.rehearsal.compare import Account
from mailgate.stores.opened import OpenedFile, open_file, transaction

__all__ = ["LACK_OF_ROOM", "NOT_JUDGED", "NOT_WRITTEN", "AccountFile", "Accounts", "Bounds", "lost_accounts",
           "read_accounts"]  # fmt: skip

_log = Logger()

#: Why accounts are not there.
LACK_OF_ROOM = "older than the newest that max_mails and max_size have room for"
NOT_WRITTEN = "the disk did not take what was found"
NOT_JUDGED = "they could not be judged: see the log"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (id INTEGER PRIMARY KEY, at REAL NOT NULL, account BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS times ON accounts (at);
CREATE TABLE IF NOT EXISTS lost (
    hour INTEGER NOT NULL, why TEXT NOT NULL, mails INTEGER NOT NULL, PRIMARY KEY (hour, why)
) WITHOUT ROWID;
"""
_LOSE = """
INSERT INTO lost (hour, why, mails) VALUES (?, ?, ?)
ON CONFLICT (hour, why) DO UPDATE SET mails = mails + excluded.mails
"""
#: After so many more, those that are too old or too many go.
_BETWEEN = 100
#: So many go at one time where there is no room, and so much of the room is free afterwards.
_AT_ONE_TIME, _FREE = 64, 1 / 32
#: Octets of one account, which a mail to very many recipients may pass; the rest of these is not kept.
_LONGEST = 64 * 1024
_HOUR = 3600


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """For how long accounts are kept (seconds), of how many mails, and in how many octets of the file."""

    keep: float
    mails: int
    size: int


class AccountFile:
    """Every method is one transaction; sqlite3.Error where the file cannot be used now."""

    def __init__(self, path: Path) -> None:
        self._database = open_file(path, _SCHEMA, survives_power=False)
        (self._page,) = self._database.execute("PRAGMA page_size").fetchone()

    def add(self, at: float, account: bytes, bounds: Bounds, lost: Mapping[str, int]) -> None:
        """Add one, and count what was `lost` before it, by the reason; what there is no room for goes, oldest first."""
        with transaction(self._database):
            self._count(at, lost)
            added = self._database.execute("INSERT INTO accounts (at, account) VALUES (?, ?)", (at, account))
            number = added.lastrowid or 0
            if number % _BETWEEN == 0:
                oldest = at - bounds.keep
                self._database.execute("DELETE FROM accounts WHERE at < ?", (oldest,))
                self._database.execute("DELETE FROM lost WHERE hour < ?", (int(oldest // _HOUR),))
                self._drop("id <= ?", number - bounds.mails)
            if self._used() > bounds.size:
                while self._used() > bounds.size * (1 - _FREE):
                    (last,) = self._database.execute(
                        "SELECT max(id) FROM (SELECT id FROM accounts ORDER BY id LIMIT ?)", (_AT_ONE_TIME,)
                    ).fetchone()
                    if last is None or last >= number:  # the newest is kept, however small the room
                        self._drop("id < ?", number)
                        break
                    self._drop("id <= ?", last)

    def lose(self, at: float, lost: Mapping[str, int]) -> None:
        """Count what was lost, by the reason."""
        with transaction(self._database):
            self._count(at, lost)

    def close(self) -> None:
        """Close it."""
        self._database.close()

    def _count(self, at: float, lost: Mapping[str, int]) -> None:
        for why, mails in lost.items():
            self._database.execute(_LOSE, (int(at // _HOUR), why, mails))

    def _drop(self, which: str, number: int) -> None:
        gone = self._database.execute(
            f"SELECT CAST(at / {_HOUR} AS INTEGER), count(*) FROM accounts WHERE {which} GROUP BY 1",  # noqa: S608  ours
            (number,),
        ).fetchall()
        self._database.execute(f"DELETE FROM accounts WHERE {which}", (number,))  # noqa: S608  the same
        for hour, mails in gone:
            self._database.execute(_LOSE, (hour, LACK_OF_ROOM, mails))

    def _used(self) -> int:
        """Octets of the file that hold something: what is free in it is written again first."""
        pages, free = (
            self._database.execute(f"PRAGMA {one}").fetchone()[0] for one in ("page_count", "freelist_count")
        )
        return int((pages - free) * self._page)


class Accounts:
    """The file, written in a thread (`in_thread` runs what waits for the disk); `now` is the time, in seconds since the
    epoch. What cannot be written is counted as lost as soon as it can be, and the log says so once until then."""

    def __init__(self, path: Path, in_thread: InThread, now: Callable[[], float]) -> None:
        self.path = path
        self._file = OpenedFile(path, AccountFile)
        self.in_thread = in_thread
        self.now = now
        self._fails = False
        self._bounds = Bounds(0.0, 0, 0)
        self._lost: dict[str, int] = {}

    def use(self, keep: float, most: int, size: int) -> None:
        """Keep what is found for so many seconds, of so many mails, and in so many octets."""
        self._bounds = Bounds(keep, most, size)

    def lose(self, why: str = NOT_JUDGED) -> None:
        """Take down that there is no account of a mail."""
        self._lost[why] = self._lost.get(why, 0) + 1

    async def add(self, account: Account) -> None:
        """Keep what was found of a mail. Never raises for the disk."""
        pairs = len(account.pairs)
        data = msgspec.json.encode(account)
        while len(data) > _LONGEST and account.pairs:
            account = dataclasses.replace(account, pairs=account.pairs[: len(account.pairs) // 2])
            account = dataclasses.replace(account, cut=pairs - len(account.pairs))
            data = msgspec.json.encode(account)
        at, bounds, lost = self.now(), self._bounds, self._lost
        self._lost = {}
        try:
            await self.in_thread(lambda: self._file.use(lambda file: file.add(at, data, bounds, lost)))
            self._fails = False
        except (OSError, sqlite3.Error) as error:
            for why, mails in lost.items():
                self._lost[why] = self._lost.get(why, 0) + mails
            self.lose(NOT_WRITTEN)
            if not self._fails:
                _log.warn("what the rehearsal finds cannot be kept: {error}", error=str(error))
            self._fails = True

    async def close(self) -> None:
        """Close the file, with what was lost last taken down in it."""
        at, lost = self.now(), self._lost
        if lost:
            try:
                await self.in_thread(lambda: self._file.use(lambda file: file.lose(at, lost)))
            except (OSError, sqlite3.Error) as error:
                _log.warn("what the rehearsal finds cannot be kept: {error}", error=str(error))
        await self.in_thread(self._file.close)


def read_accounts(path: Path, since: float) -> Iterator[Account]:
    """What was found since then (seconds since the epoch), oldest first; sqlite3.Error where the file cannot be read.
    One that is damaged is left out."""
    decode = msgspec.json.Decoder(Account).decode
    with closing(_opened(path)) as database:
        for (data,) in database.execute("SELECT account FROM accounts WHERE at >= ? ORDER BY id", (since,)):
            try:
                yield decode(data)
            except (msgspec.DecodeError, TypeError):
                continue


def lost_accounts(path: Path, since: float) -> Mapping[str, int]:
    """Of how many mails since then (to the hour) there is no account, by the reason; sqlite3.Error as above."""
    with closing(_opened(path)) as database:
        (has_table,) = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'lost'").fetchone()
        if not has_table:  # a file from before
            return {}
        found = database.execute("SELECT why, sum(mails) FROM lost WHERE hour >= ? GROUP BY why", (since // _HOUR,))
        return dict(found.fetchall())


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
