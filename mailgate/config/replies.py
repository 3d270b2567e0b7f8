"""Descriptions of replies that can be written down and are not meant: those that fit nothing, or everything."""

from __future__ import annotations

import re

__all__ = ["CODE", "STATUS", "doubt"]

#: How a code and an enhanced status are written in a pattern; everything else is words.
CODE = re.compile(r"[245][\dx]{2}")
STATUS = re.compile(r"[245x](?:\.(?:\d[\dx]{0,2}|x)){2}")
#: What somebody means for one of these, and is not.
_NEARLY = re.compile(r"[\dx.]+|[2-5][\da-z]{2}")
#: Codes and statuses of all refusals, or of all that are for now, or for good.
_ANY = {"4xx", "5xx", "x.x.x", "4.x.x", "5.x.x"}


def doubt(pattern: str) -> str:
    """What to say of a pattern, as ReplyPattern has it; "" where all is well."""
    words = pattern.split()
    if len(words) == 1 and not _is_form(words[0]) and _NEARLY.fullmatch(words[0]):
        return f'"{pattern}" is looked for as a word: a code is like 421 or 45x, an enhanced status like 4.7.1 or 4.7.x'
    forms = []
    for form in (CODE, STATUS):
        if words and form.fullmatch(words[0]):
            forms.append(words.pop(0))
    if any(form.startswith("2") for form in forms):
        return f'"{pattern}" fits no refusal: those begin with 4 or 5'
    if set(forms) <= _ANY and not "".join(words).strip("*"):
        return f'"{pattern}" fits every refusal of this kind, whatever its reason'
    return ""


def _is_form(word: str) -> bool:
    return bool(CODE.fullmatch(word) or STATUS.fullmatch(word))
