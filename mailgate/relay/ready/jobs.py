"""Ready queues of jobs: what waits for one destination, and what is under way to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.config.schema import RetrySection
from mailgate.interfaces import OutcomeKind, Suspension
from mailgate.relay.findings import LOCAL_ERROR, TOO_LATE
from mailgate.relay.ready.job import Job, LedJob
from mailgate.relay.ready.line import Line, Room
from mailgate.relay.schedule import is_too_late
from mailgate.reply import Reply

__all__ = ["LEASE_MARGIN", "LEASE_TIME", "MOST_RECIPIENTS", "Job", "JobQueue", "QueueOwner"]

_log = Logger()

#: Seconds that a lease lasts, and that must be left of it for an attempt to begin.
LEASE_TIME = 2 * 3600.0
LEASE_MARGIN = LEASE_TIME / 2
#: With less than this left of its lease an attempt is cut: when a lease has ended, another attempt may begin.
_LEASE_END = 600.0

#: Recipients of one message that one job is for at most (RFC 5321 section 4.5.3.1.8).
MOST_RECIPIENTS = 100
#: Jobs that wait in one queue at most, and where it is slow: where one has waited for `_SLOW` seconds.
_MOST, _MOST_SLOW, _SLOW = 1000, 100, 10.0
#: What the last interval counts in the average.
_SHARE = 0.1
#: Senders whose first job is taken all the same.
_MOST_SENDERS = 100
#: What is fetched of a backlog at one time: for each connection so much, and at least so much.
_EACH, _LEAST = 5, 50
#: The same for each connection of a slow one.
_EACH_SLOW = 2
#: Jobs that begin in one turn of the reactor, where many can.
_PER_TURN = 100

_CUT = Reply.of(451, "4.3.2", "The attempt was cut off")


class QueueOwner(Protocol):
    """Who is told by a queue."""

    room: Room

    def finished(self, job: Job, retry: RetrySection) -> None:
        """`job.results` holds one result for each of its recipients; `retry` is the schedule that they go by."""

    def unbegun(self, job: Job) -> None:
        """The job was not begun: it has waited for so long that its lease would not last an attempt."""

    def no_room(self, job: Job, queue: JobQueue) -> None:
        """There is no room for the job in the queue: it waits in the spool for its turn."""

    def hungry(self, queue: JobQueue) -> None:
        """The queue has room for what waits for it in the spool. Told again and again."""

    def emptied(self, queue: JobQueue) -> None:
        """The queue holds nothing any more, and may be forgotten."""


class JobQueue:
    """Starts jobs, at most `limit` at one time: those of a higher priority first (RFC 6710), among equals one of each
    sender in turn. Nothing raises.

    `label` names the destination for people, `hosts` are its hosts, `source` is the name of the source; a job is for no
    more than `most_recipients`. `has_backlog`: more waits in the spool. `suspension`: nothing may be added. While
    `is_held`, `may_begin` is asked before each job; `trouble` is set where `refuses` is to be asked.
    """

    def __init__(
        self,
        name: str,
        limit: int,
        clock: IReactorTime,
        owner: QueueOwner,
        *,
        retry: RetrySection,
        route: str = "",
        label: str = "",
        source: str = "",
    ) -> None:
        self.name = name
        self.limit = limit
        self.clock = clock
        self.owner = owner
        self.retry = retry
        self.route = route
        self.label = label
        self.source = source
        self.hosts: Sequence[str] = ()
        self.most_recipients = MOST_RECIPIENTS
        self.suspension: Suspension | None = None
        self.has_backlog = False
        self.is_paused = False
        self.is_stopped = False
        self.is_held = False
        self.trouble: object = None
        self.line = Line()
        self._is_pumping = False
        self._later: IDelayedCall | None = None
        self._last_wait = 0.0  # how long the last one that began had waited
        self._taken_at = 0.0
        self.interval = 0.0  # between two that begin, while others wait: the average
        self._active: dict[Job, Deferred[Any] | None] = {}

    # -- the owner's calls

    def add(self, job: Job) -> bool:
        """Queue a job; False where there is no room for it."""
        job.queue, job.site, job.source = self, self.label, self.source
        if self.line.count or self.is_paused or self.is_held or self._is_pumping or len(self._active) >= self.limit:
            if not self._has_room(job):
                return False
            job.started = now = self.clock.seconds()
            if not self.line.count:
                self._taken_at = now
            self.line.add(job)
            self.pump()
        else:  # the common way
            self._begin(job)
        return True

    def pause(self) -> None:
        """Start no more jobs."""
        self.is_paused = True

    def go_on(self) -> None:
        """End `pause`."""
        self.is_paused = False
        self.pump()

    def stop(self) -> list[Job]:
        """Start no more jobs, give back those that wait, and keep nothing open for later ones."""
        self.is_paused = self.is_stopped = True
        if self._later is not None:
            self._later.cancel()
            self._later = None
        waiting = self.take_where(lambda job: True)
        self.close_idle()
        self.tell_if_empty()
        return waiting

    def take_where(self, chosen: Callable[[Job], bool]) -> list[Job]:
        """Give back those that wait, and are chosen."""
        return self.line.take_where(chosen) if self.line.count else []

    def withdraw(self, job: Job) -> None:
        """Nobody waits for this one any more: it begins no more, or is cut."""
        running = self._active.get(job)
        if running is not None:
            running.cancel()
        for one in self.take_where(lambda waiting: waiting is job):
            self.owner.unbegun(one)

    def take_stale(self) -> list[Job]:
        """Give back those whose lease would not last an attempt any more."""
        until = self.clock.seconds() + LEASE_MARGIN
        return self.take_where(lambda job: job.lease.until < until)

    def retire(self) -> None:
        """The configuration has changed: no more jobs will come. Deliver what is here."""
        self.close_idle()
        self.tell_if_empty()

    def cancel(self, left: float = math.inf) -> None:
        """Cut the attempts that have no more than `left` seconds of their lease; their recipients are deferred."""
        until = self.clock.seconds() + left
        for job, running in list(self._active.items()):
            if running is not None and job.lease.until <= until:
                running.cancel()

    def cut_overdue(self) -> None:
        """Cut the attempts whose lease is about to end. To be called more often than every `_LEASE_END` seconds."""
        self.cancel(_LEASE_END)

    def retry_now(self) -> None:
        """Forget what speaks against an attempt now."""

    @property
    def active(self) -> int:
        """Jobs under way."""
        return len(self._active)

    @property
    def appetite(self) -> int:
        """How many jobs to fetch from the backlog now."""
        wanted = min(self.fill - self.line.turned, max(self.owner.room.free // 4, 1))
        return wanted if self.is_hungry else 0

    @property
    def is_suspended(self) -> bool:
        """Whether a suspension holds, and is not over by itself."""
        one = self.suspension
        return one is not None and (not one.until or one.until > self.clock.seconds())

    @property
    def is_hungry(self) -> bool:
        """Whether it is time to fetch some."""
        return (
            self.has_backlog
            and not self.is_paused
            and not self.is_suspended
            and self.line.turned <= self.fill // 2
            and self.line.count < 2 * _MOST
        )

    @property
    def fill(self) -> int:
        """How many jobs of the backlog are here where it is well filled."""
        most = max(_LEAST, _EACH * self.limit)
        if self.interval * most <= _SLOW:
            return most
        return max(int(_SLOW / self.interval), _EACH_SLOW * self.limit)  # about as many as begin in that time

    # -- for people

    @property
    def jobs(self) -> Iterator[Job]:
        """Those under way, and those that wait."""
        return chain(self._active, self.line)

    @property
    def slowed(self) -> str:
        """That less is asked of it than there might be, because of what it has said; "" where that is not so."""
        return ""

    def has(self, job: Job) -> bool:
        """Whether a job is under way here."""
        return job in self._active

    def hindrance(self) -> str:
        """Why nothing begins now, beside connections that are in use; "" where something may."""
        if self.suspension is not None and self.is_suspended:
            return self.suspension.told
        if self.is_stopped:
            return "the gateway stops"
        return "the spool cannot write" if self.is_paused else ""

    @property
    def title(self) -> str:
        """The destination in few words."""
        return self.label

    @property
    def connections(self) -> int:
        """Those that are open, or about to be."""
        return self.active

    @property
    def rests_until(self) -> float:
        """When the next attempt may be; 0 where one may be now."""
        return 0.0

    # -- for those who know how to deliver

    def start(self, job: Job) -> None:
        """Begin an attempt: `run` its work, or `finish` it at once."""
        raise NotImplementedError

    def may_begin(self) -> bool:
        """Whether a job may begin now; where not, `pump` is called when one may."""
        return True

    def refuses(self, job: Job) -> bool:
        """Whether no attempt is worth while now; the job has been settled then."""
        return False

    def close_idle(self) -> None:
        """Close what is kept open for later jobs."""

    def is_empty(self) -> bool:
        """Whether nothing here is needed any more."""
        return not (self.line.count or self._active)

    def run(self, job: Job, work: Deferred[bool]) -> None:
        """Let `work` go its way; it says whether every recipient has its result, or else the job waits again."""
        self._active[job] = work
        work.addCallbacks(self._ended, self.failed, callbackArgs=(job,), errbackArgs=(job,))

    def put_back(self, job: Job) -> None:
        """A job that has begun could not: it is the next again."""
        self._active.pop(job, None)
        self.line.put_back(job)

    def finish(self, job: Job) -> None:
        """Every recipient of the job has its result."""
        self._active.pop(job, None)
        self.owner.finished(job, self.retry)
        if self.line.count or self.has_backlog:
            self.pump()
        elif not self._active:
            self.tell_if_empty()

    def tell_if_empty(self) -> None:
        """Tell the owner where that is so."""
        if self.is_empty():
            self.owner.emptied(self)

    def failed(self, failure: Failure, job: Job) -> None:
        """The attempt broke off, by a bug, or because it was cut."""
        if failure.check(CancelledError):
            job.settle(OutcomeKind.DEFERRED, _CUT, "", "the gateway closes down, or the attempt took too long")
        else:
            _log.failure("a delivery failed", failure=failure)
            job.settle(OutcomeKind.DEFERRED, LOCAL_ERROR, "", repr(failure.value))
        self.finish(job)

    def _ended(self, is_done: bool, job: Job) -> None:
        if is_done:
            self.finish(job)
        else:
            self.put_back(job)
            self.pump()

    def pump(self) -> None:
        """Begin what may."""
        # A job that ends at once comes back here through `finish`; then the loop below goes on, and not another in it.
        if self._is_pumping:
            return
        self._is_pumping = True
        begun = 0
        try:
            while self.line.count and len(self._active) < self.limit and not self.is_paused:
                if begun >= _PER_TURN:
                    if self._later is None:
                        self._later = self.clock.callLater(0, self._go_on)
                    break
                if self.is_held and not self.may_begin():
                    break
                begun += 1
                job = self.line.take()
                now = self.clock.seconds()
                self._last_wait = now - job.started
                self.interval += (now - self._taken_at - self.interval) * _SHARE
                self._taken_at = now
                self._begin(job)
        finally:
            self._is_pumping = False
        if self.has_backlog:
            if self._last_wait > _SLOW and self.line.count > 2 * self.fill:
                # Who waits in the spool is to have a turn before all of those who happened to come first.
                for job in self.line.trim(self.fill):
                    self.owner.no_room(job, self)
            if self.line.turned <= self.fill // 2:
                self.owner.hungry(self)
        if not self.line.count:
            self._last_wait = 0.0
            if not self._active:
                self.tell_if_empty()

    def _go_on(self) -> None:
        self._later = None
        self.pump()

    def _has_room(self, job: Job) -> bool:
        """Whether a job may wait here. All queues together leave some room: a full one has no more than is left."""
        line = self.line
        if isinstance(job, LedJob):
            return True  # there are no more of them than clients
        if job.in_turn:
            return line.count < 2 * _MOST
        free = max(self.owner.room.free, 1)
        if not self.has_backlog and line.count < min(_MOST_SLOW if self._last_wait > _SLOW else _MOST, free):
            return True
        return line.senders < min(_MOST_SENDERS, free) and not line.has(job.lease.envelope.sender)

    def _begin(self, job: Job) -> None:
        job.started = now = self.clock.seconds()
        job.remaining = job.recipients
        if job.lease.until - now < LEASE_MARGIN:
            self.owner.unbegun(job)
        elif job.lease.envelope.parameters.deliver_by and is_too_late(job.lease.envelope, now):
            job.is_untried = True
            job.settle(OutcomeKind.FAILED, TOO_LATE, "", "the time that the sender had set was over")
            self.owner.finished(job, self.retry)
        elif self.trouble is not None and self.refuses(job):
            self.owner.finished(job, self.retry)
        else:
            self._active[job] = None
            try:
                self.start(job)
            except Exception:
                self.failed(Failure(), job)
            return
        if not self._is_pumping:
            self.tell_if_empty()
