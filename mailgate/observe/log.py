"""The log: a file of lines, and the one that has a JSON object a line for each event."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from twisted.logger import Logger

from mailgate.observe.recorder import Written
from mailgate.observe.render import to_stamp

__all__ = ["FileLog", "JsonLog", "Logs"]

_log = Logger()

_STDOUT = 1


class FileLog:
    """A sink that appends lines to a file; its heirs say which.

    `path` is relative to `directory`; "-" is standard output, "" no log. A disk that is full costs lines, which are
    counted; when it can be written again a line of its own says how many.
    """

    def __init__(self, path: str, directory: Path) -> None:
        """OSError where the file cannot be opened."""
        self._path = directory / path if path not in ("", "-") else None
        self._descriptor = _open(self._path) if self._path is not None else _STDOUT if path else None
        self._reopen = False
        self._torn = False  # the last line was cut off by a full disk
        self._lost = 0
        self._error = ""

    @property
    def lost(self) -> int:
        """Lines that could not be written and have not been told of yet."""
        return self._lost

    def reopen(self) -> None:
        """Write to a new file from the next line on, where the old one has been renamed. From any thread."""
        self._reopen = self._path is not None

    def write(self, batch: Sequence[Written]) -> None:
        self._write(self._lines(batch))

    def missed(self, count: int) -> None:
        self._lose(count, "more events than could be written")

    def tidy(self) -> None:
        if self._lost:
            self._write([])

    def close(self) -> None:
        self.tidy()
        if self._path is not None and self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def _lines(self, batch: Sequence[Written]) -> list[bytes]:
        """What is written of these events, without line ends."""
        raise NotImplementedError

    def _note(self, lost: int, error: str) -> bytes:
        """The line that says how many were lost."""
        raise NotImplementedError

    def _write(self, lines: list[bytes]) -> None:
        if self._reopen and self._path is not None:
            self._reopen = False
            self._change(self._path)
        if self._descriptor is None:
            return
        told = self._lost
        if told:
            lines = [self._note(told, self._error), *lines]
        text = (b"\n" if self._torn else b"") + b"".join(line + b"\n" for line in lines)
        done = 0
        view = memoryview(text)
        try:
            while done < len(text):
                done += os.write(self._descriptor, view[done:])
        except OSError as error:
            if done:
                self._torn = text[done - 1] != 0x0A
            written = text.count(b"\n", 1 if text.startswith(b"\n") else 0, done)
            if told and written:
                self._lost -= told
                written -= 1
            self._lose(len(lines) - (1 if told else 0) - written, error.strerror or str(error))
            return
        self._torn = False
        if told:
            self._lost = 0
            _log.warn("the log is written again; {count} of its lines were lost", count=told)

    def _lose(self, count: int, error: str) -> None:
        if count and not self._lost:
            _log.warn("the log cannot be written: {error}; lines are lost until it can", error=error)
        self._lost += count
        self._error = error

    def _change(self, path: Path) -> None:
        try:
            descriptor = _open(path)
        except OSError as error:
            # Better in the renamed file than nowhere.
            _log.error("the log cannot be opened anew: {error}", error=error)
            return
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._torn = False


class JsonLog(FileLog):
    """One JSON object a line for each event; "log_lines_lost" says how many lines a full disk has cost."""

    def _lines(self, batch: Sequence[Written]) -> list[bytes]:
        return [one.line for one in batch]

    def _note(self, lost: int, error: str) -> bytes:
        note = {"at": to_stamp(time.time()), "event": "log_lines_lost", "count": lost, "error": error}
        return json.dumps(note, separators=(",", ":")).encode()


class Logs:
    """Several logs as one."""

    def __init__(self, logs: Sequence[FileLog]) -> None:
        self._logs = logs

    def reopen(self) -> None:
        """As in FileLog, for all."""
        for one in self._logs:
            one.reopen()

    def write(self, batch: Sequence[Written]) -> None:
        for one in self._logs:
            one.write(batch)

    def missed(self, count: int) -> None:
        for one in self._logs:
            one.missed(count)

    def tidy(self) -> None:
        for one in self._logs:
            one.tidy()

    def close(self) -> None:
        for one in self._logs:
            one.close()


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
