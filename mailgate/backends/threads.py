"""Work that would hold up the reactor, in threads of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

__all__ = ["Threads"]

T = TypeVar("T")


class Threads:
    """At most `count` threads, made when they are needed."""

    def __init__(self, reactor: IReactorFromThreads, count: int, name: str) -> None:
        self._reactor = reactor
        self._executor = ThreadPoolExecutor(count, name)

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """What `work()` returns or raises. Cancelling ends the waiting; work that has begun goes on to its end.

        RuntimeError after `close`.
        """
        future = self._executor.submit(work)

        def cancel(_: Deferred[T]) -> None:
            future.cancel()

        answered: Deferred[T] = Deferred(cancel)

        def answer() -> None:
            if answered.called:
                return
            error = future.exception()
            if error is None:
                answered.callback(future.result())
            else:
                answered.errback(error)

        def done(_: Future[T]) -> None:
            if not future.cancelled():
                self._reactor.callFromThread(answer)

        future.add_done_callback(done)
        return answered

    def close(self) -> None:
        """Begin nothing more; it does not wait for what still runs."""
        self._executor.shutdown(wait=False, cancel_futures=True)
