"""How fast content has to come while a listener is under stress."""

from __future__ import annotations

from math import inf

__all__ = ["Pace"]

#: Octets that renew the time. Whoever has so much to send sends it in the first round trip (RFC 6928: some 14 KB), so
#: it costs no honest client anything; a drop now and then does not hold the connection any more.
_LEAST = 4096


class Pace:
    """The pace of one peer's content. `fed` counts its octets, and `until` is when all of it must have come.

    A message is known by how many its session has brought before it.
    """

    __slots__ = ("_message", "fed", "until")

    def __init__(self) -> None:
        self.fed = 0
        self.until = inf
        self._message: int | None = None

    def begin(self, message: int, now: float, seconds: float) -> None:
        """A message's content begins, or goes on when the stress begins; it has so many seconds in all."""
        self._message = message
        self.fed = 0
        self.until = now + seconds

    def renews(self, message: int | None, now: float, seconds: float) -> bool:
        """Whether what has come renews the peer's time: all but content that comes too slowly does. `message` is that
        whose content comes, and `seconds` are for all of it."""
        if message is None:
            self._message, self.until = None, inf
        elif message != self._message:
            self.begin(message, now, seconds)
        elif self.fed < _LEAST:
            return False
        self.fed = 0
        return True
