"""The server's side of one SMTP or LMTP session (RFC 5321, RFC 2033), without a transport.

Command lines go in one by one, replies come out in that order. While an answer of the pipeline or the intake is
awaited, nothing more is taken; so no reply can overtake another, whatever the client pipelines.
"""

from __future__ import annotations

from collections.abc import Callable

from mailgate.config.schema import ListenerSection
from mailgate.envelope import Client, Session
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.smtp.conversation import Conversation, SessionServices
from mailgate.smtp.transaction import MailTransaction
from mailgate.verdict import Defer, Disconnect, Reject, Verdict
from mailgate.wire.commands import CommandError, parse_command, parse_greeting

__all__ = ["Dialogue"]

#: Commands that exist and that this server does not do (RFC 5321 section 4.2.4).
_NOT_OURS = frozenset({"EXPN", "TURN", "ETRN", "SEND", "SOML", "SAML", "STARTTLS", "AUTH", "XCLIENT", "XFORWARD"})
#: First words of other protocols: a browser or a proxy that was made to talk to us.
_OTHER_PROTOCOLS = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "TRACE", "PATCH", "HOST"})


class Dialogue:
    """One session, as its transport drives it; for `say`, `hang_up`, `resume` and `has_more` see Conversation."""

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
    ) -> None:
        self._talk = Conversation(
            client, settings, services, say=say, hang_up=hang_up, resume=resume, has_more=has_more
        )
        self._transaction = MailTransaction(self._talk)
        self.is_draining = False

    @property
    def session(self) -> Session:
        """What filters see of it."""
        return self._talk.session

    @property
    def is_busy(self) -> bool:
        """Whether an answer is awaited: no line and no content may be given now."""
        return self._talk.gate.is_closed

    @property
    def is_over(self) -> bool:
        """Whether the last reply has been said."""
        return self._talk.is_over

    @property
    def takes_content(self) -> bool:
        """Whether what comes next is content."""
        return self._transaction.takes_content

    def open(self) -> None:
        """Judge the connection, then greet."""
        address = self._talk.session.client.address
        if self._talk.settings.resolve_clients and address is not None and not address.is_loopback:
            self._talk.gate.when(self._talk.services.client_name(address), self._named, lambda: self._named(""))
        else:
            self._judge_client()

    def refuse_connection(self, reply: Reply, reason: str) -> None:
        """Greet with a refusal: the connection is over a limit."""
        self._talk.teller.tell("connect", reply, reason)
        self._talk.end(reply, "refused")

    def command(self, line: bytes) -> None:
        """One command line, its CRLF removed."""
        try:
            command = parse_command(line)
            verb, argument = command.verb, command.argument
            if verb == "RCPT":
                self._transaction.rcpt(argument)
            elif verb == "DATA":
                self._transaction.data(argument)
            elif verb == "QUIT":
                self._quit(argument)
            elif self._talk.may_command():
                if verb == "MAIL":
                    self._transaction.mail(argument)
                else:
                    self._other(verb, argument)
        except CommandError as error:
            self._talk.mistake(error.reply)

    def mistake(self, reply: Reply) -> None:
        """A line that is no command at all."""
        self._talk.mistake(reply)

    def content(self, data: bytes) -> bytes:
        """Content in any pieces; what is behind its end."""
        return self._transaction.content(data)

    def time_out(self) -> None:
        """The client has been silent for too long."""
        self._transaction.break_off(replies.TIME_OUT, "the client fell silent")
        self._talk.end(replies.TIME_OUT, "timeout")

    def drain(self) -> bool:
        """End the session where it is at rest, and tell whether it was; else ask again when its transaction is over."""
        self.is_draining = True
        is_at_rest = not self._transaction.is_under_way and not self.is_busy
        if is_at_rest:
            self._talk.end(replies.CLOSING, "shutdown")
        return is_at_rest

    def end(self, reply: Reply, cause: str) -> None:
        """Say a last reply and hang up."""
        self._transaction.break_off(reply, cause)
        self._talk.end(reply, cause)

    def crash(self) -> None:
        """A bug of ours has struck: the peer may try again later."""
        self._transaction.abandon()
        self._talk.crash()

    def lost(self) -> None:
        """The connection is gone. What was handed to the intake goes its way all the same."""
        if not self.is_over and self.takes_content:
            self._transaction.break_off(None, "the connection was lost within the content")
        self._talk.is_over = True
        self._talk.gate.end()
        self._transaction.abandon()

    # -- the connection and the greeting

    def _named(self, name: str) -> None:
        client = self._talk.session.client
        self._talk.session.client = Client(client.address, client.port, name)
        self._judge_client()

    def _judge_client(self) -> None:
        self._talk.ask(self._talk.pipeline.connect(self._talk.session), self._greet)

    def _greet(self, verdict: Verdict) -> None:
        if isinstance(verdict, Reject | Defer | Disconnect):
            # A greeting is 220, 421 or 554 (RFC 5321 section 4.3.2), and ends the session here where it is no 220.
            reply = verdict.reply
            reply = Reply(421 if reply.is_transient else 554, reply.status, reply.lines)
            self._talk.teller.tell("connect", reply, verdict.reason, trace=self._talk.session.trace)
            self._talk.end(reply, "refused")
        else:
            protocol = "LMTP" if self._talk.is_lmtp else "ESMTP"
            self._talk.say(f"220 {self._talk.services.hostname} {protocol} mailgate\r\n".encode())

    def _hello(self, verb: str, argument: str) -> None:
        protocol = {"EHLO": "ESMTP", "HELO": "SMTP", "LHLO": "LMTP"}[verb]
        if (protocol == "LMTP") != self._talk.is_lmtp:
            raise CommandError(replies.SAY_LHLO if self._talk.is_lmtp else replies.SAY_EHLO)
        name = parse_greeting(argument)
        self._transaction.forget()
        self._talk.session.helo = name
        self._talk.session.protocol = protocol

        def answer(verdict: Verdict) -> None:
            if self._talk.objects("helo", verdict, self._talk.session.trace):
                self._talk.session.helo = ""
            elif protocol == "SMTP":
                self._talk.say(f"250 {self._talk.services.hostname}\r\n".encode())
            else:
                self._talk.say(self._extensions())

        self._talk.ask(self._talk.pipeline.helo(self._talk.session), answer)

    def _extensions(self) -> bytes:
        size = f"SIZE {self._talk.settings.max_message_size}"
        lines = (self._talk.services.hostname, "PIPELINING", size, "8BITMIME", "ENHANCEDSTATUSCODES")
        return Reply(250, "", lines).to_bytes()

    # -- the small commands

    def _other(self, verb: str, argument: str) -> None:
        match verb:
            case "EHLO" | "HELO" | "LHLO":
                self._hello(verb, argument)
            case "RSET":
                self._rset(argument)
            case "NOOP":
                self._talk.say(replies.OK)
            case "VRFY":
                self._vrfy(argument)
            case "HELP":
                self._talk.say(replies.HELP_LMTP if self._talk.is_lmtp else replies.HELP)
            case "BDAT":
                # Its content comes unasked (RFC 3030 section 2), and must not be taken for commands.
                self._talk.end(replies.NOT_IMPLEMENTED, "errors")
            case _ if verb in _OTHER_PROTOCOLS:
                self._talk.end(replies.NOT_SMTP, "errors")
            case _:
                raise CommandError(replies.NOT_IMPLEMENTED if verb in _NOT_OURS else replies.UNKNOWN)

    def _rset(self, argument: str) -> None:
        if argument:
            raise CommandError(replies.NO_ARGUMENT)
        self._transaction.forget()
        self._talk.say(replies.OK)

    def _vrfy(self, argument: str) -> None:
        if not argument:
            raise CommandError(replies.VERIFY_WHOM)
        self._talk.say(replies.CANNOT_VERIFY)

    def _quit(self, argument: str) -> None:
        if argument:
            raise CommandError(replies.NO_ARGUMENT)
        self._talk.end(replies.BYE, "quit")
