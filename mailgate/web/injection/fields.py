"""Header fields as octets, folded (RFC 5322 section 2.2.3) and, beyond ASCII, encoded (RFC 2047).

What goes in has passed `models`: no control character is in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.header import Header

from mailgate.web.injection.models import Person

__all__ = ["mailboxes", "unstructured"]

#: Characters of a line that is folded where it can be.
_FOLDED = 76
#: The longest line that mail may have (RFC 5322 section 2.1.1), and what may look like an encoded word.
_LONGEST, _ENCODED = 998, "=?"
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")


def unstructured(name: str, value: str) -> bytes:
    """A field of text, such as Subject."""
    if value.isascii() and _ENCODED not in value and len(max(value.split(), key=len, default="")) < _LONGEST - 100:
        return _folded(name, value.split(" "))
    return f"{name}: {_encoded(value, len(name) + 2)}\r\n".encode()


def mailboxes(name: str, persons: Sequence[Person]) -> bytes:
    """A field of addresses (RFC 5322 section 3.6.2); those beyond ASCII stand as they are (RFC 6532)."""
    texts = [_mailbox(one) for one in persons]
    return _folded(name, [f"{text}," for text in texts[:-1]] + texts[-1:])


def _mailbox(person: Person) -> str:
    address = str(person.address)
    if not person.name:
        return address
    name = person.name
    if not name.isascii() or _ENCODED in name:
        return f"{_encoded(name, 20)}\r\n <{address}>"
    if _ATOMS.fullmatch(name) and "  " not in name:
        return f"{name} <{address}>"
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}" <{address}>'


def _encoded(text: str, taken: int) -> str:
    """Encoded words, on as many lines as they need; `taken` characters stand before the first."""
    header = Header(text, "utf-8", maxlinelen=_FOLDED, header_name="x" * max(taken - 2, 0))
    return header.encode(splitchars="", linesep="\r\n")


def _folded(name: str, words: Sequence[str]) -> bytes:
    """The words with a space between them, on lines that are as short as can be; no line is white space alone."""
    lines, line = [], f"{name}:"
    is_empty = True
    for word in words:
        first = word.partition("\r\n")[0]
        if word and not is_empty and len(line) + len(first) + 1 > _FOLDED:
            lines.append(line)
            line = ""
        line += " " + word
        is_empty = is_empty and not word
        if "\r\n" in word:
            head, _, line = line.rpartition("\r\n")
            lines.append(head)
    lines.append(line)
    return ("\r\n".join(lines) + "\r\n").encode()
