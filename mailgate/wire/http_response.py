"""A response of HTTP/1.1 as it comes, without I/O (RFC 9112)."""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

__all__ = ["HttpResponse"]


class HttpResponse:
    """What is known of a response so far; whoever feeds it bounds how much. The methods in between are those that
    httptools calls.

    `fields` are kept, by their names in lower case, where `wanted` names them: the first value of each.
    """

    def __init__(self, wanted: frozenset[bytes] = frozenset()) -> None:
        self.status = 0
        self.body = bytearray()
        self.fields: dict[bytes, bytes] = {}
        self.fault = ""
        self.is_whole = False
        self.is_kept = False
        self._wanted = wanted
        self._has_length = False
        self._parser = HttpResponseParser(self)

    @property
    def ends_with_connection(self) -> bool:
        """Whether its body is what comes until the connection ends (RFC 9112 section 6.3)."""
        return self.status >= 200 and not self._has_length

    def feed(self, octets: bytes) -> bool:
        """Go on with these; whether nothing more is to be learned."""
        try:
            self._parser.feed_data(octets)
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
        self.fields.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._has_length = True
        if name in self._wanted and not self.is_whole:
            self.fields.setdefault(name, value)

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
