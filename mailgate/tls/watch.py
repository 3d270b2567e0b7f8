"""Values that are read from files, and read again when the files change."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailgate.tls.pem import TlsError

__all__ = ["Watched", "file_state"]

T = TypeVar("T")

_log = Logger()

#: Seconds between two looks at the files.
_LOOK_EVERY = 1.0


def file_state(paths: Iterable[Path]) -> Hashable:
    """What tells one content of these files from another."""
    return tuple((path, _state(path)) for path in paths)


def _state(path: Path) -> tuple[int, int, int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


class Watched(Generic[T]):
    """What `read` makes of files, for as long as `look` says the same of them.

    Construction raises the TlsError of `read`. Later such an error leaves the value as it is, and is logged once.
    """

    def __init__(self, look: Callable[[], Hashable], read: Callable[[], T], clock: IReactorTime) -> None:
        self._look = look
        self._read = read
        self._clock = clock
        self._next_look = clock.seconds() + _LOOK_EVERY
        # before the content is read, so that a change in between is seen the next time
        self._seen = look()
        self._value = read()

    @property
    def value(self) -> T:
        """The value; the files are looked at no more than once a second."""
        now = self._clock.seconds()
        if now >= self._next_look:
            self._next_look = now + _LOOK_EVERY
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                self._refresh()
        return self._value

    def _refresh(self) -> None:
        try:
            self._value = self._read()
        except TlsError as error:
            _log.error("{error}; what was read before stays in force", error=str(error))
