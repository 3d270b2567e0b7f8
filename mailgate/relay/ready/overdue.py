"""Mail whose time is over, or that is late, while it waits for what is no attempt: a rate, its turn, a suspension."""

from __future__ import annotations

from collections.abc import Callable

from mailgate.config.schema import RetrySection
from mailgate.interfaces import OutcomeKind
from mailgate.relay.findings import TOO_LATE
from mailgate.relay.ready.job import Job
from mailgate.relay.ready.jobs import JobQueue
from mailgate.relay.schedule import expiry, late_at

__all__ = ["end", "look_over"]

#: Seconds that it may wait in a queue all the same: the last attempt is due when its time is over.
_GRACE = 300.0


def look_over(queue: JobQueue, late: Callable[[Job, RetrySection, str], None]) -> None:
    """End what waits in a queue beyond its time, and tell `late` of what is: the job, its schedule, why it waits."""
    if not queue.line.count or queue.is_paused:
        return
    now, retry = queue.clock.seconds(), queue.retry
    why = queue.hindrance() or f"others come before it at {queue.title}"

    def is_over(job: Job) -> bool:
        return now >= max(expiry(retry, job.lease), job.started + _GRACE)

    for job in queue.take_where(is_over):
        end(job, why, now)
        queue.owner.finished(job, retry)
    for job in queue.line:
        if now >= late_at(retry, job.lease):
            late(job, retry, why)
    queue.pump()


def end(job: Job, why: str, now: float) -> None:
    """Give up a job that has not begun, because its time is over."""
    job.started, job.remaining, job.is_untried = job.started or now, job.recipients, True
    job.settle(OutcomeKind.FAILED, TOO_LATE, "", f"its time was over before it could be attempted: {why}")
