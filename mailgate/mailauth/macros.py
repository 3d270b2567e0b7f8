"""Macros of SPF (RFC 7208 section 7): their grammar, and their expansion. Time and room are linear in the text."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

__all__ = ["MacroError", "expand", "expand_name", "is_domain_spec"]

#: Octets of a name as text, to which it is cut from the left (RFC 7208 section 7.3).
_LONGEST_NAME = 253
#: Characters of any other text; nobody reads more.
_LONGEST_TEXT = 4096

_LETTERS = frozenset("slodiphcrtv")
#: These have a meaning in explanations only (RFC 7208 section 7.2).
_IN_TEXT_ONLY = frozenset("crt")
_FIXED = {"%": "%", "_": " ", "-": "%20"}

# A percent sign that begins no macro matches too, with no group.
_MACRO = re.compile(r"%(?:([%_-])|\{([A-Za-z])([0-9]*+)([rR]?)([.\-+,/_=]*+)\})?")
_TOP_LABEL = re.compile(r"(?![0-9]+\Z)[0-9A-Za-z](?:[0-9A-Za-z-]*[0-9A-Za-z])?")

Values = Callable[[str], str]
"""The value of a macro letter (lower case)."""


class MacroError(ValueError):
    """The text breaks the grammar, or would become too long."""


def is_domain_spec(text: str) -> bool:
    """Whether `text` ends as a domain-spec does: in a dot and a top label, or in a macro (RFC 7208 section 7.1).

    MacroError for what is no macro within it.
    """
    if not text.isascii() or not text.isprintable() or " " in text:
        raise MacroError(f"characters that no name has: {text[:80]!r}")
    end = 0
    for match in _MACRO.finditer(text):
        _letter(match, in_text=False)
        end = match.end()
    if end and end == len(text):
        return True
    before, dot, label = text.removesuffix(".").rpartition(".")
    return bool(dot) and len(before) >= end and _TOP_LABEL.fullmatch(label) is not None


def expand(text: str, value: Values, *, in_text: bool = True) -> str:
    """`text` with its macros expanded; `in_text` allows those that only explanations have."""
    parts: list[str] = []
    size = end = 0
    for match in _MACRO.finditer(text):
        letter = _letter(match, in_text)
        part = _value(match, value(letter)) if letter else _FIXED[match[1]]
        parts += text[end : match.start()], part
        size += len(part)
        if size > _LONGEST_TEXT:
            raise MacroError(f"more than {_LONGEST_TEXT} characters")
        end = match.end()
    return "".join((*parts, text[end:]))


def expand_name(text: str, value: Values) -> str:
    """The name that a domain-spec becomes, without a final dot; one that is too long loses labels on its left."""
    name = expand(text, value, in_text=False).removesuffix(".")
    while len(name) > _LONGEST_NAME and "." in name:
        # The first dot that leaves little enough, or the last one.
        cut = name.find(".", len(name) - _LONGEST_NAME - 1)
        name = name[cut + 1 :] if cut >= 0 else name.rpartition(".")[2]
    return name


def _letter(match: re.Match[str], in_text: bool) -> str:
    """The letter of a macro in lower case; "" for %% and its like."""
    if match[1]:
        return ""
    if not match[2]:
        raise MacroError(f"no macro: {match.string[match.start() : match.start() + 20]!r}")
    letter = match[2].lower()
    if letter not in _LETTERS:
        raise MacroError(f"unknown macro {match[0][:20]}")
    if letter in _IN_TEXT_ONLY and not in_text:
        raise MacroError(f"macro {match[0][:20]} in a name: explanations only have it")
    if match[3] and not match[3].strip("0"):
        raise MacroError(f"no parts wanted of macro {match[0][:20]}")
    return letter


def _value(match: re.Match[str], value: str) -> str:
    digits, reverse, delimiters = match[3].lstrip("0"), match[4], match[5]
    if digits or reverse or delimiters:
        for delimiter in set(delimiters or "."):
            value = value.replace(delimiter, "\0")
        parts = value.split("\0")
        if reverse:
            parts.reverse()
        # A number of four digits is more than any value has parts.
        value = ".".join(parts[-int(digits) :] if digits and len(digits) < 4 else parts)
    # In URL form (RFC 3986 section 2.1).
    return quote(value, safe="", errors="replace") if match[2].isupper() else value
