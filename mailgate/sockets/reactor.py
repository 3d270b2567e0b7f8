"""The reactor's turn without a context for each event, and with an end that others can wait for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from select import EPOLLIN
from typing import TypeAlias

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

__all__ = ["Soon", "hasten"]

_log = Logger()

Soon: TypeAlias = Callable[[Callable[[], object]], object]
"""Has something called when what the reactor has at hand is served."""


def hasten(reactor: IReactorTime) -> Soon:
    """Let the reactor of Linux serve what is ready directly.

    Twisted makes a context for each event, so that the lines of its old log could name the connection that they are
    about. Nobody here reads that, and it costs as much as a recv. Every other reactor stays as it is. What is returned
    is for the reactor's thread only; to call this once more does no harm.
    """
    if type(reactor) is not EPollReactor:
        return partial(reactor.callLater, 0)
    turn = getattr(reactor.doIteration, "__self__", None)
    if not isinstance(turn, _Turn):
        turn = _Turn(reactor)
        reactor.doIteration = turn.run  # type: ignore[method-assign]  # that is the point of it
    return turn.soon


class _Turn:
    """One turn of the reactor after another, each with what is to be done at its end."""

    def __init__(self, reactor: EPollReactor) -> None:
        self._reactor = reactor
        self._calls: list[Callable[[], object]] = []
        self.soon = self._calls.append

    def run(self, timeout: float | None) -> None:
        """As EPollReactor.doPoll. What fails is logged, and the others that are ready have their turn."""
        reactor = self._reactor
        served = reactor._selectables
        if self._calls:  # of a timer, or of another thread's call; they may have added such
            self._end()
            timeout = 0.0
        # An interrupted call is made again by Python itself (PEP 475), when the signal's handler has run.
        for descriptor, event in reactor._poller.poll(-1 if timeout is None else timeout, len(served)):
            selectable = served.get(descriptor)
            if selectable is None:  # closed by one that was served before it
                continue
            try:
                if event != EPOLLIN:
                    reactor._doReadOrWrite(selectable, descriptor, event)
                elif why := selectable.doRead():
                    reactor._disconnectSelectable(selectable, why, True)
            except Exception as error:
                _log.failure("{selectable!r} failed", selectable=selectable)
                if descriptor in served and served[descriptor] is selectable:
                    reactor._disconnectSelectable(selectable, error, event == EPOLLIN)
        if self._calls:
            self._end()

    def _end(self) -> None:
        calls = self._calls.copy()
        self._calls.clear()
        for call in calls:
            try:
                call()
            except Exception:
                _log.failure("{call!r} failed", call=call)
