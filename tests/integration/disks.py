"""Disks that a test may do harm to, and harm that it may do."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from parts import program, wait_until

__all__ = ["PAGE", "Ext4", "failing", "pages_of", "spoil"]

PAGE = 4096


class Ext4:
    """A file system in a file, mounted at `path` from entry to exit of the context."""

    def __init__(self, base: Path, megabytes: int) -> None:
        self.path = base / "ext4"
        self._image = base / "ext4.image"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(megabytes * 1024 * 1024)
        _run("mkfs.ext4", "-q", "-F", str(self._image))

    def __enter__(self) -> Ext4:
        self.mount()
        return self

    def __exit__(self, *error: object) -> None:
        _run("umount", "-l", str(self.path))

    def mount(self) -> None:
        """Mount it, to be written to."""
        _run("mount", "-o", "loop", str(self._image), str(self.path))

    def give_up(self) -> None:
        """What the system does when a disk fails: from now on nothing can be written, though files are open for it."""
        _run("mount", "-o", "remount,abort", str(self.path))
        with contextlib.suppress(OSError):
            (self.path / "probe").write_bytes(b"x")
            raise AssertionError("it can still be written to")

    def mend(self) -> None:
        """Take it off, look it through, and mount it again; nobody may use it."""
        _run("umount", str(self.path))
        subprocess.run([program("e2fsck"), "-p", str(self._image)], check=False, capture_output=True)  # noqa: S603
        self.mount()


@contextlib.contextmanager
def failing(pid: int, error: str, calls: str = "fsync,fdatasync,pwrite64") -> Iterator[None]:
    """These calls of a running process, and of its threads, come to this error ("EIO"), for as long as we are here."""
    command = [program("strace"), "-f", "-qq", "-o", "/dev/null", "-p", str(pid)]
    command += ["-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    try:
        wait_until(lambda: _is_traced(pid), "strace has it in hand")
        time.sleep(0.2)
        yield
    finally:
        tracer.terminate()
        tracer.wait(20)


def _is_traced(pid: int) -> bool:
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    return all("TracerPid:\t0\n" not in (thread / "status").read_text() for thread in threads)


def pages_of(database: Path) -> int:
    """How many pages it has."""
    return database.stat().st_size // PAGE


def spoil(database: Path, page: int, octets: bytes) -> None:
    """Write over the end of a page, as a disk does that stopped in the middle of it. Counted from 0."""
    with database.open("r+b") as file:
        file.seek((page + 1) * PAGE - len(octets))
        file.write(octets)


def _run(name: str, *arguments: str) -> None:
    subprocess.run([program(name), *arguments], check=True, capture_output=True)  # noqa: S603
