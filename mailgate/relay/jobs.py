"""Jobs, and queues of them: what waits for one destination, and what is under way to it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.envelope import EnvelopeRecipient
from mailgate.interfaces import Lease, OutcomeKind
from mailgate.relay.attempt import ITransport, Result
from mailgate.relay.findings import LOCAL_ERROR, TOO_LATE
from mailgate.relay.schedule import is_too_late
from mailgate.reply import Reply

__all__ = ["LEASE_TIME", "Job", "JobQueue", "LocalQueue", "QueueOwner"]

_log = Logger()

#: Seconds that a lease lasts, and that must be left of it for an attempt to begin.
LEASE_TIME = 2 * 3600.0
LEASE_MARGIN = LEASE_TIME / 2
#: With less than this left of its lease an attempt is cut: when a lease has ended, another attempt may begin.
_LEASE_END = 600.0

_CUT = Reply.of(451, "4.3.2", "The attempt was cut off")


@dataclass(slots=True)
class Job:
    """One message to some of its recipients at one destination, by the route of this name.

    `started` is when its attempt began; `remaining` are the recipients that have no result yet.
    """

    lease: Lease
    recipients: tuple[EnvelopeRecipient, ...]
    route: str
    started: float = 0.0
    remaining: tuple[EnvelopeRecipient, ...] = ()
    results: list[Result] = field(default_factory=list)

    def settle(self, kind: OutcomeKind, reply: Reply, host: str, reason: str) -> None:
        """Give every remaining recipient this result."""
        self.results += [Result(one, kind, reply, host, reason=reason) for one in self.remaining]
        self.remaining = ()


class QueueOwner(Protocol):
    """Who is told by a queue."""

    def finished(self, job: Job) -> None:
        """`job.results` holds one result for each of its recipients."""

    def unbegun(self, job: Job) -> None:
        """The job was not begun: it has waited for so long that its lease would not last an attempt."""

    def emptied(self, queue: JobQueue) -> None:
        """The queue holds nothing any more, and may be forgotten."""


class JobQueue:
    """Starts jobs, at most `limit` at one time: those of a higher priority first (RFC 6710), and among equals those
    that came first. Nothing raises.
    """

    def __init__(self, name: str, limit: int, clock: IReactorTime, owner: QueueOwner) -> None:
        self.name = name
        self.limit = limit
        self.clock = clock
        self.owner = owner
        self.is_paused = False
        self._is_pumping = False
        self._waiting: deque[Job] = deque()
        self._ranked: dict[int, deque[Job]] = {}  # what has another priority than most mail, none empty
        self._active: dict[int, tuple[Job, Deferred[object] | None]] = {}

    # -- the owner's calls

    def add(self, job: Job) -> None:
        """Queue a job."""
        priority = job.lease.envelope.parameters.priority
        if priority:
            self._ranked.setdefault(priority, deque()).append(job)
        else:
            self._waiting.append(job)
        self._pump()

    def pause(self) -> None:
        """Start no more jobs."""
        self.is_paused = True

    def go_on(self) -> None:
        """End `pause`."""
        self.is_paused = False
        self._pump()

    def stop(self) -> list[Job]:
        """Start no more jobs, give back those that wait, and keep nothing open for later ones."""
        self.is_paused = True
        waiting = []
        while self.has_waiting:
            waiting.append(self._take())
        self.close_idle()
        self.tell_if_empty()
        return waiting

    def retire(self) -> None:
        """The configuration has changed: no more jobs will come. Deliver what is here."""
        self.close_idle()
        self.tell_if_empty()

    def cancel(self, left: float = math.inf) -> None:
        """Cut the attempts that have no more than `left` seconds of their lease; their recipients are deferred."""
        until = self.clock.seconds() + left
        for job, running in list(self._active.values()):
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

    # -- for those who know how to deliver

    @property
    def has_waiting(self) -> bool:
        """Whether jobs wait for their attempt."""
        return bool(self._waiting or self._ranked)

    def start(self, job: Job) -> None:
        """Begin an attempt: `run` its work, or `finish` it at once."""
        raise NotImplementedError

    def refuses(self, job: Job) -> bool:
        """Whether no attempt is worth while now; the job has been settled then."""
        return False

    def close_idle(self) -> None:
        """Close what is kept open for later jobs."""

    def is_empty(self) -> bool:
        """Whether nothing here is needed any more."""
        return not (self._waiting or self._ranked or self._active)

    def run(self, job: Job, work: Deferred[object]) -> None:
        """Let `work` go its way; when it is done, every recipient has its result."""
        self._active[id(job)] = (job, work)
        work.addCallbacks(lambda _: self.finish(job), lambda failure: self._failed(job, failure))

    def finish(self, job: Job) -> None:
        """Every recipient of the job has its result."""
        self._active.pop(id(job), None)
        self.owner.finished(job)
        self._pump()

    def tell_if_empty(self) -> None:
        """Tell the owner where that is so."""
        if self.is_empty():
            self.owner.emptied(self)

    def _pump(self) -> None:
        # A job that ends at once comes back here through `finish`; then the loop below goes on, and not another in it.
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while (self._waiting or self._ranked) and not self.is_paused and len(self._active) < self.limit:
                self._begin(self._take() if self._ranked else self._waiting.popleft())
        finally:
            self._is_pumping = False
        self.tell_if_empty()

    def _take(self) -> Job:
        """The one whose turn it is."""
        highest = max(self._ranked, default=0)
        if highest > 0 or not self._waiting:
            ranked = self._ranked[highest]
            job = ranked.popleft()
            if not ranked:
                del self._ranked[highest]
            return job
        return self._waiting.popleft()

    def _begin(self, job: Job) -> None:
        job.started = self.clock.seconds()
        job.remaining = job.recipients
        if job.lease.until - job.started < LEASE_MARGIN:
            self.owner.unbegun(job)
        elif job.lease.envelope.parameters.deliver_by and is_too_late(job.lease.envelope, job.started):
            job.settle(OutcomeKind.FAILED, TOO_LATE, "", "the time that the sender had set was over")
            self.owner.finished(job)
        elif self.refuses(job):
            self.owner.finished(job)
        else:
            self._active[id(job)] = (job, None)
            try:
                self.start(job)
            except Exception:
                self._failed(job, Failure())

    def _failed(self, job: Job, failure: Failure) -> None:
        if failure.check(CancelledError):
            job.settle(OutcomeKind.DEFERRED, _CUT, "", "the gateway closes down, or the attempt took too long")
        else:
            _log.failure("a delivery failed", failure=failure)
            job.settle(OutcomeKind.DEFERRED, LOCAL_ERROR, "", repr(failure.value))
        self.finish(job)


class LocalQueue(JobQueue):
    """Jobs for a transport that needs no connections."""

    #: Deliveries at one time: they wait for the disk.
    LIMIT = 8

    def __init__(self, name: str, transport: ITransport, clock: IReactorTime, owner: QueueOwner) -> None:
        super().__init__(name, self.LIMIT, clock, owner)
        self._transport = transport

    def start(self, job: Job) -> None:
        answer = self._transport.deliver(job.lease.envelope, job.remaining, job.lease.content)
        self.run(job, Deferred.fromCoroutine(self._deliver(job, answer)))

    async def _deliver(self, job: Job, answer: Awaitable[Sequence[Result]]) -> None:
        job.results += await answer
        job.remaining = ()
