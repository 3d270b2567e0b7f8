"""The servers that filters ask: whether each is there, and speaks its protocol."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mailgate.config.hosts import HostPort, parse_host
from mailgate.doctor.diagnosis import Check, Notes, Severity
from mailgate.doctor.site import Site, UsedFilter
from mailgate.scanners.pool import IScannerReactor, endpoint_of

__all__ = ["SilentError", "exchange", "server_checks"]

#: Seconds to connect, and for the answer; octets of an answer that are kept.
_CONNECT, _PATIENCE, _MOST = 5.0, 10.0, 4096


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of server is greeted, and how its answer begins; `says` is what it is called. Nothing is said to one
    without a `greeting`: it is there if it can be connected to."""

    says: str
    port: int
    greeting: bytes
    begins: bytes


#: The milter's: version 6, every action and every step that there are (SMFIC_OPTNEG).
_NEGOTIATE = struct.pack("!IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF)

_KINDS = {
    "clamav": _Kind("clamd", 3310, b"zPING\0", b"PONG"),
    "spamassassin": _Kind("spamd", 783, b"PING SPAMC/1.2\r\n\r\n", b"SPAMD/"),
    "rspamd": _Kind("rspamd", 11333, b"GET /ping HTTP/1.0\r\n\r\n", b"HTTP/1."),
    "milter": _Kind("the milter", 8891, _NEGOTIATE, b"\0\0\0\rO"),
}
#: One of a filter that asks by HTTP: every question to it would be about mail.
_SERVICE = _Kind("the service", 0, b"", b"")


class SilentError(Exception):
    """Nobody is there, or does not answer as such a server does."""


def server_checks(site: Site) -> Iterator[Check]:
    """One for each filter that asks somebody."""
    for one in site.filters:
        kind = _KINDS.get(one.kind)
        servers = getattr(one.options, "servers", None)
        if kind is not None and servers:
            hosts = [parse_host(text, kind.port) for text in servers]
            yield Check("scanners", f"filters.{one.name}", partial(_look, site, one, kind, hosts))
        elif one.kind == "http":
            hosts = [host for url in getattr(one.options, "urls", ()) if (host := _host_of(url)) is not None]
            yield Check("scanners", f"filters.{one.name}", partial(_look, site, one, _SERVICE, hosts))


async def _look(site: Site, asked: UsedFilter, kind: _Kind, hosts: Sequence[HostPort], notes: Notes) -> None:
    async def one(host: HostPort) -> str:
        try:
            answer = await exchange(site, host, kind.greeting, len(kind.begins))
        except SilentError as error:
            return str(error)
        return "" if answer.startswith(kind.begins) else f"it does not answer as {kind.says} does: {answer[:40]!r}"

    problems = await gatherResults([Deferred.fromCoroutine(one(host)) for host in hosts])
    works = [host for host, problem in zip(hosts, problems, strict=True) if not problem]
    for host, problem in zip(hosts, problems, strict=True):
        if not problem:
            notes.ok(f"{kind.says} at {host} answers")
        elif works:
            notes.warn(f"{kind.says} at {host}: {problem} (others work)", f"start {kind.says}, or see servers")
        else:
            severity, what = _without(asked)
            notes.say(severity, f"{kind.says} at {host}: {problem}: {what}", f"start {kind.says}, or see servers")


def _without(asked: UsedFilter) -> tuple[Severity, str]:
    """What becomes of mail while the filter has nobody to ask."""
    if asked.section.mode == "shadow":
        return "warn", "the filter, in shadow mode, records nothing"
    match asked.section.on_failure:
        case "continue":
            return "warn", "mail goes on unchecked"
        case "quarantine":
            return "fail", "mail goes into quarantine"
        case "reject":
            return "fail", "mail is refused"
    return "fail", "mail is put off (451)"


def _host_of(url: str) -> HostPort | None:
    parts = urlsplit(url)
    if not parts.hostname:
        return None
    return HostPort(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))


async def exchange(site: Site, host: HostPort, said: bytes, enough: int) -> bytes:
    """The beginning of what a server answers, at least `enough` octets of it; SilentError."""
    listening = _Listening(said, enough)
    endpoint = endpoint_of(host, cast(IScannerReactor, site.reactor), _CONNECT)
    try:
        await endpoint.connect(Factory.forProtocol(lambda: listening))
    except (ConnectError, OSError) as error:
        raise SilentError(f"cannot connect: {error}") from None
    try:
        return await listening.answer.addTimeout(_PATIENCE, site.reactor)
    except DeferredTimeout:
        raise SilentError(f"no answer within {_PATIENCE:g} s") from None
    finally:
        listening.transport.abortConnection()


class _Listening(Protocol):
    """Says one thing, and hears the beginning of the answer."""

    transport: ITCPTransport

    def __init__(self, said: bytes, enough: int) -> None:
        self._said = said
        self._enough = enough
        self._heard = b""
        self.answer: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        """Say it."""
        if self._said:
            self.transport.write(self._said)
        else:
            self._tell()

    def dataReceived(self, data: bytes) -> None:
        """Hear."""
        self._heard = (self._heard + data)[:_MOST]
        if len(self._heard) >= self._enough:
            self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """That is all there is."""
        self._tell()

    def _tell(self) -> None:
        if not self.answer.called:
            self.answer.callback(self._heard)
