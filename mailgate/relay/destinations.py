"""From a job to the queue of its destination, which DNS may have to name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from random import Random

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred
from mailgate.config.schema import LmtpRoute, Route, SmtpRoute
from mailgate.interfaces import OutcomeKind
from mailgate.relay.findings import LOCAL_ERROR
from mailgate.relay.jobs import Job, JobQueue, LocalQueue
from mailgate.relay.locate import Hosts, Locator, NoHosts
from mailgate.relay.site import Site
from mailgate.relay.transports import Transports
from mailgate.reply import Reply

__all__ = ["Destinations"]

_log = Logger()

_NO_ROUTE = Reply.of(451, "4.3.5", "No route to this recipient is configured")


class Destinations:
    """The queues by destination; each is made when it is needed, and forgotten when it is empty.

    Every job that is put here ends in one call of `finished`, with a result for each recipient, or of `unbegun`.
    """

    def __init__(
        self,
        transports: Transports,
        locator: Locator,
        clock: IReactorTime,
        random: Random,
        *,
        finished: Callable[[Job], None],
        unbegun: Callable[[Job], None],
    ) -> None:
        self._transports = transports
        self._locator = locator
        self._clock = clock
        self._random = random
        self.finished = finished
        self.unbegun = unbegun
        self.routes: Mapping[str, Route] = {}
        self._is_paused = False
        self._is_stopped = False
        self._queues: dict[str, JobQueue] = {}
        self._all: set[JobQueue] = set()  # with those of an old configuration

    def reload(self, routes: Mapping[str, Route]) -> None:
        """New jobs go by these routes; what waits or is under way ends by the old ones."""
        self.routes = routes
        old, self._queues = self._queues, {}
        for queue in list(old.values()):
            queue.retire()

    def __iter__(self) -> Iterator[JobQueue]:
        return iter(list(self._all))

    def by_domain(self, name: str) -> bool:
        """Whether the route of this name asks DNS where the mail of each domain goes."""
        route = self.routes.get(name)
        return isinstance(route, SmtpRoute) and not route.hosts

    def put(self, job: Job, domain: str) -> None:
        """Queue a job, whose recipients are all in `domain` where its route goes by that."""
        route = self.routes.get(job.route)
        if self._is_stopped:
            self.unbegun(job)
        elif isinstance(route, SmtpRoute | LmtpRoute):
            queue = self._queues.get(job.route) if route.hosts else None
            if queue is not None:
                queue.add(job)
            else:
                self._locate(job, route, domain)
        elif route is not None:
            queue = self._queues.get(job.route)
            if queue is None:
                queue = self._keep(LocalQueue(job.route, self._transports.local(route), self._clock, self))
            queue.add(job)
        else:
            self._end(job, NoHosts(_NO_ROUTE, f"route {job.route} is configured no more"))

    def pause(self) -> None:
        """Begin no more jobs."""
        self._is_paused = True
        for queue in self:
            queue.pause()

    def go_on(self) -> None:
        """End `pause`."""
        self._is_paused = False
        for queue in self:
            queue.go_on()

    def stop(self) -> list[Job]:
        """Begin no more jobs, ever; those that wait."""
        self._is_stopped = True
        return [job for queue in self for job in queue.stop()]

    @property
    def active(self) -> int:
        """Jobs under way."""
        return sum(queue.active for queue in self._all)

    def emptied(self, queue: JobQueue) -> None:
        """A queue may be forgotten."""
        self._all.discard(queue)
        if self._queues.get(queue.name) is queue:
            del self._queues[queue.name]

    def _locate(self, job: Job, route: SmtpRoute | LmtpRoute, domain: str) -> None:
        hosts = self._locator.hosts(job.route, route, domain)
        if not isinstance(hosts, Awaitable):
            self._located(job, route, hosts)
            return

        def found(hosts: Hosts | NoHosts) -> None:
            if self._is_stopped or self.routes.get(job.route) is not route:
                self.put(job, domain)  # the configuration was read anew meanwhile, or this is the end
            else:
                self._located(job, route, hosts)

        waited = as_deferred(hosts)
        waited.addErrback(_not_located)
        waited.addCallback(found)

    def _located(self, job: Job, route: SmtpRoute | LmtpRoute, hosts: Hosts | NoHosts) -> None:
        if isinstance(hosts, NoHosts):
            self._end(job, hosts)
            return
        queue = self._queues.get(hosts.name)
        if queue is None:
            queue = self._keep(
                Site(
                    hosts,
                    route,
                    connector=self._transports.connector(job.route, route),
                    locator=self._locator,
                    clock=self._clock,
                    random=self._random,
                    owner=self,
                )
            )
        queue.add(job)

    def _keep(self, queue: JobQueue) -> JobQueue:
        queue.is_paused = self._is_paused
        self._queues[queue.name] = queue
        self._all.add(queue)
        return queue

    def _end(self, job: Job, why: NoHosts) -> None:
        job.started, job.remaining = self._clock.seconds(), job.recipients
        kind = OutcomeKind.FAILED if why.reply.is_permanent else OutcomeKind.DEFERRED
        job.settle(kind, why.reply, "", why.reason)
        self.finished(job)


def _not_located(failure: Failure) -> NoHosts:
    _log.failure("a destination could not be found", failure=failure)
    return NoHosts(LOCAL_ERROR, failure.getErrorMessage())
