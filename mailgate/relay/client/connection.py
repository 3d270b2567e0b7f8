"""A session with a next hop by SMTP or LMTP (RFC 5321, RFC 2033), for one message after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content, HeaderEdit
from mailgate.mime.recode import Target as Fit
from mailgate.relay.attempt import IConnection, Result
from mailgate.relay.client.carriage import Carriage, Hop, carriage_of
from mailgate.relay.client.exchange import BrokenOffError, Exchange, Octets, Words
from mailgate.relay.client.opening import Opening
from mailgate.relay.client.probe import Probe
from mailgate.relay.client.sending import ContentSender, Payload, UnsendableError, convert, prepare
from mailgate.relay.client.session import LOST, ClientSession
from mailgate.relay.client.transaction import Step, Transaction, begin
from mailgate.relay.findings import PROTOCOL_ERROR
from mailgate.reply import Reply

__all__ = ["SmtpConnection"]

_log = Logger()

#: Seconds of rest after which nobody can be sure that the server, or a firewall between, still knows of the session.
_SURE = 1.0

Recipients: TypeAlias = Sequence[EnvelopeRecipient]


@implementer(IConnection)
class SmtpConnection(ClientSession):
    """One session; see ClientSession for its arguments. Whatever the server does ends in results."""

    messages = 0
    #: What was known of each recipient when the latest `deliver` was cancelled.
    left: Sequence[Result] = ()
    _rests_since = 0.0
    _transaction: Transaction | Exchange | None = None
    _content = b""  # all of it as it goes over the wire, or a sender has it
    _sender: ContentSender | None = None
    _done: Deferred[Sequence[Result]] | None = None
    _needs_reset = False
    _is_spent = False  # the server will take no more messages in this session

    def connectionMade(self) -> None:
        """Begin."""
        self._domains: set[str] = set()
        super().connectionMade()

    # -- IConnection

    @property
    def is_usable(self) -> bool:
        """Whether the session is open and at rest."""
        return not (self._closed or self._is_spent) and self._transaction is None and self._opening is None

    def deliver(self, envelope: Envelope, recipients: Recipients, content: Content) -> Deferred[Sequence[Result]]:
        """As in IConnection. Cancelling drops the connection."""
        if not self.is_usable:
            return succeed([Result(one, OutcomeKind.DEFERRED, LOST, next_host=True, again=True) for one in recipients])
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

    # -- Step by step

    @property
    def hop(self) -> Hop:
        """The session, as far as it matters to what is said."""
        return self._hop

    @property
    def is_closed(self) -> bool:
        """Whether the session is over."""
        return self._closed

    @property
    def needs_reset(self) -> bool:
        """Whether RSET must come before the next transaction."""
        return self._needs_reset

    def wake(self) -> Deferred[bool]:
        """Whether the server still answers, where the session has rested; where not, it is closed. Cancelling drops the
        connection."""
        if self._clock.seconds() - self._rests_since < _SURE:
            return succeed(True)
        words = Words(self._peer, [b"RSET\r\n"], pipelining=False)

        def answered(replies: list[Reply]) -> bool:
            if not replies[0].is_positive:
                self.close()
            return replies[0].is_positive

        def broken(failure: Failure) -> bool:
            failure.trap(BrokenOffError)
            _log.warn("an idle connection was dead, and is replaced: {error}", error=failure.getErrorMessage())
            return False

        asked = self._step(words, lambda: self._write(words.start(), self._timeouts.awake))
        return asked.addCallbacks(answered, broken)

    def begin(self) -> None:
        """One more message is under way, by `say` and `send`, until `deliver` may be called again."""
        self.messages += 1
        self._is_spent = 0 < self.extensions.limits.messages <= self.messages

    def say(self, words: Words) -> Deferred[list[Reply]]:
        """The replies to commands; BrokenOffError. Cancelling drops the connection."""
        return self._step(words, lambda: self._write(words.start(), self._timeouts.command))

    def send(self, payload: Payload, octets: Octets) -> Deferred[list[Reply]]:
        """The replies to content, which the server has asked for; BrokenOffError. Cancelling drops the connection."""

        def begin() -> None:
            self._content = payload.wire
            if not payload.wire:
                self._sender = ContentSender(self.transport, payload, self._sending, self._on_unsendable)
            self._send_content(octets)

        return self._step(octets, begin)

    def convert(self, content: Content, edits: Sequence[HeaderEdit], fit: Fit) -> Deferred[Payload]:
        """The content made fit for this server, in another thread; UnsendableError."""
        return self._work(partial(convert, content, edits, fit))

    def _step(self, exchange: Exchange, begin: Callable[[], None]) -> Deferred[list[Reply]]:
        if self._closed or self._transaction is not None or self._opening is not None:
            return fail(BrokenOffError(LOST, f"connection to {self._peer} lost: it was closed before"))
        done = self._done = Deferred(self._cancelled)
        self._transaction = exchange
        begin()
        return done.addCallback(lambda _: exchange.outcome())

    def close(self) -> None:
        """As in IConnection. The answer to QUIT is not waited for."""
        if self._closed:
            return
        if self._opening is not None or self._transaction is not None:
            self._give_up(LOST, "closed by us")
        else:
            self._quit()

    # -- What ClientSession asks

    def _open(self, opening: Opening) -> None:
        self._rests_since = self._clock.seconds()
        super()._open(opening)

    def _owed(self) -> int | None:
        return None if self._transaction is None else self._transaction.owed

    def _received(self, replies: list[Reply], problem: str) -> None:
        if self._transaction is not None:
            self._in_transaction(self._transaction, replies, problem)

    def _broken_off(self, reply: Reply, reason: str) -> None:
        if self._transaction is not None:
            self._transaction.abandon(reply, reason)
            self._finish(self._transaction, keep=False)

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

    def _in_transaction(self, transaction: Transaction | Exchange, replies: list[Reply], problem: str) -> None:
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

    def _send_content(self, transaction: Transaction | Exchange) -> None:
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

    def _finish(self, transaction: Transaction | Exchange, *, keep: bool) -> None:
        done, self._done = self._done, None
        sender, self._sender = self._sender, None
        self._transaction, self._content = None, b""
        self._needs_reset = transaction.needs_reset
        self._rests_since = self._clock.seconds()
        self._deadline.clear()
        if not keep:
            if sender is not None:
                sender.stopProducing()
            self._abort()
        if done is not None:
            done.callback(transaction.results)
        else:
            self.left = transaction.results

    def _cancelled(self, _done: Deferred[Sequence[Result]]) -> None:
        self._done = None
        self._give_up(LOST, "there was no time to wait any longer")
