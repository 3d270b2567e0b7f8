"""Content as it comes in, from the 354 reply to the end of data: decoded, counted, kept."""

from __future__ import annotations

from pathlib import Path

from mailgate.message import Content, ContentWriter
from mailgate.reply import Reply
from mailgate.wire.content import ContentDecoder, ContentFault, ContentTooLongError

__all__ = ["ContentReceiver"]

_REPLIES = {
    ContentFault.TOO_LARGE: Reply.of(552, "5.3.4", "The message is larger than this server accepts"),
    ContentFault.BARE_CR_OR_LF: Reply.of(550, "5.5.2", "Lines must end with CR LF; a bare CR or LF is not allowed"),
    ContentFault.NUL: Reply.of(550, "5.6.0", "NUL octets are not allowed"),
    ContentFault.LINE_TOO_LONG: Reply.of(550, "5.6.0", "A line is longer than 998 octets"),
}
_NO_SPACE = Reply.of(452, "4.3.1", "Insufficient system storage")


class ContentReceiver:
    """The content of one message. After its end it is in `content`, or `refusal` is the reply where it cannot be taken,
    with the private `reason`; `is_endless` tells that it was given up before its end. Nothing raises for what the peer
    or the disk does.
    """

    __slots__ = ("_decoder", "_writer", "content", "is_endless", "reason", "refusal")

    def __init__(self, directory: Path, memory_limit: int, max_size: int) -> None:
        self._decoder = ContentDecoder(max_size)
        self._writer = ContentWriter(directory, memory_limit)
        self.content: Content | None = None
        self.refusal: Reply | None = None
        self.reason = ""
        self.is_endless = False

    def feed(self, data: bytes) -> bytes | None:
        """Take octets; what follows the end of data, or None where it has not come yet."""
        try:
            settled, rest = self._decoder.feed(data)
        except ContentTooLongError:
            self.is_endless = True
            self.abandon()
            return b""
        if self.refusal is None:
            fault = self._decoder.fault
            if fault is not None:
                self._refuse(_REPLIES[fault], fault.value)
            else:
                try:
                    if settled:
                        self._writer.write(settled)
                    if rest is not None:
                        self.content = self._writer.finish()
                except OSError as error:
                    self._refuse(_NO_SPACE, f"the content cannot be written: {error}")
        return rest

    def abandon(self) -> None:
        """Throw away what came so far, before the end."""
        self._writer.abandon()

    def _refuse(self, reply: Reply, reason: str) -> None:
        self.refusal = reply
        self.reason = reason
        self._writer.abandon()
