"""Listening sockets: bound once, by whoever may, and served by one process or by several."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from twisted.internet import fdesc, tcp, unix
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, ServerFactory
from twisted.python.failure import Failure

from mailgate.config.endpoints import with_backlog
from mailgate.config.openings import Opening

__all__ = ["Bound", "CannotBindError", "adopt", "adopted", "bind", "open_ports"]

#: Connections that may wait to be accepted.
_BACKLOG = 1024

Bound = tuple[str, IListeningPort]
"""The name of a part that accepts connections, and one of its ports."""


class CannotBindError(Exception):
    """A line for each endpoint on which nobody can listen."""


def bind(
    reactor: object,
    parts: Iterable[Opening],
    factory: Callable[[str], ServerFactory],
    *,
    again: Callable[[], bool] = lambda: False,
) -> Iterator[Bound]:
    """Listen on every endpoint, for the factory of its part's name. CannotBindError behind the last.

    Where somebody else listens there, `again` says whether it is tried once more.
    """
    failures: list[str] = []
    for part in parts:
        for text in part.endpoints:
            bound: list[IListeningPort] = []
            failed: list[Failure] = []
            while not bound:
                listening = serverFromString(reactor, with_backlog(text, _BACKLOG)).listen(factory(part.name))
                listening.addCallbacks(bound.append, failed.append)
                if not bound and not (_is_in_use(failed[-1]) and again()):
                    failures.append(f"mailgate: {text}: {failed[-1].getErrorMessage()}")
                    break
            yield from ((part.name, port) for port in bound)
    if failures:
        raise CannotBindError("\n".join(failures))


def open_ports(
    reactor: object,
    parts: Iterable[Opening],
    factory: Callable[[str], ServerFactory],
    sockets: Mapping[str, Sequence[int]] | None,
) -> Iterator[IListeningPort]:
    """Accept for the factory of each part's name: from `sockets`, as in Team, or from ports that are bound now.
    CannotBindError as `bind`."""
    if sockets is None:
        yield from (port for _, port in bind(reactor, parts, factory))
    else:
        for name, descriptors in sockets.items():
            yield from (adopt(reactor, one, factory(name)) for one in descriptors)


def _is_in_use(failure: Failure) -> bool:
    error = failure.value
    return isinstance(error, CannotListenError) and getattr(error.socketError, "errno", None) == errno.EADDRINUSE


def adopt(reactor: object, descriptor: int, factory: Factory) -> IListeningPort:
    """Accept from a listening socket that other processes accept from as well; the descriptor is taken over.

    The end of this port is not the end of the socket, which lives until all have closed it.
    """
    fdesc.setNonBlocking(descriptor)
    with socket.socket(fileno=descriptor) as listening:
        family = listening.family
        port: Any
        if family is socket.AF_UNIX:
            port = _SharedUnixPort._fromListeningDescriptor(reactor, descriptor, factory)  # type: ignore[no-untyped-call]
        else:
            port = _SharedPort._fromListeningDescriptor(reactor, descriptor, family, factory)  # type: ignore[no-untyped-call]
        port.startListening()
    return port  # type: ignore[no-any-return]  # Twisted's


def adopted(reactor: object, descriptors: Sequence[int] | None, factory: Factory) -> Sequence[IListeningPort] | None:
    """The ports of these sockets, as `adopt`; None for None."""
    return None if descriptors is None else [adopt(reactor, one, factory) for one in descriptors]


class _OneByOne:
    """One connection each time that the socket is readable, so that the workers share those that come together."""

    @property
    def numberAccepts(self) -> int:  # noqa: N802  Twisted's name
        return 1

    @numberAccepts.setter
    def numberAccepts(self, number: int) -> None:  # noqa: N802  Twisted's name
        pass


class _SharedPort(_OneByOne, tcp.Port):
    """A TCP port that was bound elsewhere."""


class _SharedUnixPort(_OneByOne, unix.Port):
    """A unix socket that was bound elsewhere: its path, mode and queue are not ours to change."""

    # names of Twisted's
    _shouldShutdown = False  # noqa: N815
    _preexistingSocket: socket.socket | None  # noqa: N815
    fileno: Any

    def startListening(self) -> None:  # noqa: N802  Twisted's name
        listening, self._preexistingSocket = self._preexistingSocket, None
        if listening is None or self.factory is None:
            raise AssertionError("there is nothing to listen on")
        tcp._reservedFD.reserve()
        self.factory.doStart()
        self.socket = listening
        self.fileno = listening.fileno
        self.connected = True
        self.startReading()  # type: ignore[no-untyped-call]  # Twisted's

    def connectionLost(self, reason: Failure) -> None:
        tcp.Port.connectionLost(self, reason)
