"""The event that tells of an outcome."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from mailgate.events import Bounced, Deferred, Delivered, Discarded, Event
from mailgate.interfaces import Outcome, OutcomeKind
from mailgate.relay.ready.jobs import Job

__all__ = ["event_of"]

E = TypeVar("E", Delivered, Deferred, Bounced)


def event_of(job: Job, outcome: Outcome, now: float, report: str, report_to: str = "") -> Event:
    """What has become of one recipient of a job.

    `report` is the queue id of what its sender is told of that, or ""; `report_to`: whom that goes to, if not to him.
    """
    envelope, reason = job.lease.envelope, outcome.reason
    match outcome.kind:
        case OutcomeKind.DELIVERED:
            delivered = _attempted(Delivered, job, outcome, now)
            return delivered(delay=now - envelope.received, tls=outcome.tls)
        case OutcomeKind.DEFERRED:
            deferred = _attempted(Deferred, job, outcome, now)
            return deferred(next_attempt=outcome.next_attempt, reason=reason, category=outcome.category)
        case OutcomeKind.FAILED:
            bounced = _attempted(Bounced, job, outcome, now)
            identity = envelope.origin.login or envelope.origin.address
            return bounced(
                reason=reason, report=report, report_to=report_to, category=outcome.category, identity=identity
            )
    sender, recipient = str(envelope.sender), str(outcome.recipient.address)
    return Discarded(at=now, queue_id=envelope.queue_id, sender=sender, recipients=(recipient,), reason=reason)


def _attempted(kind: type[E], job: Job, outcome: Outcome, now: float) -> partial[E]:
    """What the events of all attempts tell; each has its own fields beside."""
    envelope = job.lease.envelope
    return partial(
        kind,
        at=now,
        queue_id=envelope.queue_id,
        sender=str(envelope.sender),
        recipient=str(outcome.recipient.address),
        route=job.route,
        host=outcome.host,
        reply=str(outcome.reply),
        attempt=job.lease.attempts.get(outcome.recipient.number, 0) + (not job.is_untried),
        seconds=now - job.started,
        site=outcome.site,
        source=outcome.source,
        stream=envelope.stream,
    )
