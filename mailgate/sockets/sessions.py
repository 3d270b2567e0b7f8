"""Sockets of sessions: accepted, served and closed with as few calls as they need."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv6Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IListeningPort
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Port, Server
from twisted.logger import Logger

__all__ = ["SessionTransport", "open_wide"]

_log = Logger()


class SessionTransport(Server):
    """A connection that a client has made.

    Other than its base it needs no line of a log for its name, and it is closed at once where nothing waits to be
    sent, instead of when the reactor has found out that the socket can be written.
    """

    repstr = "<a session's connection>"
    logstr = "session"

    def __init__(self, wire: socket.socket, protocol: Any, client: tuple[Any, ...], port: Port) -> None:
        FileDescriptor.__init__(self, port.reactor)
        wire.setblocking(False)
        self.socket = wire
        self.fileno = wire.fileno
        self.protocol = protocol
        self.client = client
        if len(client) != 2:
            self._addressType = IPv6Address
        self._is_served = False  # the protocol has what was read
        self._ends = False  # when it has been served
        self.connected = 1
        self.reactor.addReader(self)

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802  Twisted's name
        """The socket has it from its port: nothing is to be done, unless it is to be without."""
        if not enabled:
            super().setTcpNoDelay(enabled)

    def doRead(self) -> ConnectionLost | ConnectionDone | None:  # type: ignore[override]  # noqa: N802  as in the base
        """Read, and give to the protocol."""
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self._is_served = True
        try:
            self.protocol.dataReceived(data)
        finally:
            self._is_served = False
        if self._ends:
            self._end()
        return None

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        """Close when everything has been sent: right behind this read, where that is so."""
        if self._is_served and not self.TLS:
            self._ends = self.disconnecting = True
        else:
            super().loseConnection()  # type: ignore[no-untyped-call]  # Twisted's

    def _end(self) -> None:
        if self.dataBuffer or self._tempDataBuffer:
            self.disconnecting = False
            super().loseConnection()  # type: ignore[no-untyped-call]  # Twisted's
            return
        self.reactor.removeReader(self)
        self.disconnected, self.connected = 1, 0
        if self.producer is not None:
            self.producer.stopProducing()
            self.producer = None
        protocol, wire = self.protocol, self.socket
        del self.protocol, self.socket, self.fileno
        wire.close()
        protocol.connectionLost(connectionDone)


def open_wide(port: IListeningPort) -> None:
    """Let a port of TCP that listens make a SessionTransport of each connection; other ports stay as they are."""
    if isinstance(port, Port) and port.addressFamily in (socket.AF_INET, socket.AF_INET6):
        # Connections inherit it: each is spared the call.
        port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        port.doRead = partial(_take_in, port)  # type: ignore[method-assign]  # as Twisted does where it aborts


def _take_in(port: Port) -> None:
    """As Port.doRead, without what only its log needs."""
    listening, factory = port.socket, port.factory
    if factory is None:
        raise AssertionError("the port has none")
    for _ in range(port.numberAccepts):
        try:
            wire, client = listening.accept()
        except BlockingIOError:
            return
        except OSError:
            type(port).doRead(port)  # it knows what to do where there are no descriptors left, and tells of it
            return
        try:
            if len(client) == 4:  # its scope is part of an address in IPv6
                host, _ = socket.getnameinfo(client, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
                client = (host, *client[1:])
            protocol: Any = factory.buildProtocol(None)  # a session: its listener does not ask for the address
            protocol.makeConnection(SessionTransport(wire, protocol, client, port))
        except Exception:
            _log.failure("a connection could not be served")
