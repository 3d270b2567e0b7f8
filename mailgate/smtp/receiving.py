"""Content as it comes in, by DATA or in chunks by BDAT: decoded, counted, kept."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from mailgate.message import Content, ContentWriter, MemoryBudget, header_problem
from mailgate.reply import Reply
from mailgate.wire.content import SLACK, ChunkDecoder, ContentDecoder, ContentFault, ContentTooLongError, Inspector

__all__ = ["ContentReceiver", "RefusedChunk"]

_REPLIES = {
    ContentFault.TOO_LARGE: Reply.of(552, "5.3.4", "The message is larger than this server accepts"),
    ContentFault.BARE_CR_OR_LF: Reply.of(550, "5.5.2", "Lines must end with CR LF; a bare CR or LF is not allowed"),
    ContentFault.NUL: Reply.of(550, "5.6.0", "NUL octets are not allowed"),
    ContentFault.LINE_TOO_LONG: Reply.of(550, "5.6.0", "A line is longer than 998 octets"),
}
_UNCLEAR_HEADER = Reply.of(550, "5.6.0", "The header section is too long, or holds a bare CR or LF")
_NO_SPACE = Reply.of(452, "4.3.1", "Insufficient system storage")


class ContentReceiver:
    """The content of one message. After its end it is in `content`, or `refusal` is the reply where it cannot be taken,
    with the private `reason`; `is_endless` tells that it was given up before its end. Nothing raises for what the peer
    or the disk does.

    `bare` as in Inspector. With `chunked` the content comes in chunks, each announced with `expect`; otherwise up to
    the end of data.
    """

    __slots__ = (
        "_chunks",
        "_decoder",
        "_inspector",
        "_is_last",
        "_writer",
        "content",
        "is_endless",
        "reason",
        "refusal",
    )

    def __init__(
        self,
        directory: Path,
        memory_limit: int,
        max_size: int,
        budget: MemoryBudget,
        *,
        bare: str = "reject",
        chunked: bool = False,
        slack: int = SLACK,
    ) -> None:
        self._inspector = Inspector(max_size, bare=bare, slack=slack)
        self._chunks = ChunkDecoder(self._inspector) if chunked else None
        self._decoder = self._chunks or ContentDecoder(self._inspector)
        self._is_last = not chunked
        self._writer = ContentWriter(directory, memory_limit, budget)
        self.content: Content | None = None
        self.refusal: Reply | None = None
        self.reason = ""
        self.is_endless = False

    def expect(self, size: int, *, is_last: bool) -> None:
        """A chunk of so many octets comes next."""
        if self._chunks is None:
            raise AssertionError("this content does not come in chunks")
        self._chunks.expect(size)
        self._is_last = is_last

    def feed(self, data: bytes) -> bytes | None:
        """Take octets; what follows the end of data, or of the chunk, or None where it has not come yet."""
        try:
            settled, rest = self._decoder.feed(data)
            if rest is not None and self._is_last:
                settled += self._inspector.finish()
        except ContentTooLongError:
            self.is_endless = True
            self.abandon()
            return b""
        if self.refusal is None:
            fault = self._inspector.fault
            if fault is not None:
                self._refuse(_REPLIES[fault], fault.value)
            else:
                try:
                    if settled:
                        self._writer.write(settled)
                    if rest is not None and self._is_last:
                        self.content = self._writer.finish()
                        self.content.is_whole_lines = self._inspector.sees_lines
                        self._look_at_header(self.content)
                except OSError as error:
                    self._refuse(_NO_SPACE, f"the content cannot be written: {error}")
        return rest

    def abandon(self) -> None:
        """Throw away what came so far, before the end."""
        self._writer.abandon()

    def _look_at_header(self, content: Content) -> None:
        """Refuse what would be read in two ways: with other fields here than by those who get the message."""
        problem = header_problem(content)
        if problem:
            self.content = None
            content.discard()
            content.give_back()
            self._refuse(_UNCLEAR_HEADER, problem)

    def _refuse(self, reply: Reply, reason: str) -> None:
        self.refusal = reply
        self.reason = reason
        self._writer.abandon()


class RefusedChunk:
    """A chunk that is read all the same, as nobody else knows where the next command begins; then the answer is said.

    One of more than MAX_SIZE octets is not worth it.
    """

    MAX_SIZE: ClassVar[int] = 64 * 1024 * 1024

    __slots__ = ("_left", "answer")

    def __init__(self, size: int, answer: bytes) -> None:
        self._left = size
        self.answer = answer

    def feed(self, data: bytes) -> bytes | None:
        """What follows the chunk, or None where its end has not come yet."""
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            return None
        return data[left:]
