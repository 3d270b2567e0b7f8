"""A session with a next hop by SMTP or LMTP (RFC 5321, RFC 2033), for one message after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import ConnectFailedError, IConnection, Result, Target
from mailgate.relay.sending import ContentProducer, Payload, UnsendableError, prepare
from mailgate.relay.transaction import Step, Transaction, refusal
from mailgate.reply import Reply
from mailgate.sockets import write_now
from mailgate.wire.extensions import NO_EXTENSIONS, Extensions, parse_extensions
from mailgate.wire.replies import ReplyReader

__all__ = ["SmtpConnection", "Timeouts"]

#: Seconds for QUIT to leave before the connection is dropped.
_QUIT_TIMEOUT = 5.0

_LOST = Reply.of(451, "4.4.2", "The connection to the next hop was lost")
_TIMED_OUT = Reply.of(451, "4.4.2", "The next hop did not answer in time")
_PROTOCOL_ERROR = Reply.of(451, "4.5.0", "The next hop does not follow the protocol")


class _Transport(IConsumer, ITCPTransport):
    """What a stream's transport provides, TCP or unix."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: for the connection, for each reply and each chunk of content, for the reply to the end of data."""

    connect: float = 30.0
    command: float = 300.0
    data: float = 600.0


@implementer(IConnection)
class SmtpConnection(Protocol):
    """One session. It fires `ready` with itself after EHLO, HELO or LHLO, or with ConnectFailedError.

    Whatever the server does ends in results: what it says before it was asked, or what is no reply, closes the session.
    """

    transport: _Transport

    def __init__(
        self, target: Target, hostname: str, timeouts: Timeouts, clock: IReactorTime, ready: Deferred[IConnection]
    ) -> None:
        self.target = target
        self.messages = 0
        self.extensions: Extensions = NO_EXTENSIONS
        self._peer = str(target)
        self._hostname = hostname
        self._timeouts = timeouts
        self._clock = clock
        self._ready: Deferred[IConnection] | None = ready
        self._reader = ReplyReader()
        # The step of the greeting that takes the next reply; None once the session is open. TLS has its place here.
        self._greeting: Callable[[Reply], None] | None = self._on_banner
        self._transaction: Transaction | None = None
        self._payload: Payload | None = None
        self._seven_bit = False
        self._producer: ContentProducer | None = None
        self._done: Deferred[Sequence[Result]] | None = None
        self._needs_reset = False
        self._closed = False
        # One delayed call serves all timeouts: it fires at most once per period, and then looks at the deadline.
        self._deadline = math.inf
        self._watch: IDelayedCall | None = None

    # -- IConnection

    @property
    def is_usable(self) -> bool:
        """Whether the session is open and at rest."""
        return not self._closed and self._transaction is None and self._greeting is None

    def deliver(
        self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Deferred[Sequence[Result]]:
        """As in IConnection. Cancelling drops the connection."""
        if not self.is_usable:
            return succeed([Result(one, OutcomeKind.DEFERRED, _LOST, next_host=True, again=True) for one in recipients])
        extensions = self.extensions
        self._seven_bit = envelope.body == "8BITMIME" and not extensions.eight_bit
        try:
            payload = prepare(content, envelope.edits, seven_bit=self._seven_bit)
        except UnsendableError as error:
            return succeed(_for_all(recipients, error.reply, str(error)))
        refused = refusal(extensions, envelope, payload.size)
        if refused is not None:
            return succeed(_for_all(recipients, refused, f"{self._peer} was not asked"))
        transaction = Transaction(
            extensions,
            envelope,
            recipients,
            payload.size,
            peer=self._peer,
            lmtp=self.target.lmtp,
            reset=self._needs_reset,
            reused=self.messages > 0,
        )
        commands = transaction.start()
        if not commands:
            return succeed(transaction.results)
        self.messages += 1
        self._transaction = transaction
        self._payload = payload
        done: Deferred[Sequence[Result]] = Deferred(self._cancelled)
        self._done = done
        self._write(commands, self._timeouts.command)
        return done

    def close(self) -> None:
        """As in IConnection. The answer to QUIT is not waited for."""
        if self._closed:
            return
        if self._greeting is not None or self._transaction is not None:
            self._give_up(_LOST, "closed by us")
            return
        self._quit()

    # -- Twisted's Protocol

    def connectionMade(self) -> None:
        """Wait for the banner."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self._arm(self._timeouts.command)

    def dataReceived(self, data: bytes) -> None:
        """Take the replies of one chunk all at once."""
        if self._closed:
            return
        transaction = self._transaction
        replies = self._reader.feed(data)
        owed = transaction.owed if transaction is not None else int(self._greeting is not None)
        problem = ""
        if self._reader.fault is not None:
            problem = f"{self._peer} sent what is no reply: {self._reader.fault}"
        elif len(replies) > owed or (len(replies) == owed and not self._reader.is_empty):
            problem = f"{self._peer} sent more than it was asked for"
        del replies[owed:]
        if transaction is not None:
            self._in_transaction(transaction, replies, problem)
        elif problem:
            self._give_up(_PROTOCOL_ERROR, problem)
        elif replies and self._greeting is not None:
            self._greeting(replies[0])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, whoever brought it about."""
        self._closed = True
        self._give_up(_LOST, f"connection to {self._peer} lost: {reason.getErrorMessage()}")
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    # -- The greeting

    def _on_banner(self, reply: Reply) -> None:
        if not reply.is_positive:
            self._refused("greeting", reply)
        elif self.target.lmtp:
            self._hello("LHLO", self._on_ehlo)
        else:
            self._hello("EHLO", self._on_ehlo)

    def _on_ehlo(self, reply: Reply) -> None:
        if reply.is_positive:
            self._open(parse_extensions(reply))
        elif reply.is_permanent and not self.target.lmtp:
            self._hello("HELO", self._on_helo)
        else:
            self._refused("hello", reply)

    def _on_helo(self, reply: Reply) -> None:
        if reply.is_positive:
            self._open(NO_EXTENSIONS)
        else:
            self._refused("hello", reply)

    def _hello(self, verb: str, then: Callable[[Reply], None]) -> None:
        self._greeting = then
        self._write(f"{verb} {self._hostname}\r\n".encode("ascii"), self._timeouts.command)

    def _open(self, extensions: Extensions) -> None:
        self.extensions = extensions
        self._greeting = None
        self._deadline = math.inf
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback(self)

    def _refused(self, stage: str, reply: Reply) -> None:
        self._greeting = None
        self._quit()
        self.connect_failed(stage, _PROTOCOL_ERROR if reply.is_intermediate else reply, f"{stage} refused: {reply}")

    def connect_failed(self, stage: str, reply: Reply, reason: str) -> None:
        """There will be no session: tell whoever waits for it."""
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.errback(ConnectFailedError(self.target, reply, reason, stage=stage))

    def forget(self) -> None:
        """Nobody waits for the session any more."""
        self._ready = self._greeting = None
        self._closed = True

    # -- The transaction

    def _in_transaction(self, transaction: Transaction, replies: list[Reply], problem: str) -> None:
        step = Step.WAIT
        for reply in replies:
            step = transaction.receive(reply)
            if step is Step.DROP:
                break
        if step is Step.DROP or problem:
            # What came before the problem counts; content is not sent to a server that answers before it has it.
            if step not in (Step.DROP, Step.DONE):
                transaction.abandon(_PROTOCOL_ERROR, problem)
            self._finish(transaction, keep=False)
        elif step is Step.DONE:
            self._finish(transaction, keep=True)
        elif step is Step.CONTENT:
            self._send_content(transaction)
        elif step is Step.SEND:
            self._write(transaction.output, self._timeouts.command)
        elif step is Step.EMPTY:
            self._write(b".\r\n", self._timeouts.data)
        elif replies:
            self._arm(self._timeouts.data if transaction.end_sent else self._timeouts.command)

    def _send_content(self, transaction: Transaction) -> None:
        payload, self._payload = self._payload, None
        if payload is None:
            return
        if payload.chunks is None:
            transaction.end_sent = True
            self._write(payload.wire, self._timeouts.data)
            return
        self._arm(self._timeouts.command)
        self._producer = ContentProducer(
            self.transport,
            payload.chunks,
            seven_bit=self._seven_bit,
            sent=self._on_sent,
            failed=self._on_unsendable,
        )
        self.transport.registerProducer(self._producer, False)

    def _on_sent(self, at_end: bool) -> None:
        if self._transaction is not None and at_end:
            self._transaction.end_sent = True
            self._producer = None
        self._arm(self._timeouts.data if at_end else self._timeouts.command)

    def _on_unsendable(self, error: UnsendableError) -> None:
        if self._transaction is not None:
            self._transaction.abandon(error.reply, str(error), is_ours=True)
            self._finish(self._transaction, keep=False)

    def _finish(self, transaction: Transaction, *, keep: bool) -> None:
        done, self._done = self._done, None
        self._transaction = self._payload = None
        self._needs_reset = transaction.needs_reset
        self._deadline = math.inf
        if not keep:
            self._abort()
        if done is not None:
            done.callback(transaction.results)

    def _cancelled(self, _done: Deferred[Sequence[Result]]) -> None:
        self._done = None
        self._give_up(_LOST, "cancelled")

    # -- The end, and time

    def _give_up(self, reply: Reply, reason: str) -> None:
        """Drop the connection; whoever waits for it is told so."""
        greeting, self._greeting = self._greeting, None
        self._abort()
        if self._transaction is not None:
            self._transaction.abandon(reply, reason)
            self._finish(self._transaction, keep=False)
        elif greeting is not None:
            self.connect_failed("greeting", reply, reason)

    def _quit(self) -> None:
        self._write(b"QUIT\r\n", _QUIT_TIMEOUT)
        self._closed = True
        self.transport.loseConnection()

    def _abort(self) -> None:
        if self._producer is not None:
            self._producer.stopProducing()
            self._producer = None
        if not self._closed:
            self._closed = True
            self._deadline = math.inf
            self.transport.abortConnection()

    def _write(self, octets: bytes, timeout: float) -> None:
        write_now(self.transport, octets)
        self._arm(timeout)

    def _arm(self, seconds: float) -> None:
        self._deadline = self._clock.seconds() + seconds
        if self._watch is None:
            self._watch = self._clock.callLater(seconds, self._look_at_the_time)
        elif self._watch.getTime() > self._deadline:
            self._watch.reset(seconds)

    def _look_at_the_time(self) -> None:
        self._watch = None
        left = self._deadline - self._clock.seconds()
        if left > 0:
            if left < math.inf:
                self._watch = self._clock.callLater(left, self._look_at_the_time)
        elif self._closed:
            self.transport.abortConnection()
        else:
            self._give_up(_TIMED_OUT, f"{self._peer} did not answer in time")


def _for_all(recipients: Sequence[EnvelopeRecipient], reply: Reply, reason: str) -> list[Result]:
    kind = OutcomeKind.FAILED if reply.is_permanent else OutcomeKind.DEFERRED
    return [Result(recipient, kind, reply, reason=reason) for recipient in recipients]
