"""The process that twistd starts where there are to be several workers: it has the ports, and keeps the workers alive.

The first worker starts alone, as it may have a spool to make or to upgrade. What it, or another one, cannot start for
ends them all at the start; later such a worker is tried again, since the others serve. One that is killed is always
replaced: that says nothing about whether it can serve.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.config.load import Loaded
from mailgate.config.source import ConfigError, read_source
from mailgate.interfaces import SpoolError
from mailgate.process import cannot_start, make_directory, own_directory, raise_descriptor_limit, tell_start
from mailgate.spool.disk import is_locked, share_directory
from mailgate.web.places import Places
from mailgate.workers.commands import Item
from mailgate.workers.hand import Hand
from mailgate.workers.ledger import Ledger
from mailgate.workers.patience import Patience
from mailgate.workers.ports import Bound, CannotBindError, bind

__all__ = ["Supervisor"]

T = TypeVar("T")

_log = Logger()

#: Seconds between two tellings of the numbers that all workers add to.
_NEWS = 0.01
#: Seconds that a worker has to say that it stops, and beyond its drain_timeout to have stopped.
_ANSWER, _GRACE = 5.0, 10.0
#: Seconds between two looks whether a worker of a supervisor that was killed has ended, and how long that may take.
_LOOK, _LEFTOVER = 0.1, 60.0


class Supervisor(Service):
    """Starts the workers, replaces those that end, and answers for what they share. `exit` ends the process."""

    name = "mailgate"

    def __init__(
        self,
        loaded: Loaded,
        reactor: Any,
        twistd: MutableMapping[str, Any],
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        """`twistd` are the options of the command that runs it."""
        config = loaded.config
        self._reactor = reactor
        self._twistd = twistd
        self._leave = leave
        self._file = loaded.path
        self._listeners = config.listeners
        self._count = config.gateway.workers
        self._drain_timeout = config.gateway.drain_timeout
        self._places = Places(config.gateway.state_dir)
        self._ports: list[Bound] = []
        self._started = self._running = ""
        self._hands: dict[int, Hand] = {}
        self._patience = [Patience() for _ in range(self._count)]
        self._pending: dict[int, IDelayedCall] = {}
        self._ledger = Ledger(reactor, config.counters.max_keys, self._tell)
        self._news: IDelayedCall | None = None
        self._untold: list[tuple[int, str]] = []  # ends that no worker was there to tell of
        self._pipe: int | None = None
        self._is_reloading = self._reload_again = False
        self._gone: Deferred[None] | None = None
        self._awaited = set(range(self._count))  # the places in which no worker has served yet
        self._is_stopping = False

    # -- start

    def privilegedStartService(self) -> None:
        """Bind the ports. SystemExit, with a line that says which, where that cannot be."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's
        nobody = ServerFactory()
        nobody.noisy = False
        try:
            for name, port in bind(self._reactor, self._listeners, lambda _: nobody):
                port.stopReading()  # type: ignore[attr-defined]  # we never accept
                self._ports.append((name, port))
        except CannotBindError as error:
            cannot_start(self._twistd, str(error))

    def startService(self) -> None:
        """Start the workers. SystemExit with a line where that cannot even be begun."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))
        os.umask(0o077)
        raise_descriptor_limit()
        try:
            own_directory(self._places.state_dir)
            make_directory(self._places.spool)
            self._locks = share_directory(self._places.spool, "supervisor")
            self._started = self._running = read_source(self._file)
        except (OSError, SpoolError, ConfigError) as error:
            cannot_start(self._twistd, f"mailgate: cannot start: {error}")
        # Whoever started us in the background hears of it when the workers have started.
        self._pipe = self._twistd.pop("statusPipe", None)
        self._begin(0)

    def _begin(self, number: int) -> None:
        self._pending.pop(number, None)
        Deferred.fromCoroutine(self._raise(number)).addErrback(self._unraised, number)

    def _unraised(self, failure: Failure, number: int) -> None:
        if number in self._awaited:
            self._give_up(failure.getTraceback())
        else:
            _log.failure("a worker cannot be started", failure=failure)

    async def _raise(self, number: int) -> None:
        """Start a worker. Where it is gone before it serves, `lost` is told of that."""
        await self._leftover(number)
        if self._is_stopping:
            return
        hand = Hand(number, self._reactor, self)
        self._hands[number] = hand
        self._ledger.join(number)
        if not self._spawn(hand):
            return
        try:
            running = self._running
            error = await hand.end.begin(self._started, running)
            while not error and running != self._running:  # a reload has come to an end meanwhile
                running = self._running
                if not (error := await hand.end.prepare(running)):
                    await hand.end.settle("")
        except Exception:
            # Its line has broken: how it has ended, its process tells, and why, it has said in the log.
            self._reactor.callLater(_GRACE, hand.kill)
            return
        if error:
            hand.dismiss()
            self._refused(number, error)
        else:
            hand.served_from = self._reactor.seconds()
            self._heard_of()
            self._serves(number)

    def _spawn(self, hand: Hand) -> bool:
        try:
            hand.spawn(self._file, self._count, self._ports)
        except OSError as error:
            del self._hands[hand.number]
            self._ledger.leave(hand.number)
            self._refused(hand.number, f"mailgate: cannot start: worker {hand.number}: {error}")
            self._again(hand.number, None, str(error))
            return False
        return True

    def _serves(self, number: int) -> None:
        if self._is_stopping or number not in self._awaited:
            return
        self._awaited.remove(number)
        if number == 0:
            for other in sorted(self._awaited):
                self._begin(other)
        elif not self._awaited:
            if self._pipe is not None:
                tell_start(self._pipe)
                self._pipe = None
            _log.info("{count} workers accept and deliver", count=self._count)

    def _refused(self, number: int, error: str) -> None:
        """A worker cannot start, which it could say."""
        if number in self._awaited:
            self._give_up(error)
        elif not self._is_stopping:
            _log.error("worker {worker} cannot start: {error}", worker=number, error=error)

    async def _leftover(self, number: int) -> None:
        """Wait for a worker of this number whose supervisor was killed: it drains."""
        end = self._reactor.seconds() + _LEFTOVER
        with suppress(OSError):  # the worker will tell of it
            while is_locked(self._places.spool, f"worker-{number}") and self._reactor.seconds() < end:
                await deferLater(self._reactor, _LOOK)

    def _give_up(self, why: str) -> None:
        """End all, with exit code 1."""
        if self._is_stopping:
            return
        self._is_stopping = True
        sys.stderr.write(f"{why}\n")
        if self._pipe is not None:
            tell_start(self._pipe, why)
            self._pipe = None
        self._reactor.addSystemEventTrigger("after", "shutdown", self._fail)
        self._reactor.callWhenRunning(self._reactor.stop)  # before it runs it cannot be stopped

    def _fail(self) -> None:
        # twistd has no other way to end with a code.
        if pidfile := self._twistd.get("pidfile"):
            Path(str(pidfile)).unlink(missing_ok=True)
        self._leave(1)

    # -- a worker ends (Head)

    def lost(self, hand: Hand, status: str) -> None:
        number = hand.number
        if self._hands.get(number) is not hand:
            return
        del self._hands[number]
        self._ledger.leave(number)
        self.heard()
        if self._is_stopping:
            if not self._hands and self._gone is not None:
                self._gone.callback(None)
            return
        if number in self._awaited and hand.has_failed:
            self._give_up(f"mailgate: cannot start: worker {number} ended at its start ({status})")
            return
        _log.error("worker {worker} ended ({status}), another one takes its place", worker=number, status=status)
        self._untold.append((number, status))
        self._heard_of()
        served = None if hand.served_from is None else self._reactor.seconds() - hand.served_from
        self._again(number, served, status)

    def _again(self, number: int, served: float | None, status: str) -> None:
        """Fill a place again, whose last worker has served for so long, or never (None)."""
        if self._is_stopping:
            return
        delay = self._patience[number].after(served)
        if delay is None:
            self._give_up(f"mailgate: worker {number} cannot start: {status}")
        else:
            self._pending[number] = self._reactor.callLater(delay, self._begin, number)

    def _heard_of(self) -> None:
        """Have the first worker that serves tell of those that have ended."""
        serving = self._serving()
        untold, self._untold = (self._untold, []) if serving else ([], self._untold)
        for one in untold:
            told = Deferred.fromCoroutine(serving[0].end.tell_end(*one))
            told.addErrback(self._not_told, one)

    def _not_told(self, _: object, end: tuple[int, str]) -> None:
        self._untold.append(end)  # whoever was to tell of it has died itself, and its own end is heard next

    def _serving(self) -> Sequence[Hand]:
        return [hand for _, hand in sorted(self._hands.items()) if hand.served_from is not None and hand.end.is_open]

    # -- what they share (Head)

    def hear(self, hand: Hand, item: Item) -> None:
        self._ledger.hear(hand.number, item)

    def heard(self) -> None:
        for hand in self._hands.values():
            hand.end.hurry()
        if self._news is None and self._ledger.has_news:
            self._news = self._reactor.callLater(_NEWS, self._publish)

    def _publish(self) -> None:
        self._news = None
        self._ledger.publish()
        for hand in self._hands.values():
            hand.end.flush()

    def _tell(self, number: int, item: Item) -> None:
        if (hand := self._hands.get(number)) is not None:
            hand.end.send(item)

    async def ask_others(self, hand: Hand, question: str, argument: str) -> tuple[str, str]:
        others = [one for one in self._serving() if one is not hand]
        said = await _all([_unless_gone(one.end.ask(question, argument)) for one in others])
        answered = [one for one in said if one is not None]
        error = next((error for _, error in answered if error), "")
        return f"[{','.join(answer for answer, error in answered if not error)}]", error

    # -- reload

    def reload(self) -> None:
        """Have all workers read the file again: all go by it, or none."""
        if self._is_stopping:
            return
        if self._is_reloading:
            self._reload_again = True
            return
        self._is_reloading = True
        done = Deferred.fromCoroutine(self._reload())
        done.addErrback(lambda failure: _log.failure("the reload failed", failure=failure))
        done.addBoth(self._reloaded)

    async def _reload(self) -> None:
        hands = self._serving()
        try:
            source = read_source(self._file)
        except ConfigError as error:
            errors = "\n".join(error.errors)
        else:
            said = await _all([_unless_gone(hand.end.prepare(source)) for hand in hands])
            errors = next((one for one in said if one), "")
        if not errors:
            self._running = source
        await _all([_unless_gone(hand.end.settle(errors)) for hand in hands])

    def _reloaded(self, _: object) -> None:
        self._is_reloading = False
        if self._reload_again:
            self._reload_again = False
            self.reload()

    # -- stop

    def stopService(self) -> Deferred[None]:
        """Let every worker drain, and end when all have ended; kill those that do not."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        self._is_stopping = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for call in self._pending.values():
            call.cancel()
        self._pending.clear()
        hands = list(self._hands.values())
        said = await _all([_unless_gone(self._in_time(hand.end.drain())) for hand in hands])
        # Only now: nobody accepts any more, and whoever connects is refused.
        for _, port in self._ports:
            await maybeDeferred(port.stopListening)
        if self._hands:
            self._gone = Deferred()
            end = max([self._drain_timeout, *(one for one in said if one is not None)]) + _GRACE
            late = self._reactor.callLater(end, self._kill)
            await self._gone
            if late.active():
                late.cancel()
        for descriptor in getattr(self, "_locks", ()):
            os.close(descriptor)

    def _in_time(self, answer: Awaitable[T]) -> Deferred[T]:
        return Deferred.fromCoroutine(_answer(answer)).addTimeout(_ANSWER, self._reactor)

    def _kill(self) -> None:
        for hand in list(self._hands.values()):
            _log.error("worker {worker} does not end, and is killed", worker=hand.number)
            hand.kill()


async def _answer(answer: Awaitable[T]) -> T:
    return await answer


async def _unless_gone(answer: Awaitable[T]) -> T | None:
    """The answer, or None where whoever was asked has gone meanwhile, or is too slow."""
    try:
        return await answer
    except Exception:
        return None


async def _all(works: Sequence[Any]) -> list[Any]:
    """The results of coroutines that do not fail, at one time."""
    return await gatherResults([Deferred.fromCoroutine(work) for work in works], consumeErrors=True)
