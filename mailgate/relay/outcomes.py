"""From the results of an attempt to what is written and told: outcomes, the report that is owed, the events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred
from mailgate.config.schema import RetrySection
from mailgate.envelope import Envelope, new_id
from mailgate.events import Bounced, Delivered, Discarded, Event
from mailgate.events import Deferred as DeferredEvent
from mailgate.interfaces import IEvents, ISpool, Outcome, OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import Result
from mailgate.relay.bounce import compose_report
from mailgate.relay.jobs import Job
from mailgate.relay.schedule import next_attempt

__all__ = ["OutcomeWriter"]

_log = Logger()

#: Seconds between tries to write outcomes that the spool could not take: while it takes none, and those that it alone
#: does not take.
_RETRY, _SLOW_RETRY = 1.0, 60.0
#: Seconds until a failure is looked at again whose report could not be made.
_REPORT_RETRY = 600.0


@dataclass(slots=True)
class _Record:
    """Outcomes on their way into the spool, and what is to be done once they are there."""

    job: Job
    outcomes: Sequence[Outcome]
    report: tuple[Envelope, Content] | None
    has_failed: bool = False


class OutcomeWriter:
    """Writes what became of jobs. `written` is called for each once it is durable, with the earliest next attempt.

    `route_of` names the route for a report to this sender. While the spool cannot write, `is_stuck` holds, `stuck` and
    later `unstuck` have been called, and the outcomes are kept and tried again: what was delivered is not delivered
    twice for want of a disk. Outcomes that cannot be written while others can hold up nobody else.
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
        self._unwritten: list[_Record] = []
        self._under_way = 0
        self._idle: list[Deferred[None]] = []
        self._retry: IDelayedCall | None = None
        self.is_stuck = False

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
        return done

    def record(self, job: Job, retry: RetrySection) -> None:
        """Write the results of a job by the retry schedule of its route."""
        now = self._clock.seconds()
        envelope = job.lease.envelope
        outcomes = [self._outcome(job, result, retry, now) for result in job.results]
        report = None
        if any(outcome.kind is OutcomeKind.FAILED for outcome in outcomes):
            try:
                report = self._report(envelope, job, outcomes, now)
            except Exception:
                # Nobody is given up without a report: it stays until its report can be made.
                _log.failure("the report for {queue_id} cannot be made", queue_id=envelope.queue_id)
                outcomes = [_postponed(one, now) if one.kind is OutcomeKind.FAILED else one for one in outcomes]
        self._write(_Record(job, outcomes, report))

    def _report(
        self, envelope: Envelope, job: Job, outcomes: Sequence[Outcome], now: float
    ) -> tuple[Envelope, Content] | None:
        return compose_report(
            envelope,
            [outcome for outcome in outcomes if outcome.kind is OutcomeKind.FAILED],
            job.lease.content,
            hostname=self._hostname,
            now=now,
            queue_id=new_id(),
            route=self._route_of(envelope),
        )

    def _outcome(self, job: Job, result: Result, retry: RetrySection, now: float) -> Outcome:
        kind, reply, reason, due = result.kind, result.reply, result.reason, 0.0
        if kind is OutcomeKind.DEFERRED:
            attempts = job.lease.attempts.get(result.recipient.number, 0) + 1
            next_one = next_attempt(retry, attempts, job.lease.envelope.received, now, self._random)
            if next_one is None:
                kind = OutcomeKind.FAILED
                reason = f"given up after {attempts} attempts: {reason or reply}"
            else:
                due = next_one
        return Outcome(result.recipient, kind, reply, result.host, due, reason)

    def _write(self, record: _Record) -> None:
        answer: Awaitable[None] = self._spool.record(record.job.lease, record.outcomes, record.report)
        waited = as_deferred(answer)
        self._under_way += 1
        waited.addCallbacks(self._done, self._failed, callbackArgs=(record,), errbackArgs=(record,))

    def _done(self, _: None, record: _Record) -> None:
        self._under_way -= 1
        self.spool_writes()
        self._publish(record)
        due = [one.next_attempt for one in record.outcomes if one.kind is OutcomeKind.DEFERRED]
        if record.report is not None:
            due.append(self._clock.seconds())
        self._written(record.job, min(due, default=None))
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
        report_id = record.report[0].queue_id if record.report else ""
        for outcome in record.outcomes:
            self._events.publish(_event(record.job, outcome, now, report_id))


def _event(job: Job, outcome: Outcome, now: float, report_id: str) -> Event:
    envelope = job.lease.envelope
    sender, recipient = str(envelope.sender), str(outcome.recipient.address)
    if outcome.kind is OutcomeKind.DISCARDED:
        return Discarded(
            at=now, queue_id=envelope.queue_id, sender=sender, recipients=(recipient,), reason=outcome.reason
        )
    common: Mapping[str, object] = {
        "at": now,
        "queue_id": envelope.queue_id,
        "sender": sender,
        "recipient": recipient,
        "route": job.route,
        "host": outcome.host,
        "reply": str(outcome.reply),
        "attempt": job.lease.attempts.get(outcome.recipient.number, 0) + 1,
        "seconds": now - job.started,
    }
    if outcome.kind is OutcomeKind.DELIVERED:
        return Delivered(**common, delay=now - envelope.received)  # type: ignore[arg-type]
    if outcome.kind is OutcomeKind.DEFERRED:
        return DeferredEvent(**common, next_attempt=outcome.next_attempt, reason=outcome.reason)  # type: ignore[arg-type]
    return Bounced(**common, reason=outcome.reason, report=report_id)  # type: ignore[arg-type]


def _postponed(outcome: Outcome, now: float) -> Outcome:
    return replace(
        outcome, kind=OutcomeKind.DEFERRED, next_attempt=now + _REPORT_RETRY, reason="its report could not be made"
    )
