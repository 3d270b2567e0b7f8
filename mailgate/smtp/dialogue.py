"""The server's side of one SMTP or LMTP session (RFC 5321, RFC 2033), without a transport.

Command lines go in one by one, replies come out in that order. While an answer of the pipeline or the intake is
awaited, nothing more is taken; so no reply can overtake another, whatever the client pipelines.
"""

from __future__ import annotations

import functools

from mailgate.envelope import Client, Session
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.smtp.conversation import Conversation
from mailgate.smtp.transaction import MailTransaction
from mailgate.verdict import Defer, Disconnect, Reject, Verdict
from mailgate.wire.commands import CommandError, parse_command, parse_greeting

__all__ = ["Dialogue"]

#: Commands that exist and that this server does not do (RFC 5321 section 4.2.4).
_NOT_OURS = frozenset({"EXPN", "TURN", "ETRN", "SEND", "SOML", "SAML", "STARTTLS", "AUTH", "XCLIENT", "XFORWARD"})
#: First words of other protocols: a browser or a proxy that was made to talk to us.
_OTHER_PROTOCOLS = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "TRACE", "PATCH", "HOST"})


class Dialogue:
    """One session, as its transport drives it: `talk` is the conversation with the peer."""

    def __init__(self, talk: Conversation) -> None:
        self.talk = talk
        self._transaction = MailTransaction(self.talk)
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
    def is_over(self) -> bool:
        """Whether the last reply has been said."""
        return self.talk.is_over

    def open(self) -> None:
        """Judge the connection, then greet."""
        address = self.talk.session.client.address
        if self.talk.settings.resolve_clients and address is not None and not address.is_loopback:
            self.talk.gate.when(self.talk.services.client_name(address), self._named, lambda: self._named(""))
        else:
            self._judge_client()

    def refuse_connection(self, reply: Reply, reason: str) -> None:
        """Greet with a refusal: the connection is over a limit."""
        self.talk.teller.tell("connect", reply, reason)
        self.talk.end(reply, "refused")

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
            elif self.talk.may_command():
                if verb == "MAIL":
                    self._transaction.mail(argument)
                else:
                    self._other(verb, argument)
        except CommandError as error:
            self.talk.mistake(error.reply)

    def mistake(self, reply: Reply) -> None:
        """A line that is no command at all."""
        self.talk.mistake(reply)

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
        if self.talk.takes_content and not self.is_over:
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
        protocol = {"EHLO": "ESMTP", "HELO": "SMTP", "LHLO": "LMTP"}[verb]
        if (protocol == "LMTP") != self.talk.is_lmtp:
            raise CommandError(replies.SAY_LHLO if self.talk.is_lmtp else replies.SAY_EHLO)
        name = parse_greeting(argument)
        self._transaction.forget()
        self.talk.session.helo = name
        self.talk.session.protocol = protocol

        def answer(verdict: Verdict) -> None:
            if self.talk.objects("helo", verdict, self.talk.session.trace):
                self.talk.session.helo = ""
            elif protocol == "SMTP":
                self.talk.say(f"250 {self.talk.services.hostname}\r\n".encode())
            else:
                self.talk.say(_extensions(self.talk.services.hostname, self.talk.settings.max_message_size))

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
                self.talk.say(replies.HELP_LMTP if self.talk.is_lmtp else replies.HELP)
            case "BDAT":
                # Its content comes unasked (RFC 3030 section 2), and must not be taken for commands.
                self.talk.end(replies.NOT_IMPLEMENTED, "errors")
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


@functools.lru_cache(maxsize=64)
def _extensions(hostname: str, max_message_size: int) -> bytes:
    """What EHLO is answered. Nothing stands here that is not kept through the spool and the next hop."""
    lines = (hostname, "PIPELINING", f"SIZE {max_message_size}", "8BITMIME", "ENHANCEDSTATUSCODES")
    return Reply(250, "", lines).to_bytes()
