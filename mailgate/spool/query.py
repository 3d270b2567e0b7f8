"""Which entries an administrator means, as SQL over `recipients r` and `messages m`, and what is shown of them."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

from mailgate.interfaces import EntryView, Outcome, Selector

__all__ = ["FROM", "VIEW", "kept_sender", "select_view", "to_view", "told", "where_clause"]

VIEW = (
    "r.queue_id, r.number, m.sender, r.address, r.route, r.state, m.size, m.received, r.attempts, r.due, r.last_reply,"
    " r.not_before"
)

FROM = "FROM recipients r JOIN messages m USING (queue_id)"
FIELDS = tuple(EntryView.__dataclass_fields__)


def where_clause(selector: Selector) -> tuple[str, dict[str, object]]:
    """The condition for a selector ("" for none), and its values."""
    conditions = []
    values: dict[str, object] = {}
    if selector.sender:
        conditions.append("m.sender = :sender")
        values["sender"] = kept_sender(selector)
    for key, column in (
        ("queue_id", "r.queue_id"),
        ("recipient", "r.address"),
        ("domain", "r.domain"),
        ("route", "r.route"),
        ("state", "r.state"),
    ):
        if value := getattr(selector, key):
            conditions.append(f"{column} = :{key}")
            values[key] = value.lower() if key in ("recipient", "domain") else value
    if selector.older_than:
        conditions.append("m.received <= :before")
        values["before"] = time.time() - selector.older_than
    return ("WHERE " + " AND ".join(conditions)) if conditions else "", values


def kept_sender(selector: Selector) -> str:
    """The sender that a selector asks for, as entries have it: the null reverse-path is "" there."""
    return "" if selector.sender == "<>" else selector.sender.lower()


def select_view(
    database: sqlite3.Connection, selector: Selector, limit: int, after: tuple[str, int] | None
) -> Iterator[EntryView]:
    """Entries that have rows, by queue id and number, from behind `after` on."""
    where, values = where_clause(selector)
    if after is not None:
        where += (" AND " if where else "WHERE ") + "(r.queue_id, r.number) > (:after_id, :after_number)"
        values |= {"after_id": after[0], "after_number": after[1]}
    rows = database.execute(
        f"SELECT {VIEW} {FROM} {where} ORDER BY r.queue_id, r.number LIMIT :limit",
        {**values, "limit": limit},
    )
    return (to_view(row) for row in rows)


def to_view(row: tuple[object, ...]) -> EntryView:
    """A row of VIEW."""
    return EntryView(**dict(zip(FIELDS, row, strict=True)))  # type: ignore[arg-type]


def told(outcome: Outcome) -> str:
    """The last reply as an entry has it."""
    host = f"{outcome.host}: " if outcome.host else ""
    reply = str(outcome.reply)
    if outcome.reason and outcome.reason not in reply:
        # Most of our own findings are told in both.
        said = outcome.reply.text
        head = reply.removesuffix(said) if said and said in outcome.reason else f"{reply} "
        reply = f"{head}({outcome.reason})"
    return f"{host}{reply}"[:1000].encode("utf-8", "backslashreplace").decode()
