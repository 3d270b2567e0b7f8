"""What /metrics answers: what this worker and the others have counted, and what the spool holds at this moment."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from twisted.logger import Logger

from mailgate.interfaces import ISpool, SpoolError
from mailgate.observe.metrics import Dump, Metrics, render

__all__ = ["Numbers"]

_log = Logger()

#: Seconds for which the spool is not counted again: a long queue takes its time.
_FRESH = 5.0
#: More groups than there are states.
_EVERY_STATE = 100


class Numbers:
    """Gathers them. `ask_others` brings what other workers' `Metrics.dump` says, as a list in JSON, and who has not
    answered; None where there is one worker. Where the spool or a worker does not answer, the rest is told."""

    def __init__(
        self,
        metrics: Metrics,
        spool: ISpool,
        now: Callable[[], float],
        ask_others: Callable[[str, str], Awaitable[tuple[str, str]]] | None = None,
    ) -> None:
        """`metrics` is that of the worker that leads."""
        self._metrics = metrics
        self._spool = spool
        self._now = now
        self._ask_others = ask_others
        self._counted_at = -_FRESH

    async def text(self) -> bytes:
        """In the text format of Prometheus."""
        try:
            await self._count()
        except SpoolError as error:
            _log.warn("the spool cannot be counted for /metrics: {error}", error=error)
        others = await self._others()
        self._metrics.workers.set(1 + len(others))
        return render([self._metrics.dump(), *others])

    async def _count(self) -> None:
        now = self._now()
        if now < self._counted_at + _FRESH:
            return
        self._counted_at = now
        groups = await self._spool.summary("state", _EVERY_STATE)
        suspensions = await self._spool.suspensions()
        metrics = self._metrics
        metrics.spool.clear()
        metrics.oldest.clear()
        for group in groups:
            metrics.spool.labels(group.key).set(group.recipients)
            metrics.oldest.labels(group.key).set(max(0.0, now - group.oldest))
        metrics.suspensions.set(len(suspensions))

    async def _others(self) -> list[Dump]:
        if self._ask_others is None:
            return []
        answers, error = await self._ask_others("metrics", "null")
        if error:
            _log.warn("not all workers are in /metrics: {error}", error=error)
        found: list[Dump | None] = json.loads(answers)
        return [one for one in found if one is not None]
