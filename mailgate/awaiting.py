"""Where one may answer with a Deferred, a coroutine or another awaitable, whoever waits deals with one kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, FirstError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

__all__ = ["InThread", "OneRun", "answered", "as_deferred", "at_once", "in_reactors_threads", "run", "surely", "within"]

T = TypeVar("T")

_log = Logger()


class InThread(Protocol):
    """Runs a call in a thread; what it returns or raises comes as an answer."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]: ...


class OneRun:
    """Work of which one run is under way at a time. What is wanted meanwhile is one more run, after it.

    `failed` is told of what a run fails with.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], failed: Callable[[Failure], object]) -> None:
        self._work = work
        self._failed = failed
        self._is_busy = self._is_wanted = False

    def begin(self) -> None:
        """Run, now or when that is over which is under way."""
        self._is_wanted = True
        if not self._is_busy:
            self._is_busy = True
            Deferred.fromCoroutine(self._run()).addErrback(self._failed)

    async def _run(self) -> None:
        try:
            while self._is_wanted:
                self._is_wanted = False
                await Deferred.fromCoroutine(self._work()).addErrback(self._failed)
        finally:
            self._is_busy = False


async def at_once(call: Callable[[], T], /) -> T:
    """An InThread where there is nobody to be held up."""
    return call()


def in_reactors_threads(reactor: Any) -> InThread:
    """By the threads that a reactor keeps for what waits for a disk."""
    pool = IReactorThreads(reactor).getThreadPool()

    def in_thread(call: Callable[[], T], /) -> Awaitable[T]:
        return deferToThreadPool(IReactorFromThreads(reactor), pool, call)

    return in_thread


def as_deferred(answer: Awaitable[T]) -> Deferred[T]:
    """A Deferred of what the answer comes to; a coroutine is started. A Deferred stays itself."""
    if isinstance(answer, Deferred):
        return answer
    return Deferred.fromCoroutine(answer if isinstance(answer, Coroutine) else _awaiting(answer))


async def answered(answer: T | Awaitable[T]) -> T:
    """What an answer is that may be there at once or later."""
    return await answer if isinstance(answer, Awaitable) else answer


def run(steps: Generator[Awaitable[Any], Any, T]) -> T | Deferred[T]:
    """Run steps that yield what they must wait for: the result at once where they wait for nothing."""
    try:
        awaited = next(steps)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # StopIteration does not carry the generator's type
    return Deferred.fromCoroutine(_finish(steps, awaited))


async def within(clock: IReactorTime, end: float, work: Deferred[Any]) -> bool:
    """Whether the work was done by then; it is cancelled otherwise."""
    return await surely(work.addTimeout(max(end - clock.seconds(), 0.1), clock))


async def surely(work: Deferred[Any]) -> bool:
    """Whether the work was done. Whatever it fails with, who asks goes on."""
    try:
        await work
    except (DeferredTimeout, CancelledError, FirstError):  # the last where one of several was cancelled
        return False
    except Exception:
        _log.failure("a part of the gateway cannot stop as it should")
        return False
    return True


async def _finish(steps: Generator[Awaitable[Any], Any, T], awaited: Awaitable[Any]) -> T:
    try:
        while True:
            result = await awaited
            awaited = steps.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # StopIteration does not carry the generator's type
    finally:
        steps.close()


async def _awaiting(answer: Awaitable[T]) -> T:
    return await answer
