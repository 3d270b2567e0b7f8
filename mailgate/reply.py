"""SMTP replies (RFC 5321 section 4.2) with enhanced status codes (RFC 2034, RFC 3463)."""

from __future__ import annotations

import functools
import re

from msgspec import Struct

__all__ = ["MAX_REPLY_LINE", "Reply", "ReplyError", "parse_reply"]

#: The longest reply line, in octets, CRLF included (RFC 5321 section 4.5.3.1.5).
MAX_REPLY_LINE = 512
#: Characters of a line that fits whatever codes stand before it.
_SHORT = MAX_REPLY_LINE - 20

_STATUS = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?: |$)")
_LINE = re.compile(rb"([2-5][0-5][0-9])(?:([ -])(.*))?", re.DOTALL)


class ReplyError(ValueError):
    """What a peer sent is no SMTP reply. Never a permanent failure: the caller treats it as temporary."""


class Reply(Struct, frozen=True):
    """One reply, of one or more lines.

    `code` is the three-digit code, `status` the enhanced status code ("5.1.1") or "" where none belongs
    (greetings, HELO, intermediate replies), `lines` the text without codes. What is not
    printable (control characters, lone surrogates, marks that turn the direction of text) is replaced by "?", so that
    no reply can carry another one, nor look like one; each written line fits MAX_REPLY_LINE.
    """

    code: int
    status: str
    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 200 <= self.code <= 559 or self.code // 10 % 10 > 5:
            raise ValueError(f"not an SMTP reply code: {self.code}")
        if self.status and not _belongs(self.status, self.code // 100):
            raise ValueError(f"enhanced status {self.status!r} does not belong to code {self.code}")
        if not self.lines:
            raise ValueError("a reply has at least one line")

    @classmethod
    def of(cls, code: int, status: str, text: str) -> Reply:
        """A reply from text; each line of the text becomes one line of the reply."""
        return cls(code, status, tuple(text.split("\n")))

    @property
    def is_positive(self) -> bool:
        """2yz: done."""
        return self.code < 300

    @property
    def is_intermediate(self) -> bool:
        """3yz: go on."""
        return 300 <= self.code < 400

    @property
    def is_transient(self) -> bool:
        """4yz: the same command may succeed later."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """5yz: do not repeat."""
        return self.code >= 500

    @property
    def text(self) -> str:
        """All lines on one, without codes: for logs and reports."""
        return _printable(" ".join(self.lines))

    def __str__(self) -> str:
        code = f"{self.code} {self.status}" if self.status else str(self.code)
        text = self.text
        return f"{code} {text}" if text else code

    def to_bytes(self) -> bytes:
        """The octets for the wire, CRLF-ended."""
        (line, *more) = self.lines
        if not more and len(line) <= _SHORT and line.isascii() and line.isprintable():  # as nearly all are
            return (f"{self.code} {self.status} {line}\r\n" if self.status else f"{self.code} {line}\r\n").encode()
        prefix = f"{self.status} " if self.status else ""
        room = MAX_REPLY_LINE - 6 - len(prefix)
        out: list[bytes] = []
        for line in self.lines:
            raw = (line if line.isprintable() else _printable(line)).encode("utf-8", "replace")
            if len(raw) > room:
                raw = raw[:room].decode("utf-8", "ignore").encode()
            out.append(prefix.encode() + raw)
        last = len(out) - 1
        return b"".join(
            b"%d%c%s\r\n" % (self.code, b" " if number == last else b"-", line) for number, line in enumerate(out)
        )


def parse_reply(lines: list[bytes]) -> Reply:
    """The reply that `lines` (CRLF removed, first to last) make; ReplyError where they make none.

    The enhanced status is taken from the first line and removed from every line that repeats it. A status
    whose class contradicts the code is left in the text: the code decides (RFC 2034 section 4).
    """
    texts: list[str] = []
    codes: set[int] = set()
    for number, line in enumerate(lines):
        match = _LINE.fullmatch(line)
        if match is None or (match[2] == b"-") != (number < len(lines) - 1):
            raise ReplyError(f"malformed reply line {line[:80]!r}")
        codes.add(int(match[1]))
        texts.append((match[3] or b"").decode("utf-8", "replace"))
    if len(codes) != 1:
        raise ReplyError(f"{len(codes)} different codes in one reply" if codes else "an empty reply")
    code = codes.pop()
    status = ""
    match_status = _STATUS.match(texts[0])
    if match_status and int(match_status[1]) == code // 100:
        status = match_status[0].rstrip()
        texts = [_without(text, status) for text in texts]
    return Reply(code, status, tuple(texts))


@functools.lru_cache(maxsize=1024)
def _belongs(status: str, kind: int) -> bool:
    """Whether it is an enhanced status code, of this class."""
    return re.fullmatch(r"[245]\.\d{1,3}\.\d{1,3}", status) is not None and int(status[0]) == kind


def _printable(line: str) -> str:
    return line if line.isprintable() else "".join(one if one.isprintable() else "?" for one in line)


def _without(text: str, status: str) -> str:
    return text[len(status) :].removeprefix(" ") if text == status or text.startswith(status + " ") else text
