"""Threads of their own: what they bring, and that nobody waits for one that hangs."""

from __future__ import annotations

from queue import Queue
from threading import Event
from threading import enumerate as threads
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads

from mailgate.awaiting import as_deferred
from mailgate.doctor.threads import in_threads_of_their_own
from tests.unit.remote_peer import failure_of, outcome


class Reactor:
    def __init__(self) -> None:
        self.handed: Queue[Any] = Queue()

    def callFromThread(self, function: Any, *args: Any) -> None:  # noqa: N802 (Twisted's)
        self.handed.put((function, args))

    def turn(self) -> None:
        function, args = self.handed.get(timeout=60)
        function(*args)


def start(reactor: Reactor, call: Any) -> Deferred[Any]:
    return as_deferred(in_threads_of_their_own(cast(IReactorFromThreads, reactor))(call))


def test_what_they_bring() -> None:
    reactor = Reactor()
    asked = start(reactor, lambda: 5)
    reactor.turn()
    assert outcome(asked) == 5
    asked = start(reactor, lambda: 1 // 0)
    reactor.turn()
    assert isinstance(failure_of(asked), ZeroDivisionError)


def test_nobody_waits_for_one_that_hangs() -> None:
    reactor, go = Reactor(), Event()
    asked = start(reactor, go.wait)
    (thread,) = [one for one in threads() if one.name == "doctor" and one.is_alive()]
    assert thread.daemon
    asked.cancel()
    assert isinstance(failure_of(asked), CancelledError)
    go.set()
    reactor.turn()  # and what comes late is nobody's
