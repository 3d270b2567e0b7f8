"""spamd of SpamAssassin: SPAMC/1.5, as spamd/PROTOCOL of SpamAssassin describes it. One question a connection."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from mailgate.message import Content
from mailgate.scanners.conversation import is_small
from mailgate.scanners.pool import ScannerError
from mailgate.scanners.sending import Pieces

__all__ = ["Check", "Checked", "Command", "is_user"]

Command = Literal["SYMBOLS", "HEADERS", "PROCESS"]

#: Octets of an answer beside what it repeats of the message.
_ROOM = 1024 * 1024
#: Names of tests that are looked at, and the longest of them.
_MOST_TESTS = 200
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@=-]{0,254}")
_STATUS = re.compile(rb"SPAMD/1\.\d+ (\d{1,5}) ([ -~]*)")
_SPAM = re.compile(r"(True|Yes|False|No) ; (-?\d{1,9}(?:\.\d{1,9})?) / (-?\d{1,9}(?:\.\d{1,9})?)", re.IGNORECASE)
_TEST = re.compile(r"[A-Za-z0-9_]{1,100}")


@dataclass(frozen=True, slots=True)
class Checked:
    """What spamd says: the score and the threshold of the user, and of the tests that hit their names (SYMBOLS).

    `message` is the header section (HEADERS) or the whole message (PROCESS) as SpamAssassin has rewritten it.
    """

    is_spam: bool
    score: float
    threshold: float
    tests: tuple[str, ...] = ()
    message: bytes = field(default=b"", repr=False)


class Check:
    """A question about a message, with `prefix` (whole header fields) before its own; `user` is whose preferences
    count, "" (and what is no name of a user) for those of the server.

    spamd reads lines, whatever length it was told: of content that ends within one, it waits for the rest.
    """

    ends_with_stream = True
    keeps = False

    def __init__(self, command: Command, content: Content, *, user: str = "", prefix: bytes = b"") -> None:
        self._command = command
        self._content = content
        self._user = user if is_user(user) else ""
        self._prefix = prefix
        self.is_small = is_small(content)
        self.largest = _ROOM
        if command == "PROCESS":
            self.largest += 2 * content.size

    def pieces(self, number: int = 1) -> Pieces:
        """The request, then the message."""
        user = f"User: {self._user}\r\n" if self._user else ""
        length = len(self._prefix) + self._content.size
        yield f"{self._command} SPAMC/1.5\r\n{user}Content-length: {length}\r\n\r\n".encode() + self._prefix
        yield from self._content.chunks()

    def is_whole(self, answer: bytearray) -> bool:
        """Never: spamd closes behind it."""
        return False

    def read(self, answer: bytes, was_sent: bool) -> Checked:
        """The result; ScannerError for errors, half an answer, and one to a part of the message only."""
        head, end, body = answer.partition(b"\r\n\r\n")
        if not answer:
            raise ScannerError("spamd has closed without an answer")
        line, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(line)
        if status is None:
            raise ScannerError(f"no answer of spamd's: {line[:200].decode('utf-8', 'replace')!a}")
        if int(status[1]):
            raise ScannerError(f"spamd answers {status[1].decode()} {status[2][:200].decode()}")
        if not end:
            raise ScannerError("half an answer of spamd's")
        if not was_sent:
            raise ScannerError("spamd answers before it has everything")
        fields = dict(_field(one) for one in lines)
        if fields.get("content-length", "") != str(len(body)):
            raise ScannerError(f"spamd announces {fields.get('content-length')!r} octets and sends {len(body)}")
        return self._result(fields.get("spam", ""), body)

    def _result(self, spam: str, body: bytes) -> Checked:
        match = _SPAM.fullmatch(spam)
        if match is None:
            raise ScannerError(f"spamd does not say whether it is spam: {spam[:200]!a}")
        is_spam, score, threshold = match[1].lower() in ("true", "yes"), float(match[2]), float(match[3])
        if not (math.isfinite(score) and math.isfinite(threshold)):
            raise ScannerError("spamd gives no number as the score")
        if self._command != "SYMBOLS":
            return Checked(is_spam, score, threshold, message=body)
        names = body.decode("ascii", "replace").strip().split(",", _MOST_TESTS)[:_MOST_TESTS]
        return Checked(is_spam, score, threshold, tuple(name for name in names if _TEST.fullmatch(name)))


def is_user(text: str) -> bool:
    """Whether spamd is told of this name: it may become a part of a path there."""
    return _USER.fullmatch(text) is not None and ".." not in text


def _field(line: bytes) -> tuple[str, str]:
    name, _, value = line.decode("ascii", "replace").partition(":")
    return name.strip().lower(), value.strip()
