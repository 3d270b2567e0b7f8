"""The listener's side of all its sessions: limits, and the end."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.mail.smtp import SMTPFactory

from mailgate.config.schema import ListenerSection
from mailgate.envelope import Client, Session
from mailgate.events import SessionClosed
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.smtp.conversation import SessionServices
from mailgate.smtp.protocol import ServerProtocol

__all__ = ["Listener"]

_log = Logger()


class Listener(SMTPFactory):
    """Twisted's factory of the sessions of one `[[listeners]]` section.

    `settings` and `services` are those of new sessions; a reload replaces them and leaves running sessions alone.
    `serve` comes before the first connection.
    """

    noisy = False
    protocol = ServerProtocol  # type: ignore[assignment]  # made by buildProtocol, which knows its arguments

    services: SessionServices

    def __init__(self, settings: ListenerSection) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.settings = settings
        self._sessions: dict[ServerProtocol, int] = {}  # with whom the limit per client counts for it
        self.is_stressed = False
        self._per_client: Counter[int] = Counter()
        self._is_draining = False
        self._drained: Deferred[None] | None = None

    def serve(self, settings: ListenerSection, services: SessionServices) -> None:
        """From now on, new sessions go by these."""
        self.settings = settings
        self.services = services

    def buildProtocol(self, _address: IAddress | None) -> ServerProtocol:
        """A session for a new connection."""
        protocol = ServerProtocol(self, self.settings, self.services)
        protocol.factory = self
        return protocol

    # -- what sessions ask and tell

    def admit(self, protocol: ServerProtocol, client: Client) -> tuple[Reply, str] | None:
        """As in Host."""
        self._forget(protocol)
        key = _key(client)
        self._sessions[protocol] = key
        self._per_client[key] += 1
        if self._is_draining:
            return replies.CLOSING, "the gateway is closing down"
        count, most = len(self._sessions), self.settings.max_connections
        if not self.is_stressed and count * 10 >= most * 9:
            self._stress()
        if count > most:
            return replies.TOO_MANY_CONNECTIONS, f"max_connections of the listener is {most}"
        limit = self.settings.max_connections_per_client
        if key and self._per_client[key] > limit:
            return replies.TOO_MANY_FROM_CLIENT, f"max_connections_per_client of the listener is {limit}"
        return None

    def _stress(self) -> None:
        """Nearly all connections are taken: who is silent makes room sooner."""
        self.is_stressed = True
        _log.warn(
            "listener {name} is under stress: {count} connections", name=self.settings.name, count=len(self._sessions)
        )
        for protocol in self._sessions:
            protocol.hurry()

    def _forget(self, protocol: ServerProtocol) -> None:
        key = self._sessions.pop(protocol, None)
        if key is not None:
            self._per_client[key] -= 1
            if not self._per_client[key]:
                del self._per_client[key]

    def left(self, protocol: ServerProtocol, session: Session | None, cause: str, started: float) -> None:
        """As in Host."""
        self._forget(protocol)
        if self.is_stressed and len(self._sessions) * 10 < self.settings.max_connections * 8:
            self.is_stressed = False
        if session is not None:
            self._tell_end(session, cause, started)
        if self._drained is not None and not self._sessions:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def _tell_end(self, session: Session, cause: str, started: float) -> None:
        now = self.services.clock.seconds()
        self.services.events.publish(
            SessionClosed(
                at=now,
                session=session.id,
                client=str(session.client),
                listener=session.listener,
                helo=session.helo,
                messages=session.messages,
                seconds=now - started,
                cause=cause,
            )
        )

    # -- the end

    @property
    def session_count(self) -> int:
        """Connections at this moment."""
        return len(self._sessions)

    def drain(self) -> Deferred[None]:
        """Let idle sessions go at once and the others after their transaction; fires when all have gone."""
        self._is_draining = True
        if not self._sessions:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drained = drained
        for protocol in list(self._sessions):
            protocol.drain()
        return drained

    def cut(self) -> None:
        """End what is left, in the middle of its transaction: the peer is told 421."""
        for protocol in list(self._sessions):
            protocol.cut()


def _key(client: Client) -> int:
    """Whom the limit per client counts: an IPv4 address or an IPv6 /64; 0 for unix sockets, which it leaves alone."""
    match client.address:
        case IPv4Address() as address:
            return int(address) or 1
        case IPv6Address() as address:
            return (int(address) >> 64) + (1 << 64)
    return 0
