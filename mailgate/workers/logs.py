"""The log of a worker goes to its standard error, a line of JSON for each entry, and from there into the supervisor's:
there is one log, and whoever keeps, turns or ships it knows one process."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, eventAsText
from zope.interface import implementer

__all__ = ["LogReader", "LogWriter"]

#: Octets of an entry at most; what is longer is cut.
_MAX_LINE = 64 * 1024

_LEVELS = {level.name: level for level in LogLevel.iterconstants()}


@implementer(ILogObserver)
class LogWriter:
    """Writes the log of this process to a descriptor, whose reader may be gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, event: LogEvent) -> None:
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        level = event.get("log_level") or LogLevel.info
        line = json.dumps([level.name, event.get("log_namespace") or "", text[: _MAX_LINE // 8]]).encode() + b"\n"
        with suppress(OSError):  # nobody is left to read it
            while line:
                line = line[os.write(self._descriptor, line) :]


class LogReader:
    """Takes what a worker writes, in any pieces, into the log of this process."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """More of it has come."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._tell(line)

    def end(self) -> None:
        """That was all."""
        rest, self._rest = self._rest, b""
        if rest:
            self._tell(rest)

    def _tell(self, line: bytes) -> None:
        level, namespace, text = _parsed(line)
        for one in text.splitlines():
            Logger(namespace).emit(level, "worker {worker}: {text}", worker=self._worker, text=one)


def _parsed(line: bytes) -> tuple[Any, str, str]:
    """What is no entry was written by the interpreter or a library, as its last words for one."""
    with suppress(ValueError):
        match json.loads(line):
            case [str(level), str(namespace), str(text)] if level in _LEVELS:
                return _LEVELS[level], namespace, text
    return LogLevel.error, "stderr", line.decode("utf-8", "replace")
