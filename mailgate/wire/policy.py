"""Postfix's policy delegation protocol (SMTPD_POLICY_README) as octets, on the side of the policy server; no I/O.

A request is a block of lines "name=value", each ended by LF, and then an empty line. The answer is "action=...", an
action of access(5), and an empty line.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MAX_ATTRIBUTES", "MAX_REQUEST", "RequestError", "RequestReader", "encode_action"]

#: Octets of a request, and attributes in it. Postfix sends about thirty, of which few may be long.
MAX_REQUEST, MAX_ATTRIBUTES = 64 * 1024, 200
#: Characters of an action: Postfix reads lines of 2048.
_MAX_ACTION = 1800


class RequestError(ValueError):
    """These octets are no request. The text is the private cause."""


class RequestReader:
    """What a mail server says, cut into requests.

    The outcome does not depend on how the octets were cut.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._seen = 0  # octets in which no request ends

    def feed(self, data: bytes) -> None:
        """Octets that have come."""
        self._buffer += data

    @property
    def is_empty(self) -> bool:
        """Whether everything that came has been taken."""
        return not self._buffer

    def take(self) -> Mapping[str, str] | None:
        """The next request, attributes by their names; None as long as it is not complete. RequestError."""
        end = self._buffer.find(b"\n\n", max(self._seen - 1, 0))
        if self._buffer.startswith(b"\n"):
            raise RequestError("a request without attributes")
        if (len(self._buffer) if end < 0 else end) > MAX_REQUEST:
            raise RequestError(f"a request of more than {MAX_REQUEST} octets")
        if end < 0:
            self._seen = len(self._buffer)
            return None
        block = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self._seen = 0
        return _attributes(block)


def _attributes(block: bytes) -> Mapping[str, str]:
    lines = block.split(b"\n")
    if len(lines) > MAX_ATTRIBUTES:
        raise RequestError(f"a request of more than {MAX_ATTRIBUTES} attributes")
    found: dict[str, str] = {}
    for line in lines:
        name, is_attribute, value = line.partition(b"=")
        if not is_attribute or not name:
            raise RequestError(f"a line that is no attribute: {line[:60]!r}")
        key = name.decode("utf-8", "replace")
        if key in found:  # one of the two could be a client's own words
            raise RequestError(f"an attribute that is told twice: {key[:60]!r}")
        found[key] = value.decode("utf-8", "replace")
    return found


def encode_action(action: str) -> bytes:
    """The answer, whatever the text holds: what is not printable ASCII becomes "?", and what is very long is cut."""
    text = "".join(one if one.isascii() and one.isprintable() else "?" for one in action[:_MAX_ACTION])
    return b"action=%s\n\n" % text.encode("ascii")
