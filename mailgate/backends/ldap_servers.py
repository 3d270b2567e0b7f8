"""A directory that several servers hold: each question goes to the first that answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, TypeVar

from twisted.internet.defer import Deferred

from mailgate.awaiting import as_deferred
from mailgate.backends.ldap_connection import DirectoryConnection, DirectoryError, DirectoryGoneError
from mailgate.backends.ldap_server import DirectoryServer
from mailgate.backends.questions import Creators, IBackendReactor

__all__ = ["DirectoryServers"]

T = TypeVar("T")


class DirectoryServers:
    """The servers at `urls`, in the order in which they are asked; those that failed lately come last.

    ValueError, for an administrator, where a URL cannot be used, or passwords would be readable on their way.
    """

    def __init__(self, urls: Sequence[str], *, starttls: bool, creators: Creators, reactor: IBackendReactor) -> None:
        self._reactor = reactor
        self._servers = [DirectoryServer(url, starttls=starttls, creators=creators, reactor=reactor) for url in urls]

    async def ask(
        self,
        work: Callable[[DirectoryConnection, bool], Awaitable[T]],
        deadline: float,
        *,
        connect_timeout: float | None = None,
        answers: tuple[type[Exception], ...] = (),
    ) -> T:
        """What `work` comes to over a connection, of which it is told whether it is new.

        Exceptions of the types in `answers` are answers; DirectoryError leads to the next server, and everything else
        is an error of the work. Each server has its share of the time up to `deadline`, in the reactor's seconds.
        DirectoryError where none has answered.
        """
        causes = []
        servers = sorted(self._servers, key=lambda server: server.is_resting)
        for number, server in enumerate(servers):
            share = max(0.0, deadline - self._reactor.seconds()) / (len(servers) - number)
            try:
                asked = Deferred.fromCoroutine(self._ask(server, work, connect_timeout, answers))
                return await asked.addTimeout(share, self._reactor, onTimeoutCancel=_late)
            except DirectoryError as error:
                server.rest()
                causes.append(f"{server.name}: {error}")
        raise DirectoryError("; ".join(causes))

    def close(self) -> None:
        """Close what is kept."""
        for server in self._servers:
            server.close()

    async def _ask(
        self,
        server: DirectoryServer,
        work: Callable[[DirectoryConnection, bool], Awaitable[T]],
        connect_timeout: float | None,
        answers: tuple[type[Exception], ...],
    ) -> T:
        kept = server.take()
        if kept is not None:
            try:
                return await _over(server, kept, work, answers, is_new=False)
            except DirectoryGoneError:
                pass  # the server has closed it meanwhile, which says nothing about the server
        connecting = as_deferred(server.connect())
        if connect_timeout is not None:
            connecting.addTimeout(connect_timeout, self._reactor, onTimeoutCancel=_late)
        return await _over(server, await connecting, work, answers, is_new=True)


async def _over(
    server: DirectoryServer,
    connection: DirectoryConnection,
    work: Callable[[DirectoryConnection, bool], Awaitable[T]],
    answers: tuple[type[Exception], ...],
    *,
    is_new: bool,
) -> T:
    try:
        answer = await work(connection, is_new)
    except answers:
        server.keep(connection)
        raise
    except Exception:
        connection.abort()
        raise
    server.keep(connection)
    return answer


def _late(_outcome: object, seconds: float) -> NoReturn:
    raise DirectoryError(f"no answer within {seconds:g} s")
