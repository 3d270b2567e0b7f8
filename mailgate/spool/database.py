"""The spool's database as a file: opened, brought up to date, and put in order where it is damaged."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from mailgate.interfaces import SpoolError
from mailgate.process import sync
from mailgate.spool.codec import CodecError, decode_envelope
from mailgate.spool.salvage import TABLES, rows_of

__all__ = [
    "Key",
    "as_octets",
    "as_text",
    "fold",
    "in_one_row",
    "is_damage",
    "keys_of",
    "link",
    "open_database",
    "open_for_reading",
    "rebuild",
    "spare_octets",
    "sync",
]

Key = tuple[str, int]
"""A recipient: its message's queue id, and its number."""

#: Pages (of 4 KiB) that the database's log gathers before they are folded into it.
_LOG_PAGES = 4000
#: Seconds that one waits for another process's or thread's hold on the database, which is short.
_PATIENCE = 5.0
#: KiB of memory that a question may take for sorting, and for pages.
_FOR_SORTING = 64 * 1024
#: Statements that stay prepared: one for each number of messages in a group, and the others.
_STATEMENTS = 256
#: What SQLite says where it could not take a row, whatever row it was.
_NO_ROWS_FAULT = (
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
)


def open_database(path: Path) -> sqlite3.Connection:
    """The database, made or brought up to date; sqlite3.Error or OSError where it cannot be used.

    What an older mailgate has written is kept beside it as it was, in a file with its version behind the name.
    """
    database = sqlite3.connect(
        path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS
    )
    try:
        path.chmod(0o600)
        database.text_factory = as_text
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        _upgrade(database, path)
    except UnicodeDecodeError as error:  # SQLite quotes what damage has made of its own description
        database.close()
        raise sqlite3.DatabaseError("malformed database schema") from error
    except BaseException:
        database.close()
        raise
    return database


def open_for_reading(path: Path) -> sqlite3.Connection:
    """The database for questions beside its writer; sqlite3.Error where it cannot be opened."""
    uri = f"file:{path}?mode=ro"
    database = sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    database.text_factory = as_text
    # What is counted is sorted: in memory, up to so many KiB.
    database.execute("PRAGMA temp_store = MEMORY")
    database.execute(f"PRAGMA cache_size = -{_FOR_SORTING}")
    return database


def in_one_row(
    database: sqlite3.Connection, columns: str, select: str, values: Mapping[str, object]
) -> list[list[Any]]:
    """The `columns` of what the statement `select` finds, in its order; of REAL only about 15 digits.

    Between two rows the interpreter's lock changes hands, and the reactor's thread has it for as long as it likes: so
    they come as one, and cost the half besides.
    """
    statement = f"SELECT json_group_array(json_array({columns})) FROM ({select})"
    (rows,) = database.execute(statement, values).fetchone()
    found: list[list[Any]] = json.loads(rows)
    return found


def keys_of(keys: Iterable[Key]) -> str:
    """Recipients as one value for a statement: `json_each` makes rows of it again."""
    return json.dumps(list(keys))


def is_damage(error: BaseException) -> bool:
    """Whether the error says that the file is no database, or not a whole one: the disk itself may be well."""
    return type(error) is sqlite3.DatabaseError


def rebuild(path: Path, aside: Path, contents: Path) -> tuple[Path, list[Path]]:
    """Put a new database in the place of a damaged one, with all of it that can be read: where the old one lies now,
    and the content that the new one does not name.

    The old one is kept, whole, for a person to look at, and so is the content of messages that could not be read. Until
    the very end it is in its place: a crash on the way loses nothing. OSError or sqlite3.Error where it cannot be done:
    then all is as it was.
    """
    draft = path.with_name("rebuilt.db")
    try:
        named = _salvage(path, draft)
        unnamed = [file for file in contents.iterdir() if file.name not in named]
        kept = aside / f"spool-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.db"
        pairs = [(file, aside / f"{file.name}.eml") for file in unnamed]
        pairs += [pair for pair in zip(_parts(path), _parts(kept), strict=True) if pair[0].exists()]
        with ExitStack() as undo:
            for one, place in pairs:
                if link(one, place):
                    undo.callback(_remove, [place])
            sync(aside)
            undo.pop_all()
        # A log of the old one beside the new one would be taken for its own: it has gone for good when that comes.
        _remove(_parts(path)[1:])
        sync(path.parent)
        draft.replace(path)
    except BaseException:
        _remove(_parts(draft))
        raise
    sync(path.parent)
    return kept, unnamed


def _salvage(path: Path, draft: Path) -> set[str]:
    """Make a database of all that can be read of another one; the queue ids of the messages in it."""
    _remove(_parts(draft))
    with closing(open_database(draft)) as new:
        new.execute("BEGIN")
        with closing(sqlite3.connect(path, isolation_level=None)) as old:
            old.text_factory = as_text
            with contextlib.suppress(sqlite3.DatabaseError, UnicodeError):
                old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for table in TABLES:
                known = {row[1] for row in new.execute(f"PRAGMA table_info({table})")}
                for row in rows_of(path, old, table, new):
                    # The old one may be of an earlier version, and have less columns.
                    _insert(new, table, {name: value for name, value in row.items() if name in known})
        new.commit()
        named = _named(new)
    sync(draft)
    return named


def _insert(new: sqlite3.Connection, table: str, row: Mapping[str, object]) -> None:
    """Give it a row. What no row of ours can be is left behind; but where the disk is at fault, nothing may be."""
    into = f"{table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
    try:
        new.execute(f"INSERT OR IGNORE INTO {into}", list(row.values()))
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_ROWS_FAULT:
            raise
    except UnicodeError:
        pass


def fold(database: sqlite3.Connection) -> None:
    """Fold the log into the database and give back its room on the disk, as far as that can be at once: whoever asks
    may read for long, and all who write wait for us."""
    database.execute("PRAGMA busy_timeout = 0")
    try:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        database.execute(f"PRAGMA busy_timeout = {int(_PATIENCE * 1000)}")


def spare_octets(database: sqlite3.Connection) -> int:
    """Octets of the database's file that hold nothing, and take what comes next."""
    (pages,) = database.execute("PRAGMA freelist_count").fetchone()
    (size,) = database.execute("PRAGMA page_size").fetchone()
    return int(pages) * int(size)


def link(file: Path, place: Path) -> bool:
    """Give a file a second name; whether it had not got it. It may have come of an attempt that was cut off."""
    try:
        os.link(file, place)
    except FileExistsError:
        return False
    return True


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _named(new: sqlite3.Connection) -> set[str]:
    """The queue ids of the messages in it."""
    named = {queue_id for (queue_id,) in new.execute("SELECT queue_id FROM messages")}
    for (text,) in new.execute("SELECT envelope FROM fresh"):
        with contextlib.suppress(CodecError):
            named.add(decode_envelope(text).queue_id)
    return named


def _parts(path: Path) -> list[Path]:
    """A database's files: itself, its log, the index of that."""
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]


def as_text(octets: bytes) -> str:
    """The text of a column, whatever stands there: it is for whoever knows what it should be to find fault with it."""
    return octets.decode("utf-8", "surrogateescape")


def as_octets(value: object) -> bytes:
    """What stands in a column, whatever it is."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")


def _upgrade(database: sqlite3.Connection, path: Path) -> None:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    scripts = sorted(Path(__file__).with_name("schema").glob("*.sql"))
    if version > len(scripts):
        raise SpoolError(f"the spool was written by a newer mailgate (schema {version}, this one knows {len(scripts)})")
    if version == len(scripts):
        return
    if version:
        _copy(database, path.with_name(f"{path.name}.v{version}"))
    steps = "\n".join(script.read_text() for script in scripts[version:])
    database.executescript(f"BEGIN;\n{steps}\nPRAGMA user_version = {len(scripts)};\nCOMMIT;")


def _copy(database: sqlite3.Connection, place: Path) -> None:
    """Keep a whole copy there, durable before anything is changed; one of an upgrade that was cut off gives way."""
    draft = place.with_name(f"{place.name}.part")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    try:
        database.execute("VACUUM INTO ?", (str(draft),))
        sync(draft)
        draft.replace(place)
        sync(place.parent)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
