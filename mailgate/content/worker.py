"""The worker processes, from our side: a bounded number, of which each answers one question at a time.

A process that dies, takes too long or too much memory is replaced; what it was asked has an answer that says so. It is
restarted after so many questions, and ended when nobody has asked for a while. When the gateway ends, or is killed, its
input ends, and so does it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Awaitable
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.content.frames import FrameError, Frames, frame
from mailgate.content.models import Examination, Problem, Question

__all__ = ["IExaminer", "Inline", "WorkerError", "Workers", "make_examiner"]

_log = Logger()

#: Octets of one answer; seconds in which a process must be ready; questions that may wait for one.
_LONGEST_ANSWER, _READY_WITHIN, _MOST_WAITING = 16 * 1024 * 1024, 30.0, 1000
#: Seconds after which a process that nobody asks is ended, and questions after which one is replaced.
_IDLE, _MOST_QUESTIONS = 60.0, 500
#: Octets of complaints of a process that are logged.
_MOST_TOLD = 500


class WorkerError(Exception):
    """No worker process can be had, or too many questions wait: nothing is known of the message."""


class IExaminer(Protocol):
    """Answers questions about messages."""

    def ask(self, question: Question) -> Awaitable[Examination]:
        """What is found; an Examination with a failure where that cannot be told. WorkerError."""
        ...


class _Reactor(IReactorProcess, IReactorTime):
    """What the workers need of the reactor."""


def make_examiner(clock: IReactorTime, *, processes: int, timeout: float, memory: int) -> IExaminer:
    """Worker processes where the clock is a reactor that can start them; otherwise, as in tests of filters, the
    examination takes place in this process, at once and without limits of the kernel."""
    reactor = IReactorProcess(clock, None)
    if reactor is None:
        return Inline()
    return Workers(reactor, clock, processes=processes, timeout=timeout, memory=memory)


class Inline:
    """Examines in this process."""

    def __init__(self) -> None:
        self._examiner: _Answers | None = None

    async def ask(self, question: Question) -> Examination:
        if self._examiner is None:
            from mailgate.content.examine import Examiner  # loads native libraries

            self._examiner = Examiner()
        return self._examiner.answer(question)


class _Answers(Protocol):
    def answer(self, question: Question) -> Examination: ...


class _Job:
    """A question, and who waits for its answer."""

    __slots__ = ("answered", "question")

    def __init__(self, question: Question, answered: Deferred[Examination]) -> None:
        self.question = question
        self.answered = answered


class Workers:
    """At most `processes`, started as they are needed. `timeout` (seconds) is for one question in a process, `memory`
    (octets) is the most that a process may have."""

    def __init__(
        self, reactor: IReactorProcess, clock: IReactorTime, *, processes: int, timeout: float, memory: int
    ) -> None:
        self.reactor = reactor
        self.clock = clock
        self.timeout = timeout
        self.memory = memory
        self._most = processes
        self._workers: list[_Worker] = []
        self._waiting: deque[_Job] = deque()
        self._is_starting_in_vain = False

    def ask(self, question: Question) -> Deferred[Examination]:
        """Cancelling gives up: a process that works on it is ended."""
        if len(self._waiting) >= _MOST_WAITING:
            raise WorkerError(f"{_MOST_WAITING} messages wait for a worker process")

        def cancel(answered: Deferred[Examination]) -> None:
            if job in self._waiting:
                self._waiting.remove(job)
            for worker in list(self._workers):
                if worker.job is job:
                    worker.job = None
                    worker.end()

        answered: Deferred[Examination] = Deferred(cancel)
        job = _Job(question, answered)
        self._waiting.append(job)
        self._hand_out()
        return answered

    def close(self) -> None:
        """End all processes, and every question."""
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.answered.errback(WorkerError("the worker processes are ended"))
        for worker in list(self._workers):
            worker.end()

    def gone(self, worker: _Worker) -> None:
        """A process has ended, or is being ended."""
        if worker in self._workers:
            self._workers.remove(worker)
        self._hand_out()

    def free(self) -> None:
        """A process has room for a question."""
        self._is_starting_in_vain = False
        self._hand_out()

    def fail(self, why: str) -> None:
        """A process could not start: neither could another, so nobody waits any more, but for those that there are."""
        if any(worker.is_ready for worker in self._workers):
            self._is_starting_in_vain = True
            return
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.answered.errback(WorkerError(why))

    def _hand_out(self) -> None:
        while self._waiting:
            worker = next((one for one in self._workers if one.is_free), None)
            if worker is not None:
                worker.take(self._waiting.popleft())
                continue
            starting = sum(1 for one in self._workers if one.is_starting)
            is_in_vain = self._is_starting_in_vain and any(one.is_ready for one in self._workers)
            if len(self._workers) < self._most and starting < len(self._waiting) and not is_in_vain:
                self._start()
            return

    def _start(self) -> None:
        worker = _Worker(self)
        self._workers.append(worker)
        arguments = [
            sys.executable,
            "-P",
            "-m",
            "mailgate.content.inside",
            str(self.memory),
            str(int(self.timeout) + 1),
        ]
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LC_ALL": "C.UTF-8", "PATH": os.defpath}
        try:
            self.reactor.spawnProcess(worker, sys.executable, arguments, environment, "/")
        except OSError as error:
            self._workers.remove(worker)
            worker.forget()
            self.fail(f"no worker process can be started: {error}")


class _Worker(ProcessProtocol):
    """One process."""

    def __init__(self, workers: Workers) -> None:
        self.job: _Job | None = None
        self._workers = workers
        self._frames = Frames(_LONGEST_ANSWER)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Examination)
        self._is_ready = False
        self._is_ended = False
        self._count = 0
        self._told = b""
        self._why = Problem("crash")
        self._timer: IDelayedCall | None = workers.clock.callLater(_READY_WITHIN, self.end)

    @property
    def is_starting(self) -> bool:
        return not self._is_ready and not self._is_ended

    @property
    def is_ready(self) -> bool:
        return self._is_ready and not self._is_ended

    @property
    def is_free(self) -> bool:
        return self.is_ready and self.job is None

    def take(self, job: _Job) -> None:
        """Work on it."""
        self.job = job
        self._count += 1
        self._set(self._workers.timeout, self._late)
        self._transport().write(frame(self._encoder.encode(job.question)))

    def end(self) -> None:
        """End the process at once; who waits for it hears `crash`, or what `_late` has said."""
        if self._is_ended:
            return
        self.forget()
        with contextlib.suppress(ProcessExitedAlready):
            self._transport().signalProcess("KILL")
        self._lost()

    def forget(self) -> None:
        """It is of no use any more."""
        self._is_ended = True
        self._set(0.0, None)

    def outReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        try:
            for whole in self._frames.feed(data):
                self._take_answer(whole)
        except (FrameError, msgspec.DecodeError) as error:
            self._why = Problem("crash", f"its answer makes no sense: {error}")
            self.end()

    def errReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        self._told = (self._told + data)[-_MOST_TOLD:]

    def processEnded(self, reason: Failure) -> None:  # noqa: N802  Twisted's name
        if not self._is_ended:
            self.forget()
            if self._why.kind == "crash" and not self._why.where:
                self._why = Problem("crash", reason.getErrorMessage()[:200])
            self._lost()

    def _take_answer(self, whole: bytes) -> None:
        if self._is_ended:
            return
        if not self._is_ready:
            self._is_ready = True
        else:
            found = self._decoder.decode(whole)
            job, self.job = self.job, None
            if job is None:
                raise FrameError("an answer to nothing")
            if self._count >= _MOST_QUESTIONS or (found.failure is not None and found.failure.kind == "memory"):
                self.end()
            job.answered.callback(found)
        if not self._is_ended:
            self._set(_IDLE, self.end)
            self._workers.free()

    def _late(self) -> None:
        self._timer = None
        self._why = Problem("time", f"{self._workers.timeout:g} s were not enough")
        self.end()

    def _lost(self) -> None:
        told = self._told.decode("utf-8", "replace").strip()
        job, self.job = self.job, None
        if told and self._why.kind == "crash":
            _log.warn("a worker process says: {told}", told=told)
        if not self._is_ready:
            last = told.rpartition("\n")[2]
            self._workers.fail(f"a worker process does not start: {last or self._why.where or 'it is too slow'}")
        if job is not None and not job.answered.called:
            job.answered.callback(Examination(failure=self._why))
        self._workers.gone(self)

    def _set(self, seconds: float, call: object) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self._workers.clock.callLater(seconds, call) if callable(call) else None

    def _transport(self) -> IProcessTransport:
        transport = self.transport
        if transport is None:
            raise WorkerError("the process has not started")
        return transport
