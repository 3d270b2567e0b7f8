"""Mail that has been: where it lies, when it came, and how; found first, and read one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mailgate.address import Address
from mailgate.envelope import PLAIN_MAIL, MailParameters
from mailgate.message import Content

__all__ = ["MOST_OCTETS", "NOBODY_NAMED", "Place", "Recorded", "UnreadableError"]

#: A larger message is not read.
MOST_OCTETS = 256 * 1024 * 1024


NOBODY_NAMED = "it was refused before it named a recipient: --to says for whom such mail is judged"
"""Why mail cannot be judged that got no further than its greeting, or its sender."""


class UnreadableError(Exception):
    """The message cannot be judged; the text says why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One mail. `address` is None where it came by a unix socket, or nothing tells; `name` is None where DNS is to be
    asked for it. `listener` is "" where it is not known, `identity` "" for a client that had not logged in. `content`
    is None where nobody has seen it: the mail was refused before.

    `then` is what became of it for each recipient, if that is known: "taken", "quarantined" and so on. `assumed` says
    what the record does not tell, and was taken from elsewhere.
    """

    address: IPv4Address | IPv6Address | None
    name: str | None
    helo: str
    identity: str
    sender: Address
    recipients: tuple[Address, ...]
    listener: str
    received: float
    content: Content | None
    parameters: MailParameters = PLAIN_MAIL
    then: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mail lies: a name for people, when it came (seconds since the epoch), and how it is read, which may raise
    UnreadableError or OSError."""

    name: str
    received: float
    read: Callable[[], Recorded]
