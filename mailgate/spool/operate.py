"""What an operator does with entries that a selector names, as plain calls inside the spool's transaction."""

from __future__ import annotations

import time

from mailgate.interfaces import EntryView, Selector
from mailgate.spool.query import FROM, VIEW, to_view, where_clause
from mailgate.spool.store import Store

__all__ = ["change", "delete"]


def change(store: Store, action: str, selector: Selector) -> int:
    """hold, release or retry; how many recipients it concerned.

    Nothing is due before the time for which its sender has asked, and retry does not concern it before.
    """
    store.expand_all()
    where, values = where_clause(selector)
    chosen = f"(queue_id, number) IN (SELECT r.queue_id, r.number {FROM} {where})"
    if action == "hold":
        store.database.execute(
            f"UPDATE recipients SET hold = 1 WHERE state = 'leased' AND {chosen}",
            values,
        )
        done = store.database.execute(
            f"UPDATE recipients SET state = 'held' WHERE state = 'queued' AND {chosen}",
            values,
        )
    elif action == "release":
        store.database.execute(
            f"UPDATE recipients SET hold = 0 WHERE state = 'leased' AND {chosen}",
            values,
        )
        done = store.database.execute(
            "UPDATE recipients SET state = 'queued', due = max(:now, not_before)"
            f" WHERE state IN ('held', 'quarantined') AND {chosen}",
            {**values, "now": time.time()},
        )
    else:
        done = store.database.execute(
            f"UPDATE recipients SET due = :now WHERE state = 'queued' AND not_before <= :now AND {chosen}",
            {**values, "now": time.time()},
        )
    return done.rowcount


def delete(store: Store, selector: Selector) -> list[EntryView]:
    """Remove what is not leased."""
    store.expand_all()
    where, values = where_clause(selector)
    also = "AND" if where else "WHERE"
    rows = store.database.execute(
        f"SELECT {VIEW} {FROM} {where} {also} r.state != 'leased'",
        values,
    ).fetchall()
    store.database.executemany(
        "DELETE FROM recipients WHERE queue_id = ? AND number = ?", [(row[0], row[1]) for row in rows]
    )
    store.drop_finished({row[0] for row in rows})
    return [to_view(row) for row in rows]
