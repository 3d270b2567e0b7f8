"""From a connection to a session with a next hop (RFC 5321 section 3.1): the banner, TLS, a login; what comes and goes
over it, and its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.envelope import Tls
from mailgate.relay.attempt import ConnectFailedError, IConnection, Target
from mailgate.relay.client.carriage import Hop
from mailgate.relay.client.deadline import Deadline
from mailgate.relay.client.handshake import failure_in, look_at, proved_domain, told_for_people, why_lost
from mailgate.relay.client.opening import Action, Opening
from mailgate.relay.client.seams import IOutlet, Timeouts, Work
from mailgate.relay.findings import PROTOCOL_ERROR
from mailgate.reply import Reply
from mailgate.sockets import write_now
from mailgate.tls.check import outcome_of
from mailgate.tls.failures import TlsFailure
from mailgate.tls.pem import TlsError
from mailgate.wire.extensions import NO_EXTENSIONS, Extensions
from mailgate.wire.replies import ReplyReader
from mailgate.wire.sasl_text import SaslError

__all__ = ["LOST", "ClientSession"]

#: Seconds for QUIT to leave before the connection is dropped.
_QUIT_TIMEOUT = 5.0

LOST = Reply.of(451, "4.4.2", "The connection to the next hop was lost")
_TIMED_OUT = Reply.of(451, "4.4.2", "The next hop did not answer in time")


@implementer(IHandshakeListener)
class ClientSession(Protocol):
    """It fires `ready` with itself when `opening` has come to its end, or with ConnectFailedError.

    `creator` makes the client's side of a handshake (TlsError where it cannot), and `work` does in another thread what
    would hold up this one. `chunking` and `xforward` as in ServerRoute. What the server says before it was asked, or
    what is no reply, closes the session.

    What is said over an open session is its heirs': they tell how many replies are `_owed`, are given those that have
    `_received` come, and what they do is `_broken_off`.
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
        self.extensions: Extensions = NO_EXTENSIONS
        self.tls: Tls | None = None
        self.is_authenticated = False
        self.is_fallback = is_fallback
        self.security = ""
        self.tls_failure: TlsFailure = ""
        self.is_for_domain = False
        self._peer = str(target)
        self._opening: Opening | None = opening  # None once the session is open
        self._timeouts = timeouts
        self._clock = clock
        self._ready: Deferred[IConnection] | None = ready
        self._creator = creator
        self._work = work
        self._hop = Hop(target, NO_EXTENSIONS, chunking=chunking, xforward=xforward, is_fallback=is_fallback)
        self._reader = ReplyReader()
        self._closed = False
        self._deadline = Deadline(clock, self._too_late)

    @property
    def max_size(self) -> int:
        """The largest message that the server takes, 0 where it names no limit."""
        return self.extensions.max_size

    @property
    def tls_is_verified(self) -> bool:
        """Whether this is TLS with a server that has proved who it is."""
        return self.tls is not None and self.tls.is_verified

    # -- What is said once it is open

    def _owed(self) -> int | None:
        """How many replies the server owes to what is under way; None where nothing is."""
        raise NotImplementedError

    def _received(self, replies: list[Reply], problem: str) -> None:
        """Replies that were owed have come; with a `problem` the session cannot go on."""
        raise NotImplementedError

    def _broken_off(self, reply: Reply, reason: str) -> None:
        """The connection is gone: end what is under way."""
        raise NotImplementedError

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
        replies = self._reader.feed(data)
        opening, under_way = self._opening, self._owed()
        owed = under_way if under_way is not None else int(opening is not None and opening.owes_reply)
        problem = ""
        if self._reader.fault is not None:
            problem = f"{self._peer} sent what is no reply: {self._reader.fault}"
        elif len(replies) > owed or (len(replies) == owed and not self._reader.is_empty):
            problem = f"{self._peer} sent more than it was asked for"
        del replies[owed:]
        if under_way is not None:
            self._received(replies, problem)
        elif problem:
            self._give_up(PROTOCOL_ERROR, problem, is_foul=True)
        elif replies and opening is not None:
            self._go_on(opening, opening.receive(replies[0]))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, whoever brought it about."""
        self._closed = True
        why = why_lost(reason)
        is_handshake = self._opening is not None and self._opening.stage == "tls"
        told = why if is_handshake else f"connection to {self._peer} lost: {why}"
        self._give_up(LOST, told, failure=failure_in(reason))
        self._deadline.stop()

    # -- The opening

    def _go_on(self, opening: Opening, action: Action) -> None:
        if action is Action.SEND:
            self._write(opening.output, self._timeouts.before_open)
        elif action is Action.OPEN:
            self._open(opening)
        elif action is Action.WAIT:
            self._arm(self._timeouts.before_open)
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
            ready.callback(cast(IConnection, self))  # as what its heirs are

    def _secure(self) -> None:
        self._arm(self._timeouts.connect)
        try:
            creator = self._creator(self.target)
        except TlsError as error:
            self._give_up(LOST, str(error))
            return
        self.transport.startTLS(creator)

    def handshakeCompleted(self) -> None:
        """See IHandshakeListener: go on under TLS."""
        opening = self._opening
        if opening is None:
            return
        handle = self.transport.getHandle()
        self.tls, bindings = look_at(handle)
        demand, check = self.target.demand, outcome_of(handle)
        self.security = told_for_people(self.tls, demand)
        self.tls_failure = check.failure
        self.is_for_domain = demand is not None and proved_domain(handle, demand)
        self._go_on(opening, opening.secured(self.tls, bindings, check))

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

    # -- The end, and time

    def _give_up(
        self, reply: Reply, reason: str, *, is_foul: bool = False, failure: TlsFailure = "validation-failure"
    ) -> None:
        """Drop the connection; whoever waits for it is told so."""
        opening, self._opening = self._opening, None
        self._abort()
        if self._owed() is not None:
            self._broken_off(reply, reason)
        elif opening is not None:
            self.connect_failed(opening.break_off(reply, reason, is_foul=is_foul, failure=failure))

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
