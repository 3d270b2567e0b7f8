"""Commands that look at messages: processes of the site's own, in any language, within limits.

A command reads a line of JSON from its standard input, and where it is not told the path of a file there, the content:
exactly so many octets as the line says. It writes one line of JSON. A command that is started for each message ends
then with status 0; one that is kept reads the next line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkstemp
from typing import Literal, NoReturn

import msgspec
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.message import Content
from mailgate.scanners import limited
from mailgate.scanners.pool import ScannerError
from mailgate.scanners.sending import Pieces, Sending

__all__ = ["CommandAnswer", "CommandError", "CommandRunner", "CommandSettings", "ICommandReactor"]

_log = Logger()

#: What a command writes to its standard error and is logged, in octets, of each process.
_MAX_NOISE = 4096
#: Questions that wait for a process.
_MAX_WAITING = 1000
#: Seconds for which a kept process without work stays, and then for its end once its input has ended.
_IDLE, _ENDING = 60.0, 5.0
#: What a command's environment holds, beside what it is given.
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


class CommandError(ScannerError):
    """The command gives no answer that can be believed."""


class ICommandReactor(IReactorProcess, IReactorTime):
    """What commands need of the reactor."""


class CommandAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a command says. `text` is for the peer, `reason` for the history; `points` are for scores, and `facts` words
    for them; `add_headers` are names and values. `id` is that of the question, where it is given at all."""

    verdict: Literal["continue", "accept", "reject", "defer", "quarantine", "discard"]
    reason: str = ""
    text: str = ""
    points: float = 0.0
    add_headers: tuple[tuple[str, str], ...] = ()
    facts: tuple[str, ...] = ()
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSettings:
    """How a command is run. `command` begins with a full path; seconds and octets; `processes` at one time; `uses` are
    messages after which a kept process is replaced; content in a file that must be made goes to `directory`."""

    command: Sequence[str]
    directory: Path
    is_kept: bool = False
    by_file: bool = False
    timeout: float = 8.0
    memory: int = 512 * 1024 * 1024
    max_output: int = 64 * 1024
    processes: int = 4
    uses: int = 1000
    environment: Mapping[str, str] = field(default_factory=dict)


class CommandRunner:
    """Asks a command. `end_group` ends all processes of a session."""

    def __init__(
        self,
        settings: CommandSettings,
        reactor: ICommandReactor,
        end_group: Callable[[int, int], None] = os.killpg,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._end_group = end_group
        self._slots = DeferredSemaphore(settings.processes)
        self._idle: list[_Process] = []

    async def ask(self, question: Mapping[str, object], content: Content) -> CommandAnswer:
        """What it answers. CommandError: it gives none in time, or one that cannot be understood; it has been ended
        then, with all that it started, as it is where whoever asks gives up."""
        settings, reactor = self._settings, self._reactor
        if len(self._slots.waiting) >= _MAX_WAITING:
            raise CommandError(f"more than {_MAX_WAITING} messages wait for it")
        end = reactor.seconds() + settings.timeout
        waiting: Deferred[object] = self._slots.acquire()  # type: ignore[assignment]  # of itself
        await waiting.addTimeout(settings.timeout, reactor, onTimeoutCancel=_late)
        path: Path | None = None
        try:
            path = self._file(content) if settings.by_file else None
            known: dict[str, object] = {**question, "size": content.size}
            if path is not None:
                known["file"] = str(path)
            line = msgspec.json.encode(known) + b"\n"
            pieces = _pieces(line, None if settings.by_file else content)
            answer = await self._ask(pieces, end)
        finally:
            if path is not None and path != content.path:
                with contextlib.suppress(OSError):
                    path.unlink()
            self._slots.release()
        return _understood(answer, str(question.get("id", "")))

    async def _ask(self, pieces: Pieces, end: float) -> bytes:
        process = self._process()
        try:
            answer = await self._within(process.ask(pieces), end)
            if self._settings.is_kept:
                process.uses += 1
                if process.is_fit and process.uses < self._settings.uses:
                    process.rest()
                    self._idle.append(process)
                else:
                    process.kill()
            else:
                await self._within(process.ended(), end)
        except BaseException:
            process.kill()
            raise
        return answer

    def _within(self, work: Deferred[bytes], end: float) -> Deferred[bytes]:
        return work.addTimeout(max(0.0, end - self._reactor.seconds()), self._reactor, onTimeoutCancel=_late)

    def _process(self) -> _Process:
        while self._idle:
            process = self._idle.pop()
            if process.is_usable:
                process.wake()
                return process
        settings = self._settings
        process = _Process(settings, self._reactor, self._end_group)
        wrapper = [sys.executable, "-I", "-S", str(limited.__file__), str(settings.memory), *settings.command]
        environment = {**_ENVIRONMENT, **settings.environment}
        try:
            self._reactor.spawnProcess(process, wrapper[0], wrapper, environment)
        except OSError as error:
            raise CommandError(f"it cannot be started: {error}") from None
        return process

    def _file(self, content: Content) -> Path:
        if content.path is not None:
            return content.path
        descriptor, name = mkstemp(prefix="incoming-", dir=self._settings.directory)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.read())
        return Path(name)


class _Process(ProcessProtocol):
    """One process, of which one question is asked at a time."""

    transport: IProcessTransport

    def __init__(self, settings: CommandSettings, clock: IReactorTime, end_group: Callable[[int, int], None]) -> None:
        self.uses = 0
        self._is_alive = True
        self._is_killed = False
        self._settings = settings
        self._clock = clock
        self._end_group = end_group
        self._pid: int | None = None
        self._output = b""
        self._noise = b""
        self._sending: Sending | None = None
        self._answer: Deferred[bytes] | None = None
        self._end: Deferred[bytes] | None = None
        self._fault = ""
        self._status: Failure | None = None
        self._rest: IDelayedCall | None = None

    @property
    def is_usable(self) -> bool:
        """Whether it lives, as far as we know."""
        return self._is_alive and not self._is_killed

    @property
    def is_fit(self) -> bool:
        """Whether it has read all that it was asked, and can be asked again."""
        return self.is_usable and not self._output and self._sending is not None and self._sending.is_over

    def connectionMade(self) -> None:
        """It has been started."""
        self._pid = self.transport.pid

    def ask(self, pieces: Pieces) -> Deferred[bytes]:
        """Write this to it; the line that it answers, without its end. CommandError where there is none."""
        answer: Deferred[bytes] = Deferred(lambda _: None)
        if not self.is_usable:
            answer.errback(self._failure())
            return answer
        self._answer = answer
        self._sending = sending = Sending(pieces)
        self.transport.registerProducer(sending, True)  # type: ignore[attr-defined]  # Twisted's processes have it
        sending.startProducing(self.transport).addCallbacks(self._sent, self._unreadable)  # type: ignore[arg-type]
        return answer

    def ended(self) -> Deferred[bytes]:
        """Fires when it has ended well, with what it wrote behind its answer: nothing. CommandError otherwise."""
        self._end = Deferred(lambda _: None)
        if not self._is_alive:
            self._tell_end()
        return self._end

    def rest(self) -> None:
        """There is nothing to ask for now."""
        self._rest = self._clock.callLater(_IDLE, self._dismiss)

    def wake(self) -> None:
        """There is."""
        if self._rest is not None and self._rest.active():
            self._rest.cancel()
        self._rest = None

    def kill(self) -> None:
        """End it, and all that it has started."""
        self.wake()
        self._is_killed = True
        if self._sending is not None:
            self._sending.stopProducing()
        self._end_all()
        if self._is_alive and self._pid is not None:
            with contextlib.suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")
            # Whoever has left the group may still hold the other ends.
            self.transport.loseConnection()

    # -- what Twisted calls

    def outReceived(self, data: bytes) -> None:  # noqa: N802 (Twisted's)
        """A part of an answer."""
        self._output += data
        if len(self._output) > self._settings.max_output:
            self._fail(f"it writes more than {self._settings.max_output} octets")
            return
        if self._answer is None:
            if self._settings.is_kept or self._output.strip():
                self._fail("it writes without being asked")
            return
        line, end, rest = self._output.partition(b"\n")
        if not end:
            return
        self._output = rest
        if rest.strip():
            self._fail("it writes more than one line")
            return
        answer, self._answer = self._answer, None
        if not answer.called:
            answer.callback(line)

    def errReceived(self, data: bytes) -> None:  # noqa: N802 (Twisted's)
        """What is meant for people."""
        self._noise += data[: _MAX_NOISE - len(self._noise)]

    def processExited(self, reason: Failure) -> None:  # noqa: N802 (Twisted's)
        """It has ended; what it has started and left would keep its output open."""
        self._end_all()

    def processEnded(self, reason: Failure) -> None:  # noqa: N802 (Twisted's)
        """It has ended, and all that it wrote has been read."""
        self._is_alive = False
        self._status = reason
        if self._noise:
            text = self._noise.decode("utf-8", "replace").strip()
            _log.warn("{command} says: {text}", command=self._settings.command[0], text=text)
        self.kill()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.called:
            answer.errback(self._failure())
        self._tell_end()

    # -- within

    def _sent(self, _: None) -> None:
        if self._is_alive:
            self.transport.unregisterProducer()  # type: ignore[attr-defined]  # see above
            if not self._settings.is_kept:
                self.transport.closeStdin()

    def _unreadable(self, failure: Failure) -> None:
        if self._is_alive:
            self.transport.unregisterProducer()  # type: ignore[attr-defined]  # see above
        self._fail(f"the content cannot be read: {failure.getErrorMessage()}")

    def _end_all(self) -> None:
        if self._pid is not None:
            # There is no group before the process has made it, nor when nobody is left in it.
            with contextlib.suppress(OSError):
                self._end_group(self._pid, signal.SIGKILL)

    def _tell_end(self) -> None:
        if self._end is None or self._end.called:
            return
        if self._fault or self._status is None or not self._status.check(ProcessDone):
            self._end.errback(self._failure())
        else:
            self._end.callback(b"")

    def _fail(self, fault: str) -> None:
        self._fault = self._fault or fault
        answer, self._answer = self._answer, None
        if answer is not None and not answer.called:
            answer.errback(CommandError(self._fault))
        self.kill()

    def _failure(self) -> CommandError:
        if self._fault:
            return CommandError(self._fault)
        if self._status is None or self._status.check(ProcessDone):
            return CommandError("it ended without an answer")
        return CommandError(f"it failed: {self._status.getErrorMessage()}"[:200])

    def _dismiss(self) -> None:
        """It has had nothing to do for long."""
        self.transport.closeStdin()
        self._rest = self._clock.callLater(_ENDING, self.kill)


def _pieces(line: bytes, content: Content | None) -> Pieces:
    yield line
    if content is not None:
        yield from content.chunks()


def _understood(line: bytes, question: str) -> CommandAnswer:
    try:
        answer = msgspec.json.decode(line, type=CommandAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"its answer cannot be understood: {error}"[:200]) from None
    if answer.id and answer.id != question:
        raise CommandError("its answer is about another message")
    return answer


def _late(_outcome: object, seconds: float) -> NoReturn:
    raise CommandError(f"no answer within {seconds:.3g} s")
