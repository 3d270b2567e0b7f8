"""What happened, as facts: one frozen class each. The log line, the metric and the history are subscribers.

Every time is in seconds since the epoch (UTC), every duration in seconds. Text that a peer sent is kept as
it came and never used as a format string; whoever writes it out escapes it.
"""

from __future__ import annotations

from mailgate.events.base import Event
from mailgate.events.gateway import (
    BreakerChanged,
    ConfigRefused,
    ConfigReloaded,
    EntrySetAside,
    FilterFailed,
    RecipientsChanged,
    SiteSlowed,
    SpoolFailed,
    SpoolRecovered,
    Started,
    Stopped,
    Stopping,
    SuspensionChanged,
    WorkerEnded,
)
from mailgate.events.mail import (
    Bounced,
    Deferred,
    Delivered,
    Discarded,
    MessageAccepted,
    OperatorActed,
    Quarantined,
    QuarantineExpired,
    Refused,
    Reported,
    Rescanned,
    SessionClosed,
)
from mailgate.events.senders import (
    AccountSuspected,
    BouncedBack,
    Complained,
    DmarcEvaluated,
    LimitNear,
    Suppressed,
    Unsubscribed,
    WebhookChanged,
    WebhookDropped,
)

__all__ = [
    "AccountSuspected",
    "Bounced",
    "BouncedBack",
    "BreakerChanged",
    "Complained",
    "ConfigRefused",
    "ConfigReloaded",
    "Deferred",
    "Delivered",
    "Discarded",
    "DmarcEvaluated",
    "EntrySetAside",
    "Event",
    "FilterFailed",
    "LimitNear",
    "MessageAccepted",
    "OperatorActed",
    "QuarantineExpired",
    "Quarantined",
    "RecipientsChanged",
    "Refused",
    "Reported",
    "Rescanned",
    "SessionClosed",
    "SiteSlowed",
    "SpoolFailed",
    "SpoolRecovered",
    "Started",
    "Stopped",
    "Stopping",
    "Suppressed",
    "SuspensionChanged",
    "Unsubscribed",
    "WebhookChanged",
    "WebhookDropped",
    "WorkerEnded",
]
