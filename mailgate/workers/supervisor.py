"""The process that twistd starts where there are to be several workers: it has the ports, and keeps the workers alive.

The first worker starts alone, as it may have a spool to make or to upgrade. What it cannot start for ends the start;
once a worker has served, one that cannot start is tried again for ever, since others may serve. One that is killed is
replaced: that says nothing about whether it can serve.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.config.load import Loaded
from mailgate.config.openings import first_openings, openings
from mailgate.config.places import Places
from mailgate.interfaces import SpoolError
from mailgate.process import cannot_start, make_directory, own_directory, raise_descriptor_limit, tell_start
from mailgate.spool.disk import is_locked, share_directory
from mailgate.workers.asking import LateError, all_of, in_time, longest
from mailgate.workers.commands import Item
from mailgate.workers.hand import GRACE, Hand
from mailgate.workers.ledger import Ledger
from mailgate.workers.patience import Patience
from mailgate.workers.ports import Bound, CannotBindError, bind
from mailgate.workers.reload import Reload
from mailgate.workers.team import make_counters

__all__ = ["Supervisor"]

_log = Logger()

#: Seconds between two tellings of the numbers that all workers add to.
_NEWS = 0.01
#: Seconds that a worker has to say that it stops.
_ANSWER = 5.0
#: Seconds that a worker has to begin, where others have served before it. It may have a large spool to put in order.
_BEGIN = 600.0
#: Seconds between two looks whether a worker of a supervisor that was killed has ended, and how long that may take, or
#: longer where the time to drain is.
_LOOK, _LEFTOVER = 0.1, 60.0
#: Ends of workers that are kept to be told of.
_UNTOLD = 1000


class Supervisor(Service):
    """Starts the workers, replaces those that end or hang, and answers for what they share."""

    name = "mailgate"

    def __init__(
        self,
        loaded: Loaded,
        source: str,
        reactor: Any,
        twistd: MutableMapping[str, Any],
        leave: Callable[[int], object] = os._exit,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        """`source` is the text of what is `loaded`, and `twistd` are the options of the command that runs it. `leave`
        ends the process, `wait` lets it rest before the reactor runs."""
        config = loaded.config
        self._reactor = reactor
        self._twistd = twistd
        self._leave = leave
        self._wait = wait
        self._file = loaded.path
        self._openings = [*openings(config), *first_openings(config)]
        self._of_first = {one.name for one in first_openings(config)}
        self._count = config.gateway.workers
        self._drain_timeout = config.gateway.drain_timeout
        self._leftover_time = max(_LEFTOVER, self._drain_timeout + GRACE)
        self._looks = round(self._leftover_time / _LOOK)  # for ports that others have
        self._places = Places(config.gateway.state_dir)
        self._ports: list[Bound] = []
        self._reload = Reload(reactor, loaded.path, source, self._serving)
        self._hands: dict[int, Hand] = {}
        self._patience = [Patience() for _ in range(self._count)]
        self._pending: dict[int, IDelayedCall] = {}
        self._counters = make_counters(config, reactor)
        self._ledger = Ledger(reactor, self._counters, self._tell)
        self._news: IDelayedCall | None = None
        self._untold: deque[tuple[int, str]] = deque(maxlen=_UNTOLD)  # ends that no worker was there to tell of
        self._pipe: int | None = None
        self._gone: Deferred[None] | None = None
        self._awaited = set(range(self._count))  # the places for which the start still waits
        self._has_served = False
        self._is_stopping = False

    # -- start

    def privilegedStartService(self) -> None:
        """Bind the ports. SystemExit, with a line that says which, where that cannot be."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's
        nobody = ServerFactory()
        nobody.noisy = False
        try:
            for name, port in bind(self._reactor, self._openings, lambda _: nobody, again=self._has_orphans):
                port.stopReading()  # type: ignore[attr-defined]  # we never accept
                self._ports.append((name, port))
        except CannotBindError as error:
            cannot_start(self._twistd, str(error))

    def _has_orphans(self) -> bool:
        """Whether workers of a supervisor that was killed still drain, and may have our ports; a moment later."""
        spool = self._places.spool
        with suppress(OSError):
            # Only of locks that are there: what we made here would be root's.
            names = [path.stem for path in spool.glob("*.lock") if is_locked(spool, path.stem)]
            if self._looks > 0 and "supervisor" not in names and any(name.startswith("worker-") for name in names):
                self._looks -= 1
                self._wait(_LOOK)
                return True
        return False

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
            self._counters.open()
        except (OSError, SpoolError) as error:
            cannot_start(self._twistd, f"mailgate: cannot start: {error}")
        # Whoever started us in the background hears of it when the workers have started.
        self._pipe = self._twistd.pop("statusPipe", None)
        self._begin(0)

    def _begin(self, number: int) -> None:
        self._pending.pop(number, None)
        Deferred.fromCoroutine(self._raise(number)).addErrback(self._unraised, number)

    def _unraised(self, failure: Failure, number: int) -> None:
        if not self._has_served:
            self._give_up(failure.getTraceback())
        elif not self._is_stopping:
            _log.failure("a worker cannot be started", failure=failure)
            if number not in self._hands:
                self._again(number, None, failure.getErrorMessage())

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
        late = self._reactor.callLater(_BEGIN, self._too_late, hand) if self._has_served else None
        try:
            hand.source = self._reload.running
            error = await hand.end.begin(self._reload.started, hand.source)
            error = error or await self._reload.bring(hand)  # one may have come to an end meanwhile
        except Exception:
            # Its line has broken: how it has ended, its process tells, and why, it has said in the log.
            hand.kill_later()
            return
        finally:
            if late is not None and late.active():
                late.cancel()
        if error:
            hand.dismiss(f"cannot start: {error}")
            self._refused(number, error)
        else:
            hand.serve()
            self._heard_of()
            self._serves(number)

    def _too_late(self, hand: Hand) -> None:
        hand.kill(f"has not begun to serve for {_BEGIN:.0f} seconds, and was killed")

    def _spawn(self, hand: Hand) -> bool:
        try:
            ports = [one for one in self._ports if hand.number == 0 or one[0] not in self._of_first]
            hand.spawn(self._file, self._count, ports)
        except OSError as error:
            del self._hands[hand.number]
            self._ledger.leave(hand.number)
            self._refused(hand.number, f"mailgate: cannot start: worker {hand.number}: {error}")
            self._ended(hand.number, None, f"cannot start: {error}")
            return False
        return True

    def _serves(self, number: int) -> None:
        is_first, self._has_served = not self._has_served, True
        self._tried(number)
        if is_first and not self._is_stopping:
            for other in sorted(self._awaited):
                self._begin(other)

    def _tried(self, number: int) -> None:
        """The start does not wait for this place any more."""
        if self._is_stopping or number not in self._awaited:
            return
        self._awaited.remove(number)
        if not self._awaited:
            if self._pipe is not None:
                tell_start(self._pipe)
                self._pipe = None
            _log.info("{count} workers accept and deliver", count=len(self._serving()))

    def _refused(self, number: int, error: str) -> None:
        """A worker cannot start."""
        if self._has_served:
            self._tried(number)
        else:
            self._give_up(error)

    async def _leftover(self, number: int) -> None:
        """Wait for a worker of this number whose supervisor was killed: it drains."""
        end = self._reactor.seconds() + self._leftover_time
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
        if hand.served_from is None and hand.has_failed:
            self._refused(number, f"mailgate: cannot start: worker {number} ended at its start ({status})")
        served = None if hand.served_from is None else self._reactor.seconds() - hand.served_from
        self._ended(number, served, status)

    def _ended(self, number: int, served: float | None, status: str) -> None:
        """A worker is gone that has served for so long, or never (None)."""
        if self._is_stopping:
            return
        status = "; ".join(status.splitlines())
        _log.error("worker {worker} ended ({status}), another one takes its place", worker=number, status=status)
        self._untold.append((number, status))
        self._heard_of()
        self._again(number, served, status)

    def _again(self, number: int, served: float | None, status: str) -> None:
        patience = self._patience[number]
        delay = patience.after(served)
        if patience.is_at_end:
            self._refused(number, f"mailgate: worker {number} cannot start: {status}")
        if not self._is_stopping:
            self._pending[number] = self._reactor.callLater(delay, self._begin, number)

    def _heard_of(self) -> None:
        """Have the first worker that serves tell of those that have ended."""
        serving = self._serving()
        if not serving:
            return
        untold, self._untold = self._untold, deque(maxlen=_UNTOLD)
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
        self._ledger.publish(self._is_ready)
        for hand in self._hands.values():
            hand.end.flush()

    def _is_ready(self, number: int) -> bool:
        return (hand := self._hands.get(number)) is None or hand.end.is_ready

    def _tell(self, number: int, item: Item) -> None:
        if (hand := self._hands.get(number)) is not None:
            hand.end.send(item)

    async def ask_others(self, hand: Hand, question: str, argument: str) -> tuple[str, str]:
        others = [one for one in self._serving() if one is not hand]
        said = await all_of([self._ask(one, question, argument) for one in others])
        errors = [f"worker {one.number}: {error}" for one, (_, error) in zip(others, said, strict=True) if error]
        error = f"not all workers have answered: {'; '.join(errors)}" if errors else ""
        return f"[{','.join(answer for answer, _ in said if answer)}]", error

    async def _ask(self, hand: Hand, question: str, argument: str) -> tuple[str, str]:
        """The answer or an error; neither where it is gone."""
        try:
            said = await in_time(self._reactor, longest(question), hand.end.ask(question, argument))
        except LateError:
            return "", f"no answer for {longest(question):.0f} seconds"
        answer, error = said or ("", "")
        return ("" if error else answer), error

    def reload(self) -> None:
        """Have all workers read the file again: all go by it, or none."""
        if not self._is_stopping:
            self._reload.begin()

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
        said = await all_of([self._drained(hand) for hand in hands])
        # Only now: nobody accepts any more, and whoever connects is refused.
        for _, port in self._ports:
            await maybeDeferred(port.stopListening)
        if self._hands:
            self._gone = Deferred()
            end = max([self._drain_timeout, *(one for one in said if one is not None)]) + GRACE
            late = self._reactor.callLater(end, self._kill)
            await self._gone
            if late.active():
                late.cancel()
        self._counters.close()
        for descriptor in getattr(self, "_locks", ()):
            os.close(descriptor)

    async def _drained(self, hand: Hand) -> float | None:
        """How many seconds it may take to end, where it says so in time."""
        with suppress(LateError):
            return await in_time(self._reactor, _ANSWER, hand.end.drain())
        return None

    def _kill(self) -> None:
        for hand in list(self._hands.values()):
            _log.error("worker {worker} does not end, and is killed", worker=hand.number)
            hand.kill()
