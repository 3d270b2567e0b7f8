"""What all parts of a session share: saying, refusing, asking the pipeline, hanging up."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import cast

from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime

from mailgate.address import Address
from mailgate.auth.portal import Authenticator
from mailgate.config.schema import ListenerSection, Network
from mailgate.envelope import Client, Identity, Origin, Session, Tls, TraceStep, Transaction, new_id
from mailgate.interfaces import ICounters, IEvents, IInline, IIntake, IPipeline, IRouting
from mailgate.message import MemoryBudget
from mailgate.observe.refusal import RefusalTeller
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.smtp.offers import NOTHING, Offer, Offers, State
from mailgate.smtp.vigil import Vigil
from mailgate.smtp.waiting import Gate
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict
from mailgate.wire.xclient import NOTHING_TOLD

__all__ = ["NO_VERDICT", "Conversation", "SessionServices"]

#: Stands in for a verdict that the pipeline failed to give.
NO_VERDICT = Defer(replies.LOCAL_ERROR, "the pipeline failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionServices:
    """What the sessions of one listener share. `trusted_pipeline` judges clients of its trusted networks.

    `client_name` finds the confirmed name of a client's address, "" for none. `incoming` is where content goes
    that passes `memory_limit` octets, or that the `budget` of all sessions has no room for. `authenticator` checks
    AUTH. `tls` makes the server's side of a handshake, and `fingerprints` names client certificates. `turn` makes what
    waits for a domain due now, and tells how many recipients that were. `secret` is the gateway's own, the same after a
    restart. `postmaster_domain` is where a `<postmaster>` without a domain lives (RFC 5321 section 4.5.1); `hostname`
    if not given. `inline` asks the next hops of routes that are not queued; None where there are none. `vigil` looks
    after the time that the peers have.
    """

    hostname: str
    clock: IReactorTime
    events: IEvents
    routing: IRouting
    intake: IIntake
    pipeline: IPipeline
    trusted_pipeline: IPipeline
    client_name: Callable[[IPv4Address | IPv6Address], str | Awaitable[str]]
    incoming: Path
    memory_limit: int
    budget: MemoryBudget
    offers: Offers
    counters: ICounters
    turn: Callable[[str], Awaitable[int]]
    secret: bytes = field(repr=False)
    authenticator: Authenticator | None = None
    tls: IOpenSSLServerConnectionCreator | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    postmaster_domain: str = ""
    inline: IInline | None = None
    vigil: Vigil = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vigil", Vigil(self.clock))


class Conversation:
    """One session with its peer. `say` gets each reply's octets; `hang_up` closes the connection after them and is told
    why in one word; `resume` is called when an answer that was awaited has been given, and the next line may come;
    `has_more` tells whether octets behind the line that was given last are here already; `bindings` gives the channel
    bindings of our TLS by their names (RFC 5056). `proxy` is the peer whose PROXY header has named the client.
    """

    __slots__ = (
        "_bindings",
        "_errors",
        "_hang_up",
        "_is_ours",
        "_is_peers",
        "_proxy",
        "commands",
        "forwarded",
        "gate",
        "has_more",
        "is_lmtp",
        "is_over",
        "offer",
        "peer",
        "pipeline",
        "say",
        "services",
        "session",
        "settings",
        "takes_content",
        "told",
    )

    def __init__(
        self,
        client: Client,
        settings: ListenerSection,
        services: SessionServices,
        *,
        say: Callable[[bytes], None],
        hang_up: Callable[[str], None],
        resume: Callable[[], None],
        has_more: Callable[[], bool],
        bindings: Callable[[], Mapping[str, bytes]] = dict,
        proxy: Client | None = None,
    ) -> None:
        self.settings = settings
        self.services = services
        self.say = say
        self._hang_up = hang_up
        self.has_more = has_more
        self.gate = Gate(resume, self.crash)
        self._errors = 0
        self.commands = 0  # since the last message
        self.is_over = False
        self.takes_content = False  # what comes next is content
        self.is_lmtp = settings.protocol == "lmtp"
        self._bindings = bindings
        self._is_ours = False  # TLS ends here, not at a proxy in front of us
        self._proxy = proxy
        self.told = NOTHING_TOLD  # what XCLIENT has told so far
        self.peer = client  # who is connected, or the client that its PROXY header names
        self.begin(client)

    def begin(self, client: Client) -> None:
        """A session with this client, from before the banner on."""
        self._is_peers = client is self.peer
        self.session = Session(
            id=new_id(),
            client=client,
            listener=self.settings.name,
            role=self.settings.role,
            hostname=self.services.hostname,
            protocol="LMTP" if self.is_lmtp else "SMTP",
            proxy=self._proxy if self._is_peers else self.peer,
        )
        self.offer = NOTHING
        self.forwarded: Origin | None = None  # what XFORWARD has told of the next message
        self._trust()

    def _trust(self) -> None:
        settings, address = self.settings, self.session.client.address
        self.pipeline = self.services.pipeline
        # A unix socket's permissions have said who may come. An address that XCLIENT cannot tell is nobody's.
        if settings.role != "inbound" and (
            address is None
            or (not address.is_unspecified and any(address in network for network in settings.trusted_networks))
        ):
            self.session.identity = Identity(str(address or "local"), "network")
            self.pipeline = self.services.trusted_pipeline

    @property
    def teller(self) -> RefusalTeller:
        """Tells of what this session is refused; most have nothing to tell."""
        return RefusalTeller(self.session, self.services.events, self.services.clock)

    @property
    def may_relay(self) -> bool:
        """Whether we know the client, on a listener where that counts: only then is it given more than a stranger."""
        return self.session.identity is not None and self.session.role != "inbound"

    @property
    def is_authenticated(self) -> bool:
        """Whether the client has proved by AUTH who it is."""
        identity = self.session.identity
        return identity is not None and identity.mechanism not in ("network", "certificate")

    def authenticated(self, identity: Identity) -> None:
        """From now on the client is this one."""
        self.session.identity = identity
        self.pipeline = self.services.trusted_pipeline
        self.update_protocol()
        if self.offer is not NOTHING:
            self.make_offer()

    def secured(self, tls: Tls) -> None:
        """The handshake is done: all that was said before is forgotten (RFC 3207 section 4.2)."""
        self._is_ours = True
        self.session.tls = tls
        self.session.helo = ""
        self.session.protocol = "LMTP" if self.is_lmtp else "SMTP"
        self.told = replace(self.told, helo=None, protocol=None)
        self.offer = NOTHING
        name = self.services.fingerprints.get(tls.fingerprint) if tls.fingerprint and self._is_peers else None
        if name is not None and self.session.role != "inbound" and self.session.identity is None:
            self.session.identity = Identity(name, "certificate")
            self.pipeline = self.services.trusted_pipeline

    def update_protocol(self) -> None:
        """Say anew what the Received field is to call this session (RFC 3848)."""
        session = self.session
        if session.protocol != "SMTP":
            suffix = ("S" if session.tls is not None else "") + ("A" if self.is_authenticated else "")
            session.protocol = ("LMTP" if self.is_lmtp else "ESMTP") + suffix

    def make_offer(self) -> None:
        """Take down what this session is offered now."""
        self.offer = self.possible_offer()

    def possible_offer(self) -> Offer:
        """What EHLO would offer now."""
        session, services = self.session, self.services
        can_bind = services.authenticator is not None and bool(self.channel_bindings())
        return services.offers.to(self._state(session.tls is not None, can_bind), services.clock.seconds())

    def _state(self, is_tls: bool, can_bind: bool) -> State:
        settings = self.settings
        return State(
            is_tls,
            can_bind,
            bool(is_tls and self.certificate_names()),
            self.may(settings.xclient_from),
            self.may(settings.xforward_from),
        )

    def may(self, networks: Sequence[Network]) -> bool:
        """Whether who is connected, whatever XCLIENT has said since, is in one of these networks."""
        address = self.peer.address
        return bool(networks) and address is not None and any(address in network for network in networks)

    @property
    def mechanisms_under_tls(self) -> frozenset[str]:
        """What AUTH would offer under TLS."""
        if self.services.tls is None:
            return frozenset()
        state = self._state(is_tls=True, can_bind=True)
        return self.services.offers.to(state, self.services.clock.seconds()).mechanisms

    def certificate_names(self) -> Sequence[str]:
        """Who the client's certificate says that it is: the name of its fingerprint, or those that a trusted authority
        vouches for. A client that XCLIENT has named has shown none: TLS is with who is connected."""
        return self._names_of_peer() if self._is_peers else ()

    def _names_of_peer(self) -> Sequence[str]:
        tls = self.session.tls
        if tls is None or not tls.fingerprint:
            return ()
        name = self.services.fingerprints.get(tls.fingerprint)
        if name is not None:
            return (name,)
        return tls.names if tls.is_verified else ()

    @property
    def needs_tls(self) -> bool:
        """Whether STARTTLS must come first."""
        return self.settings.tls == "required" and self.session.tls is None

    def lack(self) -> tuple[Reply, str] | None:
        """What this session owes before it may begin a message, with the private reason; None where nothing."""
        session, settings = self.session, self.settings
        if settings.rehearse:  # copies are nobody's mail, and are not to be returned
            in_clear = "the listener has tls = required, and a copy came in clear text"
            return (replies.COPY_IN_CLEAR, in_clear) if self.needs_tls else None
        if self.needs_tls:
            return replies.TLS_FIRST, "the listener has tls = required, and this is clear text"
        if settings.client_certificates == "require" and not self._names_of_peer():
            fingerprint = session.tls.fingerprint if session.tls is not None else ""
            known = f"the certificate {fingerprint} that the client has shown is not known" if fingerprint else ""
            return replies.CERTIFICATE_NEEDED, known or "the client has shown no certificate"
        if session.identity is None and session.role == "outbound" and settings.auth is not None:
            return replies.AUTH_FIRST, "the client has not logged in, and is in none of trusted_networks"
        return None

    def channel_bindings(self) -> Mapping[str, bytes]:
        """What binds an exchange of SCRAM to this TLS."""
        return self._bindings() if self._is_ours else {}

    def reply(self, reply: Reply) -> None:
        """Say a reply."""
        self.say(_octets(reply))

    def mistake(self, reply: Reply) -> None:
        """Refuse what the peer said, as one of the errors that a session may make."""
        self.reply(reply)
        self.count_error()

    def count_error(self) -> None:
        """One more error; the session ends with the last that it may make."""
        self._errors += 1
        if self._errors >= self.settings.max_errors:
            self.end(replies.TOO_MANY_ERRORS, "errors")

    def may_command(self) -> bool:
        """Count a command; whether it is not one too many since the last message. Otherwise the session ends."""
        self.commands += 1
        if self.commands > self.settings.max_commands:
            self.end(replies.TOO_MANY_COMMANDS, "errors")
        return not self.is_over

    def end(self, reply: Reply | None, cause: str) -> None:
        """Say a last reply and hang up."""
        if not self.is_over:
            self.is_over = True
            if reply is not None:
                self.reply(reply)
            self._hang_up(cause)

    def crash(self) -> None:
        """A bug of ours has struck: the peer may try again later."""
        self.end(replies.CRASHED, "crash")

    def ask(self, verdict: Verdict | Awaitable[Verdict], then: Callable[[Verdict], None]) -> None:
        """Go on with the pipeline's verdict, now or when it is there; with a Defer where the pipeline fails."""
        if type(verdict) is Continue:
            then(verdict)
        else:
            self.gate.when(verdict, cast("Callable[[object], None]", then), lambda: then(NO_VERDICT))

    def objects(
        self,
        stage: str,
        verdict: Verdict,
        trace: Sequence[TraceStep],
        transaction: Transaction | None = None,
        recipient: Address | None = None,
        user: str = "",
    ) -> bool:
        """Whether the verdict says no; the peer has then been told."""
        if type(verdict) is Continue:
            return False
        reply = self.objection(stage, verdict, trace, transaction, recipient, user)
        if reply is None:
            return False
        if isinstance(verdict, Disconnect):
            self.end(reply, "refused")
        else:
            self.mistake(reply)
        return True

    def objection(
        self,
        stage: str,
        verdict: Verdict,
        trace: Sequence[TraceStep],
        transaction: Transaction | None = None,
        recipient: Address | None = None,
        user: str = "",
    ) -> Reply | None:
        """The reply that is owed where the verdict says no; the event has then been told."""
        if not isinstance(verdict, Reject | Defer | Disconnect):
            return None
        about = None if recipient is None else [recipient]
        self.teller.tell(
            stage, verdict.reply, verdict.reason, trace=trace, transaction=transaction, recipients=about, user=user
        )
        return verdict.reply


@functools.lru_cache(maxsize=256)
def _octets(reply: Reply) -> bytes:
    # Most replies are one of a few.
    return reply.to_bytes()
