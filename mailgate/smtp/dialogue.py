"""The server's side of one SMTP or LMTP session (RFC 5321, RFC 2033), without a transport.

Command lines go in one by one, replies come out in that order. While an answer of the pipeline or the intake is
awaited, nothing more is taken; so no reply can overtake another, whatever the client pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

from mailgate.address import Address, AddressError
from mailgate.config.schema import Network
from mailgate.envelope import NO_ORIGIN, Client, Identity, Session, Tls
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.smtp.authentication import Authentication
from mailgate.smtp.conversation import Conversation
from mailgate.smtp.copies import command_of, greeting_of
from mailgate.smtp.host import Refusal
from mailgate.smtp.offers import NOTHING, commands_of
from mailgate.smtp.transaction import MailTransaction
from mailgate.verdict import Defer, Disconnect, Reject, Verdict
from mailgate.wire.commands import parse_command, parse_greeting
from mailgate.wire.fault import CommandError
from mailgate.wire.xclient import XClient, parse_xclient, parse_xforward

__all__ = ["Dialogue"]

#: Commands that exist and that this server does not do (RFC 5321 section 4.2.4).
_NOT_OURS = frozenset({"EXPN", "TURN", "ATRN", "SEND", "SOML", "SAML"})
#: First words of other protocols: a browser or a proxy that was made to talk to us.
_OTHER_PROTOCOLS = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "TRACE", "PATCH", "HOST"})
#: What the greetings call the protocol.
_PROTOCOLS = {"EHLO": "ESMTP", "HELO": "SMTP", "LHLO": "LMTP"}
_IN_THE_CLEAR = "the listener has tls = required, and this is clear text"


class Dialogue:
    """One session, as its transport drives it: `talk` is the conversation with the peer.

    `start_tls` begins a handshake on the transport; `secured` is called when it is done, and no line comes in between.
    `reconsider` counts the connection as another client's, and tells the refusal where that is one too many.
    """

    def __init__(
        self,
        talk: Conversation,
        start_tls: Callable[[], None],
        reconsider: Callable[[Client], Refusal | None],
    ) -> None:
        self.talk = talk
        self._transaction = MailTransaction(self.talk)
        self._auth: Authentication | None = None
        self._start_tls = start_tls
        self._reconsider = reconsider
        self.is_draining = False

    @property
    def session(self) -> Session:
        """What filters see of it."""
        return self.talk.session

    @property
    def is_busy(self) -> bool:
        """Whether an answer is awaited: no line and no content may be given now."""
        return self.talk.gate.is_closed

    @property
    def is_receiving(self) -> bool:
        """Whether content has begun, and its end has not come."""
        return self.talk.takes_content or self._transaction.is_receiving

    @property
    def is_over(self) -> bool:
        """Whether the last reply has been said."""
        return self.talk.is_over

    def open(self) -> None:
        """Judge the connection, then greet."""
        address = self.talk.session.client.address
        is_nameless = address is None or address.is_loopback or address.is_unspecified
        if self.talk.settings.resolve_clients and address is not None and not is_nameless:
            self.talk.gate.when(self.talk.services.client_name(address), self._named, lambda: self._named(""))
        else:
            self._judge_client()

    def refuse_connection(self, reply: Reply | None, reason: str) -> None:
        """Greet with a refusal, or None without a word: the connection is over a limit."""
        self.talk.teller.tell("connect", reply, reason)
        self.talk.end(reply, "refused")

    def command(self, line: bytes) -> None:
        """One command line, or one line of an AUTH exchange, its CRLF removed."""
        auth = self._auth
        if auth is not None and auth.is_under_way:
            if self.talk.may_command():
                auth.line(line)
            return
        try:
            verb, argument = parse_command(line)
        except CommandError as error:
            self._misread(line, error.reply)
        else:
            self._command(verb, argument)

    def _command(self, verb: str, argument: str, fault: Reply | None = None) -> None:
        try:
            if verb == "RCPT":
                self._transaction.rcpt(argument, fault)
            elif verb == "DATA":
                self._transaction.data(argument)
            elif verb == "BDAT":
                self._transaction.bdat(argument)
            elif verb == "QUIT":
                self._quit(argument)
            elif self.talk.may_command():
                if verb == "MAIL":
                    self._transaction.mail(argument, fault)
                else:
                    self._other(verb, argument)
        except CommandError as error:
            self.talk.mistake(error.reply)

    def line_too_long(self) -> None:
        """A line that is no command at all; no answer to AUTH either, which is then over (RFC 4954 section 4)."""
        if self._auth is not None and self._auth.is_under_way:
            self._auth.give_up()
            self.talk.mistake(replies.AUTH_LINE_TOO_LONG)
        else:
            # That of a copy is longer than any command for its address, whose place in the dialogue is known.
            self._misread(b"RCPT" if self._transaction.is_under_way else b"MAIL", replies.LINE_TOO_LONG)

    def _misread(self, line: bytes, fault: Reply) -> None:
        """A mistake; or something about a copy, whose fault is taken down."""
        said = command_of(line) if self.talk.settings.rehearse else None
        if said is None:
            self.talk.mistake(fault)
        else:
            self._command(said.verb, said.argument, fault)

    def content(self, data: bytes) -> bytes:
        """Content in any pieces; what is behind its end."""
        return self._transaction.content(data)

    def time_out(self) -> None:
        """The client has been silent for too long."""
        self._transaction.break_off(replies.TIME_OUT, "the client fell silent")
        self.talk.end(replies.TIME_OUT, "timeout")

    def drain(self) -> bool:
        """End the session where it is at rest, and tell whether it was; else ask again when its transaction is over."""
        self.is_draining = True
        is_at_rest = not self._transaction.is_under_way and not self.is_busy
        if is_at_rest:
            self.talk.end(replies.CLOSING, "shutdown")
        return is_at_rest

    def end(self, reply: Reply, cause: str) -> None:
        """Say a last reply and hang up."""
        self._transaction.break_off(reply, cause)
        self.talk.end(reply, cause)

    def cut(self) -> None:
        """End the session where it stands. What was handed to the intake goes its way all the same."""
        self.end(replies.CLOSING, "shutdown")
        self.talk.gate.end()

    def crash(self) -> None:
        """A bug of ours has struck: the peer may try again later."""
        self._transaction.abandon()
        self.talk.crash()

    def lost(self) -> None:
        """The connection is gone. What was handed to the intake goes its way all the same."""
        if self._transaction.is_receiving and not self.is_over:
            self._transaction.break_off(None, "the connection was lost within the content")
        self.talk.is_over = True
        self.talk.gate.end()
        self._transaction.abandon()

    # -- the connection and the greeting

    def _named(self, name: str) -> None:
        client = self.talk.session.client
        self.talk.session.client = Client(client.address, client.port, name)
        self._judge_client()

    def _judge_client(self) -> None:
        self.talk.ask(self.talk.pipeline.connect(self.talk.session), self._greet)

    def _greet(self, verdict: Verdict) -> None:
        if isinstance(verdict, Reject | Defer | Disconnect):
            # A greeting is 220, 421 or 554 (RFC 5321 section 4.3.2), and ends the session here where it is no 220.
            reply = verdict.reply
            reply = Reply(421 if reply.is_transient else 554, reply.status, reply.lines)
            self.talk.teller.tell("connect", reply, verdict.reason, trace=self.talk.session.trace)
            self.talk.end(reply, "refused")
        else:
            protocol = "LMTP" if self.talk.is_lmtp else "ESMTP"
            self.talk.say(f"220 {self.talk.services.hostname} {protocol} mailgate\r\n".encode())

    def _hello(self, verb: str, argument: str) -> None:
        protocol = _PROTOCOLS[verb]
        if (protocol == "LMTP") != self.talk.is_lmtp:
            raise CommandError(replies.SAY_LHLO if self.talk.is_lmtp else replies.SAY_EHLO)
        name = greeting_of(argument) if self.talk.settings.rehearse else parse_greeting(argument)
        self._transaction.forget()
        self.talk.session.helo = name
        self.talk.session.protocol = protocol
        self.talk.offer = NOTHING

        def answer(verdict: Verdict) -> None:
            if self.talk.objects("helo", verdict, self.talk.session.trace):
                self.talk.session.helo = ""
            elif protocol == "SMTP":
                self.talk.say(f"250 {self.talk.services.hostname}\r\n".encode())
            else:
                self.talk.update_protocol()
                self.talk.make_offer()
                self.talk.say(self.talk.offer.reply)

        self.talk.ask(self.talk.pipeline.helo(self.talk.session), answer)

    # -- the small commands

    def _other(self, verb: str, argument: str) -> None:
        match verb:
            case "EHLO" | "HELO" | "LHLO":
                self._hello(verb, argument)
            case "RSET":
                self._rset(argument)
            case "NOOP":
                self.talk.say(replies.OK)
            case "VRFY":
                self._vrfy(argument)
            case "HELP":
                verbs = commands_of(self.talk.possible_offer(), is_lmtp=self.talk.is_lmtp)
                self.talk.reply(Reply(214, "2.0.0", (" ".join(verbs),)))
            case "STARTTLS":
                self._starttls(argument)
            case "AUTH":
                self._authenticate(argument)
            case "XCLIENT":
                self._xclient(argument)
            case "XFORWARD":
                self._xforward(argument)
            case "ETRN":
                self._etrn(argument)
            case _ if verb in _OTHER_PROTOCOLS:
                self.talk.end(replies.NOT_SMTP, "errors")
            case _:
                raise CommandError(replies.NOT_IMPLEMENTED if verb in _NOT_OURS else replies.UNKNOWN)

    def _rset(self, argument: str) -> None:
        if argument:
            raise CommandError(replies.NO_ARGUMENT)
        self._transaction.forget()
        self.talk.say(replies.OK)

    def _vrfy(self, argument: str) -> None:
        if not argument:
            raise CommandError(replies.VERIFY_WHOM)
        self.talk.say(replies.CANNOT_VERIFY)

    def _quit(self, argument: str) -> None:
        if argument:
            raise CommandError(replies.NO_ARGUMENT)
        self.talk.end(replies.BYE, "quit")

    # -- TLS and AUTH

    def _starttls(self, argument: str) -> None:
        talk = self.talk
        if argument:
            raise CommandError(replies.NO_ARGUMENT)
        if talk.session.tls is not None:
            raise CommandError(replies.TLS_ALREADY)
        if "STARTTLS" not in talk.offer.keywords:
            raise CommandError(replies.NOT_IMPLEMENTED if talk.session.helo else replies.NO_GREETING)
        if talk.is_authenticated:
            raise CommandError(replies.TLS_TOO_LATE)
        if talk.has_more():
            # What came in clear text behind it was not said by whom the handshake will prove (RFC 3207 section 6).
            talk.end(replies.TLS_IMPATIENT, "errors")
            return
        self._transaction.forget()
        talk.reply(replies.TLS_GO_AHEAD)
        self._start_tls()

    def secured(self, tls: Tls) -> None:
        """The handshake is done."""
        self.talk.secured(tls)

    def _authenticate(self, argument: str) -> None:
        talk = self.talk
        if not talk.session.helo:
            raise CommandError(replies.NO_GREETING)
        if self._transaction.is_under_way:
            raise CommandError(replies.AUTH_NOT_NOW)
        self._secure_first("auth")
        if self._auth is None:
            self._auth = Authentication(talk)
        self._auth.command(argument)

    # -- who is in front of us

    def _xclient(self, argument: str) -> None:
        """Begin the session anew, from before the banner, as that of another client (Postfix's XCLIENT)."""
        talk = self.talk
        self._may_tell("xclient", talk.settings.xclient_from)
        told = parse_xclient(argument)
        self._transaction.forget()
        before = talk.session
        client = _client(told, before.client)
        refusal = self._reconsider(client)
        talk.begin(client)
        talk.session.tls = before.tls
        # Behind a message there is another client, whatever is told of it.
        talk.told = told = told if before.messages else talk.told.merge(told)
        talk.session.destination = (told.destination_address or None, told.destination_port or 0)
        talk.session.helo = told.helo or ""
        if told.login:
            talk.session.identity = Identity(told.login, "XCLIENT")
            talk.pipeline = talk.services.trusted_pipeline
        if told.protocol and not talk.is_lmtp:
            talk.session.protocol = told.protocol
        talk.update_protocol()
        self._auth = None
        if refusal is not None:
            self.refuse_connection(*refusal)
        elif told.name is None:
            self.open()
        else:
            self._judge_client()

    def _xforward(self, argument: str) -> None:
        """Take down where the next message came from (Postfix's XFORWARD)."""
        talk = self.talk
        self._may_tell("xforward", talk.settings.xforward_from)
        talk.forwarded = parse_xforward(argument).apply(talk.forwarded or NO_ORIGIN)
        talk.say(replies.OK)

    def _may_tell(self, stage: str, networks: Sequence[Network]) -> None:
        if not networks:
            raise CommandError(replies.NOT_IMPLEMENTED)
        if not self.talk.may(networks):
            raise self._refusal(stage, replies.NOT_TRUSTED, f"the client is in none of {stage}_from")
        self._secure_first(stage)
        if self._transaction.is_under_way:
            raise CommandError(replies.NOT_IN_TRANSACTION)

    def _secure_first(self, stage: str) -> None:
        if self.talk.needs_tls:
            raise self._refusal(stage, replies.TLS_FIRST, _IN_THE_CLEAR)

    def _refusal(self, stage: str, reply: Reply, reason: str) -> CommandError:
        """What to raise; the event has been told. There are as many as the session may make mistakes."""
        self.talk.teller.tell(stage, reply, reason)
        return CommandError(reply)

    def _etrn(self, argument: str) -> None:
        """Make what waits for a domain due now (RFC 1985), for those whom we relay for."""
        talk = self.talk
        if talk.services.offers.hides("ETRN"):
            raise CommandError(replies.NOT_IMPLEMENTED)
        self._secure_first("etrn")
        if not talk.session.helo:
            raise CommandError(replies.NO_GREETING)
        if argument.startswith("@"):  # RFC 1985: its subdomains, too
            raise CommandError(replies.ETRN_SUBDOMAINS)
        try:
            domain = Address.parse(f"x@{argument}").domain
        except AddressError:
            raise CommandError(replies.ETRN_WHOM) from None
        if self._transaction.is_under_way:
            raise CommandError(replies.NOT_IN_TRANSACTION)
        if not talk.may_relay:
            raise self._refusal("etrn", replies.ETRN_NOT_YOU, "the client may not relay")

        def answer(count: int) -> None:
            if count:
                talk.reply(Reply(253, "2.0.0", (f"OK, {count} pending messages for node {domain} started",)))
            else:
                talk.reply(replies.ETRN_NOTHING)

        talk.gate.when(talk.services.turn(domain), answer, lambda: talk.reply(replies.ETRN_FAILED))


def _client(told: XClient, before: Client) -> Client:
    """The client that XCLIENT tells of. One whose address is not available has none that anybody trusts."""
    address = before.address if told.address is None else told.address or IPv4Address(0)
    return Client(
        address,
        before.port if told.port is None else told.port,
        told.name or "" if told.name is not None or told.address is not None else before.name,
    )
