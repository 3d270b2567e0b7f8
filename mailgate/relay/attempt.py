"""One attempt to deliver: what the relay asks of a transport, and what it gets back."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from zope.interface import Attribute, Interface

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content
from mailgate.reply import Reply

__all__ = ["ConnectFailedError", "IConnection", "IConnector", "ITransport", "Result", "Target"]


@dataclass(frozen=True, slots=True)
class Result:
    """How one recipient fared: delivered, deferred, failed or discarded, by whose answer.

    `reply` is the answer of `host` (a Target as text), or our own finding in its form where `host` is "". `next_host`
    tells a deferral after which another host may be asked at once (the connection broke before the content was out, a
    4yz or 421 greeting, a host that is full) from one that says something about the mail itself, or that came with the
    fate of the content unknown. `again` is set where this host has decided nothing and may be asked again at once,
    without counting an attempt: a reused connection turned out to be dead (ask on a new one), or the recipient is over
    the number that the host takes in one transaction (ask in another; this one accepted at least one recipient).
    """

    recipient: EnvelopeRecipient
    kind: OutcomeKind
    reply: Reply
    host: str = ""
    next_host: bool = False
    reason: str = ""
    again: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect: an address (IPv4, IPv6 or a unix socket's path) and the name it was found under."""

    host: str
    address: str
    port: int
    lmtp: bool = False

    def __str__(self) -> str:
        return f"{self.host}[{self.address}]:{self.port}" if self.port else self.address


class ConnectFailedError(Exception):
    """No session with this target: nobody answered, or the greeting or EHLO was refused.

    `reply` is the peer's answer or ours in its form; `stage` is "connect", "greeting" or "hello". Always temporary for
    the mail, except that a 5yz greeting (`is_permanent`) means that this host will never take mail from us (RFC 5321
    section 3.1). A 5yz to EHLO and HELO is about the name that we gave, which an administrator can mend.
    """

    def __init__(self, target: Target, reply: Reply, reason: str, *, stage: str = "greeting") -> None:
        super().__init__(f"{target}: {reason}")
        self.target = target
        self.reply = reply
        self.reason = reason
        self.stage = stage

    @property
    def is_permanent(self) -> bool:
        """Whether the greeting itself was 5yz."""
        return self.stage == "greeting" and self.reply.is_permanent


class IConnection(Interface):
    """A session with a next hop that is past EHLO or LHLO, for one message after another."""

    target: Target = Attribute("whom it is connected to")
    is_usable: bool = Attribute("whether another message may be sent on it now: not broken, not closed, none under way")
    messages: int = Attribute("messages sent on it so far")

    def deliver(
        envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Awaitable[Sequence[Result]]:
        """Send one message: one result for each recipient, in order. Nothing raises but CancelledError.

        When the results are there the connection is at rest, or not usable. Cancelling drops it.
        """

    def close() -> None:
        """QUIT if the session is at rest, else drop the connection. Safe to call twice."""


class IConnector(Interface):
    """Opens connections."""

    def connect(target: Target) -> Awaitable[IConnection]:
        """A connection past EHLO or LHLO; ConnectFailedError, only, where there is none."""


class ITransport(Interface):
    """A way of delivering that needs no connections: maildir, discard."""

    def deliver(
        envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Awaitable[Sequence[Result]]:
        """One result for each recipient, in order. Nothing raises but CancelledError."""
