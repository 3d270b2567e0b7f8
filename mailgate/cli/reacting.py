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

__all__ = ["React", "run_in_reactor", "run_to_end"]

T = TypeVar("T")

React = Callable[[Callable[[Any], Coroutine[Any, Any, None]]], object]
"""Runs a coroutine function, given a reactor, to its end: `twisted.internet.task.react`."""


def run_in_reactor(run: React | None, work: Callable[[Any], Awaitable[T]]) -> T:
    """What `work` comes to, which is given a reactor; FailedError where it is interrupted, and what it fails with."""
    ends: list[T | Exception] = []

    async def body(reactor: Any) -> None:
        try:
            ends.append(await work(reactor))
        except Exception as error:
            ends.append(error)

    # How `react` comes back.
    with contextlib.suppress(SystemExit):
        (run or react)(body)
    if not ends:
        raise FailedError("interrupted")
    if isinstance(ends[0], Exception):
        raise ends[0]
    return ends[0]


def run_to_end(run: React | None, work: Callable[[Any, Path], Awaitable[T]]) -> T:
    """As `run_in_reactor`; `work` is given a folder, too, that is its own. BadConfigError where a configuration cannot
    be built."""

    async def in_folder(reactor: Any) -> T:
        with tempfile.TemporaryDirectory(prefix="mailgate-") as folder:
            return await work(reactor, Path(folder))

    try:
        return run_in_reactor(run, in_folder)
    except ConfigError as error:
        raise BadConfigError("\n".join(error.errors)) from None
