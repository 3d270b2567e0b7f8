"""From a route's section to what delivers by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.python.threadpool import ThreadPool

from mailgate.config.schema import DiscardRoute, LmtpRoute, MaildirRoute, SmtpRoute
from mailgate.relay.attempt import IConnector, ITransport
from mailgate.relay.client import IClientReactor, SmtpConnector
from mailgate.relay.discard import DiscardTransport
from mailgate.relay.maildir import IMaildirReactor, MaildirTransport

__all__ = ["ITransportReactor", "RouteTransports", "Transports"]


class ITransportReactor(IClientReactor, IMaildirReactor):
    """What delivering needs of the reactor."""


class Transports(Protocol):
    """Makes what delivers by a route."""

    def connector(self, route: SmtpRoute | LmtpRoute) -> IConnector:
        """Opens connections, with this route's time-outs."""

    def local(self, route: MaildirRoute | DiscardRoute) -> ITransport:
        """Delivers without connections."""


class RouteTransports:
    """Transports over the network and into folders.

    `make_pool` gives each Maildir path threads of its own, started: a disk that hangs holds up nobody else.
    """

    def __init__(self, reactor: ITransportReactor, make_pool: Callable[[], ThreadPool], hostname: str) -> None:
        self._reactor = reactor
        self._make_pool = make_pool
        self._hostname = hostname
        self._maildirs: dict[str, MaildirTransport] = {}

    def connector(self, route: SmtpRoute | LmtpRoute) -> IConnector:
        """As in Transports."""
        return SmtpConnector(
            self._reactor, self._hostname, route.connect_timeout, route.command_timeout, route.data_timeout
        )

    def local(self, route: MaildirRoute | DiscardRoute) -> ITransport:
        """As in Transports."""
        if isinstance(route, DiscardRoute):
            return DiscardTransport(route.reason)
        # One for each path, whatever queues come and go: it counts its files, and no two may have one name.
        if route.path not in self._maildirs:
            self._maildirs[route.path] = MaildirTransport(
                route.path, hostname=self._hostname, reactor=self._reactor, pool=self._make_pool()
            )
        return self._maildirs[route.path]
