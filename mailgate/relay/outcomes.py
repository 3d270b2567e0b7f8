"""From the results of an attempt to what is written and told: outcomes, the reports that are owed, the events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.address import Address
from mailgate.awaiting import as_deferred
from mailgate.config.schema import RetrySection
from mailgate.envelope import Envelope, new_id
from mailgate.events import Reported
from mailgate.interfaces import Handover, IEvents, ISpool, Outcome, OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import Result
from mailgate.relay.counts import Counts
from mailgate.relay.findings import NOT_YET, TOO_LATE
from mailgate.relay.outcome_events import event_of
from mailgate.relay.ready.jobs import Job
from mailgate.relay.replies.classify import Bounces
from mailgate.relay.reports.compose import compose_report
from mailgate.relay.reports.fields import Action, action_of
from mailgate.relay.schedule import expiry, is_too_late, late_at, next_attempt
from mailgate.reply import Reply

__all__ = ["REPORT_RETRY", "OutcomeWriter", "is_owed", "outcome_of"]

_log = Logger()

#: Seconds between tries to write outcomes that the spool could not take: while it takes none, and those that it alone
#: does not take.
_RETRY, _SLOW_RETRY = 1.0, 60.0
#: Seconds until a failure is looked at again whose report could not be made.
REPORT_RETRY = 600.0


class _Record(Struct):
    """Outcomes on their way into the spool, with the report about some of them."""

    job: Job
    outcomes: Sequence[Outcome]
    reported: Sequence[Outcome] = ()
    report: tuple[Envelope, Content] | None = None
    has_failed: bool = False


class OutcomeWriter:
    """Writes what became of jobs. `written` is called for each once it is durable, with the earliest next attempt.

    `route_of` names the route for a report to this envelope's sender; `bounces` what refusals mean. While the spool
    cannot write, `is_stuck` holds, `stuck` and later `unstuck` have been called, and the outcomes are kept and tried
    again: what was delivered is not delivered twice for want of a disk. Outcomes that cannot be written while others
    can hold up nobody else.
    """

    def __init__(
        self,
        spool: ISpool,
        events: IEvents,
        clock: IReactorTime,
        random: Random,
        *,
        hostname: str,
        route_of: Callable[[Envelope], str],
        written: Callable[[Job, float | None], None],
        stuck: Callable[[], None],
        unstuck: Callable[[], None],
        bounces: Bounces | None = None,
    ) -> None:
        self._spool = spool
        self._events = events
        self._clock = clock
        self._random = random
        self._hostname = hostname
        self._route_of = route_of
        self._written = written
        self._stuck = stuck
        self._unstuck = unstuck
        self._bounces = Bounces() if bounces is None else bounces
        self._counts = Counts(spool, clock)
        self._unwritten: list[_Record] = []
        self._under_way = 0
        self._idle: list[Deferred[None]] = []
        self._retry: IDelayedCall | None = None
        self.is_stuck = False

    def use(self, bounces: Bounces) -> None:
        """From now on refusals are told apart, and double bounces sent, so."""
        self._bounces = bounces

    def holds(self, queue_id: str) -> bool:
        """Whether outcomes of this message wait to be written: it must not be attempted again."""
        return any(record.job.lease.envelope.queue_id == queue_id for record in self._unwritten)

    def spool_writes(self) -> None:
        """Something else has just been written: what is kept here is at fault itself, and the rest may go on."""
        if self.is_stuck:
            self.is_stuck = False
            self._unstuck()

    def when_idle(self) -> Deferred[None]:
        """Fires when nothing is on its way into the spool; what it could not take then stays leased there."""
        done: Deferred[None] = Deferred()
        self._idle.append(done)
        self._rest()
        return done.addCallback(lambda _: self._counts.flush())

    def record(self, job: Job, retry: RetrySection) -> None:
        """Write the results of a job by the retry schedule of its destination."""
        now = self._clock.seconds()
        envelope = job.lease.envelope
        asked = envelope.parameters.deliver_by
        outcomes: list[Outcome] = []
        reported: list[Outcome] = []
        for result in job.results:
            if result.kind is OutcomeKind.DELIVERED:
                one = outcome_of(job, result)
                # Of most deliveries nobody wants to hear: that they are none of these is all that they cost here.
                if (one.recipient.notify or asked) and is_owed(envelope, one):
                    reported.append(one)
            else:
                one = self._undelivered(job, result, retry, now)
                if is_owed(envelope, one) or self._is_for_postmaster(envelope, one):
                    reported.append(one)
            outcomes.append(one)
        record = _Record(job, outcomes, reported)
        if reported:
            try:
                record.report = self._report(envelope, job, reported, expiry(retry, job.lease), now)
            except Exception:
                # Nobody is given up without a report: it stays until its report can be made.
                _log.failure("the report for {queue_id} cannot be made", queue_id=envelope.queue_id)
                record.outcomes = [_unreported(one, now) for one in outcomes]
                record.reported = ()
        self._write(record)

    def warn(self, job: Job, retry: RetrySection, why: str, told: Callable[[], None]) -> None:
        """Tell the sender, once, that mail is late which goes on waiting. `told`: the spool has the report."""
        lease, now = job.lease, self._clock.seconds()
        envelope = lease.envelope
        outcomes = [
            Outcome(one, OutcomeKind.DEFERRED, NOT_YET, reason=why, warned=True, site=job.site, source=job.source)
            for one in job.recipients
            if one.number not in lease.warned and _wants(one.notify, "DELAY")
        ]
        if not outcomes or not envelope.sender:
            return
        try:
            report = self._report(envelope, job, outcomes, expiry(retry, lease), now)
        except Exception:
            _log.failure("the report for {queue_id} cannot be made", queue_id=envelope.queue_id)
            return
        if report is None:
            return
        record = _Record(job, outcomes, outcomes, report)
        job.lease = replace(lease, warned=lease.warned.union(one.recipient.number for one in outcomes))

        def done(_: None) -> None:
            self._under_way -= 1
            self._tell_report(record, report[0].queue_id, now)
            told()
            self._rest()

        def failed(failure: Failure) -> None:
            self._under_way -= 1
            job.lease = replace(job.lease, warned=lease.warned)
            _log.warn(
                "{queue_id}: its sender cannot be told now that it is late: {error}",
                queue_id=envelope.queue_id,
                error=failure.getErrorMessage(),
            )
            self._rest()

        # A deferral ends no lease but its own: none of this time.
        answer = self._spool.record(replace(lease, until=0.0), outcomes, (report,))
        self._under_way += 1
        as_deferred(answer).addCallbacks(done, failed)

    def _undelivered(self, job: Job, result: Result, retry: RetrySection, now: float) -> Outcome:
        """The outcome of an attempt that has not delivered: it may come again, or was the last."""
        if result.kind is OutcomeKind.DISCARDED:
            return outcome_of(job, result)
        one = (
            self._deferral(job, result, retry, now) if result.kind is OutcomeKind.DEFERRED else outcome_of(job, result)
        )
        envelope, reason = job.lease.envelope, one.reason
        if one.kind is OutcomeKind.FAILED and _is_report(envelope) and not self._is_for_postmaster(envelope, one):
            reason = f"double bounce, dropped: {reason or one.reply}"
        category = self._bounces.classifier.category(one.reply, ours=not one.host)
        return replace(one, reason=reason, category=category)

    def _is_for_postmaster(self, envelope: Envelope, outcome: Outcome) -> bool:
        """Whether it is a double bounce that somebody wants to see. What fails to reach him is not told to him."""
        double_to = self._bounces.double_to
        return (
            outcome.kind is OutcomeKind.FAILED
            and _is_report(envelope)
            and bool(double_to)
            and str(outcome.recipient.address).lower() != double_to.lower()
        )

    def _report(
        self, envelope: Envelope, job: Job, reported: Sequence[Outcome], until: float, now: float
    ) -> tuple[Envelope, Content] | None:
        is_report = not envelope.sender
        if is_report:
            # The report itself is what the postmaster is to see.
            parameters = replace(envelope.parameters, ret="FULL")
            sender = Address.parse(self._bounces.double_to)
            envelope = replace(envelope, sender=sender, parameters=parameters)
        return compose_report(
            envelope,
            reported,
            job.lease.content,
            hostname=self._hostname,
            now=now,
            queue_id=new_id(),
            route=self._route_of(envelope),
            retry_until=until,
            is_report=is_report,
            sign=self._bounces.sign,
        )

    def _deferral(self, job: Job, result: Result, retry: RetrySection, now: float) -> Outcome:
        """The outcome of an attempt that may come again, or was the last."""
        envelope, recipient = job.lease.envelope, result.recipient
        attempts = job.lease.attempts.get(recipient.number, 0) + 1
        ends = expiry(retry, job.lease)
        due = next_attempt(retry, attempts, ends, now, self._random, deadline=envelope.parameters.deliver_by)
        one = outcome_of(job, result)
        if due is not None:
            is_late = now >= late_at(retry, job.lease) and recipient.number not in job.lease.warned
            warned = is_late and bool(envelope.sender) and _wants(recipient.notify, "DELAY")
            return replace(one, next_attempt=due, warned=warned)
        reason = f"given up after {attempts} attempts: {result.reason or result.reply}"
        one = replace(one, kind=OutcomeKind.FAILED, reason=reason)
        if is_too_late(envelope, now):
            said = f"{one.host} said: {one.said}" if one.host else one.said
            reply = Reply.of(TOO_LATE.code, TOO_LATE.status, f"{TOO_LATE.text}; the last answer: {said}")
            return replace(one, reply=reply, host="", answered_in="smtp")
        return one

    def _write(self, record: _Record) -> None:
        reports = () if record.report is None else (record.report,)
        answer: Awaitable[None] = self._spool.record(record.job.lease, record.outcomes, reports)
        waited = as_deferred(answer)
        self._under_way += 1
        waited.addCallbacks(self._done, self._failed, callbackArgs=(record,), errbackArgs=(record,))

    def _done(self, _: None, record: _Record) -> None:
        self._under_way -= 1
        self.spool_writes()
        self._publish(record)
        due = None if record.report is None else self._clock.seconds()
        for one in record.outcomes:
            if one.kind is OutcomeKind.DEFERRED and (due is None or one.next_attempt < due):
                due = one.next_attempt
        self._written(record.job, due)
        self._rest()

    def _failed(self, failure: Failure, record: _Record) -> None:
        self._under_way -= 1
        self._unwritten.append(record)
        if not record.has_failed:
            record.has_failed = True
            _log.error(
                "the outcomes of {queue_id} cannot be written: {error}",
                queue_id=record.job.lease.envelope.queue_id,
                error=failure.getErrorMessage(),
            )
            if not self.is_stuck:
                self.is_stuck = True
                self._stuck()
        if self._retry is None:
            self._retry = self._clock.callLater(_RETRY if self.is_stuck else _SLOW_RETRY, self._try_again)
        self._rest()

    def _rest(self) -> None:
        if not self._under_way:
            idle, self._idle = self._idle, []
            for one in idle:
                one.callback(None)

    def _try_again(self) -> None:
        self._retry = None
        unwritten, self._unwritten = self._unwritten, []
        for record in unwritten:
            self._write(record)

    # -- events

    def _publish(self, record: _Record) -> None:
        now = self._clock.seconds()
        report_id, report_to = "", ""
        if record.report:
            report = record.report[0]
            report_id = report.queue_id
            if not record.job.lease.envelope.sender:
                report_to = str(report.recipients[0].address)
        for outcome in record.outcomes:
            if outcome.category:
                what = "deferred" if outcome.kind is OutcomeKind.DEFERRED else "bounced"
                self._counts.add(f"{what}/{outcome.category}")
            told = report_id if report_id and outcome in record.reported else ""
            self._events.publish(event_of(record.job, outcome, now, told, report_to if told else ""))
        if report_id:
            self._tell_report(record, report_id, now)

    def _tell_report(self, record: _Record, report_id: str, now: float) -> None:
        """What else than failures, of which Bounced tells, the sender hears."""
        envelope = record.job.lease.envelope
        for action in (Action.DELAYED, Action.RELAYED, Action.DELIVERED):
            recipients = tuple(str(one.recipient.address) for one in record.reported if action_of(one) is action)
            if recipients:
                self._events.publish(
                    Reported(
                        at=now,
                        queue_id=envelope.queue_id,
                        sender=str(envelope.sender),
                        recipients=recipients,
                        kind=action.value,
                        report=report_id,
                    )
                )


def outcome_of(job: Job, result: Result) -> Outcome:
    """The outcome that a result is by itself."""
    return Outcome(
        result.recipient,
        result.kind,
        result.reply,
        result.host,
        0.0,
        result.reason,
        result.handover,
        tls=result.tls,
        site=job.site,
        source=job.source,
        answered_in=result.answered_in,
    )


def _is_report(envelope: Envelope) -> bool:
    """Whether the message is a report that we have made."""
    return not envelope.sender and not envelope.client


def is_owed(envelope: Envelope, outcome: Outcome) -> bool:
    """Whether the sender is to be told of this outcome (RFC 3461 section 4.1; RFC 2852 for what is passed on)."""
    notify = outcome.recipient.notify
    if not envelope.sender or notify == ("NEVER",):
        return False
    match outcome.kind:
        case OutcomeKind.FAILED:
            return _wants(notify, "FAILURE")
        case OutcomeKind.DEFERRED:
            return outcome.warned
        case OutcomeKind.DELIVERED:
            parameters, handover = envelope.parameters, outcome.handover
            if parameters.by_trace and handover is not Handover.FINAL:
                return True
            if handover is Handover.PASSED_ON:
                return False
            if "SUCCESS" in notify:
                return True
            # Where nobody can watch the time any more, that is what "tell me when it is late" comes to.
            return parameters.by_mode == "N" and handover is Handover.RELAYED and _wants(notify, "DELAY")
    return False


def _wants(notify: Sequence[str], word: str) -> bool:
    """Whether a sender who said this wants to hear of failure or delay: who said nothing does."""
    return not notify or word in notify


def _unreported(outcome: Outcome, now: float) -> Outcome:
    """What is left of an outcome whose report could not be made."""
    if outcome.kind is OutcomeKind.FAILED:
        why = "its report could not be made"
        return replace(outcome, kind=OutcomeKind.DEFERRED, next_attempt=now + REPORT_RETRY, reason=why)
    return replace(outcome, warned=False) if outcome.warned else outcome
