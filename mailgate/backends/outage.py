"""When a system cannot be asked: told once, and once when it can again."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from mailgate.events import RecipientsChanged
from mailgate.interfaces import IEvents

__all__ = ["Outage"]

#: States that are told of at one time: below "*.example.org" anybody can make up domains.
_MOST_STATES = 1000


class Outage:
    """Tells of `name`, a source of the configuration, as in RecipientsChanged."""

    def __init__(self, name: str, clock: IReactorTime, events: IEvents) -> None:
        self._name = name
        self._clock = clock
        self._events = events
        self._states: set[tuple[str, str]] = set()

    def begins(self, reason: str, *, what: str = "unavailable", about: str = "") -> None:
        """It is so now; `reason` is the private cause. `what` is the state in RecipientsChanged, `about` what of the
        source has it."""
        if (what, about) not in self._states and len(self._states) < _MOST_STATES:
            self._states.add((what, about))
            self._tell(what, reason)

    def ends(self, *, what: str = "unavailable", about: str = "") -> None:
        """It is so no more."""
        if (what, about) in self._states:
            self._states.discard((what, about))
            self._tell("available" if what == "unavailable" else f"not {what}", about)

    def _tell(self, state: str, reason: str) -> None:
        at = self._clock.seconds()
        self._events.publish(RecipientsChanged(at=at, source=self._name, state=state, reason=reason))
