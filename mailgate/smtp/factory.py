"""The listener's side of all its sessions: limits, and the end."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.mail.smtp import SMTPFactory

from mailgate.config.schema import ListenerSection
from mailgate.envelope import Client, Session
from mailgate.interfaces import ITally
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.smtp.conversation import SessionServices
from mailgate.smtp.host import Guest, Refusal, session_closed
from mailgate.smtp.protocol import ServerProtocol

__all__ = ["Listener"]

_log = Logger()

#: Refused connections that may wait to take their 421, beside max_connections; further ones are cut without a word. As
#: they are told at once and go at once, this many at a time are far more than honest clients need.
_MAX_PARTING = 100


class Listener(SMTPFactory):
    """Twisted's factory of the sessions of one `[[listeners]]` section.

    `settings` and `services` are those of new sessions; a reload replaces them and leaves running sessions alone.
    `serve` comes before the first connection. The limits on connections are those of all that share the `tally`.
    """

    noisy = False
    protocol = ServerProtocol  # type: ignore[assignment]  # made by buildProtocol, which knows its arguments

    services: SessionServices

    def __init__(self, settings: ListenerSection, tally: ITally) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.settings = settings
        self._tally = tally
        self._all = f"connections {settings.name}"
        self._sessions: dict[Guest, str] = {}  # with the number to which each client's are added, "" for none
        self._refused: set[Guest] = set()  # and not gone yet: they take no place from anybody
        self.is_stressed = False
        self._is_draining = False
        self._drained: Deferred[None] | None = None
        tally.watch(self._all, self._look)

    def serve(self, settings: ListenerSection, services: SessionServices) -> None:
        """From now on, new sessions go by these."""
        self.settings = settings
        self.services = services
        self._look()

    def buildProtocol(self, _address: IAddress | None) -> ServerProtocol:
        """A session for a new connection."""
        protocol = ServerProtocol(self, self.settings, self.services)
        protocol.factory = self
        return protocol

    # -- what sessions ask and tell

    def admit(self, guest: Guest, client: Client) -> Refusal | None:
        """As in Host."""
        sessions, settings, tally = self._sessions, self.settings, self._tally
        if guest in sessions:
            self._forget(guest)
        number = _number(client)
        key = f"{self._all} {number:x}" if number else ""
        if self._is_draining:
            return self._turn_away(guest, replies.CLOSING, "the gateway is closing down")
        if tally.total(self._all) >= settings.max_connections:
            reason = f"max_connections of the listener is {settings.max_connections}"
            return self._turn_away(guest, replies.TOO_MANY_CONNECTIONS, reason)
        if key and tally.total(key) >= settings.max_connections_per_client:
            reason = f"max_connections_per_client of the listener is {settings.max_connections_per_client}"
            return self._turn_away(guest, replies.TOO_MANY_FROM_CLIENT, reason)
        tally.add(self._all, 1)
        sessions[guest] = key  # behind that: what it does about stress it does when it begins
        if key:
            tally.add(key, 1)
        return None

    def _turn_away(self, guest: Guest, reply: Reply, reason: str) -> Refusal:
        self._refused.add(guest)
        return (reply if len(self._refused) <= _MAX_PARTING else None), reason

    def _look(self) -> None:
        """Connections have come or gone, here or at another worker. Where nearly all are taken, who is silent makes
        room sooner."""
        count, most = self._tally.total(self._all), self.settings.max_connections
        if self.is_stressed:
            self.is_stressed = count * 10 >= most * 8
            return
        if count * 10 < most * 9:
            return
        self.is_stressed = True
        _log.warn("listener {name} is under stress: {count} connections", name=self.settings.name, count=count)
        for guest in list(self._sessions):
            guest.hurry()

    def _forget(self, guest: Guest) -> None:
        key = self._sessions.pop(guest, None)
        if key is not None:
            self._tally.add(self._all, -1)
            if key:
                self._tally.add(key, -1)

    def left(self, guest: Guest, session: Session | None, cause: str, started: float) -> None:
        """As in Host."""
        self._forget(guest)
        self._refused.discard(guest)
        if session is not None:
            self._tell_end(session, cause, started)
        if self._drained is not None and not self.session_count:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def _tell_end(self, session: Session, cause: str, started: float) -> None:
        now = self.services.clock.seconds()
        self.services.events.publish(session_closed(session, now=now, started=started, cause=cause))

    # -- the end

    @property
    def session_count(self) -> int:
        """Connections at this moment, refused ones that have not gone yet among them."""
        return len(self._sessions) + len(self._refused)

    def drain(self) -> Deferred[None]:
        """Let idle sessions go at once and the others after their transaction; fires when all have gone."""
        self._is_draining = True
        if not self.session_count:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drained = drained
        for guest in (*self._sessions, *self._refused):
            guest.drain()
        return drained

    def cut(self) -> None:
        """End what is left, in the middle of its transaction: the peer is told 421."""
        for guest in (*self._sessions, *self._refused):
            guest.cut()


def _number(client: Client) -> int:
    """Whom the limit per client counts: an IPv4 address or an IPv6 /64; 0 for unix sockets, which it leaves alone."""
    match client.address:
        case IPv4Address() as address:
            return int(address) or 1
        case IPv6Address() as address:
            return (int(address) >> 64) + (1 << 64)
    return 0
