"""Lookup tables of Postfix: sources of hashes, lists of expressions, and questions to databases."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailgate.moving.files import ReadingError, read_text
from mailgate.moving.postfix.reading import logical_lines, read_main, split_words, unbraced

__all__ = ["Entry", "Question", "Rule", "Table", "Tables", "Unreadable"]

#: Kinds whose source is a file of lines KEY VALUE, which postmap has made into a database, or reads as it is.
_LINES = {"hash", "btree", "dbm", "lmdb", "sdbm", "cdb", "texthash", "cidr"}
_EXPRESSIONS = {"pcre", "regexp"}
_ASKED = {"ldap", "mysql", "pgsql", "sqlite"}
_EXPRESSION = re.compile(r"(!?)/((?:\\.|[^/\\])*)/(\w*)\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and its value, and the line that they stand in."""

    key: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Rule:
    """An expression of pcre or regexp: whether it is turned round, its text, whether case matters, and the value."""

    pattern: str
    ignores_case: bool
    value: str
    origin: str
    is_not: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A table in a database: its kind, and the settings of its file."""

    kind: str
    settings: dict[str, str]
    path: Path


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A table that cannot be taken over, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Table:
    """One `type:name`: entries, rules, or what could not be made of it."""

    name: str
    content: tuple[Entry, ...] | tuple[Rule, ...] | Question | Unreadable

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries, none where it holds something else."""
        if isinstance(self.content, tuple):
            return tuple(one for one in self.content if isinstance(one, Entry))
        return ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The expressions, none where it holds something else."""
        if isinstance(self.content, tuple):
            return tuple(one for one in self.content if isinstance(one, Rule))
        return ()


class Tables:
    """Reads tables, each once. `dump` gives the lines of a hash whose source is not there, or None."""

    def __init__(
        self, folder: Path, users: Callable[[], Sequence[str]], dump: Callable[[str], str | None] = lambda _: None
    ) -> None:
        """`folder` is where Postfix's own files are looked for that are not at the place where they are named: a copy
        of /etc/postfix may lie anywhere."""
        self._folder = folder
        self._users = users
        self._dump = dump
        self._known: dict[str, Table] = {}

    def read(self, name: str) -> Table:
        """The table `type:name`, or what stands for it."""
        if name not in self._known:
            try:
                self._known[name] = Table(name, self._content(name))
            except ReadingError as error:
                self._known[name] = Table(name, Unreadable(str(error)))
        return self._known[name]

    def all(self, words: Sequence[str]) -> list[Table]:
        """The tables of a setting that lists them."""
        return [self.read(word) for word in words]

    def find(self, path: str) -> Path:
        """Where a file is: at its place, or in the folder that was given if it has been copied there."""
        place = Path(path) if path.startswith("/") else self._folder / path
        for beginning in ("/etc/postfix/", "/usr/local/etc/postfix/"):
            copy = self._folder / path.removeprefix(beginning)
            if path.startswith(beginning) and copy.is_file():
                return copy
        return place

    def _content(self, name: str) -> tuple[Entry, ...] | tuple[Rule, ...] | Question | Unreadable:
        kind, colon, rest = name.partition(":")
        kind = kind.lower()
        if not colon:
            return Unreadable("is no table of the form type:name")
        if kind == "proxy":
            return self._content(rest)
        if kind == "unix" and rest == "passwd.byname":
            return tuple(Entry(user, user, "the users of this machine") for user in self._users())
        if kind == "static":
            return (Entry("*", unbraced(rest), name),)
        if kind == "inline":
            pairs = (unbraced(one).partition("=") for one in split_words(unbraced(rest)))
            return tuple(Entry(key.strip(), value.strip(), name) for key, _, value in pairs)
        if kind in _ASKED:
            path = self.find(rest)
            settings = {key: one.value for key, one in read_main(read_text(path), path.name).items()}
            return Question(kind, settings, path)
        if kind in _EXPRESSIONS:
            return self._rules(self.find(rest))
        if kind in _LINES:
            return self._lines(kind, rest)
        return Unreadable(f"tables of type {kind} cannot be taken over")

    def _lines(self, kind: str, rest: str) -> tuple[Entry, ...]:
        path = self.find(rest)
        try:
            text = read_text(path)
        except ReadingError:
            dumped = self._dump(f"{kind}:{rest}")
            if dumped is None:
                raise
            text = dumped
        found = []
        for number, line in logical_lines(text):
            key, value = _pair(line)
            found.append(Entry(key, value, f"{path.name}:{number}"))
        return tuple(found)

    def _rules(self, path: Path) -> tuple[Rule, ...]:
        found = []
        for number, line in logical_lines(read_text(path)):
            where = f"{path.name}:{number}"
            if line.lower().startswith(("if ", "if/", "if!", "endif")):
                raise ReadingError(f"{path}:{number}: if and endif in tables of expressions cannot be taken over")
            match = _EXPRESSION.fullmatch(line)
            if not match:
                raise ReadingError(f"{path}:{number}: is no expression of the form /.../ with a value behind it")
            # Case does not matter in these tables; the flag i turns that round.
            found.append(Rule(match[2], "i" not in match[3], match[4].strip(), where, match[1] == "!"))
        return tuple(found)


def _pair(line: str) -> tuple[str, str]:
    if line.startswith('"') and (end := line.find('"', 1)) > 0:
        return line[1:end], line[end + 1 :].lstrip(": \t")
    key, *rest = line.split(None, 1)
    value = rest[0] if rest else ""
    if "::" in key:  # an address of IPv6
        return key, value
    # A colon behind the key is the form of aliases(5).
    if key.endswith(":") and len(key) > 1:
        return key[:-1], value
    if ":" in key and not value:
        name, _, behind = key.partition(":")
        return name, behind
    return key, value
