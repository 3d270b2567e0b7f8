"""The relay, as clients lead it too: jobs of which the spool knows nothing, beside those that are its own."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.config.schema import RetrySection
from mailgate.interfaces import Answered, AttemptContext, IRelay, OutcomeKind
from mailgate.relay.ready.job import LedJob
from mailgate.relay.ready.jobs import Job, JobQueue
from mailgate.relay.service import Relay

__all__ = ["InlineRelay"]


@implementer(IRelay)
class InlineRelay(Relay):
    """A relay whose ready queues hold jobs that clients wait for, too (see LedJob): they have the limits, the addresses
    and the connections of each destination in common with what is delivered from the spool."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # those of Relay
        self._awaited: dict[Job, Deferred[None]] = {}
        self._early: list[LedJob] | None = []  # that came before there was a start; None once it is over
        super().__init__(*arguments, **named)

    def lead(self, job: LedJob) -> None:
        """A client waits for it: put it into the queue of its destination."""
        if self._is_ready:
            self._destinations.put(job)
        elif self._early is not None:
            self._early.append(job)
        else:
            job.turned_away("the gateway stops")

    def judge_attempt(self, attempt: AttemptContext) -> Answered:
        """What the delivery filters say of an attempt that is made for a client."""
        return self._sorter.judge_attempt(attempt)

    def record(self, job: Job) -> Deferred[None]:
        """Write what became of a job that the spool knows nothing of, with the reports that are owed: fires when that
        is durable."""
        done = self._awaited[job] = Deferred()
        self._writer.record(job, RetrySection())
        return done

    async def stop(self) -> None:
        early, self._early = self._early, None
        for job in early or ():
            job.turned_away("the gateway stops")
        await super().stop()

    async def _prepare(self) -> None:
        await super()._prepare()
        early, self._early = self._early, None
        for job in early or ():
            self._destinations.put(job)

    # -- from the destinations and the queues

    def finished(self, job: Job, retry: RetrySection) -> None:
        if not isinstance(job, LedJob):
            super().finished(job, retry)
            return
        if job.source:
            self._sources.settle(job.source, sent=any(one.kind is OutcomeKind.DELIVERED for one in job.results))
        job.ended()
        self._look_for_rest()

    def no_room(self, job: Job, queue: JobQueue) -> None:
        if isinstance(job, LedJob):
            self.postponed(job, 0.0, f"others wait for {queue.title}, and there is no room for more")
        else:
            super().no_room(job, queue)

    def postponed(self, job: Job, due: float, why: str) -> None:
        if not isinstance(job, LedJob):
            super().postponed(job, due, why)
            return
        if job.source:
            self._sources.settle(job.source, sent=False)
        job.turned_away(why or "its destination may not be asked now")

    def split(self, job: Job, parts: list[Job]) -> None:
        if isinstance(job, LedJob):
            parts.clear()  # nothing may begin of it: what the client is told is about all of it
            self.postponed(job, 0.0, "it is for more recipients than the destination takes at one time")
        else:
            super().split(job, parts)

    def placed(self, job: Job, queue: JobQueue) -> None:
        if not isinstance(job, LedJob):
            super().placed(job, queue)

    def late(self, job: Job, retry: RetrySection, why: str) -> None:
        if not isinstance(job, LedJob):
            super().late(job, retry, why)

    # -- from the writer

    def _written(self, job: Job, due: float | None) -> None:
        super()._written(job, due)
        done = self._awaited.pop(job, None)
        if done is not None:
            done.callback(None)
