"""Servers of one kind: which is asked first, which rests after a failure, how many questions go on at one time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, NoReturn, TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import (
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
    IStreamClientEndpoint,
)
from twisted.logger import Logger

from mailgate.config.hosts import HostPort

__all__ = ["IScannerReactor", "Pool", "ScannerError", "endpoint_of"]

S = TypeVar("S")
T = TypeVar("T")

_log = Logger()

#: Seconds for which a server that has failed is the last to be asked.
REST = 30.0


class ScannerError(Exception):
    """A scanner gives no answer that can be believed. The text is the private cause."""


class IScannerReactor(IReactorTime, IReactorTCP, IReactorUNIX, IReactorPluggableNameResolver):
    """What clients of scanners need of the reactor."""


def endpoint_of(host: HostPort, reactor: IScannerReactor, connect_timeout: float) -> IStreamClientEndpoint:
    """Where a server is; connecting takes `connect_timeout` seconds at most."""
    if host.is_unix:
        return UNIXClientEndpoint(reactor, host.host, timeout=connect_timeout)
    if ":" in host.host:
        return TCP6ClientEndpoint(reactor, host.host, host.port, timeout=connect_timeout)
    if host.host.rpartition(".")[2].isdigit():  # an address: no name ends in a number
        return TCP4ClientEndpoint(reactor, host.host, host.port, timeout=connect_timeout)
    return HostnameEndpoint(reactor, host.host, host.port, timeout=connect_timeout)


class _Server(Generic[S]):
    def __init__(self, name: str, where: S) -> None:
        self.name = name
        self.where = where
        self.rests_until = float("-inf")
        self.has_failed = False


class Pool(Generic[S]):
    """Servers that answer the same questions, each known by a name for the log.

    The first that answers decides. Those that failed within the last 30 seconds come last, and are asked still where
    nobody else answers. `in_turns`: each question begins with the next server, otherwise each with the first.
    At most `limit` questions are under way at one time; others wait, and their waiting is part of the `timeout`
    (seconds) that a question may take in all.
    """

    def __init__(
        self, servers: Mapping[str, S], clock: IReactorTime, *, in_turns: bool, limit: int, timeout: float
    ) -> None:
        self._servers = [_Server(name, where) for name, where in servers.items()]
        self._clock = clock
        self._in_turns = in_turns
        self._slots = DeferredSemaphore(limit)
        self._timeout = timeout
        self._next = 0

    def ask(self, work: Callable[[S], Coroutine[Deferred[Any], Any, T]]) -> Deferred[T]:
        """What `work` comes to with one of the servers; ScannerError where it does with none.

        ScannerError of `work`, and its taking too long, lead to the next server; any other exception is the answer.
        Each server has its share of the time that is left. What is given up is cancelled.
        """
        return Deferred.fromCoroutine(self._ask(work))

    async def _ask(self, work: Callable[[S], Coroutine[Deferred[Any], Any, T]]) -> T:
        end = self._clock.seconds() + self._timeout
        waiting: Deferred[Any] = self._slots.acquire()
        if not waiting.called:
            waiting.addTimeout(self._timeout, self._clock, onTimeoutCancel=_busy)
        await waiting
        try:
            return await self._first_answer(work, end)
        finally:
            self._slots.release()

    async def _first_answer(self, work: Callable[[S], Coroutine[Deferred[Any], Any, T]], end: float) -> T:
        causes = []
        servers = self._in_order()
        for number, server in enumerate(servers):
            share = (end - self._clock.seconds()) / (len(servers) - number)
            if share <= 0:  # it has waited for its turn, which is no server's fault
                causes.append("no time is left")
                break
            asked = Deferred.fromCoroutine(work(server.where))
            try:
                answer = await asked.addTimeout(share, self._clock, onTimeoutCancel=_late)
            except ScannerError as error:
                self._failed(server, error)
                causes.append(f"{server.name}: {error}")
            else:
                self._worked(server)
                return answer
        raise ScannerError("; ".join(causes))

    def _in_order(self) -> list[_Server[S]]:
        servers, now = self._servers, self._clock.seconds()
        if self._in_turns:
            servers = servers[self._next :] + servers[: self._next]
            self._next = (self._next + 1) % len(servers)
        return sorted(servers, key=lambda server: now < server.rests_until)

    def _failed(self, server: _Server[S], error: ScannerError) -> None:
        server.rests_until = self._clock.seconds() + REST
        if not server.has_failed:
            server.has_failed = True
            _log.warn("the scanner {server} does not answer: {error}", server=server.name, error=str(error))

    def _worked(self, server: _Server[S]) -> None:
        server.rests_until = float("-inf")
        if server.has_failed:
            server.has_failed = False
            _log.info("the scanner {server} answers again", server=server.name)


def _late(_outcome: object, seconds: float) -> NoReturn:
    raise ScannerError(f"no answer within {seconds:.3g} s")


def _busy(_outcome: object, seconds: float) -> NoReturn:
    raise ScannerError(f"too many questions at one time: none was answered within {seconds:.3g} s")
