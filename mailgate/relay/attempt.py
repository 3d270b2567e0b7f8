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
    """How one recipient fared: delivered, deferred or failed, by whose answer.

    `reply` is the peer's, or ours in its form where it gave none. `next_host` tells a deferral after which
    another host may be asked at once (the connection broke before the content was out, a 4yz or 421 greeting)
    from one that says something about the mail itself, or that came with the fate of the content unknown.
    """

    recipient: EnvelopeRecipient
    kind: OutcomeKind
    reply: Reply
    host: str = ""
    next_host: bool = False
    reason: str = ""


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

    `reply` is the peer's answer or ours in its form. Always temporary for the mail, except that a 5yz greeting
    (`is_permanent`) means that this host will never take mail from us (RFC 5321 section 3.1).
    """

    def __init__(self, target: Target, reply: Reply, reason: str) -> None:
        super().__init__(f"{target}: {reason}")
        self.target = target
        self.reply = reply
        self.reason = reason

    @property
    def is_permanent(self) -> bool:
        """Whether the greeting itself was 5yz."""
        return self.reply.code // 100 == 5


class IConnection(Interface):
    """A session with a next hop that is past EHLO or LHLO, for one message after another."""

    target: Target = Attribute("whom it is connected to")
    is_usable: bool = Attribute("whether another message may be sent on it; False once it broke or was closed")
    messages: int = Attribute("messages sent on it so far")

    def deliver(
        envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Awaitable[Sequence[Result]]:
        """Send one message: one result for each recipient, in order. Nothing raises but CancelledError."""

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
