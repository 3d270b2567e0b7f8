"""What a reply says, compared with what people write down of it: "421", "4.7.x", "550 5.4.1 recipient * rejected".

A pattern is a code, an enhanced status, words, or several of these in this order; "x" in a code or status stands for
any digit, and for any number where it stands alone. Words are found where a word begins, whatever their case and
whatever else the reply says, so that "rate limit" is in "is rate limited" too; "*" stands for anything between them.
Hyphens and underscores count as spaces, but not in a word with a full stop within, such as the name of a domain.
Addresses in a reply are left out, and a domain is one word: nobody is to be judged by his name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from mailgate.config.replies import CODE, STATUS
from mailgate.reply import Reply

__all__ = ["Pattern", "Said"]

#: Characters of a reply that are looked at.
_LONGEST = 2000

_SPACE = str.maketrans("-_", "  ")
_WORD = re.compile(r"\w+")
_DOTTED = re.compile(r"\w\.\w")


class Said(NamedTuple):
    """A reply in the form in which patterns are found: the beginning of each word is marked."""

    code: str
    status: str
    text: str

    @classmethod
    def by(cls, reply: Reply) -> Said:
        """What a reply says."""
        words = reply.text[:_LONGEST].split()
        return cls(str(reply.code), reply.status, _marked(" ".join("@" if "@" in one else one for one in words)))


class Pattern:
    """One pattern, compiled. Comparing takes time in proportion to the length of the reply."""

    __slots__ = ("_code", "_parts", "_status")

    def __init__(self, pattern: str) -> None:
        words = pattern.lower().split()
        code = words.pop(0) if words and CODE.fullmatch(words[0]) else ""
        status = words.pop(0) if words and STATUS.fullmatch(words[0]) else ""
        self._code = _digits(code) if code else None
        self._status = re.compile(r"\.".join(map(_number, status.split(".")))) if status else None
        self._parts = [_marked(part) for part in map(str.strip, " ".join(words).split("*")) if part]

    def is_in(self, said: Said) -> bool:
        """Whether the reply says this."""
        if self._code is not None and not self._code.fullmatch(said.code):
            return False
        if self._status is not None and not self._status.fullmatch(said.status):
            return False
        at = 0
        for part in self._parts:
            at = said.text.find(part, at)
            if at < 0:
                return False
            at += len(part)
        return True

    @classmethod
    def all(cls, patterns: Iterable[str]) -> tuple[Pattern, ...]:
        """Each of them."""
        return tuple(map(cls, patterns))


def _marked(text: str) -> str:
    words = (one if _DOTTED.search(one) else one.translate(_SPACE) for one in text.lower().split())
    return _WORD.sub("\0\\g<0>", " ".join(" ".join(words).split()))


def _digits(text: str) -> re.Pattern[str]:
    return re.compile(text.replace("x", r"\d"))


def _number(part: str) -> str:
    return r"\d+" if part == "x" else part.replace("x", r"\d")
