"""The start: what a past life has left in the spool. Nothing of this life is touched, whenever it runs, and nothing of
other workers that are alive."""

from __future__ import annotations

import json
from pathlib import Path

from mailgate.spool.codec import CodecError, decode_envelope
from mailgate.spool.database import link, sync
from mailgate.spool.leasing import END_LEASE
from mailgate.spool.store import SetAside, Store

__all__ = ["sweep"]


def sweep(store: Store) -> tuple[list[SetAside], int]:
    """End the leases of a past life, set aside what cannot be read, remove what was never acknowledged.

    Inside one transaction, in which nothing else is accepted: what is set aside, and the number of files removed.
    """
    alive = {row for row, _ in store.fresh.values()}
    fresh = [row for (row,) in store.database.execute("SELECT id FROM fresh") if row not in alive]
    rows = [row for row in fresh if store.past.has_fresh(row)]
    aside = [found for row in rows if (found := store.unfold(row, f"fresh-{row}", None)) is not None]
    store.database.executemany(
        f"UPDATE recipients SET {END_LEASE}, due = max(?, ifnull(not_before, 0))"
        " WHERE state = 'leased' AND due = ? AND queue_id = ? AND number = ?",
        [(store.now(), *lease) for lease in store.past.leases],
    )
    named = set(store.fresh)
    is_known = len(rows) == len(fresh) or _add_names(store, set(fresh) - set(rows), named)
    files = [path for path in store.contents.iterdir() if path.is_file() and path.name not in named]
    unnamed = _without_message(store, files) if is_known else []
    if aside:
        # One of them may be the content of an envelope that cannot be read.
        for path in unnamed:
            link(path, store.aside / f"{path.name}.eml")
        sync(store.aside)
    gone = [*(path for path in store.past.files if path.exists()), *unnamed]
    store.forget(*gone)
    return aside, len(gone)


def _add_names(store: Store, rows: set[int], named: set[str]) -> bool:
    """Add the ids of other workers' fresh messages; whether all of them can be read. Whoever writes has the turn, so
    content that has come before its row is here now with its row."""
    is_whole = True
    for row in rows:
        (text,) = store.database.execute("SELECT envelope FROM fresh WHERE id = ?", (row,)).fetchone()
        try:
            named.add(decode_envelope(text).queue_id)
        except CodecError:
            is_whole = False
    return is_whole


def _without_message(store: Store, files: list[Path]) -> list[Path]:
    found = store.database.execute(
        "SELECT key FROM json_each(?) WHERE value NOT IN (SELECT queue_id FROM messages)",
        (json.dumps([path.name for path in files]),),
    )
    return [files[number] for (number,) in found]
