"""Counters that outlive a restart: in memory while they are used, written to a file behind it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mailgate.interfaces import ICounters
from mailgate.stores.counters import MemoryCounters
from mailgate.stores.counters_file import CountersFile, Row
from mailgate.stores.values import MAX_VALUE

__all__ = ["SqliteCounters"]

_log = Logger()

#: Seconds after a change until it is written: a crash loses what came since.
_DELAY = 1.0
#: Rows that are written in one transaction, for gathering them takes the reactor's thread a few milliseconds; and the
#: seconds until the next ones go where there are more.
_BATCH = 2_000
_NEXT = 0.05
#: Batches more than there is to write that are written at the end.
_TRIES = 3
#: Seconds between two looks for rows that mean nothing any more.
_TIDY_EVERY = 3600.0


class _Store(Protocol):
    """What keeps one kind."""

    def __iter__(self) -> Iterator[Any]: ...

    def written(self, key: Any) -> tuple[Sequence[float] | bytes, float] | None: ...


@implementer(ICounters)
class SqliteCounters(MemoryCounters):
    """MemoryCounters that begin with what `path` holds, and write there what has changed, every second.

    A thread does that: only `open` and `close` touch the disk in the caller's. A crash, of the machine too, loses the
    last second or two. While the disk takes nothing, all goes on in memory, and is written when it does again. A file
    that cannot be read is set aside and begun anew. It never holds more than is kept in memory.
    """

    def __init__(self, clock: IReactorTime, max_keys: int, max_octets: int, path: Path) -> None:
        super().__init__(clock, max_keys, max_octets)
        self._clock = clock
        self._stores: dict[str, _Store] = {"window": self._windows, "bucket": self._buckets, "value": self._values}
        self._file = CountersFile(path)
        self._dirty: dict[tuple[str, object], None] = {}
        self._thread = ThreadPoolExecutor(1, "counters")
        self._writing: Future[bool] | None = None
        self._batch: list[Row] = []
        self._flush: IDelayedCall | None = None
        self._tidied = clock.seconds()
        self._is_open = False
        self._has_failed = False

    def hit(self, key: str, window: float, amount: int = 1) -> int:
        self._changed("window", (key, window))
        return super().hit(key, window, amount)

    def take(self, key: str, rate: float, burst: float, amount: float = 1.0) -> float:
        self._changed("bucket", key)
        return super().take(key, rate, burst, amount)

    def put(self, key: str, value: bytes, ttl: float) -> None:
        super().put(key, value, ttl)
        self._changed("value", key)

    def add(self, key: str, value: bytes, ttl: float) -> bytes | None:
        found = super().add(key, value, ttl)
        if found is None:
            self._changed("value", key)
        return found

    def forget(self, key: str) -> None:
        super().forget(key)
        self._changed("value", key)

    def open(self) -> None:
        """Read the file; where it cannot be read, all begins empty."""
        try:
            for row in self._file.read(self._clock.seconds()):
                with contextlib.suppress(ValueError, TypeError):  # somebody wrote into our file
                    self._load(row)
        except (OSError, sqlite3.Error) as error:
            self._tell(f"cannot be read: {error}")
        self._is_open = True
        if self._dirty:  # more than may be kept
            self._flush = self._clock.callLater(_DELAY, self._write)

    def close(self) -> None:
        """Write the rest, and let go of the file."""
        if not self._is_open:
            return
        count = sum(1 for store in self._stores.values() for _ in store)
        for _ in range((count + len(self._dirty)) // _BATCH + _TRIES):
            if not (self._wrote(wait=True) and self._dirty):
                break
            self._begin()
        self._is_open = False
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self._thread.submit(self._file.close)
        self._thread.shutdown()

    def _changed(self, kind: str, key: object) -> None:
        self._dirty[kind, key] = None
        if self._flush is None and self._is_open:
            self._flush = self._clock.callLater(_DELAY, self._write)

    def _write(self) -> None:
        self._flush = None
        if self._writing is None or self._writing.done():
            self._wrote()
            self._begin()
        if self._dirty or self._writing is not None:
            self._flush = self._clock.callLater(_NEXT if len(self._dirty) >= _BATCH else _DELAY, self._write)

    def _begin(self) -> None:
        """Have the thread write what has changed."""
        if not self._dirty:
            return
        keys = list(self._dirty)[:_BATCH]
        for key in keys:
            del self._dirty[key]
        self._batch = [self._row(kind, key) for kind, key in keys]
        now = self._clock.seconds()
        tidies = now >= self._tidied + _TIDY_EVERY
        if tidies:
            self._tidied = now
        self._writing = self._thread.submit(self._work, self._batch, now if tidies else None)

    def _work(self, rows: list[Row], tidy: float | None) -> bool:
        return self._file.write(rows) and (tidy is None or self._file.tidy(tidy))

    def _wrote(self, *, wait: bool = False) -> bool:
        """Take note of how the thread fared, if it has ended, or once it has; whether it may be asked for more."""
        writing = self._writing
        if writing is None or not (wait or writing.done()):
            return True
        self._writing = None
        batch, self._batch = self._batch, []
        try:
            is_whole = writing.result()
        except (OSError, sqlite3.Error) as error:
            self._dirty.update(dict.fromkeys((row.kind, row.key) for row in batch))
            self._tell(f"cannot be written: {error}")
            return False
        if not is_whole:
            self._dirty.update(dict.fromkeys((kind, key) for kind, store in self._stores.items() for key in store))
        if self._has_failed:
            self._has_failed = False
            _log.warn("the counters are written again")
        return True

    def _tell(self, what: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            _log.warn("the counters {what}; they are kept in memory until they can", what=what)

    def _row(self, kind: str, key: object) -> Row:
        found = self._stores[kind].written(key)
        return Row(kind, key) if found is None else Row(kind, key, *found)

    def _load(self, row: Row) -> None:
        match row:
            case Row("window", (str() as key, int() | float() as window), tuple() as numbers):
                self._windows.load((key, float(window)), numbers)
            case Row("bucket", str() as key, tuple() as numbers):
                self._buckets.load(key, numbers)
            case Row("value", str() as key, bytes() as value, expires) if len(value) <= MAX_VALUE:
                self._values.load(key, value, expires)
