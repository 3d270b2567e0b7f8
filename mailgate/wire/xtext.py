"""Any text in what a parameter of a command may hold: xtext (RFC 3461 section 4), and addresses of type utf-8 (RFC 6533
section 3)."""

from __future__ import annotations

import re

__all__ = ["utf8_addr_decode", "utf8_addr_xtext", "xtext_decode", "xtext_encode"]

_LITERAL = re.compile(r"[!-*,-<>-~]*")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEX = re.compile(rb"\+(..)")
_OTHER = re.compile(rb"[^!-*,-<>-~]")

#: RFC 6533's QCHAR, and its EmbeddedUnicodeChar: a control character, SP, "+", "=", "\\", or one beyond ASCII.
_QCHAR = r"!-*,-<>-\[\]-~"
_EMBEDDED = (
    r"\\x\{("
    r"[01][1-9]|10|20|2B|3D|5C|7F|[89A-F][0-9A-F]|[1-9A-F][0-9A-F]{2}|[1-9A-CEF][0-9A-F]{3}|D[0-7][0-9A-F]{2}"
    r"|[1-9A-F][0-9A-F]{4}|10[0-9A-F]{4}"
    r")\}"
)
_UNITEXT = re.compile(rf"(?:[{_QCHAR}\u0080-\ud7ff\ue000-\U0010ffff]|{_EMBEDDED})+", re.IGNORECASE | re.ASCII)
_POINT = re.compile(_EMBEDDED, re.IGNORECASE | re.ASCII)
_POINT_OR_OTHER = re.compile(rf"{_EMBEDDED}|[^{_QCHAR}]", re.IGNORECASE | re.ASCII)


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


def utf8_addr_xtext(text: str) -> str:
    """Printable `text` as RFC 6533's utf-8-addr-xtext, all ASCII: "\\x{HEX}" for what is beyond it, and for SP, "+",
    "=" and "\\". What stands in this form already is kept, so that the result stays itself.
    """
    return _POINT_OR_OTHER.sub(lambda match: match[0] if match[1] else f"\\x{{{ord(match[0]):02X}}}", text)


def utf8_addr_decode(text: str) -> str:
    """The text that RFC 6533's utf-8-addr-unitext, or utf-8-addr-xtext, stands for; it may hold control characters.

    ValueError, which does not repeat the text, where it is neither.
    """
    if not _UNITEXT.fullmatch(text):
        raise ValueError("not utf-8-addr-unitext")
    return _POINT.sub(lambda match: chr(int(match[1], 16)), text)
