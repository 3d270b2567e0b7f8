"""HTTP for others than the `mailgate` command: Twisted's server with a bound to all that a client can make it keep.

A request is read whole before it is answered: at most 16 KiB of header and `max_body` behind it, in `request_timeout`
together, however its octets come. What is behind the header is kept only where the header says that somebody will look
at it: nobody fills the memory who has not shown a token. A client that does not read its answer is cut off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from ipaddress import IPv6Address
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IReactorTime,
)
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from zope.interface import implementer

from mailgate.config.endpoints import with_backlog
from mailgate.config.http import HttpSection
from mailgate.config.schema import Network
from mailgate.envelope import Client
from mailgate.smtp.peer import client_of, is_in
from mailgate.tls.store import CertificateStore

__all__ = ["HttpServer"]

_log = Logger()

Wanted = Callable[[bytes, bytes, Request], int | None]
"""Octets that may come behind the header of a request with this method and target, of which no more is known than the
header; None where nobody will look at them."""

#: Connections that may wait to be accepted.
_BACKLOG = 128


class _Request(Request):
    """Counts what comes behind the header, where its length was not told. `actor` is who asks, where that is known, and
    `asker` from where."""

    actor = ""
    asker = Client(None)
    most = 0  # octets that may come behind the header
    is_kept = True  # whether they are kept
    came = 0

    def gotLength(self, length: int | None) -> None:  # noqa: N802  Twisted's name
        site = cast(_Channel, self.channel).site
        # What may be more than a little lies in a file that has no name.
        self.content = BytesIO() if self.most <= site.max_body else SpooledTemporaryFile(site.max_body, dir=site.large)  # noqa: SIM115  the request closes it

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        channel = cast(_Channel, self.channel)
        self.came += len(data)
        if self.content is None or self.came > self.most:
            channel.refuse(b"413 Content Too Large")
            return
        if not self.is_kept:
            return
        try:
            self.content.write(data)
        except OSError as error:
            _log.warn("HTTP: what a client sends cannot be kept: {error}", error=error)
            channel.refuse(b"503 Service Unavailable")


class _Channel(HTTPChannel):
    """One connection. A request that is refused before it is whole ends it."""

    site: _BoundedSite
    transport: Any
    callLater: Any
    client = Client(None)
    _deadline: IDelayedCall | None = None
    _is_refused = False
    _unread: Request | None = None

    def dataReceived(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._deadline is None and not self._handlingRequest:
            self._deadline = self.site.reactor.callLater(self.site.request_timeout, self._too_slow)
        super().dataReceived(data)  # type: ignore[no-untyped-call]  # Twisted's

    def rawDataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        if not self._is_refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:  # noqa: N802  Twisted's name
        request: _Request = self.requests[-1]
        wanted = self.site.wanted(self._command, self._path, request)
        request.is_kept = wanted is not None
        request.most = self.site.max_body if wanted is None else wanted
        if (self.length or 0) > request.most:
            self.refuse(b"413 Content Too Large")
            return
        if not request.is_kept and request.requestHeaders.hasHeader(b"expect"):
            # Who asks first is not told to go on, but answered (RFC 9110 section 10.1.1).
            request.requestHeaders.removeHeader(b"expect")
            request.requestHeaders.setRawHeaders(b"connection", [b"close"])
            self.length, self._transferDecoder = 0, None
        super().allHeadersReceived()  # type: ignore[no-untyped-call]  # Twisted's

    def allContentReceived(self) -> None:  # noqa: N802  Twisted's name
        self._end_deadline()
        if not self._is_refused:
            super().allContentReceived()  # type: ignore[no-untyped-call]  # Twisted's

    def requestDone(self, request: Request) -> None:  # noqa: N802  Twisted's name
        if self._waitingForTransport and self.persistent and self._unread is None:
            # Requests that have come behind it are answered when this answer is read: not all of them into memory.
            self._unread = request
            self.setTimeout(self.site.request_timeout)  # type: ignore[no-untyped-call]  # Twisted's
            return
        super().requestDone(request)  # type: ignore[no-untyped-call]  # Twisted's
        if not self.persistent:
            self._abort_later()

    def resumeProducing(self) -> None:
        super().resumeProducing()  # type: ignore[no-untyped-call]  # Twisted's
        request, self._unread = self._unread, None
        if request is not None:
            self.requestDone(request)

    def refuse(self, status: bytes) -> None:
        """Answer what has come so far of a request, and read nothing more."""
        if self._is_refused:
            return
        self._is_refused = True
        self._end_deadline()
        fields = b"Content-Length: 0\r\nConnection: close\r\n"
        self.transport.write(b"HTTP/1.1 %b\r\n%b\r\n" % (status, fields))
        self._close()

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802  Twisted's name
        self.refuse(b"400 Bad Request")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted gives no default here
        self._end_deadline()
        self.site.left(self.client)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]  # Twisted's

    def timeoutConnection(self) -> None:
        _log.debug("HTTP: {client} was silent too long", client=self.client)
        self._close()

    def forceAbortClient(self) -> None:  # noqa: N802  Twisted's name
        self._abortingCall = None
        self.transport.abortConnection()

    def _close(self) -> None:
        self.persistent, self._unread = False, None
        self._abort_later()
        self.loseConnection()  # type: ignore[no-untyped-call]  # Twisted's

    def _abort_later(self) -> None:
        """Whoever does not read what is written keeps the connection no longer than others."""
        self.setTimeout(None)  # type: ignore[no-untyped-call]  # Twisted's
        if self._abortingCall is None:
            self._abortingCall = self.callLater(self.site.request_timeout, self.forceAbortClient)

    def _too_slow(self) -> None:
        self._deadline = None
        self.refuse(b"408 Request Timeout")

    def _end_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()


class _BoundedSite(Site):
    """Makes the connections, as many as the section allows. Events are the log, not lines for each request."""

    noisy = False
    # A class in place of Twisted's, which would speak HTTP/2 where that is installed: its bounds are others.
    protocol = _Channel  # type: ignore[assignment]
    requestFactory = _Request  # noqa: N815  Twisted's name

    def __init__(self, root: Resource, section: HttpSection, clock: IReactorTime) -> None:
        super().__init__(  # type: ignore[no-untyped-call]  # Twisted's
            root, reactor=clock, timeout=section.request_timeout, parsePOSTFormSubmission=False
        )
        self._section = section
        self.max_body = section.max_body
        self.wanted: Wanted = lambda method, target, request: section.max_body
        self.large: str | None = None
        self.request_timeout = section.request_timeout
        self.proxies: Sequence[Network] = section.forwarded_from
        self._open: Counter[str] = Counter()
        self._count = 0

    def admits(self, client: Client) -> bool:
        """Whether one more connection of this client may be, which counts then."""
        key = _counted(client)
        if self._count >= self._section.max_connections:
            return False
        if key and not is_in(client, self.proxies) and self._open[key] >= self._section.max_connections_per_client:
            return False
        self._count += 1
        self._open[key] += 1
        return True

    def left(self, client: Client) -> None:
        """A connection of this client has ended."""
        key = _counted(client)
        self._count -= 1
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        channel: Any = super().buildProtocol(addr)  # type: ignore[no-untyped-call]  # Twisted's
        channel.client = Client(None) if addr is None else client_of(addr)
        return channel

    def startFactory(self) -> None:  # noqa: N802  Twisted's name
        pass

    def stopFactory(self) -> None:  # noqa: N802  Twisted's name
        pass

    def log(self, request: Any) -> None:
        _log.debug(
            "HTTP: {client} {method} {code}", client=request.channel.client, method=request.method, code=request.code
        )


class _Door(ServerFactory):
    """Lets connections in, to the site or to its TLS."""

    noisy = False

    def __init__(self, site: _BoundedSite, behind: Any) -> None:
        self._site = site
        self._behind = behind

    def buildProtocol(self, addr: IAddress | None) -> Any:
        client = Client(None) if addr is None else client_of(addr)
        if not self._site.admits(client):
            _log.info("HTTP: {client} has been turned away: too many connections", client=client)
            return None
        return self._behind.buildProtocol(addr)


@implementer(IOpenSSLServerConnectionCreator)
class _Certificates:
    """The certificates that are in force."""

    def __init__(self) -> None:
        self.store: CertificateStore | None = None

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802  Twisted's name
        if self.store is None:
            # They have gone with a reload: nobody is answered in clear text for that.
            return SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD))
        return self.store.connection("none")


class HttpServer:
    """The listener of `[http]`: `listen` while the process may bind ports, `close` before what it serves is closed."""

    def __init__(
        self, section: HttpSection, root: Resource, clock: IReactorTime, *, has_tls: bool, wanted: Wanted | None = None
    ) -> None:
        """`has_tls`: connections begin with TLS; until `use` has brought certificates, their handshakes fail. Without
        `wanted` every request is kept up to `max_body`."""
        self._section = section
        self._clock = clock
        self._certificates = _Certificates()
        self._site = _BoundedSite(root, section, clock)
        self._site.wanted = wanted or self._site.wanted
        behind: Any = self._site
        if has_tls:
            behind = TLSMemoryBIOFactory(self._certificates, False, self._site, clock)
        self.factory = _Door(self._site, behind)
        self._ports: list[IListeningPort] = []

    def use(self, certificates: CertificateStore | None, proxies: Sequence[Network]) -> None:
        """From now on, for new connections."""
        self._certificates.store = certificates
        self._site.proxies = proxies

    def keep_large(self, directory: Path) -> None:
        """Where `wanted` lets a request have more than `max_body`, it lies in the directory while it comes."""
        self._site.large = str(directory)

    def listen(self, reactor: object, ports: Sequence[IListeningPort] | None = None) -> None:
        """Bind every endpoint, or take over `ports`, which accept for `factory`; CannotListenError where one cannot be
        bound."""
        if ports is not None:
            self._ports += ports
            return
        for text in self._section.endpoints:
            failed: list[Failure] = []
            listening = serverFromString(reactor, with_backlog(text, _BACKLOG)).listen(self.factory)
            listening.addCallbacks(self._ports.append, failed.append)
            if failed:
                failed[0].raiseException()

    async def close(self) -> None:
        """Accept no more. What is being answered is answered."""
        ports, self._ports = self._ports, []
        for port in ports:
            stopping = port.stopListening()
            if stopping is not None:
                await stopping


def _counted(client: Client) -> str:
    """Whose connections are counted together; "" for a unix socket's, which only the limit for all is for."""
    address = client.address
    if address is None:
        return ""
    return f"{int(address) >> 64:x}::/64" if isinstance(address, IPv6Address) else str(address)
