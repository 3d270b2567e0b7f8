"""From a job to the ready queue of its destination, which DNS may have to name."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping
from typing import Protocol

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred
from mailgate.config.routes import HopRoute, HttpRoute, SiteRoute
from mailgate.config.schema import LmtpRoute, RetrySection, Route, SmtpRoute
from mailgate.interfaces import Destination, Selector
from mailgate.interfaces.spool import EVERYTHING
from mailgate.relay.findings import LOCAL_ERROR
from mailgate.relay.locate import Hosts, NoHosts
from mailgate.relay.ready.job import LedJob
from mailgate.relay.ready.jobs import Job, JobQueue, QueueOwner
from mailgate.relay.ready.local import LocalQueue
from mailgate.relay.ready.overdue import end
from mailgate.relay.ready.site import Site
from mailgate.relay.ready.tools import SiteTools
from mailgate.relay.schedule import expiry, late_at
from mailgate.relay.sources import SYSTEM, Capped, Sources
from mailgate.relay.suspended import Suspensions, ends
from mailgate.relay.transports import Transports
from mailgate.reply import Reply

__all__ = ["Destinations", "Keeper"]

_log = Logger()

_NO_ROUTE = Reply.of(451, "4.3.5", "No route to this recipient is configured")
_SCHEDULE = RetrySection()
_NONE: Mapping[str, JobQueue] = {}


class Keeper(QueueOwner, Protocol):
    """Who has put jobs here. Every one ends in one call of `finished`, with a result for each recipient, of `unbegun`,
    `no_room` or `postponed`, or is `split`. `full` are the destinations where anything waits for room."""

    full: set[Destination]

    def postponed(self, job: Job, due: float, why: str) -> None:
        """The job may not begin before `due` (0: it may, and is to be sorted anew)."""

    def late(self, job: Job, retry: RetrySection, why: str) -> None:
        """A job waits beyond the time at which its sender is to hear of it, and goes on waiting."""

    def split(self, job: Job, parts: list[Job]) -> None:
        """The job has more recipients than its destination takes: these have taken its place."""

    def placed(self, job: Job, queue: JobQueue) -> None:
        """A job has found room: one that had waited for its turn, or any while there are backlogs."""


class Destinations:
    """The ready queues by destination and source; each is made when it is needed, and forgotten when it is empty."""

    def __init__(self, transports: Transports, tools: SiteTools, sources: Sources, keeper: Keeper) -> None:
        self._transports = transports
        self._tools = tools
        self._sources = sources
        self._keeper = keeper
        self._suspensions = Suspensions()
        self.routes: Mapping[str, Route] = {}
        self._is_paused = False
        self._is_stopped = False
        self._ending: list[JobQueue] = []  # those with jobs under way when we were stopped, and perhaps still
        self._queues: dict[str, JobQueue] = {}
        self._all: dict[JobQueue, None] = {}  # with those of an old configuration

    def reload(self, routes: Mapping[str, Route], tools: SiteTools, sources: Sources) -> None:
        """New jobs go by these routes and limits; what is under way, or waits for a slot, ends by the old ones."""
        self.routes = routes
        self._tools = tools
        self._sources = sources
        old, self._queues = self._queues, {}
        for queue in list(old.values()):
            if queue.is_held:
                for job in queue.take_where(lambda job: True):
                    if isinstance(job, LedJob) and not job.source:
                        tools.clock.callLater(0, self._put_again, job)  # a client waits for it: it goes by the new ones
                    else:
                        self._keeper.unbegun(job)
            queue.retire()

    def __iter__(self) -> Iterator[JobQueue]:
        return iter(list(self._all))

    def by_domain(self, name: str) -> bool:
        """Whether the route of this name asks DNS where the mail of each domain goes."""
        route = self.routes.get(name)
        return isinstance(route, SmtpRoute) and not route.hosts

    def is_whole(self, name: str) -> bool:
        """Whether there is a route of this name, and all its domains go the same way."""
        return name in self.routes and not self.by_domain(name)

    def put(self, job: Job) -> None:
        """Queue a job, whose recipients are all in its `domain` where its route goes by that.

        Never raises: a job that we stumble over is deferred.
        """
        route = self.routes.get(job.route)
        try:
            if self._is_stopped:
                self._keeper.unbegun(job)
            elif isinstance(route, HopRoute):
                queue = self._queues.get(job.route) if route.hosts and route.pool is None else None
                if queue is None or len(job.recipients) > queue.most_recipients:
                    self._locate(job, route)
                elif job.in_turn or self._suspensions.exist or not queue.add(job):
                    self._enter(job, queue)
            elif route is not None:
                queue = self._queues.get(job.route)
                if queue is None:
                    transport = self._transports.local(route)
                    queue = self._keep(LocalQueue(job.route, transport, self._tools.clock, self._keeper, route.retry))
                self._enter(job, queue)
            else:
                self._end(job, NoHosts(_NO_ROUTE, f"route {job.route} is configured no more"), _SCHEDULE)
        except Exception:
            self._stumbled(Failure(), job)

    def _put_again(self, job: LedJob) -> None:
        if job.is_withdrawn:
            self._keeper.unbegun(job)
        else:
            self.put(job)

    def postpone(self, job: Job, due: float, why: str, retry: RetrySection | None = None) -> None:
        """A job may not begin before `due`: it waits in the spool, as long as its time by its schedule lasts."""
        now = self._tools.clock.seconds()
        if retry is None:
            retry = self._schedule(job)
        until, late = expiry(retry, job.lease), late_at(retry, job.lease)
        if now >= until:
            end(job, why, now)
            self._keeper.finished(job, retry)
            return
        if now >= late:
            self._keeper.late(job, retry, why)
        elif not job.lease.warned.issuperset(one.number for one in job.recipients):
            due = min(due, late)
        self._keeper.postponed(job, min(due, until), why)

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
        waiting = [job for queue in self for job in queue.stop()]
        self._ending = list(self._all)
        return waiting

    @property
    def is_at_rest(self) -> bool:
        """Whether no job is under way, after the stop."""
        while self._ending and not self._ending[-1].active:
            self._ending.pop()
        return not self._ending

    def suspend(self, suspensions: Suspensions) -> None:
        """From now on these are in force for sites; those that end so."""
        self._suspensions = suspensions
        for queue in self:
            self._check_suspension(queue)

    async def wake(self, selector: Selector | None) -> None:
        """Let sites try again that rest: those that the selector's domain, site or route is for, none where it names
        nothing but messages, or else all."""
        selector = selector or EVERYTHING
        if not (selector.domain or selector.site or selector.route or selector == EVERYTHING):
            return
        chosen = [
            queue
            for queue in self
            if selector.route in ("", queue.route) and selector.site.lower() in queue.label.lower()
        ]
        if selector.domain:
            sites = await self._sites_of(selector.domain.lower())
            chosen = [queue for queue in chosen if queue.hosts in sites]
        for queue in chosen:
            queue.retry_now()

    async def _sites_of(self, domain: str) -> set[tuple[str, ...]]:
        """The hosts, as of now, to which mail for a domain may go."""
        found = set()
        for name, route in list(self.routes.items()):
            if isinstance(route, SmtpRoute | LmtpRoute | HttpRoute):
                hosts = self._tools.locator.hosts(name, route, domain)
                if isinstance(hosts, Awaitable):
                    hosts = await hosts
                if isinstance(hosts, Hosts):
                    found.add(hosts.names)
        return found

    def forget(self, queue: JobQueue) -> None:
        """A queue that is empty."""
        self._all.pop(queue, None)
        if self._queues.get(queue.name) is queue:
            del self._queues[queue.name]

    # -- from a job to its queue

    def _locate(self, job: Job, route: HopRoute) -> None:
        if not isinstance(route, SmtpRoute | LmtpRoute | HttpRoute):
            raise TypeError(f"no route to hosts: {route!r}")
        relaxed = job.lease.envelope.parameters.tls_optional
        hosts = self._tools.locator.hosts(job.route, route, job.domain, relaxed=relaxed)
        if not isinstance(hosts, Awaitable):
            self._located(job, route, hosts)
            return

        def found(hosts: Hosts | NoHosts) -> None:
            if self._is_stopped or self.routes.get(job.route) is not route:
                self.put(job)  # the configuration was read anew meanwhile, or this is the end
            else:
                self._located(job, route, hosts)

        waited = as_deferred(hosts)
        waited.addErrback(_not_located)
        waited.addCallback(found)
        waited.addErrback(self._stumbled, job)

    def _located(
        self, job: Job, route: SiteRoute, hosts: Hosts | NoHosts, full: Mapping[str, JobQueue] = _NONE
    ) -> None:
        """`full` are the queues without room, by their sources, that come first in the order of this message."""
        if isinstance(hosts, NoHosts):
            self._end(job, hosts, self._schedule(job))
            return
        source, kept = SYSTEM, ""
        if route.pool is not None:
            kept = job.lease.sources.get(job.recipients[0].number, "")
            chosen = self._sources.choose(route, job.lease.envelope.queue_id, kept, full)
            if isinstance(chosen, Capped):
                if full:
                    self._enter_full(job, route, next(iter(full.values())))
                else:
                    self.postpone(job, chosen.until, chosen.reason)
                return
            source = chosen
            job.source = source.name
        domain = "" if hosts.is_fixed else job.domain
        limits = self._tools.shaping.limits(job.route, route, domain, hosts.names, source.name)
        if len(job.recipients) > limits.recipients_per_message:
            self._split(job, limits.recipients_per_message)
            return
        name = hosts.name
        if source.name or (limits.rules and not hosts.is_fixed):
            # Domains of one site that differ in their limits have a queue each.
            name = "|".join((name, source.name, *limits.rules))
        queue = self._queues.get(name)
        if queue is None:
            queue = self._keep(
                Site(
                    name,
                    hosts,
                    route,
                    route_name=job.route,
                    limits=limits,
                    source=source,
                    connector=self._transports.connector(job.route, route),
                    tools=self._tools,
                    owner=self._keeper,
                )
            )
        is_free = source.name != kept  # to go out from another source
        if (is_free and job.in_turn and queue.line.turned >= queue.fill) or not self._enters(job, queue):
            if is_free:
                self._sources.settle(source.name, sent=False)
                job.source = ""
                self._located(job, route, hosts, {**full, source.name: queue})
            else:
                self._keeper.no_room(job, queue)

    def _enter_full(self, job: Job, route: HopRoute, queue: JobQueue) -> None:
        """All sources are full: the job waits for the first in its order, in memory where it has had its turn."""
        if job.in_turn and not isinstance(self._sources.choose(route, job.lease.envelope.queue_id), Capped):
            self._enter(job, queue)
        else:
            job.source = ""
            self._keeper.no_room(job, queue)

    def _split(self, job: Job, size: int) -> None:
        parts = [
            Job(
                job.lease,
                job.recipients[at : at + size],
                job.route,
                domain=job.domain,
                in_turn=job.in_turn,
            )
            for at in range(0, len(job.recipients), size)
        ]
        self._keeper.split(job, parts)
        for part in parts:
            self.put(part)

    def _enter(self, job: Job, queue: JobQueue) -> None:
        if not self._enters(job, queue):
            self._keeper.no_room(job, queue)

    def _enters(self, job: Job, queue: JobQueue) -> bool:
        """False: there is no room for it."""
        now = self._tools.clock.seconds()
        if self._suspensions.exist and self._suspensions.keep(job.lease.envelope, job.recipients, job.route, now):
            self._keeper.unbegun(job)  # it was sorted before: it is to be sorted anew
            return True
        if queue.suspension is not None:
            self._check_suspension(queue)
        if (one := queue.suspension) is not None:
            self.postpone(job, ends(one, now), one.told, queue.retry)
        elif not queue.add(job):
            return False
        elif job.in_turn or self._keeper.full:
            self._keeper.placed(job, queue)
        return True

    def _check_suspension(self, queue: JobQueue) -> None:
        queue.suspension = self._suspensions.of_site(queue.hosts, self._tools.clock.seconds())

    def _keep(self, queue: JobQueue) -> JobQueue:
        queue.is_paused = self._is_paused
        if self._suspensions.exist:
            self._check_suspension(queue)
        self._queues[queue.name] = queue
        self._all[queue] = None
        return queue

    def _schedule(self, job: Job) -> RetrySection:
        """That of a job of which nobody has asked where it goes."""
        route = self.routes.get(job.route)
        if isinstance(route, SmtpRoute | LmtpRoute | HttpRoute):
            return self._tools.shaping.limits(job.route, route, job.domain, ()).retry
        return _SCHEDULE if route is None else route.retry

    def _stumbled(self, failure: Failure, job: Job) -> None:
        _log.failure("{job} could not be queued", failure=failure, job=job.lease.envelope.queue_id)
        if job.queue is None and not job.results:
            route = self.routes.get(job.route)
            retry = _SCHEDULE if route is None else route.retry
            self._end(job, NoHosts(LOCAL_ERROR, failure.getErrorMessage()), retry)

    def _end(self, job: Job, why: NoHosts, retry: RetrySection) -> None:
        job.started, job.remaining = self._tools.clock.seconds(), job.recipients
        job.settle(why.kind, why.reply, "", why.reason)
        self._keeper.finished(job, retry)


def _not_located(failure: Failure) -> NoHosts:
    if not failure.check(CancelledError):  # the end has come
        _log.failure("a destination could not be found", failure=failure)
    return NoHosts(LOCAL_ERROR, failure.getErrorMessage())
