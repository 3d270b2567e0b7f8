"""clamd: INSTREAM in sessions (IDSESSION), as clamd(8) describes them: each answer has the number of its command."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from mailgate.message import Content
from mailgate.scanners.conversation import is_small
from mailgate.scanners.pool import ScannerError
from mailgate.scanners.sending import Pieces

__all__ = ["Scan", "Scanned"]

#: Octets of an answer; the name of a virus is the longest part of it.
_LARGEST = 4096
_LONGEST_NAME = 200
#: What stands before the message. ClamAV decodes mail only where it recognises it by its first octets, which the sender
#: has chosen: a field of its own name there, and no attachment would be looked into.
_FIRST_FIELD = b"Received: by mailgate\r\n"
_TOO_LARGE = "INSTREAM size limit exceeded. ERROR"
_FOUND = re.compile(r"stream: ([!-~]+)(?: [ -~]*)? FOUND")


@dataclass(frozen=True, slots=True)
class Scanned:
    """What clamd says: `virus` is the name of the first that was found, "" for none; `is_too_large`: the content has
    more octets than clamd takes (StreamMaxLength), and was not looked at."""

    virus: str = ""
    is_too_large: bool = False


class Scan:
    """A question about the octets of a message as they are, behind a field of ours: clamd finds the parts in them
    itself. `as_body`: behind an empty line, too."""

    largest = _LARGEST
    ends_with_stream = False

    def __init__(self, content: Content, *, as_body: bool = False) -> None:
        self._content = content
        self._first = _FIRST_FIELD + b"\r\n" if as_body else _FIRST_FIELD
        self._number = 1
        self.is_small = is_small(content)
        self.keeps = False

    def pieces(self, number: int = 1) -> Pieces:
        """The command, then each piece with its length before it, then the length 0."""
        self._number = number
        begin = b"zIDSESSION\0" if number == 1 else b""
        yield begin + b"zINSTREAM\0" + struct.pack("!L", len(self._first)) + self._first
        for chunk in self._content.chunks():
            if chunk:
                yield struct.pack("!L", len(chunk))
                yield chunk
        yield bytes(4)

    def is_whole(self, answer: bytearray) -> bool:
        """Whether it has its end."""
        return b"\0" in answer

    def read(self, answer: bytes, was_sent: bool) -> Scanned:
        """The result; ScannerError for errors, half an answer, two, that of another command, and one to a part of the
        content only."""
        if not answer:
            raise ScannerError("clamd has closed without an answer")
        text, end, more = answer.partition(b"\0")
        line = text.decode("utf-8", "replace").strip()
        if not end or more:
            raise ScannerError(f"no answer of clamd's: {_shown(line)}")
        number, _, said = line.partition(": ")
        if number != str(self._number):
            raise ScannerError(f"no answer of clamd's to what it was asked: {_shown(line)}")
        if said == _TOO_LARGE:
            return Scanned(is_too_large=True)
        if not was_sent:
            raise ScannerError(f"clamd answers before it has everything: {_shown(line)}")
        if said == "stream: OK":
            self.keeps = True
            return Scanned()
        if match := _FOUND.fullmatch(said):
            self.keeps = True
            return Scanned(match[1][:_LONGEST_NAME])
        raise ScannerError(f"clamd answers {_shown(line)}")


def _shown(line: str) -> str:
    return ascii(line[:_LONGEST_NAME])
