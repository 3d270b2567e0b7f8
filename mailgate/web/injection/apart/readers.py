"""The processes that read large calls, from our side; for threads, which wait for them.

Whatever looks through megabytes in one step keeps all threads of its process waiting, the reactor's first of all: to
copy, parse and build a call of 60 MB takes a tenth of a second in single steps. In another process it holds up nobody;
from there the finished messages come, a piece at a time. A process that dies, or takes too much memory or time, costs
the call that it read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from http import HTTPStatus
from typing import BinaryIO, cast

import msgspec
from twisted.logger import Logger

from mailgate.config.injection import InjectionSection
from mailgate.web.injection.apart.inside import OUT_OF_MEMORY
from mailgate.web.injection.apart.talk import Answer, Ask, GoneError, Head, octets, say, take
from mailgate.web.injection.composing import Draft
from mailgate.web.injection.problems import SOON, CallError, Fault
from mailgate.web.injection.reading import Asked, Call

__all__ = ["Readers"]

_log = Logger()

#: Octets that a process may have: some for itself, and so many times those of the largest call.
_OWN, _TIMES = 512 * 1024**2, 16
#: Seconds of CPU time for one question, and seconds after which an answer is not waited for any more.
_CPU, _PATIENCE = 60, 300.0
#: Processes that are kept for the next call.
_KEPT = 2
#: How a process ends that the kernel, or a library, does not give more time or memory.
_HAD_ENOUGH = (OUT_OF_MEMORY, -signal.SIGXCPU, -signal.SIGABRT, -signal.SIGSEGV)

_Drafts = list[Draft | tuple[int, CallError]]


class Readers:
    """Any number of threads may call at one time; each call that is under way has a process. `cpu` as for `inside`;
    `patience` in seconds."""

    def __init__(self, *, cpu: int = _CPU, patience: float = _PATIENCE) -> None:
        self._cpu = cpu
        self._patience = patience
        self._free: list[_Process] = []
        self._used: set[_Process] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def read(self, asked: Asked, section: InjectionSection, hostname: str, now: float) -> Call:
        """As `read_call`, with the first message. `close` gives the process back that has the others."""
        values = section.model_dump()
        head = Head(asked.kind, asked.query, asked.fields, values, hostname, now, len(asked.content))
        process, answer, drafts = self._begin(head, asked.content, _OWN + _TIMES * section.max_call)
        outline = answer.call
        if outline is None:
            error = process.broken("it has read nothing")
            self.give_back(process)
            raise error
        messages = _Messages(self, process, drafts)
        if outline.count == 1:
            messages.close()
        return Call(
            messages=messages,
            count=outline.count,
            digest=outline.digest,
            key=outline.key,
            stream=outline.stream,
            tags=outline.tags,
            is_list=outline.is_list,
            first=drafts,
        )

    def close(self) -> None:
        """End all: a call that is under way has none any more."""
        with self._lock:
            self._is_closed = True
            free, self._free = self._free, []
            used = list(self._used)
        for one in used:
            one.kill()
        for one in free:
            one.end()

    def give_back(self, process: _Process) -> None:
        """For the next call."""
        with self._lock:
            self._used.discard(process)
            is_kept = not self._is_closed and len(self._free) < _KEPT and process.is_alive
            if is_kept:
                self._free.append(process)
        if not is_kept:
            process.end()

    def _begin(self, head: Head, content: bytes, memory: int) -> tuple[_Process, Answer, _Drafts]:
        while True:
            process, is_new = self._process(memory)
            try:
                answer, drafts = process.ask(head, content)
            except _EndedError as ended:
                self.give_back(process)
                if is_new or not ended.is_idle:
                    raise ended.error() from None
            except BaseException:
                self.give_back(process)
                raise
            else:
                return process, answer, drafts

    def _process(self, memory: int) -> tuple[_Process, bool]:
        """One that may have so much, and whether it is a new one."""
        with self._lock:
            known, self._free = self._free, []
            fit = [one for one in known if one.memory >= memory]  # others are from before a reload
            found = fit.pop() if fit else None
            if found is not None:
                self._used.add(found)
            self._free = fit
        for one in known:
            if one.memory < memory:
                one.end()
        if found is not None:
            return found, False
        try:
            new = _Process(memory, self._cpu, self._patience)
        except OSError as error:
            _log.error("no process can be started that reads calls: {error}", error=error)
            raise _not_now() from None
        with self._lock:
            self._used.add(new)
            is_closed = self._is_closed
        if is_closed:
            self.give_back(new)
            raise _not_now()
        return new, True


class _Messages:
    """The messages of a call that a process has."""

    def __init__(self, readers: Readers, process: _Process, first: _Drafts) -> None:
        self._readers = readers
        self._process: _Process | None = process
        self._first = first

    def drafts(self, start: int, stop: int) -> _Drafts:
        if (start, stop) == (0, 1):
            return self._first
        if self._process is None:
            return []
        try:
            return self._process.ask(Ask(start, stop))[1]
        except _EndedError as ended:
            raise ended.error() from None

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.leave()
            self._readers.give_back(process)


class _EndedError(Exception):
    """The process has ended, in this way."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code

    @property
    def is_idle(self) -> bool:
        """Whether it went because it had had nothing to do."""
        return self.code == -signal.SIGALRM

    def error(self) -> CallError:
        """What the caller is told."""
        if self.code in _HAD_ENOUGH:
            return _too_much()
        _log.error("a process that read a call has ended ({code}): {why}", code=self.code, why=str(self))
        return _not_now()


class _Process:
    """One process; for one thread at a time. OSError where it cannot be started."""

    def __init__(self, memory: int, cpu: int, patience: float) -> None:
        self.memory = memory
        self._patience = patience
        self._decoder = msgspec.msgpack.Decoder(Answer)
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LC_ALL": "C.UTF-8", "PATH": os.defpath}
        self._popen = subprocess.Popen(  # noqa: S603  a program of ours
            [sys.executable, "-P", "-m", "mailgate.web.injection.apart.inside", str(memory), str(cpu)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
        )
        self._questions = cast("BinaryIO", self._popen.stdin)
        self._answers = cast("BinaryIO", self._popen.stdout)

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def ask(self, question: Head | Ask, content: bytes = b"") -> tuple[Answer, _Drafts]:
        """The answer, and the messages that it tells of. CallError where the call is refused; _EndedError where the
        process is gone."""
        watch = threading.Timer(self._patience, self._popen.kill)
        watch.daemon = True
        watch.start()
        try:
            say(self._questions, question, content)
            answer = take(self._answers, self._decoder)
            if answer is None:
                raise GoneError("it has said nothing")
            drafts = self._drafts(answer)
        except GoneError as error:
            raise _EndedError(self.end(), str(error)) from None
        except BaseException:  # the rest of the answer would be taken for the next one
            self.end()
            raise
        finally:
            watch.cancel()
        if answer.refused is not None:
            raise answer.refused.error()
        if answer.broken:
            raise self.broken(answer.broken)
        return answer, drafts

    def leave(self) -> None:
        """The call is over: what the process has of it goes."""
        if self._questions.closed:
            return
        try:
            say(self._questions, Ask())
        except GoneError:
            self.end()

    def broken(self, why: str) -> RuntimeError:
        """An error of ours; the process ends."""
        self.end()
        return RuntimeError(f"a call cannot be read: {why}")

    def kill(self) -> None:
        """For any thread: whoever waits for an answer finds it gone."""
        self._popen.kill()

    def end(self) -> int:
        """End it, if it has not; how it ended."""
        with contextlib.suppress(OSError):  # what it has not taken
            self._questions.close()
        self._answers.close()
        try:
            return self._popen.wait(1.0)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()

    def _drafts(self, answer: Answer) -> _Drafts:
        found: _Drafts = []
        for one in answer.drafts:
            if one.draft is not None:
                found.append(msgspec.structs.replace(one.draft, content=octets(self._answers, one.size)))
            elif one.refused is not None:
                found.append((one.number, one.refused.error()))
        return found


def _too_much() -> CallError:
    text = "it takes more memory or time to read than a call may"
    return CallError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, (Fault("", text),))


def _not_now() -> CallError:
    return CallError(HTTPStatus.SERVICE_UNAVAILABLE, (Fault("", "it cannot be read now"),), SOON)
