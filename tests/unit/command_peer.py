"""Processes in memory: a reactor whose commands are what the test says, behind pipes that it turns itself."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IProcessProtocol, IProcessTransport, IPushProducer
from twisted.internet.task import Clock
from twisted.python.failure import Failure

__all__ = ["Machine", "Program"]

Program = Callable[[Mapping[str, Any], bytes], "bytes | None"]
"""What a command writes for a question and its content; None where it writes nothing."""


class Process:
    """One that was started: the transport of its protocol."""

    def __init__(self, machine: Machine, protocol: IProcessProtocol, pid: int) -> None:
        self.pid = pid
        self.producer: IPushProducer | None = None
        self.is_alive = True
        self.stdin = b""
        self.is_closed = False
        self._machine = machine
        self._protocol = protocol
        self._calls: list[IDelayedCall] = []

    def write(self, octets: bytes) -> None:
        if self.is_alive:
            self.stdin += octets
            self._later(self._look)

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:  # noqa: N802 (Twisted's)
        self.producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802 (Twisted's)
        self.producer = None

    def closeStdin(self) -> None:  # noqa: N802 (Twisted's)
        self.is_closed = True
        self._later(self._look)

    def loseConnection(self) -> None:  # noqa: N802 (Twisted's)
        pass

    def signalProcess(self, name: str) -> None:  # noqa: N802 (Twisted's)
        if not self.is_alive:
            raise ProcessExitedAlready()
        self.end(ProcessTerminated(signal=signal.SIGKILL))

    def say(self, octets: bytes) -> None:
        """It writes to its standard output."""
        if self.is_alive:
            self._protocol.childDataReceived(1, octets)

    def complain(self, octets: bytes) -> None:
        """It writes to its standard error."""
        self._protocol.childDataReceived(2, octets)

    def end(self, how: Exception) -> None:
        """It ends."""
        if self.is_alive:
            self.is_alive = False
            for call in self._calls:
                if call.active():
                    call.cancel()
            self._protocol.processExited(Failure(how))
            self._protocol.processEnded(Failure(how))

    def _look(self) -> None:
        line, found, rest = self.stdin.partition(b"\n")
        if found:
            asked = json.loads(line)
            size = 0 if "file" in asked else asked["size"]
            if len(rest) >= size:
                self.stdin = rest[size:]
                self._machine.asked.append(asked)
                said = self._machine.program(asked, rest[:size])
                if said is not None:
                    self.say(said)
        if self.is_closed and self.is_alive and not self._machine.lingers:
            self.end(ProcessDone(None) if not self._machine.status else ProcessTerminated(self._machine.status))

    def _later(self, call: Callable[[], None]) -> None:
        self._calls.append(self._machine.callLater(0, call))


class Machine:
    """A clock with processes. `asked` are all questions; a process ends well when its input does, unless `status` says
    otherwise or it `lingers`; `ended` are the groups that were ended."""

    def __init__(self, program: Program, clock: Clock | None = None, status: int = 0, lingers: bool = False) -> None:
        self.clock = clock or Clock()
        self.program = program
        self.status = status
        self.lingers = lingers
        self.asked: list[Mapping[str, Any]] = []
        self.started: list[tuple[Sequence[str], Mapping[str, str]]] = []
        self.processes: list[Process] = []
        self.ended: list[int] = []

    @property
    def running(self) -> int:
        """How many processes live."""
        return sum(one.is_alive for one in self.processes)

    def seconds(self) -> float:
        return self.clock.seconds()

    def callLater(self, delay: float, callable: Callable[..., object], *values: object) -> IDelayedCall:  # noqa: A002
        return self.clock.callLater(delay, callable, *values)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:  # noqa: N802 (Twisted's)
        return list(self.clock.getDelayedCalls())

    def spawnProcess(  # noqa: N802 (Twisted's)
        self, protocol: IProcessProtocol, executable: str, args: Sequence[str], env: Mapping[str, str]
    ) -> Process:
        self.started.append((args, env))
        process = Process(self, protocol, 2**30 + len(self.processes))  # no process has such a number
        self.processes.append(process)
        protocol.makeConnection(cast(IProcessTransport, process))
        return process
