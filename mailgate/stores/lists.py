"""Lists that administrators keep in files beside the configuration, read again when they change."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Generic, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

__all__ = ["FileError", "LineError", "LinesError", "WatchedFile", "look_at"]

T = TypeVar("T")

_log = Logger()

#: Seconds between two looks at the file.
_LOOK_EVERY = 1.0
#: Octets of a file that is read again at once; a larger one is read in a thread.
_AT_ONCE = 64 * 1024
#: How often a file is read that changes meanwhile.
_TRIES = 3

_COMMENT = re.compile(r"(?:^|\s)#.*")

_Signature = tuple[int, int, int, int]


def look_at(path: Path) -> _Signature | None:
    """What tells one content of a file from another, its size first; None where there is no file. To be taken before
    the content is read."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


class LineError(ValueError):
    """What is wrong with one line, in words for an administrator."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(what)
        self.number = number


class LinesError(ValueError):
    """What is wrong with several lines; `more` where there are further ones."""

    def __init__(self, errors: Sequence[LineError], *, more: bool = False) -> None:
        super().__init__("; ".join(f"{error.number}: {error}" for error in errors))
        self.errors = tuple(errors)
        self.more = more


class FileError(ValueError):
    """What is wrong with a file: `errors` are texts "FILE:LINE: what is wrong", or "FILE: what" about the whole."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors = tuple(errors)


class WatchedFile(Generic[T]):
    """A file of lines in UTF-8, as `parse` understands it.

    `parse` is given the lines by number, from 1, without comments (from a # that begins the line or follows a
    space), surrounding space and blank lines; it raises LineError, LinesError, or a ValueError that is about the
    whole. It may be called in a thread: a large file that has changed is read there, and the old value serves
    meanwhile.

    Construction raises FileError where the file cannot be read or parsed. Later such a file leaves the value as it is
    and is logged once; so does, with `keep_filled`, a file that held lines and holds none any more: an export that
    failed looks like that.

    `split` makes the numbered lines of the octets, where they are others than these. `octets` gives them, where they
    are not simply those of the file that is watched: it may take its time, and raises OSError or ValueError.

    A file that is written while it is read is read again, up to three times. If it changes even then, a new content is
    wrong: half of a list would say that what stands in the other half is not there. At the construction the last
    reading stands, and the file is looked at again in a second.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[Iterable[tuple[int, str]]], T],
        clock: IReactorTime,
        *,
        keep_filled: bool = False,
        split: Callable[[bytes], Iterator[tuple[int, str]]] | None = None,
        octets: Callable[[], bytes] | None = None,
    ) -> None:
        self._path = path
        self._split = split or _lines
        self._octets = octets or path.read_bytes
        self._at_once = _AT_ONCE if octets is None else -1
        self._parse = parse
        self._clock = clock
        self._keep_filled = keep_filled
        self._is_filled = False
        self._has_value = False
        self._next_look = clock.seconds() + _LOOK_EVERY
        self._signature = look_at(self._path)
        self._reading: Future[T] | None = None
        self._value = self._read()
        self._has_value = True

    @property
    def value(self) -> T:
        """What the file holds; looked at again no more than once a second."""
        if self._clock.seconds() >= self._next_look:
            self._refresh()
        return self._value

    def _refresh(self) -> None:
        self._next_look = self._clock.seconds() + _LOOK_EVERY
        if self._reading is not None:
            if not self._reading.done():
                return
            reading, self._reading = self._reading, None
            self._take(reading.result)
        signature = look_at(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        if self._at_once < 0 or (signature is not None and signature[0] > self._at_once):
            executor = ThreadPoolExecutor(1)
            self._reading = executor.submit(self._read)
            executor.shutdown(wait=False)
        else:
            self._take(self._read)

    def _take(self, read: Callable[[], T]) -> None:
        try:
            self._value = read()
        except ValueError as error:
            _log.error("{error}; its old content stays in force", error=str(error))

    def _whole(self) -> bytes:
        content = b""
        for _ in range(_TRIES):
            before = look_at(self._path)
            content = self._octets()
            if look_at(self._path) == before:
                return content
        if self._has_value:
            raise ValueError("is written while it is read")
        return content

    def _read(self) -> T:
        try:
            lines = self._split(self._whole())
            first = list(islice(lines, 1))
            if self._is_filled and not first:
                raise ValueError("holds nothing any more")
            value = self._parse(chain(first, lines))
        except OSError as error:
            raise FileError([f"{self._path}: cannot be read: {error.strerror}"]) from error
        except LineError as error:
            raise FileError([f"{self._path}:{error.number}: {error}"]) from error
        except LinesError as error:
            errors = [f"{self._path}:{one.number}: {one}" for one in error.errors]
            raise FileError([*errors, *([f"{self._path}: more lines are wrong"] if error.more else [])]) from error
        except ValueError as error:
            raise FileError([f"{self._path}: {error}"]) from error
        self._is_filled = self._keep_filled and bool(first)
        return value


def _lines(content: bytes) -> Iterator[tuple[int, str]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LineError(content.count(b"\n", 0, error.start) + 1, "not UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):
        line = _COMMENT.sub("", line).strip()
        if line:
            yield number, line
