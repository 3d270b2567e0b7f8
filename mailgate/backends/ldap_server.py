"""The servers of a directory: where they are, connections to them that are kept, and which rests after a failure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import cast
from urllib.parse import urlsplit

from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory

from mailgate.backends.ldap_connection import DirectoryConnection, DirectoryError
from mailgate.backends.questions import Creators, IBackendReactor, is_this_machine

__all__ = ["DirectoryServer"]

_PORTS = {"ldap": 389, "ldaps": 636}
#: Seconds for which a connection is kept; servers and firewalls close those that say nothing.
_KEPT_FOR = 60.0
#: Seconds for which a server that has failed is the last to be asked.
_REST = 30.0


class _Connections(Factory):
    noisy = False
    protocol = DirectoryConnection


class DirectoryServer:
    """One of `urls`. `name` is its URL, for the log."""

    def __init__(self, url: str, *, starttls: bool, creators: Creators, reactor: IBackendReactor) -> None:
        """ValueError, for an administrator, where the URL cannot be used, or passwords would be readable on their way.

        `creators` makes the client's side of TLS with the URL's host.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in _PORTS or not host or parts.username or parts.path not in ("", "/") or parts.query:
            raise ValueError('urls: the server of a directory is written "ldap://host:389" or "ldaps://host:636"')
        self._is_tls, self._starts_tls = parts.scheme == "ldaps", parts.scheme == "ldap" and starttls
        if not (self._is_tls or self._starts_tls or is_this_machine(host)):
            raise ValueError(f"urls: passwords would go to {host} in clear text: use ldaps:// or starttls = true")
        self.name = f"{parts.scheme}://{parts.netloc}"
        self._reactor = reactor
        self._host, self._port = host, port or _PORTS[parts.scheme]
        self._creator: IOpenSSLClientConnectionCreator | None = None
        if self._is_tls or self._starts_tls:
            self._creator = creators(host)
        self._kept: deque[tuple[DirectoryConnection, float]] = deque()
        self._rests_until = 0.0

    @property
    def is_resting(self) -> bool:
        """Whether it has failed lately."""
        return self._reactor.seconds() < self._rests_until

    def rest(self) -> None:
        """It has failed: ask others first for a while."""
        self._rests_until = self._reactor.seconds() + _REST

    def take(self) -> DirectoryConnection | None:
        """A kept connection, with whatever it was bound as; None where there is none."""
        for connection, since in self._taken():
            if connection.is_open and self._reactor.seconds() - since < _KEPT_FOR:
                return connection
            connection.abort()
        return None

    def keep(self, connection: DirectoryConnection) -> None:
        """Keep a connection on which nothing is under way."""
        if connection.is_open:
            self._kept.append((connection, self._reactor.seconds()))
            # whatever has been kept for too long is closed, even where the newest always serves
            if self._reactor.seconds() - self._kept[0][1] >= _KEPT_FOR:
                self._kept.popleft()[0].abort()

    def close(self) -> None:
        """Close what is kept."""
        for connection, _ in self._taken():
            connection.abort()

    async def connect(self) -> DirectoryConnection:
        """A new connection, under TLS where that is asked for; DirectoryError where there is none."""
        endpoint = HostnameEndpoint(self._reactor, self._host, self._port)
        secure = wrapClientTLS(self._creator, endpoint) if self._is_tls and self._creator else endpoint
        try:
            connection = cast(DirectoryConnection, await secure.connect(_Connections()))
        except (ConnectError, ConnectionClosed, OSError) as error:
            raise DirectoryError(f"{type(error).__name__}: {error}") from None
        try:
            if self._is_tls:
                await connection.secured()
            elif self._creator is not None:
                await connection.start_tls(self._creator)
        except Exception:
            connection.abort()
            raise
        return connection

    def _taken(self) -> Iterator[tuple[DirectoryConnection, float]]:
        while self._kept:
            yield self._kept.pop()
