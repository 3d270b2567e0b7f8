"""Open connections that wait for the next message."""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mailgate.relay.attempt import IConnection

__all__ = ["Idle"]


class Idle:
    """Connections without a message, each kept for `timeout` seconds; `changed` is called when some were closed."""

    def __init__(self, timeout: float, clock: IReactorTime, changed: Callable[[], None]) -> None:
        self.connections: list[tuple[IConnection, float]] = []  # the longest idle first
        self._timeout = timeout
        self._clock = clock
        self._changed = changed
        self._timer: IDelayedCall | None = None

    def put(self, connection: IConnection) -> None:
        """Keep one."""
        self.connections.append((connection, self._clock.seconds()))
        if self._timer is None:
            self._timer = self._clock.callLater(self._timeout, self._look)

    def take(self, *, tries_tls: bool) -> IConnection | None:
        """The one that was put last and can serve; those that cannot are closed. `tries_tls`: what is in clear text
        because TLS has failed before does not serve."""
        connections = self.connections
        while connections:
            connection, _ = connections.pop()
            if connection.is_usable and not (tries_tls and connection.is_fallback):
                return connection
            connection.close()
        return None

    def close_one(self) -> None:
        """Close the one that has been idle the longest, if there is any."""
        if self.connections:
            self.connections.pop(0)[0].close()
            self._changed()

    def close(self) -> None:
        """Close all."""
        self._close(math.inf)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        self._close(self._clock.seconds() - self._timeout)
        if self.connections:
            wait = self.connections[0][1] + self._timeout - self._clock.seconds()
            self._timer = self._clock.callLater(max(wait, 0.0), self._look)
        self._changed()

    def _close(self, since: float) -> None:
        """Close what has been idle since then, or is good for nothing."""
        closed = [one for one in self.connections if one[1] <= since or not one[0].is_usable]
        self.connections = [one for one in self.connections if one not in closed] if closed else self.connections
        for connection, _ in closed:
            connection.close()
