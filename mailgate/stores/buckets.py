"""Buckets that fill by themselves and are taken from: rates with a burst."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

__all__ = ["Buckets"]

#: Seconds that are no wait: what is left by counting with floats.
_NOTHING = 1e-5


class _Bucket:
    """What was in it at a moment; it is `full_at` a later one."""

    __slots__ = ("at", "full_at", "level")

    def __init__(self, level: float, at: float, full_at: float) -> None:
        self.level = level
        self.at = at
        self.full_at = full_at


class Buckets:
    """Buckets by key; at most `max_keys`: the least recently used go first, and are full when they return. `gone` hears
    of those."""

    def __init__(self, seconds: Callable[[], float], max_keys: int, gone: Callable[[str], object]) -> None:
        self._seconds = seconds
        self._max_keys = max_keys
        self._gone = gone
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str, rate: float, burst: float, amount: float) -> float:
        """As in ICounters; infinite where the bucket can never hold so much."""
        now = self._seconds()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._keep(key, _Bucket(burst, now, now))
        else:
            self._buckets.move_to_end(key)
            # A clock that steps back fills nothing, and takes nothing away.
            bucket.level = min(bucket.level + max(now - bucket.at, 0.0) * rate, burst)
            bucket.at = now
        wait = 0.0 if amount <= bucket.level else math.inf if amount > burst else (amount - bucket.level) / rate
        if wait <= _NOTHING:
            bucket.level = max(bucket.level - amount, 0.0)
            wait = 0.0
        bucket.full_at = now + (burst - bucket.level) / rate
        return wait

    def __iter__(self) -> Iterator[str]:
        return iter(self._buckets)

    def written(self, key: str) -> tuple[tuple[float, ...], float] | None:
        """The numbers that `load` takes, and when they mean nothing any more; None where the bucket is gone."""
        bucket = self._buckets.get(key)
        return None if bucket is None else ((bucket.level, bucket.at, bucket.full_at), bucket.full_at)

    def load(self, key: str, numbers: Sequence[float]) -> None:
        """Go on with what was written; ValueError where it is something else."""
        level, at, full_at = numbers
        self._buckets.pop(key, None)
        self._keep(key, _Bucket(float(level), float(at), float(full_at)))

    def _keep(self, key: str, bucket: _Bucket) -> _Bucket:
        if len(self._buckets) >= self._max_keys:
            oldest, _ = self._buckets.popitem(last=False)
            self._gone(oldest)
        self._buckets[key] = bucket
        return bucket
