"""Small files of SQLite beside the spool: opened, opened when they are needed, and set aside where they are damaged."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from twisted.logger import Logger

__all__ = ["Closable", "OpenedFile", "open_file", "transaction"]

_log = Logger()

#: Seconds that another process which writes is waited for.
_PATIENCE = 5.0


def open_file(path: Path, schema: str, *, survives_power: bool) -> sqlite3.Connection:
    """The file, ours alone to read, with the tables of `schema` if it is new; sqlite3.Error or OSError where not.

    What is committed survives the end of the process, and a loss of power as well where that is said. For any thread,
    one at a time.
    """
    database = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        path.chmod(0o600)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {'FULL' if survives_power else 'NORMAL'}")
        database.executescript(schema)
    except BaseException:
        database.close()
        raise
    return database


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All that is done within, or nothing of it; nobody else writes meanwhile."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        yield


class Closable(Protocol):
    """A file that is open."""

    def close(self) -> None:
        """Close it."""


F = TypeVar("F", bound=Closable)
R = TypeVar("R")


class OpenedFile(Generic[F]):
    """The file at `path`, as `open_file` opens it. One thread after another may use it."""

    def __init__(self, path: Path, open_file: Callable[[Path], F]) -> None:
        self.path = path
        self._open_file = open_file
        self._file: F | None = None
        self._is_damaged = False
        self._lock = threading.Lock()

    def use(self, work: Callable[[F], R]) -> R:
        """What `work` makes of the file; fails as that does, and with sqlite3.Error or OSError where the file cannot be
        used now. Found damaged twice in a row, it is set aside for a person to look at, and the next is a new one."""
        with self._lock:
            try:
                if self._file is None:
                    self._file = self._open_file(self.path)
                result = work(self._file)
            except sqlite3.DatabaseError as error:
                if type(error) is sqlite3.DatabaseError:  # no whole database; the others say what went wrong now
                    self._found_damage(str(error))
                raise
            self._is_damaged = False
            return result

    def close(self) -> None:
        """Close it; who uses it later opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(sqlite3.Error):
                file.close()

    def _found_damage(self, error: str) -> None:
        self._close()
        if not self._is_damaged:
            self._is_damaged = True
            return
        self._is_damaged = False
        for suffix in ("", "-wal", "-shm"):
            old = self.path.with_name(self.path.name + suffix)
            with contextlib.suppress(OSError):
                old.replace(old.with_name(f"{self.path.name}.unreadable{suffix}"))
        _log.error("{path} cannot be read and was set aside: {error}", path=str(self.path), error=error)
