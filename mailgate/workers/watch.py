"""Whether a worker still answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Watch"]

#: Seconds between two looks.
_EVERY = 3.0


class Watch:
    """Asks by `ping`, one question at a time, and calls `silent` with the seconds where none is answered for so long.

    It counts looks, and does not compare times: where the clock has been put forward, or the machine has slept, the
    worker has had no more of that time than we.
    """

    def __init__(
        self,
        clock: IReactorTime,
        ping: Callable[[], Coroutine[Any, Any, None]],
        silent: Callable[[float], object],
    ) -> None:
        self._clock = clock
        self._ping = ping
        self._silent = silent
        self._most = 0
        self._missed = 0
        self._is_open = False
        self._call: IDelayedCall | None = None

    def start(self, seconds: float) -> None:
        """Begin."""
        self._most = round(seconds / _EVERY)
        self._ask()
        self._call = self._clock.callLater(_EVERY, self._look)

    def stop(self) -> None:
        """That is over."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def _ask(self) -> None:
        self._missed = 0
        self._is_open = True
        # A line that breaks answers nothing, and ends the worker in another way.
        Deferred.fromCoroutine(self._ping()).addCallbacks(self._answered, lambda _: None)

    def _answered(self, _: None) -> None:
        self._is_open = False

    def _look(self) -> None:
        if not self._is_open:
            self._ask()
        else:
            self._missed += 1
            if self._missed >= self._most:
                self.stop()
                self._silent(self._most * _EVERY)
                return
        self._call = self._clock.callLater(_EVERY, self._look)
