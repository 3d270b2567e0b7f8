"""Work in steps, of which each may be done at once or later: for `mailgate.awaiting.run`."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any, TypeVar

__all__ = ["Steps", "ready"]

T = TypeVar("T")

Steps = Generator[Awaitable[Any], Any, T]
"""A generator that yields what it must wait for, and returns a T."""


def ready(answer: T | Awaitable[T]) -> Steps[T]:
    """What an answer comes to, as in `value = yield from ready(counters.get(key))`."""
    if isinstance(answer, Awaitable):
        return (yield answer)  # type: ignore[no-any-return]  # what comes back is what the answer came to
    return answer
