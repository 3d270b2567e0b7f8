"""Where one may answer with a Deferred, a coroutine or another awaitable, whoever waits deals with one kind."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import TypeVar

from twisted.internet.defer import Deferred

__all__ = ["answered", "as_deferred"]

T = TypeVar("T")


def as_deferred(answer: Awaitable[T]) -> Deferred[T]:
    """A Deferred of what the answer comes to; a coroutine is started. A Deferred stays itself."""
    if isinstance(answer, Deferred):
        return answer
    return Deferred.fromCoroutine(answer if isinstance(answer, Coroutine) else _awaiting(answer))


async def answered(answer: T | Awaitable[T]) -> T:
    """What an answer is that may be there at once or later."""
    return await answer if isinstance(answer, Awaitable) else answer


async def _awaiting(answer: Awaitable[T]) -> T:
    return await answer
