"""Octets as they may come from a network."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

__all__ = ["pieces"]


def pieces(octets: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """The octets, cut at these places."""
    for start, end in itertools.pairwise([0, *sorted(cuts), len(octets)]):
        yield octets[start:end]
