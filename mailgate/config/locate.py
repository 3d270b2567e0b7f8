"""Where each key and list entry of a TOML document stands.

Not a second parser: it takes a document that `tomllib` has read, so whatever it meets is well formed, and it only
has to tell keys from values. Strings over several lines are skipped as a whole.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Mapping

__all__ = ["Lines", "Path", "locate"]

Path = tuple[str | int, ...]
"""Keys, and positions in lists from 0: ("listeners", 0, "name")."""

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}(?!")|'  # up to two quotes may stand before the three that close
    r"'''.*?'{3,5}(?!')|"
    r'"(?:\\.|[^"\\])*"|'
    r"'[^']*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


class Lines:
    """The line of each path of a document, counted from 1."""

    def __init__(self, lines: Mapping[Path, int]) -> None:
        self._lines = lines

    def find(self, path: Path) -> int:
        """The line of `path`, or of the nearest key around it that stands in the file; 1 where there is none."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return 1

    def paths(self) -> Iterable[Path]:
        """Every path that has a line."""
        return self._lines.keys()


def locate(source: str) -> Lines:
    """The lines of a document that `tomllib.loads` accepts."""
    return Lines(_Scanner(source.replace("\r\n", "\n")).scan())


class _Scanner:
    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._starts = [match.end() for match in re.finditer("\n", source)]
        self._lines: dict[Path, int] = {}
        self._tables: dict[Path, int] = {}
        """how many tables each array of tables has so far"""

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        while not self._done():
            if self._next("["):
                table = self._header(is_array=self._next("["))
            else:
                self._pair(table)
        return self._lines

    def _header(self, *, is_array: bool) -> Path:
        line, keys = self._line(), self._key()
        path: Path = ()
        for key in keys[:-1]:
            path = self._last_table((*path, key))
            self._lines.setdefault(path, line)
        path = (*path, keys[-1])
        if is_array:
            self._lines.setdefault(path, line)
            number = self._tables.get(path, 0)
            self._tables[path] = number + 1
            path = (*path, number)
        self._lines[path] = line  # not the line of a sub-table that stood before its table
        self._at = self._source.index("]]" if is_array else "]", self._at) + (2 if is_array else 1)
        return path

    def _last_table(self, path: Path) -> Path:
        return (*path, self._tables[path] - 1) if path in self._tables else path

    def _pair(self, table: Path) -> None:
        line, path = self._line(), table
        for key in self._key():
            path = (*path, key)
            self._lines.setdefault(path, line)
        self._skip()
        self._next("=")
        self._value(path)

    def _key(self) -> list[str]:
        keys = []
        while True:
            self._skip()
            if match := _BARE_KEY.match(self._source, self._at):
                keys.append(match[0])
            else:
                match = _matched(_STRING.match(self._source, self._at))
                has_escapes = match[0].startswith('"') and "\\" in match[0]
                keys.append(tomllib.loads(f"key = {match[0]}")["key"] if has_escapes else match[0][1:-1])
            self._at = match.end()
            self._skip()
            if not self._next("."):
                return keys

    def _value(self, path: Path) -> None:
        self._skip()
        if self._next("["):
            self._list(path)
        elif self._next("{"):
            while not self._closed("}"):
                self._pair(path)
        else:
            pattern = _STRING if self._source[self._at : self._at + 1] in ('"', "'") else _SCALAR
            self._at = _matched(pattern.match(self._source, self._at)).end()

    def _list(self, path: Path) -> None:
        number = 0
        while not self._closed("]"):
            self._lines[(*path, number)] = self._line()
            self._value((*path, number))
            number += 1

    def _closed(self, bracket: str) -> bool:
        """Go on to the next entry, over a comma; whether the closing bracket stood there."""
        self._skip()
        if self._next(","):
            self._skip()
        return self._next(bracket)

    def _done(self) -> bool:
        self._skip()
        return self._at >= len(self._source)

    def _skip(self) -> None:
        self._at = _matched(_BLANK.match(self._source, self._at)).end()

    def _next(self, text: str) -> bool:
        if not self._source.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _line(self) -> int:
        return bisect_right(self._starts, self._at) + 1


def _matched(match: re.Match[str] | None) -> re.Match[str]:
    if match is None:
        raise ValueError("not a TOML document")
    return match
