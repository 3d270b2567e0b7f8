"""What becomes of sessions and messages."""

from __future__ import annotations

from mailgate.envelope import TraceStep
from mailgate.events.base import Event

__all__ = [
    "Bounced",
    "Deferred",
    "Delivered",
    "Discarded",
    "Judged",
    "MessageAccepted",
    "OperatorActed",
    "QuarantineExpired",
    "Quarantined",
    "Refused",
    "Reported",
    "Rescanned",
    "SessionClosed",
]


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

    `queue_id` is "" before MAIL. `ident` is the message's id at the system in front of us, and `origin` the client that
    it came there from ("mx.example.net[192.0.2.1]"), with `origin_helo`, where that has told them. `reason` is the
    private cause, `reply` what the peer was told. `user` is the name that the client gave, where a login was refused.
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
    ident: str = ""
    origin: str = ""
    origin_helo: str = ""
    trace: tuple[TraceStep, ...] = ()


class MessageAccepted(Event, frozen=True, kw_only=True):
    """A message is durable and the peer has been, or is about to be, told 250.

    `protocol` is how it came (RFC 3848), `identity` as whom, `tls` the version and cipher ("" in clear text), and
    `proxy` who told us of the client, where that was not the client itself. `asked` is what its sender asked for with
    the envelope, in words. `recipients` are those that the client named; `aliases` tells which stood for others.
    `split_from` is the id of the message from which this one was split, as filters have changed it for some recipients
    only: the client was told that id, and the trace stands there. `stream` as in Envelope, `ident`, `origin` and
    `origin_helo` as in Refused.
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
    split_from: str = ""
    stream: str = ""
    ident: str = ""
    origin: str = ""
    origin_helo: str = ""
    trace: tuple[TraceStep, ...] = ()


class Judged(Event, frozen=True, kw_only=True):
    """A mail server that keeps a message has been told what becomes of it, and it is not refused.

    `queue_id` is our own id for it, `ident` the mail server's. `answer` is "continue", "quarantine" or "discard", for
    the `reason` given; `changes` tells in words what it has to change. `recipients` are all that it has named, `taken`
    those whose mail we have taken over. `is_early`: nobody has seen the content, which another way in may judge yet;
    `is_again`: more is known now of what was told of before. The other fields as in MessageAccepted.
    """

    queue_id: str
    ident: str
    session: str
    client: str
    listener: str
    helo: str
    sender: str
    recipients: tuple[str, ...]
    size: int
    answer: str
    reason: str = ""
    changes: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    message_id: str = ""
    protocol: str = ""
    identity: str = ""
    tls: str = ""
    is_early: bool = False
    is_again: bool = False
    trace: tuple[TraceStep, ...] = ()


class _Attempt(Event, frozen=True, kw_only=True):
    """`site` is where it went, `source` the name of our own address ("" where the system chose one). `attempt` counts
    those that were made, this one too: 0 for mail that was given up before its first. `stream` as in Envelope."""

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
    stream: str = ""


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
    ("no-such-user"). `identity` is as whom its client had logged in, or else the client's address."""

    reason: str
    report: str = ""
    report_to: str = ""
    category: str = ""
    identity: str = ""


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


class QuarantineExpired(Event, frozen=True, kw_only=True):
    """Deleted, after `seconds` in quarantine, where `reason` had brought it."""

    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    reason: str
    seconds: float


class Rescanned(Event, frozen=True, kw_only=True):
    """Content filters were asked again about a message that waits. `result` is what they say for these recipients:
    "pass", "objects", or "unknown" where the filter named could not tell; `reason` is private."""

    queue_id: str
    recipients: tuple[str, ...]
    result: str
    filter: str = ""
    reason: str = ""


class OperatorActed(Event, frozen=True, kw_only=True):
    """Somebody changed the queue: `action` is hold, release, retry, bounce, reroute, delete, or copy (to these
    recipients).

    `detail` is the new route of a reroute, what was given as the reason of a bounce, and how a release from quarantine,
    or a copy, was sent. `by` says who it was, "" for an administrator.
    """

    action: str
    queue_id: str
    recipients: tuple[str, ...]
    detail: str = ""
    by: str = ""
