"""The client of SMTP and LMTP: opens sessions with next hops."""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping

from twisted.internet.defer import Deferred, execute, fail
from twisted.internet.error import ConnectBindError
from twisted.internet.interfaces import IAddress, IReactorTCP, IReactorTime, IReactorUNIX
from twisted.internet.interfaces import IConnector as ITwistedConnector
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.envelope import Origin
from mailgate.relay.attempt import ConnectFailedError, IConnection, IConnector, Target
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.client.opening import Opening
from mailgate.relay.client.seams import Timeouts, Work
from mailgate.relay.client.terms import PLAIN, Terms
from mailgate.relay.security.demand import Demand
from mailgate.relay.sources import SYSTEM, Source
from mailgate.reply import Reply

__all__ = ["IClientReactor", "OneConnection", "SmtpConnector", "WithoutTls", "bind_address"]

_NO_ANSWER = Reply.of(451, "4.4.1", "The recipient's mail server cannot be reached")
_NO_ADDRESS = Reply.of(451, "4.3.5", "Our own address cannot be used now")

#: Hosts, by address and port, with which TLS has failed where it may do so; why. Entries go by themselves, in time.
WithoutTls = MutableMapping[tuple[str, int], str]


class IClientReactor(IReactorTime, IReactorTCP, IReactorUNIX):
    """What a connector needs of the reactor."""


class OneConnection(ClientFactory):
    """Makes the one connection that it is for; `failed` is told where there will be none."""

    noisy = False

    def __init__(self, connection: Protocol, target: Target, failed: Callable[[ConnectFailedError], None]) -> None:
        self._connection = connection
        self._target = target
        self._failed = failed

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self._connection

    def clientConnectionFailed(self, connector: ITwistedConnector, reason: Failure) -> None:  # noqa: N802  Twisted's name
        why = f"cannot connect: {reason.getErrorMessage()}"
        reply = _NO_ADDRESS if reason.check(ConnectBindError) else _NO_ANSWER
        self._failed(ConnectFailedError(self._target, reply, why, stage="connect"))


@implementer(IConnector)
class SmtpConnector:
    """Connects by TCP to an IPv4 or IPv6 address, or to a unix socket; by SMTP, or LMTP where the target says so.

    Where TLS fails that is welcome but not asked for, the host is asked again in clear text, on a new connection: what
    was said on the first counts for nothing. `without_tls` remembers such hosts, so that not every session begins with
    a handshake that fails; connectors may share it. `try_tls` that succeeds ends that.
    """

    def __init__(
        self,
        reactor: IClientReactor,
        hostname: str,
        connect_timeout: float = 30.0,
        command_timeout: float = 300.0,
        data_timeout: float = 600.0,
        *,
        opening_timeout: float = math.inf,
        terms: Terms = PLAIN,
        without_tls: WithoutTls | None = None,
        work: Work = execute,
    ) -> None:
        """`hostname` is what EHLO says, where the source has no name of its own; times in seconds, see Timeouts; `work`
        as for SmtpConnection."""
        self._reactor = reactor
        self._hostname = hostname
        self._timeouts = Timeouts(connect_timeout, command_timeout, data_timeout, opening_timeout)
        self._terms = terms
        self._without_tls: WithoutTls = {} if without_tls is None else without_tls
        self._work = work

    def connect(
        self, target: Target, origin: Origin | None = None, *, try_tls: bool = False, source: Source = SYSTEM
    ) -> Deferred[IConnection]:
        """As in IConnector. Cancelling gives the connection up."""
        terms, demand = self._terms, target.demand
        if demand is not None:
            if demand.level == "refused":
                return fail(_refused(target, demand))
            terms = terms.under(demand)
        if terms.tls != "opportunistic":
            return self._connect(target, origin, source, terms)
        if not try_tls and (target.address, target.port) in self._without_tls:
            return self._connect(target, origin, source, terms, is_fallback=True)
        opened = self._connect(target, origin, source, terms)
        if try_tls:
            opened.addCallback(self._opened)
        return opened.addErrback(self._in_clear, target, origin, source)

    def _opened(self, connection: IConnection) -> IConnection:
        if connection.tls is not None:
            self._without_tls.pop((connection.target.address, connection.target.port), None)
        return connection

    def _in_clear(
        self, failure: Failure, target: Target, origin: Origin | None, source: Source
    ) -> Deferred[IConnection]:
        error = failure.value
        if not isinstance(error, ConnectFailedError) or not error.in_clear:
            failure.raiseException()
        # Trying again, for mail that wants TLS, makes the time no longer for which other mail goes without.
        self._without_tls.setdefault((target.address, target.port), error.reason)
        return self._connect(target, origin, source, self._terms, is_fallback=True)

    def _connect(
        self, target: Target, origin: Origin | None, source: Source, terms: Terms, *, is_fallback: bool = False
    ) -> Deferred[IConnection]:
        def cancelled(_ready: Deferred[IConnection]) -> None:
            connection.forget()
            connecting.disconnect()

        ours: tuple[str, int] | None = None
        if source is not SYSTEM and target.port:
            try:
                ours = bind_address(source, target)
            except ConnectFailedError as error:
                return fail(error)
        ready: Deferred[IConnection] = Deferred(cancelled)
        connection = SmtpConnection(
            target,
            Opening(target, source.hostname or self._hostname, terms, origin, clear=is_fallback),
            self._timeouts,
            self._reactor,
            ready,
            creator=terms.creator,
            work=self._work,
            chunking=terms.chunking,
            xforward=terms.xforward,
            is_fallback=is_fallback,
        )
        factory = OneConnection(connection, target, connection.connect_failed)
        timeout = self._timeouts.connect
        if target.port:
            connecting = self._reactor.connectTCP(target.address, target.port, factory, timeout, ours)
        else:
            connecting = self._reactor.connectUNIX(target.address, factory, timeout=timeout)
        return ready


def _refused(target: Target, demand: Demand) -> ConnectFailedError:
    """No session with a host that its destination, or we, have not named."""
    reason = f"no mail for {target}: {demand.reason}"
    reply = Reply.of(451, "4.7.5", reason[:400])
    return ConnectFailedError(target, reply, reason, stage="tls", is_ours=True, tls_failure=demand.failure)


def bind_address(source: Source, target: Target) -> tuple[str, int] | None:
    """Where a connection to this target goes out from; None where the system chooses."""
    if source.address is None and source.address6 is None:
        return None
    family, address = ("IPv6", source.address6) if ":" in target.address else ("IPv4", source.address)
    if address is None:
        why = f"source {source.name} has no {family} address"
        raise ConnectFailedError(target, _NO_ANSWER, why, stage="connect")
    return str(address), 0
