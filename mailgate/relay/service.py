"""The relay: leases to jobs, jobs to the queues of their destinations, and back to the spool.

A message comes from the intake with its first lease, or is leased from the spool when it is due. Its recipients are
sorted into one job for each destination; each job ends with one outcome for each of its recipients.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import replace
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.address import NULL_PATH
from mailgate.awaiting import as_deferred
from mailgate.config.schema import Config, SmtpRoute
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import AttemptContext, IDeliveryFilter, IEvents, ISpool, Lease, OutcomeKind, SpoolError
from mailgate.relay.attempt import Result
from mailgate.relay.destinations import Destinations
from mailgate.relay.findings import LOCAL_ERROR
from mailgate.relay.jobs import LEASE_TIME, Job
from mailgate.relay.locate import Locator
from mailgate.relay.outcomes import OutcomeWriter
from mailgate.relay.routing import Routing
from mailgate.relay.transports import Transports
from mailgate.reply import Reply, ReplyError, parse_reply
from mailgate.verdict import Defer, Reject, Verdict

__all__ = ["REPORTS", "Relay"]

_log = Logger()

#: The route of reports to senders that no route is for: by MX. Whoever takes mail must be able to return it.
REPORTS = "(reports)"
_REPORT_ROUTE = SmtpRoute(transport="smtp")

#: Recipients of one message that one job is for at most (RFC 5321 section 4.5.3.1.8).
_PER_JOB = 100
#: Recipients that one look into the spool leases at most.
_PER_LEASE = 500
#: Seconds until a spool that has failed is asked again.
_AFTER_FAILURE = 5.0
#: Seconds between looks for attempts that last longer than their lease.
_CHECK = 300.0

_REFUSED = Reply.of(550, "5.7.1", "Refused by policy")


class Relay:
    """Delivers. `max_active` bounds the messages that are in memory; the rest waits in the spool."""

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
        delivery_filter: IDeliveryFilter | None = None,
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._jobs: dict[str, list[Job]] = {}  # by queue id: the messages that are in memory
        self._unreturned: list[Lease] = []  # what the spool would not take back
        self._wake: IDelayedCall | None = None
        self._check: IDelayedCall | None = None
        self._leasing: Deferred[None] | None = None
        self._at_rest: Deferred[None] | None = None  # somebody waits for the end of the last attempt
        self._is_starved = False  # something due was left in the spool for want of room
        self._is_running = False
        self._destinations = Destinations(
            transports, locator, clock, random, finished=self._finished, unbegun=self._unbegun
        )
        self._writer = OutcomeWriter(
            spool,
            events,
            clock,
            random,
            hostname=config.gateway.hostname,
            route_of=self._report_route,
            written=self._written,
            stuck=self._pause,
            unstuck=self._go_on,
        )
        self.reload(config, routing, delivery_filter)

    # -- life

    def start(self) -> None:
        """Begin with what is due in the spool."""
        self._is_running = True
        self._check = self._clock.callLater(_CHECK, self._cut_overdue)
        self.kick()

    def reload(self, config: Config, routing: Routing, delivery_filter: IDeliveryFilter | None) -> None:
        """New jobs go by this configuration; those that wait or are under way end by the old one."""
        self._config = config
        self._routing = routing
        self._filter = delivery_filter
        self._destinations.reload({**config.routes, REPORTS: _REPORT_ROUTE})

    async def stop(self) -> None:
        """Lease no more, give back what waits, and end with what is under way. Cancel it to wait no longer."""
        self._is_running = False
        for call in (self._wake, self._check):
            if call is not None:
                call.cancel()
        self._wake = self._check = None
        if self._leasing is not None:
            await self._leasing
        waiting = self._destinations.stop()
        if waiting:
            await self._hand_back(waiting)
        if self._destinations.active:
            self._at_rest = Deferred()
            await self._at_rest
        await self._writer.when_idle()

    def cut(self) -> None:
        """Cut every attempt that is under way: its recipients are deferred."""
        for queue in self._destinations:
            queue.cancel()

    def _cut_overdue(self) -> None:
        self._check = self._clock.callLater(_CHECK, self._cut_overdue)
        for queue in self._destinations:
            queue.cut_overdue()

    # -- from the intake and the operator

    def deliver(self, lease: Lease) -> None:
        """Take a message with its lease: at once, or, where there is no room or no running, later from the spool.

        A lease without recipients is for none of them yet: the message is looked for when it is to be released.
        """
        self._writer.spool_writes()
        if not lease.recipients:
            if lease.envelope.parameters.release_at:
                self._wake_at(lease.envelope.parameters.release_at)
            return
        if not self._is_running or len(self._jobs) >= self._config.spool.max_active:
            self._is_starved = True
            Deferred.fromCoroutine(self._give_back([lease]))
            return
        self._sort(lease)

    def kick(self) -> None:
        """Look into the spool now, and try even sites that are left alone: an operator has changed something."""
        for queue in self._destinations:
            queue.retry_now()
        self.look()

    def look(self) -> None:
        """Look into the spool now; sites that are left alone stay so."""
        self._wake_at(self._clock.seconds())

    # -- leasing

    def _wake_at(self, due: float) -> None:
        if not self._is_running:
            return
        now = self._clock.seconds()
        if self._wake is not None and self._wake.active():
            if self._wake.getTime() <= due:
                return
            self._wake.cancel()
        self._wake = self._clock.callLater(max(due - now, 0.0), self._look)

    def _look(self) -> None:
        self._wake = None
        if self._leasing is None and self._is_running:
            leasing = Deferred.fromCoroutine(self._lease())
            self._leasing = leasing
            leasing.addBoth(self._looked)

    def _looked(self, result: object) -> None:
        self._leasing = None
        if isinstance(result, Failure):
            if not result.check(SpoolError):
                _log.failure("leasing failed", failure=result)
            self._wake_at(self._clock.seconds() + _AFTER_FAILURE)

    async def _lease(self) -> None:
        while self._is_running:
            room = self._config.spool.max_active - len(self._jobs)
            if room <= 0:
                self._is_starved = True
                return
            # While outcomes cannot be written, one recipient is enough to find out whether anything can.
            limit = 1 if self._writer.is_stuck else min(room, _PER_LEASE)
            leases = await self._spool.lease(limit, self._clock.seconds() + LEASE_TIME)
            if not self._is_running:
                await self._give_back(leases)
                return
            if leases:
                self._writer.spool_writes()
            for lease in leases:
                if not self._writer.holds(lease.envelope.queue_id):
                    self._sort_anew(lease)
            if sum(len(lease.recipients) for lease in leases) < limit:
                break
        self._is_starved = False
        due = await self._spool.next_due()
        if due is not None:
            self._wake_at(due)

    async def _give_back(self, leases: Sequence[Lease]) -> None:
        leases = [*leases, *self._unreturned]
        self._unreturned.clear()
        try:
            await self._spool.release_leases(leases)
        except SpoolError as error:
            self._unreturned += leases
            _log.warn("leases cannot be given back now: {error}", error=error)
            if self._is_running:
                self._clock.callLater(_AFTER_FAILURE, self._return)

    def _return(self) -> None:
        if self._unreturned and self._is_running:
            Deferred.fromCoroutine(self._give_back([])).addCallback(lambda _: self._wake_at(self._clock.seconds()))

    # -- sorting

    def _sort_anew(self, lease: Lease) -> None:
        """Sort what comes from the spool, but for recipients that have a job here.

        Those were leased again because the clock has jumped, or the machine has slept: their jobs have the time of the
        new lease.
        """
        held: set[int] = set()
        for job in self._jobs.get(lease.envelope.queue_id, ()):
            job.lease = replace(job.lease, until=lease.until)
            held.update(one.number for one in job.recipients)
        if held:
            recipients = tuple(one for one in lease.recipients if one.number not in held)
            lease = replace(lease, recipients=recipients)
        if lease.recipients:
            self._sort(lease)

    def _sort(self, lease: Lease) -> None:
        """One job for each destination. A message that we stumble over keeps its lease, and comes again after it."""
        queue_id = lease.envelope.queue_id
        recipients = lease.recipients
        try:
            if len(recipients) == 1 and not recipients[0].refusal:  # most mail
                job = Job(lease, recipients, self._route_for(lease, recipients[0]))
                self._judge(job, recipients[0].address.domain)
            else:
                self._sort_many(lease)
        except Exception:
            _log.failure("message {queue_id} cannot be sorted to its destinations", queue_id=queue_id)

    def _sort_many(self, lease: Lease) -> None:
        refused: list[EnvelopeRecipient] = []
        by_destination: dict[tuple[str, str], list[EnvelopeRecipient]] = {}
        for one in lease.recipients:
            if one.refusal:
                refused.append(one)
                continue
            name = self._route_for(lease, one)
            domain = one.address.domain if self._destinations.by_domain(name) else ""
            by_destination.setdefault((name, domain), []).append(one)
        if refused:
            self._refuse(Job(lease, tuple(refused), refused[0].route))
        for (name, domain), recipients in by_destination.items():
            for at in range(0, len(recipients), _PER_JOB):
                self._judge(Job(lease, tuple(recipients[at : at + _PER_JOB]), name), domain)

    def _route_for(self, lease: Lease, recipient: EnvelopeRecipient) -> str:
        """The route chosen at arrival; where it is gone, what the configuration says now."""
        if recipient.route in self._destinations.routes:
            return recipient.route
        envelope = lease.envelope
        is_report = not envelope.sender and not envelope.client
        now = self._routing.next_hop(recipient.address, envelope.sender)
        return now or (REPORTS if is_report else recipient.route)

    def _refuse(self, job: Job) -> None:
        """What a policy refused when it took the message for others ends here: one report for all."""
        job.started = self._clock.seconds()
        for one in job.recipients:
            try:
                reply = parse_reply([one.refusal.encode()])
            except ReplyError:
                reply = _REFUSED
            job.results.append(Result(one, OutcomeKind.FAILED, reply, reason="refused by policy at its arrival"))
        self._count(job)
        self._finished(job)

    def _judge(self, job: Job, domain: str) -> None:
        """Ask the delivery filters, where there are any, and put the job into the queue of its destination."""
        self._count(job)
        if self._filter is None:
            self._destinations.put(job, domain)
            return
        attempts = job.lease.attempts
        attempt = max((attempts.get(one.number, 0) for one in job.recipients), default=0) + 1
        answer = self._filter.on_attempt(AttemptContext(job.lease.envelope, job.recipients, job.route, attempt))

        def judged(verdict: Verdict | None) -> None:
            if isinstance(verdict, Reject | Defer):
                kind = OutcomeKind.FAILED if isinstance(verdict, Reject) else OutcomeKind.DEFERRED
                self._end(job, kind, verdict.reply, verdict.reason)
            else:
                self._destinations.put(job, domain)

        def failed(failure: Failure) -> None:
            _log.failure("a delivery filter failed", failure=failure)
            self._end(job, OutcomeKind.DEFERRED, LOCAL_ERROR, failure.getErrorMessage())

        if isinstance(answer, Awaitable):
            waited = as_deferred(answer)
            waited.addCallbacks(judged, failed)
        else:
            judged(answer)

    def _end(self, job: Job, kind: OutcomeKind, reply: Reply, reason: str) -> None:
        """An outcome without an attempt."""
        job.started, job.remaining = self._clock.seconds(), job.recipients
        job.settle(kind, reply, "", reason)
        self._finished(job)

    def _report_route(self, envelope: Envelope) -> str:
        return self._routing.next_hop(envelope.sender, NULL_PATH) or REPORTS

    # -- from the destinations and the recorder

    def _finished(self, job: Job) -> None:
        route = self._destinations.routes.get(job.route)
        self._writer.record(job, (route or _REPORT_ROUTE).retry)
        if self._at_rest is not None and not self._destinations.active:
            at_rest, self._at_rest = self._at_rest, None
            at_rest.callback(None)

    def _unbegun(self, job: Job) -> None:
        Deferred.fromCoroutine(self._hand_back([job]))

    async def _hand_back(self, jobs: Sequence[Job]) -> None:
        """To the spool, where they are due at once: whoever leases them next has the time."""
        await self._give_back([replace(job.lease, recipients=job.recipients) for job in jobs])
        for job in jobs:
            self._close(job)
        self._wake_at(self._clock.seconds())

    def _written(self, job: Job, due: float | None) -> None:
        self._close(job)
        if due is not None:
            self._wake_at(due)
        if self._is_starved and len(self._jobs) <= self._config.spool.max_active * 3 // 4:
            self._is_starved = False
            self._wake_at(self._clock.seconds())

    def _count(self, job: Job) -> None:
        self._jobs.setdefault(job.lease.envelope.queue_id, []).append(job)

    def _close(self, job: Job) -> None:
        queue_id = job.lease.envelope.queue_id
        jobs = self._jobs[queue_id]
        for place, one in enumerate(jobs):
            if one is job:
                del jobs[place]
                break
        if not jobs:
            del self._jobs[queue_id]

    def _pause(self) -> None:
        self._destinations.pause()
        self._wake_at(self._clock.seconds() + _AFTER_FAILURE)

    def _go_on(self) -> None:
        self._destinations.go_on()
        self._wake_at(self._clock.seconds())
