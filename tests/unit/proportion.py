"""Whether work takes in proportion to its size, in processor time: a busy machine makes it no slower."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["is_linear"]


def is_linear(work: Callable[[int], Callable[[], object]], size: int) -> bool:
    """Whether what `work` makes for ten times the size takes less than forty times as long: a square takes a hundred
    times. What takes less than half a millisecond counts as that."""
    return _took(work(10 * size)) < 40 * max(_took(work(size)), 0.0005)


def _took(work: Callable[[], object]) -> float:
    """Processor seconds, at best."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)
