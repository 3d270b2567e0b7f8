"""The event that tells of an outcome."""

from __future__ import annotations

from mailgate.events import Bounced, Deferred, Delivered, Discarded, Event
from mailgate.interfaces import Outcome, OutcomeKind
from mailgate.relay.ready.jobs import Job

__all__ = ["event_of"]


def event_of(job: Job, outcome: Outcome, now: float, report: str, report_to: str = "") -> Event:
    """What has become of one recipient of a job.

    `report` is the queue id of what its sender is told of that, or ""; `report_to`: whom that goes to, if not to him.
    """
    envelope = job.lease.envelope
    queue_id, sender, recipient = envelope.queue_id, str(envelope.sender), str(outcome.recipient.address)
    if outcome.kind is OutcomeKind.DISCARDED:
        return Discarded(at=now, queue_id=queue_id, sender=sender, recipients=(recipient,), reason=outcome.reason)
    attempt = job.lease.attempts.get(outcome.recipient.number, 0) + (not job.is_untried)
    if outcome.kind is OutcomeKind.DELIVERED:
        return Delivered(
            at=now,
            queue_id=queue_id,
            sender=sender,
            recipient=recipient,
            route=job.route,
            host=outcome.host,
            reply=str(outcome.reply),
            attempt=attempt,
            seconds=now - job.started,
            site=outcome.site,
            source=outcome.source,
            delay=now - envelope.received,
            tls=outcome.tls,
        )
    if outcome.kind is OutcomeKind.DEFERRED:
        return Deferred(
            at=now,
            queue_id=queue_id,
            sender=sender,
            recipient=recipient,
            route=job.route,
            host=outcome.host,
            reply=str(outcome.reply),
            attempt=attempt,
            seconds=now - job.started,
            site=outcome.site,
            source=outcome.source,
            next_attempt=outcome.next_attempt,
            reason=outcome.reason,
            category=outcome.category,
        )
    return Bounced(
        at=now,
        queue_id=queue_id,
        sender=sender,
        recipient=recipient,
        route=job.route,
        host=outcome.host,
        reply=str(outcome.reply),
        attempt=attempt,
        seconds=now - job.started,
        site=outcome.site,
        source=outcome.source,
        reason=outcome.reason,
        report=report,
        report_to=report_to,
        category=outcome.category,
    )
