"""What the process needs of the system that it runs on."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pwd
import resource
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

__all__ = [
    "allow_cpu",
    "cannot_start",
    "collect_seldom",
    "confine",
    "make_directory",
    "own_directory",
    "own_secret",
    "raise_descriptor_limit",
    "sync",
    "tell_start",
    "user_name",
]

#: File descriptors that the process asks for: a connection each, at both ends.
_DESCRIPTORS = 65536
#: Octets of the gateway's own secret.
_SECRET = 32
#: The collector's thresholds: a message leaves hundreds of objects and hardly a cycle.
_GARBAGE = (20_000, 20, 20)
#: prctl(2): a process and what it starts never get more rights.
_NO_NEW_PRIVILEGES = 38
#: How much what reads for us stands back behind what moves mail.
_NICE = 10


def cannot_start(twistd: Mapping[str, object], why: str) -> NoReturn:
    """End with these lines (SystemExit), and tell them to whoever started us in the background; `twistd` are its
    options."""
    pipe = twistd.get("statusPipe")
    if isinstance(pipe, int):  # the twistd in the terminal waits to hear how the start went
        tell_start(pipe, why)
        Path(str(twistd.get("pidfile"))).unlink(missing_ok=True)
    raise SystemExit(why)


def tell_start(pipe: int, why: str = "") -> None:
    """Tell the twistd in the terminal how the start went: well, or why not."""
    os.write(pipe, b"1 " + why.encode()[:98] if why else b"0")
    os.close(pipe)


def own_directory(path: Path) -> None:
    """Make a directory of ours, which nobody else may enter; OSError, with a line for an administrator, where that
    cannot be."""
    make_directory(path)
    if os.geteuid() == 0 and (owner := path.stat().st_uid) != 0:
        # Root's files in it would lock the other user out.
        raise OSError(f"{path} belongs to {user_name(owner)}: start with --uid")
    path.chmod(0o700)


def collect_seldom() -> None:
    """The start is over: what is there stays, and the collector need not look at it again."""
    gc.freeze()
    gc.set_threshold(*_GARBAGE)


def make_directory(path: Path) -> None:
    """Make a directory that nobody else may enter, and those above it, where there is none; OSError. Its name is
    durable then, also where whoever made it had no time to see to that."""
    above = [one for one in path.parents if not one.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for one in (path, *above):
        # Where we may not look we have made nothing.
        with contextlib.suppress(PermissionError):
            sync(one.parent)


def sync(path: Path) -> None:
    """Make the octets of a file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def own_secret(path: Path) -> bytes:
    """A secret of this gateway that stays the same, in a file that is made where there is none. OSError."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        found = b""
    if len(found) != _SECRET:
        found = secrets.token_bytes(_SECRET)
        new = path.with_name(f"{path.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(found)
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
        sync(path.parent)
    return found


def user_name(user: int) -> str:
    """The name of a user, or its number where it has none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def raise_descriptor_limit() -> None:
    """Ask for as many file descriptors as there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def confine(memory: int) -> None:
    """For a process that reads what strangers send: so many octets of memory, no files but those that are open, nothing
    started, no more rights, and a place behind those who move mail."""
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # what is lower already stays
            resource.setrlimit(limit, (value, value))
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def allow_cpu(seconds: int) -> None:
    """Let the process have so much more CPU time from now on; the kernel ends it beyond that (SIGXCPU)."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds + 1, hard))
