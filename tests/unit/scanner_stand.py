"""Scanners in memory: a reactor over a Clock, and scripts that play the other end of each connection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IHostnameResolver, IReactorPluggableNameResolver, IReactorTime
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.envelope import Session
from mailgate.interfaces import FilterServices
from mailgate.message import Message
from mailgate.pipeline.member import Member
from mailgate.pipeline.runner import Pipeline
from mailgate.testing import EventRecorder, message, services, session, transaction, wait_for
from mailgate.verdict import Verdict
from tests.unit.remote_peer import Names

__all__ = [
    "HOSTILE",
    "Gate",
    "Scanners",
    "Script",
    "Wire",
    "http_answer",
    "is_whole_http",
    "nobody",
    "silent",
    "split_request",
]


class Wire(StringTransport):
    """One connection, as the script sees it; what the client sends reaches the script when the clock next ticks."""

    def __init__(self, clock: Clock, script: Script, room: int | None = None) -> None:
        """`room`: octets that it takes before whoever writes has to pause; None for any number."""
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted is typed in part
        self.client: Any = None
        self.is_open = True
        self.is_told_the_end = False  # the client has closed its half
        self.heard = bytearray()
        self._clock = clock
        self._script = script
        self._due: list[IDelayedCall] = []
        self._told = 0
        self._room = room

    def write(self, data: bytes) -> None:
        self.heard += data
        self._later(self._tell)
        if self._room is not None and len(self.heard) >= self._room and self.producer is not None:
            self.producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:  # noqa: N802 (Twisted's)
        self.write(b"".join(data))

    def say(self, octets: bytes) -> None:
        """Send to the client."""
        if self.is_open:
            self.client.dataReceived(octets)

    def close(self, error: Exception | None = None) -> None:
        """End the connection: as it should be, or with an error."""
        if self.is_open:
            self.is_open = False
            for one in self._due:
                if one.active():
                    one.cancel()
            self.client.connectionLost(Failure(error or ConnectionDone()))

    def lose(self) -> None:
        """End it as a program that is killed does."""
        self.close(ConnectionLost())

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802 (Twisted's)
        """All is sent at once anyway."""

    def abortConnection(self) -> None:  # noqa: N802 (Twisted's)
        self.close(ConnectionAborted())

    def loseWriteConnection(self) -> None:  # noqa: N802 (Twisted's)
        self.is_told_the_end = True
        self._later(lambda: self._script(self, bytes(self.heard)) if self._told == len(self.heard) else None)

    def loseConnection(self) -> None:  # noqa: N802 (Twisted's)
        if self.is_open:
            self._later(self.close)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something after a while, unless the connection has ended."""
        if self.is_open:
            self._due.append(self._clock.callLater(seconds, what))

    def _later(self, what: Callable[[], None]) -> None:
        self.later(0, what)

    def _tell(self) -> None:
        if self.is_open and len(self.heard) > self._told:
            self._told = len(self.heard)
            self._script(self, bytes(self.heard))


Script = Callable[[Wire, bytes], None]
"""Told of all that came so far each time that more has come."""


def silent(wire: Wire, octets: bytes) -> None:
    """Takes everything and says nothing."""


def nobody(wire: Wire, octets: bytes) -> None:
    """Stands for a server that refuses connections."""


class _Connector:
    def __init__(self, factory: Any) -> None:
        self._factory = factory

    def stopConnecting(self) -> None:  # noqa: N802 (Twisted's)
        self.fail(ConnectError(string="stopped"))

    def fail(self, error: Exception) -> None:
        self._factory.clientConnectionFailed(self, Failure(error))


@implementer(IReactorTime, IReactorPluggableNameResolver)
class Scanners:
    """A reactor whose connections lead to scripts: by "host:port" or a socket's path, else to `script`.

    `wires` are the connections that were made, `asked` where each went; each takes `room` octets, and no more.
    """

    def __init__(
        self,
        script: Script,
        clock: Clock | None = None,
        others: Mapping[str, Script] | None = None,
        room: int | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.script = script
        self.others = dict(others or {})
        self.room = room
        self.wires: list[Wire] = []
        self.asked: list[str] = []
        self.nameResolver: IHostnameResolver = Names()

    @property
    def open(self) -> int:
        """Connections that nobody has closed."""
        return sum(wire.is_open for wire in self.wires)

    def seconds(self) -> float:
        return self.clock.seconds()

    def callLater(  # type: ignore[override]  # Twisted's interface has no self
        self, delay: float, function: Any, *args: Any, **more: Any
    ) -> IDelayedCall:
        return self.clock.callLater(delay, function, *args, **more)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:  # noqa: N802 (Twisted's)
        return self.clock.getDelayedCalls()

    def connectTCP(self, host: str, port: int, factory: Any, *_: Any, **__: Any) -> Any:  # noqa: N802 (Twisted's)
        return self._connect(f"{host}:{port}", factory)

    def connectUNIX(self, address: str, factory: Any, *_: Any, **__: Any) -> Any:  # noqa: N802 (Twisted's)
        return self._connect(address, factory)

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:  # noqa: N802 (Twisted's)
        before, self.nameResolver = self.nameResolver, resolver
        return before

    def _connect(self, where: str, factory: Any) -> Any:
        self.asked.append(where)
        connector = _Connector(factory)
        factory.doStart()
        factory.startedConnecting(connector)
        script = self.others.get(where, self.script)
        if script is nobody:
            connector.fail(ConnectError(string="refused"))
            return connector
        wire = Wire(self.clock, script, self.room)
        wire.client = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
        self.wires.append(wire)
        wire.client.makeConnection(wire)
        # a server may say something, or close, before it has heard anything
        wire.later(0, lambda: script(wire, b"") if wire.is_open and not wire.heard else None)
        return connector


class Gate:
    """A filter in a pipeline, before scanners of a script's; `options` without servers."""

    def __init__(
        self,
        build: Callable[[Any, FilterServices], object],
        options: Any,
        scanners: Scanners,
        on_failure: Any = "defer",
        deadline: float = 10.0,
    ) -> None:
        self.scanners = scanners
        self.events = EventRecorder()
        self.filter: Any = build(options, services(clock=scanners))
        member = Member("scanner", self.filter, "enforce", deadline, on_failure)
        self.pipeline = Pipeline([[member]], scanners, self.events)
        self.transaction = transaction()

    def judge(
        self, content: bytes | None = None, recipients: Sequence[str] = ("bob@example.org",), who: Session | None = None
    ) -> list[Verdict]:
        """The verdict for each recipient; edits and evidence are on `transaction`."""
        self.transaction = transaction(recipients=recipients)
        whole: Message = message() if content is None else message(content)
        asked = self.pipeline.message(who or session(), self.transaction, whole)
        return list(wait_for(asked, self.scanners.clock))


def is_whole_http(octets: bytes) -> bool:
    """Whether a whole request has come."""
    head, end, body = octets.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return bool(end) and bool(lengths) and len(body) >= int(lengths[0])


def split_request(octets: bytes) -> tuple[str, list[tuple[str, str]], bytes]:
    """The line, the fields (names in lower case) and the body of a request."""
    head, _, body = octets.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    split = (field.partition(": ") for field in fields)
    return line, [(name.lower(), value) for name, _, value in split], body


def http_answer(body: object, status: int = 200) -> Script:
    """Answers each request with this, as JSON where it is not octets."""
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()

    def script(wire: Wire, heard: bytes) -> None:
        if is_whole_http(heard):
            wire.say(f"HTTP/1.1 {status} X\r\nContent-Length: {len(octets)}\r\n\r\n".encode() + octets)
            wire.close()

    return script


def _at_once(wire: Wire, octets: bytes) -> None:
    wire.close()


def _after_some(wire: Wire, octets: bytes) -> None:
    if octets:
        wire.lose()


def _nonsense(wire: Wire, octets: bytes) -> None:
    if octets:
        wire.say(b"\x00\xff<html>nothing here</html>\r\n\r\n\0")
        wire.close()


def _endless(wire: Wire, octets: bytes) -> None:
    for _ in range(2000):  # more than any answer may have
        wire.say(b"HTTP/1.1 200 OK\r\n" + b"X-Header: more and more\r\n" * 400)


def _drips(wire: Wire, octets: bytes) -> None:
    """Says something now and then, for ever."""
    wire.say(b"S")
    wire.later(0.5, lambda: _drips(wire, octets))


#: What a scanner may do that is no answer, whatever it speaks.
HOSTILE: dict[str, Script] = {
    "refuses": nobody,
    "is silent": silent,
    "closes at once": _at_once,
    "is killed": _after_some,
    "talks nonsense": _nonsense,
    "never ends": _endless,
    "drips": _drips,
}
