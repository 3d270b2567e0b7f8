"""A session with a next hop by SMTP or LMTP (RFC 5321, RFC 2033), for one message after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient, Tls
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import ConnectFailedError, IConnection, Result, Target
from mailgate.relay.client.carriage import Carriage, Hop, carriage_of
from mailgate.relay.client.deadline import Deadline
from mailgate.relay.client.handshake import look_at, told_for_people, why_lost
from mailgate.relay.client.opening import Action, Opening
from mailgate.relay.client.probe import Probe
from mailgate.relay.client.seams import IOutlet, Timeouts, Work
from mailgate.relay.client.sending import ContentSender, Payload, UnsendableError, convert, prepare
from mailgate.relay.client.transaction import Step, Transaction, begin
from mailgate.relay.findings import PROTOCOL_ERROR
from mailgate.reply import Reply
from mailgate.sockets import write_now
from mailgate.tls.pem import TlsError
from mailgate.wire.extensions import NO_EXTENSIONS, Extensions
from mailgate.wire.replies import ReplyReader
from mailgate.wire.sasl_text import SaslError

__all__ = ["SmtpConnection"]

Recipients: TypeAlias = Sequence[EnvelopeRecipient]

#: Seconds for QUIT to leave before the connection is dropped.
_QUIT_TIMEOUT = 5.0

_LOST = Reply.of(451, "4.4.2", "The connection to the next hop was lost")
_TIMED_OUT = Reply.of(451, "4.4.2", "The next hop did not answer in time")


@implementer(IConnection, IHandshakeListener)
class SmtpConnection(Protocol):
    """One session. It fires `ready` with itself when `opening` has come to its end, or with ConnectFailedError.

    `creator` makes the client's side of a handshake (TlsError where it cannot), and `work` does in another thread what
    would hold up this one. `chunking` and `xforward` as in ServerRoute. Whatever the server does ends in results: what
    it says before it was asked, or what is no reply, closes the session.
    """

    transport: IOutlet

    def __init__(
        self,
        target: Target,
        opening: Opening,
        timeouts: Timeouts,
        clock: IReactorTime,
        ready: Deferred[IConnection],
        *,
        creator: Callable[[Target], IOpenSSLClientConnectionCreator],
        work: Work,
        chunking: bool = True,
        xforward: bool = False,
        is_fallback: bool = False,
    ) -> None:
        self.target = target
        self.messages = 0
        self.extensions: Extensions = NO_EXTENSIONS
        self.tls: Tls | None = None
        self.is_authenticated = False
        self.is_fallback = is_fallback
        self.security = ""
        self._peer = str(target)
        self._opening: Opening | None = opening  # None once the session is open
        self._timeouts = timeouts
        self._clock = clock
        self._ready: Deferred[IConnection] | None = ready
        self._creator = creator
        self._work = work
        self._hop = Hop(target, NO_EXTENSIONS, chunking=chunking, xforward=xforward, is_fallback=is_fallback)
        self._reader = ReplyReader()
        self._transaction: Transaction | None = None
        self._content = b""  # all of it as it goes over the wire, or a sender has it
        self._sender: ContentSender | None = None
        self._done: Deferred[Sequence[Result]] | None = None
        self._needs_reset = False
        self._domains: set[str] = set()
        self._is_spent = False  # the server will take no more messages in this session
        self._closed = False
        self._deadline = Deadline(clock, self._too_late)

    # -- IConnection

    @property
    def is_usable(self) -> bool:
        """Whether the session is open and at rest."""
        return not (self._closed or self._is_spent) and self._transaction is None and self._opening is None

    @property
    def tls_is_verified(self) -> bool:
        """Whether this is TLS with a server that has proved who it is."""
        return self.tls is not None and self.tls.is_verified

    def deliver(self, envelope: Envelope, recipients: Recipients, content: Content) -> Deferred[Sequence[Result]]:
        """As in IConnection. Cancelling drops the connection."""
        if not self.is_usable:
            return succeed([Result(one, OutcomeKind.DEFERRED, _LOST, next_host=True, again=True) for one in recipients])
        try:
            carriage = carriage_of(self._hop, envelope, content, self._clock.seconds)
            fit = carriage.fit
            if fit is not None:
                return self._begin_later(envelope, recipients, carriage, partial(convert, content, envelope.edits, fit))
            payload = prepare(content, envelope.edits, by_chunks=carriage.by_chunks)
            transaction = self._make(envelope, recipients, carriage, payload.size)
        except UnsendableError as error:
            return succeed(error.results(recipients, is_fallback=self.is_fallback))
        commands = transaction.start()
        if not commands:
            return succeed(transaction.results)
        done = self._done = Deferred(self._cancelled)
        self._begin(transaction, payload, commands)
        return done

    def probe(self, sender: Address, address: Address, *, through_data: bool) -> Deferred[Sequence[Result]]:
        """One result: whether the server would take mail for the address (see Probe). Nothing raises but
        CancelledError; cancelling drops the connection."""
        probe = Probe(self._hop, sender, address, through_data=through_data)
        commands = probe.start()
        if not commands:
            return succeed(probe.results)
        done = self._done = Deferred(self._cancelled)
        self.messages += 1
        self._transaction = probe
        self._write(commands, self._timeouts.command)
        return done

    def close(self) -> None:
        """As in IConnection. The answer to QUIT is not waited for."""
        if self._closed:
            return
        if self._opening is not None or self._transaction is not None:
            self._give_up(_LOST, "closed by us")
        else:
            self._quit()

    # -- Twisted's Protocol

    def connectionMade(self) -> None:
        """Begin, which mostly is to wait for the banner."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        opening = self._opening
        if opening is not None:
            header = opening.header()
            if header:
                self.transport.write(header)
            self._go_on(opening, opening.start())

    def dataReceived(self, data: bytes) -> None:
        """Take the replies of one chunk all at once."""
        if self._closed:
            return
        transaction = self._transaction
        replies = self._reader.feed(data)
        opening = self._opening
        owed = transaction.owed if transaction is not None else int(opening is not None and opening.owes_reply)
        problem = ""
        if self._reader.fault is not None:
            problem = f"{self._peer} sent what is no reply: {self._reader.fault}"
        elif len(replies) > owed or (len(replies) == owed and not self._reader.is_empty):
            problem = f"{self._peer} sent more than it was asked for"
        del replies[owed:]
        if transaction is not None:
            self._in_transaction(transaction, replies, problem)
        elif problem:
            self._give_up(PROTOCOL_ERROR, problem, is_foul=True)
        elif replies and opening is not None:
            self._go_on(opening, opening.receive(replies[0]))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, whoever brought it about."""
        self._closed = True
        why = why_lost(reason)
        is_handshake = self._opening is not None and self._opening.stage == "tls"
        self._give_up(_LOST, why if is_handshake else f"connection to {self._peer} lost: {why}")
        self._deadline.stop()

    # -- The opening

    def _go_on(self, opening: Opening, action: Action) -> None:
        if action is Action.SEND:
            self._write(opening.output, self._timeouts.command)
        elif action is Action.OPEN:
            self._open(opening)
        elif action is Action.WAIT:
            self._arm(self._timeouts.command)
        elif action is Action.SECURE:
            self._secure()
        elif action is Action.COMPUTE:
            self._compute(opening)
        elif opening.refusal is not None:
            self._opening = None
            if opening.at_rest:
                self._quit()
            else:
                self._abort()
            self.connect_failed(opening.refusal)

    def _open(self, opening: Opening) -> None:
        self.extensions = opening.extensions
        self.is_authenticated = opening.is_authenticated
        verified, known = self.tls_is_verified, self.is_authenticated
        self._hop = replace(self._hop, extensions=self.extensions, is_verified=verified, is_authenticated=known)
        self._opening = None
        self._deadline.clear()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback(self)

    def _secure(self) -> None:
        self._arm(self._timeouts.connect)
        try:
            creator = self._creator(self.target)
        except TlsError as error:
            self._give_up(_LOST, str(error))
            return
        self.transport.startTLS(creator)

    def handshakeCompleted(self) -> None:
        """See IHandshakeListener: go on under TLS."""
        opening = self._opening
        if opening is None:
            return
        self.tls, bindings = look_at(self.transport.getHandle())
        self.security = told_for_people(self.tls)
        self._go_on(opening, opening.secured(self.tls, bindings))

    def _compute(self, opening: Opening) -> None:
        self._arm(self._timeouts.command)

        def computed(response: bytes | SaslError) -> None:
            if self._opening is opening:
                self._go_on(opening, opening.computed(response))

        def failed(failure: Failure) -> None:
            # Its text might quote what was computed with.
            error = failure.value
            computed(error if isinstance(error, SaslError) else SaslError(f"{type(error).__name__} in computing it"))

        if opening.compute is not None:
            self._work(opening.compute).addCallbacks(computed, failed)

    def connect_failed(self, error: ConnectFailedError) -> None:
        """There will be no session: tell whoever waits for it."""
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.errback(error)

    def forget(self) -> None:
        """Nobody waits for the session any more."""
        self._ready = self._opening = None
        self._closed = True

    # -- The transaction

    def _make(self, envelope: Envelope, recipients: Recipients, carriage: Carriage, size: int) -> Transaction:
        reset, reused = self._needs_reset, self.messages > 0
        transaction = begin(
            self._hop, envelope, recipients, carriage, size, domains=self._domains, reset=reset, reused=reused
        )
        self._is_spent = transaction.is_full or 0 < self.extensions.limits.messages <= self.messages + 1
        return transaction

    def _begin(self, transaction: Transaction, payload: Payload, commands: bytes) -> None:
        self.messages += 1
        self._transaction = transaction
        self._content = payload.wire
        if not payload.wire:
            self._sender = ContentSender(self.transport, payload, self._sending, self._on_unsendable)
        self._write(commands, self._timeouts.command)

    def _begin_later(
        self, envelope: Envelope, recipients: Recipients, carriage: Carriage, make: Callable[[], Payload]
    ) -> Deferred[Sequence[Result]]:
        """Begin when the content is ready. Until then a transaction that has asked for nothing stands in: whatever
        becomes of the session meanwhile, there are results."""
        waiting = self._transaction = self._make(envelope, recipients, carriage, 0)
        done = self._done = Deferred(self._cancelled)

        def converted(payload: Payload) -> None:
            if self._transaction is not waiting:
                return
            transaction = self._make(envelope, recipients, carriage, payload.size)
            commands = transaction.start()
            if commands:
                self._begin(transaction, payload, commands)
            else:
                self._settle(transaction.results)

        def failed(failure: Failure) -> None:
            if self._transaction is not waiting:
                return
            error = failure.value
            if isinstance(error, UnsendableError):
                self._settle(error.results(recipients, is_fallback=self.is_fallback))
            else:
                self._transaction = self._done = None
                done.errback(failure)

        self._work(make).addCallback(converted).addErrback(failed)
        return done

    def _settle(self, results: Sequence[Result]) -> None:
        """These are the results, and nothing has been sent."""
        done, self._done = self._done, None
        self._transaction = None
        if done is not None:
            done.callback(results)

    def _in_transaction(self, transaction: Transaction, replies: list[Reply], problem: str) -> None:
        step = Step.WAIT
        for reply in replies:
            step = transaction.receive(reply)
            if step is Step.DROP:
                break
        if step is Step.DROP or problem:
            # What came before the problem counts; content is not sent to a server that answers before it has it.
            if step not in (Step.DROP, Step.DONE):
                transaction.abandon(PROTOCOL_ERROR, problem)
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
        if self._sender is not None:
            self._sender.go_on()
            return
        content, self._content = self._content, b""
        transaction.announce(is_last=True)
        self._write(content, self._timeouts.data)

    def _sending(self, at_end: bool) -> None:
        if self._transaction is not None:
            self._transaction.announce(is_last=at_end)
        self._arm(self._timeouts.data if at_end else self._timeouts.command)

    def _on_unsendable(self, error: UnsendableError) -> None:
        if self._transaction is not None:
            self._transaction.abandon(error.reply, str(error), is_ours=True)
            self._finish(self._transaction, keep=False)

    def _finish(self, transaction: Transaction, *, keep: bool) -> None:
        done, self._done = self._done, None
        sender, self._sender = self._sender, None
        self._transaction, self._content = None, b""
        self._needs_reset = transaction.needs_reset
        self._deadline.clear()
        if not keep:
            if sender is not None:
                sender.stopProducing()
            self._abort()
        if done is not None:
            done.callback(transaction.results)

    def _cancelled(self, _done: Deferred[Sequence[Result]]) -> None:
        self._done = None
        self._give_up(_LOST, "cancelled")

    # -- The end, and time

    def _give_up(self, reply: Reply, reason: str, *, is_foul: bool = False) -> None:
        """Drop the connection; whoever waits for it is told so."""
        opening, self._opening = self._opening, None
        self._abort()
        if self._transaction is not None:
            self._transaction.abandon(reply, reason)
            self._finish(self._transaction, keep=False)
        elif opening is not None:
            self.connect_failed(opening.break_off(reply, reason, is_foul=is_foul))

    def _quit(self) -> None:
        self._write(b"QUIT\r\n", _QUIT_TIMEOUT)
        self._closed = True
        self.transport.loseConnection()

    def _abort(self) -> None:
        if not self._closed:
            self._closed = True
            self._deadline.clear()
            self.transport.abortConnection()

    def _write(self, octets: bytes, timeout: float) -> None:
        write_now(self.transport, octets)
        self._arm(timeout)

    def _arm(self, seconds: float) -> None:
        self._deadline.set(seconds)

    def _too_late(self) -> None:
        if self._closed:
            self.transport.abortConnection()
        else:
            self._give_up(_TIMED_OUT, f"{self._peer} did not answer in time")
