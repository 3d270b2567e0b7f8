"""Work that needs a reactor, run to its end within a command."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.task import react

from mailgate.cli.common import BadConfigError, FailedError
from mailgate.config.load import ConfigError

__all__ = ["React", "run_to_end"]

T = TypeVar("T")

React = Callable[[Callable[[Any], Coroutine[Any, Any, None]]], object]
"""Runs a coroutine function, given a reactor, to its end: `twisted.internet.task.react`."""


def run_to_end(run: React | None, work: Callable[[Any, Path], Awaitable[T]]) -> T:
    """What `work` comes to, which is given a reactor and a folder that is its own; FailedError where it is interrupted,
    BadConfigError where a configuration cannot be built."""
    ends: list[T | Exception] = []

    async def body(reactor: Any) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="mailgate-") as folder:
                ends.append(await work(reactor, Path(folder)))
        except Exception as error:
            ends.append(error)

    # How `react` comes back.
    with contextlib.suppress(SystemExit):
        (run or react)(body)
    if not ends:
        raise FailedError("interrupted")
    match ends[0]:
        case ConfigError() as error:
            raise BadConfigError("\n".join(error.errors))
        case Exception() as error:
            raise error
        case found:
            return found
