"""Work in threads that nobody waits for at the end: a disk that hangs is a finding, and must not keep its report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from threading import Thread
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from mailgate.awaiting import InThread

__all__ = ["in_threads_of_their_own"]

T = TypeVar("T")


def in_threads_of_their_own(reactor: IReactorFromThreads) -> InThread:
    """A thread for each call. Cancelling ends the waiting only; what comes of the call then is not wanted any more."""

    def in_thread(call: Callable[[], T], /) -> Awaitable[T]:
        answer: Deferred[T] = Deferred()

        def tell(outcome: T | Failure) -> None:
            if not answer.called:
                answer.callback(outcome)

        def run() -> None:
            try:
                outcome: T | Failure = call()
            except Exception:
                outcome = Failure()
            reactor.callFromThread(tell, outcome)

        Thread(target=run, name="doctor", daemon=True).start()
        return answer

    return in_thread
