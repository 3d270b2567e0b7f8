"""One worker, as the supervisor has it: a process, a line and a log."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IReactorProcess, IReactorSocket, IReactorTime
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.python.failure import Failure

from mailgate.workers.commands import Item
from mailgate.workers.ends import SupervisorEnd
from mailgate.workers.logs import LogReader
from mailgate.workers.ports import Bound
from mailgate.workers.watch import Watch

__all__ = ["GRACE", "LINE", "SILENCE", "STDERR", "Hand", "Head", "IHandsReactor"]

#: Seconds without an answer after which a worker that serves is killed: none is busy for so long.
SILENCE = 30.0
#: Seconds that a worker has to end, where it has to.
GRACE = 10.0
#: What a worker has its log, its line to us and the first of the sockets at.
STDERR, LINE, _FIRST_SOCKET = 2, 3, 4
#: What concerns the process that systemd has started, and no other.
_NOT_INHERITED = frozenset({"LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID"})


class IHandsReactor(IReactorProcess, IReactorSocket, IReactorTime):
    """What workers need of the supervisor's reactor."""


class Head(Protocol):
    """The supervisor, for its workers."""

    def hear(self, hand: Hand, item: Item) -> None:
        """As in Office, and so are `heard` and `ask_others`."""

    def heard(self) -> None: ...

    async def ask_others(self, hand: Hand, question: str, argument: str) -> tuple[str, str]: ...

    def lost(self, hand: Hand, status: str) -> None:
        """The process has ended, or was ended; told once, with how or why."""


class Hand(ProcessProtocol):
    """Office of one process; `number` is its place, which others have before and after it.

    `served_from` is when it began to serve, None before that, and `source` the text of the file that it goes by then.
    `has_failed` says that its process has ended with an exit code of its own, and neither by a signal nor as it was
    told to.
    """

    def __init__(self, number: int, reactor: Any, head: Head) -> None:
        self.number = number
        self.served_from: float | None = None
        self.source = ""
        self.has_failed = False
        self.end = SupervisorEnd(reactor, self)
        self._reactor = reactor
        self._head = head
        self._log = LogReader(number)
        self._is_over = False
        self._why = ""  # we have ended it
        self._watch = Watch(reactor, self.end.ping, self._silent)

    def spawn(self, file: Path, count: int, ports: Iterable[Bound]) -> None:
        """Start the process; OSError where the system has none to give."""
        ours, theirs = socket.socketpair()
        with ours, theirs, open(os.devnull) as nothing:
            ours.setblocking(False)
            descriptors: dict[int, int | str] = {0: nothing.fileno(), 1: 1, STDERR: "r", LINE: theirs.fileno()}
            arguments = [sys.executable, "-P", "-m", "mailgate.worker", str(file), str(self.number), str(count)]
            for descriptor, (name, port) in enumerate(ports, _FIRST_SOCKET):
                descriptors[descriptor] = port.fileno()  # type: ignore[attr-defined]  # as all of Twisted's that listen
                arguments.append(f"{name}={descriptor}")
            self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: self.end))
            self._reactor.spawnProcess(self, sys.executable, arguments, _environment(), childFDs=descriptors)

    def serve(self) -> None:
        """It has begun to serve."""
        self.served_from = self._reactor.seconds()
        self._watch.start(SILENCE)

    def dismiss(self, why: str) -> None:
        """Close its line, which ends it, soon or by force."""
        self._why = self._why or why
        self.end.close()
        self.kill_later()

    def kill_later(self) -> None:
        """Kill it where it does not end by itself."""
        self._reactor.callLater(GRACE, self.kill)

    def kill(self, why: str = "") -> None:
        """End it now."""
        if not self._is_over and self.transport is not None:
            self._why = self._why or why
            self.transport.signalProcess("KILL")

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self.transport.pid if self.transport is not None else None

    def _silent(self, seconds: float) -> None:
        self.kill(f"has not answered for {seconds:.0f} seconds, and was killed")

    # -- the process

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802,N803  Twisted's names
        self._log.feed(data)

    def processExited(self, reason: Failure) -> None:  # noqa: N802  Twisted's name
        self._is_over = True
        self._watch.stop()
        self.end.close()
        error = reason.value
        self.has_failed = isinstance(error, ProcessTerminated) and error.signal is None
        self._head.lost(self, self._why or _status(reason))

    def processEnded(self, reason: Failure) -> None:  # noqa: N802  Twisted's name
        self._log.end()

    # -- Office

    def hear(self, item: Item) -> None:
        if not self._is_over:
            self._head.hear(self, item)

    def heard(self) -> None:
        self._head.heard()

    async def ask_others(self, question: str, argument: str) -> tuple[str, str]:
        return await self._head.ask_others(self, question, argument)

    def disconnected(self) -> None:
        """A worker without its line can share nothing: it ends by itself, and if it cannot, with its process."""


def _status(reason: Failure) -> str:
    error = reason.value
    if isinstance(error, ProcessTerminated):
        return f"killed by signal {error.signal}" if error.signal is not None else f"exit code {error.exitCode}"
    return "exit code 0"


def _environment() -> dict[str, str]:
    """Ours, with the places where we find modules, the folder of a checkout among them."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
