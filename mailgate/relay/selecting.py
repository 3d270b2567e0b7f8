"""What an operator's selector may mean of what is in memory."""

from __future__ import annotations

from mailgate.interfaces import Selector
from mailgate.relay.ready.jobs import Job

__all__ = ["may_choose"]


def may_choose(selector: Selector, job: Job) -> bool:
    """Whether a selector may choose any recipient of a job, as far as can be told here: the spool knows."""
    envelope = job.lease.envelope
    if selector.queue_id not in ("", envelope.queue_id):
        return False
    if selector.sender and selector.sender.lower() != (str(envelope.sender).lower() or "<>"):
        return False
    return any(
        selector.recipient.lower() in ("", str(one.address).lower())
        and selector.domain.lower() in ("", one.address.domain)
        and selector.route in ("", one.route)
        for one in job.recipients
    )
