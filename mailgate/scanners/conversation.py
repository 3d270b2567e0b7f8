"""Questions to one server, one at a time on each connection: an answer is what comes until it is whole, or until the
other end closes. Connections that serve several questions are kept for a moment."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionClosed, ConnectionDone
from twisted.internet.interfaces import IConsumer, IDelayedCall, IReactorTime, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mailgate.message import Content
from mailgate.scanners.pool import ScannerError
from mailgate.scanners.sending import Pieces, Sending
from mailgate.sockets import has_unread, write_now

__all__ = ["IDLE", "Line", "Question", "is_small"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: Seconds for which a connection without a question is kept: servers wait longer for one (clamd: CommandReadTimeout).
IDLE = 3.0
#: Octets that Twisted takes before it asks a producer to pause.
_SMALL = 64 * 1024


class Question(typing.Protocol[T_co]):
    """What is asked, and how the answer is read; it does no I/O. `largest` bounds the answer, in octets.

    `ends_with_stream`: the other end is told that nothing follows, by closing our half of the connection. `is_small`:
    what is sent lies in memory and may be written at once. `keeps`: once the answer is whole, whether the connection
    may serve another question.
    """

    @property
    def largest(self) -> int: ...

    @property
    def ends_with_stream(self) -> bool: ...

    @property
    def is_small(self) -> bool: ...

    @property
    def keeps(self) -> bool: ...

    def pieces(self, number: int) -> Pieces:
        """What is sent, as the question of this number on its connection, the first being 1. May be called again, when
        all is asked anew over another connection."""

    def is_whole(self, answer: bytearray) -> bool:
        """Whether this is all of the answer, of which more has come; where it never is, the other end closes behind."""

    def read(self, answer: bytes, was_sent: bool) -> T_co:
        """What the whole answer says; ScannerError where it says nothing that can be believed.

        `was_sent` is False where the answer was over before the other end had everything.
        """


def is_small(content: Content) -> bool:
    """Whether content may be written at once."""
    return content.in_memory and content.size <= _SMALL


class Line:
    """The way to one server. `endpoint` makes what one connection is made with."""

    def __init__(self, endpoint: Callable[[], IStreamClientEndpoint], clock: IReactorTime) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._idle: list[tuple[float, _Connection]] = []  # the one that was used last stands last
        self._sweep: IDelayedCall | None = None
        self._factory = _Connections(self._forget)

    async def ask(self, question: Question[T]) -> T:
        """The answer; ScannerError where there is none, OSError where what is sent cannot be read.

        A kept connection that ends without an octet of an answer had been given up by the other end: then all is asked
        once more over a new one. The connection is closed where this fails or is cancelled.
        """
        while self._idle:
            since, kept = self._idle.pop()
            if self._clock.seconds() - since >= IDLE or has_unread(kept.transport):
                kept.close()  # what it says was said before the question, and is no answer to it
                continue
            try:
                return self._read(question, kept, await kept.hold(question))
            except _GoneError:
                break
        try:
            made = await self._endpoint().connect(self._factory)
        except (ConnectError, ConnectionClosed, OSError) as error:
            raise ScannerError(f"no connection: {error}") from None
        connection = cast(_Connection, made)
        return self._read(question, connection, await connection.hold(question))

    def _read(self, question: Question[T], connection: _Connection, answered: tuple[bytes, bool]) -> T:
        """What the answer says; the connection is kept where it may be."""
        try:
            result = question.read(*answered)
        except BaseException:
            connection.close()
            raise
        if connection.is_open:
            if question.keeps and answered[1]:
                self._keep(connection)
            else:
                connection.close()
        return result

    def _keep(self, connection: _Connection) -> None:
        self._idle.append((self._clock.seconds(), connection))
        if self._sweep is None:
            self._sweep = self._clock.callLater(IDLE, self._close_old)

    def _forget(self, connection: _Connection) -> None:
        """It has ended."""
        self._idle = [one for one in self._idle if one[1] is not connection]
        if not self._idle and self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _close_old(self) -> None:
        self._sweep = None
        now = self._clock.seconds()
        old = [kept for since, kept in self._idle if now - since >= IDLE]
        self._idle = [one for one in self._idle if now - one[0] < IDLE]
        if self._idle:
            self._sweep = self._clock.callLater(self._idle[0][0] + IDLE - now, self._close_old)
        for kept in old:
            kept.close()


class _GoneError(Exception):
    """A connection that had served before is no more, and has answered nothing this time."""


class _Connection(Protocol):
    transport: ITCPTransport

    def __init__(self, forget: Callable[[_Connection], None]) -> None:
        self.is_open = True
        self._forget = forget
        self._number = 0
        self._question: Question[object] | None = None
        self._answer: Deferred[tuple[bytes, bool]] | None = None
        self._octets = bytearray()
        self._sending: Sending | None = None
        self._was_sent = False
        self._end: Failure | None = None

    def hold(self, question: Question[object]) -> Deferred[tuple[bytes, bool]]:
        """Ask; what was answered, and whether everything had been sent by then. Cancelling closes the connection."""
        answer: Deferred[tuple[bytes, bool]] = Deferred(lambda _: self.close())
        self._number += 1
        self._answer, self._question = answer, question
        self._octets, self._was_sent = bytearray(), False
        if self._end is not None:
            self._ended(self._end)
            return answer
        pieces = question.pieces(self._number)
        if question.is_small:
            self._was_sent = True
            write_now(self.transport, b"".join(pieces))
            self._told_all()
        else:
            sending = self._sending = Sending(pieces)
            consumer = IConsumer(self.transport)
            consumer.registerProducer(sending, True)
            sending.startProducing(consumer).addCallbacks(self._sent, self._unread)
        return answer

    def close(self) -> None:
        """End it at once; no answer is awaited any more."""
        self._answer = None
        self._stop()
        if self.is_open:
            self.is_open = False
            self.transport.abortConnection()

    def connectionMade(self) -> None:
        """It serves."""
        no_delay = getattr(self.transport, "setTcpNoDelay", None)  # a unix socket has none
        if no_delay is not None:
            no_delay(True)

    def dataReceived(self, data: bytes) -> None:
        """Some of the answer."""
        question, octets = self._question, self._octets
        if self._answer is None or question is None:
            self.close()  # nobody has asked
            return
        octets += data
        if len(octets) > question.largest:
            self._fail(ScannerError(f"the answer has more than {question.largest} octets"))
        elif question.is_whole(octets):
            self._give(bytes(octets))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end of the answer."""
        self.is_open = False
        self._end = reason
        if self._answer is None:
            self._forget(self)
        else:
            self._ended(reason)

    def _ended(self, reason: Failure) -> None:
        if self._octets:
            self._give(bytes(self._octets))
        elif self._number > 1:
            self._fail(_GoneError())
        elif reason.check(ConnectionDone):
            self._give(b"")
        else:
            self._fail(ScannerError(f"the connection broke: {reason.getErrorMessage()}"))

    def _give(self, octets: bytes) -> None:
        answer, self._answer = self._answer, None
        if not self._was_sent:
            self._stop()
        if answer is not None:
            answer.callback((octets, self._was_sent))

    def _sent(self, _: None) -> None:
        IConsumer(self.transport).unregisterProducer()
        self._was_sent = True
        self._sending = None
        self._told_all()

    def _told_all(self) -> None:
        if self._question is not None and self._question.ends_with_stream and self.is_open:
            self.transport.loseWriteConnection()

    def _unread(self, failure: Failure) -> None:
        IConsumer(self.transport).unregisterProducer()
        self._fail(failure)

    def _fail(self, error: Failure | Exception) -> None:
        answer = self._answer
        self.close()
        if answer is not None:
            answer.errback(error)

    def _stop(self) -> None:
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.stopProducing()


class _Connections(Factory):
    noisy = False

    def __init__(self, forget: Callable[[_Connection], None]) -> None:
        self._forget = forget

    def buildProtocol(self, addr: object) -> _Connection:
        """One connection."""
        return _Connection(self._forget)
