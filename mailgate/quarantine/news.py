"""What filters have said of entries when they were asked in earlier rounds: the same again is no news."""

from __future__ import annotations

from cachetools import LRUCache

from mailgate.quarantine.review import Reviewed

__all__ = ["News"]

#: Entries of which it is known that filters have said something else than is usual; the others are told of again.
_MOST = 50_000


class News:
    """Remembers, as long as the process lives. `usual` is the word that goes without saying: "objects" of what is in
    quarantine, "pass" of what is in the queue."""

    def __init__(self, usual: str) -> None:
        self._usual = usual
        self._said: LRUCache[tuple[str, int], str] = LRUCache(_MOST)

    def take(self, found: Reviewed) -> bool:
        """Note what is said of an entry in this round; whether it is to be told. That a filter can tell again, and says
        what goes without saying, is not."""
        key, word = (found.view.queue_id, found.view.number), found.said.word
        if word == self._usual:
            return self._said.pop(key, "unknown") != "unknown"
        before = self._said.get(key)
        self._said[key] = word
        return word != before
