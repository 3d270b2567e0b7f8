"""Replies on the wire (RFC 5321 section 4.2): octets in any chunks to `Reply` values, within limits."""

from __future__ import annotations

from mailgate.reply import Reply, ReplyError, parse_reply

__all__ = ["MAX_LINES", "MAX_REPLY", "MAX_REPLY_TEXT", "ReplyReader"]

#: The longest reply line that is read, in octets without CRLF. RFC 5321 section 4.5.3.1.5 allows 510; peers that put
#: an address of the web and an id into their text go beyond it.
MAX_REPLY_TEXT = 2000
#: Lines of one reply, and octets of all of them. The longest honest reply is that to EHLO, with one line per extension.
MAX_LINES, MAX_REPLY = 100, 32 * 1024

#: Replies of one line that are remembered: a peer says most of its few phrases again for each message.
_REMEMBERED = 16


class ReplyReader:
    """What a server says, cut into replies.

    `feed` returns the replies that `data` completes. The first fault (a malformed line, a bare CR or LF, a limit
    passed) is kept in `fault`; the replies before it are still returned, and everything behind it is thrown away. A
    lone LF ends no line: a text in which a server repeats what others sent it must never count as a second reply.
    The outcome does not depend on how the octets were cut.
    """

    def __init__(self) -> None:
        self.fault: ReplyError | None = None
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = 0
        self._known: dict[bytes, Reply] = {}

    @property
    def is_empty(self) -> bool:
        """Whether everything that came was a complete reply."""
        return not self._rest and not self._lines and self.fault is None

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are complete now, first to last."""
        replies: list[Reply] = []
        if self.fault is not None:
            return replies
        lines = (self._rest + data).split(b"\r\n")
        rest = lines.pop()
        try:
            for line in lines:
                reply = self._known.get(line) if not self._lines else None
                reply = reply or self._add(line)
                if reply is not None:
                    replies.append(reply)
            if rest:
                _check(rest.removesuffix(b"\r"))
        except ReplyError as error:
            self.fault = error
            rest = b""
            self._lines.clear()
        self._rest = rest
        return replies

    def _add(self, line: bytes) -> Reply | None:
        _check(line)
        self._lines.append(line)
        self._size += len(line)
        if len(self._lines) > MAX_LINES or self._size > MAX_REPLY:
            raise ReplyError(f"a reply of more than {MAX_LINES} lines or {MAX_REPLY} octets")
        if line[3:4] == b"-":
            if not line[:3].isdigit() or line[:3] != self._lines[0][:3]:
                raise ReplyError(f"malformed reply line {line[:80]!r}")
            return None
        lines, self._lines, self._size = self._lines, [], 0
        reply = parse_reply(lines)
        if len(lines) == 1 and len(self._known) < _REMEMBERED:
            self._known[line] = reply
        return reply


def _check(line: bytes) -> None:
    if len(line) > MAX_REPLY_TEXT:
        raise ReplyError(f"a reply line of more than {MAX_REPLY_TEXT} octets")
    if b"\n" in line or b"\r" in line:
        raise ReplyError(f"a bare CR or LF in a reply: {line[:80]!r}")
