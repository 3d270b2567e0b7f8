"""Databases that are asked about users or recipients: one query with one name, by drivers that block."""

from __future__ import annotations

import math
import re
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar, cast
from urllib.parse import quote

from mailgate.backends.questions import BackendError

if TYPE_CHECKING:
    import psycopg

__all__ = ["Database", "DatabaseError", "Row", "open_database"]

C = TypeVar("C")
Row = Sequence[object]

#: What in a query may hold a colon that begins no place: a quoted text, a name, a comment.
_QUOTED = r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/"""
#: Instructions of SQLite's virtual machine between two looks at the clock.
_LOOK_EVERY = 10_000


class DatabaseError(BackendError):
    """The database gives no answer."""


class Database(ABC, Generic[C]):
    """A query, and connections that are kept. `rows` is called in threads, as many as there may be connections."""

    errors: tuple[type[Exception], ...]

    def __init__(self) -> None:
        # a list's append and pop are safe between threads
        self._kept: list[C] = []
        self._is_closed = False

    def rows(self, values: Mapping[str, str]) -> Sequence[Row]:
        """The rows that the query gives with these values in its places, up to `most`; DatabaseError.

        A connection that was kept may have been lost: it is tried, and then a new one.
        """
        try:
            connection = self._kept.pop()
        except IndexError:
            return self._rows(self._open(), values)
        try:
            return self._rows(connection, values)
        except DatabaseError:
            return self._rows(self._open(), values)

    def close(self) -> None:
        """Close the connections; those that are asked now close after their answer. It does not block."""
        self._is_closed = True
        while self._kept:
            self._end(self._kept.pop())

    def _rows(self, connection: C, values: Mapping[str, str]) -> Sequence[Row]:
        try:
            rows = self._ask(connection, values)
        except self.errors as error:
            self._end(connection)
            raise DatabaseError(f"the query fails: {self._told(error)}") from None
        self._kept.append(connection)
        if self._is_closed:
            self.close()
        return rows

    def _open(self) -> C:
        try:
            return self._connect()
        except self.errors as error:
            raise DatabaseError(f"no connection to the database: {str(error).strip()}") from None

    @abstractmethod
    def _connect(self) -> C: ...

    @abstractmethod
    def _ask(self, connection: C, values: Mapping[str, str]) -> Sequence[Row]: ...

    @abstractmethod
    def _end(self, connection: C) -> None: ...

    @abstractmethod
    def _told(self, error: Exception) -> str: ...


class _Sqlite(Database[sqlite3.Connection]):
    errors = (sqlite3.Error,)

    def __init__(self, path: str, query: str, timeout: float, most: int) -> None:
        super().__init__()
        self._most = most
        self._uri = f"file:{quote(path)}?mode=ro"
        self._query = query
        self._timeout = timeout

    def _connect(self) -> sqlite3.Connection:
        # it is used in one thread at a time
        return sqlite3.connect(
            self._uri, uri=True, timeout=self._timeout, check_same_thread=False, isolation_level=None
        )

    def _ask(self, connection: sqlite3.Connection, values: Mapping[str, str]) -> Sequence[Row]:
        end = time.monotonic() + self._timeout
        connection.set_progress_handler(lambda: time.monotonic() > end, _LOOK_EVERY)
        cursor = connection.execute(self._query, values)
        try:
            return cast(Sequence[Row], cursor.fetchmany(self._most))
        finally:
            cursor.close()

    def _end(self, connection: sqlite3.Connection) -> None:
        connection.close()

    def _told(self, error: Exception) -> str:
        return str(error)


class _Postgresql(Database["psycopg.Connection[tuple[object, ...]]"]):
    def __init__(self, url: str, password: str | None, query: str, timeout: float, most: int) -> None:
        import psycopg
        from psycopg import conninfo

        super().__init__()
        self._most = most
        self.errors = (psycopg.Error,)
        self._connector = psycopg.connect
        self._query = query
        self._milliseconds = max(1, int(timeout * 1000))
        try:
            settings = conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            raise ValueError("url: no address of a PostgreSQL database") from None
        if settings.get("password") is not None:
            raise ValueError("url: a password belongs into password_file")
        settings.setdefault("application_name", "mailgate")
        settings.setdefault("connect_timeout", math.ceil(timeout))
        settings.setdefault("tcp_user_timeout", self._milliseconds)
        if password is not None:
            settings["password"] = password
        self._conninfo = conninfo.make_conninfo("", **settings)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        # prepared statements would tie us to one session behind a pooler
        connection = self._connector(self._conninfo, prepare_threshold=None)
        connection.read_only = True
        return connection

    def _ask(self, connection: psycopg.Connection[tuple[object, ...]], values: Mapping[str, str]) -> Sequence[Row]:
        with connection.transaction():
            connection.execute("SELECT set_config('statement_timeout', %s, true)", [str(self._milliseconds)])
            return connection.execute(self._query, values).fetchmany(self._most)

    def _end(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        connection.close()

    def _told(self, error: Exception) -> str:
        # its text may repeat a value
        return f"{type(error).__name__} {getattr(error, 'sqlstate', None) or ''}".rstrip()


def open_database(
    url: str,
    password: str | None,
    query: str,
    timeout: float,
    places: Collection[str] = ("username",),
    *,
    most: int = 2,
) -> Database[object]:
    """The database of a URL; nothing is connected yet. `timeout` (seconds) bounds a connection and a query each.

    `places` are the names of the values, of which one at least must stand in the query, with a colon before it,
    and `most` how many rows are read of an answer.
    ValueError, for an administrator, where the URL or the query cannot be used.
    """
    pattern = _pattern(places)
    if not any(found[1] for found in pattern.finditer(query)):
        raise ValueError(f"query: {' or '.join(f':{place}' for place in places)} must stand in it")
    scheme, _, path = url.partition(":")
    if scheme == "sqlite":
        if not path.startswith("/") or "\0" in path:
            raise ValueError('url: a database of SQLite is written "sqlite:/path"')
        if password is not None:
            raise ValueError("password_file: SQLite has no password")
        return cast(Database[object], _Sqlite(str(Path(path)), query, timeout, most))
    if scheme in ("postgresql", "postgres"):
        return cast(Database[object], _Postgresql(url, password, _for_psycopg(query, pattern), timeout, most))
    raise ValueError('url: "sqlite:/path" or "postgresql://user@host/database" is expected')


def _pattern(places: Collection[str]) -> re.Pattern[str]:
    """Finds places (the group) and what is none; PostgreSQL's ::name is a type."""
    return re.compile(rf"{_QUOTED}|(?<![:\w]):({'|'.join(places)})\b", re.DOTALL)


def _for_psycopg(query: str, pattern: re.Pattern[str]) -> str:
    """The query in psycopg's style of parameters, in which a % is written twice."""
    return pattern.sub(lambda found: f"%({found[1]})s" if found[1] else found[0], query.replace("%", "%%"))
