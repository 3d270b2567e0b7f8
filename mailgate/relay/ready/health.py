"""Whether a site can be reached, and how many connections it bears: found out by what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from twisted.internet.interfaces import IReactorTime

from mailgate.relay.attempt import ConnectFailedError
from mailgate.relay.ready.trouble import Trouble
from mailgate.relay.ready.window import FIRST, Window
from mailgate.relay.schedule import HostState
from mailgate.relay.wording import seconds

__all__ = ["Health"]


class Health:
    """`trouble` is why nobody could be connected to, until somebody is, or the rest after it is long over; `window` is
    about connections. `changed` is called when time has changed something."""

    def __init__(
        self,
        most: int,
        longest_rest: float,
        clock: IReactorTime,
        random: Random,
        changed: Callable[[], None],
        *,
        first: int = FIRST,
    ) -> None:
        self.window = Window(most, first)
        self.trouble: Trouble | None = None
        self.state = HostState()
        self._longest_rest = longest_rest
        self._clock = clock
        self._random = random
        self._changed = changed

    def is_resting(self, now: float) -> bool:
        """Whether no attempt is worth while."""
        return self.trouble is not None and not self.state.may_try(now)

    def recovered(self) -> None:
        """Somebody is there, or an operator says so."""
        self.trouble, self.state = None, HostState()
        self.window.recovered()

    def full(self, standing: int) -> None:
        """One more connection than stand was not to be had."""
        self.window.refused(standing, self._clock.seconds(), self._random)

    def failed(self, errors: Sequence[ConnectFailedError]) -> None:
        """Nobody could be connected to."""
        now = self._clock.seconds()
        self.trouble = Trouble.of(errors)
        self.window.failed()
        state = self.state.after_failure(now, self._random, self._longest_rest)
        if state is not self.state:
            self.state = state
            # Remembered for as long again as it rests, so that the rests can grow while nobody gets through.
            self._clock.callLater(2 * (state.not_before - now), self._forget, state)

    def hindrance(self, title: str, now: float) -> str:
        """Why nothing is attempted, for people."""
        if self.trouble is None or not self.is_resting(now):
            return ""
        return f"{title} rests for {seconds(self.state.not_before - now)}: {self.trouble.reason}"

    def _forget(self, state: HostState) -> None:
        if self.state is state:
            self.recovered()
            self._changed()
