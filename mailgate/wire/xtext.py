"""xtext (RFC 3461 section 4): any text in the printable ASCII that a parameter of a command may hold."""

from __future__ import annotations

import re

__all__ = ["xtext_decode", "xtext_encode"]

_LITERAL = re.compile(r"[!-*,-<>-~]*")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEX = re.compile(rb"\+(..)")
_OTHER = re.compile(rb"[^!-*,-<>-~]")


def xtext_encode(text: str) -> str:
    """`text` as xtext: its UTF-8, with "+HH" for "+", "=" and each octet that is not graphic ASCII.

    ValueError where it holds a lone surrogate.
    """
    if _LITERAL.fullmatch(text):
        return text
    return _OTHER.sub(lambda match: b"+%02X" % ord(match[0]), text.encode()).decode("ascii")


def xtext_decode(text: str) -> str:
    """The text that xtext stands for; it may hold control characters.

    ValueError, which does not repeat the text, where it is no xtext (digits of "+HH" are upper case) or no UTF-8.
    """
    if _LITERAL.fullmatch(text):
        return text
    if not _XTEXT.fullmatch(text):
        raise ValueError("not xtext")
    try:
        return _HEX.sub(lambda match: bytes.fromhex(match[1].decode("ascii")), text.encode("ascii")).decode()
    except UnicodeDecodeError:
        raise ValueError("xtext that is not UTF-8") from None
