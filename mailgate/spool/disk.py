"""The spool's hold on its disk: one owner at a time, and a reserve for the day when it is full."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from pathlib import Path

from mailgate.interfaces import SpoolError

__all__ = ["Reserve", "is_disk", "is_full", "lock_directory", "write_durably"]

#: Octets of disk that are kept, and given up when the disk is full: more than folding the database's log into it can
#: need (see Store), or a full disk could be made free by nothing.
_RESERVE = 24 * 1024 * 1024


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
    """The descriptor of the lock that makes us the owner; SpoolError names the owner where there is one."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise SpoolError(f"another process ({owner or 'unknown'}) is using the spool in {directory}") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


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
