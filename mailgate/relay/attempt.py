"""One attempt to deliver: what the relay asks of a transport, and what it gets back."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from msgspec import Struct
from zope.interface import Attribute, Interface

from mailgate.envelope import Envelope, EnvelopeRecipient, Origin, Tls
from mailgate.interfaces import AnsweredIn, Handover, OutcomeKind
from mailgate.message import Content
from mailgate.relay.security.demand import Demand
from mailgate.relay.sources import SYSTEM, Source
from mailgate.reply import Reply
from mailgate.tls.failures import TlsFailure

__all__ = ["ConnectFailedError", "IConnection", "IConnector", "ITransport", "Result", "Target"]


class Result(Struct, frozen=True):
    """How one recipient fared: delivered, deferred, failed or discarded, by whose answer.

    `reply` is the answer of `host` (a Target as text), or our own finding in its form where `host` is "". `next_host`
    tells a deferral after which another host may be asked at once (the connection broke before the content was out, a
    4yz or 421 greeting, a host that is full) from one that says something about the mail itself, or that came with the
    fate of the content unknown. A failure has it where the mail is for what this host does not offer, and another may:
    it counts when no host is left to ask. `again` is set where this host has decided nothing and may be asked again at
    once, without counting an attempt: a reused connection turned out to be dead, or full (ask on a new one), or the
    recipient is over the number that the host takes in one transaction (ask in another; this one has settled others).
    `handover` as in Outcome; `tls` is `security` of the connection. `is_shared`: the answer is to the content, and was
    one for all recipients of the transaction. `rest` is for how many seconds the host wants to be left alone, where it
    has said so in a way that no shaping rule need know. `answered_in` as in Outcome.
    """

    recipient: EnvelopeRecipient
    kind: OutcomeKind
    reply: Reply
    host: str = ""
    next_host: bool = False
    reason: str = ""
    again: bool = False
    handover: Handover = Handover.FINAL
    tls: str = ""
    is_shared: bool = False
    rest: float = 0.0
    answered_in: AnsweredIn = "smtp"


class Target(Struct, frozen=True):
    """Where to connect: an address (IPv4, IPv6 or a unix socket's path) and the name it was found under.

    `is_vouched_for`: the configuration names this host, or DNS does and DNSSEC vouches for that. Otherwise whoever can
    forge DNS can have named a host of his own, and a certificate for its name proves nothing. `demand` is what is asked
    of TLS with it beyond the route; None where nobody has looked for that.
    """

    host: str
    address: str
    port: int
    lmtp: bool = False
    is_vouched_for: bool = True
    demand: Demand | None = None

    def __str__(self) -> str:
        return f"{self.host}[{self.address}]:{self.port}" if self.port else self.address


class ConnectFailedError(Exception):
    """No session with this target: nobody answered, or it does not come up to what its route asks for.

    `reply` is the peer's answer, or ours in its form (`is_ours`); `stage` is "connect", "greeting", "hello", "tls",
    "auth" or "xclient". Always temporary for the mail, except that a 5yz greeting (`is_permanent`) means that this host
    will never take mail from us (RFC 5321 section 3.1). A 5yz at the other stages is about us, which an administrator
    can mend, or about the client that XCLIENT names. `in_clear`: TLS alone is to blame, and is not asked for: the host
    may be asked again in clear text. `tls_failure` is what was wrong with TLS, where anything was, in one word.
    """

    def __init__(
        self,
        target: Target,
        reply: Reply,
        reason: str,
        *,
        stage: str = "greeting",
        is_ours: bool = False,
        in_clear: bool = False,
        tls_failure: TlsFailure = "",
    ) -> None:
        super().__init__(f"{target}: {reason}")
        self.target = target
        self.reply = reply
        self.reason = reason
        self.stage = stage
        self.is_ours = is_ours or stage == "connect"
        self.in_clear = in_clear
        self.tls_failure: TlsFailure = tls_failure

    @property
    def is_permanent(self) -> bool:
        """Whether the greeting itself was 5yz."""
        return self.stage == "greeting" and self.reply.is_permanent


class IConnection(Interface):
    """A session with a next hop that is open, for one message after another."""

    target: Target = Attribute("whom it is connected to")
    is_usable: bool = Attribute("whether another message may be sent on it now: not broken, not closed, none under way")
    messages: int = Attribute("messages sent on it so far")
    max_size: int = Attribute("octets of the largest message that the peer takes; 0 where it names no limit (RFC 1870)")
    tls: Tls | None = Attribute("what the handshake came to; None in clear text")
    is_authenticated: bool = Attribute("whether we have logged in")
    is_fallback: bool = Attribute(
        "whether it is in clear text only because TLS has failed with this host, which an attacker can bring about: "
        "what it cannot take is put off, not refused"
    )
    tls_failure: TlsFailure = Attribute("what the peer's certificate lacks, though nobody insisted on it, in one word")
    is_for_domain: bool = Attribute("whether the peer has proved a name of the one domain only that it was opened for")
    security: str = Attribute(
        '`tls` for people: "TLSv1.3 TLS_AES_256_GCM_SHA384 verified", with "DANE" or "MTA-STS" before the last word '
        'where such a policy asked for that; or ""'
    )

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

    def connect(
        target: Target, origin: Origin | None = None, *, try_tls: bool = False, source: Source = SYSTEM
    ) -> Awaitable[IConnection]:
        """An open session; ConnectFailedError, only, where there is none.

        `origin` is that of the one message that it is for, where the route tells its next hops of clients. `try_tls`
        wants a handshake to be tried where the route has TLS, whatever came of it the last time. The connection goes
        out from the address that `source` has of the target's family; where it has none, there is none.
        """


class ITransport(Interface):
    """A way of delivering that needs no connections: maildir, discard."""

    def deliver(
        envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Awaitable[Sequence[Result]]:
        """One result for each recipient, in order. Nothing raises but CancelledError."""
