"""What happened, as facts: one frozen class each. The log line, the metric and the history are subscribers.

Every time is in seconds since the epoch (UTC), every duration in seconds. Text that a peer sent is kept as
it came and never used as a format string; whoever writes it out escapes it.
"""

from __future__ import annotations

from msgspec import Struct

from mailgate.envelope import TraceStep

__all__ = [
    "Bounced",
    "BreakerChanged",
    "ConfigRefused",
    "ConfigReloaded",
    "Deferred",
    "Delivered",
    "Discarded",
    "DmarcEvaluated",
    "EntrySetAside",
    "Event",
    "FilterFailed",
    "MessageAccepted",
    "OperatorActed",
    "Quarantined",
    "RecipientsChanged",
    "Refused",
    "Reported",
    "SessionClosed",
    "SiteSlowed",
    "SpoolFailed",
    "SpoolRecovered",
    "Started",
    "Stopped",
    "Stopping",
    "SuspensionChanged",
    "WorkerEnded",
]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened at a moment."""

    at: float


class SessionClosed(Event, frozen=True, kw_only=True):
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


class Refused(Event, frozen=True, kw_only=True):
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


class MessageAccepted(Event, frozen=True, kw_only=True):
    """A message is durable and the peer has been, or is about to be, told 250.

    `protocol` is how it came (RFC 3848), `identity` as whom, `tls` the version and cipher ("" in clear text), and
    `proxy` who told us of the client, where that was not the client itself. `asked` is what its sender asked for with
    the envelope, in words. `recipients` are those that the client named; `aliases` tells which stood for others.
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
    aliases: tuple[str, ...] = ()
    trace: tuple[TraceStep, ...] = ()


class _Attempt(Event, frozen=True, kw_only=True):
    """`site` is where it went, `source` the name of our own address ("" where the system chose one). `attempt` counts
    those that were made, this one too: 0 for mail that was given up before its first."""

    queue_id: str
    sender: str
    recipient: str
    route: str
    host: str
    reply: str
    attempt: int
    seconds: float
    site: str = ""
    source: str = ""


class Delivered(_Attempt, frozen=True, kw_only=True):
    """The next hop has taken the message for this recipient. `delay` counts from its arrival here.

    `tls` is how it travelled: "TLSv1.3 TLS_AES_256_GCM_SHA384 verified", or "" where in clear text.
    """

    delay: float
    tls: str = ""


class Deferred(_Attempt, frozen=True, kw_only=True):
    """An attempt failed for now; the next one is due at `next_attempt`. `reason` is the private cause, where known, and
    `category` what kind of failure it was ("greylisted")."""

    next_attempt: float
    reason: str = ""
    category: str = ""


class Bounced(_Attempt, frozen=True, kw_only=True):
    """Given up for this recipient. `report` is the queue id of the DSN, or "" where none is owed, and `report_to` whom
    that goes to, where not to the sender: a double bounce. `category` says what kind of failure it was
    ("no-such-user")."""

    reason: str
    report: str = ""
    report_to: str = ""
    category: str = ""


class Reported(Event, frozen=True, kw_only=True):
    """The sender is sent a report, whose queue id is `report`, that tells of these recipients; Bounced has its own.

    `kind` is what it says of them: "delayed", "relayed" or "delivered".
    """

    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    kind: str
    report: str


class Discarded(Event, frozen=True, kw_only=True):
    """Dropped by a policy, which `reason` names."""

    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    reason: str


class Quarantined(Event, frozen=True, kw_only=True):
    """Kept back from these recipients by a policy, which `reason` names."""

    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    reason: str


class OperatorActed(Event, frozen=True, kw_only=True):
    """An administrator changed the queue: `action` is hold, release, retry, bounce, reroute or delete.

    `detail` is the new route of a reroute, and what the administrator gave as the reason of a bounce.
    """

    action: str
    queue_id: str
    recipients: tuple[str, ...]
    detail: str = ""


class SuspensionChanged(Event, frozen=True, kw_only=True):
    """An administrator suspended deliveries, or resumed them. `kind` and `name` as in Suspension; `until` 0 where it is
    for good."""

    kind: str
    name: str
    is_suspended: bool
    until: float = 0.0
    reason: str = ""


class SiteSlowed(Event, frozen=True, kw_only=True):
    """A site is asked less, because of what it said, or more again. `factor` is what is left of its limits (1.0: all of
    them), `rests_until` 0 where it does not rest."""

    site: str
    source: str
    factor: float
    rests_until: float
    reason: str


class WorkerEnded(Event, frozen=True, kw_only=True):
    """One of several processes ended that should not have; another takes its place. `status` says how it ended."""

    worker: int
    status: str


class EntrySetAside(Event, frozen=True, kw_only=True):
    """The spool could not read an entry and has put it where `where` says; nothing was deleted."""

    queue_id: str
    where: str
    reason: str


class SpoolFailed(Event, frozen=True, kw_only=True):
    """The spool cannot write: nothing is accepted or delivered until SpoolRecovered."""

    error: str


class SpoolRecovered(Event, frozen=True, kw_only=True):
    """The spool writes again."""


class DmarcEvaluated(Event, frozen=True, kw_only=True):
    """DMARC was evaluated for a message whose author's domain publishes a policy: what aggregate reports are made of.

    `domain` is the one whose record was found, with its p, sp, np, adkim, aspf, t and rua; `envelope_to` are the
    domains of the recipients. `disposition` ("none", "quarantine" or "reject") is what was done, `override` why that is
    not what was asked ("local_policy", "mailing_list", "trusted_forwarder"; by the record itself "policy_test_mode" and
    "sampled_out"), `comment` in words. `dkim` holds domain, selector and result of each signature, `spf` domain, scope
    ("mfrom" or "helo") and result; `aligned` which of "dkim" and "spf" passed in alignment.
    """

    queue_id: str
    source: str
    domain: str
    policy: str
    subdomain_policy: str
    missing_policy: str
    header_from: str
    envelope_from: str
    envelope_to: tuple[str, ...]
    disposition: str
    result: str
    strict_dkim: bool = False
    strict_spf: bool = False
    is_testing: bool = False
    rua: tuple[str, ...] = ()
    override: str = ""
    comment: str = ""
    aligned: tuple[str, ...] = ()
    dkim: tuple[tuple[str, str, str], ...] = ()
    spf: tuple[str, str, str] = ("", "", "")


class FilterFailed(Event, frozen=True, kw_only=True):
    """A filter raised, or passed its deadline; `on_failure` says what was done instead of its verdict."""

    filter: str
    stage: str
    error: str
    on_failure: str
    session: str = ""
    queue_id: str = ""


class BreakerChanged(Event, frozen=True, kw_only=True):
    """A filter's circuit breaker opened (the filter is not asked for a while) or closed again."""

    filter: str
    is_open: bool


class RecipientsChanged(Event, frozen=True, kw_only=True):
    """Something has changed about what a `[recipients.NAME]`, or an `[aliases.NAME]` (as "aliases.NAME"), can tell.

    `state` is "unavailable" (it cannot be asked; `reason` is the private cause) and then "available"; "holding" (so
    many addresses would vanish at once that they stay) and "not holding"; "accepts all" (a server that is asked by
    callouts knows no recipients in that stage: all of the domain that `reason` names are known) and "not accepts all".
    """

    source: str
    state: str
    reason: str = ""


class ConfigReloaded(Event, frozen=True, kw_only=True):
    """New sessions use the configuration read from `path`; changes to `needs_restart` wait for the next start."""

    path: str
    needs_restart: tuple[str, ...] = ()


class ConfigRefused(Event, frozen=True, kw_only=True):
    """A reload was refused and the old configuration stays; `errors` holds a line each."""

    path: str
    errors: tuple[str, ...]


class Started(Event, frozen=True, kw_only=True):
    """The gateway accepts and delivers."""

    listeners: tuple[str, ...]


class Stopping(Event, frozen=True, kw_only=True):
    """The gateway has stopped accepting and drains."""


class Stopped(Event, frozen=True, kw_only=True):
    """Everything is closed."""
