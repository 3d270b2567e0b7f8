"""What an operator does with entries that a selector names, as plain calls inside the spool's transaction."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping

from msgspec.structs import replace

from mailgate.interfaces import EntryView, Selector, Suspended, Suspension
from mailgate.spool.query import VIEW, selected, to_view
from mailgate.spool.store import Store

__all__ = ["add_counts", "delete", "hold", "release", "reroute", "resume", "retry", "suspend"]

#: Days for which counters are kept.
_COUNTED_FOR = 40


def hold(store: Store, selector: Selector) -> int:
    """Keep back what waits, at once, and what is leased, when its lease ends; how many of the former."""
    # Fresh messages are all leased; but what their leases bring back has to be noted somewhere.
    if selector.queue_id:
        store.expand(selector.queue_id)
    else:
        store.expand_all()
    _change(store, "hold = 1", selector, "r.state = 'leased' AND r.hold = 0")
    return _change(store, "state = 'held', waits = ''", selector, "r.state IN ('queued', 'turn')")


def release(store: Store, selector: Selector) -> int:
    """End what keeps them back: they are due, but not before the time for which their sender has asked."""
    _change(store, "hold = 0", selector, "r.state = 'leased' AND r.hold != 0")
    due = "state = 'queued', due = max(:now, not_before), waits = ''"
    return _change(store, due, selector, "r.state IN ('held', 'quarantined')")


def retry(store: Store, selector: Selector) -> int:
    """Make them due, but for those that are to be released later. A place in a line is kept."""
    return _change(store, "due = :now, waits = ''", selector, "r.state IN ('queued', 'turn') AND r.not_before <= :now")


def reroute(store: Store, selector: Selector, route: str) -> int:
    """Another route for what is not leased, due at once unless it is held. A source belongs to the route it was for."""
    return _change(
        store,
        "route = :new_route, source = '', waits = '',"
        " due = CASE WHEN state IN ('queued', 'turn') THEN max(:now, not_before) ELSE due END,"
        " state = CASE state WHEN 'turn' THEN 'queued' ELSE state END",
        selector,
        "r.state != 'leased' AND r.route != :new_route",
        {"new_route": route},
    )


def _change(
    store: Store, changes: str, selector: Selector, which: str, more: Mapping[str, object] | None = None
) -> int:
    """Make the changes to those of the selected for which the condition `which` holds; how many they are."""
    now = store.now()
    select, values = selected(store.database, selector, now, which)
    done = store.database.execute(
        f"UPDATE recipients SET {changes} WHERE (queue_id, number) IN ({select})",
        {**values, "now": now, **(more or {})},
    )
    return done.rowcount


def delete(store: Store, selector: Selector) -> list[EntryView]:
    """Remove what is not leased."""
    select, values = selected(store.database, selector, store.now(), "r.state != 'leased'", VIEW)
    gone = [to_view(row) for row in store.database.execute(select, values)]
    keys = [(one.queue_id, one.number) for one in gone]
    store.database.execute(
        "DELETE FROM recipients WHERE (queue_id, number) IN"
        " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))",
        (json.dumps(keys),),
    )
    store.drop_finished({queue_id for queue_id, _ in keys})
    return gone


def suspend(store: Store, suspension: Suspension) -> None:
    """Note it, in the place of one for the same."""
    one = replace(suspension, name=_name(suspension.kind, suspension.name))
    store.database.execute(
        "REPLACE INTO suspensions (kind, name, since, until, reason) VALUES (?, ?, ?, ?, ?)",
        (one.kind, one.name, one.since, one.until, one.reason),
    )


def resume(store: Store, kind: Suspended, name: str) -> bool:
    """End it; what has been given back because of it is due. Whether it was in force."""
    one = Suspension(kind=kind, name=_name(kind, name), since=0.0)
    now = store.now()
    ended = store.database.execute(
        "DELETE FROM suspensions WHERE kind = ? AND name = ? RETURNING until", (one.kind, one.name)
    ).fetchall()
    store.database.execute(
        "UPDATE recipients INDEXED BY recipients_suspended SET due = max(:now, not_before), waits = ''"
        " WHERE waits >= 'suspended:' AND waits < 'suspended;' AND state IN ('queued', 'turn')"
        " AND (waits = :told OR substr(waits, 1, length(:told) + 2) = :told || ' (')",
        {"now": now, "told": one.told},
    )
    return any(until == 0.0 or until > now for (until,) in ended)


def _name(kind: Suspended, name: str) -> str:
    return name if kind == "route" else name.lower()


def add_counts(store: Store, amounts: Mapping[str, int]) -> None:
    """Add to counters, and forget those that are too old."""
    first = datetime.datetime.fromtimestamp(store.now(), datetime.UTC) - datetime.timedelta(days=_COUNTED_FOR)
    store.database.execute("DELETE FROM counts WHERE key < ?", (first.date().isoformat(),))
    store.database.execute(
        "INSERT INTO counts (key, amount) SELECT key, value FROM json_each(?) WHERE 1"
        " ON CONFLICT (key) DO UPDATE SET amount = amount + excluded.amount",
        (json.dumps(dict(amounts)),),
    )
