"""Content that stays in the database until somebody reads it: leased mail need not fit into memory."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from mailgate.message import Content
from mailgate.spool.database import open_for_reading

__all__ = ["ContentReader", "StoredContent"]

_CHUNK = 256 * 1024


class ContentReader:
    """Reads content out of the database, from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._file = 0

    def read(self, queue_id: str) -> bytes:
        """The content of a message that has rows; OSError where it cannot be read."""
        try:
            with self._lock:
                row = self._open().execute("SELECT content FROM messages WHERE queue_id = ?", (queue_id,)).fetchone()
        except (OSError, sqlite3.Error) as error:
            raise OSError(f"the content of {queue_id} cannot be read: {error}") from error
        if row is None or not isinstance(row[0], bytes):
            raise OSError(f"the content of {queue_id} has gone")
        return row[0]

    def close(self) -> None:
        """Let go of the database's file; the next reading opens the one that is there then."""
        with self._lock:
            self._close()

    def _open(self) -> sqlite3.Connection:
        """The database; another worker may have put another file in its place."""
        file = self._path.stat().st_ino
        if self._database is None or file != self._file:
            self._close()
            self._database, self._file = open_for_reading(self._path), file
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
        self._database = None


class StoredContent(Content):
    """Content of a leased message. Once the last recipient has its outcome it cannot be read any more."""

    __slots__ = ("_queue_id", "_reader")

    def __init__(self, reader: ContentReader, queue_id: str, size: int) -> None:
        super().__init__(b"")
        self._data = None  # they are neither in memory nor in a file of their own
        self._reader = reader
        self._queue_id = queue_id
        self.size = size

    def read(self) -> bytes:
        return self._reader.read(self._queue_id)

    def chunks(self, size: int = _CHUNK) -> Iterator[bytes]:
        data = self.read()
        return (data[at : at + size] for at in range(0, len(data), size))
