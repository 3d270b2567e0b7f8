"""Several answers that are awaited at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import TypeVar, overload

from twisted.internet.defer import Deferred

from mailgate.awaiting import as_deferred

__all__ = ["together"]

T = TypeVar("T")


@overload
async def together(answers: Iterable[Awaitable[T]]) -> list[T]: ...
@overload
async def together(answers: Iterable[T | Awaitable[T]]) -> list[T]: ...
async def together(answers: Iterable[T | Awaitable[T]]) -> list[T]:
    """What all of them come to, in their order. Where one fails, or the caller gives up, the others are cancelled."""
    started = [as_deferred(one) if isinstance(one, Awaitable) else one for one in answers]
    try:
        return [await one if isinstance(one, Deferred) else one for one in started]
    except Exception:  # the failure of one, or CancelledError
        for one in started:
            if isinstance(one, Deferred):
                one.addErrback(lambda _: None)
                one.cancel()
        raise
