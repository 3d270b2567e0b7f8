"""What a session with a next hop needs around it: a transport, time, and somebody for long work."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from OpenSSL.SSL import Connection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, ITLSTransport

__all__ = ["IOutlet", "Timeouts", "Work"]

T = TypeVar("T")

#: The longest time for the answer to RSET, in seconds.
_AWAKE = 5.0


class IOutlet(IConsumer, ITLSTransport):
    """What a stream's transport provides, TCP or unix; the handle is there under TLS."""

    def getHandle() -> Connection:  # noqa: N802  zope's manner, Twisted's name
        """OpenSSL's connection."""


class Work(Protocol):
    """Does work, in another thread where it takes long."""

    def __call__(self, compute: Callable[[], T], /) -> Deferred[T]:
        """Fires with what comes of it."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: for the connection and for the handshake of TLS, for each reply and each chunk of content, for the reply
    to the end of data; for each reply before the session is open, where less."""

    connect: float = 30.0
    command: float = 300.0
    data: float = 600.0
    opening: float = math.inf

    @property
    def awake(self) -> float:
        """For the answer to RSET of a session that has rested: it costs a server nothing, and whoever waits must have
        time for another session."""
        return min(self.before_open / 2, _AWAKE)

    @property
    def before_open(self) -> float:
        """For each reply until the session is open."""
        return min(self.command, self.opening)
