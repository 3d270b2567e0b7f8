"""Gathers what is to be reported, off the reactor's hot path.

The reactor's thread only appends to a queue. A thread of our own counts what is in it, by kind, and adds that to the
file once a second: a crash loses a second or two, never the mail.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.stores.counted_file import CountedFile, HasDomain
from mailgate.stores.opened import OpenedFile

__all__ = ["DAY", "Gatherer", "Happened"]

_log = Logger()


class Happened(Protocol):
    """Something that is counted."""

    @property
    def at(self) -> float:
        """When it happened, in seconds since the epoch."""


E = TypeVar("E", bound=Happened)
P = TypeVar("P", bound=HasDomain)
T = TypeVar("T")
R = TypeVar("R")
F = TypeVar("F", bound=CountedFile[Any, Any])

#: Seconds of a day.
DAY = 86400
#: Seconds until what could not be written is tried again.
_ANEW = 5.0


class Gatherer(Generic[E, P, T, F]):
    """Counts what it is given, by what `counted` makes of it: the day, the policy and the kind.

    `what` names the reports in the log. `limit` is how many may wait to be counted; more are missed, as are more kinds
    than this while the file cannot be written. Workers may share the file. `call_from_thread` calls something in the
    reactor's thread.
    """

    def __init__(
        self,
        path: Path,
        *,
        what: str,
        counted: Callable[[E], tuple[int, P, T]],
        open_file: Callable[[Path], F],
        call_from_thread: Callable[..., object],
        delay: float = 1.0,
        limit: int = 20_000,
    ) -> None:
        self._what = what
        self._counted = counted
        self._call_from_thread = call_from_thread
        self._delay = delay
        self._limit = limit
        self._file = OpenedFile(path, open_file)
        self._waiting: deque[E] = deque()
        self._jobs: deque[tuple[Callable[[F], Any], Deferred[Any]]] = deque()
        self._counts: Counter[tuple[int, P, T]] = Counter()
        self._missed: Counter[int] = Counter()
        self._lock = threading.Lock()  # of `_missed`, which both threads change
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._closed = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._work, name=f"{what} reports", daemon=True)
        self._thread.start()

    def add(self, event: E) -> None:
        """Have it counted."""
        if len(self._waiting) >= self._limit:
            with self._lock:
                self._missed[int(event.at // DAY)] += 1
            return
        self._waiting.append(event)
        self._wake.set()

    def run(self, work: Callable[[F], R]) -> Deferred[R]:
        """What `work` makes of the file, in our thread, once all is counted that was told before; fails as `work` does,
        and with sqlite3.Error or OSError where the file cannot be used, RuntimeError once it is closed."""
        if self._closed:
            return fail(RuntimeError(f"what is to be reported by {self._what} is closed"))
        done: Deferred[R] = Deferred()
        self._jobs.append((work, done))
        self._hurry.set()
        self._wake.set()
        return done

    def close(self, timeout: float = 5.0) -> None:
        """Count what waits, and end; blocks, at most `timeout` seconds."""
        self._closed = True
        self._hurry.set()
        self._wake.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            _log.warn(
                "what was to be reported by {what} could not be written: the disk does not answer", what=self._what
            )

    # -- in the thread

    def _work(self) -> None:
        while True:
            self._wake.wait(_ANEW if self._counts or self._missed else None)
            self._hurry.wait(self._delay)
            self._wake.clear()
            self._hurry.clear()
            closing = self._closed
            # First, what is to be done: whoever asks finds counted what was told before.
            jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
            self._write()
            for job in jobs:
                self._do(*job)
            if closing:
                break
        self._file.close()

    def _write(self) -> None:
        while self._waiting:
            event = self._waiting.popleft()
            key = self._counted(event)
            if key in self._counts or len(self._counts) < self._limit:
                self._counts[key] += 1
            else:
                with self._lock:
                    self._missed[key[0]] += 1
        if not self._counts and not self._missed:
            return
        with self._lock:
            missed = self._missed.copy()
        try:
            self._file.use(lambda file: file.add(self._counts, missed))
        except (OSError, sqlite3.Error) as error:
            if not self._is_failing:
                _log.warn("what is to be reported by {what} cannot be written: {error}", what=self._what, error=error)
            self._is_failing = True
            return
        if self._is_failing:
            _log.warn("what is to be reported by {what} is written again", what=self._what)
        self._is_failing = False
        self._counts.clear()
        with self._lock:
            self._missed -= missed  # more may have been missed meanwhile

    def _do(self, work: Callable[[F], R], done: Deferred[R]) -> None:
        try:
            result: R | Failure = self._file.use(work)
        except Exception:
            # Whatever it is, it belongs to whoever asked.
            result = Failure()
        self._call_from_thread(_answer, done, result)


def _answer(done: Deferred[Any], result: object) -> None:
    if done.called:  # whoever asked has gone away
        return
    if isinstance(result, Failure):
        done.errback(result)
    else:
        done.callback(result)
