"""What of a gateway begins with a configuration, changes with another, and ends with none, one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

__all__ = ["ChangingOffice"]

_log = Logger()

H = TypeVar("H")


class ChangingOffice(ABC, Generic[H]):
    """An office of reports of one kind, which `what` names in the log."""

    what = "reports"

    def __init__(self) -> None:
        self._changes: Deferred[None] = succeed(None)

    def use(self, hostname: str, reporting: H | None) -> None:
        """From now on go by this; with None there are no reports."""
        self._changes.addCallback(lambda _: Deferred.fromCoroutine(self._change(hostname, reporting)))
        self._changes.addErrback(
            lambda failure: _log.failure("{what} cannot be begun", failure=failure, what=self.what)
        )

    async def close(self) -> None:
        """End: what was gathered is on disk."""
        self.use("", None)
        await self._changes

    @abstractmethod
    async def _change(self, hostname: str, reporting: H | None) -> None:
        """Go from what there is to this."""
