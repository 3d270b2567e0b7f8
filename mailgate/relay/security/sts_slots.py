"""Who may fetch a policy now: so many at one time, few of them from one network, and nobody waits for long."""

from __future__ import annotations

from collections import Counter

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["NoSlotError", "Slots"]


class NoSlotError(Exception):
    """There is none, and there was none for as long as one waits."""


class Slots:
    """At most `most`, of which one network has `most_of_one`. Others wait in their order, at most `most_waiting` of
    them, each for `patience` seconds."""

    def __init__(self, clock: IReactorTime, *, most: int, most_of_one: int, most_waiting: int, patience: float) -> None:
        self._clock = clock
        self._most = most
        self._most_of_one = most_of_one
        self._most_waiting = most_waiting
        self._patience = patience
        self._taken: Counter[str] = Counter()
        self._waiting: dict[Deferred[None], str] = {}
        self._serving: IDelayedCall | None = None

    async def take(self, network: str) -> None:
        """Have one, which is given back then; "" is a network that is not counted. NoSlotError."""
        if self._serving is None and self._has_room(network):  # else somebody waits for that room
            self._taken[network] += 1
            return
        if len(self._waiting) >= self._most_waiting:
            raise NoSlotError(f"{self._most_waiting} others wait until theirs is fetched")
        turn: Deferred[None] = Deferred(self._leave)
        self._waiting[turn] = network
        late = self._clock.callLater(self._patience, self._give_up, turn)
        try:
            await turn
        finally:
            if late.active():
                late.cancel()

    def give_back(self, network: str) -> None:
        """Whoever has waited longest, and may, has it next."""
        self._taken[network] -= 1
        if not self._taken[network]:
            del self._taken[network]
        self._serve_later()

    def _serve_later(self) -> None:
        """Each in a turn of the reactor of its own: what ends at once would else go on within what ended before it."""
        if self._waiting and self._serving is None:
            self._serving = self._clock.callLater(0, self._serve)

    def _serve(self) -> None:
        self._serving = None
        turn = next((one for one, theirs in self._waiting.items() if self._has_room(theirs)), None)
        if turn is not None:
            self._taken[self._waiting.pop(turn)] += 1
            self._serve_later()
            turn.callback(None)

    def _has_room(self, network: str) -> bool:
        is_free = not network or self._taken[network] < self._most_of_one
        return is_free and self._taken.total() < self._most

    def _leave(self, turn: Deferred[None]) -> None:
        self._waiting.pop(turn, None)
        if not self._waiting and self._serving is not None:
            self._serving.cancel()
            self._serving = None

    def _give_up(self, turn: Deferred[None]) -> None:
        if turn in self._waiting:
            self._leave(turn)
            turn.errback(NoSlotError(f"others were fetched for {self._patience:g} s, and it was not its turn"))
