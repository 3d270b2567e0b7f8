"""Large octets and texts a piece at a time: a thread that looks through them at one go lets nobody else have a turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import AnyStr

__all__ = ["PIECE", "lines_together"]

#: Octets or characters that are worked on at one go: a millisecond or two.
PIECE = 1024 * 1024


def lines_together(text: AnyStr, end: AnyStr) -> Iterator[AnyStr]:
    """The text in pieces, each with whole lines; `end` is what ends one. A line may be longer than a piece."""
    at = 0
    while at < len(text):
        found = text.find(end, at + PIECE)
        until = found + len(end) if found >= 0 else len(text)
        yield text[at:until]
        at = until
