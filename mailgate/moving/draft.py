"""A configuration in the making: sections with the setting that each comes from, files beside, and leftovers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["DECIDE", "Draft", "Leftover", "Section", "Side", "Value", "Weight"]

#: What a line bears that a person has to look at before the configuration can do its work.
DECIDE = "DECIDE"
#: Characters of a text about what is left.
_LONGEST = 500
_BREAK = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")

Value = str | bool | int | float | Sequence["Value"] | dict[str, "Value"]

Weight = Literal["decide", "differs", "missing", "covered"]
"""decide: a person must say; differs: it is there, and not quite the same; missing: there is nothing like it; covered:
nothing has to be done, as we do it always, by other means, or it is about the other server's inside."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A setting that the new configuration does not have as it was: where it stood, why, and what to do."""

    weight: Weight
    setting: str
    why: str
    advice: str = ""


@dataclass(slots=True)
class Section:
    """One table of the configuration; `path` is that of TOML, and `is_entry` says whether it is one of `[[...]]`."""

    path: tuple[str, ...]
    is_entry: bool = False
    comments: list[str] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def set(self, key: str, value: Value, origin: str = "") -> None:
        """Put a key down, with the setting that it comes from."""
        self.values[key] = value
        if origin:
            self.origins[key] = origin

    def extend(self, key: str, more: Iterable[Value], origin: str = "") -> None:
        """Add to a list what it does not have yet."""
        old = self.values.get(key, ())
        found = list(old) if isinstance(old, list) else []
        found += [one for one in more if one not in found]
        self.values[key] = found
        if origin and origin not in self.origins.get(key, ""):
            self.origins[key] = ", ".join(filter(None, [self.origins.get(key), origin]))

    def comment(self, text: str) -> None:
        """Say something above the section, once."""
        if text not in self.comments:
            self.comments.append(text)


@dataclass(frozen=True, slots=True)
class Side:
    """A file that lies beside the configuration: its lines, or the file that it is a link to."""

    lines: tuple[str, ...] = ()
    link_to: str = ""
    is_secret: bool = False


@dataclass(slots=True)
class Draft:
    """Everything that an import has made. The order of sections is that in which they were first named."""

    sections: list[Section] = field(default_factory=list)
    _tables: dict[tuple[str, ...], Section] = field(default_factory=dict)
    _told: set[Leftover] = field(default_factory=set)
    files: dict[str, Side] = field(default_factory=dict)
    leftovers: list[Leftover] = field(default_factory=list)

    def section(self, *path: str) -> Section:
        """The section of this path, made where it is not there yet."""
        if path not in self._tables:
            self._tables[path] = Section(path)
            self.sections.append(self._tables[path])
        return self._tables[path]

    def has(self, *path: str) -> bool:
        """Whether there is such a section."""
        return path in self._tables

    def remove(self, *path: str) -> None:
        """Take a section out, with all below it."""
        self.sections = [one for one in self.sections if one.path[: len(path)] != path]
        self._tables = {key: one for key, one in self._tables.items() if key[: len(path)] != path}

    def entry(self, *path: str) -> Section:
        """A new `[[section]]`."""
        self.sections.append(Section(path, is_entry=True))
        return self.sections[-1]

    def entries(self, *path: str) -> list[Section]:
        """All `[[section]]`s of this path."""
        return [one for one in self.sections if one.path == path and one.is_entry]

    def below(self, *path: str) -> list[Section]:
        """The sections one step below this path."""
        return [one for one in self.sections if one.path[:-1] == path and not one.is_entry]

    def file(self, name: str, lines: Iterable[str], *, is_secret: bool = False) -> str:
        """Put a file beside the configuration; its path there, numbered where the name is taken. What stands in one of
        the `lines` never makes another one."""
        whole = tuple(_BREAK.sub(" ", line) for line in lines)
        side, number, path = Side(whole, is_secret=is_secret), 1, name
        while self.files.get(path, side) != side:
            number += 1
            path = f"{name}-{number}"
        self.files[path] = side
        return path

    def link(self, name: str, target: str) -> str:
        """Put a link beside the configuration."""
        self.files[name] = Side(link_to=target)
        return name

    def leave(self, weight: Weight, setting: str, why: str, advice: str = "") -> None:
        """Note what the new configuration does not have as it was; the same only once."""
        one = Leftover(weight, *(text[:_LONGEST] for text in (setting, why, advice)))
        if one not in self._told:
            self._told.add(one)
            self.leftovers.append(one)

    def decide(self, section: Section, setting: str, why: str, advice: str) -> None:
        """Note what a person has to decide, and mark the section."""
        section.comment(f"{DECIDE}: {why}: {advice}" if advice else f"{DECIDE}: {why}")
        self.leave("decide", setting, why, advice)
