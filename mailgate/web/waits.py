"""Why is it still here? An answer for every entry of the queue."""

from __future__ import annotations

import re
from collections.abc import Collection
from math import inf
from typing import Protocol

from mailgate.interfaces import EntryView, Suspended, Suspension

__all__ = ["names", "next_attempt", "suspends", "suspension_of", "why_it_waits"]


class _Named(Protocol):
    """As much of a suspension as says what it is for."""

    @property
    def kind(self) -> Suspended: ...

    @property
    def name(self) -> str: ...


def why_it_waits(
    view: EntryView, live: str, suspensions: Collection[Suspension], now: float, *, is_running: bool
) -> str:
    """Why an entry is still in the queue, in words; never "".

    `live` is what the relay says of it at this moment, "" where it says nothing.
    """
    match view.state:
        case "held":
            return "an administrator holds it until release"
        case "quarantined":
            return f"a policy keeps it back until release{f': {view.waits}' if view.waits else ''}"
        case "set-aside":
            return "it cannot be read"
        case "leased" if live:
            return live
        case "leased" if is_running:
            return "is in the relay's hands"
        case "leased":
            return "was under delivery when the gateway ended: its next start goes on with it"
    if (one := suspension_of(view, suspensions)) is not None:
        return one.told
    if view.waits:
        return view.waits
    if view.not_before > now:
        return "its sender has asked for a later time"
    if view.next_attempt > now:
        return f"deferred as {view.category}" if view.category else "deferred"
    return "the relay takes it at its next look" if is_running else "the gateway does not run"


def suspension_of(view: EntryView, suspensions: Collection[Suspension]) -> Suspension | None:
    """The suspension because of which an entry waits, where it does for one."""
    if view.state != "queued":
        return None
    # The relay has said so where the site is known to it only. Of several, that counts which lasts longest.
    found = (one for one in suspensions if one.told == view.waits or suspends(one, view))
    return max(found, key=lambda one: one.until or inf, default=None)


def next_attempt(view: EntryView, suspension: Suspension | None) -> float:
    """When an entry is attempted next; 0.0 where it waits until somebody ends a suspension."""
    if suspension is None:
        return view.next_attempt
    # What was put back because of it is looked at again from time to time, which is nothing to wait for.
    own = 0.0 if view.waits.startswith("suspended: ") else view.next_attempt
    return max(own, suspension.until) if suspension.until else 0.0


def suspends(one: Suspension, view: EntryView) -> bool:
    """Whether an entry is not attempted because of this suspension, as far as the entry tells."""
    match one.kind:
        case "route":
            return names(one, view.route)
        case "domain":
            return names(one, view.recipient.rpartition("@")[2])
        case "sender":
            return names(one, view.sender)
    return names(one, view.site)


def names(one: _Named, key: str) -> bool:
    """Whether a suspension is for the route, domain, sender or site `key`, as entries have it."""
    match one.kind:
        case "route" | "domain":
            return key == one.name
        case "sender":
            return one.name in (key or "<>", key.rpartition("@")[2])
    # A site is named by any host of it.
    return re.search(rf"(?<![\w.-]){re.escape(one.name)}(?![\w.-])", key) is not None
