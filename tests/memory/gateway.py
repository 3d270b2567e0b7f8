"""A whole gateway in memory: its configuration, sessions, filters, spool and relay are the real ones.

The `World` is the network and the time: gateways listen there, clients and next hops live there, and nothing happens
but by `run`. Only the spool's disk and its thread are real.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import Any, TypeVar, cast

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.interfaces import IAddress, IProtocol, IPullProducer, IReactorThreads
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from mailgate.config.load import load
from mailgate.dns.resolver import Resolver
from mailgate.events import Event
from mailgate.interfaces import EntryView, Selector
from mailgate.observe.log import JsonLog
from mailgate.observe.recorder import Recorder
from mailgate.pipeline.registry import Registry
from mailgate.service import Gateway, IGatewayReactor
from mailgate.testing import FakeResolver

__all__ = ["Client", "MemoryGateway", "Wire", "World"]

T = TypeVar("T")
E = TypeVar("E", bound=Event)

#: A day in 2027.
_START = 1_800_000_000.0


class _InlinePool(ThreadPool):
    """A pool whose threads are done before anybody looks."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def callInThreadWithCallback(self, onResult: Any, func: Any, *values: Any, **named: Any) -> None:  # noqa: N802,N803
        try:
            result = func(*values, **named)
        except Exception:
            onResult(False, Failure())
        else:
            onResult(True, result)


@implementer(IReactorThreads)
class _Reactor(MemoryReactorClock):
    """Keeps what threads ask of it until the world runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.rightNow = _START
        self.from_threads: Queue[tuple[Callable[..., object], tuple[object, ...]]] = Queue()

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:  # noqa: A002,N802
        self.from_threads.put((callable, args))

    def callInThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:  # noqa: A002,N802
        callable(*args, **kwargs)

    def getThreadPool(self) -> ThreadPool:  # noqa: N802
        return _InlinePool(0, 1)

    def suggestThreadPoolSize(self, size: int) -> None:  # noqa: N802
        pass


class Wire:
    """One end of a connection, with the octets on their way to the other."""

    def __init__(self, protocol: IProtocol, host: IAddress, peer: IAddress) -> None:
        self.protocol = protocol
        self.other: Wire
        self.is_closed = False
        self._host, self._peer = host, peer
        self._out = b""
        self.is_paused = self._is_closing = False
        self._producer: IPullProducer | None = None

    def write(self, data: bytes) -> None:
        if not self._is_closing:
            self._out += data

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name, as those below
        self._is_closing = True

    def abortConnection(self) -> None:  # noqa: N802
        self._out, self._is_closing, self._producer = b"", True, None

    def registerProducer(self, producer: IPullProducer, _streaming: bool) -> None:  # noqa: N802
        self._producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802
        self._producer = None

    def pauseProducing(self) -> None:
        self.is_paused = True

    def resumeProducing(self) -> None:
        self.is_paused = False

    def getPeer(self) -> IAddress:  # noqa: N802
        return self._peer

    def getHost(self) -> IAddress:  # noqa: N802
        return self._host

    def carry(self, piece: int) -> bool:
        """Carry at most `piece` octets over, or close; whether there was anything to do."""
        if self.is_closed:
            return False
        if not self._out and self._producer is not None:
            self._producer.resumeProducing()
        if self._out:
            if self.other.is_paused:
                return False
            data, self._out = self._out[:piece], self._out[piece:]
            self.other.protocol.dataReceived(data)
        elif self._is_closing:
            self.is_closed = self.other.is_closed = True
            for end in (self.other, self):
                end.protocol.connectionLost(Failure(ConnectionDone()))
        else:
            return False
        return True


class World:
    """Where gateways, clients and next hops meet. At most `piece` octets are carried at a time."""

    def __init__(self, piece: int = 1 << 20) -> None:
        self.piece = piece
        self.reactor = _Reactor()
        self.gateways: list[MemoryGateway] = []
        #: Who listens where: makes a protocol for each connection. Where nobody does, connections are refused.
        self.servers: dict[tuple[str, int], Callable[[], IProtocol]] = {}
        self._ends: list[Wire] = []

    def wire(self, server: IProtocol, client: IProtocol, address: str) -> None:
        """Connect two protocols; the server sees the client come from `address`."""
        here, there = IPv4Address("TCP", "192.0.2.25", 25), IPv4Address("TCP", address, 40000)
        ends = Wire(server, here, there), Wire(client, there, here)
        ends[0].other, ends[1].other = ends[1], ends[0]
        self._ends += ends
        for end in ends:
            end.protocol.makeConnection(end)  # type: ignore[arg-type]  # as much of a transport as is asked

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass, and everything happen that it brings."""
        end = self.reactor.seconds() + seconds
        while True:
            self._settle()
            due = self._next_call()
            if due > end:
                break
            self.reactor.advance(max(due - self.reactor.seconds(), 0.0))
        self.reactor.advance(max(end - self.reactor.seconds(), 0.0))
        self._settle()

    def wait(self, answer: Deferred[T]) -> T:
        """The result, as soon as it is there."""
        results: list[Any] = []
        answer.addBoth(results.append)
        while not results:
            if self._step():
                continue
            due = self._next_call()
            try:
                call, values = self.reactor.from_threads.get(timeout=20 if due == math.inf else 0.02)
            except Empty:
                if due == math.inf:
                    raise AssertionError("nothing is under way that could bring an answer") from None
                # No thread is at work: what is waited for comes with time.
                self.reactor.advance(max(due - self.reactor.seconds(), 0.0))
            else:
                call(*values)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return cast(T, results[0])

    def _next_call(self) -> float:
        return min((call.getTime() for call in self.reactor.getDelayedCalls()), default=math.inf)

    def _settle(self) -> None:
        while self._step() or sum(one.has_worked() for one in self.gateways):
            pass

    def _step(self) -> bool:
        """Carry octets, connections and threads' results, all there are now; whether there were any."""
        happened = self._connect()
        for end in list(self._ends):
            while end.carry(self.piece):
                happened = True
        self._ends = [end for end in self._ends if not end.is_closed]
        while not self.reactor.from_threads.empty():
            call, values = self.reactor.from_threads.get()
            call(*values)
            happened = True
        return happened

    def _connect(self) -> bool:
        reactor = self.reactor
        waiting: list[tuple[tuple[str, int], Any]] = [
            *(((host, port), factory) for host, port, factory, *_ in reactor.tcpClients),
            *(((path, 0), factory) for path, factory, *_ in reactor.unixClients),
        ]
        connectors = list(reactor.connectors)
        for found in (reactor.tcpClients, reactor.unixClients, reactor.connectors):
            found.clear()
        for (place, factory), connector in zip(waiting, connectors, strict=True):
            server = self.servers.get(place)
            if server is None:
                factory.clientConnectionFailed(connector, Failure(ConnectError(string="refused")))
            else:
                address = UNIXAddress(place[0]) if place[1] == 0 else IPv4Address("TCP", *place)
                self.wire(server(), factory.buildProtocol(address), "192.0.2.25")
        return bool(waiting)


class _Resolver(FakeResolver):
    def close(self) -> None:
        """As the real one's."""


class MemoryGateway(Gateway):
    """A gateway from a file with this text. Its resolver knows `zone`; `seen` holds every event."""

    def __init__(
        self,
        world: World,
        directory: Path,
        text: str,
        zone: Mapping[tuple[str, str], Any] | None = None,
        registry: Registry | None = None,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.file = directory / "mailgate.toml"
        self.file.write_text(text)
        registry = registry or Registry()
        super().__init__(load(self.file, registry.find), cast(IGatewayReactor, world.reactor))
        self.registry = registry
        self.world = world
        self.from_threads = world.reactor.from_threads
        self.zone = dict(zone or {})
        self.seen: list[Event] = []
        self.random = random.Random(1)  # type: ignore[assignment]  # S311: the same each time

    def make_pool(self) -> ThreadPool:
        return _InlinePool(0, 1)

    def make_resolver(self) -> Resolver:
        return cast(Resolver, _Resolver(self.zone))

    def make_recorder(self) -> Recorder:
        self.json_log = JsonLog("", self.places.state_dir)
        return Recorder([])

    def observe(self, event: Event) -> None:
        """Keep an event."""
        self.seen.append(event)

    def start(self) -> MemoryGateway:
        """Listen, open, sweep, and begin."""
        self.privilegedStartService()
        self.events.add(self)  # type: ignore[arg-type]  # as much of an observer as is asked
        self.startService()
        self.world.gateways.append(self)
        self.world.run()
        return self

    def stop(self) -> None:
        """Drain and close."""
        stopped = self.stopService()
        self.world.gateways.remove(self)
        self.world.wait(stopped)

    def has_worked(self) -> bool:
        """Wait until the spool has done what it was asked before; whether that was anything."""
        done: list[object] = []
        self.spool.next_due().addBoth(done.append)
        answers = 0
        while not done:
            try:
                call, values = self.from_threads.get(timeout=0.1)
            except Empty:
                if self.spool._thread.is_alive():
                    continue
                break  # it has been closed
            call(*values)
            # The spool's writer answers all that it has committed together in one call, with a list of results.
            answers += len(values[0]) if values and isinstance(values[0], list) else 1
        return answers > 1

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return [event for event in self.seen if isinstance(event, kind)]

    def queue(self, **selector: Any) -> dict[str, str]:
        """The state of each recipient in the spool."""
        return {one.recipient: one.state for one in self.entries(**selector)}

    def entries(self, **selector: Any) -> list[EntryView]:
        """The recipients in the spool."""
        return self.world.wait(self.spool.view(Selector(**selector), 10_000))

    def connect(self, listener: str = "mx", address: str = "192.0.2.9") -> Client:
        """A client, greeted."""
        client = Client(self.world)
        self.world.wire(self.listeners[listener].buildProtocol(None), client, address)
        self.world.run()
        return client


class Client(Protocol):
    """Says lines to a gateway, and gathers what comes back."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_greeted = False
        self.received = b""
        self.is_closed = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_closed = True

    def say(self, data: bytes) -> list[str]:
        """Send octets; the lines that they bring."""
        self.received = b""
        cast(Wire, self.transport).write(data)
        self._world.run()
        return self.received.decode().splitlines()

    def mail(
        self,
        sender: str,
        *recipients: str,
        content: bytes = b"Subject: x\r\n\r\nhello\r\n",
        hello: bytes = b"EHLO client.test",
    ) -> list[str]:
        """One mail, pipelined: the lines that answer its content. AssertionError where a command is refused.

        `content` goes out as it is, dots and all.
        """
        if not self._is_greeted:
            self._is_greeted = self.say(hello + b"\r\n")[-1].startswith("250 ")
        commands = [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{one}>" for one in recipients)]
        replies = self.say("\r\n".join([*commands, "DATA", ""]).encode())
        if [one[0] for one in replies] != ["2"] * len(commands) + ["3"]:
            raise AssertionError(f"refused: {replies}")
        return self.say(content + b".\r\n")
