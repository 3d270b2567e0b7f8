"""Telling the relay what a change has made due."""

from __future__ import annotations

from collections.abc import Iterable

from mailgate.interfaces import Destination, EntryView, IRelay, Selector
from mailgate.web.selection import Action

__all__ = ["Wakes"]

#: Destinations that are told of one by one in one change; with more, every site is told.
_MOST = 20


class Wakes:
    """Lets the relay look, portion by portion. Sites that rest are tried again where an administrator wants it so."""

    def __init__(self, relay: IRelay, action: Action, route: str) -> None:
        self._relay = relay
        self._action = action
        self._route = route
        self._told: set[Destination] = set()
        self._all_told = False

    def after(self, views: Iterable[EntryView]) -> None:
        """These were changed."""
        match self._action:
            case "hold" | "delete":
                return
            case "bounce":
                self._relay.look()  # for the reports
                return
        wanted = {Destination(self._route or view.route, view.recipient.rpartition("@")[2]) for view in views}
        new = wanted - self._told
        if self._all_told or not new:
            self._relay.look()
        elif len(self._told) + len(new) > _MOST:
            self._all_told = True
            self._relay.kick()
        else:
            self._told |= new
            for one in sorted(new):
                self._relay.kick(Selector(route=one.route, domain=one.domain))
