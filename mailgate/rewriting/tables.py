"""Where aliases stand: in the configuration, and in files of lines, read again when they change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from twisted.internet.interfaces import IReactorTime

from mailgate.address import Address, AddressError
from mailgate.rewriting.source import MAX_TARGETS
from mailgate.stores.domains import canonical
from mailgate.stores.lists import LineError, LinesError, WatchedFile

__all__ = ["AliasMap", "PatternRules", "base_of", "key_of", "parse_aliases", "parse_target", "split_targets"]

#: So many wrong lines of a file are told at once.
_TOLD = 10
_SEPARATOR = re.compile(r"\s*,\s*|\s+")

Table = Mapping[str, tuple[str, ...]]


def split_targets(text: str) -> list[str]:
    """The targets that stand in a text, with commas or space between them."""
    return [one for one in _SEPARATOR.split(text.strip(" \t,")) if one]


def parse_target(text: str) -> str:
    """An address, or "@domain" for the same local part there; ValueError where `text` is neither."""
    try:
        address = Address.parse(f"any{text}" if text.startswith("@") else text)
    except AddressError as error:
        raise ValueError(f'"{text}" is no address: {error}') from None
    return f"@{address.domain}" if text.startswith("@") else str(address)


def parse_key(text: str) -> str:
    """What an alias is for, in the form in which it is looked up."""
    return parse_target(text).lower()


def parse_aliases(lines: Iterable[tuple[int, str]]) -> Table:
    """The table of numbered lines, "ADDRESS TARGET, TARGET"; LinesError, with the first ten, where lines are none."""
    found: dict[str, tuple[str, ...]] = {}
    wrong: list[LineError] = []
    for number, line in lines:
        key, _, rest = line.replace("\t", " ").partition(" ")
        try:
            targets = tuple(parse_target(one) for one in split_targets(rest))
            key = parse_key(key)
            if not targets:
                raise ValueError("an address and what it stands for: one target or more behind a space")
            if len(targets) > MAX_TARGETS:
                raise ValueError(f"{len(targets)} targets; {MAX_TARGETS} are the most")
            if key in found:
                raise ValueError(f"{key} stands there twice")
        except ValueError as error:
            if len(wrong) == _TOLD:
                raise LinesError(wrong, more=True) from None
            wrong.append(LineError(number, str(error)))
            continue
        found[key] = targets
    if wrong:
        raise LinesError(wrong)
    return found


class _Still:
    """Runs nothing by itself, and has nothing to close."""

    def start(self) -> None:
        """Nothing begins."""

    def retire(self) -> None:
        """Nothing ends."""

    def close(self) -> None:
        """Nothing is closed."""


class AliasMap(_Still):
    """Aliases of the configuration, and of a file; what stands in the configuration goes before.

    Construction raises FileError where the file cannot be used.
    """

    def __init__(self, entries: Mapping[str, Sequence[str]], path: Path | None, clock: IReactorTime) -> None:
        self._entries = {parse_key(key): tuple(targets) for key, targets in entries.items()}
        self._file = None if path is None else WatchedFile(path, parse_aliases, clock, keep_filled=True)

    def find(self, key: str) -> Sequence[str] | None:
        found = self._entries.get(key)
        if found is None and self._file is not None:
            found = self._file.value.get(key)
        return found


class PatternRules(_Still):
    """Addresses by regular expressions, asked in their order: the first that fits the whole address decides.

    Of a target \\1 and \\g<name> are replaced by what a group has matched. "@domain" fits no rule.
    """

    def __init__(self, rules: Sequence[tuple[str, Sequence[str]]]) -> None:
        """ValueError where an expression is none, or a target names a group that it has not or can be no address."""
        self._rules = []
        for pattern, targets in rules:
            try:
                compiled = re.compile(pattern, re.IGNORECASE)
                for target in targets:
                    re.compile("|" + pattern).fullmatch("").expand(target)  # type: ignore[union-attr]  # it fits ""
                    if "\\" not in target:
                        parse_target(target)
            except (re.error, IndexError) as error:
                raise ValueError(f'"{pattern}": {error}') from None
            self._rules.append((compiled, tuple(targets)))

    def find(self, key: str) -> Sequence[str] | None:
        if key.startswith("@"):
            return None
        for pattern, targets in self._rules:
            if match := pattern.fullmatch(key):
                return [match.expand(target) for target in targets]
        return None


def base_of(local_part: str, delimiter: str) -> tuple[str, str]:
    """A local part without the extension that its owner may add (RFC 5233), and the extension with its delimiter."""
    base, found, extension = local_part.partition(delimiter) if delimiter else (local_part, "", "")
    return (base, found + extension) if base and found else (local_part, "")


def key_of(local_part: str, domain: str) -> str:
    """An address as it is looked up."""
    return str(Address(local_part.lower(), canonical(domain)))
