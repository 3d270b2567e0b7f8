"""The rows of a message: its own, and one for each recipient."""

from __future__ import annotations

import json
import sqlite3

from mailgate.envelope import Envelope

__all__ = ["insert_rows", "told_reason"]

_INSERT = (
    "INSERT INTO recipients (queue_id, not_before, priority, owner, number, address, domain, route, state, due, waits)"
)
_COMMON, _OWN = "?, ?, ?, ?", 7
#: Characters of a reason that a row tells; the envelope has all of it.
_REASON = 1000


def insert_rows(
    database: sqlite3.Connection,
    envelope: Envelope,
    text: str,
    data: bytes | None,
    state: tuple[str, float],
    worker: int,
) -> None:
    """Keep a message, encoded as `text`, with its content unless that has a file. `state` is that of its recipients and
    when they are due; those in quarantine stay there, and are told since when and why."""
    queue_id = envelope.queue_id
    parameters = envelope.parameters
    name, due = state
    database.execute(
        "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)",
        (queue_id, str(envelope.sender).lower(), envelope.received, envelope.size, text, data),
    )
    common = (queue_id, parameters.release_at, parameters.priority or 0, worker)
    rows = [
        (
            one.number,
            str(one.address).lower(),
            one.address.domain,
            one.route,
            *(("quarantined", envelope.received, told_reason(one.quarantine)) if one.quarantine else (name, due, "")),
        )
        for one in envelope.recipients
    ]
    if len(rows) == 1:
        database.execute(f"{_INSERT} VALUES ({_COMMON}, ?, ?, ?, ?, ?, ?, ?)", (*common, *rows[0]))
    else:
        columns = ", ".join(f"json_extract(value, '$[{column}]')" for column in range(_OWN))
        statement = f"{_INSERT} SELECT {_COMMON}, {columns} FROM json_each(?)"  # noqa: S608  names of our own
        database.execute(statement, (*common, json.dumps(rows)))


def told_reason(reason: str) -> str:
    """A reason as a column can hold it: what is no text at all, half a character, is replaced."""
    return reason[:_REASON].replace("\0", "").encode("utf-8", "replace").decode()
