"""Authenticators that new sessions are not given any more: they serve those that have them, and are closed then."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.auth.portal import Authenticator

__all__ = ["Retired", "close_all"]

_log = Logger()

#: Seconds without a question after which no session can be there that would ask one: it would have timed out.
_IDLE = 3600.0
#: So many serve at one time; the oldest make room.
_MOST = 8


class Retired:
    """Closes each authenticator when it has not been asked for an hour, or when eight others came after it.

    `serving` are those that listeners give to new sessions: one may be among them all the same, of a listener that goes
    on without a section.
    """

    def __init__(self, clock: IReactorTime, serving: Callable[[], Collection[Authenticator | None]]) -> None:
        self._clock = clock
        self._serving = serving
        self._calls: dict[Authenticator, IDelayedCall] = {}

    def replace(self, old: Mapping[str, Authenticator], new: Mapping[str, Authenticator]) -> None:
        """From now on new sessions are given `new`."""
        for name, one in old.items():
            if new.get(name) is not one:
                self._watch(one)
        for oldest in [one for one in self._calls if one not in self._serving()][:-_MOST]:
            self._calls.pop(oldest).cancel()
            close_all([oldest])

    def take(self) -> list[Authenticator]:
        """Those that still serve; whoever takes them closes them."""
        left = list(self._calls)
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()
        return left

    def _watch(self, one: Authenticator) -> None:
        self._calls[one] = self._clock.callLater(_IDLE, self._look, one, one.questions)

    def _look(self, one: Authenticator, questions: int) -> None:
        if one.questions == questions and one not in self._serving():
            del self._calls[one]
            close_all([one])
        else:
            self._watch(one)


def close_all(authenticators: Iterable[Authenticator]) -> Deferred[list[None]]:
    """Close them all at the same time. It does not fail: what goes wrong is logged."""

    def failed(failure: Failure) -> None:
        if not failure.check(CancelledError):  # there was no time to wait for it
            _log.failure("users cannot be closed", failure)

    def close(one: Authenticator) -> Deferred[None]:
        return one.close().addErrback(failed)

    return gatherResults([close(one) for one in authenticators])
