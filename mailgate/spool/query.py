"""Which entries an administrator means, as SQL over `recipients r` and `messages m`, and what is shown of them."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence

from mailgate.interfaces import EntryView, Outcome, Selector

__all__ = ["STATE", "VIEW", "kept_sender", "select_view", "selected", "to_view", "told"]

#: What people call a state: a turn is no other than waiting.
STATE = "CASE r.state WHEN 'turn' THEN 'queued' ELSE r.state END"
_WAITS = "CASE WHEN r.state = 'turn' AND r.waits = '' THEN 'waits for its turn at ' || r.domain ELSE r.waits END"

#: By the fields of EntryView. Damage may have left anything where there was text.
VIEW = (
    "r.queue_id, r.number, CAST(m.sender AS TEXT), CAST(r.address AS TEXT), CAST(r.route AS TEXT),"
    f" {STATE}, m.size, m.received, r.attempts, CASE r.state WHEN 'turn' THEN r.turn ELSE r.due END,"
    " CAST(r.last_reply AS TEXT), ifnull(r.not_before, 0.0), CAST(r.site AS TEXT), CAST(r.source AS TEXT),"
    f" CAST(r.category AS TEXT), CAST({_WAITS} AS TEXT)"
)

_FIELDS = tuple(EntryView.__dataclass_fields__)

_BEHIND = "m.queue_id >= :after_id AND (r.queue_id, r.number) > (:after_id, :after_number)"

#: Entries that are sorted rather than looked for among all the others.
_FEW = 2000
#: Sites by a part of their names, if they are few.
_SITES = (
    "SELECT DISTINCT site FROM recipients INDEXED BY recipients_site"
    f" WHERE site != '' AND instr(site, :site) > 0 LIMIT {_FEW}"
)


def _where(selector: Selector, now: float) -> tuple[str, dict[str, object]]:
    """The condition for a selector, and its values."""
    conditions = ["1"]
    values: dict[str, object] = {}
    if selector.sender:
        conditions.append("m.sender = :sender")
        values["sender"] = kept_sender(selector)
    for key, column in (
        ("queue_id", "r.queue_id"),
        ("recipient", "r.address"),
        ("domain", "r.domain"),
        ("route", "r.route"),
        ("source", "r.source"),
    ):
        if value := getattr(selector, key):
            conditions.append(f"{column} = :{key}{' COLLATE NOCASE' if key == 'source' else ''}")
            values[key] = value.lower() if key in ("recipient", "domain") else value
    if selector.state:
        states = ("queued", "turn") if selector.state == "queued" else (selector.state,)
        conditions.append("+r.state IN (SELECT value FROM json_each(:states))")
        values["states"] = json.dumps(states)
    if selector.site:
        conditions.append("instr(r.site, :site) > 0")
        values["site"] = selector.site.lower()
    if selector.reason:
        texts = ("r.last_reply", _WAITS)
        parts = [f"{text} LIKE :part ESCAPE '!'" for text in texts]
        conditions.append(f"(r.category = :reason OR {' OR '.join(parts)})")
        values["reason"] = selector.reason.lower()
        values["part"] = "%" + re.sub("([!%_])", r"!\1", selector.reason) + "%"
    if selector.older_than:
        conditions.append("m.received <= :before")
        values["before"] = now - selector.older_than
    return " AND ".join(conditions), values


def selected(
    database: sqlite3.Connection,
    selector: Selector,
    now: float,
    also: str = "1",
    columns: str = "r.queue_id, r.number",
) -> tuple[str, dict[str, object]]:
    """A SELECT of the entries that are chosen and for which the condition `also` holds, in the order of queue id and
    number, and its values. It goes by way of what the fewest entries have."""
    where, values = _where(selector, now)
    source = "recipients r CROSS JOIN messages m"
    if not selector.queue_id:
        source, where = _way(database, selector, where, values)
    first = source.split()[1]  # the table that comes first, and so has the order
    return (
        f"SELECT {columns} FROM {source} WHERE r.queue_id = m.queue_id AND {where} AND {also}"
        f" ORDER BY {first}.queue_id, r.number",
        values,
    )


def _way(database: sqlite3.Connection, selector: Selector, where: str, values: dict[str, object]) -> tuple[str, str]:
    """Where to look, and the condition for it. All but the last three come in their order, however many they are."""
    ways: list[tuple[str, str, str]] = []  # a table, its index, the condition for it
    if selector.recipient:
        ways.append(("recipients r", "recipients_address", "r.address = :recipient"))
    if selector.domain:
        ways.append(("recipients r", "recipients_domain", "r.domain = :domain"))
    if selector.sender:
        ways.append(("messages m", "messages_sender", "m.sender = :sender"))
    in_order = len(ways)
    if selector.site:
        sites = [site for (site,) in database.execute(_SITES, {"site": values["site"]})]
        values["sites"] = json.dumps(sites)
        if len(sites) < _FEW:
            condition = "r.site != '' AND r.site IN (SELECT value FROM json_each(:sites))"
            ways.append(("recipients r", "recipients_site", condition))
    if selector.state:
        condition = "r.state IN (SELECT value FROM json_each(:states))"
        ways.append(("recipients r", "recipients_due", condition))
    if selector.older_than:
        ways.append(("messages m", "messages_received", "m.received <= :before"))
    counts = [
        database.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM {table} INDEXED BY {index} WHERE {condition} LIMIT {_FEW})", values
        ).fetchone()[0]
        for table, index, condition in ways
    ]
    best = min(range(len(ways)), key=counts.__getitem__, default=None)
    if best is not None and (best < in_order or counts[best] < _FEW):
        table, index, condition = ways[best]
        other = "messages m" if table == "recipients r" else "recipients r"
        return f"{table} INDEXED BY {index} CROSS JOIN {other}", f"{condition} AND {where}"
    if selector.older_than:
        where += " AND r.queue_id <= (SELECT max(queue_id) FROM messages WHERE received <= :before)"
    return "recipients r CROSS JOIN messages m", where


def kept_sender(selector: Selector) -> str:
    """The sender that a selector asks for, as entries have it: the null reverse-path is "" there."""
    return "" if selector.sender == "<>" else selector.sender.lower()


def select_view(
    database: sqlite3.Connection, selector: Selector, now: float, limit: int, after: tuple[str, int] | None
) -> list[EntryView]:
    """Entries that have rows, by queue id and number, from behind `after` on."""
    select, values = selected(database, selector, now, "1" if after is None else _BEHIND, VIEW)
    if after is not None:
        values |= {"after_id": after[0], "after_number": after[1]}
    rows = database.execute(f"{select} LIMIT :limit", {**values, "limit": limit}).fetchall()
    return [to_view(row) for row in rows]


def to_view(row: Sequence[object]) -> EntryView:
    """A row of VIEW."""
    return EntryView(**dict(zip(_FIELDS, row, strict=True)))  # type: ignore[arg-type]


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
