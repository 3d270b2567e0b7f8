"""The files of Haraka's folder config: lists, single values, and ini files with sections."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailgate.moving.draft import Draft
from mailgate.moving.files import ReadingError, read_text

__all__ = ["Haraka", "Ini", "is_true", "open_haraka"]

_NUMBER = re.compile(r"\d{1,9}(\.\d{1,3})?", re.ASCII)
_TRUE = {"true", "yes", "ok", "enabled", "on", "1"}


def is_true(text: str) -> bool:
    """Whether a value means yes, as Haraka's loader takes it."""
    return text.strip().lower() in _TRUE


@dataclass(frozen=True, slots=True)
class Ini:
    """An ini file: values by section, "main" for those before any; keys that end with [] have several. What somebody
    has asked for is remembered in `asked`."""

    name: str
    sections: Mapping[str, Mapping[str, tuple[str, ...]]]
    asked: set[tuple[str, str]] = field(default_factory=set, compare=False)

    def get(self, key: str, default: str = "", section: str = "main") -> str:
        """The value, or the default."""
        self.asked.add((section, key))
        found = self.sections.get(section, {}).get(key)
        return found[-1] if found else default

    def all(self, key: str, section: str = "main") -> tuple[str, ...]:
        """All values of a key, also of one that stands there as a list."""
        self.asked.update([(section, key), (section, f"{key}[]")])
        values = self.sections.get(section, {})
        return (*values.get(key, ()), *values.get(f"{key}[]", ()))

    def items(self, section: str) -> Sequence[tuple[str, tuple[str, ...]]]:
        """Everything in a section."""
        found = self.sections.get(section, {})
        self.asked.update((section, key) for key in found)
        return list(found.items())

    def is_true(self, key: str, section: str = "main", *, default: bool = False) -> bool:
        """Whether it is set to yes."""
        found = self.get(key, section=section)
        return is_true(found) if found else default

    def number(self, key: str, section: str = "main") -> float | None:
        """A number; None where there is none."""
        text = self.get(key, section=section)
        return float(text) if _NUMBER.fullmatch(text) else None

    def origin(self, key: str = "", section: str = "main") -> str:
        """Where a value stands, for comments."""
        inside = f" [{section}]" if section != "main" else ""
        return f"{self.name}{inside} {key}".strip()


@dataclass
class Haraka:
    """The folder config, the draft, and which files have been read: what is left at the end is told."""

    folder: Path
    draft: Draft = field(default_factory=Draft)
    read: set[str] = field(default_factory=set)
    inis: dict[str, Ini] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.folder / name).is_file()

    def lines(self, name: str) -> list[str]:
        """The entries of a list, none where there is no such file."""
        self.read.add(name)
        if not self.has(name):
            return []
        bare = (line.strip() for line in read_text(self.folder / name).splitlines())
        return [line for line in bare if line and line[0] not in "#;"]

    def value(self, name: str) -> str:
        """The first line of a file."""
        return next(iter(self.lines(name)), "")

    def ini(self, *names: str) -> Ini:
        """The first of these that is there, as some have had other names; an empty one where none is."""
        self.read.update(names)
        name = next((one for one in names if self.has(one)), names[0])
        if name in self.inis:
            return self.inis[name]
        sections: dict[str, dict[str, list[str]]] = {"main": {}}
        current = sections["main"]
        for line in self.lines(name):
            if line.startswith("[") and "]" in line:
                current = sections.setdefault(line[1 : line.index("]")].strip(), {})
                continue
            key, equals, value = line.partition("=")
            current.setdefault(key.strip(), []).append(value.strip() if equals else "")
        whole = {one: {key: tuple(found) for key, found in keys.items()} for one, keys in sections.items()}
        self.inis[name] = Ini(name, whole)
        return self.inis[name]


def open_haraka(folder: Path) -> Haraka:
    """The Haraka in a folder, or whose folder config this is; ReadingError where it is neither."""
    for one in (folder / "config", folder):
        if (one / "plugins").is_file() or (one / "smtp.ini").is_file():
            return Haraka(one)
    raise ReadingError(f"{folder}: has neither plugins nor smtp.ini, and no config folder that has")
