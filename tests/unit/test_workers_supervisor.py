"""The supervisor, with workers in memory in the place of processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ProcessDone, ProcessTerminated, ReactorNotRunning
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from mailgate.config.load import load
from mailgate.pipeline.registry import Registry
from mailgate.spool.disk import share_directory
from mailgate.workers.hand import Hand
from mailgate.workers.patience import Patience
from mailgate.workers.supervisor import Supervisor
from tests.unit.workers_line import FakeWorker, Line

TEXT = """
[gateway]
hostname = "gw.example.org"
state_dir = "state"
workers = 3

[[listeners]]
name = "mx"
endpoints = ["tcp:25", "tcp6:25"]
pipeline = "in"

[[listeners]]
name = "inside"
endpoints = ["unix:/run/in"]
pipeline = "in"

[pipelines.in]
filters = ["headers"]

[domains."example.org"]
route = "inside"

[routes.inside]
transport = "discard"
"""


class FakePort:
    """A port that was bound."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.reads = True
        self.is_closed = False

    def stopReading(self) -> None:  # noqa: N802  Twisted's names
        self.reads = False

    def fileno(self) -> int:
        return self.descriptor

    def stopListening(self) -> None:  # noqa: N802
        self.is_closed = True


class Process(FakeWorker):
    """A worker's process: its duties, and how it ends."""

    def __init__(self, reactor: Reactor, hand: Hand, arguments: Sequence[str], descriptors: dict[int, Any]) -> None:
        super().__init__(reactor)
        self.pid = 4000 + len(reactor.processes)
        self.hand = hand
        self.arguments = arguments
        self.descriptors = descriptors
        self.signals: list[str] = []
        self.is_over = False
        self.line = Line(hand.end, self.end)
        hand.makeConnection(cast(Any, self))  # type: ignore[no-untyped-call]  # Twisted's

    def signalProcess(self, name: str) -> None:  # noqa: N802  Twisted's name
        self.signals.append(name)
        if name == "KILL":
            self.die()

    def die(self, error: Exception | None = None) -> None:
        """End, by default as by kill -9."""
        if not self.is_over:
            self.is_over = True
            reason = Failure(error or ProcessTerminated(signal=9))
            self.hand.processExited(reason)
            self.line.cut()
            self.hand.processEnded(reason)


class Reactor(MemoryReactorClock):
    """Whose processes and lines are in memory. `error` is what new workers answer to `begin`, `refusal` what the system
    says to new processes. A worker that has been abandoned ends."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.processes: list[Process] = []
        self.ports: list[FakePort] = []
        self.taken: set[int] = set()
        self.error = ""
        self.refusal: OSError | None = None
        self.is_stopped = False

    def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> Any:  # noqa: N802
        if port in self.taken:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        return self._port()

    def listenUNIX(self, address: str, factory: Factory, *_: object, **__: object) -> Any:  # noqa: N802
        return self._port()

    def _port(self) -> FakePort:
        self.ports.append(FakePort(100 + len(self.ports)))
        return self.ports[-1]

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Factory) -> None:  # noqa: N802
        assert family == socket.AF_UNIX
        assert os.get_blocking(descriptor) is False
        factory.buildProtocol(None)

    def spawnProcess(  # noqa: N802
        self,
        hand: Hand,
        executable: str,
        args: Sequence[str],
        env: dict[str, str],
        childFDs: dict[int, Any],  # noqa: N803
    ) -> None:
        if self.refusal is not None:
            raise self.refusal
        process = Process(self, hand, args, childFDs)
        process.error = self.error
        self.processes.append(process)

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:  # noqa: A002,N802
        self.callLater(0, callable, *args)

    def run(self) -> None:
        self.running = True
        hooks, self.whenRunningHooks = self.whenRunningHooks, []
        for call, args, kwargs in hooks:
            call(*args, **kwargs)

    def stop(self) -> None:
        if self.is_stopped or not self.running:
            raise ReactorNotRunning
        self.is_stopped = True

    def run_on(self, seconds: float = 0.1) -> None:
        """Run; let time pass, and what is said on the lines arrive."""
        self.run()
        steps = max(10, round(seconds))
        for _ in range(steps):
            self.advance(seconds / steps)
            while sum(one.line.pump() for one in self.processes if not one.is_over):
                self.advance(0)


class Stage:
    """A supervisor and its surroundings."""

    def __init__(self, tmp_path: Path, text: str = TEXT) -> None:
        self.file = tmp_path / "mailgate.toml"
        self.file.write_text(text)
        self.state = tmp_path / "state"
        self.reactor = Reactor()
        self.codes: list[int] = []
        self.twistd: dict[str, Any] = {"pidfile": str(tmp_path / "pid")}
        (tmp_path / "pid").write_text("1")
        loaded = load(self.file, Registry().find)
        self.waits: Callable[[float], object] = lambda _: pytest.fail("nothing is to be waited for")
        self.supervisor = Supervisor(
            loaded, text, cast(Any, self.reactor), self.twistd, self.codes.append, lambda seconds: self.waits(seconds)
        )

    def begin(self) -> None:
        """Start the first worker, which has been told nothing yet."""
        self.supervisor.privilegedStartService()
        self.supervisor.startService()

    def start(self) -> Stage:
        """To the end of the start."""
        self.begin()
        self.reactor.run_on()
        return self

    @property
    def alive(self) -> list[Process]:
        """Those that run, in their places."""
        return sorted((one for one in self.reactor.processes if not one.is_over), key=lambda one: one.hand.number)

    def shut_down(self) -> None:
        """As the reactor does after `stop`."""
        self.stop()
        for _, event in self.reactor.triggers.get("after", {}).items():
            for call, args, kwargs in event:
                call(*args, **kwargs)

    def stop(self) -> list[None]:
        """Begin to stop; what is returned fills when that is over."""
        over: list[None] = []
        stopped = self.supervisor.stopService()
        assert isinstance(stopped, Deferred)
        stopped.addCallback(over.append)
        self.reactor.run_on()
        return over


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_ports_are_bound_and_never_accepted_from(stage: Stage) -> None:
    stage.supervisor.privilegedStartService()
    assert [port.reads for port in stage.reactor.ports] == [False] * 3
    assert not stage.state.exists()


def test_a_port_that_is_taken_ends_the_start(stage: Stage) -> None:
    stage.reactor.taken = {25}
    with pytest.raises(SystemExit) as error:
        stage.supervisor.privilegedStartService()
    assert [line.split(":")[1].strip() for line in str(error.value).splitlines()] == ["tcp", "tcp6"]


@pytest.mark.parametrize("ends", [True, False])
def test_a_port_that_a_worker_without_supervisor_has_is_waited_for(stage: Stage, ends: bool) -> None:
    spool = stage.state / "spool"
    spool.mkdir(parents=True)
    locks = share_directory(spool, "worker-7")
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if ends and len(waited) == 300:
            stage.reactor.taken.clear()

    stage.waits = wait
    stage.reactor.taken = {25}
    if ends:
        stage.supervisor.privilegedStartService()
        assert sum(waited) == pytest.approx(30)
        assert len(stage.reactor.ports) == 3
    else:
        with pytest.raises(SystemExit) as error:
            stage.supervisor.privilegedStartService()
        assert sum(waited) == pytest.approx(60)
        assert len(str(error.value).splitlines()) == 2
    for lock in locks:
        os.close(lock)


def test_the_ports_of_a_gateway_that_runs_are_not_waited_for(stage: Stage) -> None:
    spool = stage.state / "spool"
    spool.mkdir(parents=True)
    locks = *share_directory(spool, "worker-0"), *share_directory(spool, "supervisor")
    stage.reactor.taken = {25}
    with pytest.raises(SystemExit):
        stage.supervisor.privilegedStartService()
    for lock in locks:
        os.close(lock)


def test_workers_are_waited_for_as_long_as_they_may_drain(tmp_path: Path) -> None:
    stage = Stage(tmp_path, TEXT.replace("workers = 3", 'workers = 3\ndrain_timeout = "100s"'))
    spool = stage.state / "spool"
    spool.mkdir(parents=True)
    locks = share_directory(spool, "worker-1")
    waited: list[float] = []
    stage.waits = waited.append
    stage.reactor.taken = {25}
    with pytest.raises(SystemExit):
        stage.supervisor.privilegedStartService()
    assert sum(waited) == pytest.approx(110)
    for lock in locks:
        os.close(lock)


def test_workers_are_given_the_ports_their_line_and_the_text_of_the_file(stage: Stage) -> None:
    stage.start()
    assert [one.arguments[4:] for one in stage.alive] == [
        [str(stage.file), str(number), "3", "mx=4", "mx=5", "inside=6"] for number in range(3)
    ]
    for one in stage.alive:
        assert {number: one.descriptors[number] for number in (1, 2, 4, 5, 6)} == {1: 1, 2: "r", 4: 100, 5: 101, 6: 102}
        assert sorted(one.descriptors) == list(range(7))
        assert one.begun == (TEXT, TEXT)
    assert not stage.reactor.is_stopped


def test_only_the_first_worker_is_given_the_ports_of_http_and_each_that_takes_its_place(tmp_path: Path) -> None:
    stage = Stage(tmp_path, TEXT + '\n[http]\nendpoints = ["tcp:443"]\n').start()
    own = ["mx=4", "mx=5", "inside=6"]
    assert [one.arguments[7:] for one in stage.alive] == [[*own, "[http]=7"], own, own]
    assert stage.alive[0].descriptors[7] == 103
    stage.alive[0].die()
    stage.reactor.run_on()
    assert stage.alive[0].arguments[7:] == [*own, "[http]=7"]
    assert not any(port.is_closed for port in stage.reactor.ports)


def test_the_first_worker_starts_alone(stage: Stage) -> None:
    stage.begin()
    assert [one.hand.number for one in stage.alive] == [0]
    stage.reactor.run_on()
    assert [one.hand.number for one in stage.alive] == [0, 1, 2]


def test_whoever_started_us_in_the_background_hears_when_all_serve(stage: Stage) -> None:
    read, written = os.pipe()
    stage.twistd["statusPipe"] = written
    os.set_blocking(read, False)
    stage.begin()
    assert "statusPipe" not in stage.twistd  # twistd would say at once that all is well
    with pytest.raises(BlockingIOError):
        os.read(read, 10)
    stage.reactor.run_on()
    assert os.read(read, 10) == b"0"
    assert os.read(read, 10) == b""
    os.close(read)


def test_a_worker_that_cannot_start_ends_the_start(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    read, written = os.pipe()
    stage.twistd["statusPipe"] = written
    stage.reactor.error = "mailgate: cannot start: the spool is damaged"
    stage.start()
    assert capsys.readouterr().err == f"{stage.reactor.error}\n"
    assert os.read(read, 100) == b"1 " + stage.reactor.error.encode()
    os.close(read)
    assert stage.reactor.is_stopped
    assert [one.hand.number for one in stage.reactor.processes] == [0]
    stage.shut_down()
    assert stage.codes == [1]
    assert not Path(stage.twistd["pidfile"]).exists()


def test_a_worker_that_fails_at_the_start_ends_it_too(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.begin()
    stage.reactor.processes[0].die(ProcessTerminated(exitCode=1))
    stage.reactor.run_on()
    told = "mailgate: cannot start: worker 0 ended at its start (exit code 1)\n"
    assert capsys.readouterr().err == told
    assert len(stage.reactor.processes) == 1
    stage.shut_down()
    assert stage.codes == [1]


@pytest.mark.parametrize("line_first", [False, True])
@pytest.mark.parametrize("end", [ProcessTerminated(signal=9), ProcessTerminated(signal=15), ProcessDone(0)])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_worker_that_is_killed_at_the_start_is_replaced(
    stage: Stage, number: int, end: Exception, line_first: bool
) -> None:
    read, written = os.pipe()
    stage.twistd["statusPipe"] = written
    os.set_blocking(read, False)
    stage.begin()
    if number:
        stage.reactor.processes[0].line.pump()
    killed = next(one for one in stage.alive if one.hand.number == number)
    assert killed.hand.served_from is None
    if line_first:
        killed.line.cut()
        stage.reactor.advance(0)
        with pytest.raises(BlockingIOError):
            os.read(read, 10)
    killed.die(end)
    stage.reactor.run_on()
    assert [one.hand.number for one in stage.alive] == [0, 1, 2]
    assert all(one.hand.served_from is not None for one in stage.alive)
    assert killed not in stage.alive
    assert [told for one in stage.alive for told, _ in one.ends] == [number]
    assert os.read(read, 10) == b"0"
    os.close(read)
    assert not stage.reactor.is_stopped


def test_a_worker_that_serves_is_replaced_while_others_start(stage: Stage) -> None:
    stage.begin()
    first = stage.reactor.processes[0]
    first.line.pump()
    assert first.hand.served_from is not None
    first.die()
    stage.reactor.run_on()
    assert [one.hand.number for one in stage.alive] == [0, 1, 2]
    assert not stage.reactor.is_stopped


def always_killed(stage: Stage, number: int, seconds: int) -> list[float]:
    """When the worker of a place was killed, again and again, before it served."""
    stage.reactor.run()
    moments: list[float] = []
    for _ in range(2 * seconds):
        for one in stage.alive:
            if one.hand.number == number:
                moments.append(stage.reactor.seconds())
                one.die()
            else:
                one.line.pump()
        stage.reactor.advance(0.5)
    return moments


def test_a_first_worker_that_is_always_killed_at_the_start_ends_it(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.begin()
    moments = always_killed(stage, 0, 100)
    assert len(moments) == 10
    pauses = [round(later - earlier) for earlier, later in pairwise(moments)]
    assert pauses[-6:] == [1, 2, 4, 8, 16, 30]
    assert stage.reactor.is_stopped
    assert capsys.readouterr().err == "mailgate: worker 0 cannot start: killed by signal 9\n"
    stage.shut_down()
    assert stage.codes == [1]


def test_another_worker_that_is_always_killed_is_tried_for_ever_and_holds_up_nobody(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    read, written = os.pipe()
    stage.twistd["statusPipe"] = written
    stage.begin()
    stage.reactor.processes[0].line.pump()
    moments = always_killed(stage, 1, 600)
    pauses = [round(later - earlier) for earlier, later in pairwise(moments)]
    assert set(pauses[8:]) == {30}
    assert len(moments) > 20
    assert not stage.reactor.is_stopped
    assert capsys.readouterr().err == ""
    assert {0, 2} <= {one.hand.number for one in stage.alive}
    assert os.read(read, 10) == b"0"
    os.close(read)


def test_a_worker_that_is_replaced_at_the_start_and_cannot_start_ends_it(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.begin()
    stage.reactor.error = "mailgate: cannot start: the spool is damaged"
    stage.reactor.processes[0].die()
    stage.reactor.run_on()
    assert capsys.readouterr().err == f"{stage.reactor.error}\n"
    assert stage.reactor.is_stopped


def test_a_worker_without_a_line_that_does_not_end_is_killed_and_replaced(stage: Stage) -> None:
    stage.begin()
    stuck = stage.reactor.processes[0]
    stuck.line.cut()
    stage.reactor.run_on(9)
    assert stuck.signals == []
    stage.reactor.run_on(2)
    assert stuck.signals == ["KILL"]
    assert [one.hand.number for one in stage.alive] == [0, 1, 2]


def test_a_system_that_starts_no_process_ends_the_start(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.reactor.refusal = PermissionError(13, "Permission denied")
    stage.begin()  # before the reactor runs, when it cannot be stopped
    stage.reactor.run_on()
    assert capsys.readouterr().err == "mailgate: cannot start: worker 0: [Errno 13] Permission denied\n"
    assert stage.reactor.is_stopped
    assert stage.stop() == [None]
    stage.shut_down()
    assert stage.codes == [1]


def test_a_system_that_starts_no_process_later_is_asked_again(stage: Stage) -> None:
    stage.start()
    stage.reactor.refusal = BlockingIOError(11, "Resource temporarily unavailable")
    stage.alive[1].die()
    stage.reactor.run_on()
    assert [one.hand.number for one in stage.alive] == [0, 2]
    stage.reactor.refusal = None
    stage.reactor.run_on(10)
    assert [one.hand.number for one in stage.alive] == [0, 1, 2]
    assert not stage.reactor.is_stopped


def test_a_second_gateway_on_the_same_spool_is_refused(stage: Stage, tmp_path: Path) -> None:
    stage.start()
    other = Stage(tmp_path)
    other.supervisor.privilegedStartService()
    with pytest.raises(SystemExit, match=rf"another process \({os.getpid()}\) is using the spool"):
        other.supervisor.startService()


def test_a_worker_that_outlived_its_supervisor_is_waited_for(stage: Stage) -> None:
    spool = stage.state / "spool"
    spool.mkdir(parents=True)
    locks = share_directory(spool, "worker-1")
    stage.start()
    stage.reactor.run_on(10)
    assert [one.hand.number for one in stage.alive] == [0, 2]
    for lock in locks:
        os.close(lock)
    stage.reactor.run_on(1)
    assert [one.hand.number for one in stage.alive] == [0, 1, 2]


# -- a worker ends


def test_a_worker_that_is_killed_is_replaced_at_once_and_told_of(stage: Stage) -> None:
    stage.start()
    first, second, third = stage.alive
    first.die()
    stage.reactor.run_on()
    assert [one.hand.number for one in stage.alive] == [0, 1, 2]
    assert stage.alive[0] is not first
    assert (second.ends, third.ends) == ([(0, "killed by signal 9")], [])
    assert not stage.reactor.is_stopped


def test_what_a_dead_worker_held_is_free_for_the_others(stage: Stage) -> None:
    stage.start()
    first, second, _ = stage.alive
    first.shared.slots.acquire("mx", 1, lambda: None)
    first.shared.tally.add("open", 2)
    stage.reactor.run_on()
    waiting = second.shared.slots.acquire("mx", 1, lambda: None)
    stage.reactor.run_on()
    assert second.shared.tally.total("open") == 2
    assert not waiting.called
    first.die()
    stage.reactor.run_on()
    assert waiting.called
    assert second.shared.tally.total("open") == 0


def test_when_all_have_died_the_next_one_tells_of_it(stage: Stage) -> None:
    stage.start()
    for one in stage.alive:
        one.die(ProcessDone(0))
    stage.reactor.run_on()
    told = [end for one in stage.alive for end in one.ends]
    assert sorted(told) == [(number, "exit code 0") for number in range(3)]


def end_abandoned(stage: Stage) -> None:
    """Workers whose line was closed end."""
    for one in stage.alive:
        if one.is_abandoned:
            one.die(ProcessDone(0))


@pytest.mark.parametrize("at_start", [False, True])
def test_a_worker_that_cannot_start_is_tried_again_for_ever_while_others_serve(
    stage: Stage, capsys: pytest.CaptureFixture[str], at_start: bool
) -> None:
    error = "mailgate.toml:1: a list cannot be read\nmailgate.toml:2: the disk is full"
    if at_start:
        stage.begin()
        stage.reactor.error = error
        stage.reactor.processes[0].line.pump()
        stage.alive[2].error = ""
    else:
        stage.start()
        stage.reactor.error = error
        stage.alive[1].die()
        stage.reactor.run_on()
    for _ in range(700):
        end_abandoned(stage)
        stage.reactor.run_on(1)
    assert [one.hand.number for one in stage.alive if not one.is_abandoned] == [0, 2]
    told = "cannot start: mailgate.toml:1: a list cannot be read; mailgate.toml:2: the disk is full"
    ends = [end for end in stage.alive[0].ends if end == (1, told)]
    assert 25 < len(ends) < 35
    stage.reactor.error = ""
    for _ in range(35):
        end_abandoned(stage)
        stage.reactor.run_on(1)
    assert [one.hand.number for one in stage.alive] == [0, 1, 2]
    assert all(one.hand.served_from is not None for one in stage.alive)
    assert not stage.reactor.is_stopped
    assert capsys.readouterr().err == ""


def test_a_worker_that_fails_at_its_start_is_tried_again_once_another_has_served(stage: Stage) -> None:
    stage.begin()
    stage.reactor.processes[0].line.pump()
    stage.alive[1].die(ProcessTerminated(exitCode=1))
    stage.reactor.run_on()
    assert [one.hand.number for one in stage.alive] == [0, 1, 2]
    assert (1, "exit code 1") in stage.alive[0].ends


def test_a_worker_that_does_not_end_when_it_is_dismissed_is_killed(stage: Stage) -> None:
    stage.start()
    stage.reactor.error = "mailgate: cannot start: the disk is full"
    stage.alive[1].die()
    stage.reactor.run_on(1)
    stuck = stage.alive[1]
    assert stuck.is_abandoned
    stage.reactor.error = ""
    stage.reactor.run_on(11)
    assert stuck.signals == ["KILL"]
    assert stage.alive[1] is not stuck


def test_patience() -> None:
    patience = Patience()
    assert [patience.after(0.5) for _ in range(10)] == [0, 0, 0, 1, 2, 4, 8, 16, 30, 30]
    assert patience.after(10.0) == 0
    assert [patience.after(None) for _ in range(9)] == [0, 0, 0, 1, 2, 4, 8, 16, 30]
    assert patience.after(1.0) == 30
    assert patience.after(3600.0) == 0
    ends = []
    for _ in range(12):
        patience.after(None)
        ends.append(patience.is_at_end)
    assert ends == [False] * 9 + [True] * 3
    assert patience.after(None) == 30
    for _ in range(5000):
        patience.after(None)
    patience.after(1.0)
    assert not patience.is_at_end


# -- a worker hangs


def test_a_worker_that_hangs_is_killed_and_replaced(stage: Stage) -> None:
    stage.start()
    stuck = stage.alive[1]
    stuck.line.hangs = True
    stage.reactor.run_on(28)
    assert stuck.signals == []
    stage.reactor.run_on(6)
    assert stuck.signals == ["KILL"]
    assert [one.hand.number for one in stage.alive] == [0, 1, 2]
    assert stage.alive[0].ends == [(1, "has not answered for 30 seconds, and was killed")]
    stage.reactor.run_on(300)
    assert len(stage.reactor.processes) == 4


def test_a_worker_that_is_busy_for_a_while_is_left_alone(stage: Stage) -> None:
    stage.start()
    busy = stage.alive[2]
    for _ in range(10):
        busy.line.hangs = True
        stage.reactor.run_on(25)
        busy.line.hangs = False
        stage.reactor.run_on(4)
    assert busy.signals == []
    assert len(stage.reactor.processes) == 3


def test_a_clock_that_is_put_forward_kills_nobody(stage: Stage) -> None:
    stage.start()
    for _ in range(5):
        stage.reactor.advance(3600)
    stage.reactor.run_on(20)
    assert len(stage.reactor.processes) == 3


def test_a_worker_that_hangs_at_its_start_is_replaced(stage: Stage) -> None:
    stage.start()
    stage.alive[1].die()
    stage.reactor.advance(0)
    stuck = stage.alive[1]
    stuck.line.hangs = True
    stage.reactor.run_on(590)
    assert stage.alive[1] is stuck
    stage.reactor.run_on(12)
    assert stuck.signals == ["KILL"]
    assert (1, "has not begun to serve for 600 seconds, and was killed") in stage.alive[0].ends
    assert stage.alive[1].hand.served_from is not None


def test_little_waits_for_a_worker_that_takes_nothing(stage: Stage) -> None:
    stage.start()
    first, second, _ = stage.alive
    second.shared.slots.acquire("mx", 1, lambda: None)
    stage.reactor.run_on()
    end = second.hand.end
    end.pauseProducing()
    before = len(cast(Any, end.transport).value())
    for number in range(500):
        first.shared.tally.add(f"open {number % 5}", 1)
        first.shared.slots.acquire("mx", 1, lambda: None)
        first.shared.slots.acquire(f"mx {number}", 1, lambda: None)
        stage.reactor.run_on(0.02)
        assert len(end._items) <= 1
    assert len(cast(Any, end.transport).value()) <= before + 200  # a question whether it is there
    assert second.shared.tally.total("open 1") == 0
    end.resumeProducing()
    stage.reactor.run_on()
    assert second.shared.tally.total("open 1") == 100
    assert end._items == []


def test_a_line_that_waits_can_be_closed(stage: Stage) -> None:
    stage.start()
    hand = stage.alive[1].hand
    transport = cast(Any, hand.end.transport)
    assert transport.producer is hand.end
    hand.end.pauseProducing()
    hand.dismiss("")
    assert transport.producer is None
    assert transport.disconnecting


# -- questions to all


def test_a_question_reaches_the_others_that_serve(stage: Stage) -> None:
    stage.start()
    for number, one in enumerate(stage.alive):
        one.answers = lambda question, argument, number=number: (f"[{number}, {argument}]", "")  # type: ignore[misc]
    asked = Deferred.fromCoroutine(stage.alive[0].end.ask_others("sites", "null"))
    stage.reactor.run_on()
    found: list[object] = []
    asked.addCallback(found.append)
    assert found == [("[[1, null],[2, null]]", "")]
    stage.alive[1].answers = lambda *_: ("null", "the disk is full")
    silent = Deferred.fromCoroutine(stage.alive[0].end.ask_others("expand", "null"))
    stage.reactor.advance(0)
    dying = stage.alive[2]
    dying.line.pump()
    stage.alive[0].line.pump()
    dying.die()
    stage.reactor.run_on()
    silent.addCallback(found.append)
    assert found[1] == ("[]", "not all workers have answered: worker 1: the disk is full")


@pytest.mark.parametrize(("question", "seconds"), [("sites", 5), ("expand", 60), ("bounce", 600)])
def test_a_question_that_a_worker_does_not_answer(stage: Stage, question: str, seconds: int) -> None:
    stage.start()
    stage.alive[1].stalls = True
    asked = Deferred.fromCoroutine(stage.alive[0].end.ask_others(question, "null"))
    stage.reactor.run_on(seconds - 1)
    assert not asked.called
    stage.reactor.run_on(2)
    found: list[object] = []
    asked.addCallback(found.append)
    assert found == [("[null]", f"not all workers have answered: worker 1: no answer for {seconds} seconds")]
    assert len(stage.alive) == 3


# -- reload


def test_a_good_file_is_taken_by_all_and_by_those_that_come_later(stage: Stage) -> None:
    stage.start()
    changed = TEXT + "\n# changed\n"
    stage.file.write_text(changed)
    stage.supervisor.reload()
    stage.reactor.run_on()
    assert [(one.prepared, one.settled) for one in stage.alive] == [([changed], [""])] * 3
    stage.file.write_text("nonsense")  # nobody has asked for this yet
    stage.alive[1].die()
    stage.reactor.run_on()
    assert stage.alive[1].begun == (TEXT, changed)


def test_a_file_that_one_refuses_is_refused_by_all(stage: Stage) -> None:
    stage.start()
    stage.alive[2].errors = "mailgate.toml:3: a\nmailgate.toml:4: b"
    stage.supervisor.reload()
    stage.reactor.run_on()
    assert [one.settled for one in stage.alive] == [["mailgate.toml:3: a\nmailgate.toml:4: b"]] * 3
    stage.alive[0].die()
    stage.reactor.run_on()
    assert stage.alive[0].begun == (TEXT, TEXT)


def test_a_file_that_cannot_be_read_is_refused_by_all(stage: Stage) -> None:
    stage.start()
    stage.file.unlink()
    stage.supervisor.reload()
    stage.reactor.run_on()
    for one in stage.alive:
        assert one.prepared == []
        assert [text.split(": ")[1] for text in one.settled] == ["cannot be read"]


def test_reloads_that_come_together(stage: Stage) -> None:
    stage.start()
    for _ in range(5):
        stage.supervisor.reload()
    stage.reactor.run_on()
    assert [one.settled for one in stage.alive] == [["", ""]] * 3


def test_a_worker_that_dies_in_a_reload_does_not_hold_it_up(stage: Stage) -> None:
    stage.start()
    dying = stage.alive[1]
    changed = TEXT + "\n# changed\n"
    stage.file.write_text(changed)
    stage.supervisor.reload()
    dying.die()
    stage.reactor.run_on()
    assert [stage.alive[number].settled for number in (0, 2)] == [[""], [""]]
    replaced = stage.alive[1]
    assert replaced is not dying
    assert changed in (replaced.begun or ()) or replaced.prepared == [changed]


def test_a_reload_goes_on_without_a_worker_that_hangs(stage: Stage) -> None:
    stage.start()
    stuck = stage.alive[1]
    changed = TEXT + "\n# changed\n"
    stage.file.write_text(changed)
    stuck.line.hangs = True
    stage.supervisor.reload()
    stage.reactor.run_on(20)
    assert [stage.alive[number].settled for number in (0, 2)] == [[], []]
    stage.reactor.run_on(15)
    assert stuck.signals == ["KILL"]
    assert [stage.alive[number].settled for number in (0, 2)] == [[""], [""]]
    assert stage.alive[1].begun == (TEXT, changed) or stage.alive[1].prepared == [changed]
    stage.supervisor.reload()  # and the next one is as any other
    stage.reactor.run_on()
    assert [one.settled[-1:] for one in stage.alive] == [[""]] * 3


def test_a_worker_that_reads_tables_for_long_is_waited_for(stage: Stage) -> None:
    stage.start()
    slow = stage.alive[1]
    read: Deferred[str] = Deferred()

    async def prepare(source: str) -> str:
        return await read

    slow.prepare = prepare  # type: ignore[method-assign]
    stage.file.write_text(TEXT + "\n# changed\n")
    stage.supervisor.reload()
    stage.reactor.run_on(300)
    assert [one.settled for one in stage.alive] == [[], [], []]
    read.callback("")
    stage.reactor.run_on()
    assert stage.alive[1] is slow
    assert [one.settled for one in stage.alive] == [[""], [""], [""]]


def test_a_worker_that_hangs_when_it_is_to_settle_is_replaced(stage: Stage) -> None:
    stage.start()
    stuck = stage.alive[1]
    changed = TEXT + "\n# changed\n"
    stage.file.write_text(changed)

    async def prepare(source: str) -> str:
        stuck.line.hangs = True
        return ""

    stuck.prepare = prepare  # type: ignore[method-assign]
    stage.supervisor.reload()
    stage.reactor.run_on(40)
    assert stuck.signals == ["KILL"]
    assert changed in (stage.alive[1].begun or ())
    assert [stage.alive[number].settled for number in (0, 2)] == [[""], [""]]


@pytest.mark.parametrize("errors", ["", "mailgate.toml:3: a"])
def test_a_worker_that_begins_to_serve_during_a_reload(stage: Stage, errors: str) -> None:
    stage.start()
    old = stage.alive[0], stage.alive[2]
    stage.alive[1].die()
    changed = TEXT + "\n# changed\n"
    stage.file.write_text(changed)
    for one in old:
        one.line.hangs = True
        one.errors = errors
    stage.supervisor.reload()
    stage.reactor.run_on()
    new = stage.alive[1]
    assert new.hand.served_from is not None
    assert new.begun == (TEXT, TEXT)
    for one in old:
        one.line.hangs = False
    stage.reactor.run_on()
    assert [one.settled for one in old] == [[errors]] * 2
    assert (new.prepared, new.settled) == (([], []) if errors else ([changed], [""]))


def test_a_file_that_nobody_could_read_changes_nothing(stage: Stage) -> None:
    stage.start()
    stage.file.write_text("nonsense")
    stage.supervisor.reload()
    for one in stage.alive:
        one.die()
    stage.reactor.run_on()
    assert [one.begun for one in stage.alive] == [(TEXT, TEXT)] * 3


def test_a_file_that_changes_while_it_starts(stage: Stage) -> None:
    stage.file.write_text(TEXT.replace('"mx"', '"other"'))
    stage.start()
    # Workers go by the text whose ports they are given.
    assert {one.begun for one in stage.alive} == {(TEXT, TEXT)}


# -- stop


def test_all_drain_and_then_the_ports_are_closed(stage: Stage) -> None:
    stage.start()
    for port in stage.reactor.ports:
        assert not port.is_closed
    over = stage.stop()
    assert all(one.is_draining for one in stage.alive)
    assert all(port.is_closed for port in stage.reactor.ports)
    assert not over
    for one in stage.alive:
        one.die(ProcessDone(0))
    assert over == [None]
    assert len(stage.reactor.processes) == 3
    share = share_directory(stage.state / "spool", "supervisor")  # the spool is free
    for lock in share:
        os.close(lock)


def test_a_worker_that_does_not_end_is_killed(stage: Stage) -> None:
    stage.start()
    over = stage.stop()
    stage.reactor.run_on(39)
    assert not over
    stage.reactor.run_on(2)
    assert over == [None]
    assert [one.signals for one in stage.reactor.processes] == [["KILL"]] * 3


def test_a_worker_that_waits_for_its_next_start_is_not_started(stage: Stage) -> None:
    stage.start()
    for _ in range(4):
        stage.alive[0].die()
        stage.reactor.run_on(0.1)
    assert [one.hand.number for one in stage.alive] == [1, 2]
    for one in stage.alive:
        one.die(ProcessDone(0))
    over = stage.stop()
    started = len(stage.reactor.processes)
    for one in stage.alive:
        one.die(ProcessDone(0))
    stage.reactor.run_on(60)
    assert over == [None]
    assert len(stage.reactor.processes) == started


def test_what_filters_remember_outlives_a_restart_and_is_common(tmp_path: Path) -> None:
    stage = Stage(tmp_path).start()
    stage.alive[0].shared.counters.put("key", bytes(range(256)), 1e9)
    stage.alive[1].shared.counters.hit("key", 1e6, 5)
    stage.reactor.run_on(0.1)
    for one in stage.alive:
        one.die(ProcessDone(0))
    assert stage.stop() == [None]
    again = Stage(tmp_path).start()
    found = again.alive[2].shared.counters.get("key"), again.alive[2].shared.counters.peek("key", 1e6)
    again.reactor.run_on(0.1)
    results: list[object] = []
    for answer in found:
        cast("Deferred[object]", answer).addCallback(results.append)
    assert results == [bytes(range(256)), 5]
    for process in again.alive:
        process.die(ProcessDone(0))
    again.stop()
