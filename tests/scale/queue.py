"""Makes a long queue, and measures what a start, an administrator and the relay ask of it."""

from __future__ import annotations

import gc
import os
import resource
import sqlite3
import time
from collections.abc import Awaitable, Callable, Container
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import Destination, Grouping, Selector
from mailgate.spool import leasing, sqlite
from mailgate.spool.codec import encode_envelope
from mailgate.testing import EventRecorder, wait_for
from mailgate.testing.simulated import SimulatedSpool

__all__ = ["SELECTORS", "START", "Everything", "a_clock", "fill", "measure", "size", "to_version_2"]

START = 1_800_000_000.0
_BATCH = 10_000
_CONTENT = b"x" * 1000

#: What administrators ask for. "rare" is true of one entry in ten thousand, of the last and of one in between.
SELECTORS: dict[str, dict[str, Any]] = {
    "all": {},
    "domain": {"domain": "d77.example"},
    "recipient": {"recipient": "user77@d77.example"},
    "sender": {"sender": "sender7@client7.example"},
    "site": {"site": "mx1.d77.example"},
    "part of every site": {"site": "mx1"},
    "state queued": {"state": "queued"},
    "state held": {"state": "held"},
    "state leased (none)": {"state": "leased"},
    "route": {"route": "out"},
    "source": {"source": "a1"},
    "reason, common": {"reason": "greylisted"},
    "reason, rare": {"reason": "mailbox full"},
    "reason, none": {"reason": "no such words"},
    "older than all": {"older_than": 1e9},
    "older than most": {"older_than": 100.0},
    "domain and sender": {"domain": "d77.example", "sender": "sender7@client7.example"},
}

_GROUPINGS: tuple[Grouping, ...] = ("domain", "site", "route", "sender", "source", "category", "state", "stream")


class Everything(Container[Destination]):
    """Every destination is full."""

    def __contains__(self, one: object) -> bool:
        return True


def fill(directory: Path, recipients: int, domains: int) -> None:
    """Queue single messages, all due: the newest are new, most others have been deferred, some are held."""
    spool = SimulatedSpool(directory, a_clock(), events=EventRecorder())
    store = spool._store
    for first in range(0, recipients, _BATCH):
        store.begin()
        for number in range(first, min(first + _BATCH, recipients)):
            domain = f"d{number * 7919 % domains}.example"
            envelope = Envelope(
                queue_id=f"{number:016}",
                sender=Address(f"sender{number % 1000}", f"client{number % 100}.example"),
                recipients=(EnvelopeRecipient(0, Address(f"user{number * 7919 % domains}", domain), "out"),),
                received=START - 1_000_000.0 + number,
                size=len(_CONTENT),
                client="mx.client.example[192.0.2.1]",
            )
            store.insert(envelope, encode_envelope(envelope), _CONTENT, None)
        store.commit()
    store.begin()
    store.database.execute(
        "UPDATE recipients SET attempts = 2, site = 'mx1.' || domain || ',mx2.' || domain, source = 'a1', category ="
        " 'greylisted', last_reply = 'mx1.' || domain || ': 451 4.7.1 Greylisted, please try again in 300 seconds'"
        " WHERE CAST(queue_id AS INTEGER) < ?",
        (recipients * 9 // 10,),
    )
    store.database.execute(
        "UPDATE recipients SET last_reply = 'mx1: 452 4.2.2 Mailbox full'"
        " WHERE CAST(queue_id AS INTEGER) % 10000 = 9999"
    )
    store.database.execute("UPDATE recipients SET state = 'held' WHERE CAST(queue_id AS INTEGER) % 10000 = 5000")
    store.commit()
    wait_for(spool.close())


def to_version_2(directory: Path) -> None:
    """Put a database of the version before in the place of the one that is there."""
    path, old = directory / "spool.db", directory / "old.db"
    schema = Path(sqlite.__file__).with_name("schema")
    steps = "".join((schema / f"{number:03}.sql").read_text() for number in (1, 2))
    with closing(sqlite3.connect(old, isolation_level=None)) as database:
        database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {steps} PRAGMA user_version = 2;")
        columns = ", ".join(row[1] for row in database.execute("PRAGMA table_info(recipients)"))
        database.execute("ATTACH ? AS new", (str(path),))
        database.execute("UPDATE new.recipients SET state = 'queued' WHERE state = 'turn'")
        database.execute("INSERT INTO messages SELECT * FROM new.messages")
        database.execute(
            f"INSERT INTO recipients ({columns}) SELECT {columns} FROM new.recipients"  # noqa: S608  of the schema
        )
    old.replace(path)
    for suffix in ("-wal", "-shm"):
        (directory / f"spool.db{suffix}").unlink(missing_ok=True)


def measure(directory: Path) -> dict[str, float]:
    """Seconds for each of what is asked, by its name, and "memory" in MiB: by how much it grew."""
    took: dict[str, float] = {}

    def timed(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
        began = time.perf_counter()
        result = wait_for(do())
        took[name] = time.perf_counter() - began
        return result

    gc.collect()
    before = _memory()
    began = time.perf_counter()
    spool = SimulatedSpool(directory, a_clock(), events=EventRecorder(), is_durable=True)
    took["open"] = time.perf_counter() - began
    timed("sweep", spool.sweep)
    leases = timed("lease: 500", lambda: spool.lease(500, START + 60))
    timed("next due", spool.next_due)
    took["memory"] = _memory() - before
    del leases
    for name, selector in SELECTORS.items():
        timed(f"view: {name}", partial(spool.view, Selector(**selector), 100))
    (middle,) = spool._store.database.execute("SELECT count(*) / 2 FROM messages").fetchone()
    for name in ("all", "sender", "part of every site", "older than most"):
        timed(
            f"view from the middle: {name}", partial(spool.view, Selector(**SELECTORS[name]), 100, (f"{middle:016}", 0))
        )
    for by in _GROUPINGS:
        timed(f"summary: {by}", partial(spool.summary, by, 20))
    timed(
        "summary: domain, of a sender", partial(spool.summary, "domain", 20, Selector(sender="sender7@client7.example"))
    )
    look = partial(leasing.lease, spool._store, 500, START + 60, Everything())
    timed("one look where all is full", lambda: spool._submit(look))
    timed("all into their turns", lambda: spool.lease(500, START + 60, Everything()))
    found = timed("waiting", spool.waiting)
    began = time.perf_counter()
    for destination in found[:100]:
        wait_for(spool.lease_in_turn(destination, 5, START + 60))
    took["lease in turn, each"] = (time.perf_counter() - began) / 100
    timed("lease where all else is in a turn", lambda: spool.lease(500, START + 60))
    took["memory at the end"] = _memory() - before
    timed("close", spool.close)
    return took


def a_clock() -> Clock:
    """It is START."""
    clock = Clock()
    clock.advance(START)
    return clock


def _memory() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def size(directory: Path) -> float:
    """MiB of the database."""
    return os.stat(directory / "spool.db").st_size / 2**20
