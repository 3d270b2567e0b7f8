"""The relay: leases to jobs, jobs to the ready queues of their destinations, and back to the spool.

A message comes from the intake with its first lease, or is leased from the spool when it is due, or when it is its turn
at a destination that had no room. Its recipients are sorted into one job for each destination; each job ends with one
outcome for each of its recipients, or is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Config
from mailgate.interfaces import (
    IDeliveryFilter,
    IEvents,
    IRelay,
    ISlots,
    ISpool,
    Lease,
    Return,
    Selector,
    SiteView,
)
from mailgate.relay.destinations import Destinations
from mailgate.relay.giving_up import give_up
from mailgate.relay.keeping import JobKeeper
from mailgate.relay.leasing import Leasing
from mailgate.relay.locate import Locator
from mailgate.relay.orders import Orders
from mailgate.relay.outcomes import OutcomeWriter
from mailgate.relay.ready.host_watch import HostWatch
from mailgate.relay.ready.jobs import Job
from mailgate.relay.ready.overdue import look_over
from mailgate.relay.ready.tools import Account, SiteTools, account_nothing
from mailgate.relay.replies.classify import Bounces
from mailgate.relay.replies.shaping import Shaping
from mailgate.relay.routing import Routing
from mailgate.relay.sizes import LearntSizes
from mailgate.relay.sorting import REPORT_ROUTE, REPORTS, Sorter
from mailgate.relay.sources import Sources
from mailgate.relay.transports import Transports
from mailgate.relay.warm_up import WarmUp

__all__ = ["REPORTS", "Relay"]

_log = Logger()

#: Octets of content in memory from which on a new message waits in the spool, from where it is read piece by piece.
_MOST_OCTETS = 128 * 1024**2
#: Seconds between looks for attempts, and waits, that last longer than their lease.
_CHECK = 300.0


@implementer(IRelay)
class Relay(JobKeeper):
    """Delivers. `max_active` bounds the jobs that are in memory; the rest waits in the spool.

    `slots` are the limits that it shares with other workers, `warm_up` the counts of sources, which it starts and
    stops.
    """

    def __init__(
        self,
        spool: ISpool,
        config: Config,
        routing: Routing,
        *,
        transports: Transports,
        locator: Locator,
        events: IEvents,
        clock: IReactorTime,
        random: Random,
        slots: ISlots,
        warm_up: WarmUp,
        bounces: Bounces,
        delivery_filter: IDeliveryFilter | None = None,
        account: Account = account_nothing,
    ) -> None:
        super().__init__(spool, clock, config.spool.max_active)
        self._spool = spool
        self._events = events
        self._random = random
        self._locator = locator
        self._account = account
        self._slots = slots
        self._warm_up = warm_up
        self._hostname = config.gateway.hostname
        self.sizes = LearntSizes(clock.seconds)
        self._watch = HostWatch(clock.seconds)
        self._check: IDelayedCall | None = None
        self._is_ready = False
        self._sources = Sources(config, warm_up)
        self._destinations = Destinations(transports, self._tools(config), self._sources, self)
        self._writer = self._make_writer(bounces, self._written, self._pause, self._go_on)
        self._leasing = Leasing(
            spool,
            clock,
            self._backlogs,
            self._jobs,
            prepare=lambda: Deferred.fromCoroutine(self._prepare()),
            take=self._take,
            refuse=self._refuse,
            is_stuck=lambda: self._writer.is_stuck,
        )
        self._orders = Orders(
            spool,
            clock,
            events=events,
            jobs=self._jobs,
            destinations=self._destinations,
            backlogs=self._backlogs,
            returns=self._returns,
            leasing=self._leasing,
            sorter=lambda: self._sorter,
            postponed=self.postponed,
        )
        self.reload(config, routing, delivery_filter, bounces)

    def _tools(self, config: Config) -> SiteTools:
        return SiteTools(
            locator=self._locator,
            shaping=Shaping(config),
            slots=self._slots,
            events=self._events,
            clock=self._clock,
            random=self._random,
            account=self._account,
            alarm=lambda route, reason: self._orders.alarm(route, reason),
            learn=self.sizes.learn,
            served=self._served,
            watch=self._watch,
        )

    def _make_writer(
        self,
        bounces: Bounces,
        written: Callable[[Job, float | None], None],
        stuck: Callable[[], None],
        unstuck: Callable[[], None],
    ) -> OutcomeWriter:
        return OutcomeWriter(
            self._spool,
            self._events,
            self._clock,
            self._random,
            hostname=self._hostname,
            route_of=lambda envelope: self._sorter.report_route(envelope),
            written=written,
            stuck=stuck,
            unstuck=unstuck,
            bounces=bounces,
        )

    # -- life

    def start(self) -> None:
        """Begin with what is due in the spool."""
        self._check = self._clock.callLater(_CHECK, self._look_at_leases)
        self._leasing.start()

    def reload(
        self, config: Config, routing: Routing, delivery_filter: IDeliveryFilter | None, bounces: Bounces
    ) -> None:
        """New jobs go by this configuration; those that wait or are under way end by the old one."""
        self.room.most = config.spool.max_active
        self._bounces = bounces
        self._writer.use(bounces)
        self._sources = Sources(config, self._warm_up)
        for queue in self._destinations:
            if queue.has_backlog:
                self._backlogs.forget_queue(queue)  # the queues of the new configuration take it
                self._leasing.feed()
        self._destinations.reload({**config.routes, REPORTS: REPORT_ROUTE}, self._tools(config), self._sources)
        self._sorter = Sorter(
            routing,
            self._destinations,
            self._clock,
            delivery_filter,
            jobs=self._jobs,
            finished=self.finished,
        )
        self._sorter.suspensions = self._orders.suspensions
        if self._backlogs.reload():
            reading = Deferred.fromCoroutine(self._orders.read_suspensions())
            reading.addErrback(lambda failure: _log.failure("what waits cannot be read anew", failure=failure))

    async def stop(self) -> None:
        """Lease no more, give back what waits, and end with what is under way. Cancel it to wait no longer."""
        self._is_ready = False
        if self._check is not None:
            self._check.cancel()
            self._check = None
        await self._leasing.stop()
        for job in self._destinations.stop():
            self.unbegun(job)
        await self._returns.stop()
        await self.when_at_rest()
        await self._writer.when_idle()
        await self._warm_up.stop()

    def cut(self) -> None:
        """Cut every attempt that is under way: its recipients are deferred."""
        for queue in self._destinations:
            queue.cancel()

    async def _prepare(self) -> None:
        """What has to be known before the first message is sorted."""
        await self._warm_up.start()
        await self._orders.read_suspensions()
        self._is_ready = True

    def _look_at_leases(self) -> None:
        self._check = self._clock.callLater(_CHECK, self._look_at_leases)
        for queue in self._destinations:
            queue.cut_overdue()
            for job in queue.take_stale():
                self.unbegun(job)
            look_over(queue, self.late)

    # -- from the intake

    def route_of(self, recipient: Address, sender: Address) -> str:
        """The route of mail of our own to this recipient."""
        return self._sorter.own_route(recipient, sender)

    def next_hop(self, recipient: Address, sender: Address) -> str | None:
        """The route of other mail to this recipient; None where the configuration has none."""
        return self._sorter.next_hop(recipient, sender)

    def deliver(self, lease: Lease) -> None:
        """Take a message with its lease: at once, or, where there is no room or no running, later from the spool.

        A lease without recipients is for none of them yet: the message is looked for, at once or when it is to be
        released.
        """
        self._writer.spool_writes()
        if not lease.recipients:
            self._leasing.look_at(lease.envelope.parameters.release_at or self._clock.seconds())
        elif not self._is_ready:
            self._returns.lease(Return(lease))
        elif self.room.taken >= self.room.most:
            self._jobs.is_starved = True
            self._returns.lease_in_turn(lease)
        elif self._jobs.octets >= _MOST_OCTETS and lease.content.in_memory:
            self._returns.lease_in_turn(lease)
        else:
            self._sorter.sort(lease)

    # -- IRelay

    def kick(self, selector: Selector | None = None) -> None:
        """Look into the spool, and let even sites that rest try again: all of them, or where the selector names a
        domain, a site or a route, those."""
        waking = Deferred.fromCoroutine(self._destinations.wake(selector))
        waking.addErrback(lambda failure: _log.failure("sites could not be woken", failure=failure))
        self.look()

    async def apply_suspensions(self) -> None:
        """Suspensions have changed: read them anew. SpoolError."""
        await self._orders.apply_suspensions()
        self.look()

    async def put_back(self, selector: Selector) -> None:
        """What may be chosen and only waits here goes back to the spool. SpoolError."""
        await self._orders.put_back(selector)

    async def bounce(self, selector: Selector, reason: str = "") -> int:
        """Give up what is chosen, as an operator wants it, who has said `reason`: reports go out. The number of
        recipients; what is under delivery goes on. SpoolError."""
        writer = self._make_writer(self._bounces, lambda job, due: None, lambda: None, lambda: None)
        return await self._orders.bounce(
            selector, lambda: give_up(self._spool, writer, selector, reason=reason, clock=self._clock)
        )

    def waits(self, queue_id: str) -> Mapping[int, str]:
        """Why those recipients of a message wait, or what happens to them, that are in the relay's hands."""
        return self._orders.waits(queue_id)

    def sites(self, selector: Selector | None = None) -> Sequence[SiteView]:
        """Every ready queue there is, or those that hold anything that the selector may choose."""
        return self._orders.sites(selector)

    # -- from the leasing

    def _take(self, lease: Lease, in_turn: bool) -> None:
        """Sort what comes from the spool."""
        self._writer.spool_writes()
        if not self._writer.holds(lease.envelope.queue_id):
            lease = self._jobs.new_of(lease)
            if lease.recipients:
                self._sorter.sort(lease, in_turn=in_turn)
                if in_turn:
                    for job in self._jobs.of(lease.envelope.queue_id):
                        if not (job.site or job.results or self._jobs.is_leaving(job)):
                            self._backlogs.coming(job)

    def _refuse(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            self._returns.lease(Return(lease))
