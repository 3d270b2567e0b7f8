"""Jobs for a transport that needs no connections."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mailgate.config.schema import RetrySection
from mailgate.relay.attempt import ITransport, Result
from mailgate.relay.ready.jobs import Job, JobQueue, QueueOwner

__all__ = ["LocalQueue"]


class LocalQueue(JobQueue):
    """The ready queue of a route that delivers on this machine."""

    #: Deliveries at one time: they wait for the disk.
    LIMIT = 8

    def __init__(
        self, name: str, transport: ITransport, clock: IReactorTime, owner: QueueOwner, retry: RetrySection
    ) -> None:
        super().__init__(name, self.LIMIT, clock, owner, retry=retry, route=name, label=name)
        self._transport = transport

    def start(self, job: Job) -> None:
        answer = self._transport.deliver(job.lease.envelope, job.remaining, job.lease.content)
        self.run(job, Deferred.fromCoroutine(self._deliver(job, answer)))

    async def _deliver(self, job: Job, answer: Awaitable[Sequence[Result]]) -> bool:
        job.results += await answer
        job.remaining = ()
        return True
