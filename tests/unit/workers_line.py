"""Workers and a supervisor's office in memory: real ends of real lines, with Twisted's transports of memory between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mailgate.stores.counters import MemoryCounters
from mailgate.workers.commands import Item
from mailgate.workers.ends import Office, SupervisorEnd, WorkerEnd
from mailgate.workers.ledger import Ledger
from mailgate.workers.shared import Shared

__all__ = ["FakeWorker", "Line", "Room"]


class FakeWorker:
    """Duties of a worker, taken down. `errors` are its answers to `prepare`, `error` that to `begin`."""

    def __init__(self, clock: Clock) -> None:
        self.end = WorkerEnd(clock, self)
        self.shared = Shared(self.end.send)
        self.hear = self.shared.hear
        self.begun: tuple[str, str] | None = None
        self.error = ""
        self.errors = ""
        self.prepared: list[str] = []
        self.settled: list[str] = []
        self.ends: list[tuple[int, str]] = []
        self.is_draining = self.is_abandoned = False
        self.stalls = False  # says nothing to `drain`, and to questions
        self.answers: Callable[[str, str], tuple[str, str]] = lambda question, argument: ("null", "")

    async def begin(self, started: str, running: str) -> str:
        self.begun = started, running
        return self.error

    async def prepare(self, source: str) -> str:
        self.prepared.append(source)
        return self.errors

    def settle(self, errors: str) -> None:
        self.settled.append(errors)

    async def drain(self) -> float:
        self.is_draining = True
        if self.stalls:
            await Deferred()
        return 30.0

    def ended(self, worker: int, status: str) -> None:
        self.ends.append((worker, status))

    async def answer(self, question: str, argument: str) -> tuple[str, str]:
        if self.stalls:
            await Deferred()
        return self.answers(question, argument)

    def abandoned(self) -> None:
        self.is_abandoned = True
        self.shared.close()


class Line:
    """Two connected ends; what is said there moves when it is pumped."""

    def __init__(self, office: SupervisorEnd, worker: WorkerEnd) -> None:
        self._ends = office, worker
        self._wires = StringTransport(), StringTransport()
        self._is_whole = True
        self.hangs = False  # the worker neither hears nor says anything
        for end, wire in zip(self._ends, self._wires, strict=True):
            end.makeConnection(wire)

    def pump(self) -> bool:
        """Move all there is; whether that was anything."""
        moved = False
        while self._is_whole and not self.hangs and self._move():
            moved = True
        return moved

    def cut(self) -> None:
        """Each end sees the other one go."""
        if self._is_whole:
            self._is_whole = False
            for end in self._ends:
                end.connectionLost(Failure(ConnectionDone()))

    def _move(self) -> bool:
        moved = False
        for wire, other in zip(self._wires, reversed(self._ends), strict=True):
            if octets := wire.value():
                wire.clear()
                other.dataReceived(octets)  # type: ignore[no-untyped-call]  # Twisted's
                moved = True
        if not moved and any(wire.disconnecting for wire in self._wires):
            self.cut()
        return moved


class _Desk(Office):
    """The office of one worker in a room."""

    def __init__(self, room: Room, number: int) -> None:
        self._room, self._number = room, number

    def hear(self, item: Item) -> None:
        self._room.ledger.hear(self._number, item)

    def heard(self) -> None:
        for end in self._room.ends.values():
            end.hurry()

    async def ask_others(self, question: str, argument: str) -> tuple[str, str]:
        return f'["{question} {len(argument)}"]', ""

    def disconnected(self) -> None:
        pass


class Room:
    """A ledger and workers that share it."""

    def __init__(self, count: int = 2) -> None:
        self.clock = Clock()
        self.ends: dict[int, SupervisorEnd] = {}
        self.ledger = Ledger(
            self.clock, MemoryCounters(self.clock, 1000), lambda number, item: self.ends[number].send(item)
        )
        self.workers = [FakeWorker(self.clock) for _ in range(count)]
        self._lines: dict[int, Line] = {}
        for number in range(count):
            self.join(number)

    def join(self, number: int) -> FakeWorker:
        """A worker, new in this place."""
        self.workers[number] = FakeWorker(self.clock)
        self.ends[number] = SupervisorEnd(self.clock, _Desk(self, number))
        self._lines[number] = Line(self.ends[number], self.workers[number].end)
        self.ledger.join(number)
        return self.workers[number]

    def leave(self, number: int) -> None:
        """The worker dies."""
        self._lines.pop(number).cut()
        del self.ends[number]
        self.ledger.leave(number)

    def cut(self, number: int) -> None:
        """The worker's line breaks, with what is on its way."""
        self._lines[number].cut()

    def run(self, seconds: float = 0.05) -> None:
        """Let everything be said that is to be said in a while."""
        for _ in range(4):
            self.clock.advance(seconds / 4)
            self.ledger.publish()
            self.clock.advance(0)
            while sum(line.pump() for line in self._lines.values()):
                pass

    def shared(self, number: int) -> Any:
        """What this worker shares."""
        return self.workers[number].shared
