"""What is built from a section and runs by itself: it goes on over a reload where nothing of it has changed, and is
closed when no session can ask it any more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel
from twisted.internet.defer import CancelledError, Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

__all__ = ["IRuns", "Source", "SourceKeeper", "Sources", "close_sources", "made_of"]

_log = Logger()

#: Seconds after which no session can be there that was begun with an older configuration.
_LONGEST_SESSION = 3600.0


class IRuns(Protocol):
    """What can be begun and ended."""

    def start(self) -> None:
        """Begin what it does by itself. Called once, when its configuration is in force."""

    def retire(self) -> None:
        """End what it does by itself: it goes on with sessions that have begun, and is closed later."""

    def close(self) -> Deferred[None] | None:
        """End connections and threads. Called once, after `retire`."""


S_co = TypeVar("S_co", bound=IRuns, covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class Source(Generic[S_co]):
    """One of them; another that is `made_of` equal things would do the same."""

    source: S_co
    made_of: object


Sources = Mapping[tuple[str, str], Source[IRuns]]
"""All of a configuration, by the kind and the name of their sections."""


class SourceKeeper:
    """Starts sources when their configuration is in force, and closes each when no session can ask it any more.

    `current` are those in force.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._calls: dict[Source[IRuns], IDelayedCall] = {}
        self.current: Sources = {}

    def use(self, sources: Sources) -> None:
        """From now on new sessions are given these."""
        old, self.current = self.current, sources
        for name, one in old.items():
            if sources.get(name) is not one:
                one.source.retire()
                self._calls[one] = self._clock.callLater(_LONGEST_SESSION, self._close, one)
        for name, one in sources.items():
            if old.get(name) is not one:
                one.source.start()

    def drop(self, sources: Sources) -> None:
        """Those of them that are not in force are not wanted after all."""
        close_sources(one for name, one in sources.items() if self.current.get(name) is not one)

    def close(self) -> Deferred[list[Any]]:
        """Close all, at the end."""
        for call in self._calls.values():
            call.cancel()
        left = [*self.current.values(), *self._calls]
        self._calls.clear()
        return close_sources(left)

    def _close(self, one: Source[IRuns]) -> None:
        del self._calls[one]
        close_sources([one])


def close_sources(sources: Iterable[Source[IRuns]]) -> Deferred[list[Any]]:
    """Retire and close them all at the same time. It does not fail: what goes wrong is logged."""

    def failed(failure: Failure) -> None:
        if not failure.check(CancelledError):  # there was no time to wait for it
            _log.failure("a source of addresses cannot be closed", failure)

    def close(one: Source[IRuns]) -> Deferred[Any]:
        one.source.retire()
        return maybeDeferred(one.source.close).addErrback(failed)

    return gatherResults([close(one) for one in sources])


def made_of(section: BaseModel) -> object:
    """A section, and what the files hold that it names: lists, users, secrets of ours, authorities. To be read
    before these are used: a file that changes meanwhile is seen next time."""
    return section, tuple(_digest(value) for _, value in section if isinstance(value, Path))


def _digest(path: Path) -> bytes:
    """b"" for what cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""
