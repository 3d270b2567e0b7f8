"""A mail server's connection to our milter: packets in, one at a time, and answers out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.mta.door import Door
from mailgate.mta.milter.services import MilterServices
from mailgate.mta.milter.session import MilterSession
from mailgate.mta.milter.told import WANTED
from mailgate.wire.milter.codec import Answer, Options, PacketError, PacketReader, encode_answer
from mailgate.wire.milter.commands import Command, parse_command
from mailgate.wire.milter.negotiation import Agreement, choose
from mailgate.wire.milter.words import Actions, Code, Steps

__all__ = ["MilterServer"]

_log = Logger()

#: Octets in a packet: more than a body's piece, as a mail server gives a header field in one, however long it is.
_MOST = 256 * 1024
#: Packets that are looked at in one turn of the reactor, which has others to see to.
_IN_A_TURN = 50
_ACTIONS = (
    Actions.ADD_HEADERS
    | Actions.CHANGE_HEADERS
    | Actions.CHANGE_BODY
    | Actions.ADD_RECIPIENTS
    | Actions.REMOVE_RECIPIENTS
    | Actions.QUARANTINE
    | Actions.CHANGE_SENDER
)
#: Never told, or never answered, where the mail server knows that.
_QUIET = Steps.NO_UNKNOWN | Steps.QUIET_HEADERS | Steps.QUIET_END_OF_HEADER | Steps.QUIET_BODY | Steps.LEADING_SPACE
#: Not answered where nobody is asked, or not even told.
_BY_STAGE = {"connect": Steps.QUIET_CONNECT, "helo": Steps.QUIET_HELO, "data": Steps.NO_DATA | Steps.QUIET_DATA}


@implementer(IPushProducer)
class MilterServer(Protocol):
    """Of one door; `current` gives what new sessions go by. While an answer is worked out nothing more is read."""

    transport: ITransport

    def __init__(self, door: Door, current: Callable[[], MilterServices]) -> None:
        self._door = door
        self._current = current
        self._services = current()
        self._agreement: Agreement | None = None
        self._reader = PacketReader(_MOST)
        self._session: MilterSession | None = None
        self._work: Deferred[None] | None = None
        self._room: Deferred[None] | None = None
        self._rest: IDelayedCall | None = None
        self._turn: IDelayedCall | None = None
        self._last = 0.0
        self._is_open = self._is_full = self._is_working = self._is_draining = False

    # -- what Twisted calls

    def connectionMade(self) -> None:
        """A mail server has connected."""
        if not self._door.admit(self, self.transport.getPeer()):
            self._abort()
            return
        self._is_open = True
        clock = self._services.clock
        self._last = clock.seconds()
        self._rest = clock.callLater(self._services.section.idle_timeout, self._look)
        self.transport.registerProducer(self, True)  # type: ignore[attr-defined]  # a consumer, too

    def dataReceived(self, data: bytes) -> None:
        """Octets of packets."""
        if not self._is_open:
            return
        self._last = self._services.clock.seconds()
        self._reader.feed(data)
        self._go_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is gone."""
        self._over("lost")

    def pauseProducing(self) -> None:
        """It does not take what we have sent."""
        self._is_full = True

    def resumeProducing(self) -> None:
        """There is room again."""
        self._is_full = False
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def stopProducing(self) -> None:
        """It takes nothing more: `connectionLost` follows."""

    # -- what the door calls

    def drain(self) -> None:
        """End, at once or after the message that is under way."""
        self._is_draining = True
        self._leave_when_idle()

    def cut(self) -> None:
        """End now."""
        self._over("shutdown")
        self._abort()

    # -- packets

    def _go_on(self) -> None:
        """Take what is there, until an answer has to be waited for, or it is others' turn."""
        if self._is_working or self._turn is not None:
            return
        self._is_working = True
        left = _IN_A_TURN
        try:
            while self._is_open and self._work is None:
                if not left:
                    self._go_on_later()
                    break
                packet = self._reader.take()
                if packet is None:
                    break
                left -= 1
                self._take(parse_command(*packet))
        except PacketError as error:
            self._fault(str(error))
        finally:
            self._is_working = False
        self._leave_when_idle()

    def _go_on_later(self) -> None:
        self.transport.pauseProducing()  # type: ignore[attr-defined]  # a producer, too
        self._turn = self._services.clock.callLater(0, self._next_turn)

    def _next_turn(self) -> None:
        self._turn = None
        self.transport.resumeProducing()  # type: ignore[attr-defined]  # a producer, too
        self._go_on()

    def _take(self, command: Command) -> None:
        match command:
            case Code.QUIT:
                self._close("quit")
            case Code.QUIT_NEW:
                self._begin_anew()
            case Options():
                self._agree(command)
            case _:
                self._step(command)

    def _agree(self, offered: Options) -> None:
        self._end_session("quit")
        self._services = services = self._current()
        steps = _QUIET
        for stage, bits in _BY_STAGE.items():
            if stage not in services.stages:
                steps |= bits
        options, self._agreement = choose(offered, _ACTIONS, steps, WANTED)
        self._session = MilterSession(services, self._agreement, self._say)
        self.transport.write(encode_answer(options))

    def _begin_anew(self) -> None:
        """Another client follows, and nothing is agreed on anew: who is judged by what we have now must be one whom we
        have asked to be told of."""
        self._end_session("quit")
        if self._agreement is None:
            raise PacketError("a step before anything was agreed on")
        services = self._current()
        if services.stages <= self._services.stages:
            self._services = services
        self._session = MilterSession(self._services, self._agreement, self._say)

    def _step(self, command: Command) -> None:
        if self._session is None:
            raise PacketError("a step before anything was agreed on")
        work = Deferred.fromCoroutine(self._session.take(command))
        if work.called and not isinstance(getattr(work, "result", None), Failure):
            return
        self._work = work
        self.transport.pauseProducing()  # type: ignore[attr-defined]  # a producer, too
        work.addCallbacks(self._done, self._failed)

    def _done(self, _: None) -> None:
        self._work = None
        if self._is_open:
            self.transport.resumeProducing()  # type: ignore[attr-defined]  # a producer, too
            self._last = self._services.clock.seconds()
            self._go_on()

    def _failed(self, failure: Failure) -> None:
        self._work = None
        if failure.check(PacketError):
            self._fault(failure.getErrorMessage())
        elif self._is_open or not failure.check(CancelledError):
            _log.failure("a session of the milter {name} failed", failure=failure, name=self._services.name)
            self._over("crash")
            self._abort()

    async def _say(self, answer: Answer) -> None:
        if not self._is_open:
            raise CancelledError
        self.transport.write(encode_answer(answer))
        if self._is_full and self._is_open:
            room = self._room = self._room or Deferred()
            waited: Deferred[None] = Deferred()
            room.addCallback(lambda _: waited.callback(None))
            await waited.addTimeout(self._services.section.message_timeout, self._services.clock, _not_taken)

    # -- the end

    def _fault(self, text: str) -> None:
        _log.warn(
            "{name}: {peer} does not follow the milter protocol, and was cut: {text}",
            name=self._services.name,
            peer=str(self.transport.getPeer()),
            text=text,
        )
        self._over("errors")
        self._abort()

    def _look(self) -> None:
        idle, now = self._services.section.idle_timeout, self._services.clock.seconds()
        left = self._last + idle - now
        self._rest = None
        if left > 0 or self._work is not None:
            self._rest = self._services.clock.callLater(left if left > 0 else idle, self._look)
        else:
            self._over("timeout")
            self._abort()

    def _leave_when_idle(self) -> None:
        is_busy = self._work is not None or self._turn is not None
        if self._is_draining and not is_busy and not (self._session is not None and self._session.is_in_message):
            self._close("shutdown")

    def _close(self, cause: str) -> None:
        if self._is_open:
            self._over(cause)
            self.transport.loseConnection()

    def _abort(self) -> None:
        getattr(self.transport, "abortConnection", self.transport.loseConnection)()

    def _end_session(self, cause: str) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.end(cause)

    def _over(self, cause: str) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self.transport.unregisterProducer()  # type: ignore[attr-defined]  # a consumer, too
        for call in (self._rest, self._turn):
            if call is not None:
                call.cancel()
        self._rest = self._turn = None
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
        self._end_session(cause)
        self._door.left(self)


def _not_taken(_result: object, seconds: float) -> NoReturn:
    raise PacketError(f"does not take our answers for {seconds:.3g} s")
