"""A connection on which a mail server asks one thing after another, and waits for each answer."""

from __future__ import annotations

from typing import Generic, TypeVar
from typing import Protocol as Shape

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.mta.door import Door

__all__ = ["Interview", "Patience", "Reader"]

_log = Logger()

#: Seconds in which a question has to come that has begun.
_WHOLE = 60.0

Q = TypeVar("Q")
Q_co = TypeVar("Q_co", covariant=True)


class Reader(Shape[Q_co]):
    """Octets to questions; `take` raises ValueError where they are none."""

    @property
    def is_empty(self) -> bool: ...

    def feed(self, data: bytes) -> None: ...

    def take(self) -> Q_co | None: ...


class Patience(Shape):
    """Seconds for one answer, and between two questions."""

    @property
    def timeout(self) -> float: ...

    @property
    def idle_timeout(self) -> float: ...


@implementer(IPushProducer)
class Interview(Protocol, Generic[Q]):
    """Of one door. While an answer is worked out, or is not taken, nothing more is read; and of questions that come
    without waiting for answers, one is looked at in each turn of the reactor."""

    transport: ITransport

    def __init__(self, door: Door, reader: Reader[Q], clock: IReactorTime, patience: Patience) -> None:
        self._door = door
        self._reader = reader
        self._clock = clock
        self._patience = patience
        self._work: Deferred[bytes] | None = None
        self._rest: IDelayedCall | None = None
        self._next: IDelayedCall | None = None
        self._late: IDelayedCall | None = None
        self._last = 0.0
        self._is_open = self._is_full = self._is_paused = self._is_draining = False

    # -- what a service provides

    async def answer(self, question: Q) -> bytes:
        """The octets of the answer; cancelled when they are not wanted any more."""
        raise NotImplementedError

    def no_answer(self) -> bytes:
        """The octets where there is none: it failed, or took too long."""
        raise NotImplementedError

    # -- what Twisted calls

    def connectionMade(self) -> None:
        """A mail server has connected."""
        if not self._door.admit(self, self.transport.getPeer()):
            self._abort()
            return
        self._is_open = True
        self._last = self._clock.seconds()
        self._rest = self._clock.callLater(self._patience.idle_timeout, self._look)
        self.transport.registerProducer(self, True)  # type: ignore[attr-defined]  # a consumer, too

    def dataReceived(self, data: bytes) -> None:
        """Octets of questions."""
        if self._is_open:
            self._last = self._clock.seconds()
            self._reader.feed(data)
            self._go_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is gone."""
        self._over()

    def pauseProducing(self) -> None:
        """It does not take what we have sent."""
        self._is_full = True
        self._read_or_not()

    def resumeProducing(self) -> None:
        """There is room again."""
        self._is_full = False
        self._go_on()

    def stopProducing(self) -> None:
        """It takes nothing more: `connectionLost` follows."""

    # -- what the door calls

    def drain(self) -> None:
        """End, at once or after the answer that is worked out."""
        self._is_draining = True
        self._leave_when_idle()

    def cut(self) -> None:
        """End now."""
        self._over()
        self._abort()

    # -- questions

    def _go_on(self) -> None:
        """Take the next question, if one is there and it is time."""
        if self._is_open and self._work is None and self._next is None and not self._is_full:
            try:
                question = self._reader.take()
            except ValueError as error:
                self._fault(str(error))
                return
            if question is not None:
                self._all_came()
                self._ask(question)
            elif self._late is None and not self._reader.is_empty:
                self._late = self._clock.callLater(_WHOLE, self._fault, f"a question of more than {_WHOLE:.0f} seconds")
        self._read_or_not()

    def _all_came(self) -> None:
        late, self._late = self._late, None
        if late is not None and late.active():
            late.cancel()

    def _ask(self, question: Q) -> None:
        work = self._work = Deferred.fromCoroutine(self.answer(question))
        if not work.called:
            work.addTimeout(self._patience.timeout, self._clock)
        work.addErrback(self._failed)
        work.addCallback(self._say)

    def _failed(self, failure: Failure) -> bytes:
        name = self._door.name
        if failure.check(DeferredTimeout):
            _log.warn("{name}: no answer within {seconds} s", name=name, seconds=self._patience.timeout)
        elif self._is_open:
            _log.failure("{name}: a question was not answered", failure=failure, name=name)
        return self.no_answer()

    def _say(self, octets: bytes) -> None:
        self._work = None
        if not self._is_open:
            return
        self.transport.write(octets)
        self._last = self._clock.seconds()
        if not self._reader.is_empty:
            self._next = self._clock.callLater(0, self._turn)
        self._read_or_not()
        self._leave_when_idle()

    def _turn(self) -> None:
        self._next = None
        self._go_on()
        self._leave_when_idle()

    def _read_or_not(self) -> None:
        wants_pause = self._work is not None or self._next is not None or self._is_full
        if self._is_open and wants_pause is not self._is_paused:
            self._is_paused = wants_pause
            turn = "pauseProducing" if wants_pause else "resumeProducing"
            getattr(self.transport, turn)()  # a producer, too

    # -- the end

    def _fault(self, text: str) -> None:
        peer = str(self.transport.getPeer())
        _log.warn(
            "{name}: {peer} does not follow the protocol, and was cut: {text}",
            name=self._door.name,
            peer=peer,
            text=text,
        )
        self.cut()

    def _look(self) -> None:
        idle = self._patience.idle_timeout
        left = self._last + idle - self._clock.seconds()
        self._rest = None
        if left > 0 or self._work is not None:
            self._rest = self._clock.callLater(left if left > 0 else idle, self._look)
        else:
            self.cut()

    def _leave_when_idle(self) -> None:
        if self._is_draining and self._is_open and self._work is None:
            self._over()
            self.transport.loseConnection()

    def _abort(self) -> None:
        getattr(self.transport, "abortConnection", self.transport.loseConnection)()

    def _over(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._all_came()
        self.transport.unregisterProducer()  # type: ignore[attr-defined]  # a consumer, too
        for call in (self._rest, self._next):
            if call is not None and call.active():
                call.cancel()
        self._rest = self._next = None
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
        self._door.left(self)
