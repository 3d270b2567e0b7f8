"""What happened, as facts: one frozen class each. The log line, the metric and the history are subscribers.

Every time is in seconds since the epoch (UTC), every duration in seconds. Text that a peer sent is kept as
it came and never used as a format string; whoever writes it out escapes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailgate.envelope import TraceStep

__all__ = [
    "Bounced",
    "BreakerChanged",
    "ConfigRefused",
    "ConfigReloaded",
    "Deferred",
    "Delivered",
    "Discarded",
    "EntrySetAside",
    "Event",
    "FilterFailed",
    "MessageAccepted",
    "OperatorActed",
    "Quarantined",
    "Refused",
    "Reported",
    "SessionClosed",
    "SpoolFailed",
    "SpoolRecovered",
    "Started",
    "Stopped",
    "Stopping",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened at a moment."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosed(Event):
    """A connection ended.

    `cause` says how: "quit", "lost", "timeout", "refused", "errors", "limits", "tls", "auth", "proxy",
    "shutdown", or "crash" (a bug of ours).
    """

    session: str
    client: str
    listener: str
    helo: str
    messages: int
    seconds: float
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """A peer was told no, at any stage from the connection on. `filter` is "" where the gateway itself refused.

    `queue_id` is "" before MAIL; `reason` is the private cause, `reply` what the peer was told. `user` is the name that
    the client gave, where a login was refused.
    """

    session: str
    client: str
    listener: str
    helo: str
    stage: str
    filter: str
    reason: str
    reply: str
    queue_id: str = ""
    sender: str = ""
    recipient: str = ""
    recipients: tuple[str, ...] = ()
    user: str = ""
    message_id: str = ""
    trace: tuple[TraceStep, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAccepted(Event):
    """A message is durable and the peer has been, or is about to be, told 250.

    `protocol` is how it came (RFC 3848), `identity` as whom, `tls` the version and cipher ("" in clear text), and
    `proxy` who told us of the client, where that was not the client itself. `asked` is what its sender asked for with
    the envelope, in words.
    """

    queue_id: str
    session: str
    client: str
    listener: str
    helo: str
    sender: str
    recipients: tuple[str, ...]
    size: int
    message_id: str = ""
    protocol: str = ""
    identity: str = ""
    tls: str = ""
    proxy: str = ""
    asked: tuple[str, ...] = ()
    trace: tuple[TraceStep, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt(Event):
    queue_id: str
    sender: str
    recipient: str
    route: str
    host: str
    reply: str
    attempt: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered(_Attempt):
    """The next hop has taken the message for this recipient. `delay` counts from its arrival here.

    `tls` is how it travelled: "TLSv1.3 TLS_AES_256_GCM_SHA384 verified", or "" where in clear text.
    """

    delay: float
    tls: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred(_Attempt):
    """An attempt failed for now; the next one is due at `next_attempt`. `reason` is the private cause, where known."""

    next_attempt: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounced(_Attempt):
    """Given up for this recipient. `report` is the queue id of the DSN, or "" where none is owed."""

    reason: str
    report: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported(Event):
    """The sender is sent a report, whose queue id is `report`, that tells of these recipients; Bounced has its own.

    `kind` is what it says of them: "delayed", "relayed" or "delivered".
    """

    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    kind: str
    report: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded(Event):
    """Dropped by a policy, which `reason` names."""

    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined(Event):
    """Kept back from these recipients by a policy, which `reason` names."""

    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorActed(Event):
    """An administrator changed the queue: `action` is hold, release, retry or delete."""

    action: str
    queue_id: str
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntrySetAside(Event):
    """The spool could not read an entry and has put it where `where` says; nothing was deleted."""

    queue_id: str
    where: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolFailed(Event):
    """The spool cannot write: nothing is accepted or delivered until SpoolRecovered."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolRecovered(Event):
    """The spool writes again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterFailed(Event):
    """A filter raised, or passed its deadline; `on_failure` says what was done instead of its verdict."""

    filter: str
    stage: str
    error: str
    on_failure: str
    session: str = ""
    queue_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChanged(Event):
    """A filter's circuit breaker opened (the filter is not asked for a while) or closed again."""

    filter: str
    is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReloaded(Event):
    """New sessions use the configuration read from `path`; changes to `needs_restart` wait for the next start."""

    path: str
    needs_restart: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRefused(Event):
    """A reload was refused and the old configuration stays; `errors` holds a line each."""

    path: str
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The gateway accepts and delivers."""

    listeners: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping(Event):
    """The gateway has stopped accepting and drains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Event):
    """Everything is closed."""
