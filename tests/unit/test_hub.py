"""The hub: everybody is told, whatever one of them does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from mailgate.events import Event, SpoolRecovered, Stopping
from mailgate.interfaces import IEventObserver, IEvents
from mailgate.observe.hub import EventHub


@implementer(IEventObserver)
class Ear:
    def __init__(self) -> None:
        self.heard: list[Event] = []

    def observe(self, event: Event) -> None:
        self.heard.append(event)


@implementer(IEventObserver)
class Broken:
    def observe(self, event: Event) -> None:
        raise RuntimeError("no ear for this")


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []
    observer = cast("ILogObserver", events.append)
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


def test_everybody_is_told_in_order() -> None:
    first, second = Ear(), Ear()
    hub = EventHub([first])
    assert IEvents.providedBy(hub)
    hub.publish(one := Stopping(at=1.0))
    hub.add(second)
    hub.publish(two := SpoolRecovered(at=2.0))
    assert (first.heard, second.heard) == ([one, two], [two])
    hub.remove(first)
    hub.remove(first)
    hub.publish(Stopping(at=3.0))
    assert (len(first.heard), len(second.heard)) == (2, 2)


def test_an_observer_that_raises_is_logged_and_disturbs_nobody(logged: list[LogEvent]) -> None:
    ear = Ear()
    EventHub([Broken(), ear]).publish(Stopping(at=1.0))
    assert len(ear.heard) == 1
    (entry,) = logged
    assert "no ear for this" in str(entry["log_failure"].value)
    assert entry["kind"] == "Stopping"


def test_an_observer_may_leave_while_it_is_told() -> None:
    ear = Ear()

    @implementer(IEventObserver)
    class Leaver:
        def observe(self, event: Event) -> None:
            hub.remove(self)

    hub = EventHub([Leaver(), ear])
    hub.publish(Stopping(at=1.0))
    hub.publish(Stopping(at=2.0))
    assert len(ear.heard) == 2
