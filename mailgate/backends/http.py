"""Requests of HTTP to a service that is asked: verified TLS, no redirects, answers of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionClosed
from twisted.internet.interfaces import IConsumer, IOpenSSLClientConnectionCreator, IReactorTime, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from mailgate.backends.questions import BackendError, Creators, IBackendReactor, verifying

__all__ = ["MAX_BODY", "Fetched", "Fetcher", "NoTlsError", "TooLargeError"]

#: The largest answer that is read, in octets.
MAX_BODY = 64 * 1024
#: Connections that are kept open, and for how long (seconds).
_KEPT, _KEPT_FOR = 4, 60
#: Seconds in which a body that nobody reads must be over, so that its connection may be kept.
_OVER_WITHIN = 5.0

_LOST = (RequestTransmissionFailed, ResponseNeverReceived)


class NoTlsError(BackendError):
    """The handshake of TLS failed, or the peer has not proved its name."""


class TooLargeError(BackendError):
    """The answer has this status, and a body that nobody reads to its end."""

    def __init__(self, status: int) -> None:
        super().__init__("the answer over HTTP is too large")
        self.status = status


@dataclass(frozen=True, slots=True)
class Fetched:
    """A response: its status, all of its body, and the Content-Type as it came ("" where there is none)."""

    status: int
    body: bytes = field(repr=False)
    content_type: str = ""


class Fetcher:
    """An HTTP client with kept connections. Time-outs are its callers', who cancel."""

    def __init__(
        self,
        reactor: IBackendReactor,
        *,
        connect_timeout: float,
        ca: Path | None = None,
        endpoints: Callable[[Creators], IAgentEndpointFactory] | None = None,
    ) -> None:
        """`ca` is a file of authorities in PEM, in the place of the system's; ValueError where it has none. `endpoints`
        makes what finds hosts and connects to them, instead of the reactor."""
        self._clock: IReactorTime = reactor
        self._ignored: dict[_Ignored, None] = {}
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = _KEPT
        self._pool.cachedConnectionTimeout = _KEPT_FOR
        # what is sent twice is decided below, for POST too
        self._pool.retryAutomatically = False
        creators = verifying(reactor, ca)
        self._agent: IAgent
        if endpoints is None:
            self._agent = Agent(reactor, _Verified(creators), connectTimeout=connect_timeout, pool=self._pool)
        else:
            self._agent = Agent.usingEndpointFactory(reactor, endpoints(creators), pool=self._pool)

    async def fetch(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Fetched:
        """The response, whatever its status; BackendError where none came, TooLargeError where it is.

        A request may be sent twice: a kept connection may have been closed at the other end meanwhile.
        """
        response = await self._asked(method, url, headers, body)
        (content_type, *_) = response.headers.getRawHeaders("content-type", [""])
        return Fetched(response.code, await _body(response), content_type)

    async def status(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> int:
        """The status of the response, as soon as it is there; BackendError where none came. Whatever its body is or
        becomes, nobody reads it: where it is short its connection is kept, and closed otherwise. Of those that are not
        over, no more are open than are kept."""
        response = await self._asked(method, url, headers, body)
        while len(self._ignored) >= _KEPT:
            next(iter(self._ignored)).end()
        ignored = _Ignored(self._clock, self._ignored)
        response.deliverBody(ignored)
        code: int = response.code  # Twisted is typed in part
        return code

    async def _asked(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> IResponse:
        try:
            try:
                return await self._ask(method, url, headers, body)
            except _LOST as error:
                if not _is_lost(error):
                    raise
            return await self._ask(method, url, headers, body)
        except (ResponseFailed, RequestTransmissionFailed, ConnectError, ConnectionClosed, OSError) as error:
            is_tls = any(reason.check(SSL.Error) for reason in _reasons(error))
            raise (NoTlsError if is_tls else BackendError)(f"no answer over HTTP: {_cause(error)}") from None

    def close(self) -> Deferred[None]:
        """Close the kept connections."""
        for one in list(self._ignored):
            one.end()
        return self._pool.closeCachedConnections()  # type: ignore[no-any-return]  # Twisted is typed in part

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> IResponse:
        producer = None if body is None else _Body(body)
        fields = Headers({name: [value] for name, value in headers.items()})
        return await self._agent.request(method.encode(), url.encode(), fields, producer)


def _body(response: IResponse) -> Deferred[bytes]:
    collector = _Collector(response.code)
    response.deliverBody(collector)
    return collector.whole


@implementer(IPolicyForHTTPS)
class _Verified:
    """The service is the one that the URL names."""

    def __init__(self, creators: Creators) -> None:
        self._creators = creators

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:  # noqa: N802 (Twisted's)
        return self._creators(hostname.decode("ascii"))


@implementer(IBodyProducer)
class _Body:
    """Octets that are written at once."""

    def __init__(self, octets: bytes) -> None:
        self.length = len(octets)
        self._octets = octets

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:  # noqa: N802 (Twisted's)
        consumer.write(self._octets)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Everything has been written."""

    def resumeProducing(self) -> None:
        """Everything has been written."""

    def stopProducing(self) -> None:
        """Everything has been written."""


class _Collector(Protocol):
    """Takes a body up to its bound."""

    def __init__(self, status: int) -> None:
        self._status = status
        self.whole: Deferred[bytes] = Deferred(lambda _: self._abort())
        self._octets = bytearray()

    def dataReceived(self, data: bytes) -> None:
        if self.whole.called:
            return
        self._octets += data
        if len(self._octets) > MAX_BODY:
            self.whole.errback(TooLargeError(self._status))
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        # without a length, the end of the connection is the end of the body
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(bytes(self._octets))
        else:
            self.whole.errback(BackendError(f"half an answer over HTTP: {reason.getErrorMessage()}"))

    def _abort(self) -> None:
        _abort(self.transport)


class _Ignored(Protocol):
    """A body that nobody reads, until it is over or too much; those that are not over are in `others`."""

    def __init__(self, clock: IReactorTime, others: dict[_Ignored, None]) -> None:
        self._others = others
        self._left = MAX_BODY
        self._timer = clock.callLater(_OVER_WITHIN, self.end)
        others[self] = None

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._forget()

    def end(self) -> None:
        """Close the connection."""
        self._forget()
        _abort(self.transport)

    def _forget(self) -> None:
        self._others.pop(self, None)
        if self._timer.active():
            self._timer.cancel()


def _abort(transport: ITransport | None) -> None:
    """Over TLS, loseConnection waits until the other end agrees. Twisted's proxy for responses has nothing else."""
    connection = getattr(transport, "_producer", None)
    if connection is not None:
        connection.abortConnection()


def _reasons(error: BaseException) -> list[Failure]:
    return list(getattr(error, "reasons", ()))


def _is_lost(error: BaseException) -> bool:
    """Whether the other end has closed; what was cancelled is aborted."""
    return any(reason.check(ConnectionClosed) and not reason.check(ConnectionAborted) for reason in _reasons(error))


def _cause(error: BaseException) -> str:
    told = [f"{reason.type.__name__}: {reason.getErrorMessage()}" for reason in _reasons(error) if reason.type]
    return "; ".join(told) or f"{type(error).__name__}: {error}"
