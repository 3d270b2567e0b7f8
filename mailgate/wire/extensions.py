"""What a server offers in its reply to EHLO or LHLO (RFC 5321 section 4.1.1.1)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mailgate.reply import Reply

__all__ = ["NO_EXTENSIONS", "NO_LIMITS", "Extensions", "Limits", "parse_extensions"]

# RFC 9422 section 3: a positive number of up to six digits.
_LIMIT = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)=([1-9][0-9]{0,5})")


class Limits(NamedTuple):
    """What a server takes (RFC 9422 section 4), 0 for what it does not say: `recipients` in one transaction;
    `messages`, and `domains` of recipients, in one session."""

    recipients: int = 0
    messages: int = 0
    domains: int = 0


#: Nothing is said.
NO_LIMITS = Limits()


@dataclass(frozen=True)
class Extensions:
    """The offered keywords in upper case, each with its parameters as they stand ("" where it has none).

    What each message asks of them is worked out once.
    """

    offered: Mapping[str, str]

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.offered

    @functools.cached_property
    def pipelining(self) -> bool:
        """Whether commands may be sent without waiting for each reply (RFC 2920)."""
        return "PIPELINING" in self.offered

    @functools.cached_property
    def eight_bit(self) -> bool:
        """Whether content with octets above 127 may be declared (RFC 6152)."""
        return "8BITMIME" in self.offered

    @functools.cached_property
    def binary(self) -> bool:
        """Whether content with any octets may be declared, and sent by BDAT (RFC 3030 section 3: it needs both)."""
        return "BINARYMIME" in self.offered and "CHUNKING" in self.offered

    @functools.cached_property
    def utf8(self) -> bool:
        """Whether addresses and header fields may be in UTF-8 (RFC 6531 section 3.1: it needs 8BITMIME)."""
        return "SMTPUTF8" in self.offered and "8BITMIME" in self.offered

    @functools.cached_property
    def dsn(self) -> bool:
        """Whether the server takes over what the sender wants to be told (RFC 3461)."""
        return "DSN" in self.offered

    @functools.cached_property
    def size(self) -> bool:
        """Whether the size of a message may be declared (RFC 1870)."""
        return "SIZE" in self.offered

    @functools.cached_property
    def max_size(self) -> int:
        """The largest message that is taken, in octets; 0 where the server names no limit (RFC 1870 section 4)."""
        return _number(self.offered.get("SIZE", ""))

    @functools.cached_property
    def least_by_time(self) -> int | None:
        """The shortest time that may be set for delivery, in seconds; 0 where any may, None without DELIVERBY (RFC 2852
        section 4)."""
        parameters = self.offered.get("DELIVERBY")
        # A list, of which only the first element is defined.
        return None if parameters is None else _number(parameters.partition(",")[0].rstrip())

    @functools.cached_property
    def limits(self) -> Limits:
        """What the server says of its limits; what is malformed counts as not said."""
        text = self.offered.get("LIMITS")
        return NO_LIMITS if text is None else _limits(text)


#: A server that knows no EHLO.
NO_EXTENSIONS = Extensions({})


def parse_extensions(reply: Reply) -> Extensions:
    """The extensions in a 250 reply to EHLO or LHLO, whose first line is the server's greeting."""
    offered: dict[str, str] = {}
    for line in reply.lines[1:]:
        keyword, _space, parameters = line.strip().partition(" ")
        offered.setdefault(keyword.upper(), parameters.strip())
    return Extensions(offered)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0


def _limits(text: str) -> Limits:
    found = {match[1].upper(): int(match[2]) for word in text.split() if (match := _LIMIT.fullmatch(word))}
    return Limits(found.get("RCPTMAX", 0), found.get("MAILMAX", 0), found.get("RCPTDOMAINMAX", 0))
