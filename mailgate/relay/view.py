"""What the relay's hands hold, for people."""

from __future__ import annotations

from mailgate.interfaces import SiteView
from mailgate.relay.ready.jobs import Job, JobQueue
from mailgate.relay.wording import in_line, seconds

__all__ = ["view", "where"]


def view(queue: JobQueue) -> SiteView:
    """How a ready queue stands."""
    state = queue.hindrance() or ("delivering" if queue.active else "idle")
    if (slowed := queue.slowed) and slowed not in state:
        state = f"{state}; {slowed}"
    return SiteView(
        site=queue.label,
        route=queue.route,
        source=queue.source,
        waiting=queue.line.count,
        active=queue.active,
        connections=queue.connections,
        most=queue.limit,
        backlog=queue.has_backlog,
        rests_until=queue.rests_until,
        state=state,
    )


def where(job: Job, now: float) -> str:
    """What a job waits for, or what happens to it."""
    queue = job.queue
    if queue is not None:
        if queue.has(job):
            return f"being delivered to {queue.title} since {seconds(now - job.started)}"
        ahead = queue.line.ahead(job) if queue.line.count else None
        if ahead is not None:
            place = in_line(ahead + 1, queue.line.count)
            text = f"{place} in line for {queue.title} ({queue.active} of {queue.limit} connections in use)"
            return f"{hindrance}; {text}" if (hindrance := queue.hindrance()) else text
    if job.results:
        return "what became of it is being written"
    return "is being given back to the spool" if job.site else "DNS, or a delivery filter, is asked about it"
