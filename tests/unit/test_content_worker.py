"""Worker processes: how they are asked and replaced, and that a real one keeps to its limits."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.content.frames import FrameError, Frames, frame
from mailgate.content.inside import serve
from mailgate.content.models import Examination, Part, Problem, Question
from mailgate.content.worker import Inline, WorkerError, Workers, make_examiner

encode, decode = msgspec.msgpack.encode, msgspec.msgpack.Decoder(Examination).decode


class Process:
    """A process as the workers see it."""

    def __init__(self, protocol: ProcessProtocol, arguments: list[str], environment: dict[str, str]) -> None:
        self.protocol: Any = protocol
        self.arguments = arguments
        self.environment = environment
        self.written = b""
        self.killed = False
        protocol.transport = self  # type: ignore[assignment]  # as much of one as is needed

    def write(self, data: bytes) -> None:
        self.written += data

    def signalProcess(self, signal: str) -> None:  # noqa: N802  Twisted's name
        assert signal == "KILL"
        self.killed = True

    def ready(self) -> None:
        self.protocol.outReceived(frame(b""))

    def answer(self, found: Examination) -> None:
        self.protocol.outReceived(frame(encode(found)))

    def die(self) -> None:
        self.protocol.processEnded(Failure(ProcessTerminated(signal=11)))

    def questions(self) -> list[Question]:
        return [msgspec.msgpack.decode(one, type=Question) for one in Frames(1 << 30).feed(self.written)]


@implementer(IReactorProcess)
class Processes:
    """Starts nothing, and remembers what it was to start."""

    def __init__(self) -> None:
        self.started: list[Process] = []
        self.fault: OSError | None = None

    def spawnProcess(  # noqa: N802  Twisted's name
        self,
        processProtocol: Any,  # noqa: N803
        executable: Any,
        args: Any,
        env: Any = None,
        path: Any = None,
        uid: Any = None,
        gid: Any = None,
        usePTY: Any = False,  # noqa: N803
        childFDs: Any = None,  # noqa: N803
    ) -> Any:
        if self.fault:
            raise self.fault
        self.started.append(Process(processProtocol, args, env))


class Desk:
    def __init__(self, processes: int = 1) -> None:
        self.clock = Clock()
        self.reactor = Processes()
        self.workers = Workers(self.reactor, self.clock, processes=processes, timeout=5.0, memory=1 << 30)

    def ask(self, data: bytes = b"x") -> list[Any]:
        results: list[Any] = []
        self.last: Deferred[Examination] = self.workers.ask(Question(data=data))
        self.last.addBoth(results.append)
        return results


FOUND = Examination(parts=(Part(0, size=7),))


def test_a_question_starts_a_process_and_has_its_answer() -> None:
    desk = Desk()
    results = desk.ask(b"hello")
    (process,) = desk.reactor.started
    assert process.questions() == []
    process.ready()
    assert process.questions() == [Question(data=b"hello")]
    process.answer(FOUND)
    assert results == [FOUND]
    assert process.arguments[-2:] == [str(1 << 30), "6"]
    assert set(process.environment) == {"PYTHONPATH", "LC_ALL", "PATH"}


def test_one_process_answers_one_question_at_a_time_and_is_used_again() -> None:
    desk = Desk()
    first, second = desk.ask(b"1"), desk.ask(b"2")
    (process,) = desk.reactor.started
    process.ready()
    assert [one.data for one in process.questions()] == [b"1"]
    process.answer(FOUND)
    assert [one.data for one in process.questions()] == [b"1", b"2"]
    process.answer(Examination())
    assert (first, second) == ([FOUND], [Examination()])
    assert len(desk.reactor.started) == 1


def test_processes_are_bounded() -> None:
    desk = Desk(2)
    for _ in range(5):
        desk.ask()
    assert len(desk.reactor.started) == 2


def test_a_process_that_dies_is_an_answer_and_is_replaced() -> None:
    desk = Desk()
    first, second = desk.ask(b"1"), desk.ask(b"2")
    process = desk.reactor.started[0]
    process.ready()
    process.die()
    assert first[0].failure.kind == "crash"
    assert second == []
    again = desk.reactor.started[1]
    again.ready()
    assert [one.data for one in again.questions()] == [b"2"]


def test_a_process_that_is_too_slow_is_killed() -> None:
    desk = Desk()
    results = desk.ask()
    process = desk.reactor.started[0]
    process.ready()
    desk.clock.advance(4.9)
    assert not process.killed
    desk.clock.advance(0.2)
    assert process.killed
    assert results[0].failure.kind == "time"
    process.die()  # its end comes later, and changes nothing
    assert len(results) == 1
    assert desk.clock.getDelayedCalls() == []


def test_giving_up_kills_and_leaves_nothing() -> None:
    desk = Desk()
    results = desk.ask()
    process = desk.reactor.started[0]
    process.ready()
    desk.last.cancel()
    assert results[0].check(CancelledError)
    assert process.killed
    assert desk.clock.getDelayedCalls() == []


def test_giving_up_before_its_turn_leaves_the_others() -> None:
    desk = Desk()
    first = desk.ask(b"1")
    second = desk.ask(b"2")
    desk.last.cancel()
    process = desk.reactor.started[0]
    process.ready()
    process.answer(FOUND)
    assert first == [FOUND]
    assert second[0].check(CancelledError)
    assert [one.data for one in process.questions()] == [b"1"]


def test_nonsense_is_a_crash() -> None:
    for nonsense in (b"\xff\xff\xff\xff", frame(b"\xc1")):
        desk = Desk()
        results = desk.ask()
        process = desk.reactor.started[0]
        process.ready()
        process.protocol.outReceived(nonsense)
        assert process.killed
        assert results[0].failure.kind == "crash"


def test_an_answer_that_nobody_asked_for_ends_the_process() -> None:
    desk = Desk()
    desk.ask()
    process = desk.reactor.started[0]
    process.ready()
    process.answer(FOUND)
    process.answer(FOUND)
    assert process.killed


def test_a_process_that_cannot_start_is_an_error() -> None:
    desk = Desk()
    results = desk.ask()
    process = desk.reactor.started[0]
    process.protocol.errReceived(b"Traceback...\nModuleNotFoundError: No module named 'magic'\n")
    process.die()
    assert results[0].check(WorkerError)
    assert "No module named 'magic'" in results[0].getErrorMessage()
    desk.reactor.fault = OSError("no memory")
    assert desk.ask()[0].check(WorkerError)
    assert desk.clock.getDelayedCalls() == []


def test_a_process_that_is_never_ready_is_an_error() -> None:
    desk = Desk()
    results = desk.ask()
    desk.clock.advance(31)
    assert results[0].check(WorkerError)
    assert desk.reactor.started[0].killed


def test_an_idle_process_ends_and_another_is_started() -> None:
    desk = Desk()
    desk.ask()
    process = desk.reactor.started[0]
    process.ready()
    process.answer(FOUND)
    desk.clock.advance(61)
    assert process.killed
    assert desk.clock.getDelayedCalls() == []
    desk.ask()
    assert len(desk.reactor.started) == 2


def test_a_process_is_replaced_after_many_questions_and_after_want_of_memory() -> None:
    desk = Desk()
    results = [desk.ask() for _ in range(501)]
    process = desk.reactor.started[0]
    process.ready()
    for _ in range(500):
        process.answer(FOUND)
    assert process.killed
    assert len(desk.reactor.started) == 2
    assert sum(map(len, results)) == 500
    again = desk.reactor.started[1]
    again.ready()
    again.answer(Examination(failure=Problem("memory")))
    assert again.killed


def test_questions_that_wait_are_bounded() -> None:
    desk = Desk()
    for _ in range(1000):
        desk.ask()
    with pytest.raises(WorkerError):
        desk.ask()


def test_closing_ends_everything() -> None:
    desk = Desk()
    first, second = desk.ask(), desk.ask()
    desk.reactor.started[0].ready()
    desk.workers.close()
    assert first[0].failure.kind == "crash"
    assert second[0].check(WorkerError)
    assert desk.clock.getDelayedCalls() == []


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_frames_in_any_pieces(values: list[bytes], size: int) -> None:
    data = b"".join(map(frame, values))
    frames = Frames(20)
    assert [one for at in range(0, len(data), size) for one in frames.feed(data[at : at + size])] == values


def test_a_frame_is_bounded() -> None:
    with pytest.raises(FrameError):
        list(Frames(10).feed((11).to_bytes(4, "big")))


class Raising:
    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)

    def answer(self, question: Question) -> Examination:
        raise self._errors.pop(0)


def test_errors_inside_are_answers() -> None:
    questions = io.BytesIO(frame(encode(Question())) * 3 + frame(b"\xc1"))
    answers = io.BytesIO()
    serve(questions, answers, Raising(MemoryError(), RecursionError("deep"), ValueError("x" * 1000)))
    kinds = [decode(one).failure for one in Frames(1 << 20).feed(answers.getvalue())]
    assert [one.kind for one in kinds if one] == ["memory", "error", "error", "error"]
    assert all(len(one.where) <= 200 for one in kinds if one)


def run(question: Question, memory: int = 1 << 30, cpu: int = 20) -> tuple[int, list[bytes]]:
    """A real process that is asked one thing: how it ended, and what it said."""
    done = subprocess.run(  # noqa: S603  a command of ours
        [sys.executable, "-P", "-m", "mailgate.content.inside", str(memory), str(cpu)],
        input=frame(encode(question)),
        capture_output=True,
        check=False,
    )
    return done.returncode, list(Frames(1 << 30).feed(done.stdout))


def test_a_real_process_answers() -> None:
    code, (ready, answer) = run(Question(data=b"Subject: x\r\n\r\nHello", links=True, archives=True))
    assert (code, ready) == (0, b"")
    assert decode(answer).parts[0].size == 5


def test_a_real_process_has_only_so_much_memory() -> None:
    code, frames = run(Question(data=b"\r\n" + b"=41" * 40_000_000), memory=400 << 20)
    if len(frames) == 2:
        failure = decode(frames[1]).failure
        assert failure is not None
        assert failure.kind == "memory"
    else:
        assert code != 0


CONFINED = """
import os, resource, socket, sys
from mailgate.process import allow_cpu, confine
confine(1 << 30)
allow_cpu(1)
try:
    open(sys.argv[1], "w").write("x")
except OSError as error:
    print("file", error.errno)
print(resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_NPROC), os.nice(0))
sys.stdout.flush()
while True:
    pass
"""


def test_a_real_process_is_confined(tmp_path: Any) -> None:
    done = subprocess.run(  # noqa: S603  a command of ours
        [sys.executable, "-c", CONFINED, str(tmp_path / "x")], capture_output=True, check=False, text=True
    )
    assert done.returncode == -24, done.stderr  # SIGXCPU
    assert (tmp_path / "x").stat().st_size == 0
    assert f"({1 << 30}, {1 << 30}) (0, 0)" in done.stdout
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 1 << 30  # of that process alone


REACTOR = """
import os, sys
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react
from mailgate.content.models import Question
from mailgate.content.worker import Workers

async def main(reactor):
    workers = Workers(reactor, reactor, processes=1, timeout=20.0, memory=1 << 30)
    found = await workers.ask(Question(path=sys.argv[1], archives=True))
    print(found.parts[0].size, flush=True)
    print((await workers.ask(Question(path="/nowhere"))).failure.kind, flush=True)
    asked = workers.ask(Question(data=b"x" * 3_000_000))
    os.kill(workers._workers[0].transport.pid, 9)
    print((await asked).failure.kind, flush=True)
    print((await workers.ask(Question(data=b"x" * 3_000_000))).parts[0].size, flush=True)
    workers.close()

react(lambda reactor: ensureDeferred(main(reactor)))
"""


def test_real_processes_with_a_real_reactor(tmp_path: Any) -> None:
    path = tmp_path / "message"
    path.write_bytes(b"Subject: x\r\n\r\nHello")
    done = subprocess.run(  # noqa: S603  a command of ours
        [sys.executable, "-c", REACTOR, str(path)], capture_output=True, check=False, text=True
    )
    assert done.stdout.split() == ["5", "error", "crash", "3000000"], done.stderr


def test_without_processes_it_happens_here() -> None:
    examiner = make_examiner(Clock(), processes=1, timeout=1.0, memory=1 << 30)
    assert isinstance(examiner, Inline)
    with pytest.raises(StopIteration) as stop:
        examiner.ask(Question(data=b"\r\nHello")).send(None)
    assert stop.value.value.parts[0].size == 5


class Saying:
    def __init__(self, *found: Examination) -> None:
        self._found = list(found)

    def answer(self, question: Question) -> Examination:
        return self._found.pop(0)


def test_what_cannot_be_told_is_an_answer_too() -> None:
    questions = io.BytesIO(frame(encode(Question())) * 2)
    answers = io.BytesIO()
    serve(questions, answers, Saying(Examination(parts=(Part(0, names=("\ud800",)),)), FOUND))
    first, second = [decode(one) for one in Frames(1 << 20).feed(answers.getvalue())]
    assert first.failure is not None
    assert first.failure.kind == "error"
    assert second == FOUND


def test_where_a_second_process_cannot_start_the_first_goes_on() -> None:
    desk = Desk(2)
    first = desk.ask(b"1")
    process = desk.reactor.started[0]
    process.ready()
    second, third = desk.ask(b"2"), desk.ask(b"3")
    desk.reactor.started[1].die()
    assert len(desk.reactor.started) == 2  # and no other is tried at once
    assert second == []
    process.answer(FOUND)
    assert first == [FOUND]
    process.die()
    assert second[0].failure.kind == "crash"
    desk.reactor.started[-1].die()
    while third == []:
        desk.reactor.started[-1].die()
    assert third[0].check(WorkerError)
    assert desk.clock.getDelayedCalls() == []
