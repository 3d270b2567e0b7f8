"""The client of SMTP and LMTP: opens sessions with next hops."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTCP, IReactorTime, IReactorUNIX
from twisted.internet.interfaces import IConnector as ITwistedConnector
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.relay.attempt import IConnection, IConnector, Target
from mailgate.relay.connection import SmtpConnection, Timeouts
from mailgate.reply import Reply

__all__ = ["IClientReactor", "SmtpConnector"]

_NO_ANSWER = Reply.of(451, "4.4.1", "The recipient's mail server cannot be reached")


class IClientReactor(IReactorTime, IReactorTCP, IReactorUNIX):
    """What a connector needs of the reactor."""


class _Factory(ClientFactory):
    """Makes the one connection that it is for."""

    noisy = False

    def __init__(self, connection: SmtpConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> SmtpConnection:
        return self._connection

    def clientConnectionFailed(self, connector: ITwistedConnector, reason: Failure) -> None:  # noqa: N802  Twisted's name
        self._connection.connect_failed("connect", _NO_ANSWER, f"cannot connect: {reason.getErrorMessage()}")


@implementer(IConnector)
class SmtpConnector:
    """Connects by TCP to an IPv4 or IPv6 address, or to a unix socket; by SMTP, or LMTP where the target says so."""

    def __init__(
        self,
        reactor: IClientReactor,
        hostname: str,
        connect_timeout: float = 30.0,
        command_timeout: float = 300.0,
        data_timeout: float = 600.0,
    ) -> None:
        """`hostname` is what EHLO says; times in seconds, see Timeouts."""
        self._reactor = reactor
        self._hostname = hostname
        self._timeouts = Timeouts(connect_timeout, command_timeout, data_timeout)

    def connect(self, target: Target) -> Deferred[IConnection]:
        """As in IConnector. Cancelling gives the connection up."""

        def cancelled(_ready: Deferred[IConnection]) -> None:
            connection.forget()
            connecting.disconnect()

        ready: Deferred[IConnection] = Deferred(cancelled)
        connection = SmtpConnection(target, self._hostname, self._timeouts, self._reactor, ready)
        factory = _Factory(connection)
        timeout = self._timeouts.connect
        if target.port:
            connecting = self._reactor.connectTCP(target.address, target.port, factory, timeout=timeout)
        else:
            connecting = self._reactor.connectUNIX(target.address, factory, timeout=timeout)
        return ready
