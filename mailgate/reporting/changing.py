"""What of a gateway begins with a configuration, changes with another, and ends with none, one after another."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from mailgate.interfaces import IResolver
from mailgate.reporting.daily import DailyReports, Send

__all__ = ["ChangingOffice"]

_log = Logger()

H = TypeVar("H")


class ChangingOffice(ABC, Generic[H]):
    """An office of reports of one kind, which `what` names in the log. `path` is where what was gathered lies."""

    what = "reports"

    def __init__(self, path: Path, *, resolver: IResolver, random: random.Random, send: Send) -> None:
        self._path = path
        self._resolver = resolver
        self._random = random
        self._send = send
        self._changes: Deferred[None] = succeed(None)
        self._reports: DailyReports[Any, Any] | None = None

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
    def _begin(self, hostname: str, reporting: H) -> DailyReports[Any, Any]:
        """Gather by this from now on: what will send the reports."""

    @abstractmethod
    async def _end(self) -> None:
        """Gather no more; what was gathered is on disk."""

    async def _change(self, hostname: str, reporting: H | None) -> None:
        reports, self._reports = self._reports, None
        if reports is not None:
            await reports.stop()
        if reporting is None:
            await self._end()
            return
        self._reports = self._begin(hostname, reporting)
        self._reports.start()
