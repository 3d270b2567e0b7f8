"""Work that waits for a disk, done in a thread of somebody else's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads
from twisted.internet.threads import deferToThreadPool

__all__ = ["InThread", "at_once", "in_reactors_threads"]

T = TypeVar("T")


class InThread(Protocol):
    """Runs a call in a thread; what it returns or raises comes as an answer."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]: ...


async def at_once(call: Callable[[], T], /) -> T:
    """Where there is nobody to be held up."""
    return call()


def in_reactors_threads(reactor: Any) -> InThread:
    """By the threads that a reactor keeps for such work."""
    pool = IReactorThreads(reactor).getThreadPool()

    def in_thread(call: Callable[[], T], /) -> Awaitable[T]:
        return deferToThreadPool(IReactorFromThreads(reactor), pool, call)

    return in_thread
