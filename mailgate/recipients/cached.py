"""A system that is asked for each address, and what is remembered of its answers."""

from __future__ import annotations

from collections.abc import Coroutine, MutableMapping
from typing import Any, Protocol

from cachetools import LRUCache
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.address import Address
from mailgate.backends.questions import BackendError, Questions
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.source import ISource, Outage, SourceTools
from mailgate.recipients.together import Together

__all__ = ["CacheOptions", "Cached", "Lookup", "values_of"]

#: Seconds after a question that had no answer in which what is remembered serves without another try.
_REST = 5.0

_Key = tuple[str, str]


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


class Lookup(Protocol):
    """The system: `whom` is its name for the log."""

    whom: str

    def find(self, local_part: str, domain: str) -> Coroutine[Deferred[Any], Any, RecipientStatus]:
        """KNOWN, RESTRICTED or UNKNOWN; BackendError where there is no answer. Cancelled after `timeout`."""

    def close(self) -> Deferred[None] | None:
        """End connections and threads."""


def values_of(local_part: str, domain: str) -> dict[str, str]:
    """The parts of an address by the names under which queries have them."""
    return {"address": str(Address(local_part, domain)), "local_part": local_part, "domain": domain}


@implementer(ISource)
class Cached:
    """Remembers answers, those that know an address apart from those that do not: who tries out names drives out none
    that exists. Where nobody answers, an address that was known stays so for `stale` seconds more, and all others are
    UNAVAILABLE: one that was unknown may have been made meanwhile.
    """

    takes_whole = False

    def __init__(
        self, lookup: Lookup, options: CacheOptions, name: str, tools: SourceTools, *, restricts: bool = False
    ) -> None:
        self.restricts = restricts
        self._lookup = lookup
        self._options = options
        self._clock = tools.reactor
        self._outage = Outage(name, tools)
        self._rests_until = 0.0
        self._questions = Questions(tools.reactor, lookup.whom, limit=options.connections, timeout=options.timeout)
        self._together: Together[_Key, RecipientStatus] = Together()
        self._known: MutableMapping[_Key, tuple[RecipientStatus, float]] = LRUCache(options.cache_size)
        self._unknown: MutableMapping[_Key, float] = LRUCache(options.cache_size)

    def at_hand(self, local_part: str, domain: str) -> RecipientStatus | None:
        key, now = (local_part, domain), self._clock.seconds()
        found = self._known.get(key)
        if found is not None:
            status, at = found
            is_away = now < self._rests_until
            if now - at < self._options.cache or (is_away and now - at < self._options.stale):
                return status
        at_last = self._unknown.get(key)
        if at_last is not None and now - at_last < self._options.cache_unknown:
            return RecipientStatus.UNKNOWN
        return None

    def ask(self, local_part: str, domain: str) -> Deferred[RecipientStatus]:
        return self._together.ask((local_part, domain), lambda: self._find((local_part, domain)))

    def start(self) -> None:
        """It does nothing by itself."""

    def retire(self) -> None:
        """It does nothing by itself."""

    def close(self) -> Deferred[None] | None:
        self._questions.close()
        return self._lookup.close()

    async def _find(self, key: _Key) -> RecipientStatus:
        try:
            status = await self._questions.ask(lambda: self._lookup.find(*key))
        except BackendError as error:
            return self._without_answer(key, str(error))
        self._outage.ends()
        self._rests_until = 0.0
        now = self._clock.seconds()
        if status is RecipientStatus.UNKNOWN:
            self._known.pop(key, None)
            self._unknown[key] = now
        else:
            self._unknown.pop(key, None)
            self._known[key] = status, now
        return status

    def _without_answer(self, key: _Key, why: str) -> RecipientStatus:
        self._outage.begins(why)
        now = self._clock.seconds()
        self._rests_until = now + _REST
        found = self._known.get(key)
        if found is not None and now - found[1] < self._options.stale:
            return found[0]
        return RecipientStatus.UNAVAILABLE
