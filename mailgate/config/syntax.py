"""What `tomllib` says of a text that is no TOML, in words for administrators."""

from __future__ import annotations

import re

__all__ = ["explained"]

_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_QUOTE = "text whose closing quote is missing"
#: What tomllib says of the commonest slips, in other words.
_HINTS = {
    "Cannot overwrite a value": "this key stands here a second time",
    "Invalid value": "no valid value; text stands in quotes",
    "Unclosed array": "a list whose ] is missing, or text in it whose closing quote is missing",
    "Illegal character '\\n'": _QUOTE,
    "Found invalid character '\\n'": _QUOTE,
    "Unterminated string": _QUOTE,
}
#: Quotes that never close: the last in the text opens what is not closed.
_UNCLOSED = {"Unterminated string": '"""', 'Expected "\'"': "'", "Expected \"'''\"": "'''"}
_TWICE = re.compile(r"Cannot declare \(.*\) twice|Cannot overwrite a value")
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]#]+?)\s*\]")


def explained(source: str, message: str) -> tuple[int, str]:
    """The line, from 1, and what is wrong there, for the message of a TOMLDecodeError about `source`."""
    match = _PLACE.fullmatch(message)
    if match is None:
        return 1, message
    what, lines = match[1], source.split("\n")
    if match[2] is None:
        if (opened := source.rfind(_UNCLOSED[what]) if what in _UNCLOSED else -1) >= 0:
            return source.count("\n", 0, opened) + 1, _QUOTE
        return source.rstrip("\n").count("\n") + 1, f"{_HINTS.get(what, what)} (at the end)"
    line = int(match[2])
    if _TWICE.fullmatch(what) and (text := _section_twice(lines, line)):
        return line, text
    return line, f"{_HINTS.get(what, what)} (column {match[3]})"


def _section_twice(lines: list[str], line: int) -> str:
    """What is to be said of the header in `line`, which is there already; "" where it is no header that was found."""
    header = _HEADER.match(lines[line - 1])
    if header is None:
        return ""
    for number, earlier in enumerate(lines[: line - 1], 1):
        found = _HEADER.match(earlier)
        if found and found[2] == header[2]:
            if found[1] != header[1]:
                return f"each begins with [[{header[2]}]]; line {number} has {found[1]}{header[2]}{']' * len(found[1])}"
            return f"[{header[2]}] stands in line {number} already"
    return ""
