"""A message that is asked about over HTTP: one request a connection, sent as fast as it is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from mailgate.scanners.pool import ScannerError
from mailgate.scanners.sending import Sending

__all__ = ["Posted", "post"]

#: The largest body of an answer, in octets, and what its header and its chunks may take beside it. It is understood in
#: the reactor's thread.
_LARGEST_ANSWER = 256 * 1024
_AROUND = 256 * 1024


@dataclass(frozen=True, slots=True)
class Posted:
    """A response: its status and all of its body."""

    status: int
    body: bytes = field(repr=False)


async def post(
    endpoint: IStreamClientEndpoint,
    url: str,
    fields: Sequence[tuple[str, str]],
    sending: Sending,
    clock: IReactorTime,
) -> Posted:
    """The response, whatever its status. ScannerError where none came, it is too large, or it came before everything
    was sent; OSError where what is sent cannot be read. Redirects are not followed. Cancelling closes the connection.
    """
    connection = _Connection(endpoint)
    agent = Agent.usingEndpointFactory(clock, connection)
    headers = Headers()
    for name, value in fields:
        headers.addRawHeader(name, value)
    try:
        response = await agent.request(b"POST", url.encode("ascii"), headers, sending)
        if not sending.is_over:
            raise ScannerError("answered before everything was sent")
        return Posted(response.code, await _body(response))
    except RequestGenerationFailed as error:
        raise _first(error) from None
    except (ResponseFailed, RequestTransmissionFailed, ConnectError, ConnectionClosed) as error:
        raise ScannerError(f"no answer over HTTP: {_cause(error)}") from None
    finally:
        sending.stopProducing()
        connection.abort()


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Connection:
    """The endpoint of one request, whichever its URL. The connection is ours to end, and ends where an answer is larger
    than any should be: Twisted takes as many header fields as come."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint
        self._protocol: IProtocol | None = None

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802 (Twisted's)
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803 (Twisted's)
        connecting: Deferred[IProtocol] = self._endpoint.connect(protocolFactory)
        return connecting.addCallbacks(self._connected, _unconnected)

    def abort(self) -> None:
        """Close at once, if it is open."""
        abort = getattr(getattr(self._protocol, "transport", None), "abortConnection", None)
        if abort is not None:
            abort()

    def _connected(self, protocol: IProtocol) -> IProtocol:
        self._protocol = protocol
        received, take = 0, protocol.dataReceived

        def bounded(data: bytes) -> None:
            nonlocal received
            received += len(data)
            if received > _LARGEST_ANSWER + _AROUND:
                self.abort()
            else:
                take(data)

        protocol.dataReceived = bounded  # type: ignore[method-assign]  # whoever has the protocol calls it so
        return protocol


def _unconnected(failure: Failure) -> Failure:
    """A file that cannot be read is an OSError, too: whatever a name or a connection fails with is not."""
    if isinstance(failure.value, OSError):
        return Failure(ScannerError(f"no connection: {failure.value}"))
    return failure


def _body(response: IResponse) -> Deferred[bytes]:
    collector = _Collector()
    response.deliverBody(collector)
    return collector.whole


class _Collector(Protocol):
    """Takes a body up to its bound."""

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred()
        self._octets = bytearray()

    def dataReceived(self, data: bytes) -> None:
        if self.whole.called:
            return
        self._octets += data
        if len(self._octets) > _LARGEST_ANSWER:
            self.whole.errback(ScannerError(f"the answer has more than {_LARGEST_ANSWER} octets"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        # without a length, the end of the connection is the end of the body
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(bytes(self._octets))
        else:
            self.whole.errback(ScannerError(f"half an answer over HTTP: {reason.getErrorMessage()}"))


def _first(error: RequestGenerationFailed) -> BaseException:
    """What the producer of the request failed with."""
    reasons: list[Failure] = list(error.reasons)
    return reasons[0].value if reasons and reasons[0].value is not None else error


def _cause(error: BaseException) -> str:
    reasons: list[Failure] = list(getattr(error, "reasons", ()))
    told = [f"{reason.type.__name__}: {reason.getErrorMessage()}" for reason in reasons if reason.type]
    return "; ".join(told) or f"{type(error).__name__}: {error}"
