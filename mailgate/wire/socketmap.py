"""Sendmail's socketmap protocol, which Postfix speaks as socketmap_table(5), on the side of the server; no I/O.

A request is a netstring "MAP KEY", an answer a netstring: "OK VALUE", "NOTFOUND ", "TEMP REASON" or "PERM REASON".
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["MAX_ANSWER", "MAX_REQUEST", "NOTFOUND", "Query", "QueryError", "QueryReader", "found", "not_now", "refused"]

#: Octets of a request; and of an answer, as Postfix has it (socketmap_max_reply_size).
MAX_REQUEST, MAX_ANSWER = 10_000, 100_000
#: Characters of a reason.
_MAX_REASON = 500

_LENGTH = re.compile(rb"(0|[1-9][0-9]{0,8}):")
_BEGINNING = re.compile(rb"(?:0|[1-9][0-9]{0,8})?")


class QueryError(ValueError):
    """These octets are no request. The text is the private cause."""


class Query(NamedTuple):
    """A key that is to be looked up in a map."""

    map: str
    key: str


class QueryReader:
    """What a mail server says, cut into requests.

    The outcome does not depend on how the octets were cut.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Octets that have come."""
        self._buffer += data

    @property
    def is_empty(self) -> bool:
        """Whether everything that came has been taken."""
        return not self._buffer

    def take(self) -> Query | None:
        """The next request; None as long as it is not complete. QueryError."""
        match = _LENGTH.match(self._buffer)
        if match is None:
            if not _BEGINNING.fullmatch(self._buffer):
                raise QueryError(f"no netstring: {bytes(self._buffer[:20])!r}")
            return None
        size, start = int(match[1]), match.end()
        match = None  # it would keep the buffer from changing
        if size > MAX_REQUEST:
            raise QueryError(f"a request of {size} octets")
        end = start + size
        if len(self._buffer) <= end:
            return None
        if self._buffer[end] != ord(","):
            raise QueryError("a netstring without its comma")
        text = bytes(self._buffer[start:end]).decode("utf-8", "replace")
        del self._buffer[: end + 1]
        name, _, key = text.partition(" ")
        return Query(name, key)


#: There is nothing under the key.
NOTFOUND = b"9:NOTFOUND ,"


def found(value: str) -> bytes:
    """What stands under the key; it fits an answer, and has no line ends."""
    octets = b"OK " + value.encode("utf-8", "replace")
    if len(octets) > MAX_ANSWER or not value.isprintable():
        return not_now("what stands there cannot be told in one answer")
    return _netstring(octets)


def not_now(reason: str) -> bytes:
    """It cannot be told now: the mail server tries again later."""
    return _netstring(b"TEMP " + _plain(reason))


def refused(reason: str) -> bytes:
    """It cannot be told, as long as nobody changes a configuration; Postfix tries again later, too, and logs why."""
    return _netstring(b"PERM " + _plain(reason))


def _netstring(octets: bytes) -> bytes:
    return b"%d:%s," % (len(octets), octets)


def _plain(text: str) -> bytes:
    return "".join(one if one.isascii() and one.isprintable() else "?" for one in text[:_MAX_REASON]).encode()
