"""What messages in quarantine were before filters changed their content: a file each, named by the queue id."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from zope.interface import implementer

from mailgate.awaiting import InThread, at_once
from mailgate.interfaces import IOriginals
from mailgate.message import Content, ContentWriter
from mailgate.process import make_directory, sync

__all__ = ["Originals", "copied"]

#: What a file is called until all of it is there.
_PART = ".part"


@implementer(IOriginals)
class Originals:
    """A folder, which is made when there is something to keep. `in_thread` runs what waits for the disk. The original
    of a message of which there is anything in the folder `set_aside` stays for whoever looks at that."""

    def __init__(
        self,
        directory: Path,
        in_thread: InThread = at_once,
        now: Callable[[], float] = time.time,
        set_aside: Path | None = None,
    ) -> None:
        self._directory = directory
        self._set_aside = set_aside
        self._in_thread = in_thread
        self._now = now

    async def keep(self, queue_id: str, content: Content) -> None:
        path = self._path(queue_id)

        def write() -> None:
            make_directory(self._directory)
            part = path.with_name(path.name + _PART)
            try:
                _write(part, content)
                part.replace(path)
            except OSError:
                with contextlib.suppress(OSError):
                    part.unlink()
                raise
            sync(self._directory)

        await self._in_thread(write)

    async def copy(self, queue_id: str, incoming: Path) -> Content | None:
        """The content of an original, in a file in `incoming` that is the caller's; None where it is not there.
        OSError where the disk does not give or take it."""
        path = self._path(queue_id)

        def read() -> Content | None:
            try:
                return copied(Content.in_file(path), incoming)
            except FileNotFoundError:
                return None

        return await self._in_thread(read)

    async def names(self, age: float = 0.0) -> Sequence[str]:
        """The queue ids of what lies here longer than `age` seconds, but for what is set aside. What was left half
        written is removed."""

        def look() -> Sequence[str]:
            before = self._now() - age
            found: list[str] = []
            try:
                with os.scandir(self._directory) as entries:
                    for one in entries:
                        with contextlib.suppress(FileNotFoundError):
                            if one.stat(follow_symlinks=False).st_mtime > before:
                                continue
                        if one.name.endswith(_PART):
                            os.unlink(one.path)
                        elif _is_id(one.name) and not self._is_set_aside(one.name):
                            found.append(one.name)
            except FileNotFoundError:
                return ()
            return sorted(found)

        return await self._in_thread(look)

    async def remove(self, queue_ids: Iterable[str]) -> None:
        """Remove those of these messages that are here. What the disk does not let go of stays for the next time."""
        paths = [self._path(one) for one in queue_ids]

        def unlink() -> None:
            for path in paths:
                with contextlib.suppress(OSError):
                    path.unlink()

        await self._in_thread(unlink)

    def _is_set_aside(self, name: str) -> bool:
        return self._set_aside is not None and (self._set_aside / f"{name}.envelope").exists()

    def _path(self, queue_id: str) -> Path:
        if not _is_id(queue_id):
            raise ValueError(f"{queue_id!r} is no queue id")
        return self._directory / queue_id


def copied(content: Content, incoming: Path) -> Content:
    """The same octets in a file of their own, for a spool to take over; OSError, and then nothing is left."""
    writer = ContentWriter(incoming, 0)
    try:
        for chunk in content.chunks():
            writer.write(chunk)
        return writer.finish()
    except BaseException:
        writer.abandon()
        raise


def _write(path: Path, content: Content) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in content.chunks():
            file.write(chunk)
        file.flush()
        os.fsync(descriptor)


def _is_id(name: str) -> bool:
    return name.isascii() and name.isalnum()
