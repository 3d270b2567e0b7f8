"""Leases on their way back to the spool: for want of room, or because their recipients may not be attempted now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.interfaces import ISpool, Lease, Return, SpoolError
from mailgate.interfaces.spool import TURN_LIFE
from mailgate.relay.backlog import Backlog, Backlogs
from mailgate.relay.memory import Jobs
from mailgate.relay.ready.jobs import Job, JobQueue

__all__ = ["Returns"]

_log = Logger()

#: Seconds until leases are given back that the spool would not take.
_AGAIN = 5.0


@dataclass(frozen=True, slots=True)
class _Item:
    """A lease that is given back, for a job or before there was one; `backlogs` are where it waits for a turn."""

    lease: Return
    job: Job | None = None
    backlogs: tuple[Backlog, ...] = ()


class Returns:
    """Gives leases back, those of one turn of the reactor together. Once the spool has them, their jobs are forgotten,
    and `returned` is called: whether any is due otherwise than in its turn, and when the first of those that wait for
    theirs comes due though nobody calls (None: there are none)."""

    def __init__(
        self,
        spool: ISpool,
        clock: IReactorTime,
        jobs: Jobs,
        backlogs: Backlogs,
        returned: Callable[[bool, float | None], None],
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._jobs = jobs
        self._backlogs = backlogs
        self._tell = returned
        self._gathered: list[_Item] = []
        self._refused: list[_Item] = []  # what the spool would not take back
        self._soon: IDelayedCall | None = None
        self._again: IDelayedCall | None = None
        self._is_stopped = False

    def lease(self, one: Return) -> None:
        """Give back a lease of which there is no job."""
        self._add(_Item(one))

    def job(self, job: Job, due: float = 0.0, why: str = "") -> None:
        """Give back a job, whose recipients are to be looked at again then."""
        self._add(_Item(Return(_lease_of(job), due, why), job))

    def job_in_turn(self, job: Job, queue: JobQueue) -> None:
        """Give back a job that waits for room in this queue."""
        self._in_turn(_lease_of(job), queue, f"waits for its turn at {queue.title}", job)

    def lease_in_turn(self, lease: Lease) -> None:
        """Give back a lease for which there is no room in memory."""
        self._in_turn(lease, None, "waits for room in memory", None)

    async def stop(self) -> None:
        """Give back what there is; from now on what is given back is so at once, and once."""
        for call in (self._soon, self._again):
            if call is not None:
                call.cancel()
        self._soon = self._again = None
        self._is_stopped = True
        await self.flush()

    async def flush(self) -> None:
        """Give back what there is, now, and again what the spool did not take."""
        items = self._gathered + self._refused
        self._gathered, self._refused = [], []
        if not items:
            return
        try:
            await self._spool.release_leases([one.lease for one in items])
        except SpoolError as error:
            _log.warn("leases cannot be given back now: {error}", error=error)
            self._refused += items
            if self._again is None and not self._is_stopped:
                self._again = self._clock.callLater(_AGAIN, self._try_again)
            return
        for one in items:
            for backlog in one.backlogs:
                self._backlogs.returned(backlog)
            if one.job is not None:
                self._jobs.left(one.job)
        turns = [one.lease.due for one in items if one.lease.in_turn]
        # The spool puts no look off for long, however late the turn is.
        self._tell(len(turns) < len(items), min([*turns, self._clock.seconds()]) + TURN_LIFE if turns else None)

    def _in_turn(self, lease: Lease, queue: JobQueue | None, why: str, job: Job | None) -> None:
        destinations = self._backlogs.of(lease.recipients)
        found = [self._backlogs.returning(destination, queue) for destination in destinations]
        now = self._clock.seconds()
        interval = 0.0 if queue is None else queue.interval
        tag = self._backlogs.tags.next(destinations[0], lease.envelope.sender, len(lease.recipients), now, interval)
        backlogs = tuple(one for one in found if one is not None)
        self._add(_Item(Return(lease, tag, why, in_turn=True), job, backlogs))

    def _add(self, item: _Item) -> None:
        self._gathered.append(item)
        if item.job is not None:
            self._jobs.leaving(item.job)
        if self._is_stopped:
            self._give()
        elif self._soon is None:
            self._soon = self._clock.callLater(0, self._give)

    def _give(self) -> None:
        self._soon = None
        Deferred.fromCoroutine(self.flush()).addErrback(_failed)

    def _try_again(self) -> None:
        self._again = None
        Deferred.fromCoroutine(self.flush()).addErrback(_failed)


def _lease_of(job: Job) -> Lease:
    return replace(job.lease, recipients=job.recipients)


def _failed(failure: Failure) -> None:
    _log.failure("leases could not be given back", failure=failure)
