"""A message that is asked about over HTTP/1.1: one POST, sent as fast as it is taken (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mailgate.scanners.pool import ScannerError
from mailgate.scanners.sending import Pieces
from mailgate.wire.http_response import HttpResponse

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
        self._response = HttpResponse()
        self._fed = 0
        self.is_small = is_small
        self.keeps = False

    def pieces(self, number: int = 1) -> Pieces:
        """The request."""
        self._response, self._fed = HttpResponse(), 0
        yield self._head
        yield from self._body()

    def is_whole(self, answer: bytearray) -> bool:
        """Whether the response has its end, or is none."""
        new = bytes(answer[self._fed :])
        self._fed = len(answer)
        return self._response.feed(new)

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
