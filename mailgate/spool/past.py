"""What a past life has left: which leases, files and rows nobody who is alive can answer for."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

from mailgate.spool.disk import is_locked

__all__ = ["PastLife", "fresh_ids"]

#: Ids of `fresh` that each worker has.
_RANGE = 2**40
#: Seconds between two looks whether others have ended that had outlived their supervisor.
_AGAIN = 60.0


def fresh_ids(worker: int) -> tuple[int, int]:
    """The first id of `fresh` that is a worker's own, and the first behind them."""
    return worker * _RANGE + 1, (worker + 1) * _RANGE + 1


class PastLife:
    """What there was when a worker came to life: its own of the last time, and for the first worker what belongs to
    numbers that there are no more. It is looked at once, before anything new begins; those who have outlived their
    supervisor then are looked at again until they have ended.

    `leases` are (end, queue id, number); `files` lie where messages come in.
    """

    def __init__(self, directory: Path, worker: int, workers: int) -> None:
        incoming = directory / "incoming"
        self.leases: list[tuple[float, str, int]] = []
        self._directory = directory
        self._worker = worker
        self._gone_from = workers if worker == 0 else None  # numbers from here on are nobody's now
        self._next_look = 0.0
        self._alive: set[int] = set()  # but for these, who have outlived their supervisor
        folders = {incoming / str(worker)}
        if worker == 0:
            numbered = [path for path in incoming.iterdir() if path.name.isdecimal() and int(path.name) >= workers]
            if workers > 1:
                self._alive = {int(path.name) for path in numbered if is_locked(directory, f"worker-{path.name}")}
            folders |= {incoming, *(path for path in numbered if self.has(int(path.name)))}
        self.files = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file()]

    def has(self, worker: int) -> bool:
        """Whether what a worker of this number has left is ours to put in order."""
        is_gone = self._gone_from is not None and worker >= self._gone_from and worker not in self._alive
        return worker == self._worker or is_gone

    @property
    def next_look(self) -> float:
        """When `ended_since` is to be asked next: never where nobody was alive."""
        return self._next_look if self._alive else math.inf

    def ended_since(self, now: float) -> list[int]:
        """The numbers of those that were alive then, and are not any more."""
        self._next_look = now + _AGAIN
        return [number for number in sorted(self._alive) if not is_locked(self._directory, f"worker-{number}")]

    def forget(self, worker: int) -> None:
        """There is nothing left of one that has ended since."""
        self._alive.discard(worker)

    def has_fresh(self, row: int) -> bool:
        """The same of a row of `fresh`."""
        return self.has((row - 1) // _RANGE)

    def look_back(self, database: sqlite3.Connection) -> None:
        """Note the leases."""
        found = database.execute("SELECT due, queue_id, number, owner FROM recipients WHERE state = 'leased'")
        self.leases = [(due, queue_id, number) for due, queue_id, number, owner in found if self.has(owner)]
