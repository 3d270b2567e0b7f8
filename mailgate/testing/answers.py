"""Answers that are at hand, or come later, as plain values."""

from __future__ import annotations

from collections.abc import Awaitable
from inspect import iscoroutine
from typing import TypeVar, overload

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from mailgate.interfaces import MaybeVerdict
from mailgate.verdict import Continue, Defer, PermanentFailure, Reject, TemporaryFailure, Verdict

__all__ = ["as_deferred", "verdict_of", "wait_for"]

T = TypeVar("T")

_STEP = 0.1


def as_deferred(answer: Awaitable[T]) -> Deferred[T]:
    """Start a coroutine, or whatever can be awaited; a Deferred is returned as it is."""
    if isinstance(answer, Deferred):
        return answer
    return Deferred.fromCoroutine(answer if iscoroutine(answer) else _awaited(answer))


async def _awaited(answer: Awaitable[T]) -> T:
    return await answer


@overload
def wait_for(answer: Awaitable[T], clock: Clock | None = ..., seconds: float = ...) -> T: ...
@overload
def wait_for(answer: T, clock: Clock | None = ..., seconds: float = ...) -> T: ...
def wait_for(answer: T | Awaitable[T], clock: Clock | None = None, seconds: float = 60.0) -> T:
    """The value of an answer that is plain, a coroutine or a Deferred; its exception is raised.

    With a clock, time passes in small steps until the answer is there, at most `seconds`. AssertionError where it
    is not there then; the answer is cancelled.
    """
    if not isinstance(answer, Awaitable):
        return answer
    deferred = as_deferred(answer)
    results: list[T | Failure] = []
    deferred.addBoth(results.append)
    passed = 0.0
    while not results and clock is not None and passed < seconds:
        clock.advance(_STEP)
        passed += _STEP
    if not results:
        deferred.cancel()
        raise AssertionError("no answer" if clock is None else f"no answer within {seconds:g} s")
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


def verdict_of(answer: MaybeVerdict | Awaitable[MaybeVerdict], clock: Clock | None = None) -> Verdict:
    """The verdict that a filter's answer comes to: None is Continue, and the two failures that a filter may raise
    later, in a coroutine or Deferred, are the Defer and the Reject that they stand for. Otherwise as `wait_for`.
    """
    try:
        return wait_for(answer, clock) or Continue()
    except TemporaryFailure as failure:
        return Defer(failure.reply, str(failure))
    except PermanentFailure as failure:
        return Reject(failure.reply, str(failure))
