"""A disk that can be stopped at any moment, and that knows what would be left of it.

Between the spool and the disk stand `os` and `sqlite3`: each sync, rename, link and removal of a file and each commit
is a moment before it and a moment after it. At the chosen moment two images of the folder are made, and the spool's
thread ends there and then:

- `killed`: what the operating system holds when the process dies;
- `unplugged`: what is certainly on the disk when the power goes. A file has the octets of its last sync (none, if it
  never had one), a folder the names of its last sync, and the database is that of the last commit. It is the worst that
  a disk that keeps its promises may leave; what lies between the two images may be left as well.

It does not show what SQLite does within a commit, which syncs as it promises (`synchronous = FULL`), nor a disk that
says that it has written what it has not, nor octets that go bad later.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["CrashError", "Disk"]

_DATABASE = ("spool.db", "spool.db-wal")
_FOLDERS = ("content", "incoming", "set-aside")

Place = tuple[str, str]
"""A folder and a name in it."""


class CrashError(BaseException):
    """The end of the process: nobody may catch it."""


class Disk:
    """Watches over the spool in `folder`. `stop_at` counts moments from 1; 0 is never.

    `fail_with`: at that moment the process does not end, but has the error that this makes of the moment, once; None is
    no error, but perhaps at the next moment. `steps`: the statements of a script that changes the schema are moments,
    too. `moments` holds what they all were.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        folder: Path,
        *,
        stop_at: int = 0,
        fail_with: Callable[[str], Exception | None] | None = None,
        steps: bool = False,
    ) -> None:
        self.folder = folder
        self.moments: list[str] = []
        self.is_over = False
        self._stop_at = stop_at
        self._fail_with = fail_with
        self._is_busy = False
        self._synced: dict[Place, bytes] = {}
        self._durable: dict[Place, bytes] = {}
        self._database: dict[str, bytes] = {}
        if folder.exists():  # what it begins with has been there for long
            for path in (path for one in _FOLDERS for path in (folder / one).iterdir() if path.is_file()):
                self._synced[_place(path)] = self._durable[_place(path)] = path.read_bytes()
            self._keep_database()
        self._connect = sqlite3.connect
        self._steps = steps
        for name, after in (("fsync", self._fsync), ("replace", self._moved), ("link", self._linked)):
            self._wrap(patch, name, after)
        self._wrap(patch, "unlink", self._removed)
        patch.setattr(sqlite3, "connect", self._connected)

    # -- the spool's calls

    def _wrap(self, patch: pytest.MonkeyPatch, name: str, after: Callable[..., None]) -> None:
        real = getattr(os, name)

        def call(*values: Any, **named: Any) -> None:
            if self._is_busy or not self._is_ours(values[0]):
                real(*values, **named)
                return
            what = f"{name} of {self._name_of(values[0])}"
            self._moment(f"before {what}")
            real(*values, **named)
            after(*values)
            self._moment(f"after {what}")

        patch.setattr(os, name, call)

    def _connected(self, *values: Any, **named: Any) -> sqlite3.Connection:
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                if self.in_transaction or not statement.startswith(("INSERT", "REPLACE", "UPDATE", "DELETE")):
                    return super().execute(statement, *values)
                # A statement on its own is its own commit.
                disk._moment("before commit")
                cursor = super().execute(statement, *values)
                disk._keep_database()
                disk._moment("after commit")
                return cursor

            def executescript(self, script: str) -> sqlite3.Cursor:
                if not disk._steps:
                    return super().executescript(script)
                cursor = self.cursor()
                for statement in _statements(script):
                    disk._moment("before a step")
                    cursor.execute(statement)
                    if not self.in_transaction:
                        disk._keep_database()
                        disk._moment("after commit")
                return cursor

            def commit(self) -> None:
                if self.in_transaction:
                    disk._moment("before commit")
                    super().commit()
                    disk._keep_database()
                    disk._moment("after commit")

        connection: sqlite3.Connection = self._connect(*values, **{"factory": Connection, **named})
        if "uri" not in named:
            self._keep_database()
        return connection

    # -- what has reached the disk

    def _fsync(self, descriptor: int) -> None:
        for folder in _FOLDERS:
            if self._is(self.folder / folder, descriptor):
                found = {(folder, one.name) for one in (self.folder / folder).iterdir()}
                self._durable = {place: data for place, data in self._durable.items() if place[0] != folder}
                self._durable |= {place: self._synced.get(place, b"") for place in found}
                return
        for folder in _FOLDERS:
            for path in (self.folder / folder).iterdir():
                if self._is(path, descriptor):
                    self._synced[folder, path.name] = path.read_bytes()
                    if (folder, path.name) in self._durable:
                        self._durable[folder, path.name] = path.read_bytes()

    def _moved(self, source: Any, target: Any) -> None:
        if _place(source) in self._synced:
            self._synced[_place(target)] = self._synced.pop(_place(source))

    def _linked(self, source: Any, target: Any) -> None:
        if _place(source) in self._synced:
            self._synced[_place(target)] = self._synced[_place(source)]

    def _removed(self, path: Any) -> None:
        self._synced.pop(_place(path), None)

    def _keep_database(self) -> None:
        self._database = {
            name: (self.folder / name).read_bytes() for name in _DATABASE if (self.folder / name).exists()
        }

    # -- moments

    def _moment(self, what: str) -> None:
        self.moments.append(what)
        if self.is_over or not 0 < self._stop_at <= len(self.moments):
            return
        if self._fail_with is not None:
            error = self._fail_with(what)
            if error is not None:
                self._stop_at = 0
                raise error
            return
        self._is_busy = True
        ignored = shutil.ignore_patterns("*-shm", "lock", "reserve", "writing.*")
        shutil.copytree(self.folder, self.image("killed"), ignore=ignored)
        self._unplug(self.image("unplugged"))
        self.is_over = True
        raise CrashError(what)

    def arm(self, moments: int) -> None:
        """Stop at the one that is so many from now; whoever was stopped before has been replaced."""
        for name in ("killed", "unplugged"):
            shutil.rmtree(self.image(name), ignore_errors=True)
        self.is_over = self._is_busy = False
        self._stop_at = len(self.moments) + moments

    def image(self, name: str) -> Path:
        """Where an image lies."""
        return self.folder.with_name(f"{self.folder.name}-{name}")

    def _unplug(self, image: Path) -> None:
        image.mkdir()
        for name, data in self._database.items():
            (image / name).write_bytes(data)
        for folder in _FOLDERS:
            (image / folder).mkdir(exist_ok=True)
        for (folder, name), data in self._durable.items():
            (image / folder / name).write_bytes(data)

    # -- whose file it is

    def _is_ours(self, what: Any) -> bool:
        if isinstance(what, int):
            # Not the folder itself: which names are in it, no image tells apart.
            return any(self._is(path, what) for path in self.folder.rglob("*"))
        return self.folder in Path(what).parents

    def _name_of(self, what: Any) -> str:
        if not isinstance(what, int):
            return Path(what).parent.name
        found = next(path for path in self.folder.rglob("*") if self._is(path, what))
        return f"folder {found.name}" if found.is_dir() else f"a file in {found.parent.name}"

    @staticmethod
    def _is(path: Path, descriptor: int) -> bool:
        try:
            return os.path.samestat(path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False


def _statements(script: str) -> Iterator[str]:
    begun = ""
    for line in script.splitlines(keepends=True):
        begun += line
        if sqlite3.complete_statement(begun):
            yield begun
            begun = ""


def _place(path: Any) -> Place:
    return Path(path).parent.name, Path(path).name
