"""The spool's database as a file: opened, brought up to date, and put in order where it is damaged."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mailgate.interfaces import SpoolError
from mailgate.spool.codec import CodecError, decode_envelope

__all__ = ["as_octets", "as_text", "is_damage", "link", "open_database", "rebuild", "sync"]

#: Pages (of 4 KiB) that the database's log gathers before they are folded into it.
_LOG_PAGES = 4000
#: Statements that stay prepared: one for each number of messages in a group, and the others.
_STATEMENTS = 256

#: Every table, and the order of its rows in the file.
_TABLES = {"fresh": ("id",), "messages": ("rowid",), "recipients": ("queue_id", "number")}


def open_database(path: Path) -> sqlite3.Connection:
    """The database, made or brought up to date; sqlite3.Error or OSError where it cannot be used.

    What an older mailgate has written is kept beside it as it was, in a file with its version behind the name.
    """
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS)
    try:
        path.chmod(0o600)
        database.text_factory = as_text
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        _upgrade(database, path)
    except BaseException:
        database.close()
        raise
    return database


def is_damage(error: BaseException) -> bool:
    """Whether the error says that the file is no database, or not a whole one: the disk itself may be well."""
    return type(error) is sqlite3.DatabaseError


def rebuild(path: Path, aside: Path, contents: Path) -> Path:
    """Put a new database in the place of a damaged one, with all of it that can be read; where the old one lies now.

    The old one is kept, whole, for a person to look at, and so is the content of messages that could not be read. Until
    the very end it is in its place: a crash on the way loses nothing. OSError or sqlite3.Error where it cannot be done.
    """
    draft = path.with_name("rebuilt.db")
    for part in _parts(draft):
        part.unlink(missing_ok=True)
    with closing(open_database(draft)) as new:
        new.execute("BEGIN")
        with closing(sqlite3.connect(path, isolation_level=None)) as old:
            old.text_factory = as_text
            with contextlib.suppress(sqlite3.DatabaseError):
                old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for table, order in _TABLES.items():
                known = {row[1] for row in new.execute(f"PRAGMA table_info({table})")}
                for row in _readable(old, table, order):
                    # The old one may be of an earlier version, and have less columns.
                    names = [name for name in row if name in known]
                    values = [row[name] for name in names]
                    into = f"{table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
                    # What no row of ours can be is left behind.
                    with contextlib.suppress(sqlite3.Error, UnicodeError):
                        new.execute(f"INSERT OR IGNORE INTO {into}", values)
        new.commit()
        named = _named(new)
    sync(draft)
    for file in contents.iterdir():
        if file.name not in named:
            link(file, aside / f"{file.name}.eml")
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    kept = aside / f"spool-{stamp}.db"
    for part, place in zip(_parts(path), _parts(kept), strict=True):
        if part.exists():
            link(part, place)
    sync(aside)
    for part in _parts(path)[1:]:
        part.unlink(missing_ok=True)
    draft.replace(path)
    sync(path.parent)
    return kept


def sync(path: Path) -> None:
    """Make the octets of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(file: Path, place: Path) -> None:
    """Give a file a second name; one that is there already has come of an attempt that was cut off."""
    with contextlib.suppress(FileExistsError):
        os.link(file, place)


def _readable(old: sqlite3.Connection, table: str, order: tuple[str, ...]) -> Iterator[dict[str, object]]:
    """All rows, by their columns; where some cannot be read, those before them and those behind them."""
    seen: set[tuple[object, ...]] = set()
    key = ", ".join(order)
    for direction in ("ASC", "DESC"):
        columns = ", ".join(f"{column} {direction}" for column in order)
        try:
            rows = old.execute(f"SELECT {key}, * FROM {table} ORDER BY {columns}")  # noqa: S608  of _TABLES
            names = [column[0] for column in rows.description[len(order) :]]
            for row in rows:
                if row[: len(order)] in seen:
                    return
                seen.add(row[: len(order)])
                yield dict(zip(names, row[len(order) :], strict=True))
        except (sqlite3.Error, OverflowError):
            continue
        return


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
