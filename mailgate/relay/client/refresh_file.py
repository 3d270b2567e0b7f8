"""The refresh token of an account in its file, which several processes read, and replace one after another."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads, IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from mailgate.backends.questions import read_secret

__all__ = ["RefreshFile"]

_log = Logger()

#: Seconds between two looks whether the others have done.
_PAUSE = 0.2


class RefreshFile:
    """`token` is the newest that we know, "" for none. `path` is None where there is no file: nothing is kept then."""

    def __init__(self, path: Path | None, token: str, clock: IReactorTime) -> None:
        self.token = token
        self._path = path
        self._clock = clock
        # What it held when it was looked at last. A file that takes nothing holds an old one for ever.
        self._in_file = token

    def reread(self) -> bool:
        """Whether another token has come into the file, from another process or an administrator; it is ours then."""
        found = self._in_file
        if self._path is not None:
            with suppress(ValueError):
                found = read_secret(self._path)
        is_new = found not in (self._in_file, self.token)
        self._in_file = found
        if is_new:
            self.token = found
        return is_new

    def replace(self, token: str) -> Deferred[None]:
        """Write a new one, in a thread where the reactor has any: after a restart the old one may be good no more.
        Where that cannot be, the log says so."""
        self.token = token
        path = self._path

        def write() -> None:
            if path is None or not token.isprintable():
                return
            try:
                _write(path, token)
            except OSError as error:
                why = error.strerror or str(error)
                _log.error("{path}: the new refresh token cannot be written: {why}", path=str(path), why=why)

        threads, reactor = IReactorThreads(self._clock, None), IReactorFromThreads(self._clock, None)
        if threads is None or reactor is None:
            return maybeDeferred(write)
        return deferToThreadPool(reactor, threads.getThreadPool(), write)

    async def turn(self, longest: float) -> Callable[[], None]:
        """Wait until no other process replaces a token of this folder, `longest` seconds at most: what ends our turn.

        A process that has ended has no turn any more. Where the folder cannot be locked nobody waits.
        """
        try:
            descriptor = -1 if self._path is None else os.open(self._path.resolve().parent, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            descriptor = -1
        if descriptor < 0:
            return lambda: None
        end = self._clock.seconds() + longest
        try:
            while not _is_locked(descriptor) and self._clock.seconds() < end:
                pause: Deferred[None] = deferLater(self._clock, _PAUSE)
                await pause
        except BaseException:
            os.close(descriptor)
            raise
        return lambda: os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Whether it is ours now, or cannot be anybody's."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some file systems of the network
        return True
    return True


def _write(path: Path, token: str) -> None:
    path = path.resolve()  # a link stays one
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
