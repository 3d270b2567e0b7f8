"""What an operator does with entries that a selector names, as plain calls inside the spool's transaction."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping

from msgspec.structs import replace

from mailgate.interfaces import EntryView, Selector, Suspended, Suspension
from mailgate.spool.query import VIEW, selected, to_view
from mailgate.spool.rows import told_reason
from mailgate.spool.store import Store

__all__ = [
    "COUNTED_FOR",
    "add_counts",
    "delete",
    "hold",
    "quarantine",
    "release",
    "reroute",
    "resume",
    "retry",
    "suspend",
]

#: Days for which counters are kept.
COUNTED_FOR = 40
#: The note of an entry that somebody has released on one of these days.
_RELEASED = (
    "SELECT 1 FROM json_each(:days) AS day CROSS JOIN counts"
    " WHERE counts.key = day.value || '/released/' || r.queue_id || '/' || r.number"
)


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
    """End what keeps them back: they are due, but not before the time for which their sender has asked. The time in
    which they are tried begins now."""
    _note_released(store, selector)
    begins = "not_before = max(:now, ifnull(not_before, 0)), waits = ''"
    _change(store, f"hold = 0, {begins}", selector, "r.state = 'leased' AND r.hold != 0")
    due = f"state = 'queued', due = max(:now, ifnull(not_before, 0)), {begins}"
    return _change(store, due, selector, "r.state IN ('held', 'quarantined')")


def _note_released(store: Store, selector: Selector) -> None:
    """Note what leaves quarantine by somebody's will, so that nobody undoes it; also what somebody has in hand, and
    would have come back to it."""
    kept = "(r.state = 'quarantined' OR (r.state = 'leased' AND r.hold = 2))"
    select, values = selected(store.database, selector, store.now(), kept)
    store.database.execute(
        "INSERT OR IGNORE INTO counts (key, amount)"
        f" SELECT :day || '/released/' || queue_id || '/' || number, 1 FROM ({select})",
        {**values, "day": _day(store.now())},
    )


def _day(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).date().isoformat()


def quarantine(store: Store, selector: Selector, reason: str) -> list[EntryView]:
    """Keep back what waits and what is held, since now and for this reason, but not what somebody has released; as they
    are then."""
    now = store.now()
    select, values = selected(
        store.database, selector, now, f"r.state IN ('queued', 'turn', 'held') AND NOT EXISTS ({_RELEASED})"
    )
    values["days"] = json.dumps([_day(now - days * 86400.0) for days in range(COUNTED_FOR + 1)])
    keys = store.database.execute(select, values).fetchall()
    which = "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:keys)"
    store.database.execute(
        "UPDATE recipients SET state = 'quarantined', due = :now, waits = :reason"
        f" WHERE (queue_id, number) IN ({which})",
        {"now": now, "reason": told_reason(reason), "keys": json.dumps(keys)},
    )
    return [
        to_view(row)
        for row in store.database.execute(
            f"SELECT {VIEW} FROM recipients r CROSS JOIN messages m"
            f" WHERE r.queue_id = m.queue_id AND (r.queue_id, r.number) IN ({which}) ORDER BY r.queue_id, r.number",
            {"keys": json.dumps(keys)},
        )
    ]


def retry(store: Store, selector: Selector) -> int:
    """Make them due, but for those that are to be released later. A place in a line is kept."""
    which = "r.state IN ('queued', 'turn') AND ifnull(r.not_before, 0) <= :now"
    return _change(store, "due = :now, waits = ''", selector, which)


def reroute(store: Store, selector: Selector, route: str) -> int:
    """Another route for what is not leased, due at once unless it is held. A source belongs to the route it was for."""
    return _change(
        store,
        "route = :new_route, source = '', waits = CASE state WHEN 'quarantined' THEN waits ELSE '' END,"
        " due = CASE WHEN state IN ('queued', 'turn') THEN max(:now, ifnull(not_before, 0)) ELSE due END,"
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
        "UPDATE recipients INDEXED BY recipients_suspended SET due = max(:now, ifnull(not_before, 0)), waits = ''"
        " WHERE waits >= 'suspended:' AND waits < 'suspended;' AND state IN ('queued', 'turn')"
        " AND (waits = :told OR substr(waits, 1, length(:told) + 2) = :told || ' (')",
        {"now": now, "told": one.told},
    )
    return any(until == 0.0 or until > now for (until,) in ended)


def _name(kind: Suspended, name: str) -> str:
    return name if kind == "route" else name.lower()


def add_counts(store: Store, amounts: Mapping[str, int]) -> None:
    """Add to counters, and forget those that are too old, or that come to 0."""
    store.database.execute("DELETE FROM counts WHERE key < ?", (_day(store.now() - COUNTED_FOR * 86400.0),))
    store.database.execute(
        "INSERT INTO counts (key, amount) SELECT key, value FROM json_each(?) WHERE 1"
        " ON CONFLICT (key) DO UPDATE SET amount = amount + excluded.amount",
        (json.dumps(dict(amounts)),),
    )
    less = [key for key, amount in amounts.items() if amount < 0]
    if less:
        store.database.execute(
            "DELETE FROM counts WHERE amount <= 0 AND key IN (SELECT value FROM json_each(?))", (json.dumps(less),)
        )
