"""Words for people about where mail waits."""

from __future__ import annotations

__all__ = ["in_line", "per_time", "seconds"]

_PER = (("a second", 1.0), ("a minute", 60.0), ("an hour", 3600.0), ("a day", 86400.0))

#: The least number that stands before the name of what it counts, and how near to a whole one it has to be.
_FEW, _NEARLY = 1.5, 1e-6


def in_line(place: int, length: int) -> str:
    """ "3rd of 40"."""
    ending = "th" if place // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending} of {length}"


def seconds(duration: float) -> str:
    """ "40 s"."""
    return f"{max(duration, 0.0):.0f} s"


def per_time(rate: float, what: str) -> str:
    """ "10 messages a minute", of a rate for each second; `what` is "messages"."""
    # 100/m is no 1.67 a second, nor 60/m 1: as people write it, most likely.
    whole = (one for one in _PER if (number := rate * one[1]) >= _FEW and abs(number - round(number)) < _NEARLY)
    unit, length = next(whole, None) or next((one for one in _PER if rate * one[1] >= 1), _PER[-1])
    number = rate * length
    return f"{round(number) if abs(number - round(number)) < _NEARLY else f'{number:.3g}'} {what} {unit}"
