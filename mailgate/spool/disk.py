"""The spool's hold on its disk: whose it is, whose turn it is to write, and a reserve for the day when it is full."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
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


class SpoolTakenError(SpoolError):
    """Another process has the spool."""


class Reserve:
    """Space that is kept so that, on a full disk, what is in the spool can still be delivered, recorded and deleted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.make()

    def make(self) -> None:
        """Take the space, if it is not taken; OSError where there is none."""
        if self._path.exists() and self._path.stat().st_size >= _RESERVE:
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _RESERVE)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(descriptor)

    @property
    def is_whole(self) -> bool:
        """Whether the space is taken."""
        return self._path.exists()

    def give_up(self) -> None:
        """Free the space, where the disk lets us."""
        with contextlib.suppress(OSError):
            self._path.unlink()


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
    _sign(descriptor)
    return descriptor


def share_directory(directory: Path, name: str) -> tuple[int, int]:
    """The locks of one of several processes that share the spool: that of its name, then its share of the directory's.

    The names are "supervisor" and "worker-0", "worker-1", ...; of each there is one at a time, and while there is any,
    `lock_directory` fails. So a supervisor that shares the directory before it starts anybody keeps out both a second
    gateway and the command line, and a worker that outlives it keeps out the next one of its number. SpoolError.
    """
    own = _lock(directory, f"{name}.lock", fcntl.LOCK_EX)
    try:
        shared = _lock(directory, "lock", fcntl.LOCK_SH)
    except BaseException:
        os.close(own)
        raise
    _sign(own)
    _sign(shared)  # the last one to come speaks for all
    return own, shared


def is_locked(directory: Path, name: str) -> bool:
    """Whether a process of that name shares the directory now."""
    try:
        os.close(_lock(directory, f"{name}.lock", fcntl.LOCK_EX))
    except SpoolError:
        return True
    return False


class WriteTurn:
    """One process writes at a time. Whoever waits sleeps until it has the turn, where SQLite would poll for it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.is_ours = False

    def take(self) -> None:
        """Wait for the turn; once is enough."""
        if not self.is_ours:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self.is_ours = True

    def give(self) -> None:
        """Let others write."""
        if self.is_ours:
            self.is_ours = False
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let others write, for good."""
        os.close(self._descriptor)


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
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


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
