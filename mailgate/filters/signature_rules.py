"""Rules of the filter signatures, one a line: what is looked for, where, and what is done about it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from mailgate.content.models import Rule
from mailgate.stores.lists import LineError, LinesError

__all__ = ["Signature", "check_expressions", "parse_signature", "read_signatures"]

Word = Literal["reject", "quarantine", "defer", "continue"]

_WORDS = ("reject", "quarantine", "defer", "continue")
_LINE = re.compile(r"(\S++)\s++(\S++)\s++(\S++)\s++(.+)")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_WHERE = re.compile(r"text|raw|headers|header:[!-9;-~]{1,80}")
_EXPRESSION = re.compile(r"/(.+)/([is]*)", re.DOTALL)
#: Rules of one filter, characters of one pattern, and errors of one file that are told.
MOST_RULES, _LONGEST, _MOST_ERRORS = 2000, 2000, 20


@dataclass(frozen=True, slots=True)
class Signature:
    """A rule and what is done where it matches."""

    word: Word
    rule: Rule


def parse_signature(text: str, number: int) -> Signature:
    """A line such as `reject lottery text /you have won .{1,40}lottery/i`; LineError for anything else."""
    match = _LINE.fullmatch(text)
    if not match:
        raise LineError(number, "a rule is: ACTION NAME WHERE PATTERN")
    word, name, where, pattern = match.groups()
    if word not in _WORDS:
        raise LineError(number, f'"{word}" is none of {", ".join(_WORDS)}')
    if not _NAME.fullmatch(name):
        raise LineError(number, f'"{name}" is no name: lower-case letters, digits and . _ - only')
    if not _WHERE.fullmatch(where.lower()):
        raise LineError(number, f'"{where}" is none of text, raw, headers, or header: and the name of a field')
    if len(pattern) > _LONGEST:
        raise LineError(number, f"a pattern has at most {_LONGEST} characters")
    expression = _EXPRESSION.fullmatch(pattern)
    if expression:
        flags = "(?s)" if "s" in expression[2] else ""
        rule = Rule(name, flags + expression[1], where.lower(), is_plain=False, ignore_case="i" in expression[2])
    else:
        rule = Rule(name, pattern, where.lower(), is_plain=True)
    return Signature(cast("Word", word), rule)


def read_signatures(lines: Iterable[tuple[int, str]]) -> tuple[Signature, ...]:
    """The rules of a file; LinesError for those that are none."""
    found: list[Signature] = []
    errors: list[LineError] = []
    for number, text in lines:
        try:
            one = parse_signature(text, number)
            check_expressions([one.rule], number)
            found.append(one)
        except LineError as error:
            errors.append(error)
            if len(errors) == _MOST_ERRORS:
                break
    if errors:
        raise LinesError(errors)
    if len(found) > MOST_RULES:
        raise ValueError(f"has more than {MOST_RULES} rules")
    return tuple(found)


def check_expressions(rules: Iterable[Rule], number: int = 0) -> None:
    """LineError where an expression is none; ValueError where the library is missing."""
    try:
        import re2  # type: ignore[import-untyped]  # it has no types; the extra brings it
    except ModuleNotFoundError as error:
        raise ValueError("the filter signatures needs: pip install 'mailgate[content]'") from error
    options = re2.Options()
    options.log_errors = False
    for rule in rules:
        options.literal = rule.is_plain
        try:
            re2.compile(rule.pattern.encode(), options)
        except re2.error as error:
            what = error.args[0] if error.args else error
            told = what.decode("utf-8", "replace") if isinstance(what, bytes) else str(what)
            raise LineError(number, f"no expression of RE2: {told}") from error
