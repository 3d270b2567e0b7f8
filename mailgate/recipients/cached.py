"""A system that is asked for each address, and what is remembered of its answers."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.backends.outage import Outage
from mailgate.backends.questions import BackendError
from mailgate.backends.remembered import Answer, CacheOptions, Remembered
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.source import ISource, SourceTools

__all__ = ["Cached", "Lookup"]


class Lookup(Protocol):
    """The system: `whom` is its name for the log."""

    whom: str

    def find(self, local_part: str, domain: str) -> Coroutine[Deferred[Any], Any, RecipientStatus | None]:
        """KNOWN or RESTRICTED, None where there is no such address; BackendError where there is no answer. Cancelled
        after `timeout`."""

    def close(self) -> Deferred[None] | None:
        """End connections and threads."""


@implementer(ISource)
class Cached:
    """See Remembered; where nobody answers and nothing serves, an address is UNAVAILABLE."""

    takes_whole = False

    def __init__(
        self, lookup: Lookup, options: CacheOptions, name: str, tools: SourceTools, *, restricts: bool = False
    ) -> None:
        self.restricts = restricts
        self._lookup = lookup
        outage = Outage(name, tools.reactor, tools.events)
        self._answers: Remembered[tuple[str, str], RecipientStatus] = Remembered(
            lookup.whom, options, tools.reactor, outage
        )

    def at_hand(self, local_part: str, domain: str) -> RecipientStatus | None:
        answer = self._answers.at_hand((local_part, domain))
        return None if answer is None else _status(answer)

    def ask(self, local_part: str, domain: str) -> Deferred[RecipientStatus]:
        asked = self._answers.ask((local_part, domain), lambda: self._lookup.find(local_part, domain))
        return asked.addCallbacks(_status, lambda failure: _away(failure.trap(BackendError)))

    def start(self) -> None:
        """It does nothing by itself."""

    def retire(self) -> None:
        """It does nothing by itself."""

    def close(self) -> Deferred[None] | None:
        self._answers.close()
        return self._lookup.close()


def _status(answer: Answer[RecipientStatus]) -> RecipientStatus:
    return RecipientStatus.UNKNOWN if answer.value is None else answer.value


def _away(_error: object) -> RecipientStatus:
    return RecipientStatus.UNAVAILABLE
