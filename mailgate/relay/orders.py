"""What an operator orders of the relay and asks it: suspensions, what is to be changed or given up, why mail waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailgate.events import SuspensionChanged
from mailgate.interfaces import Destination, IEvents, ISpool, Selector, SiteView, Suspension
from mailgate.relay.backlog import Backlogs
from mailgate.relay.destinations import Destinations
from mailgate.relay.leasing import Leasing
from mailgate.relay.memory import Jobs
from mailgate.relay.ready.jobs import Job, JobQueue
from mailgate.relay.returns import Returns
from mailgate.relay.selecting import may_choose
from mailgate.relay.sorting import Sorter
from mailgate.relay.suspended import Suspensions
from mailgate.relay.view import view, where

__all__ = ["Orders"]

_log = Logger()

#: Seconds for which a route rests whose next hop refuses us.
_REFUSED_REST = 1800.0
#: Seconds until what was put back for a change of the queue may be leased again.
_PUT_BACK = 5.0


class Orders:
    """The part of IRelay that concerns what is in memory. `sorter` is the one of now, `postponed` as in Keeper."""

    def __init__(
        self,
        spool: ISpool,
        clock: IReactorTime,
        *,
        events: IEvents,
        jobs: Jobs,
        destinations: Destinations,
        backlogs: Backlogs,
        returns: Returns,
        leasing: Leasing,
        sorter: Callable[[], Sorter],
        postponed: Callable[[Job, float, str], None],
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._events = events
        self._jobs = jobs
        self._destinations = destinations
        self._backlogs = backlogs
        self._returns = returns
        self._leasing = leasing
        self._sorter = sorter
        self._postponed = postponed
        self.suspensions = Suspensions()
        self._alarms: dict[str, Deferred[None]] = {}  # those that are on their way into the spool, by route
        self._suspended: dict[Destination, Sequence[str]] = {}  # the hosts of those that had a backlog

    # -- suspensions

    async def apply_suspensions(self) -> None:
        """As in IRelay, without a look into the spool. SpoolError."""
        await self.read_suspensions()
        for queue in self._destinations:
            for job in queue.take_where(partial(self._is_suspended, queue)):
                self._postponed(job, 0.0, "")

    def alarm(self, route: str, reason: str) -> None:
        """A next hop refuses all that comes by a route: suspend it, as an administrator would, for a while. What is due
        then finds out whether that is mended."""

        def over(_: None) -> None:
            del self._alarms[route]

        if route not in self._alarms:
            self._alarms[route] = resting = Deferred.fromCoroutine(self._rest(route, reason))
            resting.addErrback(lambda failure: _log.failure("{route} cannot be suspended", failure, route=route))
            resting.addCallback(over)

    async def _rest(self, route: str, reason: str) -> None:
        now = self._clock.seconds()
        if self.suspensions.of_destination(Destination(route, ""), now) is not None:
            return
        one = Suspension(kind="route", name=route, since=now, until=now + _REFUSED_REST, reason=reason)
        await self._spool.suspend(one)
        self._events.publish(
            SuspensionChanged(at=now, kind=one.kind, name=route, is_suspended=True, until=one.until, reason=reason)
        )
        await self.apply_suspensions()

    async def read_suspensions(self) -> None:
        """What is suspended, and where anything waits for its turn that is not. SpoolError."""
        now = self._clock.seconds()
        self.suspensions = suspensions = Suspensions(await self._spool.suspensions())
        self._sorter().suspensions = suspensions
        self._destinations.suspend(suspensions)
        self._suspended = {one: hosts for one, hosts in self._suspended.items() if suspensions.of_site(hosts, now)}
        if suspensions.exist:
            # What waits there for its turn is found when that has come, and then told why it waits.
            self._backlogs.forget(lambda one: suspensions.of_destination(one, now) is not None)
            for queue in self._destinations:
                if queue.suspension is not None:
                    self._suspended.update(dict.fromkeys(self._backlogs.drop_queue(queue), queue.hosts))
        waiting = await self._spool.waiting()
        self._backlogs.add(
            one for one in waiting if one not in self._suspended and suspensions.of_destination(one, now) is None
        )

    def _is_suspended(self, queue: JobQueue, job: Job) -> bool:
        """Whether a suspension is for a job, or for some of it."""
        now = self._clock.seconds()
        return queue.suspension is not None or self.suspensions.keep(job.lease.envelope, job.recipients, job.route, now)

    # -- changes

    async def put_back(self, selector: Selector) -> None:
        """As in IRelay: what may be chosen and only waits here goes back to the spool, for an operator to change it;
        what he has not meant is looked at again some seconds later. SpoolError."""
        if not self._may_hold(selector):
            return
        await self._leasing.pause()
        try:
            due = self._clock.seconds() + _PUT_BACK
            for job in self._take_chosen(selector):
                self._postponed(job, due, "an administrator changes the queue")
            await self._returns.flush()
        finally:
            self._leasing.go_on()

    async def bounce(self, selector: Selector, give_up: Callable[[], Awaitable[int]]) -> int:
        """Have given up what is chosen: the spool knows what that is, so what waits here, and may be, goes back to it
        first. SpoolError."""
        is_here = self._may_hold(selector)
        if is_here:
            await self._leasing.pause()
        try:
            for job in self._take_chosen(selector) if is_here else ():
                self._postponed(job, 0.0, "")
            await self._returns.flush()
            return await give_up()
        finally:
            if is_here:
                self._leasing.go_on()

    def _may_hold(self, selector: Selector) -> bool:
        """Whether anything that a selector chooses may be in memory."""
        return not selector.queue_id or bool(self._jobs.of(selector.queue_id))

    def _take_chosen(self, selector: Selector) -> list[Job]:
        """What waits here and may be chosen; it waits no more."""
        queues = {job.queue for job in self._jobs.of(selector.queue_id)} if selector.queue_id else self._destinations
        chosen = partial(may_choose, selector)
        return [job for queue in queues if queue is not None for job in queue.take_where(chosen)]

    # -- questions

    def waits(self, queue_id: str) -> Mapping[int, str]:
        """As in IRelay."""
        found: dict[int, str] = {}
        for job in self._jobs.of(queue_id):
            text = where(job, self._clock.seconds())
            found.update(dict.fromkeys((one.number for one in job.recipients), text))
        return found

    def sites(self, selector: Selector | None) -> Sequence[SiteView]:
        """As in IRelay."""
        return [
            view(queue)
            for queue in self._destinations
            if selector is None or any(may_choose(selector, job) for job in queue.jobs)
        ]
