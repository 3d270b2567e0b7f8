"""Secrets that clients have shown and whose checks are not over: each may turn out wrong."""

from __future__ import annotations

from collections import Counter

from twisted.internet.defer import Deferred

__all__ = ["Guesses"]


class Guesses:
    """How many checks are open, by who has shown the secrets (`key`).

    Whoever bounds failures adds these to them: else as many could be tried at one time as there are connections.
    """

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._waiting: dict[str, list[Deferred[None]]] = {}

    def count(self, key: str) -> int:
        """The checks that are open."""
        return self._open[key]

    def begin(self, key: str) -> None:
        """One more. Each is followed by one `end`, once its failure would be counted."""
        self._open[key] += 1

    def end(self, key: str) -> None:
        """One less; whoever waits for that looks again."""
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]
        for one in self._waiting.pop(key, ()):
            if not one.called:
                one.callback(None)

    def wait(self, key: str) -> Deferred[None]:
        """Fires when one of the checks that are open is over. It may be cancelled."""

        def leave(_: Deferred[None]) -> None:
            waiting = self._waiting.get(key, [])
            if one in waiting:
                waiting.remove(one)
                if not waiting:
                    del self._waiting[key]

        one: Deferred[None] = Deferred(leave)
        self._waiting.setdefault(key, []).append(one)
        return one
