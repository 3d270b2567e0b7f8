"""The control socket: HTTP over a unix socket in the state directory, for the `mailgate` command.

Who may open the socket may do everything: it is 0600 in a directory that is 0700.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Container
from pathlib import Path
from time import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IReactorTime, IReactorUNIX
from twisted.web.http import Request
from twisted.web.server import Site
from zope.interface import implementer

from mailgate.awaiting import in_reactors_threads
from mailgate.events import Event, SpoolFailed, SpoolRecovered, Started, Stopping
from mailgate.interfaces import IEventObserver, IEvents, IRelay, ISpool
from mailgate.quarantine.office import QuarantineOffice
from mailgate.web.models import Status
from mailgate.web.operations import QueueOperations
from mailgate.web.quarantine import QuarantineOperations
from mailgate.web.resources import resources
from mailgate.web.steering import Steering

__all__ = ["Control", "StatusBoard"]


_TELLING = frozenset({Started, SpoolFailed, SpoolRecovered, Stopping})


@implementer(IEventObserver)
class StatusBoard:
    """Knows from events how the daemon is, whose process is `pid`, if not our own."""

    def __init__(self, now: Callable[[], float] = time, pid: int | None = None) -> None:
        self._now = now
        self._pid = pid or os.getpid()
        self._started: Started | None = None
        self._spool = "ok"
        self._stopping: Stopping | None = None

    def observe(self, event: Event) -> None:
        if type(event) not in _TELLING:
            return
        match event:
            case Started():
                self._started = event
            case SpoolFailed(error=error):
                self._spool = error
            case SpoolRecovered():
                self._spool = "ok"
            case Stopping():
                self._stopping = event

    def status(self) -> Status:
        """At this moment."""
        started, stopping, now = self._started, self._stopping, self._now()
        return Status(
            pid=self._pid,
            started=started.at if started else None,
            uptime=max(0.0, now - started.at) if started else 0.0,
            listeners=started.listeners if started else (),
            spool=self._spool,
            stopping=stopping is not None,
            stopping_for=max(0.0, now - stopping.at) if stopping else 0.0,
        )


class Control:
    """The socket: `listen` when the spool is open, `close` before it is closed.

    `relay` is told of changes, and `quarantine` sees to what is kept back. `board` has to be told of events from the
    start. `routes` has the names of the routes that there are now.
    """

    def __init__(
        self,
        reactor: Any,
        spool: ISpool,
        events: IEvents,
        relay: IRelay,
        board: StatusBoard,
        routes: Callable[[], Container[str]],
        quarantine: QuarantineOffice,
    ) -> None:
        self._unix = IReactorUNIX(reactor)
        in_thread = in_reactors_threads(reactor)
        operations = QueueOperations(spool, events, relay, routes, in_thread)
        steering = Steering(spool, events, relay, routes)
        #: What is done with mail in quarantine, and all that the socket serves, for others to serve as well.
        self.quarantine = QuarantineOperations.of(quarantine, spool, events, operations, in_thread)
        self.resource = resources(operations, steering, board.status, self.quarantine)
        self._site = _QuietSite(self.resource, reactor=IReactorTime(reactor))  # type: ignore[no-untyped-call]  # Twisted's
        self._port: IListeningPort | None = None

    def listen(self, path: Path) -> None:
        """Serve there; what a dead daemon has left is replaced: whoever has the spool has the socket.

        OSError, or CannotListenError, where that cannot be; a unix socket's path has at most 107 octets.
        """
        try:
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
        except FileNotFoundError:
            pass
        factory: Any = self._site  # of HTTP channels, which Twisted types as another Factory
        self._port = self._unix.listenUNIX(str(path), factory, mode=0o600)

    def close(self) -> Deferred[None]:
        """Serve no more."""
        port, self._port = self._port, None
        return Deferred.fromCoroutine(_stopped(port))


async def _stopped(port: IListeningPort | None) -> None:
    if port is not None:
        stopping = port.stopListening()
        if isinstance(stopping, Deferred):
            await stopping


class _QuietSite(Site):
    """Without an access log (events are the log), and without the clock that Twisted runs for it."""

    noisy = False

    def startFactory(self) -> None:  # noqa: N802  Twisted's name
        pass

    def stopFactory(self) -> None:  # noqa: N802  Twisted's name
        pass

    def log(self, request: Request) -> None:
        pass
