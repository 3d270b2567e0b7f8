"""Whose an Authentication-Results field is, however it is written and whatever is wrong with the rest (RFC 8601)."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection

import idna

__all__ = ["ESCAPED", "FOLD", "ID", "SPACE", "authserv_id_of", "comment_end", "is_by"]

# No group here takes for good: before 3.11.5 Python may find nothing then. What can begin a turn is never in doubt.
#: White space, and comments without comments in them; those with some are for `comment_end`.
SPACE = re.compile(r"(?:[ \t\r\n]++|\((?:[^()\\]++|\\.)*\))*", re.DOTALL)
FOLD = re.compile(r"\r?\n(?=[ \t])")
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
#: An id without quotes; the token of MIME is narrower than what is in use.
ID = re.compile(r'[^ ;()"=\0-\x1f\x7f]++')

_COMMENT_PART = re.compile(r"\\.|[()]", re.DOTALL)
#: Space and signs of every script, and octets that are no text: programs take them away, as far as they know them.
_BEFORE_ID = re.compile(r'(?:[^\w"(]|_)*+')
#: An encoded word where the id belongs, which nobody should decode there (RFC 2047 section 5).
_ENCODED = re.compile(r"(?:=\?)?[^?]+\?[bq]\?")
_ANY_QUOTED = re.compile(r'"((?:[^"\\]++|\\.)*)"', re.DOTALL)
#: What an id may go on with, and then is another.
_ID_GOES_ON = re.compile(r"[A-Za-z0-9._-]")
#: Characters of a name that are looked at where they are not ASCII.
_LONGEST = 255


def authserv_id_of(value: str) -> str:
    """Whose a field is, in lower case and A-labels, even where the rest of it is broken; "" where it names nobody."""
    word, end, is_sure = _first_word(value)
    if is_sure:
        end = _past(SPACE, value, end)
        while value.startswith("(", end) and (behind := comment_end(value, end)) > 0:
            end = _past(SPACE, value, behind)
    return "" if not is_sure or value.startswith("=", end) else word


def is_by(value: str, ids: Collection[str]) -> bool:
    """Whether a field says that it is of one of these hosts (`ids` in lower case), or might be taken to say so.

    That is where it begins with the id, whatever follows; where its beginning cannot be read (a comment or quoted
    string without an end) and the id is in it; and where it begins with an encoded word, which may hold the id.
    """
    word, _, is_sure = _first_word(value)
    if not is_sure:
        lowered = value.lower()
        return any(one in lowered for one in ids)
    if _ENCODED.match(word):
        return True
    return word in ids or any(word.startswith(one) and not _ID_GOES_ON.match(word, len(one)) for one in ids if one)


def _first_word(value: str) -> tuple[str, int, bool]:
    """The word that names the host, where it ends, and whether the way to it could be read."""
    at = 0
    while True:
        at = _past(_BEFORE_ID, value, _past(SPACE, value, at))
        if not value.startswith("(", at):
            break
        at = comment_end(value, at)
        if at < 0:
            return "", len(value), False
    if value.startswith('"', at):
        quoted = _ANY_QUOTED.match(value, at)
        if quoted is None:
            return "", len(value), False
        return _host(FOLD.sub("", ESCAPED.sub(r"\1", quoted[1]))), quoted.end(), True
    bare = ID.match(value, at)
    return (_host(bare[0]), bare.end(), True) if bare else ("", at, True)


def _past(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _host(word: str) -> str:
    word = word[_past(_BEFORE_ID, word, 0) :].rstrip(" \t").lower()
    if not word.isascii():
        try:
            word = idna.encode(word[:_LONGEST], uts46=True).decode("ascii")
        except UnicodeError:
            return word
    return word.removesuffix(".")


def comment_end(text: str, at: int, limit: int = sys.maxsize) -> int:
    """Behind the comment that begins here; -1 where it has no end, -2 where too many lie in one another."""
    depth = 0
    for part in _COMMENT_PART.finditer(text, at):
        if part[0] == "(":
            depth += 1
            if depth > limit:
                return -2
        elif part[0] == ")":
            depth -= 1
            if not depth:
                return part.end()
    return -1
