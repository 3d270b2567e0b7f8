"""Leases on their way back to the spool: for want of room, or because their recipients may not be attempted now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.interfaces import Destination, ISpool, Lease, Return, SpoolError
from mailgate.relay.backlog import Backlogs
from mailgate.relay.fairness import Tags
from mailgate.relay.jobs import Job, JobQueue
from mailgate.relay.memory import Jobs

__all__ = ["Returns", "destinations_of"]

_log = Logger()

#: Seconds until leases are given back that the spool would not take.
_AGAIN = 5.0


@dataclass(frozen=True, slots=True)
class _Item:
    """A lease that is given back, for a job or before there was one; `destinations` are where it waits for a turn."""

    lease: Return
    job: Job | None = None
    destinations: tuple[Destination, ...] = ()


def destinations_of(lease: Lease) -> tuple[Destination, ...]:
    """Those of its recipients, as the spool knows them."""
    return tuple({Destination(one.route, one.address.domain): None for one in lease.recipients})


class Returns:
    """Gives leases back, those of one turn of the reactor together. Once the spool has them, or will be asked again,
    their jobs are forgotten, and `returned` is called: whether any of them is due."""

    def __init__(
        self,
        spool: ISpool,
        clock: IReactorTime,
        jobs: Jobs,
        backlogs: Backlogs,
        returned: Callable[[bool], None],
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._jobs = jobs
        self._backlogs = backlogs
        self._tell = returned
        self._tags = Tags()
        self._gathered: list[_Item] = []
        self._refused: list[Return] = []  # what the spool would not take back
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
        gathered, self._gathered = self._gathered, []
        refused, self._refused = self._refused, []
        returns = [one.lease for one in gathered] + refused
        if not returns:
            return
        try:
            await self._spool.release_leases(returns)
        except SpoolError as error:
            self._refused += returns
            _log.warn("leases cannot be given back now: {error}", error=error)
            if self._again is None and not self._is_stopped:
                self._again = self._clock.callLater(_AGAIN, self._try_again)
        for one in gathered:
            for destination in one.destinations:
                self._backlogs.returned(destination)
            if one.job is not None:
                self._jobs.remove(one.job)
        self._tell(any(not one.in_turn for one in returns))

    def _in_turn(self, lease: Lease, queue: JobQueue | None, why: str, job: Job | None) -> None:
        destinations = destinations_of(lease)
        for destination in destinations:
            self._backlogs.returning(destination, queue)
        now = self._clock.seconds()
        interval = 0.0 if queue is None else queue.interval
        tag = self._tags.next(destinations[0], lease.envelope.sender, len(lease.recipients), now, interval)
        self._add(_Item(Return(lease, tag, why, in_turn=True), job, destinations))

    def _add(self, item: _Item) -> None:
        self._gathered.append(item)
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
