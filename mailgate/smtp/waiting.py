"""Waiting for one answer at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred

__all__ = ["Gate"]

T = TypeVar("T")
_log = Logger()


class Gate:
    """Lets through what is at hand; else it is closed until the answer is there.

    `resume` is called after an answer that had to be waited for; `crashed` where going on with an answer raised,
    which is a bug of ours. Of an answer that comes after `end` nobody is told.
    """

    __slots__ = ("_crashed", "_resume", "_shielded", "_waited", "is_closed")

    def __init__(self, resume: Callable[[], None], crashed: Callable[[], None]) -> None:
        self._resume = resume
        self._crashed = crashed
        self._waited: Deferred[Any] | None = None
        self._shielded = False
        #: Whether an answer is awaited.
        self.is_closed = False

    def when(
        self,
        answer: T | Awaitable[T],
        then: Callable[[T], None],
        otherwise: Callable[[], None],
        *,
        shielded: bool = False,
    ) -> None:
        """Go on with the answer, now or once it is there; with `otherwise` where it fails.

        What is `shielded` is left to run when the session ends.
        """
        if not isinstance(answer, Awaitable):
            then(answer)
            return
        waited = as_deferred(answer)
        self._waited = waited
        self.is_closed = True
        self._shielded = shielded
        waited.addCallbacks(
            self._answered,
            self._failed,
            callbackArgs=(waited, then),
            errbackArgs=(waited, otherwise),
        )

    def end(self) -> None:
        """The session is over: cancel what is awaited and not shielded."""
        waited, self._waited = self._waited, None
        self.is_closed = False
        self._resume = self._crashed = _nothing  # who is told holds us, and must not be held by us
        if waited is not None and not self._shielded:
            try:
                waited.cancel()
            except Exception:
                _log.failure("what a session waited for failed when it was cancelled")

    def _answered(self, result: T, waited: Deferred[T], then: Callable[[T], None]) -> None:
        if self._waited is waited:
            self._waited = None
            self.is_closed = False
            self._go(lambda: then(result))

    def _failed(self, failure: Failure, waited: Deferred[Any], otherwise: Callable[[], None]) -> None:
        if not failure.check(CancelledError):
            _log.failure("a stage of a session failed", failure=failure)
        if self._waited is waited:
            self._waited = None
            self.is_closed = False
            self._go(otherwise)

    def _go(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            _log.failure("a session failed")
            self._crashed()
        self._resume()


def _nothing() -> None:
    pass
