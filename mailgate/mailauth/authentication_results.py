"""What a host found out about a message, as Authentication-Results tells it (RFC 8601): read, written, and whose it is.

Reading is tolerant where well-known senders are off the grammar, linear, and bounded; comments are left out. Writing is
safe whatever the values hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mailgate.mailauth.authserv import ESCAPED, FOLD, ID, SPACE, authserv_id_of, comment_end, is_by

__all__ = [
    "MAX_DEPTH",
    "MAX_PROPERTIES",
    "MAX_RESULTS",
    "MAX_SIZE",
    "AuthenticationResults",
    "AuthenticationResultsError",
    "MethodResult",
    "authserv_id_of",
    "is_by",
]

#: Characters of a field's value, results in it and properties of all of them, and comments within comments, beyond
#: which it is not read.
MAX_SIZE = 64 * 1024
MAX_RESULTS = 200
MAX_PROPERTIES = 1000
MAX_DEPTH = 50

#: Octets of one value, and characters of one keyword, that are written: no line comes to 998 octets.
_MAX_VALUE = 400
_MAX_KEYWORD = 60
_WIDTH = 78
_TAB = 8

#: RFC 8601 has the Keyword of RFC 5321; the underscore is in use beside it.
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*+")
_NUMBER = re.compile(r"[0-9]{1,9}+(?![0-9])")
_QUOTED = re.compile(r'"((?:[^"\\\0-\x08\n-\x1f\x7f]++|\\[^\0-\x08\n-\x1f\x7f])*)"')
#: An unquoted value. The token of MIME has no "/", ":" and the like, which are in use all the same.
_BARE = re.compile(r'[^ ;()"\0-\x1f\x7f]++')
_ATOM = r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+"
_PLAIN = re.compile(rf"{_ATOM}|(?:{_ATOM})?@[A-Za-z0-9._-]+")
_NO_KEYWORD = re.compile(r"[^a-z0-9_-]+")
#: Where a quoted string may be folded: its own space goes on the next line.
_BREAK = re.compile(r"(?<=[^ ])(?= [^ ])")
_CONTROLS = {
    **dict.fromkeys((*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000), 0x2028, 0x2029), "?"),
    0x09: " ",
}


class AuthenticationResultsError(ValueError):
    """The value cannot be read; `position` counts the characters before the fault, in the unfolded value."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(f"{reason} (at character {position})")
        self.position = position


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One method's result: `spf=pass reason="..." smtp.mailfrom=example.org`.

    `properties` are triples of type, name and value: ("smtp", "mailfrom", "example.org"); the type is "" where none
    was written ("action=none"). Method, result, types and names are lower case; `version` is the method's.
    """

    method: str
    result: str
    reason: str = ""
    properties: tuple[tuple[str, str, str], ...] = ()
    version: int = 1

    def get(self, ptype: str, name: str) -> str | None:
        """The value of a property, the first of its name; None where there is none."""
        return next((value for one, two, value in self.properties if (one, two) == (ptype, name)), None)


@dataclass(frozen=True, slots=True)
class AuthenticationResults:
    """The value of one field: who says so, and what. `authserv_id` is "" where the field names nobody."""

    authserv_id: str
    results: tuple[MethodResult, ...] = ()
    version: int = 1

    @classmethod
    def parse(cls, value: str) -> AuthenticationResults:
        """The value of a field, folded or not. AuthenticationResultsError where it cannot be read.

        Beyond the grammar: no authserv-id at the beginning, a bare word between results, properties without a type,
        values without the quotes that they need, empty values, and semicolons too many.
        """
        if len(value) > MAX_SIZE:
            raise AuthenticationResultsError(f"more than {MAX_SIZE} characters", MAX_SIZE)
        return _Reader(FOLD.sub("", value).rstrip("\r\n")).read()

    def of(self, method: str) -> tuple[MethodResult, ...]:
        """The results of one method."""
        return tuple(one for one in self.results if one.method == method)

    def text(self, column: int = len("Authentication-Results: ")) -> str:
        """The value, folded at 78 characters; its first line begins at `column`.

        Controls and lone surrogates come out as "?", keywords as keywords, and what is very long is cut, so that it is
        one field whatever the values hold. Characters beyond ASCII stay (RFC 6532), in quotes.
        """
        lines = _Lines(column)
        lines.add(_written(self.authserv_id), first=True)
        if 1 < self.version < 10**9:
            lines.add(str(self.version))
        if not self.results:
            return f"{lines.text()}; none"
        for result in self.results:
            lines.next(";")
            for number, word in enumerate(_words(result)):
                lines.add(word, first=not number)
        return lines.text()


class _Reader:
    """Goes over a value once, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._properties = 0

    def read(self) -> AuthenticationResults:
        authserv_id, version = self._head()
        results: list[MethodResult] = []
        pieces = 0
        while self._at < len(self._text):
            if not self._take(";"):
                raise self._wrong("a semicolon is missing")
            pieces += 1
            if pieces > MAX_PROPERTIES:
                raise self._wrong(f"more than {MAX_PROPERTIES} semicolons")
            self._skip()
            if self._at == len(self._text) or self._peek(";") or self._bare_word():
                continue
            if len(results) == MAX_RESULTS:
                raise self._wrong(f"more than {MAX_RESULTS} results")
            results.append(self._result())
        return AuthenticationResults(authserv_id, tuple(results), version)

    def _head(self) -> tuple[str, int]:
        self._skip()
        if self._at == len(self._text):
            raise self._wrong("nothing is there")
        start = self._at
        quoted = self._quoted()
        name = self._matched(ID) if quoted is None else quoted
        if name is None:
            raise self._wrong("the authserv-id is missing")
        self._skip()
        if quoted is None and self._peek("="):
            # A result at once, as Outlook writes it: the rest reads as if an id had been there.
            self._at = start
            self._text = f"{self._text[:start]};{self._text[start:]}"
            return "", 1
        number = self._matched(_NUMBER)
        self._skip()
        return _clean(name), int(number) if number else 1

    def _bare_word(self) -> bool:
        """Skip a word that stands for itself: "none", or the domain that Outlook puts before results."""
        start = self._at
        if self._matched(ID) is not None:
            self._skip()
            if self._at == len(self._text) or self._peek(";"):
                return True
        self._at = start
        return False

    def _result(self) -> MethodResult:
        method = self._keyword("a method")
        version = 1
        if self._take("/"):
            self._skip()
            number = self._matched(_NUMBER)
            if number is None:
                raise self._wrong("the version of the method is missing")
            version = int(number)
            self._skip()
        self._equals()
        self._skip()
        result = self._keyword("a result")
        reason: str | None = None
        properties: list[tuple[str, str, str]] = []
        while self._at < len(self._text) and not self._peek(";"):
            self._properties += 1
            if self._properties > MAX_PROPERTIES:
                raise self._wrong(f"more than {MAX_PROPERTIES} properties")
            start = self._at
            ptype, name = "", self._keyword("a property")
            if self._take("."):
                self._skip()
                ptype, name = name, self._keyword("the name of a property")
            self._equals()
            value = self._value()
            if ptype or name != "reason":
                properties.append((ptype, name, value))
            elif reason is None:
                reason = value
            else:
                raise AuthenticationResultsError("a second reason", start)
        return MethodResult(method, result, reason or "", tuple(properties), version)

    def _keyword(self, what: str) -> str:
        word = self._matched(_KEYWORD)
        if word is None:
            raise self._wrong(f"{what} is missing")
        self._skip()
        return word.lower()

    def _equals(self) -> None:
        if not self._take("="):
            raise self._wrong('"=" is missing')

    def _value(self) -> str:
        self._skip()
        start = self._at
        value = self._quoted()
        if value is None:
            value = self._matched(_BARE) or ""
        elif self._peek("@"):
            # The quotes are the local-part's own.
            self._matched(_BARE)
            value = self._text[start : self._at]
        self._skip()
        return _clean(value)

    def _quoted(self) -> str | None:
        if not self._peek('"'):
            return None
        found = _QUOTED.match(self._text, self._at)
        if found is None:
            raise self._wrong("a quoted string without an end, or with a control in it")
        self._at = found.end()
        return ESCAPED.sub(r"\1", found[1])

    def _matched(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found[0]

    def _peek(self, character: str) -> bool:
        return self._text.startswith(character, self._at)

    def _take(self, character: str) -> bool:
        if not self._peek(character):
            return False
        self._at += 1
        return True

    def _skip(self) -> None:
        """Over white space and comments."""
        self._matched(SPACE)
        while self._peek("("):
            end = comment_end(self._text, self._at, MAX_DEPTH)
            if end < 0:
                raise self._wrong(
                    "a comment without an end" if end == -1 else f"more than {MAX_DEPTH} comments within comments"
                )
            self._at = end
            self._matched(SPACE)

    def _wrong(self, reason: str) -> AuthenticationResultsError:
        return AuthenticationResultsError(reason, self._at)


class _Lines:
    """Puts words on lines of 78 characters, as far as they can be folded."""

    def __init__(self, column: int) -> None:
        self._parts: list[str] = []
        self._column = column

    def next(self, end: str) -> None:
        """End this line."""
        self._parts.append(f"{end}\r\n\t")
        self._column = _TAB

    def add(self, word: str, *, first: bool = False) -> None:
        """A word, after a space or on a new line; the `first` one where we are."""
        for number, piece in enumerate(_BREAK.split(word)):
            if number:
                if self._column + len(piece) >= _WIDTH:
                    self._parts.append("\r\n")
                    self._column = 0
            elif not first:
                if self._column + 1 + len(piece) >= _WIDTH:
                    self.next("")
                else:
                    self._parts.append(" ")
                    self._column += 1
            self._parts.append(piece)
            self._column += len(piece)

    def text(self) -> str:
        return "".join(self._parts)


def _words(result: MethodResult) -> Iterator[str]:
    version = f"/{result.version}" if 1 < result.version < 10**9 else ""
    yield f"{_keyword(result.method)}{version}={_keyword(result.result)}"
    if result.reason:
        yield f"reason={_written(result.reason)}"
    for ptype, name, value in result.properties:
        if ptype:
            yield f"{_keyword(ptype)}.{_keyword(name)}={_written(value)}"
        else:
            word = _keyword(name)
            yield f"{'x-reason' if word == 'reason' else word}={_written(value)}"


def _keyword(word: str) -> str:
    return _NO_KEYWORD.sub("-", word[:_MAX_KEYWORD].lower()).lstrip("_-") or "x"


def _written(value: str) -> str:
    """A value as it stands in the field, in quotes where it needs them."""
    value = _clean(value)
    if len(value) > _MAX_VALUE or not value.isascii():
        value = value.encode()[:_MAX_VALUE].decode(errors="ignore")
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _clean(value: str) -> str:
    return value if value.isascii() and value.isprintable() else value.translate(_CONTROLS)
