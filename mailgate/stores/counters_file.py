"""The file in which counters outlive a restart: rows by kind and key, in SQLite. For one thread at a time."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from twisted.logger import Logger

from mailgate.stores.opened import transaction

__all__ = ["CountersFile", "Row"]

T = TypeVar("T")

_log = Logger()

#: Of the SQLite database header's user version; a file of another version is set aside.
_VERSION = 1
#: Seconds that are waited for whoever reads the file meanwhile.
_BUSY = 5.0
#: A moment that never comes, for JSON has no infinity.
_NEVER = 1e15

_SCHEMA = f"""
CREATE TABLE counters (kind TEXT NOT NULL, id TEXT NOT NULL, data TEXT, expires REAL, PRIMARY KEY (kind, id));
PRAGMA user_version = {_VERSION};
"""

# A batch is one JSON array, taken apart by SQLite: its C code runs beside the reactor's thread, where rows bound one by
# one would take and give the interpreter's lock for each. What is written last comes last when it is read again.
_REPLACE = """
INSERT OR REPLACE INTO counters
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(:batch) WHERE value ->> 2 IS NOT NULL
"""
_DELETE = """
DELETE FROM counters WHERE (kind, id) IN (
    SELECT value ->> 0, value ->> 1 FROM json_each(:batch) WHERE value ->> 2 IS NULL
)
"""
_TIDY = "DELETE FROM counters WHERE expires <= ?"
_READ = "SELECT kind, id, data, expires FROM counters WHERE expires > ? ORDER BY rowid"


class Row(NamedTuple):
    """What is kept of a key of a kind: numbers, or octets; None where it is gone. It means nothing any more when it
    `expires`."""

    kind: str
    key: Any
    data: Sequence[float] | bytes | None = None
    expires: float = 0.0


class CountersFile:
    """The file, opened when it is first needed.

    A file that cannot be read, or is none of ours, is set aside beside its place, with a line in the log, and begun
    anew. `read`, `write` and `tidy` raise sqlite3.OperationalError where the disk, or whoever else has the file, does
    not let us, and OSError where it cannot be set aside.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None

    def read(self, now: float) -> Iterator[Row]:
        """What means something yet, what was written last at the end."""
        nothing: list[tuple[str, str, str, float]] = []
        for kind, key, data, expires in self._try(lambda one: one.execute(_READ, (now,)).fetchall(), nothing):
            # Somebody may have written into our file: what cannot be read was never seen.
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                yield Row(kind, _key(json.loads(key)), _read(data), float(expires))

    def write(self, rows: Sequence[Row]) -> bool:
        """Keep these, in one transaction. False where the file was begun anew instead, and so lacks everything."""
        batch = json.dumps(
            [[row.kind, json.dumps(row.key), _written(row.data), min(row.expires, _NEVER)] for row in rows]
        )

        def work(database: sqlite3.Connection) -> bool:
            with transaction(database):
                database.execute(_DELETE, {"batch": batch})
                database.execute(_REPLACE, {"batch": batch})
            return True

        return self._try(work, False)

    def tidy(self, now: float) -> bool:
        """Forget what means nothing any more. False as for `write`."""

        def work(database: sqlite3.Connection) -> bool:
            database.execute(_TIDY, (now,))
            return True

        return self._try(work, False)

    def close(self) -> None:
        """Let go of the file."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _try(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        try:
            return work(self._database or self._open())
        except sqlite3.OperationalError as error:
            # What we say is always the same: where it makes no sense, the tables are not ours any more.
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR:
                self.close()
                raise
            what = str(error)
        except sqlite3.DatabaseError as error:
            what = str(error)
        except UnicodeDecodeError:  # by sqlite3, where the damage is in the words that tell of it
            what = "its tables are damaged"
        self._set_aside(what)
        return otherwise

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        # A row with octets that are no text is a row that cannot be read, and no reason to forget the others.
        database.text_factory = lambda octets: octets.decode("utf-8", "replace")
        try:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"version {version} of the file is not ours")
            database.execute("PRAGMA journal_mode = WAL")
            # After a loss of power the last seconds may be gone; the file is whole.
            database.execute("PRAGMA synchronous = NORMAL")
            if version == 0:
                database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        except (sqlite3.Error, UnicodeDecodeError):
            database.close()
            raise
        self._database = database
        return database

    def _set_aside(self, error: str) -> None:
        self.close()
        for suffix in ("", "-wal", "-shm"):
            old = self._path.with_name(self._path.name + suffix)
            with contextlib.suppress(FileNotFoundError):
                old.replace(old.with_name(f"{self._path.stem}.unreadable{suffix}"))
        _log.error("the counters {path} cannot be read and were set aside: {error}", path=str(self._path), error=error)


def _written(data: Sequence[float] | bytes | None) -> str | None:
    if isinstance(data, bytes):
        return base64.b64encode(data).decode("ascii")
    return None if data is None else json.dumps(data)


def _read(text: str) -> Sequence[float] | bytes:
    if text.startswith("["):
        numbers = json.loads(text)
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise ValueError("no numbers")
        return tuple(numbers)
    return base64.b64decode(text, validate=True)


def _key(key: object) -> object:
    return tuple(key) if isinstance(key, list) else key
