"""The content as a mail server gives it, field by field and in pieces of the body, as the octets of one message."""

from __future__ import annotations

import re
from pathlib import Path

from mailgate.message import MAX_HEADER, Content, ContentWriter, MemoryBudget, header_problem
from mailgate.reply import Reply

__all__ = ["TOO_LARGE", "Gathering"]

TOO_LARGE = Reply.of(552, "5.3.4", "The message is larger than this server accepts")
_UNCLEAR_HEADER = Reply.of(550, "5.6.0", "The header section is too long, or holds a bare CR or LF")
_NO_SPACE = Reply.of(452, "4.3.1", "Insufficient system storage")

_FIELD_NAME = re.compile(rb"[!-9;-~]+[ \t]*")
_NO_FOLDING = re.compile(rb"\n(?![ \t])")


class Gathering:
    """Of one message. Where it cannot be taken, `refusal` is the reply, with the private `reason`: what still comes is
    thrown away. Nothing raises for what the client or the disk does.

    `keeps_space`: values have what stands behind the colon, all of it; else one space less.
    """

    def __init__(
        self, directory: Path, memory_limit: int, max_size: int, budget: MemoryBudget, *, keeps_space: bool
    ) -> None:
        self._writer = ContentWriter(directory, memory_limit, budget)
        self._max_size = max_size
        self._keeps_space = keeps_space
        self._header = bytearray()
        self._is_in_body = False
        self.refusal: Reply | None = None
        self.reason = ""

    def field(self, name: bytes, value: bytes) -> None:
        """A header field."""
        if self.refusal is not None or self._is_in_body:
            return
        if not _FIELD_NAME.fullmatch(name):
            self._refuse(_UNCLEAR_HEADER, f"a header field of the name {name[:60]!r}")
            return
        # Folding comes as single LFs; from some as CRLFs.
        folded = value.replace(b"\r\n", b"\n").removesuffix(b"\n")
        if _NO_FOLDING.search(folded):
            self._refuse(_UNCLEAR_HEADER, f"a line of {name[:60]!r} that is no folding")
            return
        self._header += b"%s:%s%s\r\n" % (name, b"" if self._keeps_space else b" ", folded.replace(b"\n", b"\r\n"))
        if len(self._header) > MAX_HEADER:
            self._refuse(_UNCLEAR_HEADER, f"the header section has more than {MAX_HEADER} octets")

    def body(self, data: bytes) -> None:
        """A piece of the body."""
        self._begin_body()
        self._write(data)

    def finish(self) -> Content | None:
        """All has come: the content, which is the caller's; None where it is refused."""
        self._begin_body()
        if self.refusal is not None:
            return None
        try:
            content = self._writer.finish()
        except OSError as error:
            self._refuse(_NO_SPACE, f"the content cannot be written: {error}")
            return None
        try:
            problem = header_problem(content)
        except OSError as error:
            problem = str(error)
        if problem:
            content.discard()
            content.give_back()
            self._refuse(_UNCLEAR_HEADER, problem)
            return None
        return content

    def abandon(self) -> None:
        """Throw away what came so far; safe to call twice, not behind `finish`."""
        self._writer.abandon()

    def _begin_body(self) -> None:
        if not self._is_in_body:
            self._is_in_body = True
            self._write(bytes(self._header) + b"\r\n")
            self._header.clear()

    def _write(self, data: bytes) -> None:
        if self.refusal is not None or not data:
            return
        if self._writer.size + len(data) > self._max_size:
            self._refuse(TOO_LARGE, f"it has more than {self._max_size} octets")
            return
        try:
            self._writer.write(data)
        except OSError as error:
            self._refuse(_NO_SPACE, f"the content cannot be written: {error}")

    def _refuse(self, reply: Reply, reason: str) -> None:
        self.refusal = reply
        self.reason = reason
        self._header.clear()
        self._writer.abandon()
