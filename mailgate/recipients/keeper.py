"""The sources of the configuration that is in force, and those that older sessions still ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mailgate.recipients.build import Source, close_sources

__all__ = ["SourceKeeper"]

#: Seconds after which no session can be there that was begun with an older configuration.
_LONGEST_SESSION = 3600.0


class SourceKeeper:
    """Starts sources when their configuration is in force, and closes each when no session can ask it any more.

    `current` are those in force, by name.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._calls: dict[Source, IDelayedCall] = {}
        self.current: Mapping[str, Source] = {}

    def use(self, sources: Mapping[str, Source]) -> None:
        """From now on new sessions are given these."""
        old, self.current = self.current, sources
        for name, one in old.items():
            if sources.get(name) is not one:
                one.source.retire()
                self._calls[one] = self._clock.callLater(_LONGEST_SESSION, self._close, one)
        for name, one in sources.items():
            if old.get(name) is not one:
                one.source.start()

    def drop(self, sources: Mapping[str, Source]) -> None:
        """Those of them that are not in force are not wanted after all."""
        close_sources(one for name, one in sources.items() if self.current.get(name) is not one)

    def close(self) -> Deferred[list[Any]]:
        """Close all, at the end."""
        for call in self._calls.values():
            call.cancel()
        left = [*self.current.values(), *self._calls]
        self._calls.clear()
        return close_sources(left)

    def _close(self, one: Source) -> None:
        del self._calls[one]
        close_sources([one])
