"""Message content on the wire: the end of data and dot-stuffing (RFC 5321 sections 4.1.1.4 and 4.5.2), and chunks.

This is the only place that stuffs and unstuffs. Both work on whole buffers with `bytes.find` and
`bytes.replace`; nothing here goes through content line by line, unless a line breaks a rule.
"""

from __future__ import annotations

import enum
import re

__all__ = [
    "MAX_LINE",
    "SLACK",
    "ChunkDecoder",
    "ContentDecoder",
    "ContentFault",
    "ContentTooLongError",
    "Inspector",
    "Stuffer",
    "stuff",
]

#: The longest line of content, in octets, without its CRLF (RFC 5322 section 2.1.1).
MAX_LINE = 998
#: Octets behind a fault that are read and thrown away.
SLACK = 64 * 1024 * 1024

_END = b"\r\n.\r\n"
_DOT = b"\r\n."
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class ContentFault(enum.Enum):
    """Why content is refused once its end has been read. The value is the text of the reply."""

    BARE_CR_OR_LF = "lines must end with CR LF; a bare CR or LF is not allowed"
    NUL = "NUL octets are not allowed"
    LINE_TOO_LONG = f"a line is longer than {MAX_LINE} octets"
    TOO_LARGE = "the message is larger than this server accepts"


class ContentTooLongError(Exception):
    """More octets came after the fault than the decoder is willing to throw away: close the connection."""


class Inspector:
    """Content in any pieces, its dots unstuffed, held to the rules; what may be kept comes back.

    `bare` is what is done with a CR or LF that stands alone: "reject", "normalize" (it becomes CR LF), or "allow"
    where any octets may come (BINARYMIME, RFC 3030 section 3): then NUL and lines of any length may, too. The first
    fault is kept in `fault`: from then on content is thrown away. `size` counts what came, in octets. When more than
    `slack` octets have been thrown away, ContentTooLongError is raised.
    """

    __slots__ = ("_bare", "_column", "_held", "_max_line", "_max_size", "_slack", "_wasted", "fault", "size")

    def __init__(self, max_size: int, *, max_line: int = MAX_LINE, slack: int = SLACK, bare: str = "reject") -> None:
        self.fault: ContentFault | None = None
        self.size = 0
        self._max_size = max_size
        self._max_line = max_line
        self._slack = slack
        self._bare = bare
        self._wasted = 0
        self._held = b""  # a CR whose LF may be in the next piece
        self._column = 0  # octets of the unfinished line that have been let through

    @property
    def sees_lines(self) -> bool:
        """Whether what may be kept holds no CR or LF that stands alone."""
        return self._bare != "allow"

    def feed(self, content: bytes) -> bytes:
        """What may be kept of it now."""
        self.size += len(content)
        if self.fault is None and self.size > self._max_size:
            self.fault = ContentFault.TOO_LARGE
        if self.fault is None:
            if self._bare == "allow":
                return content
            if self._held:
                content = self._held + content
                self._held = b""
            if content.endswith(b"\r"):
                self._held = b"\r"
                content = content[:-1]
            content = self._inspect(content)
            if self.fault is None:
                return content
        self._wasted += len(content)
        if self._wasted > self._slack:
            raise ContentTooLongError
        return b""

    def finish(self) -> bytes:
        """What is left at the end of content."""
        held, self._held = self._held, b""
        return self._inspect(held) if held and self.fault is None else b""

    def _inspect(self, content: bytes) -> bytes:
        if _has_bare(content):
            if self._bare == "reject":
                self.fault = ContentFault.BARE_CR_OR_LF
                return b""
            content = _BARE.sub(b"\r\n", content)
        if b"\0" in content:
            self.fault = ContentFault.NUL
            return b""
        # Line lengths: leap by the limit and back to the last line end before it.
        start, length = -self._column, len(content)
        while length - start > self._max_line:
            found = content.rfind(b"\r\n", max(start, 0), start + self._max_line + 2)
            if found < 0:
                self.fault = ContentFault.LINE_TOO_LONG
                return b""
            start = found + 2
        last = content.rfind(b"\r\n", max(start, 0))
        self._column = length - (last + 2 if last >= 0 else start)
        return content


class ContentDecoder:
    """Octets after the 354 reply, in any chunks, to content with the dots unstuffed.

    `feed` returns the content that is settled and, when the end of data was met, the octets behind it;
    None while there is more to come. The end is CRLF.CRLF (or .CRLF at the very start) and nothing else. It is looked
    for whatever the `inspector` finds, so that the rest of a refused message can never be taken for commands.
    """

    __slots__ = ("_held", "_virtual", "inspector")

    def __init__(self, inspector: Inspector) -> None:
        self.inspector = inspector
        # Content starts at the beginning of a line: a CRLF before it lets one search serve both cases.
        self._held = b"\r\n"
        self._virtual = 2  # octets of _held that are not content

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Content settled by `data`, and what follows the end of data (None: it has not come yet)."""
        buffer = self._held + data
        dot = buffer.find(_DOT)
        # Mostly the first dot that begins a line is the end already, and there is none to remove.
        end = dot if dot < 0 or buffer.startswith(b"\r\n", dot + 3) else buffer.find(_END, dot)
        if end >= 0:
            settled, rest = buffer[: end + 2], buffer[end + len(_END) :]
            self._held = b""
        else:
            # Hold back what may be the beginning of the end, or the first half of a CRLF and its dot.
            keep = next((n for n in range(min(4, len(buffer)), 0, -1) if _END.startswith(buffer[-n:])), 0)
            settled, rest = buffer[: len(buffer) - keep], None
            self._held = buffer[len(buffer) - keep :]
        if not settled:
            return b"", rest
        # A held CRLF always leaves together with the octets behind it, so every dot to remove is preceded by
        # its CRLF in this very buffer.
        if dot != end:
            settled = settled.replace(_DOT, b"\r\n")
        content = settled[self._virtual :] if self._virtual else settled
        self._virtual = 0
        return self.inspector.feed(content), rest


class ChunkDecoder:
    """The octets of BDAT chunks (RFC 3030 section 2): counted, not searched. `expect` announces each."""

    __slots__ = ("_left", "inspector")

    def __init__(self, inspector: Inspector) -> None:
        self.inspector = inspector
        self._left = 0

    def expect(self, size: int) -> None:
        """The next chunk has so many octets."""
        self._left = size

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Content settled by `data`, and what follows the chunk (None: it goes on)."""
        left = self._left
        chunk, rest = (data, None) if len(data) < left else (data[:left], data[left:])
        self._left = left - len(chunk)
        return self.inspector.feed(chunk), rest


class Stuffer:
    """Content in any chunks to octets for DATA: dots stuffed, a last CRLF if it has none, and the end of data.

    The content must have CRLF line ends only; ValueError otherwise, so that nothing of ours can ever smuggle. After
    one the connection must be dropped: what was returned before is out.
    """

    __slots__ = ("_held", "_line_start")

    def __init__(self) -> None:
        self._held = b""  # a CR whose LF may be in the next chunk
        self._line_start = True

    def feed(self, chunk: bytes) -> bytes:
        """The octets that `chunk` settles."""
        data = self._held + chunk
        self._held = b"\r" if data.endswith(b"\r") else b""
        if self._held:
            data = data[:-1]
        if not data:
            return b""
        if _has_bare(data):
            raise ValueError("content with a bare CR or LF must not be sent")
        dot = b"." if self._line_start and data.startswith(b".") else b""
        self._line_start = data.endswith(b"\r\n")
        return dot + data.replace(b"\r\n.", b"\r\n..")

    def finish(self) -> bytes:
        """The end of data."""
        if self._held:
            raise ValueError("content with a bare CR or LF must not be sent")
        return b".\r\n" if self._line_start else b"\r\n.\r\n"


def stuff(content: bytes, *, is_whole_lines: bool = False) -> bytes:
    """Whole content at once, by the rules of `Stuffer`, which need not look again where `is_whole_lines`."""
    if not is_whole_lines and _has_bare(content):
        raise ValueError("content with a bare CR or LF must not be sent")
    if content.startswith(b"."):
        content = b"." + content
    end = b".\r\n" if not content or content.endswith(b"\r\n") else b"\r\n.\r\n"
    return content.replace(b"\r\n.", b"\r\n..") + end


def _has_bare(content: bytes) -> bool:
    pairs = content.count(b"\r\n")
    return content.count(b"\n") != pairs or content.count(b"\r") != pairs
