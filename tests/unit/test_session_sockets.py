"""Sockets of sessions: the reactor's turn, ports that are opened wide, and connections that close at once."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IReactorFDSet
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.task import Clock
from twisted.internet.tcp import Port
from twisted.logger import LogEvent, capturedLogs
from twisted.python.failure import Failure

from mailgate.sockets import write_now
from mailgate.sockets.reactor import hasten
from mailgate.sockets.sessions import SessionTransport, open_wide


@pytest.fixture
def logged() -> Iterator[Sequence[LogEvent]]:
    with capturedLogs() as events:
        yield events


def failures(events: Sequence[LogEvent]) -> list[str]:
    return [event["log_failure"].getErrorMessage() for event in events if "log_failure" in event]


class Talk(Protocol):
    """A session: what it has heard; and what it does about it."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ends: list[type | None] = []
        self.act: Callable[[Talk], None] = lambda talk: None
        self.stopped = 0

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)
        self.act(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ends.append(reason.type)

    def stopProducing(self) -> None:
        self.stopped += 1


class Listener(ServerFactory):
    """Makes sessions; `refuses` some by an exception."""

    noisy = False

    def __init__(self) -> None:
        self.talks: list[Talk] = []
        self.refuses = 0

    def buildProtocol(self, addr: IAddress | None) -> Talk:
        if self.refuses:
            self.refuses -= 1
            raise RuntimeError("no session today")
        self.talks.append(Talk())
        return self.talks[-1]


class Machine:
    """A reactor that nobody runs but the test, with a port on loopback."""

    def __init__(self, host: str = "127.0.0.1", *, is_wide: bool = True) -> None:
        self.reactor = EPollReactor()
        hasten(self.reactor)
        self.listener = Listener()
        self.port = Port(0, self.listener, interface=host, reactor=cast(IReactorFDSet, self.reactor))
        self.port.startListening()
        if is_wide:
            open_wide(self.port)
        self.host = host
        self._clients: list[socket.socket] = []

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(0)

    def connect(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        client = socket.create_connection((self.host, self.port.socket.getsockname()[1]))
        assert client.family is family
        client.settimeout(60)
        self._clients.append(client)
        return client

    def session(self) -> tuple[socket.socket, Talk, SessionTransport]:
        client = self.connect()
        self.turn()
        talk = self.listener.talks[-1]
        return client, talk, cast(SessionTransport, talk.transport)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.turn(3)
        self.port.stopListening()
        self.turn(2)
        assert self.reactor.removeAll() == []
        for reader in self.reactor._internalReaders:
            reader.connectionLost(connectionDone)
        self.reactor._poller.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    one = Machine()
    yield one
    one.close()


# -- the reactor's turn


class Selectable:
    """A socket's end in the reactor; its other one is `far`."""

    def __init__(self, reactor: EPollReactor) -> None:
        self.near, self.far = socket.socketpair()
        self._reactor = reactor
        self.done: list[str] = []
        self.act: Callable[[], Any] = lambda: None
        self.ends: list[type | None] = []
        reactor.addReader(self)

    def fileno(self) -> int:
        return self.near.fileno()

    def logPrefix(self) -> str:  # noqa: N802  Twisted's name
        raise AssertionError("nobody needs it")

    def doRead(self) -> Any:  # noqa: N802  Twisted's name
        self.done.append("read")
        return self.act()

    def doWrite(self) -> None:  # noqa: N802  Twisted's name
        self.done.append("write")
        self._reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        self.ends.append(reason.type)
        self.near.close()


@pytest.fixture
def reactor() -> Iterator[EPollReactor]:
    one = EPollReactor()
    hasten(one)
    yield one
    one.removeAll()
    for reader in one._internalReaders:
        reader.connectionLost(connectionDone)
    one._poller.close()


def test_what_is_ready_is_served(reactor: EPollReactor) -> None:
    one, quiet = Selectable(reactor), Selectable(reactor)
    reactor.addWriter(one)
    one.far.send(b"x")
    reactor.doIteration(0)
    assert (one.done, quiet.done) == (["read", "write"], [])


def test_a_result_or_an_error_disconnects(reactor: EPollReactor, logged: Sequence[LogEvent]) -> None:
    done, broken, fine = Selectable(reactor), Selectable(reactor), Selectable(reactor)
    done.act = lambda: ConnectionLost()
    broken.act = lambda: 1 // 0
    for one in (done, broken, fine):
        one.far.send(b"x")
    reactor.doIteration(0)
    assert (done.ends, broken.ends, fine.ends) == ([ConnectionLost], [ZeroDivisionError], [])
    assert fine.done == ["read"]
    assert len(failures(logged)) == 1
    assert set(reactor.getReaders()) & {done, broken, fine} == {fine}


def test_an_error_at_the_end_is_logged_and_the_others_are_served(
    reactor: EPollReactor, logged: Sequence[LogEvent]
) -> None:
    broken, fine = Selectable(reactor), Selectable(reactor)

    def lost(reason: Failure) -> None:
        raise RuntimeError("at the end")

    broken.act = lambda: ConnectionDone()
    broken.connectionLost = lost  # type: ignore[method-assign]
    for one in (broken, fine):
        one.far.send(b"x")
    reactor.doIteration(0)
    assert fine.done == ["read"]
    assert failures(logged) == ["at the end"]


def test_who_was_closed_by_one_before_it_is_left_alone(reactor: EPollReactor) -> None:
    pair = [Selectable(reactor), Selectable(reactor)]
    for one, other in (pair, pair[::-1]):
        one.act = lambda other=other: reactor.removeReader(other)  # type: ignore[misc]
        one.far.send(b"x")
    reactor.doIteration(0)
    assert sorted(map(len, (one.done for one in pair))) == [0, 1]


def test_a_hang_up_ends_it(reactor: EPollReactor) -> None:
    one = Selectable(reactor)
    one.near.shutdown(socket.SHUT_RDWR)
    one.far.close()
    one.act = lambda: ConnectionDone()
    reactor.doIteration(0)
    assert one.ends == [ConnectionDone]


def test_what_is_wanted_soon_is_done_when_all_that_is_ready_is_served(reactor: EPollReactor) -> None:
    soon = hasten(reactor)  # once more: nothing changes
    done: list[str] = []
    pair = [Selectable(reactor), Selectable(reactor)]

    def read(one: Selectable) -> None:
        done.append(f"read {one.near.recv(1).decode()}")
        soon(lambda: done.append("soon"))

    for one in pair:
        one.act = partial(read, one)
        one.far.send(b"x")
    reactor.doIteration(0)
    reactor.doIteration(0)
    assert done == ["read x", "read x", "soon", "soon"]


def test_what_a_timer_wants_soon_is_not_kept_waiting_by_a_quiet_network(reactor: EPollReactor) -> None:
    soon = hasten(reactor)
    done: list[str] = []
    soon(lambda: done.append("one"))
    reactor.doIteration(30)
    assert done == ["one"]
    soon(lambda: soon(lambda: done.append("two")))
    reactor.doIteration(30)
    assert done == ["one", "two"]


def test_who_fails_at_the_end_of_a_turn_keeps_nobody_else(reactor: EPollReactor, logged: Sequence[LogEvent]) -> None:
    soon = hasten(reactor)
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError("at the end")

    soon(fail)
    soon(lambda: done.append("fine"))
    reactor.doIteration(0)
    assert (done, failures(logged)) == (["fine"], ["at the end"])


def test_other_reactors_stay_as_they_are() -> None:
    clock = Clock()
    before = dict(vars(clock))
    soon = hasten(clock)
    assert vars(clock) == before
    done: list[str] = []
    soon(lambda: done.append("soon"))
    assert done == []
    clock.advance(0)
    assert done == ["soon"]


# -- ports


def has_ipv6() -> bool:
    """Whether loopback does."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


IPV6 = pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="loopback has no IPv6"))


@pytest.mark.parametrize("host", ["127.0.0.1", IPV6])
def test_a_connection_is_told_apart(host: str) -> None:
    machine = Machine(host)
    client, _, transport = machine.session()
    assert isinstance(transport, SessionTransport)
    peer, own = transport.getPeer(), transport.getHost()  # type: ignore[no-untyped-call]  # Twisted's
    assert (peer.host, peer.port) == client.getsockname()[:2]
    assert own.port == machine.port.socket.getsockname()[1]
    assert transport.logPrefix()
    assert repr(transport)
    machine.close()


def test_replies_do_not_wait_for_more(machine: Machine) -> None:
    _, _, transport = machine.session()
    assert transport.getTcpNoDelay()
    transport.setTcpNoDelay(True)
    transport.setTcpNoDelay(False)
    assert not transport.getTcpNoDelay()


def test_those_that_come_together_are_taken_together(machine: Machine) -> None:
    for _ in range(20):
        machine.connect()
    machine.turn()
    assert len(machine.listener.talks) == 20


def test_a_port_can_take_them_one_by_one() -> None:
    machine = Machine(is_wide=False)
    machine.port.numberAccepts = 1
    open_wide(machine.port)
    for _ in range(3):
        machine.connect()
    machine.turn()
    assert len(machine.listener.talks) == 1
    machine.turn(2)
    assert len(machine.listener.talks) == 3
    machine.close()


def test_one_session_that_fails_is_not_all(machine: Machine, logged: Sequence[LogEvent]) -> None:
    machine.listener.refuses = 1
    refused, _ = machine.connect(), machine.connect()
    machine.turn()
    assert len(machine.listener.talks) == 1
    assert failures(logged) == ["no session today"]
    del refused


def test_without_descriptors_twisted_knows_what_to_do(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    class Full:
        def accept(self) -> None:
            raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(Port, "doRead", asked.append)
    monkeypatch.setattr(machine.port, "socket", Full())
    machine.port.doRead()
    assert asked == [machine.port]
    monkeypatch.undo()


def test_other_ports_stay_as_they_are() -> None:
    class Pipe:
        """Not TCP's."""

    pipe = Pipe()
    open_wide(cast(Any, pipe))
    assert vars(pipe) == {}


# -- connections


def test_what_comes_is_heard_until_the_end(machine: Machine) -> None:
    client, talk, _ = machine.session()
    client.send(b"one")
    machine.turn()
    client.send(b"two")
    client.close()
    machine.turn(2)
    assert talk.heard == [b"one", b"two"]
    assert talk.ends == [ConnectionDone]


def test_a_reset_is_a_loss(machine: Machine) -> None:
    client, talk, _ = machine.session()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    machine.turn(2)
    assert talk.ends == [ConnectionLost]


def test_a_last_reply_goes_out_with_the_end(machine: Machine) -> None:
    client, talk, transport = machine.session()
    write_now(transport, b"221 Bye\r\n", is_last=True)
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(100)
    client.settimeout(60)
    transport.loseConnection()
    machine.turn(2)
    assert talk.ends == [ConnectionDone]
    assert client.recv(100) + client.recv(100) == b"221 Bye\r\n"


def test_a_last_reply_and_the_end_are_one_turn(machine: Machine) -> None:
    client, talk, transport = machine.session()
    transport.registerProducer(cast(Any, talk), True)  # type: ignore[no-untyped-call]  # Twisted's

    def bye(talk: Talk) -> None:
        write_now(transport, b"221 Bye\r\n")
        transport.loseConnection()
        assert transport.disconnecting
        assert talk.ends == []  # not before it has come back from here

    talk.act = bye
    client.send(b"QUIT\r\n")
    machine.turn()
    assert talk.ends == [ConnectionDone]
    assert talk.stopped == 1
    assert (client.recv(100), client.recv(100)) == (b"221 Bye\r\n", b"")
    transport.loseConnection()
    transport.abortConnection()  # type: ignore[no-untyped-call]  # Twisted's
    machine.turn()
    assert talk.ends == [ConnectionDone]
    assert transport not in machine.reactor.getReaders()


@pytest.mark.parametrize("is_late", [False, True])
def test_what_waits_goes_out_before_the_end(machine: Machine, is_late: bool) -> None:
    client, talk, transport = machine.session()
    much = b"x" * 5_000_000

    def answer(talk: Talk) -> None:
        if is_late:
            transport.loseConnection()
        write_now(transport, much)
        transport.loseConnection()

    talk.act = answer
    client.send(b"QUIT\r\n")
    machine.turn()
    assert talk.ends == []
    received = 0
    client.setblocking(False)
    for _ in range(10_000):
        machine.turn()
        try:
            data = client.recv(1 << 20)
        except BlockingIOError:
            continue
        if not data:
            break
        received += len(data)
    assert received == len(much)
    assert talk.ends == [ConnectionDone]


def test_an_end_that_comes_from_elsewhere_is_the_ordinary_one(machine: Machine) -> None:
    client, talk, transport = machine.session()
    transport.write(b"421 Closing\r\n")  # type: ignore[no-untyped-call]  # Twisted's
    transport.loseConnection()
    assert talk.ends == []
    machine.turn(2)
    assert talk.ends == [ConnectionDone]
    assert client.recv(100) == b"421 Closing\r\n"


def test_a_session_that_fails_is_disconnected(machine: Machine, logged: Sequence[LogEvent]) -> None:
    client, talk, transport = machine.session()

    def fail(talk: Talk) -> None:
        transport.loseConnection()
        raise RuntimeError("a bug of ours")

    talk.act = fail
    client.send(b"x")
    machine.turn(2)
    assert talk.ends == [RuntimeError]
    assert failures(logged) == ["a bug of ours"]
    assert client.recv(100) == b""
