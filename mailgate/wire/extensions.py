"""What a server offers in its reply to EHLO or LHLO (RFC 5321 section 4.1.1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mailgate.reply import Reply

__all__ = ["NO_EXTENSIONS", "Extensions", "parse_extensions"]


@dataclass(frozen=True, slots=True)
class Extensions:
    """The offered keywords in upper case, each with its parameters as they stand ("" where it has none)."""

    offered: Mapping[str, str]

    @property
    def pipelining(self) -> bool:
        """Whether commands may be sent without waiting for each reply (RFC 2920)."""
        return "PIPELINING" in self.offered

    @property
    def eight_bit(self) -> bool:
        """Whether content with octets above 127 may be declared (RFC 6152)."""
        return "8BITMIME" in self.offered

    @property
    def size(self) -> bool:
        """Whether the size of a message may be declared (RFC 1870)."""
        return "SIZE" in self.offered

    @property
    def max_size(self) -> int:
        """The largest message that is taken, in octets; 0 where the server names no limit (RFC 1870 section 4)."""
        limit = self.offered.get("SIZE", "")
        return int(limit) if limit.isascii() and limit.isdigit() and len(limit) <= 20 else 0


#: A server that knows no EHLO.
NO_EXTENSIONS = Extensions({})


def parse_extensions(reply: Reply) -> Extensions:
    """The extensions in a 250 reply to EHLO or LHLO, whose first line is the server's greeting."""
    offered: dict[str, str] = {}
    for line in reply.lines[1:]:
        keyword, _space, parameters = line.strip().partition(" ")
        offered.setdefault(keyword.upper(), parameters.strip())
    return Extensions(offered)
