"""Where mail servers reach a service of ours: who may, how many at one time, and the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol as Shape

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.logger import Logger

from mailgate.config.schema import Network
from mailgate.interfaces import ITally
from mailgate.smtp.peer import client_of, is_in

__all__ = ["Door", "Guest", "Settings"]

_log = Logger()


class Settings(Shape):
    """What the section of a service says about its connections."""

    @property
    def mail_servers(self) -> Sequence[Network]: ...

    @property
    def max_connections(self) -> int: ...


class Guest(Shape):
    """A connection, for its door. It asks `admit` when it is made, and tells `left` when it is over."""

    def drain(self) -> None:
        """End soon, without cutting what a mail server waits for."""

    def cut(self) -> None:
        """End now."""


class Door(ServerFactory):
    """The factory of one section's connections.

    `serve` comes before the first of them, and again at a reload. The limit is that of all workers, who share the
    `tally`.
    """

    noisy = False

    def __init__(self, name: str, tally: ITally) -> None:
        self.name = name
        self._tally = tally
        self._key = f"connections {name}"
        self._guests: set[Guest] = set()
        self._is_draining = False
        self._drained: Deferred[None] | None = None
        self._settings: Settings
        self._make: Callable[[Door], Protocol]

    def serve(self, settings: Settings, make: Callable[[Door], Protocol]) -> None:
        """From now on, new connections go by these; `make` gives the protocol of one."""
        self._settings = settings
        self._make = make

    def buildProtocol(self, _address: IAddress | None) -> Protocol:
        """The protocol of a new connection."""
        return self._make(self)

    def admit(self, guest: Guest, peer: IAddress) -> bool:
        """Count a connection; False where it may not be: it is to be cut, and `left` is not told then."""
        client = client_of(peer)
        # A unix socket's permissions have said who may come.
        if client.address is not None and not is_in(client, self._settings.mail_servers):
            _log.warn("{name}: {client} is none of mail_servers, and was cut", name=self.name, client=str(client))
            return False
        if self._is_draining:
            return False
        if self._tally.total(self._key) >= self._settings.max_connections:
            limit = self._settings.max_connections
            _log.warn("{name}: a connection more than max_connections, {limit}, was cut", name=self.name, limit=limit)
            return False
        self._tally.add(self._key, 1)
        self._guests.add(guest)
        return True

    def left(self, guest: Guest) -> None:
        """A connection that was admitted is over."""
        if guest not in self._guests:
            return
        self._guests.remove(guest)
        self._tally.add(self._key, -1)
        if self._drained is not None and not self._guests:
            drained, self._drained = self._drained, None
            drained.callback(None)

    @property
    def count(self) -> int:
        """Connections at this moment."""
        return len(self._guests)

    def drain(self) -> Deferred[None]:
        """Let all end soon; fires when they have."""
        self._is_draining = True
        if not self._guests:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drained = drained
        for guest in list(self._guests):
            guest.drain()
        return drained

    def cut(self) -> None:
        """End what is left."""
        for guest in list(self._guests):
            guest.cut()
