"""How many recipients a next hop may be asked about at one time."""

from __future__ import annotations

from mailgate.envelope import EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import Result
from mailgate.relay.client.transaction import OVER_LIMIT
from mailgate.relay.ready.job import Job
from mailgate.relay.ready.jobs import MOST_RECIPIENTS
from mailgate.wire.extensions import Limits

__all__ = ["Count", "is_full", "one_too_many"]


class Count:
    """Those of one transaction, by what the host has said that it takes (RFC 9422)."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._asked = 0
        self._domains: set[str] = set()

    def add(self, recipient: EnvelopeRecipient) -> bool:
        """Count one more; False where it is one too many."""
        limits, domain = self._limits, recipient.address.domain
        if 0 < limits.recipients <= self._asked:
            return False
        if 0 < limits.domains <= len(self._domains) and domain not in self._domains:
            return False
        self._asked += 1
        self._domains.add(domain)
        return True


def is_full(job: Job, accepted: int) -> bool:
    """Whether so many are as many as one message for this destination may have."""
    return accepted >= (MOST_RECIPIENTS if job.queue is None else job.queue.most_recipients)


def one_too_many(job: Job, recipient: EnvelopeRecipient) -> Result:
    """What becomes of one more."""
    reason = f"{job.site} takes no more recipients in one transaction"
    return Result(recipient, OutcomeKind.DEFERRED, OVER_LIMIT, job.site, again=True, reason=reason)
