"""Questions to one server and back: UDP from pooled sockets, TCP for what does not fit (RFC 1035, 6891, 7766).

An answer counts only if it comes from the address that was asked, to the port that asked, with the id and the
question that were sent (RFC 5452). Whatever else arrives is ignored.
"""

from __future__ import annotations

from ipaddress import ip_address
from random import Random
from typing import NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, connectProtocol
from twisted.internet.error import CannotListenError, ConnectError, MessageLengthError
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorTCP,
    IReactorTime,
    IReactorUDP,
    ITCPTransport,
    IUDPTransport,
)
from twisted.internet.protocol import DatagramProtocol, connectionDone
from twisted.protocols.basic import Int16StringReceiver
from twisted.python.failure import Failure

from mailgate.dns.messages import Query, Response

__all__ = ["NoAnswerError", "Server", "Transport"]

Server = tuple[str, int]

#: Sockets to one server; each is replaced after so many questions or seconds, so that its port is not worth guessing.
_SOCKETS, _USES, _AGE = 4, 1000, 120.0
#: Room for servers that send more than they were asked to.
_MAX_PACKET = 4096
#: Messages on one connection that are no answer to what was asked, after which it is closed.
_MOST_STRAYS = 5


class NoAnswerError(Exception):
    """The server cannot be reached: nobody listens there, or the network says no."""


class Transport:
    """Puts questions to servers. `random` chooses ids and sockets: outside of tests it is a SystemRandom."""

    def __init__(self, reactor: IReactorUDP, random: Random) -> None:
        self._reactor = reactor
        self._tcp_reactor = IReactorTCP(reactor)
        self._clock = IReactorTime(reactor)
        self._random = random
        self._pools: dict[Server, list[_Channel]] = {}

    def exchange(self, server: Server, query: Query) -> Deferred[Response]:
        """The server's response; fails with NoAnswerError, or waits until it is cancelled."""
        try:
            channel = self._channel(server)
        except (OSError, CannotListenError) as error:
            failed: Deferred[Response] = Deferred()
            failed.errback(NoAnswerError(str(error)))
            return failed
        return channel.ask(query).addCallback(self._complete, server, query)

    def close(self) -> None:
        """Close every socket; what is being waited for never comes."""
        for pool in self._pools.values():
            for channel in pool:
                channel.close()
        self._pools.clear()

    def _channel(self, server: Server) -> _Channel:
        """One of the sockets to this server, by chance; a new one while there are few, or in place of an old one."""
        pool = self._pools[server] = [channel for channel in self._pools.get(server, ()) if channel.is_open]
        if len(pool) < _SOCKETS:
            pool.append(self._open(server))
            return pool[-1]
        place = self._random.randrange(_SOCKETS)
        channel = pool[place]
        if channel.uses >= _USES or self._clock.seconds() >= channel.opened + _AGE:
            pool[place] = self._open(server)
            channel.retire()
        return pool[place]

    def _open(self, server: Server) -> _Channel:
        channel = _Channel(server, self._random, self._clock.seconds())
        any_address = "::" if ip_address(server[0]).version == 6 else ""
        channel.listen(self._reactor.listenUDP(0, channel, any_address, _MAX_PACKET))
        return channel

    def _complete(self, response: Response, server: Server, query: Query) -> Response | Deferred[Response]:
        if not response.is_truncated:
            return response
        kind = TCP6ClientEndpoint if ip_address(server[0]).version == 6 else TCP4ClientEndpoint
        stream = _Stream(query, self._random.getrandbits(16))
        endpoint = kind(self._tcp_reactor, *server)
        connecting: Deferred[_Stream] = connectProtocol(endpoint, stream)
        return connecting.addCallbacks(lambda _: stream.response, _unreachable)


class _Channel(DatagramProtocol):
    """One UDP socket, connected to one server, with the questions that wait on it by their ids."""

    noisy = False
    transport: IUDPTransport

    def __init__(self, server: Server, random: Random, opened: float) -> None:
        self.uses = 0
        self.opened = opened
        self._server = server
        self._random = random
        self._port: IListeningPort | None = None
        self._retired = False
        self._waiting: dict[int, tuple[Query, Deferred[Response]]] = {}

    @property
    def is_open(self) -> bool:
        """Whether questions may be asked on it."""
        return self._port is not None

    def listen(self, port: IListeningPort) -> None:
        """Take the opened port, and connect it: the system then drops what comes from elsewhere."""
        self._port = port
        try:
            self.transport.connect(*self._server)
        except OSError:
            self.close()
            raise

    def ask(self, query: Query) -> Deferred[Response]:
        """Send the question under a new id."""
        number = self._random.getrandbits(16)
        while number in self._waiting:
            number = self._random.getrandbits(16)
        answer: Deferred[Response] = Deferred(lambda _: self._forget(number))
        self._waiting[number] = query, answer
        self.uses += 1
        try:
            self.transport.write(query.wire(number), None)
        except (OSError, MessageLengthError) as error:
            self._forget(number)
            answer.errback(NoAnswerError(str(error)))
        return answer

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:  # noqa: N802 (Twisted's)
        if addr != self._server:
            return
        number = int.from_bytes(datagram[:2], "big")
        query, answer = self._waiting.get(number, (None, None))
        if query is None or answer is None:
            return
        response = query.read(datagram)
        if response is not None:
            self._forget(number)
            answer.callback(response)

    def connectionRefused(self) -> None:  # noqa: N802 (Twisted's)
        self._fail("nobody listens there")

    def stopProtocol(self) -> None:  # noqa: N802 (Twisted's)
        # By us; or by a reactor that takes an error on the socket, as when nobody listens there, for its end.
        self._port = None
        self._fail("the socket was closed")

    def retire(self) -> None:
        """Close once nobody waits any more."""
        self._retired = True
        self._close_if_done()

    def close(self) -> None:
        """Close now."""
        port, self._port = self._port, None
        if port is not None:
            port.stopListening()

    def _forget(self, number: int) -> None:
        self._waiting.pop(number, None)
        self._close_if_done()

    def _fail(self, why: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for _, answer in waiting.values():
            answer.errback(NoAnswerError(why))
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._retired and not self._waiting:
            self.close()


class _Stream(Int16StringReceiver):
    """One TCP connection for one question (RFC 1035 section 4.2.2)."""

    transport: ITCPTransport

    def __init__(self, query: Query, number: int) -> None:
        self.response: Deferred[Response] = Deferred(lambda _: self._abort())
        self._query = query
        self._number = number
        self._strays = 0

    def connectionMade(self) -> None:
        self.sendString(self._query.wire(self._number))  # type: ignore[no-untyped-call]  # Twisted's

    def stringReceived(self, string: bytes) -> None:  # noqa: N802 (Twisted's)
        response = self._query.read(string) if string[:2] == self._number.to_bytes(2, "big") else None
        if self.response.called:
            return
        if response is None:
            self._strays += 1
            if self._strays > _MOST_STRAYS:
                self._abort()
            return
        # A stream has room for everything: one that is truncated all the same holds no answer.
        if response.is_truncated:
            self.response.errback(NoAnswerError("truncated over TCP"))
        else:
            self.response.callback(response)
        self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.response.called:
            self.response.errback(NoAnswerError(reason.getErrorMessage()))

    def _abort(self) -> None:
        self.transport.abortConnection()


def _unreachable(failure: Failure) -> NoReturn:
    failure.trap(ConnectError)
    raise NoAnswerError(failure.getErrorMessage())
