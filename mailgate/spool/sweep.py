"""The start: what a past life has left in the spool. Nothing of this life is touched, whenever it runs."""

from __future__ import annotations

import time

from mailgate.spool.database import link, sync
from mailgate.spool.store import END_LEASE, SetAside, Store

__all__ = ["sweep"]


def sweep(store: Store) -> tuple[list[SetAside], int]:
    """End the leases of a past life, set aside what cannot be read, remove what was never acknowledged.

    Inside one transaction, in which nothing else is accepted: what is set aside, and the number of files removed.
    """
    alive = {row for row, _ in store.fresh.values()}
    rows = [row for (row,) in store.database.execute("SELECT id FROM fresh") if row not in alive]
    aside = [found for row in rows if (found := store.unfold(row, f"fresh-{row}", None)) is not None]
    now = time.time()
    store.database.executemany(
        f"UPDATE recipients SET {END_LEASE}, due = ?"
        " WHERE state = 'leased' AND due = ? AND queue_id = ? AND number = ?",
        [(now, *lease) for lease in store.past_leases],
    )
    unnamed = [
        path
        for path in store.contents.iterdir()
        if path.is_file() and path.name not in store.fresh and not store.has(path.name)
    ]
    if aside:
        # One of them may be the content of an envelope that cannot be read.
        for path in unnamed:
            link(path, store.aside / f"{path.name}.eml")
        sync(store.aside)
    gone = [*(path for path in store.leftovers if path.exists()), *unnamed]
    store.forget(*gone)
    return aside, len(gone)
