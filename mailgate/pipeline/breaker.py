"""The circuit breaker: a filter that fails again and again is left alone for a while."""

from __future__ import annotations

import enum

__all__ = ["FAILURES", "LONGEST_PAUSE", "PAUSE", "Admission", "Breaker"]

#: Failures in a row after which the breaker opens.
FAILURES = 5
#: Seconds before the first trial; doubled after each trial that fails, up to the longest pause.
PAUSE = 30.0
LONGEST_PAUSE = 300.0


class Admission(enum.Enum):
    """Whether the filter may be asked: as always, as the one trial of an open breaker, or not."""

    ORDINARY = "ordinary"
    TRIAL = "trial"
    REFUSED = "refused"


class Breaker:
    """Closed, or open until a moment, or open with one trial under way.

    Pure: the moment (seconds of any clock) is an argument. Each admission that was not refused ends in exactly
    one of `succeeded`, `failed` and `abandoned`; the first two tell whether the breaker opened or closed by it.
    """

    __slots__ = ("_failures", "_in_trial", "_pause", "_until", "is_calm")

    def __init__(self) -> None:
        #: Whether it is closed and no failure counts against the filter: an answer then changes nothing.
        self.is_calm = True
        self._failures = 0
        self._pause = PAUSE
        self._until: float | None = None
        self._in_trial = False

    @property
    def is_open(self) -> bool:
        """Whether the filter is left alone."""
        return self._until is not None

    def admit(self, now: float) -> Admission:
        """May the filter be asked?"""
        if self._until is None:
            return Admission.ORDINARY
        if self._in_trial or now < self._until:
            return Admission.REFUSED
        self._in_trial = True
        return Admission.TRIAL

    def succeeded(self) -> bool:
        """The filter answered; True where this closed the breaker."""
        self.is_calm = True
        self._failures = 0
        if self._until is None:
            return False
        self._until = None
        self._in_trial = False
        self._pause = PAUSE
        return True

    def failed(self, now: float, admission: Admission) -> bool:
        """The filter failed; True where this opened the breaker. A trial that fails only makes the pause longer."""
        self.is_calm = False
        if self._until is not None:
            # Questions from before the breaker opened may still come to their end: only the trial counts.
            if admission is Admission.TRIAL:
                self._in_trial = False
                self._pause = min(self._pause * 2, LONGEST_PAUSE)
                self._until = now + self._pause
            return False
        self._failures += 1
        if self._failures < FAILURES:
            return False
        self._until = now + self._pause
        return True

    def abandoned(self, admission: Admission) -> None:
        """Nobody waits for the answer any more: it says nothing about the filter."""
        if admission is Admission.TRIAL:
            self._in_trial = False
