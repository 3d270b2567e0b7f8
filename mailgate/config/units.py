"""Durations and sizes as people write them: "30s", "4h", "25MiB". A bare number is refused: it hides its unit."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

__all__ = ["Duration", "Size", "parse_duration", "parse_size"]

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE_UNITS = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "kB": 1000, "MB": 1000**2, "GB": 1000**3}
_PARTS = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def parse_duration(value: object) -> float:
    """Seconds for "90s", "1h30m", "5d"; ValueError, fit for an administrator, for anything else."""
    return _parse(value, _DURATION_UNITS, "a duration is written like 30s, 5m, 1h30m or 5d")


def parse_size(value: object) -> int:
    """Octets for "64KiB" or "25MB"; ValueError, fit for an administrator, for anything else."""
    return int(_parse(value, _SIZE_UNITS, "a size is written like 64KiB, 25MiB or 1GiB"))


def _parse(value: object, units: dict[str, float] | dict[str, int], form: str) -> float:
    if not isinstance(value, str):
        raise ValueError(f"{form}, in quotes")
    total, end = 0.0, 0
    for match in _PARTS.finditer(value.strip()):
        if match.start() != end or match[2] not in units:
            raise ValueError(form)
        total += float(match[1]) * units[match[2]]
        end = match.end()
    if not end or end != len(value.strip()):
        raise ValueError(form)
    return total


Duration = Annotated[float, BeforeValidator(parse_duration)]
"""A duration in the file, seconds in the program."""

Size = Annotated[int, BeforeValidator(parse_size)]
"""A size in the file, octets in the program."""
