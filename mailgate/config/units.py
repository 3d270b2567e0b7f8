"""Durations, sizes and paths as people write them: "30s", "25MiB", "people.txt" (beside the file that names it)."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

__all__ = [
    "ConfigPath",
    "Duration",
    "Form",
    "Size",
    "Timeout",
    "absolute",
    "at_least",
    "at_most",
    "format_duration",
    "format_size",
    "parse_duration",
    "parse_size",
    "path_template",
]

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE_UNITS = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "kB": 1000, "MB": 1000**2, "GB": 1000**3}
_PARTS = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", re.ASCII)
_LONGEST, _LARGEST = 3650 * 86400.0, 1024**5


@dataclass(frozen=True, slots=True)
class Form:
    """How values of a type look in the file, for the reference: in `words`, and as `write` puts a default down.

    Stands in the metadata of an Annotated type.
    """

    words: str
    write: Callable[[Any], str] = str


def parse_duration(value: object) -> float:
    """Seconds for "90s", "1h30m", "5d"; ValueError, fit for an administrator, for anything else."""
    return _parse(value, _DURATION_UNITS, "a duration is written like 30s, 5m, 1h30m or 5d", _LONGEST)


def parse_size(value: object) -> int:
    """Octets for "64KiB" or "25MB"; ValueError, fit for an administrator, for anything else."""
    return int(_parse(value, _SIZE_UNITS, "a size is written like 64KiB, 25MiB or 1GiB", _LARGEST))


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads as `seconds` (whole milliseconds): 5400 is "1h30m"."""
    rest, text = round(seconds * 1000), ""
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, length)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def format_size(octets: int) -> str:
    """The shortest text that `parse_size` reads as `octets`: 65536 is "64KiB"."""
    for unit, length in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if octets and octets % length == 0:
            return f"{octets // length}{unit}"
    return f"{octets}B"


def at_least(smallest: float, write: Callable[[Any], str]) -> AfterValidator:
    """A check for durations or sizes, whose message shows the bound as the file would have it."""

    def check(value: float) -> float:
        if value < smallest:
            raise ValueError(f"must be at least {write(smallest)}")
        return value

    return AfterValidator(check)


def at_most(largest: float, write: Callable[[Any], str]) -> AfterValidator:
    """The same for the other end."""

    def check(value: float) -> float:
        if value > largest:
            raise ValueError(f"must be at most {write(largest)}")
        return value

    return AfterValidator(check)


def absolute(text: str, info: ValidationInfo) -> str:
    """A path as it stands in the file, joined to the file's folder (`base` in the validation's context)."""
    if not text or "\0" in text:
        raise ValueError("must be the path of a file or folder")
    if text.startswith("~"):
        raise ValueError("~ is not expanded here; write the path in full")
    base = (info.context or {}).get("base")
    return text if base is None else str(base / text)


def path_template(text: str, info: ValidationInfo, names: tuple[str, str]) -> str:
    """A path with fields of these names in it, with its folder before it, whose own braces are no fields."""
    first, second = names
    try:
        fields = [field[1:] for field in string.Formatter().parse(text) if field[1] is not None]
    except ValueError:
        fields = [("", "", None)]
    if any(field not in ((first, "", None), (second, "", None)) for field in fields):
        raise ValueError(f"braces stand for {{{first}}} and {{{second}}} only")
    absolute(text, info)
    folder = "" if text.startswith("/") else absolute("x", info).removesuffix("x")
    return folder.replace("{", "{{").replace("}", "}}") + text


def _parse(value: object, units: dict[str, float] | dict[str, int], form: str, limit: float) -> float:
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
    if total > limit:
        raise ValueError("is too large to be meant")
    return total


def _config_path(value: object, info: ValidationInfo) -> object:
    if isinstance(value, Path):
        value = str(value)
    return Path(absolute(value, info)) if isinstance(value, str) else value


Duration = Annotated[float, BeforeValidator(parse_duration), Form('duration, like "30s"', format_duration)]
"""A duration in the file, seconds in the program."""

Timeout = Annotated[Duration, at_least(0.001, format_duration)]
"""A duration that must not be nothing."""

Size = Annotated[int, BeforeValidator(parse_size), Form('size, like "25MiB"', format_size)]
"""A size in the file, octets in the program."""

ConfigPath = Annotated[Path, BeforeValidator(_config_path), Form("path")]
"""A path; a relative one is relative to the folder of the file. Validation takes that from its context, `base`."""
