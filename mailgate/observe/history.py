"""The history: every event that concerns mail, kept for a while, found again by whatever a person knows of the mail."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.logger import Logger

from mailgate.events import (
    AccountSuspected,
    Bounced,
    BouncedBack,
    Complained,
    Deferred,
    Delivered,
    Discarded,
    EntrySetAside,
    Event,
    FilterFailed,
    Judged,
    LimitNear,
    MessageAccepted,
    OperatorActed,
    Quarantined,
    QuarantineExpired,
    Refused,
    Reported,
    Rescanned,
    Suppressed,
    Unsubscribed,
    Unsuppressed,
)
from mailgate.observe.parts import INSERT_ENTRIES, INSERT_KEYS, create, list_parts, open_part
from mailgate.observe.recorder import Written
from mailgate.observe.render import to_stamp
from mailgate.observe.search import Found, Story, read_history

__all__ = ["Found", "History", "Story", "read_history"]

_log = Logger()

#: What is kept; the rest concerns connections and the gateway itself, and is in the log.
_KEPT: tuple[type[Event], ...] = (
    AccountSuspected,
    Bounced,
    BouncedBack,
    Complained,
    Deferred,
    Delivered,
    Discarded,
    EntrySetAside,
    FilterFailed,
    Judged,
    LimitNear,
    MessageAccepted,
    OperatorActed,
    Quarantined,
    QuarantineExpired,
    Refused,
    Reported,
    Rescanned,
    Suppressed,
    Unsubscribed,
    Unsuppressed,
)

#: A part holds at most this share of the size and of the time that are kept, which are overstepped by no more.
_SHARE = 16
_SMALLEST_PART = 64 * 1024
#: SQLite's page, in octets.
_PAGE = 4096


class History:
    """A sink that writes to SQLite files in `directory`.

    `keep` is in seconds, `max_size` in octets: what is older, or too much, goes, oldest first. With less than
    `min_free` octets of free disk nothing is written, so that the account never takes the mail's room. What could
    not be written is counted, and the history tells of its own gaps.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: float,
        max_size: int,
        min_free: int = 0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """OSError where the directory cannot be made. A file that cannot be read is set aside."""
        self._directory = directory
        self._keep = keep
        self._max_size = max_size
        self._min_free = min_free
        self._now = now
        self._database: sqlite3.Connection | None = None
        self._last = 0  # the id of the last entry of the open part
        self._size = 0  # of the open part
        self._lost = 0
        self._error = ""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._parts = list(list_parts(directory))
        self._closed_size = sum(part.size for part in self._parts[:-1])
        with contextlib.suppress(sqlite3.OperationalError):
            # As with a full disk later: the gateway runs, and writing is tried again with each batch.
            self._open()

    @property
    def lost(self) -> int:
        """Entries that could not be written and have not been told of yet."""
        return self._lost

    def write(self, batch: Sequence[Written]) -> None:
        lines = [one.line for one in batch if isinstance(one.event, _KEPT)]
        if lines:
            self._write(lines)

    def missed(self, count: int) -> None:
        self._lose(count, "more events than could be written")

    def tidy(self) -> None:
        if self._lost:
            self._write([])
        now = self._now()
        if self._last and self._parts[-1].start / 1000 < now - self._keep / _SHARE:
            self._begin_another()
        # A part is too old as a whole when the one behind it has begun before the time that is kept.
        while len(self._parts) > 1 and (
            self._parts[1].start / 1000 < now - self._keep or self._closed_size + self._size > self._max_size
        ):
            oldest = self._parts.pop(0)
            self._closed_size -= oldest.size
            oldest.remove()

    def close(self) -> None:
        if self._lost:
            self._write([])
        self._close()

    def _write(self, lines: Sequence[bytes]) -> None:
        try:
            if self._min_free:
                disk = os.statvfs(self._directory)
                if disk.f_bavail * disk.f_frsize < self._min_free:
                    self._lose(len(lines), "too little space is left on the disk")
                    return
            self._commit(self._database or self._open(), lines)
        except (OSError, sqlite3.Error) as error:
            self._lose(len(lines), str(error))
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                self._set_aside(str(error))
            return
        if self._size > max(self._max_size // _SHARE, _SMALLEST_PART):
            self._begin_another()

    def _commit(self, database: sqlite3.Connection, lines: Sequence[bytes]) -> None:
        lost = self._lost
        try:
            database.execute("BEGIN IMMEDIATE")
            if lines:
                batch = (b"[" + b",".join(lines) + b"]").decode("ascii")
                database.execute(INSERT_ENTRIES, {"last": self._last, "batch": batch})
                database.execute(INSERT_KEYS, {"last": self._last})
            if lost:
                database.execute("INSERT INTO gaps VALUES (?, ?, ?)", (to_stamp(self._now()), lost, self._error))
            database.execute("COMMIT")
        except sqlite3.Error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        self._last += len(lines)
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        self._size = pages * _PAGE
        if lost:
            self._lost = 0
            _log.warn("the history is written again; {count} of its entries were lost", count=lost)

    def _lose(self, count: int, error: str) -> None:
        if count and not self._lost:
            _log.warn("the history cannot be written: {error}; entries are lost until it can", error=error)
        self._lost += count
        self._error = error

    def _open(self) -> sqlite3.Connection:
        """Go on with the newest part, or begin one."""
        if self._parts:
            try:
                return self._use(open_part(self._parts[-1], write=True))
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                self._set_aside(str(error))
        start = max(int(self._now() * 1000), self._parts[-1].start + 1 if self._parts else 0)
        part = create(self._directory, start)
        self._parts.append(part)
        return self._use(open_part(part, write=True))

    def _use(self, database: sqlite3.Connection) -> sqlite3.Connection:
        (self._last,) = database.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()
        self._size = self._parts[-1].size
        self._database = database
        return database

    def _begin_another(self) -> None:
        self._close()
        self._closed_size += self._parts[-1].size
        self._last = self._size = 0
        start = max(int(self._now() * 1000), self._parts[-1].start + 1)
        try:
            self._parts.append(create(self._directory, start))
            self._open()
        except (OSError, sqlite3.OperationalError) as error:
            self._lose(0, str(error))

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            # Without its WAL the part can be read from anywhere; not so while somebody reads it, which is well too.
            with contextlib.suppress(sqlite3.Error):
                database.execute("PRAGMA journal_mode = DELETE")
            database.close()

    def _set_aside(self, error: str) -> None:
        """A file that is no part (any more) is kept under another name, for a person to look at."""
        if self._database is not None:
            self._database.close()
            self._database = None
        part = self._parts.pop()
        for suffix in ("", "-wal", "-shm"):
            old = part.path.with_name(part.path.name + suffix)
            with contextlib.suppress(FileNotFoundError):
                old.replace(old.with_name(f"{part.path.stem}.unreadable{suffix}"))
        self._last = self._size = 0
        _log.error("the history {path} cannot be read and was set aside: {error}", path=str(part.path), error=error)
