"""A process that reports once a day: its time, and what its threads hand over."""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from mailgate.stores.gatherer import DAY
from tests.unit.at_work import AtWork

__all__ = ["NOON", "Machine"]

NOON = 20_000 * DAY + DAY / 2


class Machine(MemoryReactorClock):
    """The time, connections that are asked for, and what threads hand over."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.rightNow = NOON
        self._at_work = AtWork()
        self._at_work.watch(patch)
        self.handed: Queue[tuple[Callable[..., Any], tuple[Any, ...]]] = Queue()

    def callFromThread(self, call: Callable[..., Any], *values: Any) -> None:  # noqa: N802 (Twisted's)
        self.handed.put((call, values))

    def until(self, done: Callable[[], object], days: float = 3) -> None:
        """Let time pass, and threads have theirs, until it is so."""
        end = self.seconds() + days * DAY
        while not done() and self.seconds() < end:
            if self.rests:
                self.advance(1800)
            else:
                call, values = self.handed.get(timeout=60)
                call(*values)

    @property
    def rests(self) -> bool:
        """Whether no thread has anything in hand, or has handed it over."""
        return not self._at_work.count and self.handed.empty()
