"""When the place of a worker that has ended is filled again."""

from __future__ import annotations

__all__ = ["Patience"]

#: A worker that has served so long (seconds) has not ended because of how it starts.
_LONG = 10.0
#: So many in a row that did not serve so long are replaced at once; before each further one we wait twice as long.
_AT_ONCE = 3
_LONGEST = 30.0
#: So many in a row that did not serve at all are the last: somebody has to look.
_MOST_FAILED = 10


class Patience:
    """Of one place."""

    def __init__(self) -> None:
        self._short = 0
        self._failed = 0

    def after(self, served: float | None) -> float | None:
        """Seconds to wait, where the last one has served for so long, or never (None); None to give up."""
        self._failed = self._failed + 1 if served is None else 0
        self._short = 0 if served is not None and served >= _LONG else self._short + 1
        if self._failed >= _MOST_FAILED:
            return None
        return 0.0 if self._short <= _AT_ONCE else min(2.0 ** (self._short - _AT_ONCE - 1), _LONGEST)
