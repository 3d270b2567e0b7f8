"""In which order those come who wait for a turn at a full destination: start-time fair queueing.

Each entry has a tag: the time, or what its sender's last entry at this destination had and a little more, whichever is
later. The least tag goes first. So a single message overtakes those of a sender who has many waiting, and nobody is
overtaken for ever, because time goes on.
"""

from __future__ import annotations

from cachetools import LRUCache

from mailgate.address import Address
from mailgate.interfaces import Destination

__all__ = ["Tags"]

#: Seconds that the tag of a sender at one destination grows with each message, at least, and for each recipient that
#: goes with the first. Too much does no harm: it only lets others go between.
_STEP, _RECIPIENT = 1.0, 0.05
#: Senders at destinations that are remembered; those that are forgotten begin anew.
_REMEMBERED = 50_000

_Key = tuple[Destination, Address]


class Tags:
    """The last tags that were given."""

    def __init__(self) -> None:
        self._last = _Last(_REMEMBERED)

    def next(
        self, destination: Destination, sender: Address, recipients: int, now: float, interval: float = 0.0
    ) -> float:
        """The tag for so many recipients of one message, of which the destination takes one each `interval`."""
        key = destination, sender
        tag = max(now, self._last.get(key, 0.0))
        self._last[key] = tag + max(interval, _STEP) + _RECIPIENT * (recipients - 1)
        self._last.senders.setdefault(destination, set()).add(sender)
        return tag

    def forget(self, destination: Destination) -> None:
        """Nothing waits there any more: whoever has sent much to it begins anew."""
        for sender in self._last.senders.pop(destination, ()):
            del self._last[destination, sender]


class _Last(LRUCache[_Key, float]):
    """Tags; `senders` has those of each destination."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.senders: dict[Destination, set[Address]] = {}

    def popitem(self) -> tuple[_Key, float]:
        key, tag = super().popitem()
        destination, sender = key
        senders = self.senders[destination]
        senders.discard(sender)
        if not senders:
            del self.senders[destination]
        return key, tag
