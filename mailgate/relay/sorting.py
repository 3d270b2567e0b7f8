"""From a lease to jobs: one for each destination, each judged by the delivery filters before it is queued."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec.structs import replace
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.address import NULL_PATH, Address
from mailgate.awaiting import as_deferred
from mailgate.config.routes import HopRoute
from mailgate.config.schema import RetrySection, SmtpRoute
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import Answered, AttemptContext, Destination, IDeliveryFilter, Lease, OutcomeKind, Suspension
from mailgate.relay.attempt import Result
from mailgate.relay.destinations import Destinations
from mailgate.relay.findings import LOCAL_ERROR
from mailgate.relay.memory import Jobs
from mailgate.relay.ready.jobs import MOST_RECIPIENTS, Job
from mailgate.relay.routing import Routing
from mailgate.relay.suspended import Suspensions, ends
from mailgate.reply import Reply, ReplyError, parse_reply
from mailgate.verdict import Defer, Discard, Reject, Verdict

__all__ = ["REPORTS", "REPORT_ROUTE", "Sorter"]

_log = Logger()

#: The route of reports to senders that no route is for: by MX. Whoever takes mail must be able to return it.
REPORTS = "(reports)"
REPORT_ROUTE = SmtpRoute(transport="smtp")

_REFUSED = Reply.of(550, "5.7.1", "Refused by policy")
_DROPPED = Reply.of(250, "2.0.0", "Discarded by policy")


class Sorter:
    """Sorts leases by one configuration, and by the suspensions that are in force.

    Each job is one of `jobs` before anything becomes of it; `finished` is told of those that end here.
    """

    def __init__(
        self,
        routing: Routing,
        destinations: Destinations,
        clock: IReactorTime,
        delivery_filter: IDeliveryFilter | None,
        *,
        jobs: Jobs,
        finished: Callable[[Job, RetrySection], None],
    ) -> None:
        self._routing = routing
        self._destinations = destinations
        self._clock = clock
        self._filter = delivery_filter
        self._jobs = jobs
        self._finished = finished
        self.suspensions = Suspensions()

    def sort(self, lease: Lease, *, in_turn: bool = False) -> None:
        """One job for each destination. A message that we stumble over keeps its lease, and comes again after it."""
        queue_id = lease.envelope.queue_id
        try:
            if self.suspensions.exist:
                lease = self._without_suspended(lease, in_turn)
            recipients = lease.recipients
            if len(recipients) == 1 and not recipients[0].refusal:  # most mail
                one = recipients[0]
                is_plain = one.route in self._destinations.routes and not lease.attempts
                route = one.route if is_plain else self._route_for(lease, one)
                self._judge(Job(lease, recipients, route, domain=one.address.domain, in_turn=in_turn))
            else:
                self._sort_many(lease, in_turn)
        except Exception:
            _log.failure("message {queue_id} cannot be sorted to its destinations", queue_id=queue_id)

    def judge_attempt(self, attempt: AttemptContext) -> Answered:
        """What the delivery filters say of an attempt that begins without a lease."""
        return None if self._filter is None else self._filter.on_attempt(attempt)

    def report_route(self, envelope: Envelope) -> str:
        """The route of a report to this message's sender."""
        return self.own_route(envelope.sender, NULL_PATH)

    def own_route(self, recipient: Address, sender: Address) -> str:
        """The route of mail that we send: where no route is for it, by MX."""
        return self._routing.next_hop(recipient, sender) or REPORTS

    def next_hop(self, recipient: Address, sender: Address) -> str | None:
        """The route of mail to this recipient; None where there is none."""
        return self._routing.next_hop(recipient, sender)

    def _suspension(self, envelope: Envelope, recipient: EnvelopeRecipient, route: str) -> Suspension | None:
        """The one that keeps back this recipient of a message, as far as it is not about its site."""
        now = self._clock.seconds()
        destination = Destination(route, recipient.address.domain)
        return self.suspensions.of_sender(envelope.sender, now) or self.suspensions.of_destination(destination, now)

    def _without_suspended(self, lease: Lease, in_turn: bool) -> Lease:
        """The lease of those recipients that nothing keeps back; the others are given back."""
        free: list[EnvelopeRecipient] = []
        kept: dict[tuple[str, str, str], tuple[Suspension, list[EnvelopeRecipient]]] = {}
        for one in lease.recipients:
            name = self._route_for(lease, one)
            suspension = None if one.refusal else self._suspension(lease.envelope, one, name)
            if suspension is None:
                free.append(one)
            else:
                domain = one.address.domain if self._destinations.by_domain(name) else ""
                kept.setdefault((suspension.told, name, domain), (suspension, []))[1].append(one)
        for (why, name, domain), (suspension, recipients) in kept.items():
            job = Job(lease, tuple(recipients), name, domain=domain, in_turn=in_turn)
            self._jobs.add(job)
            self._destinations.postpone(job, ends(suspension, self._clock.seconds()), why)
        return replace(lease, recipients=tuple(free)) if kept else lease

    def _sort_many(self, lease: Lease, in_turn: bool) -> None:
        refused: list[EnvelopeRecipient] = []
        by_destination: dict[tuple[str, str, Address | None], list[EnvelopeRecipient]] = {}
        for one in lease.recipients:
            if one.refusal:
                refused.append(one)
                continue
            name = self._route_for(lease, one)
            domain = one.address.domain if self._destinations.by_domain(name) else ""
            by_destination.setdefault((name, domain, one.return_path), []).append(one)
        if refused:
            self._refuse(Job(lease, tuple(refused), refused[0].route))
        for (name, domain, _), recipients in by_destination.items():
            for at in range(0, len(recipients), MOST_RECIPIENTS):
                part = tuple(recipients[at : at + MOST_RECIPIENTS])
                self._judge(Job(lease, part, name, domain=domain, in_turn=in_turn))

    def _route_for(self, lease: Lease, recipient: EnvelopeRecipient) -> str:
        """The route chosen at arrival, or in time its fallback; where it is gone, what the configuration says now."""
        envelope = lease.envelope
        route = self._destinations.routes.get(recipient.route)
        if route is not None:
            has_failed = lease.attempts.get(recipient.number, 0) > 0
            fallback = route.fallback if has_failed and isinstance(route, HopRoute) else None
            if fallback is None or not isinstance(route, HopRoute) or fallback not in self._destinations.routes:
                return recipient.route
            is_late = self._clock.seconds() - envelope.received >= route.fallback_after
            return fallback if is_late else recipient.route
        is_report = not envelope.sender and not envelope.client
        now = self._routing.next_hop(recipient.address, envelope.sender)
        return now or (REPORTS if is_report else recipient.route)

    def _refuse(self, job: Job) -> None:
        """What a policy refused when it took the message for others ends here: one report for all."""
        job.started, job.is_untried = self._clock.seconds(), True
        for one in job.recipients:
            try:
                reply = parse_reply([one.refusal.encode()])
            except ReplyError:
                reply = _REFUSED
            job.results.append(Result(one, OutcomeKind.FAILED, reply, reason="refused by policy at its arrival"))
        self._jobs.add(job)
        self._finished(job, REPORT_ROUTE.retry)

    def _judge(self, job: Job) -> None:
        """Ask the delivery filters, where there are any, and put the job into the queue of its destination."""
        self._jobs.add(job)
        if self._filter is None:
            try:
                self._destinations.put(job)
            except Exception:
                self._jobs.remove(job)
                raise
            return
        attempts = job.lease.attempts
        attempt = max((attempts.get(one.number, 0) for one in job.recipients), default=0) + 1

        def judged(verdict: Verdict | None) -> None:
            if not isinstance(verdict, Reject | Defer | Discard) or not _concerns(verdict, job):
                self._destinations.put(job)
                return
            concerned, rest = self._parted(job, verdict)
            if isinstance(verdict, Discard):
                self._end(concerned, OutcomeKind.DISCARDED, _DROPPED, verdict.reason)
            else:
                kind = OutcomeKind.FAILED if isinstance(verdict, Reject) else OutcomeKind.DEFERRED
                self._end(concerned, kind, verdict.reply, verdict.reason)
            if rest is not None:
                self._judge(rest)

        def failed(failure: Failure) -> None:
            _log.failure("a delivery filter failed", failure=failure)
            if not job.results:
                self._end(job, OutcomeKind.DEFERRED, LOCAL_ERROR, failure.getErrorMessage())

        try:
            answer = self._filter.on_attempt(AttemptContext(job.lease.envelope, job.recipients, job.route, attempt))
            if isinstance(answer, Awaitable):
                waited = as_deferred(answer)
                waited.addCallback(judged)
                waited.addErrback(failed)
            else:
                judged(answer)
        except Exception:
            failed(Failure())

    def _parted(self, job: Job, verdict: Reject | Defer | Discard) -> tuple[Job, Job | None]:
        """The job of the recipients that a verdict is about, and one of the others, where there are any, which begins
        anew."""
        named = frozenset(verdict.recipients)
        rest = tuple(one for one in job.recipients if one.address not in named) if named else ()
        if not rest:
            return job, None
        self._jobs.remove(job)
        concerned = tuple(one for one in job.recipients if one.address in named)
        own = Job(job.lease, concerned, job.route, domain=job.domain, in_turn=job.in_turn)
        self._jobs.add(own)
        return own, Job(job.lease, rest, job.route, domain=job.domain, in_turn=job.in_turn)

    def _end(self, job: Job, kind: OutcomeKind, reply: Reply, reason: str) -> None:
        """An outcome without an attempt."""
        job.started, job.remaining = self._clock.seconds(), job.recipients
        job.settle(kind, reply, "", reason)
        route = self._destinations.routes.get(job.route)
        self._finished(job, (route or REPORT_ROUTE).retry)


def _concerns(verdict: Reject | Defer | Discard, job: Job) -> bool:
    """Whether it is about any recipient of the job; without names it is about all."""
    return not verdict.recipients or any(one.address in verdict.recipients for one in job.recipients)
