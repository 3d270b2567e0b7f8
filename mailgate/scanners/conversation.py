"""One question over one connection: it is sent, and the answer is what comes until the other end closes."""

from __future__ import annotations

import typing
from typing import TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionClosed, ConnectionDone
from twisted.internet.interfaces import IConsumer, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mailgate.scanners.pool import ScannerError
from mailgate.scanners.sending import Pieces, Sending

__all__ = ["Question", "converse"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Question(typing.Protocol[T_co]):
    """What is asked, and how the answer is read; it does no I/O. `largest` bounds the answer, in octets.

    `ends_with_stream`: the other end is told that nothing follows, by closing our half of the connection.
    """

    @property
    def largest(self) -> int: ...

    @property
    def ends_with_stream(self) -> bool: ...

    def pieces(self) -> Pieces:
        """What is sent."""

    def read(self, answer: bytes, was_sent: bool) -> T_co:
        """What the whole answer says; ScannerError where it says nothing that can be believed.

        `was_sent` is False where the other end closed before it had everything.
        """


async def converse(endpoint: IStreamClientEndpoint, question: Question[T]) -> T:
    """The answer; ScannerError where there is none, OSError where what is sent cannot be read.

    The connection is closed in any case, when this is cancelled too.
    """
    factory: Factory = _Connections()
    try:
        protocol = cast(_Conversation, await endpoint.connect(factory))
    except (ConnectError, ConnectionClosed, OSError) as error:
        raise ScannerError(f"no connection: {error}") from None
    answer, was_sent = await protocol.hold(question.pieces(), question.largest, question.ends_with_stream)
    return question.read(answer, was_sent)


class _Conversation(Protocol):
    transport: ITCPTransport

    def __init__(self) -> None:
        self._answer: Deferred[tuple[bytes, bool]] = Deferred(lambda _: self._give_up())
        self._octets = bytearray()
        self._largest = 0
        self._ends_with_stream = False
        self._sending: Sending | None = None
        self._is_over = False
        self._end: Failure | None = None

    def hold(self, pieces: Pieces, largest: int, ends_with_stream: bool) -> Deferred[tuple[bytes, bool]]:
        """Send the pieces; what was answered, and whether everything had been sent when the other end closed."""
        self._largest = largest
        self._ends_with_stream = ends_with_stream
        sending = self._sending = Sending(pieces)
        if self._end is not None:
            self.connectionLost(self._end)
        else:
            consumer = IConsumer(self.transport)
            consumer.registerProducer(sending, True)
            sending.startProducing(consumer).addCallbacks(self._sent, self._unread)
        return self._answer

    def dataReceived(self, data: bytes) -> None:
        """Some of the answer."""
        if self._is_over:
            return
        self._octets += data
        if len(self._octets) > self._largest:
            self._fail(ScannerError(f"the answer has more than {self._largest} octets"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end of the answer."""
        self._end = reason
        if self._sending is None:
            return
        self._sending.stopProducing()
        if self._is_over:
            return
        self._is_over = True
        if not self._octets and not reason.check(ConnectionDone):
            self._answer.errback(ScannerError(f"the connection broke: {reason.getErrorMessage()}"))
        else:
            self._answer.callback((bytes(self._octets), self._sending.is_over))

    def _sent(self, _: None) -> None:
        IConsumer(self.transport).unregisterProducer()
        if self._ends_with_stream:
            self.transport.loseWriteConnection()

    def _unread(self, failure: Failure) -> None:
        IConsumer(self.transport).unregisterProducer()
        self._fail(failure)

    def _fail(self, error: Failure | ScannerError) -> None:
        if not self._is_over:
            self._give_up()
            self._answer.errback(error)

    def _give_up(self) -> None:
        self._is_over = True
        self.transport.abortConnection()


class _Connections(Factory):
    noisy = False
    protocol = _Conversation
