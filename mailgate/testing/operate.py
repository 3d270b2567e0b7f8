"""What an operator does to the entries of a spool in memory."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from mailgate.interfaces import EntryView, Selector, Suspended, Suspension
from mailgate.testing.entries import Entry, Kept, is_in_force, spelt, view_of

__all__ = ["Operator"]


class Operator:
    """The methods of ISpool for operators, done at once. `counts` are the spool's."""

    def __init__(self, kept: Kept, counts: Counter[str], now: Callable[[], float]) -> None:
        self._kept = kept
        self._counts = counts
        self._now = now
        self._suspensions: dict[tuple[Suspended, str], Suspension] = {}

    def hold(self, selector: Selector) -> int:
        def change(entry: Entry) -> bool:
            if entry.state == "leased":
                entry.hold = entry.hold or "held"
            if entry.state not in ("queued", "turn"):
                return False
            entry.state, entry.waits = "held", ""
            return True

        return self._change(selector, change)

    def release(self, selector: Selector) -> int:
        def change(entry: Entry) -> bool:
            if "quarantined" in (entry.state, entry.hold):
                place = next(
                    f"{stored.envelope.queue_id}/{at}" for stored, at, one in self._kept.entries() if one is entry
                )
                day = datetime.datetime.fromtimestamp(self._now(), datetime.UTC).date().isoformat()
                self._counts[f"{day}/released/{place}"] = 1
            if not entry.hold and entry.state not in ("held", "quarantined"):
                return False
            entry.hold = entry.waits = ""
            entry.not_before = max(self._now(), entry.not_before)
            if entry.state == "leased":
                return False
            entry.state, entry.due = "queued", entry.not_before
            return True

        return self._change(selector, change)

    def quarantine(self, selector: Selector, reason: str) -> Sequence[EntryView]:
        released = {key.partition("/released/")[2] for key in self._counts if "/released/" in key}
        chosen = [
            one
            for one in self._kept.selected(selector)
            if one[2].state in ("queued", "turn", "held") and f"{one[0].envelope.queue_id}/{one[1]}" not in released
        ]
        for _, _, entry in chosen:
            entry.state, entry.due, entry.waits = "quarantined", self._now(), reason
        return [view_of(*one) for one in chosen]

    def retry(self, selector: Selector) -> int:
        def change(entry: Entry) -> bool:
            if entry.state not in ("queued", "turn") or entry.not_before > self._now():
                return False
            entry.due, entry.waits = self._now(), ""
            return True

        return self._change(selector, change)

    def reroute(self, selector: Selector, route: str) -> int:
        def change(entry: Entry) -> bool:
            if entry.state == "leased" or entry.recipient.route == route:
                return False
            entry.recipient, entry.source = replace(entry.recipient, route=route), ""
            entry.waits = entry.waits if entry.state == "quarantined" else ""
            if entry.state in ("queued", "turn"):
                entry.state, entry.due = "queued", max(self._now(), entry.not_before)
            return True

        return self._change(selector, change)

    def delete(self, selector: Selector) -> Sequence[EntryView]:
        chosen = [one for one in self._kept.selected(selector) if one[2].state != "leased"]
        for stored, number, _ in chosen:
            del stored.entries[number]
        self._kept.forget_finished()
        return [view_of(*one) for one in chosen]

    def suspend(self, suspension: Suspension) -> None:
        one = replace(suspension, name=spelt(suspension.kind, suspension.name))
        self._suspensions[one.kind, one.name] = one

    def resume(self, kind: Suspended, name: str) -> bool:
        plain = Suspension(kind=kind, name=spelt(kind, name), since=0.0).told
        for _, _, entry in self._kept.entries():
            is_its = entry.waits == plain or entry.waits.startswith(f"{plain} (")
            if is_its and entry.state in ("queued", "turn"):
                entry.due, entry.waits = max(self._now(), entry.not_before), ""
        ended = self._suspensions.pop((kind, spelt(kind, name)), None)
        return ended is not None and is_in_force(ended, self._now())

    def suspensions(self) -> Sequence[Suspension]:
        return [one for one in self._suspensions.values() if is_in_force(one, self._now())]

    def _change(self, selector: Selector, change: Callable[[Entry], bool]) -> int:
        return sum(change(entry) for _, _, entry in self._kept.selected(selector))
