"""What is remembered of the answers of a system that is asked for each address."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, MutableMapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from cachetools import LRUCache
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mailgate.backends.outage import Outage
from mailgate.backends.questions import BackendError, Questions
from mailgate.backends.together import Together

__all__ = ["Answer", "CacheOptions", "Remembered"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Seconds after a question that had no answer in which what is remembered serves without another try.
_REST = 5.0


class CacheOptions(Protocol):
    """What the sections have in common; times in seconds."""

    @property
    def cache(self) -> float: ...
    @property
    def cache_unknown(self) -> float: ...
    @property
    def cache_size(self) -> int: ...
    @property
    def stale(self) -> float: ...
    @property
    def connections(self) -> int: ...
    @property
    def timeout(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Answer(Generic[V]):
    """What was found; None where there is nothing."""

    value: V | None


class Remembered(Generic[K, V]):
    """Remembers answers, those that found something apart from those that did not: who tries out names drives out none
    that exists. Where nobody answers, what was found stays so for `stale` seconds more; of all else there is no answer:
    what was not there may have been made meanwhile. With `keeps_missing` that stays missing for as long.
    """

    def __init__(
        self, whom: str, options: CacheOptions, clock: IReactorTime, outage: Outage, *, keeps_missing: bool = False
    ) -> None:
        """`whom` names the system for the log."""
        self._options = options
        self._clock = clock
        self._outage = outage
        self._missing_for = options.stale if keeps_missing else 0.0
        self._rests_until = 0.0
        self._questions = Questions(clock, whom, limit=options.connections, timeout=options.timeout)
        self._together: Together[K, Answer[V]] = Together()
        self._found: MutableMapping[K, tuple[V, float]] = LRUCache(options.cache_size)
        self._missing: MutableMapping[K, float] = LRUCache(options.cache_size)

    def at_hand(self, key: K) -> Answer[V] | None:
        """What counts without asking anybody; None where nothing does."""
        now = self._clock.seconds()
        if now < self._rests_until and (stale := self._stale(key, now)) is not None:
            return stale
        found = self._found.get(key)
        if found is not None and now - found[1] < self._options.cache:
            return Answer(found[0])
        at_last = self._missing.get(key)
        if at_last is not None and now - at_last < self._options.cache_unknown:
            return Answer(None)
        return None

    def ask(self, key: K, find: Callable[[], Coroutine[Deferred[Any], Any, V | None]]) -> Deferred[Answer[V]]:
        """The answer of `find()`, or the one that serves in its place; BackendError where there is none. Equal
        questions at one time are one, and cancelling ends the waiting only."""
        return self._together.ask(key, lambda: self._ask(key, find))

    def close(self) -> None:
        """What waits, and what is asked from now on, has no answer."""
        self._questions.close()

    async def _ask(self, key: K, find: Callable[[], Coroutine[Deferred[Any], Any, V | None]]) -> Answer[V]:
        try:
            value = await self._questions.ask(find)
        except BackendError as error:
            self._outage.begins(str(error))
            now = self._clock.seconds()
            self._rests_until = now + _REST
            stale = self._stale(key, now)
            if stale is None:
                raise
            return stale
        self._outage.ends()
        self._rests_until = 0.0
        now = self._clock.seconds()
        if value is None:
            self._found.pop(key, None)
            self._missing[key] = now
        else:
            self._missing.pop(key, None)
            self._found[key] = value, now
        return Answer(value)

    def _stale(self, key: K, now: float) -> Answer[V] | None:
        """What serves in an outage."""
        found = self._found.get(key)
        if found is not None and now - found[1] < self._options.stale:
            return Answer(found[0])
        at_last = self._missing.get(key)
        return Answer(None) if at_last is not None and now - at_last < self._missing_for else None
