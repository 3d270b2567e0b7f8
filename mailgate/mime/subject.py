"""A word put before the value of an unstructured header field, such as Subject (RFC 5322 section 2.2.1, RFC 2047)."""

from __future__ import annotations

import re
from email.errors import HeaderParseError
from email.header import Header, decode_header

from mailgate.message import HeaderField

__all__ = ["decoded", "prefixed"]

#: Octets of a first line from which on what is put before it gets a line of its own.
_FIRST_LINE = 70
#: Octets of a value that are decoded.
_MAX_VALUE = 16 * 1024
_ENCODED = r"=\?[^?\s]+\?[QqBb]\?[^?\s]*\?="
#: An encoded word; between two of them a space is not seen (RFC 2047 section 6.2).
_WORDS = re.compile(rf"({_ENCODED})(?:\s+(?={_ENCODED}))?")
_CONTROL = re.compile(r"[\0\r\n]+")


def decoded(value: str) -> str:
    """The text that encoded words stand for; what cannot be decoded stays as it is written. At most its beginning."""
    value = value[:_MAX_VALUE]
    return _WORDS.sub(_decoded_word, value) if "=?" in value else value


def prefixed(field: HeaderField | None, prefix: str) -> str | None:
    """The value with the prefix and a space before it, its own octets and encoded words kept; None where it has it.

    It has it wherever it stands in the value: "Re: [list] ..." is not marked again. `field` is None where there is no
    such field. Octets that are no UTF-8 are taken for windows-1252.
    """
    if field is None:
        return _encoded(prefix)
    if prefix.strip().casefold() in decoded(field.value).casefold():
        return None
    raw = field.raw.partition(b":")[2].removesuffix(b"\r\n").lstrip(b" \t")
    try:
        value = raw.decode("utf-8")
    except UnicodeDecodeError:
        value = raw.decode("cp1252", "replace")
    value = value.removeprefix("\r\n").lstrip(" \t")
    if not value.strip():
        return _encoded(prefix)
    # Where the space before an encoded word is not seen, it belongs into ours.
    is_hidden = not prefix.isascii() and _WORDS.match(value) is not None
    start = _encoded(f"{prefix} " if is_hidden else prefix)
    first = len(value.partition("\r\n")[0])
    text = f"{start}\r\n {value}" if len(start) + first > _FIRST_LINE else f"{start} {value}"
    try:
        HeaderField.of("Subject", text)
    except ValueError:
        # Lines that no field may have.
        text = f"{start} {_CONTROL.sub(' ', value).strip()}"
    return text


def _encoded(text: str) -> str:
    return text if text.isascii() else Header(text, "utf-8", header_name="Subject").encode(linesep="\r\n")


def _decoded_word(match: re.Match[str]) -> str:
    try:
        ((part, charset),) = decode_header(match[1])
        return part if isinstance(part, str) else part.decode(charset or "ascii", "replace")
    except (HeaderParseError, LookupError, ValueError):
        return match[1]
