"""What threads have in hand: where a test turns the clock, time passes only while they rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.backends.threads import Threads
from mailgate.stores.gatherer import Gatherer

__all__ = ["AtWork"]


class AtWork:
    """Counts what the threads of back ends and of reports are asked for, until they have answered."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """From now on."""
        for kind in (Gatherer, Threads):
            patch.setattr(kind, "run", self._counted(kind.run))

    def _counted(self, run: Callable[..., Deferred[Any]]) -> Callable[..., Deferred[Any]]:
        def counted(threads: object, work: Callable[..., Any]) -> Deferred[Any]:
            asked = run(threads, work)
            self.count += 1
            return asked.addBoth(self._over)

        return counted

    def _over(self, result: object) -> object:
        self.count -= 1
        return result
