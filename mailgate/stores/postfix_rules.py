"""Tables of expressions as Postfix has them, pcre_table(5) and regexp_table(5): by RE2, whose time is linear in what it
looks at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mailgate.stores.lists import LineError

__all__ = ["Expressions", "Found", "parse_expressions"]

#: Lines of one table at most: each may be tried for each address.
_MOST = 1000
#: Octets that one expression may take, compiled.
_MAX_MEMORY = 1024 * 1024
#: What stands for a group in a value, and for a dollar.
_REFERENCE = re.compile(r"\$(?:(\$)|(\d)|\{(\d{1,2})\}|\((\d{1,2})\))")
_IF = re.compile(r"if\s*(!?)\s*(\W.*)", re.IGNORECASE | re.DOTALL)


class _Match(Protocol):
    def group(self, number: int) -> str | None:
        """What a group has matched."""


class _Expression(Protocol):
    groups: int

    def search(self, text: str) -> _Match | None:
        """The first place where it fits."""


@dataclass(slots=True)
class _Line:
    """One line. Where it is an `if`, `behind` is the number of the line behind its `endif`."""

    expression: _Expression
    is_not: bool
    value: str = ""
    behind: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """The `value` of the line that fits, as it stands there."""

    value: str
    match: _Match | None

    def filled(self, text: str) -> str:
        """A part of the value, in which $1 and so on stand for what the groups have matched: words of whoever has
        written the address, which may hold whatever parts a value."""

        def group(reference: re.Match[str]) -> str:
            if reference[1] or self.match is None:
                return "$"
            return self.match.group(int(reference[2] or reference[3] or reference[4])) or ""

        return _REFERENCE.sub(group, text)


class Expressions:
    """Lines in their order: the first that fits an address gives its value."""

    def __init__(self, lines: Sequence[_Line]) -> None:
        self._lines = lines

    def find(self, address: str) -> Found | None:
        """What stands behind the first line that fits; None where nothing does."""
        number, lines = 0, self._lines
        while number < len(lines):
            line = lines[number]
            match = line.expression.search(address)
            fits = (match is None) if line.is_not else (match is not None)
            if fits and not line.behind:
                return Found(line.value, match)
            number = line.behind if line.behind and not fits else number + 1
        return None


def parse_expressions(lines: Iterable[tuple[int, str]], *, kind: str) -> Expressions:
    """The table of numbered lines, of kind "pcre" or "regexp"; LineError where one cannot be taken over, ImportError
    without RE2."""
    found: list[_Line] = []
    opened: list[tuple[int, _Line]] = []
    for number, text in lines:
        if len(found) == _MOST:
            raise LineError(number, f"more than {_MOST} expressions")
        try:
            if text.lower() == "endif":
                if not opened:
                    raise ValueError("endif without an if")
                opened.pop()[1].behind = len(found)
            elif condition := _IF.fullmatch(text):
                line = _line(condition[2], bool(condition[1]), kind)
                found.append(line)
                opened.append((number, line))
            else:
                is_not = text.startswith("!")
                line = _line(text.removeprefix("!").lstrip(), is_not, kind, needs_value=True)
                found.append(line)
        except ValueError as error:
            raise LineError(number, str(error)) from None
    if opened:
        raise LineError(opened[-1][0], "if without an endif")
    return Expressions(found)


def _line(text: str, is_not: bool, kind: str, *, needs_value: bool = False) -> _Line:
    pattern, flags, value = _taken_apart(text)
    if needs_value and not value:
        raise ValueError("an expression, and a value behind it")
    expression = _compiled(pattern, flags, kind)
    for match in _REFERENCE.finditer(value):
        if not match[1] and (is_not or int(match[2] or match[3] or match[4]) > expression.groups):
            raise ValueError(f"{match[0]}: there is no such group")
    return _Line(expression, is_not, value)


def _taken_apart(text: str) -> tuple[str, str, str]:
    """The expression, its flags, and the value behind them."""
    mark = text[:1]
    if not mark or mark.isalnum() or mark.isspace() or mark == "\\":
        raise ValueError("no expression of the form /EXPRESSION/FLAGS VALUE")
    end = 1
    while end < len(text) and text[end] != mark:
        end += 2 if text[end] == "\\" else 1
    if end >= len(text):
        raise ValueError(f"the expression has no {mark} at its end")
    flags = re.match(r"[A-Za-z]*", text[end + 1 :])
    behind = text[end + 1 :].removeprefix(flags[0] if flags else "")
    if behind and not behind[0].isspace():
        raise ValueError(f"two expressions in one line, or no space before the value: {behind[:40]}")
    return text[1:end], flags[0] if flags else "", behind.strip()


def _compiled(pattern: str, flags: str, kind: str) -> _Expression:
    import re2  # type: ignore[import-untyped]  # it has no types; the extra brings it

    known = "imsxAEUX" if kind == "pcre" else "imx"
    unknown = set(flags) - set(known)
    if unknown or "x" in flags:
        raise ValueError(f"the flag {(sorted(unknown) or ['x'])[0]} cannot be taken over")
    options = re2.Options()
    # In these tables case does not matter, and `i` turns that round; so do `m` and `s` for lines, of which an address
    # has one.
    options.case_sensitive = flags.count("i") % 2 == 1
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    before = ("(?U)" if "U" in flags else "") + (r"\A" if "A" in flags else "")
    try:
        compiled: _Expression = re2.compile(f"{before}(?:{pattern})" if before else pattern, options)
    except re2.error as error:
        text = str(error.args[0].decode() if isinstance(error.args[0], bytes) else error)
        raise ValueError(f"/{pattern}/: {text}: RE2 does not know it, as no expression may take long here") from None
    return compiled
