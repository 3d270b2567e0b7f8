"""The files of the history: one database for each stretch of time, so that forgetting is removing a file.

A part is named by when it begins (milliseconds since the epoch) and reaches to the beginning of the next. `entries`
holds the events' lines, `keys` by which words each is found, `gaps` what could not be written.

Words come in no order. In one index over all of them each would change a page of its own, 18 KiB for each event on
the disk that the spool syncs; so the index is cut into segments of some thousand entries, whose few pages are changed
many times before they are written (1.5 KiB). Whoever looks for a word asks each segment.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "INSERT_ENTRIES",
    "INSERT_KEYS",
    "KEY",
    "SEGMENT",
    "EmptyPartError",
    "Part",
    "create",
    "list_parts",
    "open_part",
]

#: Of the SQLite database header's user version; parts of another version are neither written nor read.
_VERSION = 1

#: Entries of one segment of the index.
SEGMENT = 2048

_SCHEMA = f"""
CREATE TABLE entries (id INTEGER PRIMARY KEY, at TEXT NOT NULL, line TEXT NOT NULL);
CREATE TABLE keys (
    segment INTEGER NOT NULL, key TEXT NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (segment, key, entry)
) WITHOUT ROWID;
CREATE TABLE gaps (at TEXT NOT NULL, count INTEGER NOT NULL, error TEXT NOT NULL);
PRAGMA user_version = {_VERSION};
"""

#: The form in which a word is kept and looked for; `?` is the word.
KEY = "lower(substr(trim(?, '<> '), 1, 200))"

# A batch is one JSON array, taken apart by SQLite: its C code runs beside the reactor's thread. Rows bound one by one
# would take and give the interpreter's lock for each row, which costs the reactor ten times as much.
INSERT_ENTRIES = "INSERT INTO entries SELECT :last + 1 + key, value ->> 'at', value FROM json_each(:batch)"

# The client is written name[address]: its key is what stands behind the last bracket. A next hop that says "queued as"
# names its own id for the message, as Postfix and mailgate do.
INSERT_KEYS = f"""
INSERT OR IGNORE INTO keys
SELECT e.id / {SEGMENT}, {KEY.replace("?", "k.value")}, e.id
FROM entries e, json_each(json_extract(e.line, '$.queue_id', '$.session', '$.sender', '$.recipient', '$.message_id',
    '$.report', '$.user', '$.split_from', '$.ident')) k
WHERE e.id > :last AND k.value <> ''
UNION ALL
SELECT e.id / {SEGMENT}, {KEY.replace("?", "k.value")}, e.id FROM entries e, json_each(e.line, '$.recipients') k
WHERE e.id > :last AND k.value <> ''
UNION ALL
SELECT id / {SEGMENT}, rtrim(substr(client, length(rtrim(client, replace(client, '[', ''))) + 1), ']'), id
FROM (
    SELECT id, lower(line ->> 'client') AS client FROM entries WHERE id > :last
    UNION ALL
    SELECT id, lower(line ->> 'origin') FROM entries WHERE id > :last
)
WHERE client <> ''
UNION ALL
SELECT id / {SEGMENT}, {KEY.replace("?", "substr(id_there, 1, instr(id_there || ' ', ' ') - 1)")}, id
FROM (
    SELECT id, substr(reply, instr(reply, 'queued as ') + 10) AS id_there
    FROM (SELECT id, line ->> 'reply' AS reply FROM entries WHERE id > :last) WHERE instr(reply, 'queued as ')
)
WHERE id_there <> ''
"""  # noqa: S608  constants of this module only


class EmptyPartError(sqlite3.DatabaseError):
    """The part has been made, and has no tables yet."""


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One file. `start` is in milliseconds since the epoch."""

    start: int
    path: Path

    @property
    def size(self) -> int:
        """Octets on disk; 0 where it has gone."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def remove(self) -> None:
        """Remove it, with what SQLite may have beside it."""
        for suffix in ("-wal", "-shm", ""):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def list_parts(directory: Path) -> Sequence[Part]:
    """The parts that are there, oldest first; none where there is no directory."""
    return sorted(Part(int(path.stem), path) for path in directory.glob("*.db") if path.stem.isdecimal())


def create(directory: Path, start: int) -> Part:
    """A new, empty part."""
    part = Part(start, directory / f"{start:014d}.db")
    os.close(os.open(part.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    return part


def open_part(part: Part, *, write: bool) -> sqlite3.Connection:
    """A connection; sqlite3.Error where the file is no part that we know."""
    if write:
        database = sqlite3.connect(part.path, isolation_level=None, check_same_thread=False)
    else:
        uri = part.path.absolute().as_uri() + "?mode=ro"
        database = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10.0)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if write:
            # WAL: readers of another process do not hold us up, and a process that is killed leaves it whole.
            # NORMAL: one sync now and then, in our own thread; an account may lose its last moments.
            for setting in ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -16000"):
                database.execute(f"PRAGMA {setting}")
            if version == 0:
                database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
                version = _VERSION
        if version == 0:
            raise EmptyPartError(f"{part.path} is only just made")
        if version != _VERSION:
            raise sqlite3.DatabaseError(f"a history of version {version}, which this mailgate does not know")
    except BaseException:
        database.close()
        raise
    return database
