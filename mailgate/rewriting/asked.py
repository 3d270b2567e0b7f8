"""A system that is asked about each address, and what is remembered of its answers."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from mailgate.address import Address
from mailgate.backends.outage import Outage
from mailgate.backends.places import values_of
from mailgate.backends.remembered import CacheOptions, Remembered
from mailgate.rewriting.source import MAX_TARGETS, AliasTools

__all__ = ["AskedAliases", "Lookup", "bounded"]

#: Characters of a target that are kept: more are no address.
_LONGEST = 320

Targets = tuple[str, ...]


class Lookup(Protocol):
    """The system: `whom` is its name for the log."""

    whom: str

    def find(self, values: Mapping[str, str]) -> Coroutine[Deferred[Any], Any, Targets | None]:
        """The targets of the address with these parts (see `values_of`), at least one, or None; BackendError where
        there is no answer. Cancelled after `timeout`."""

    def close(self) -> Deferred[None] | None:
        """End connections and threads."""


class AskedAliases:
    """An AliasSource; see Remembered for what serves while the system does not answer."""

    def __init__(self, lookup: Lookup, options: CacheOptions, name: str, tools: AliasTools) -> None:
        self._lookup = lookup
        outage = Outage(f"{tools.kind}.{name}", tools.reactor, tools.events)
        # most addresses are no aliases: their mail must not wait for the end of an outage
        self._answers: Remembered[str, Targets] = Remembered(
            lookup.whom, options, tools.reactor, outage, keeps_missing=True
        )

    def find(self, key: str) -> Sequence[str] | Deferred[Targets | None] | None:
        """See AliasSource."""
        answer = self._answers.at_hand(key)
        if answer is not None:
            return answer.value
        asked = self._answers.ask(key, lambda: self._lookup.find(_values(key)))
        return asked.addCallback(lambda found: found.value)

    def start(self) -> None:
        """It does nothing by itself."""

    def retire(self) -> None:
        """It does nothing by itself."""

    def close(self) -> Deferred[None] | None:
        """End connections and threads."""
        self._answers.close()
        return self._lookup.close()


def bounded(targets: Iterable[str]) -> Targets | None:
    """Targets as they are kept, one more than there may be at most; None where there are none."""
    texts = (text for one in targets if (text := one.strip()[:_LONGEST]))
    return tuple(dict.fromkeys(islice(texts, MAX_TARGETS + 1))) or None


def _values(key: str) -> dict[str, str]:
    if key.startswith("@"):
        return values_of("", key[1:])
    address = Address.parse(key)
    return values_of(address.local_part, address.domain)
