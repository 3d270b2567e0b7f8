"""The interfaces are the map: each can be implemented from its text alone, and events are frozen facts."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface import Interface
from zope.interface.interface import InterfaceClass, Method

from mailgate import events, interfaces

INTERFACES = [
    value for name, value in vars(interfaces).items() if isinstance(value, InterfaceClass) and value is not Interface
]
EVENTS = [getattr(events, name) for name in events.__all__]


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda one: one.getName())
def test_every_method_says_what_it_does(interface: InterfaceClass) -> None:
    assert interface.__doc__
    for name, attribute in interface.namesAndDescriptions():
        assert attribute.__doc__, name
        if isinstance(attribute, Method):
            assert attribute.interface is not None


@pytest.mark.parametrize("event", EVENTS, ids=lambda one: one.__name__)
def test_events_are_frozen_and_say_when(event: type[events.Event]) -> None:
    assert event.__doc__
    names = event.__struct_fields__
    assert names[0] == "at"
    one: Any = event(**dict.fromkeys(names, 0))
    with pytest.raises(AttributeError):
        one.at = 1.0
