"""The real spool without its threads: for simulations, and for tests on a clock that they turn themselves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from mailgate.interfaces import IEvents
from mailgate.spool.sqlite import SqliteSpool

__all__ = ["SimulatedSpool"]

T = TypeVar("T")


class _AtOnce(Generic[T]):
    """A queue whose jobs are done as they come; those that come of a job, behind it."""

    def __init__(self, do: Callable[[T], object]) -> None:
        self._do = do
        self._waiting: deque[T] = deque()
        self._is_busy = False

    def put(self, job: T) -> None:
        self._waiting.append(job)
        if self._is_busy:
            return
        self._is_busy = True
        try:
            while self._waiting:
                self._do(self._waiting.popleft())
        finally:
            self._is_busy = False

    def get_nowait(self) -> T:
        """The next one, for whoever does several together."""
        if not self._waiting:
            raise Empty
        return self._waiting.popleft()


class SimulatedSpool(SqliteSpool):
    """A spool in a directory that answers before its methods return, or, to a question that comes of an answer, soon
    after. The clock's seconds are the time. Unless `is_durable`, nothing waits for the disk, and nothing survives a
    loss of power."""

    def __init__(
        self, directory: Path, clock: IReactorTime, *, events: IEvents, is_durable: bool = False, **settings: Any
    ) -> None:
        self._is_durable = is_durable
        super().__init__(
            directory,
            events=events,
            call_from_thread=lambda call, *values: call(*values),
            now=clock.seconds,
            **{"min_free": 0, **settings},
        )

    def _start(self) -> None:
        self._jobs = _AtOnce(lambda job: self._do(self._gather(job)[0]))  # type: ignore[assignment]  # all that is used
        self._reader.jobs = _AtOnce(lambda question: self._reader.answer(*question))  # type: ignore[assignment]  # too
        if not self._is_durable:
            self._store.database.execute("PRAGMA synchronous = OFF")

    def close(self) -> Deferred[None]:
        if not self._is_closed:
            self._is_closed = True
            self._end()
        return succeed(None)
