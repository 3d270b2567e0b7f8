"""The one place where events are published."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.logger import Logger
from zope.interface import implementer

from mailgate.events import Event
from mailgate.interfaces import IEventObserver, IEvents

__all__ = ["EventHub"]

_log = Logger()


@implementer(IEvents)
class EventHub:
    """Tells each observer of each event, in the order in which the observers came."""

    def __init__(self, observers: Iterable[IEventObserver] = ()) -> None:
        self._observers = tuple(observers)

    def add(self, observer: IEventObserver) -> None:
        """Tell this observer from now on."""
        self._observers = (*self._observers, observer)

    def remove(self, observer: IEventObserver) -> None:
        """Tell it no more; nothing happens where it was not told."""
        self._observers = tuple(one for one in self._observers if one is not observer)

    def publish(self, event: Event) -> None:
        for observer in self._observers:
            try:
                observer.observe(event)
            except Exception:
                # The observer is at fault, not whoever published: the others and the mail go on.
                _log.failure("{observer!r} failed on {kind}", observer=observer, kind=type(event).__name__)
