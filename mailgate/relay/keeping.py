"""What becomes of the jobs that the ready queues give back: ended, put off, or in the spool again for their turn."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mailgate.config.schema import RetrySection
from mailgate.interfaces import ISpool, OutcomeKind
from mailgate.relay.backlog import Backlogs
from mailgate.relay.destinations import Destinations
from mailgate.relay.leasing import AFTER_FAILURE, Leasing
from mailgate.relay.memory import Jobs
from mailgate.relay.outcomes import OutcomeWriter
from mailgate.relay.ready.jobs import Job, JobQueue
from mailgate.relay.returns import Returns
from mailgate.relay.sources import Sources

__all__ = ["JobKeeper"]


class JobKeeper:
    """Keeper of the jobs that the spool knows of, at most `max_active`. Whoever is one makes the parts that are only
    declared here: queues, leasing and writer tell it what happens."""

    _destinations: Destinations
    _leasing: Leasing
    _sources: Sources
    _writer: OutcomeWriter

    def __init__(self, spool: ISpool, clock: IReactorTime, max_active: int) -> None:
        self._clock = clock
        self._jobs = Jobs(max_active, self.look)
        self.room = self._jobs.room
        self._backlogs = Backlogs(lambda route: self._destinations.is_whole(route))
        self.full = self._backlogs.full
        self._returns = Returns(spool, clock, self._jobs, self._backlogs, self._returned)
        self._at_rest: Deferred[None] | None = None  # somebody waits for the end of the last attempt

    def look(self) -> None:
        """Something is due that was not before: look into the spool; sites that rest go on resting."""
        self._leasing.look_at(self._clock.seconds())

    async def when_at_rest(self) -> None:
        """Wait for the end of the last attempt."""
        if not self._destinations.is_at_rest:
            self._at_rest = Deferred()
            await self._at_rest

    # -- from the sorter, the destinations and the queues

    def finished(self, job: Job, retry: RetrySection) -> None:
        """As in QueueOwner."""
        if job.source:
            self._sources.settle(job.source, sent=any(one.kind is OutcomeKind.DELIVERED for one in job.results))
        if job.in_turn:
            self._arrived(job)
        self._writer.record(job, retry)
        self._look_for_rest()

    def _look_for_rest(self) -> None:
        if self._at_rest is not None and self._destinations.is_at_rest:
            at_rest, self._at_rest = self._at_rest, None
            at_rest.callback(None)

    def unbegun(self, job: Job) -> None:
        """As in QueueOwner: whoever leases it next has the time."""
        self.postponed(job, 0.0, "")

    def no_room(self, job: Job, queue: JobQueue) -> None:
        """As in Keeper."""
        self._unuse(job)
        self._returns.job_in_turn(job, queue)

    def postponed(self, job: Job, due: float, why: str) -> None:
        """As in Keeper."""
        self._unuse(job)
        self._returns.job(job, due, why)

    def late(self, job: Job, retry: RetrySection, why: str) -> None:
        """As in Keeper."""
        self._writer.warn(job, retry, why, self.look)

    def split(self, job: Job, parts: list[Job]) -> None:
        """As in Keeper."""
        self._unuse(job)
        for part in parts:
            self._jobs.add(part)
        self._jobs.remove(job)

    def placed(self, job: Job, queue: JobQueue) -> None:
        """As in Keeper."""
        self._backlogs.placed(job, queue)
        self._arrived(job)

    def hungry(self, queue: JobQueue) -> None:
        """As in QueueOwner."""
        self._backlogs.hungry(queue)
        self._leasing.feed()

    def emptied(self, queue: JobQueue) -> None:
        """As in QueueOwner."""
        self._destinations.forget(queue)
        if queue.has_backlog:
            self._backlogs.forget_queue(queue)
            self._leasing.feed()

    def _served(self, job: Job) -> None:
        """As in SiteTools."""
        self._jobs.add(job)
        self._writer.record(job, RetrySection())

    def _unuse(self, job: Job) -> None:
        if job.source:
            self._sources.settle(job.source, sent=False)
        if job.in_turn:
            self._arrived(job)

    def _arrived(self, job: Job) -> None:
        if self._backlogs.arrived(job):
            self._leasing.feed()

    # -- from the returns

    def _returned(self, is_due: bool, later: float | None) -> None:
        if later is not None:
            self._leasing.look_at(later)
        if is_due:
            self.look()
        else:
            self._leasing.feed()

    # -- from the writer

    def _written(self, job: Job, due: float | None) -> None:
        self._jobs.remove(job)
        if due is not None:
            self._leasing.look_at(due)

    def _pause(self) -> None:
        self._destinations.pause()
        self._leasing.look_at(self._clock.seconds() + AFTER_FAILURE)

    def _go_on(self) -> None:
        self._destinations.go_on()
        self.look()
