"""A connection to a milter: packets out as fast as it takes them, and its answers in, each when it is asked for."""

from __future__ import annotations

from typing import NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.scanners.milter.error import MilterError
from mailgate.wire.milter.codec import SMALL, Answer, PacketError, PacketReader, parse_answer

__all__ = ["MilterLink"]

#: Octets of answers, beyond a packet, that may come while we are still sending.
_AHEAD = 256 * 1024


@implementer(IPushProducer)
class MilterLink(Protocol):
    """The milter speaks when it is asked, and only then: an answer that nobody waits for ends the connection.

    Where no packet has gone either way for `idle` seconds, it is closed. `fault` says why it is no longer open.
    """

    transport: ITransport

    def __init__(self, clock: IReactorTime, idle: float) -> None:
        self.is_open = False
        self.fault = "it is not connected"
        self._clock = clock
        self._idle = idle
        self._last = clock.seconds()
        self._rest: IDelayedCall | None = None
        self._reader = PacketReader(SMALL)
        self._is_asked = False
        self._answer: Deferred[None] | None = None
        self._room: Deferred[None] | None = None
        self._is_full = False

    # -- what the conversation calls

    def allow(self, max_data: int) -> None:
        """From now on a packet may have so many octets of data."""
        self._reader.limit = max_data

    async def send(self, octets: bytes, timeout: float) -> None:
        """Send octets, and wait until the milter has taken most of what was sent. MilterError where it does not: the
        link is over then, as it is when whoever waits gives up."""
        self._require()
        self._last = self._clock.seconds()
        self.transport.write(octets)
        if self._is_full and self.is_open:
            self._room = Deferred(lambda _: None)
            try:
                await self._room.addTimeout(timeout, self._clock, onTimeoutCancel=_late)
            except BaseException as error:
                self.abort(str(error) or "it was given up")
                raise
        self._require()

    def ask(self) -> None:
        """What was sent last has an answer; `answer` waits for it, and `answered` says that it was the last one."""
        self._is_asked = True

    async def answer(self, timeout: float) -> Answer:
        """The next packet of the milter. MilterError: it is none, or there is none within `timeout` seconds."""
        end = self._clock.seconds() + timeout
        try:
            while (found := self._reader.take()) is None:
                self._require()
                self._answer = Deferred(lambda _: None)
                left = max(0.0, end - self._clock.seconds())
                await self._answer.addTimeout(left, self._clock, onTimeoutCancel=_late)
            self._last = self._clock.seconds()
            return parse_answer(*found)
        except PacketError as error:
            raise MilterError(str(error)) from None

    def answered(self) -> None:
        """The answer is complete; MilterError where there is more."""
        self._is_asked = False
        if len(self._reader):
            raise MilterError("it answers more than it was asked")

    def abort(self, fault: str) -> None:
        """End the connection now."""
        if self.is_open:
            self._over(fault)
            # Twisted's transports of sockets have this; it does not wait for what has not been sent.
            getattr(self.transport, "abortConnection", self.transport.loseConnection)()

    def close(self, last: bytes) -> None:
        """Send the last octets, and end the connection."""
        if self._is_full:  # who has not taken what came before will not take this either
            self.abort("we have closed the connection")
        elif self.is_open:
            self._over("we have closed the connection")
            self.transport.write(last)
            self.transport.loseConnection()

    # -- what Twisted calls

    def connectionMade(self) -> None:
        """It is open."""
        self.is_open = True
        self._last = self._clock.seconds()
        self._rest = self._clock.callLater(self._idle, self._look)
        self.transport.registerProducer(self, True)  # type: ignore[attr-defined]  # a consumer, too

    def dataReceived(self, data: bytes) -> None:
        """Octets of an answer."""
        if not self.is_open:
            return
        if not self._is_asked:
            self.abort("it speaks without being asked")
            return
        self._reader.feed(data)
        waiting, self._answer = self._answer, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)
        elif len(self._reader) > self._reader.limit + _AHEAD:
            # We are still sending, or have long given up waiting.
            self.abort("it answers before it has been asked")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is gone."""
        self._over("it has closed the connection")

    def pauseProducing(self) -> None:
        """It does not take what was sent as fast as it comes."""
        self._is_full = True

    def resumeProducing(self) -> None:
        """There is room again."""
        self._is_full = False
        if self._room is not None:
            waiting, self._room = self._room, None
            if not waiting.called:
                waiting.callback(None)

    def stopProducing(self) -> None:
        """It takes nothing more: `connectionLost` follows."""

    def _require(self) -> None:
        if not self.is_open:
            raise MilterError(self.fault)

    def _over(self, fault: str) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self.fault = fault
        self.transport.unregisterProducer()  # type: ignore[attr-defined]  # a consumer, too
        if self._rest is not None and self._rest.active():
            self._rest.cancel()
        for waiting in (self._answer, self._room):
            if waiting is not None and not waiting.called:
                waiting.callback(None)  # whoever waits sees that it is over
        self._answer = self._room = None

    def _look(self) -> None:
        left = self._last + self._idle - self._clock.seconds()
        if left > 0:
            self._rest = self._clock.callLater(left, self._look)
        elif self._is_asked:
            self._rest = self._clock.callLater(self._idle, self._look)
        else:
            self.abort("nothing was asked for a long time")


def _late(_outcome: object, seconds: float) -> NoReturn:
    raise MilterError(f"no answer within {seconds:.3g} s")
