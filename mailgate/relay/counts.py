"""Counters by day that outlive us, on their way into the spool."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred
from mailgate.interfaces import ISpool

__all__ = ["Counts", "day_of"]

_log = Logger()

#: Seconds that numbers wait in memory before they are written: so many are lost at most when the process is killed.
_KEPT = 10.0
#: Counters that wait at most, while the spool takes none; what is more is not counted.
_MOST = 10_000


def day_of(now: float) -> str:
    """The day (UTC) as keys begin with it: "2026-11-26"."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")


class Counts:
    """Adds numbers up, and writes them together now and then. Nothing fails: what cannot be written waits."""

    def __init__(self, spool: ISpool, clock: IReactorTime) -> None:
        self._spool = spool
        self._clock = clock
        self._waiting: dict[str, int] = {}
        self._timer: IDelayedCall | None = None
        self._is_writing = False
        self._flushed: list[Deferred[None]] = []

    def add(self, name: str, amount: int = 1) -> None:
        """Add to the counter of this name for today: "bounced/mailbox-full"."""
        key = f"{day_of(self._clock.seconds())}/{name}"
        if key in self._waiting or len(self._waiting) < _MOST:
            self._waiting[key] = self._waiting.get(key, 0) + amount
        if self._timer is None:
            self._timer = self._clock.callLater(_KEPT, self._on_time)

    def flush(self) -> Deferred[None]:
        """Write what waits. Fires when the spool has it, or has refused; then it is tried again later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        done: Deferred[None] = Deferred()
        self._flushed.append(done)
        self._write()
        return done

    @property
    def is_clean(self) -> bool:
        """Whether the spool has everything."""
        return not self._waiting and not self._is_writing

    def _on_time(self) -> None:
        self._timer = None
        self._write()

    def _write(self) -> None:
        if self._is_writing:
            return
        if not self._waiting:
            self._end()
            return
        amounts, self._waiting = self._waiting, {}
        self._is_writing = True
        answer: Awaitable[None] = self._spool.add_counts(amounts)
        as_deferred(answer).addCallbacks(self._on_written, self._on_failed, errbackArgs=(amounts,))

    def _on_written(self, _: None) -> None:
        self._is_writing = False
        if self._flushed:
            self._write()

    def _on_failed(self, failure: Failure, amounts: Mapping[str, int]) -> None:
        self._is_writing = False
        _log.warn("counters cannot be written now: {error}", error=failure.getErrorMessage())
        for key, amount in amounts.items():
            self._waiting[key] = self._waiting.get(key, 0) + amount
        if self._timer is None:
            self._timer = self._clock.callLater(_KEPT, self._on_time)
        self._end()

    def _end(self) -> None:
        flushed, self._flushed = self._flushed, []
        for one in flushed:
            one.callback(None)
