"""Errors and warnings in one form: `FILE:LINE: key: what is wrong (valid values are: ...)`."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping

from mailgate.config.locate import Lines, Path

__all__ = ["Problems", "choices", "one_line"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
#: So many valid values are shown, and so many compared with what was given.
_SHOWN, _COMPARED = 40, 1000


class Problems:
    """Collects what is wrong with a file, and what is only doubtful. `file` is shown as the user typed it.

    `origins` gives the place of what is not in the file under its own key: a filter without a section stands
    where a pipeline names it.
    """

    def __init__(
        self, file: str, document: Mapping[str, object], lines: Lines, origins: Mapping[Path, Path] | None = None
    ) -> None:
        self._file, self._document, self._lines = file, document, lines
        self._errors: list[tuple[int, str]] = []
        self._warnings: list[tuple[int, str]] = []
        self.origins: dict[Path, Path] = dict(origins or {})

    def error(self, path: Path, text: str) -> None:
        """What is wrong at `path`."""
        self._errors.append(self._entry(path, text))

    def known(self, path: Path, name: object, what: str, valid: Collection[str]) -> None:
        """An error at `path` where a name stands there that is none of these; `what` says of what they are."""
        if isinstance(name, str) and name not in valid:
            self.error(path, choices(f'there is no {what} "{name}"', name, valid))

    def add_lines(self, path: Path, lines: Collection[str]) -> None:
        """What is wrong in another file, which `path` names: whole lines."""
        self._errors += [(self.line(path), line) for line in lines]

    def add_warnings(self, path: Path, lines: Collection[str]) -> None:
        """What is doubtful in another file, which `path` names: whole lines."""
        self._warnings += [(self.line(path), line) for line in lines]

    def warn(self, path: Path, text: str) -> None:
        """What is allowed and may still not be meant."""
        self._warnings.append(self._entry(path, text))

    @property
    def errors(self) -> tuple[str, ...]:
        """The errors by line, each once."""
        return tuple(dict.fromkeys(text for _, text in sorted(self._errors, key=lambda entry: entry[0])))

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings by line, each once."""
        return tuple(dict.fromkeys(text for _, text in sorted(self._warnings, key=lambda entry: entry[0])))

    def line(self, path: Path) -> int:
        """Where `path` stands."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self._lines.find(self.origins[path[:length]])
        return self._lines.find(path)

    def format(self, path: Path, text: str) -> str:
        """The whole line about `path`."""
        return self._entry(path, text)[1]

    def _entry(self, path: Path, text: str) -> tuple[int, str]:
        line = self.line(path)
        return line, one_line(f"{self._file}:{line}: {self._name(path)}: {text}")

    def _name(self, path: Path) -> str:
        name = ""
        for index, part in enumerate(path):
            if isinstance(part, int):
                name += f"[{self._listener(part) if path[:index] == ('listeners',) else part + 1}]"
            else:
                key = part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False)
                name += f".{key}" if name else key
        return name

    def _listener(self, number: int) -> str:
        """A listener's name, which says more than its position; that, from 1, where it has none."""
        listeners = self._document.get("listeners")
        entry = listeners[number] if isinstance(listeners, list) and number < len(listeners) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        return name if isinstance(name, str) and name else str(number + 1)


def choices(text: str, given: object, valid: Collection[str]) -> str:
    """`text` with the nearest valid value to what was given, and the valid values."""
    near = []
    if len(valid) <= _COMPARED:
        near = difflib.get_close_matches(str(given), valid, 1)
        near = near or difflib.get_close_matches(str(given).lower(), valid, 1, cutoff=0.5)
    text += f", did you mean {near[0]}?" if near else ""
    once = list(dict.fromkeys(valid))
    shown = [*once[:_SHOWN], *(["..."] if len(once) > _SHOWN else [])]
    return f"{text} (valid values are: {', '.join(shown)})" if valid else text


def one_line(text: str) -> str:
    """`text` without line ends and control characters, so that a name in a file cannot forge a line of output."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in re.sub(r"\s+", " ", text)
    )
