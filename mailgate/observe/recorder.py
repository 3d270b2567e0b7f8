"""One thread that renders events and writes them, off the reactor's hot path.

The reactor's thread only appends to a queue. The first event of a while wakes the thread, which then waits a moment
for others and takes all of them: under load it wakes five times a second, idle never. What comes faster than it can be
written is dropped, counted and told: the mail does not wait for its account.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from twisted.logger import Logger
from zope.interface import implementer

from mailgate.events import Event
from mailgate.interfaces import IEventObserver
from mailgate.observe.render import Renderer

__all__ = ["Recorder", "Sink", "Written"]

_log = Logger()

#: Events in one call of a sink, and octets of their lines: these bound memory.
_BATCH = 256
_BATCH_SIZE = 1024 * 1024
#: Seconds between two looks at what has grown old while nothing happens.
_TIDY = 3600.0


class Written(NamedTuple):
    """An event with its line of JSON."""

    event: Event
    line: bytes


class Sink(Protocol):
    """Where events go. Called in the recorder's thread only, but for `close`, which comes after its end."""

    def write(self, batch: Sequence[Written]) -> None:
        """Keep these events, first to last. A disk that fails is the sink's own to tell of."""

    def missed(self, count: int) -> None:
        """So many events were dropped since the last call, because writing was too slow."""

    def tidy(self) -> None:
        """Remove what is too old; called now and then, also when nothing happens."""

    def close(self) -> None:
        """Write what is left and close."""


@implementer(IEventObserver)
class Recorder:
    """Gathers events for its sinks.

    `delay` (seconds) is how long the first event of a batch waits for others, `limit` how many events may wait.
    """

    def __init__(self, sinks: Sequence[Sink], *, delay: float = 0.2, limit: int = 20_000) -> None:
        self._sinks = sinks
        self._delay = delay
        self._limit = limit
        self._renderer = Renderer()
        self._waiting: deque[Event] = deque()
        self._missed = 0
        self._roused = False
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._idle = threading.Condition()
        self._flushes = self._flushed = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def observe(self, event: Event) -> None:
        if len(self._waiting) >= self._limit:
            self._missed += 1
            return
        self._waiting.append(event)
        if not self._roused:
            self._roused = True
            self._wake.set()

    def flush(self, timeout: float = 5.0) -> bool:
        """Write what waits; blocks until that is done, or `timeout` seconds. Whether it was done."""
        with self._idle:
            self._flushes += 1
            wanted = self._flushes
            self._hurry.set()
            self._wake.set()
            return self._idle.wait_for(lambda: self._flushed >= wanted, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, end the thread and close the sinks; blocks, at most `timeout` seconds."""
        self._closed = True
        self._hurry.set()
        self._wake.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            _log.warn("the log or the history could not be written to its end: the disk does not answer")
            return
        for sink in self._sinks:
            _guarded(sink.close)

    def _work(self) -> None:
        while True:
            if not self._wake.wait(_TIDY):
                self._tidy()
                continue
            self._wake.clear()
            self._hurry.wait(self._delay)
            self._hurry.clear()
            with self._idle:
                wanted = self._flushes
            closing = self._closed
            # Before the queue is looked at: whoever appends from here on wakes us again.
            self._roused = False
            self._drain()
            with self._idle:
                self._flushed = wanted
                self._idle.notify_all()
            if closing:
                return

    def _drain(self) -> None:
        while batch := self._take():
            for sink in self._sinks:
                _guarded(sink.write, batch)
        if self._missed:
            missed, self._missed = self._missed, 0
            for sink in self._sinks:
                _guarded(sink.missed, missed)
        self._tidy()

    def _take(self) -> list[Written]:
        batch: list[Written] = []
        size = 0
        while self._waiting and len(batch) < _BATCH and size < _BATCH_SIZE:
            event = self._waiting.popleft()
            line = self._renderer.render(event)
            batch.append(Written(event, line))
            size += len(line)
        return batch

    def _tidy(self) -> None:
        for sink in self._sinks:
            _guarded(sink.tidy)


def _guarded(call: Callable[..., object], *values: object) -> None:
    try:
        call(*values)
    except Exception:
        # A bug of one sink; the other one, and the thread, go on.
        _log.failure("{call!r} failed", call=call)
