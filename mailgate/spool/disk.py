"""The spool's hold on its disk: whose it is, whose turn it is to write, and a reserve for the day when it is full."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import sqlite3
import time
from pathlib import Path

from mailgate.interfaces import SpoolError

__all__ = [
    "Reserve",
    "SpoolTakenError",
    "WriteTurn",
    "is_disk",
    "is_full",
    "is_locked",
    "lock_directory",
    "share_directory",
    "write_durably",
]

#: Octets of disk that are kept, and given up when the disk is full: more than folding the database's log into it can
#: need (see Store), or a full disk could be made free by nothing.
_RESERVE = 24 * 1024 * 1024
#: Octets for which there has to be room, or the disk is as good as full.
_PROBE = 1024 * 1024
#: Seconds that one waits for the turn to write; and once that was in vain, until somebody has given it again.
_PATIENCE = 30.0
_LITTLE_PATIENCE = 1.0
#: Milliseconds after which one looks whether a process has died that had the turn: it tells nobody.
_LOOK = 50


class SpoolTakenError(SpoolError):
    """Another process has the spool."""


class Reserve:
    """Space that is kept so that, on a full disk, what is in the spool can still be delivered, recorded and deleted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self) -> None:
        """Take the space, if it is not taken; OSError where there is none."""
        if self._path.exists() and self._path.stat().st_size >= _RESERVE:
            return
        _allocate(self._path, _RESERVE)

    @property
    def is_whole(self) -> bool:
        """Whether the space is taken."""
        return self._path.exists()

    def give_up(self) -> None:
        """Free the space, where the disk lets us."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def is_wanted(self, error: Exception) -> bool:
        """Whether the error says that the disk, or our share of it, is full. Of a share SQLite says only that something
        could not be written: then we look."""
        if is_full(error):
            return True
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_IOERR:
            return False
        probe = self._path.with_name(f"{self._path.name}.probe")
        try:
            _allocate(probe, _PROBE)
            probe.unlink()
        except OSError as fault:
            return is_full(fault)
        return False


def _allocate(path: Path, octets: int) -> None:
    """Make a file that takes so much space; OSError, and no file, where there is none."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, octets)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def is_full(error: Exception) -> bool:
    """Whether the error says that the disk, or our share of it, is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, sqlite3.OperationalError) and "full" in str(error)


def is_disk(error: Exception) -> bool:
    """Whether the error says that the disk is at fault, and no single piece of work."""
    return isinstance(error, OSError | sqlite3.OperationalError)


def lock_directory(directory: Path) -> int:
    """The descriptor of the lock that makes us the only owner; SpoolTakenError names the owner where there is one."""
    descriptor = _lock(directory, "lock", fcntl.LOCK_EX)
    try:
        _sign(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def share_directory(directory: Path, name: str) -> tuple[int, int]:
    """The locks of one of several processes that share the spool: that of its name, then its share of the directory's.

    The names are "supervisor" and "worker-0", "worker-1", ...; of each there is one at a time, and while there is any,
    `lock_directory` fails. So a supervisor that shares the directory before it starts anybody keeps out both a second
    gateway and the command line, and a worker that outlives it keeps out the next one of its number. SpoolError.
    """
    with contextlib.ExitStack() as undo:
        own = _lock(directory, f"{name}.lock", fcntl.LOCK_EX)
        undo.callback(os.close, own)
        shared = _lock(directory, "lock", fcntl.LOCK_SH)
        undo.callback(os.close, shared)
        _sign(own)
        _sign(shared)  # the last one to come speaks for all
        undo.pop_all()
    return own, shared


def is_locked(directory: Path, name: str) -> bool:
    """Whether a process of that name shares the directory now."""
    try:
        os.close(_lock(directory, f"{name}.lock", fcntl.LOCK_EX))
    except SpoolError:
        return True
    return False


class WriteTurn:
    """One process writes at a time. Whoever waits sleeps until it is told that the turn was given, where SQLite would
    poll for it, and as long as that lasts: here only so long, because who has it may hang."""

    def __init__(self, path: Path) -> None:
        wake = path.with_suffix(".wake")
        with contextlib.suppress(FileExistsError):
            os.mkfifo(wake, 0o600)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._wake = os.open(wake, os.O_RDWR | os.O_NONBLOCK)
        self._waiting = select.poll()
        self._waiting.register(self._wake, select.POLLIN)
        self._patience = _PATIENCE
        self.is_ours = False

    def take(self) -> None:
        """Wait for the turn, TimeoutError where nobody gives it; once is enough."""
        if not self.is_ours:
            if not self._is_free():
                self._wait()
            self.is_ours = True

    def _wait(self) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            # What was told before this look is of no interest; what is told behind it wakes us.
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 65536)
            if self._is_free():
                break
            if time.monotonic() >= deadline:
                self._patience = _LITTLE_PATIENCE
                raise TimeoutError("waits for its turn to write: another worker does not answer")
            self._waiting.poll(_LOOK)
            if self._is_free():
                break
        self._patience = _PATIENCE

    def _is_free(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def give(self) -> None:
        """Let others write."""
        if self.is_ours:
            self.is_ours = False
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            with contextlib.suppress(BlockingIOError):  # so many were told that nobody has missed it
                os.write(self._wake, b"x")

    def close(self) -> None:
        """Let others write, for good."""
        os.close(self._descriptor)
        os.close(self._wake)


def _lock(directory: Path, name: str, how: int) -> int:
    descriptor = os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise SpoolTakenError(f"another process ({owner or 'unknown'}) is using the spool in {directory}") from None
    return descriptor


def _sign(descriptor: int) -> None:
    text = f"{os.getpid()}\n".encode()
    try:
        os.ftruncate(descriptor, os.pwrite(descriptor, text, 0))  # in this order it needs no room that it does not have
    except OSError as error:
        if not is_full(error):  # the lock holds whatever it says
            raise


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and sync it; OSError, and no file, where that cannot be."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
