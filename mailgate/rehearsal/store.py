"""What was found of copies: kept in a file beside the spool, for as long and as much as the configuration says."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
from twisted.logger import Logger

from mailgate.awaiting import InThread
from mailgate.rehearsal.compare import Account
from mailgate.stores.opened import OpenedFile, open_file, transaction

__all__ = ["AccountFile", "Accounts", "read_accounts"]

_log = Logger()

_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (id INTEGER PRIMARY KEY, at REAL NOT NULL, account BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS times ON accounts (at);
"""
#: After so many more, those that are too old or too many go.
_BETWEEN = 100
#: Octets of one account, which a mail to very many recipients may pass; the rest of these is not kept.
_LONGEST = 64 * 1024


class AccountFile:
    """Every method is one transaction; sqlite3.Error where the file cannot be used now."""

    def __init__(self, path: Path) -> None:
        self._database = open_file(path, _SCHEMA, survives_power=False)

    def add(self, at: float, account: bytes, oldest: float, most: int) -> None:
        """Add one; now and then those from before `oldest`, and more than `most`, go."""
        with transaction(self._database):
            added = self._database.execute("INSERT INTO accounts (at, account) VALUES (?, ?)", (at, account))
            number = added.lastrowid or 0
            if number % _BETWEEN == 0:
                self._database.execute("DELETE FROM accounts WHERE at < ? OR id <= ?", (oldest, number - most))

    def close(self) -> None:
        """Close it."""
        self._database.close()


class Accounts:
    """The file, written in a thread (`in_thread` runs what waits for the disk); `now` is the time, in seconds since the
    epoch. What cannot be written is lost, and the log says so once until it can."""

    def __init__(self, path: Path, in_thread: InThread, now: Callable[[], float]) -> None:
        self.path = path
        self._file = OpenedFile(path, AccountFile)
        self.in_thread = in_thread
        self.now = now
        self._fails = False
        self._keep = 0.0
        self._most = 0

    def use(self, keep: float, most: int) -> None:
        """Keep what is found for so many seconds, and of so many mails."""
        self._keep, self._most = keep, most

    async def add(self, account: Account) -> None:
        """Keep what was found of a mail. Never raises for the disk."""
        data = msgspec.json.encode(account)
        while len(data) > _LONGEST and account.pairs:
            account = dataclasses.replace(account, pairs=account.pairs[: len(account.pairs) // 2])
            data = msgspec.json.encode(account)
        at, keep, most = self.now(), self._keep, self._most
        try:
            await self.in_thread(lambda: self._file.use(lambda file: file.add(at, data, at - keep, most)))
            self._fails = False
        except (OSError, sqlite3.Error) as error:
            if not self._fails:
                _log.warn("what the rehearsal finds cannot be kept: {error}", error=str(error))
            self._fails = True

    async def close(self) -> None:
        """Close the file."""
        await self.in_thread(self._file.close)


def read_accounts(path: Path, since: float) -> Iterator[Account]:
    """What was found since then (seconds since the epoch), oldest first; sqlite3.Error where the file cannot be read.
    One that is damaged is left out."""
    decode = msgspec.json.Decoder(Account).decode
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as database:
        for (data,) in database.execute("SELECT account FROM accounts WHERE at >= ? ORDER BY id", (since,)):
            try:
                yield decode(data)
            except (msgspec.DecodeError, TypeError):
                continue
