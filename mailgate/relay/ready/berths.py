"""The slots that a site holds: one for each job under way and each idle connection."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred
from mailgate.interfaces import ISlots

__all__ = ["Berths"]

_log = Logger()

#: Seconds until a slot is asked for again that could not be.
_AGAIN = 1.0


class Berths:
    """Slots of one key, held by one queue. `changed` is called when one has come that was waited for, or may be asked
    for again; `wanted` when somebody else waits for one."""

    def __init__(
        self,
        key: str,
        slots: ISlots,
        clock: IReactorTime,
        *,
        changed: Callable[[], None],
        wanted: Callable[[], None],
    ) -> None:
        self._key = key
        self._slots = slots
        self._clock = clock
        self._changed = changed
        self._wanted = wanted
        self.held = 0
        self._coming: Deferred[None] | None = None
        self._again: IDelayedCall | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether one is waited for."""
        return self._coming is not None or self._again is not None

    def take(self, limit: int) -> bool:
        """Whether there is one more, of so many in all; where not, `changed` is called in time."""
        if self.is_waiting:
            return False
        answer = self._slots.acquire(self._key, limit, self._wanted)
        if answer is None:
            self.held += 1
            return True
        held = self.held
        self._coming = as_deferred(answer)
        self._coming.addCallbacks(self._granted, self._not_granted)
        return self.held > held

    def release_but(self, needed: int) -> None:
        """Give back those above this number; fewer are held only for a moment, in which one is being asked for."""
        if self.held <= needed:
            return
        excess = self.held - needed
        self.held = needed
        for _ in range(excess):  # each may come back to us at once
            self._slots.release(self._key)

    def stop(self) -> None:
        """Wait for none any more."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._coming is not None:
            self._coming.cancel()

    def _granted(self, _: None) -> None:
        self._coming = None
        self.held += 1
        self._changed()

    def _not_granted(self, failure: Failure) -> None:
        self._coming = None
        if not failure.check(CancelledError):
            _log.warn("no slot for {key}: {error}", key=self._key, error=failure.getErrorMessage())
            self._again = self._clock.callLater(_AGAIN, self._may_ask)

    def _may_ask(self) -> None:
        self._again = None
        self._changed()
