"""Equal questions that come at one time are asked once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.backends.questions import BackendError

__all__ = ["Together"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_log = Logger()


class Together(Generic[K, T]):
    """Answers by key, for as long as they are not there yet."""

    def __init__(self) -> None:
        self._waiting: dict[K, list[Deferred[T]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: K) -> bool:
        return key in self._waiting

    def ask(self, key: K, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> Deferred[T]:
        """What `work()` comes to, or the same that was begun before. Cancelling ends the waiting only."""
        waiting: Deferred[T] = Deferred(lambda cancelled: self._forget(key, cancelled))
        if key in self._waiting:
            self._waiting[key].append(waiting)
        else:
            self._waiting[key] = [waiting]
            Deferred.fromCoroutine(work()).addBoth(self._answer, key)
        return waiting

    def begin(self, key: K, work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> None:
        """Ask, and wait for nothing; who asks the same meanwhile gets the answer."""
        if key not in self._waiting:
            self._waiting[key] = []
            Deferred.fromCoroutine(work()).addBoth(self._answer, key)

    def _answer(self, outcome: T | Failure, key: K) -> None:
        waiting = self._waiting.pop(key)
        if isinstance(outcome, Failure) and not waiting and not outcome.check(BackendError):
            _log.failure("a question failed that nobody waits for", outcome)
        for one in waiting:
            # a failure is its own for each: whoever handles it may change it
            one.errback(Failure(outcome.value)) if isinstance(outcome, Failure) else one.callback(outcome)

    def _forget(self, key: K, cancelled: Deferred[T]) -> None:
        waiting = self._waiting.get(key, [])
        if cancelled in waiting:
            waiting.remove(cancelled)
