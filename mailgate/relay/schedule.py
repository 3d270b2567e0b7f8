"""When to try again (RFC 5321 section 4.5.4.1): functions of their arguments. Times are seconds since the epoch."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from mailgate.config.schema import RetrySection
from mailgate.envelope import Envelope
from mailgate.interfaces import Lease

__all__ = ["HostState", "expiry", "is_too_late", "late_at", "next_attempt"]

#: Waits vary by this share, so that what failed together does not come back together.
_JITTER = 0.1
#: No wait is shorter, whatever the configuration says.
_SHORTEST = 1.0
#: Seconds before a deadline at which a last attempt is worth while.
_IN_TIME = 30.0
#: A host that cannot be reached: the first wait and the longest.
_HOST_FIRST, _HOST_LONGEST = 15.0, 600.0


def expiry(retry: RetrySection, lease: Lease) -> float:
    """When a message is tried no more: it is old, or its sender wants it back by then (RFC 2852)."""
    parameters = lease.envelope.parameters
    expired = _begin(lease) + retry.expire
    return min(expired, parameters.deliver_by) if parameters.by_mode == "R" else expired


def is_too_late(envelope: Envelope, now: float) -> bool:
    """Whether the sender wants the message back, rather than have it delivered now."""
    parameters = envelope.parameters
    return parameters.by_mode == "R" and now >= parameters.deliver_by


def late_at(retry: RetrySection, lease: Lease) -> float:
    """When the sender is told that a message is late: at the time that it has set for that, or as we are configured."""
    parameters = lease.envelope.parameters
    if parameters.by_mode == "N":
        return parameters.deliver_by
    return _begin(lease) + (retry.warn or math.inf)


def next_attempt(
    retry: RetrySection, attempts: int, expiry: float, now: float, random: random.Random, *, deadline: float = 0.0
) -> float | None:
    """When the next attempt is due, after `attempts` (the one that has just failed included); None: expired.

    The last attempt is at the moment of expiry, never behind it. One is at the deadline, if that is to come, and one
    shortly before, in which the message may still be delivered in time.
    """
    if now >= expiry:
        return None
    due = min(now + _wait(attempts, retry.first, retry.factor, retry.longest, random), expiry)
    if deadline > now:
        due = min(due, deadline - _IN_TIME if deadline - _IN_TIME >= now + _SHORTEST else deadline)
    return due


@dataclass(frozen=True, slots=True)
class HostState:
    """What is remembered of a host: failures to get a session in a row, and until when to leave it alone."""

    failures: int = 0
    not_before: float = 0.0

    def may_try(self, now: float) -> bool:
        """Whether a connection may be attempted."""
        return now >= self.not_before

    def after_failure(self, now: float, random: random.Random, longest: float = _HOST_LONGEST) -> HostState:
        """No session was had. A failure of an attempt that had begun before the last one ended counts once.

        `longest` is the longest wait of the retry schedule: whoever asks for quick retries gets them.
        """
        if not self.may_try(now):
            return self
        failures = self.failures + 1
        return HostState(failures, now + _wait(failures, _HOST_FIRST, 2.0, min(longest, _HOST_LONGEST), random))


def _begin(lease: Lease) -> float:
    """When delivery could begin: at the message's arrival, or at its release: the one that its sender has asked for
    (RFC 4865), or somebody's from quarantine."""
    received, asked = lease.envelope.received, lease.envelope.parameters.release_at
    return max(received, asked or received, lease.since or received)


def _wait(failures: int, first: float, factor: float, longest: float, random: random.Random) -> float:
    growth = min(max(failures - 1, 0) * math.log(factor), 500.0)  # a power that no float can hold is not taken
    wait = min(first * math.exp(growth), longest) * random.uniform(1 - _JITTER, 1 + _JITTER)
    return max(min(wait, longest), _SHORTEST)
