"""Which entries a change of the queue is about, and why the others that were chosen are left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from mailgate.interfaces import EntryView, Selector, Suspension
from mailgate.web.selection import Action, Change
from mailgate.web.waits import suspension_of

__all__ = ["Concern"]

#: The states that an action is about.
_CONCERNS: Mapping[Action, frozenset[str]] = {
    "hold": frozenset({"queued", "leased"}),
    "release": frozenset({"held", "leased"}),
    "retry": frozenset({"queued"}),
    "bounce": frozenset({"queued", "held", "leased"}),
    "reroute": frozenset({"queued", "held", "quarantined"}),
    "delete": frozenset({"queued", "held", "quarantined"}),
}
#: Actions that are about what a policy keeps back where that is said.
_SAID = frozenset({"bounce", "release"})
#: The states of what an action makes due.
_MAKES_DUE: Mapping[Action, frozenset[str]] = {
    "release": frozenset({"held", "quarantined"}),
    "retry": frozenset({"queued"}),
    "reroute": frozenset({"queued"}),
}


class Concern:
    """What one change is about. `later`, `there`, `others` and `suspended` are those of Changed."""

    def __init__(self, action: Action, change: Change, suspensions: Collection[Suspension], now: float) -> None:
        self._action = action
        self._to = change.to
        self._states = _CONCERNS[action]
        if action in _SAID and (change.state == "quarantined" or (action == "release" and change.ids)):
            # What a policy keeps back is let go, or returned, where that is said, only: not with what was held.
            self._states |= {"quarantined"}
        self._suspensions = suspensions if action == "retry" else ()
        self._now = now
        self.later = self.there = 0
        self.others: Counter[str] = Counter()
        self.suspended: Counter[str] = Counter()

    def released(self, selector: Selector) -> Sequence[Selector]:
        """The same for a release, without what it is not about."""
        if selector.state or "quarantined" in self._states:
            return [selector]
        return [replace(selector, state="held"), replace(selector, state="leased")]

    def has(self, view: EntryView) -> bool:
        """Whether it changes this entry, if it is not under delivery."""
        return not (
            view.state not in self._states
            or (self._action == "retry" and self._comes_later(view))
            or self._is_there(view)
            or suspension_of(view, self._suspensions)
        )

    def count(self, view: EntryView) -> None:
        """Count what is to be told of an entry."""
        if view.state not in self._states:
            self.others[view.state] += view.state != "leased"
        elif self._comes_later(view):
            self.later += 1
        elif self._is_there(view):
            self.there += 1
        elif one := suspension_of(view, self._suspensions):
            self.suspended[f"{one.kind} {one.name}"] += 1

    def _comes_later(self, view: EntryView) -> bool:
        """Whether it would be due now by this action, were it not for the time that its sender has asked for."""
        return view.state in _MAKES_DUE.get(self._action, ()) and view.not_before > self._now

    def _is_there(self, view: EntryView) -> bool:
        return self._action == "reroute" and view.route == self._to
