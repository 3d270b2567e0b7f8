"""Questions to several workers at one time, each of which may be gone, or hang."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

__all__ = ["LateError", "all_of", "in_time", "longest"]

T = TypeVar("T")

#: Seconds for the answer of another worker's relay: what people look at comes from memory, and a bounce is as long as
#: there is mail for it.
_TIMES = {"waits": 5.0, "metrics": 5.0, "rates": 5.0, "sites": 5.0, "bounce": 600.0}
_TIME = 60.0


class LateError(Exception):
    """No answer has come in time."""


def longest(question: str) -> float:
    """Seconds that the answer to an Ask may take."""
    return _TIMES.get(question, _TIME)


async def in_time(clock: IReactorTime, seconds: float, answer: Coroutine[Any, Any, T]) -> T | None:
    """The answer, or None where whoever was asked has gone meanwhile; LateError."""
    try:
        return await Deferred.fromCoroutine(answer).addTimeout(seconds, clock)
    except (DeferredTimeout, CancelledError):
        raise LateError from None
    except Exception:
        return None


async def all_of(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of coroutines that do not fail, at one time."""
    return await gatherResults([Deferred.fromCoroutine(work) for work in works], consumeErrors=True)
