"""One of several workers: `python -m mailgate.worker FILE NUMBER COUNT LISTENER=DESCRIPTOR...`, as the supervisor runs.

Descriptor 2 takes its log, 3 is its line to the supervisor, and those that are named are listening sockets.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import fdesc
from twisted.internet.protocol import Factory
from twisted.logger import Logger, globalLogBeginner

from mailgate.config.load import ConfigError, load
from mailgate.config.openings import HTTP
from mailgate.events import WorkerEnded
from mailgate.pipeline.registry import Registry
from mailgate.service import Gateway
from mailgate.workers.ends import WorkerEnd
from mailgate.workers.hand import LINE, STDERR
from mailgate.workers.logs import LogWriter
from mailgate.workers.shared import Shared
from mailgate.workers.team import Team

__all__ = ["Worker", "main"]

_log = Logger(namespace="mailgate.worker")


class Worker:
    """A gateway that begins, reloads and ends when the supervisor says so (Duties)."""

    def __init__(self, reactor: Any, file: Path, number: int, count: int, sockets: dict[str, list[int]]) -> None:
        self._reactor = reactor
        self._file = file
        self._number, self._count = number, count
        self._sockets = sockets
        self._gateway: Gateway | None = None
        self._is_ending = self._is_stopped = False
        self.end = WorkerEnd(reactor, self)
        self._shared = Shared(self.end.send)
        self.hear = self._shared.hear

    async def begin(self, started: str, running: str) -> str:
        """As in Duties."""
        team = Team(
            slots=self._shared.slots,
            tally=self._shared.tally,
            counters=self._shared.counters,
            worker=self._number,
            workers=self._count,
            sockets={name: those for name, those in self._sockets.items() if name != HTTP},
            http_sockets=self._sockets.get(HTTP, ()),
            ask_others=self.end.ask_others,
            pid=os.getppid(),
        )
        try:
            gateway = Gateway(load(self._file, Registry().find, started), self._reactor, team=team)
            gateway.startService()
            self._gateway = gateway
            if running != started:
                if errors := await gateway.prepare(running):
                    return "\n".join(errors)
                if self._is_ending:  # meanwhile
                    return "it was told to end"
                gateway.settle((), tells=False)
            gateway.privilegedStartService()
        except ConfigError as error:
            return "\n".join(error.errors)
        except SystemExit as error:
            return str(error)
        return ""

    async def prepare(self, source: str) -> str:
        """As in Duties."""
        try:
            return "\n".join(await self._the_gateway.prepare(source))
        except Exception as error:
            # What passed here would end our line, and this worker: a plug-in may raise anything.
            _log.failure("the configuration cannot be read")
            return f"{self._file}: {type(error).__name__}: {error}"

    def settle(self, errors: str) -> None:
        """As in Duties."""
        self._the_gateway.settle(errors.splitlines())

    async def drain(self) -> float:
        """As in Duties."""
        gateway = self._gateway
        self._is_ending = True
        self._reactor.callLater(0, self._stop)
        if gateway is None:
            return 0.0
        await gateway.stop_accepting()
        return gateway.config.gateway.drain_timeout

    def ended(self, worker: int, status: str) -> None:
        """As in Duties."""
        self._the_gateway.events.publish(WorkerEnded(at=self._reactor.seconds(), worker=worker, status=status))

    async def answer(self, question: str, argument: str) -> tuple[str, str]:
        """As in Duties."""
        return await self._the_gateway.answers.answer(question, argument)

    def abandoned(self) -> None:
        """As in Duties."""
        self._shared.close()
        if not self._is_ending:
            _log.warn("the supervisor is gone")
            self.finish()

    def finish(self) -> None:
        """Drain, and end: at most once."""
        if not self._is_ending:
            self._is_ending = True
            self._stop()

    def close(self) -> Any:
        """The reactor stops: what has to be over before."""
        self._is_ending = True
        return self._gateway.stopService() if self._gateway is not None else None

    def _stop(self) -> None:
        if not self._is_stopped:
            self._is_stopped = True
            self._reactor.stop()

    @property
    def _the_gateway(self) -> Gateway:
        if self._gateway is None:
            raise AssertionError("the supervisor speaks to a gateway that has not begun")
        return self._gateway


def main(arguments: Sequence[str]) -> None:
    """Run until the supervisor, or a signal, ends it."""
    file, number, count, *named = arguments
    # A terminal sends these to the supervisor as well, which decides for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    globalLogBeginner.beginLoggingTo([LogWriter(STDERR)])
    from twisted.internet import reactor as the_reactor  # noqa: TID251  the composition root

    reactor: Any = the_reactor
    sockets: dict[str, list[int]] = {}
    for text in named:
        name, _, descriptor = text.rpartition("=")
        sockets.setdefault(name, []).append(int(descriptor))
    worker = Worker(reactor, Path(file), int(number), int(count), sockets)
    fdesc.setNonBlocking(LINE)
    reactor.adoptStreamConnection(LINE, socket.AF_UNIX, Factory.forProtocol(lambda: worker.end))
    os.close(LINE)
    reactor.callWhenRunning(signal.signal, signal.SIGTERM, lambda *_: reactor.callFromThread(worker.finish))
    reactor.addSystemEventTrigger("before", "shutdown", worker.close)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
