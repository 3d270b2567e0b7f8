"""Who may fetch a policy now: so many at one time, few of them from one network, and nobody waits for long."""

from __future__ import annotations

from collections import Counter

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

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

    async def take(self, network: str) -> None:
        """Have one, which is given back then; "" is a network that is not counted. NoSlotError."""
        if self._has_room(network):
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
        turn = next((one for one, theirs in self._waiting.items() if self._has_room(theirs)), None)
        if turn is not None:
            self._taken[self._waiting.pop(turn)] += 1
            turn.callback(None)

    def _has_room(self, network: str) -> bool:
        is_free = not network or self._taken[network] < self._most_of_one
        return is_free and self._taken.total() < self._most

    def _leave(self, turn: Deferred[None]) -> None:
        self._waiting.pop(turn, None)

    def _give_up(self, turn: Deferred[None]) -> None:
        if self._waiting.pop(turn, None) is not None:
            turn.errback(NoSlotError(f"others were fetched for {self._patience:g} s, and it was not its turn"))
