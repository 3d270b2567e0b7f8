"""Why is it still here? An answer for every entry of the queue."""

from __future__ import annotations

import re
from collections.abc import Collection

from mailgate.interfaces import EntryView, Suspension

__all__ = ["suspends", "why_it_waits"]


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
            return "a policy keeps it back until release"
        case "set-aside":
            return "it cannot be read"
        case "leased" if live:
            return live
        case "leased" if is_running:
            return "is in the relay's hands"
        case "leased":
            return "was under delivery when the gateway ended: its next start goes on with it"
    for one in suspensions:
        if suspends(one, view):
            return one.told
    if view.waits:
        return view.waits
    if view.not_before > now:
        return "its sender has asked for a later time"
    if view.next_attempt > now:
        return f"deferred as {view.category}" if view.category else "deferred"
    return "the relay takes it at its next look" if is_running else "the gateway does not run"


def suspends(one: Suspension, view: EntryView) -> bool:
    """Whether an entry is not attempted because of this suspension, as far as the entry tells."""
    match one.kind:
        case "route":
            return view.route == one.name
        case "domain":
            return view.recipient.rpartition("@")[2] == one.name
        case "sender":
            return one.name in (view.sender or "<>", view.sender.rpartition("@")[2])
    # A site is named by any host of it.
    return re.search(rf"(?<![\w.-]){re.escape(one.name)}(?![\w.-])", view.site) is not None
