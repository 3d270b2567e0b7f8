"""A message that is asked about over HTTP/1.1: one POST, sent as fast as it is taken (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from mailgate.scanners.pool import ScannerError
from mailgate.scanners.sending import Pieces

__all__ = ["Post", "Posted"]

#: The largest body of an answer, in octets, and what its header and its chunks may take beside it. It is understood in
#: the reactor's thread.
_LARGEST_ANSWER = 256 * 1024
_AROUND = 256 * 1024
#: What may stand in our fields (RFC 9110 section 5.5); a name is a token.
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~]*")


@dataclass(frozen=True, slots=True)
class Posted:
    """A response: its status and all of its body."""

    status: int
    body: bytes = field(repr=False)


class Post:
    """A request with these fields and a body of `length` octets, and its response, whatever the status.

    ValueError for fields that are none. Redirects are not followed. `body` is called each time that it is sent.
    """

    largest = _LARGEST_ANSWER + _AROUND
    ends_with_stream = False

    def __init__(
        self,
        url: str,
        fields: Sequence[tuple[str, str]],
        body: Callable[[], Iterable[bytes]],
        length: int,
        *,
        is_small: bool,
    ) -> None:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host = parts.netloc.rpartition("@")[2]
        lines = [f"Host: {host}", f"Content-Length: {length}", *(f"{name}: {value}" for name, value in fields)]
        if not all(map(_FIELD.fullmatch, lines)):
            raise ValueError("a field of the request cannot be sent")
        self._head = "\r\n".join([f"POST {target} HTTP/1.1", *lines, "\r\n"]).encode("ascii")
        self._body = body
        self._response = _Response()
        self.is_small = is_small
        self.keeps = False

    def pieces(self, number: int = 1) -> Pieces:
        """The request."""
        self._response = _Response()
        yield self._head
        yield from self._body()

    def is_whole(self, answer: bytearray) -> bool:
        """Whether the response has its end, or is none."""
        return self._response.take(answer)

    def read(self, answer: bytes, was_sent: bool) -> Posted:
        """The response; ScannerError where it is none, half of one, too large, or came before everything was sent."""
        response = self._response
        response.close()
        if response.fault:
            raise ScannerError(f"no answer over HTTP: {response.fault}")
        if not response.is_whole and not response.ends_with_connection:
            raise ScannerError("half an answer over HTTP" if answer else "no answer over HTTP")
        if not was_sent:
            raise ScannerError("answered before everything was sent")
        if len(response.body) > _LARGEST_ANSWER:
            raise ScannerError(f"the answer has more than {_LARGEST_ANSWER} octets")
        self.keeps = response.is_whole and response.is_kept
        return Posted(response.status, bytes(response.body))


class _Response:
    """What is known of a response so far. The methods in between are those that httptools calls."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.fault = ""
        self.is_whole = False
        self.is_kept = False
        self._has_length = False
        self._taken = 0
        self._parser = HttpResponseParser(self)

    @property
    def ends_with_connection(self) -> bool:
        """Whether its body is what comes until the connection ends (RFC 9112 section 6.3)."""
        return self.status >= 200 and not self._has_length

    def take(self, answer: bytearray) -> bool:
        """Go on with what is new in the answer; whether nothing more is to be learned."""
        new = bytes(answer[self._taken :])
        self._taken = len(answer)
        try:
            self._parser.feed_data(new)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self.is_whole:
                self.fault = f"{type(error).__name__}: {str(error)[:200]!a}"
            self.is_kept = False
            return True
        return self.is_whole

    def close(self) -> None:
        """Nothing more comes; the parser and this do not hold each other any more."""
        del self._parser

    def on_message_begin(self) -> None:
        if self.is_whole:  # nobody has asked for another one
            self.is_kept = False
            return
        self.status, self._has_length = 0, False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._has_length = True

    def on_headers_complete(self) -> None:
        if not self.is_whole:
            self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if not self.is_whole:
            self.body += body

    def on_message_complete(self) -> None:
        if not self.is_whole and self.status >= 200:  # those below are followed by another (RFC 9110 section 15.2)
            self.is_whole = True
            self.is_kept = self._parser.should_keep_alive()
