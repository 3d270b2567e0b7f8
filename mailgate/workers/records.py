"""The log and the history, where several processes write them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from mailgate.config.schema import Config
from mailgate.events import ConfigRefused, ConfigReloaded, Event, Started, Stopped, Stopping
from mailgate.observe.history import History
from mailgate.observe.parts import list_parts
from mailgate.observe.recorder import Sink, Written
from mailgate.observe.search import directories
from mailgate.workers.team import Team

__all__ = ["make_sinks"]

#: What happens to all workers at one time, and is told once.
_LIFE: frozenset[type[Event]] = frozenset({Started, Stopping, Stopped, ConfigReloaded, ConfigRefused})


def make_sinks(team: Team, config: Config, log: Sink, history: Path) -> Sequence[Sink]:
    """Where the events of this process go: into the one log, and into a history of its own below `history`, which the
    first has. OSError where that cannot be written."""
    section = config.history
    min_free = config.spool.min_free // 2  # the refusals of a full disk are history too
    directory = history / str(team.worker) if team.worker else history
    if team.worker:
        history.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = History(directory, keep=section.keep, max_size=section.max_size // team.workers, min_free=min_free)
    if team.workers > 1 and config.log.path == "-":
        log = _InTurn(log, history / "turn")
    if team.worker:
        return [_NotOurLife(log), own]
    return [log, own, _Leftovers(history, team.workers, section.keep)]


class _InTurn:
    """Passes events on to a sink whose output is not a file: what several processes write at one time to a pipe is
    mingled."""

    def __init__(self, sink: Sink, lock: Path) -> None:
        self._sink = sink
        self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.missed = sink.missed
        self.tidy = sink.tidy

    def write(self, batch: Sequence[Written]) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            self._sink.write(batch)
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        self._sink.close()
        os.close(self._lock)


class _NotOurLife:
    """Passes on to a sink what the first worker does not tell for all."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.missed = sink.missed
        self.tidy = sink.tidy
        self.close = sink.close

    def write(self, batch: Sequence[Written]) -> None:
        if own := [one for one in batch if type(one.event) not in _LIFE]:
            self._sink.write(own)


class _Leftovers:
    """Forgets in time what workers have written that there are no more."""

    def __init__(self, history: Path, workers: int, keep: float, now: Callable[[], float] = time.time) -> None:
        self._history = history
        self._workers = workers
        self._keep = keep
        self._now = now

    def write(self, batch: Sequence[Written]) -> None:
        pass

    def missed(self, count: int) -> None:
        pass

    def tidy(self) -> None:
        for directory in directories(self._history)[1:]:
            if int(directory.name) >= self._workers:
                with suppress(OSError):
                    self._forget(directory)

    def close(self) -> None:
        pass

    def _forget(self, directory: Path) -> None:
        oldest = self._now() - self._keep
        for part in list_parts(directory):
            if part.path.stat().st_mtime < oldest:
                part.remove()
        if not any(directory.iterdir()):
            directory.rmdir()
