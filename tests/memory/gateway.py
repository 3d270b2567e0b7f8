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

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, TCPTimedOutError
from twisted.internet.interfaces import IAddress, IProtocol, IReactorThreads
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
from mailgate.testing import MemoryResolver
from tests.memory.wire import Wire
from tests.unit.at_work import AtWork

__all__ = ["Client", "MemoryGateway", "World"]

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


class World:
    """Where gateways, clients and next hops meet. At most `piece` octets are carried at a time.

    Who listens somewhere makes a protocol for each connection, or None where nobody is ever to answer it. Where nobody
    listens, connections are refused.
    """

    def __init__(self, piece: int = 1 << 20) -> None:
        self.piece = piece
        self.reactor = _Reactor()
        self.gateways: list[MemoryGateway] = []
        self.servers: dict[tuple[str, int], Callable[[], IProtocol | None]] = {}
        self.at_work = AtWork()
        #: Every attempt to connect: when, and where to.
        self.attempts: list[tuple[float, str]] = []
        self._ends: list[Wire] = []

    def wire(self, server: IProtocol, client: IProtocol, address: str) -> None:
        """Connect two protocols; the server sees the client come from `address`."""
        here, there = IPv4Address("TCP", "192.0.2.25", 25), IPv4Address("TCP", address, 40000)
        ends = Wire(server, here, there, self.reactor), Wire(client, there, here, self.reactor)
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
                call, values = self.reactor.from_threads.get(timeout=60 if due == math.inf else 0.02)
            except Empty:
                if due == math.inf:
                    raise AssertionError("nothing is under way that could bring an answer") from None
                if not self._hear_threads():  # what is waited for comes with time
                    self.reactor.advance(max(due - self.reactor.seconds(), 0.0))
            else:
                call(*values)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return cast(T, results[0])

    def until(self, done: Callable[[], object], seconds: float = 2 * 86400.0, step: float = 3600.0) -> None:
        """Let time pass until it is so, at most so many seconds, while threads have all of theirs."""
        end = self.reactor.seconds() + seconds
        while not done() and self.reactor.seconds() < end:
            self.run(0.0 if self._hear_threads() else step)

    def _hear_threads(self) -> bool:
        """Wait for what threads have in hand; whether there was anything."""
        if self.at_work.count:
            call, values = self.reactor.from_threads.get(timeout=60)
            call(*values)
            return True
        return sum(one.has_worked() for one in self.gateways) > 0

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
                if end.is_streaming:  # what the other end says to the first of it comes before the rest
                    break
        self._ends = [end for end in self._ends if not end.is_closed]
        while not self.reactor.from_threads.empty():
            call, values = self.reactor.from_threads.get()
            call(*values)
            happened = True
        return happened

    def _connect(self) -> bool:
        reactor = self.reactor
        waiting: list[tuple[tuple[str, int], Any, float]] = [
            *(((host, port), factory, timeout) for host, port, factory, timeout, *_ in reactor.tcpClients),
            *(((path, 0), factory, timeout) for path, factory, timeout, *_ in reactor.unixClients),
        ]
        connectors = list(reactor.connectors)
        for found in (reactor.tcpClients, reactor.unixClients, reactor.connectors):
            found.clear()
        for (place, factory, timeout), connector in zip(waiting, connectors, strict=True):
            self.attempts.append((reactor.seconds(), place[0]))
            make = self.servers.get(place)
            server = make() if make is not None else None
            if make is None:
                factory.clientConnectionFailed(connector, Failure(ConnectError(string="refused")))
            elif server is None:
                reactor.callLater(timeout, factory.clientConnectionFailed, connector, Failure(TCPTimedOutError()))
            else:
                self.wire(server, factory.buildProtocol(_address(*place)), "192.0.2.25")
        return bool(waiting)


def _address(host: str, port: int) -> IAddress:
    if port == 0:
        return UNIXAddress(host)
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)


class _Resolver(MemoryResolver):
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
        self.world.wait(self.stopService())
        self.world.gateways.remove(self)

    def timers(self) -> list[Any]:
        """What it has set for later; what threads have just called into the reactor is for now."""
        now = self.reactor.seconds()
        return [call for call in self.reactor.getDelayedCalls() if call.getTime() > now]

    def has_worked(self) -> bool:
        """Wait until the spool has done what it was asked before; whether that was anything."""
        done: list[object] = []
        self.spool.next_due().addBoth(done.append)
        self.spool.suspensions().addBoth(done.append)  # its reader has a thread of its own
        answers = 0
        while len(done) < 2:
            try:
                call, values = self.from_threads.get(timeout=0.1)
            except Empty:
                if self.spool._thread.is_alive():
                    continue
                break  # it has been closed
            call(*values)
            # The spool's writer answers all that it has committed together in one call, with a list of results.
            answers += len(values[0]) if values and isinstance(values[0], list) else 1
        return answers > 2

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
