"""How many connections a site bears: found out by what becomes of them. Times are seconds."""

from __future__ import annotations

from random import Random

from mailgate.relay.schedule import HostState

__all__ = ["FIRST", "Window"]

FIRST = 5
"""Connections with which a site begins that is not known yet."""


class Window:
    """Begins small, and grows by one for each round of deliveries that went well (by 1/size for each) up to `most`.

    A connection that cannot be had while others stand shows how many the site bears: no more are tried for a while,
    which becomes longer each time that it shows again.
    """

    def __init__(self, most: int, first: int = FIRST) -> None:
        self.most = most
        self._first = first
        self._size = float(min(first, most))
        self._ceiling: float = most
        self._refusals = HostState()

    @property
    def size(self) -> int:
        """Connections that there may be now."""
        return int(min(self._size, self.most))

    def succeeded(self, now: float) -> None:
        """A delivery was answered."""
        if self._ceiling < self.most and self._refusals.may_try(now):
            self._ceiling = self.most
        self._size = min(self._size + 1 / self._size, self._ceiling)

    def refused(self, standing: int, now: float, random: Random) -> None:
        """A connection was not to be had while so many others stand, one at least."""
        self._refusals = self._refusals.after_failure(now, random)
        self._size = self._ceiling = float(max(min(standing, self.most), 1))

    def failed(self) -> None:
        """None was to be had, and none stands: whoever tries again tries alone."""
        self._size, self._ceiling = 1.0, self.most

    def recovered(self) -> None:
        """The site is there again."""
        self._size = max(self._size, float(min(self._first, self._ceiling, self.most)))
