"""When the place of a worker that has ended is filled again."""

from __future__ import annotations

__all__ = ["Patience"]

#: A worker that has served so long (seconds) has not ended because of how it starts.
_LONG = 10.0
#: So many in a row that did not serve so long are replaced at once; before each further one we wait twice as long.
_AT_ONCE = 3
_LONGEST = 30.0
#: After so many in a row that did not serve at all somebody has to look.
_MOST_FAILED = 10


class Patience:
    """Of one place."""

    def __init__(self) -> None:
        self._short = 0
        self._failed = 0

    @property
    def is_at_end(self) -> bool:
        """Whether so many have failed that the next one hardly fares better."""
        return self._failed >= _MOST_FAILED

    def after(self, served: float | None) -> float:
        """Seconds to wait, where the last one has served for so long, or never (None)."""
        self._failed = self._failed + 1 if served is None else 0
        self._short = 0 if served is not None and served >= _LONG else self._short + 1
        return 0.0 if self._short <= _AT_ONCE else min(2.0 ** min(self._short - _AT_ONCE - 1, 10), _LONGEST)
