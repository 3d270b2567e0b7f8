"""What a damaged database still holds: every row that can be found by its key, and none twice."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from mailgate.spool.codec import CodecError, decode_envelope, encode_envelope
from mailgate.spool.database import as_text, open_database
from mailgate.spool.past import fresh_ids
from mailgate.spool.salvage import TABLES, rows_of
from tests.unit.test_spool import envelope

PAGE = 4096
#: With this one, a key leads to what is no row of it in a page of which a half is torn.
SEED = 87
_NAMES = {"fresh": "id", "messages": "queue_id", "recipients": "queue_id || ' ' || number"}

Torn = Callable[[bytearray], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database's octets: small and large rows, keys close together and far apart, three workers' messages."""
    return database_of(tmp_path_factory.mktemp("whole") / "spool.db", random.Random(SEED))


def database_of(path: Path, chance: random.Random) -> bytes:
    with closing(open_database(path)) as database:
        database.execute("BEGIN")
        for number in range(900):
            name = "M8C8" + "".join(chance.choices("0123456789ABCDEFGHJKMNPQRSTVWXYZ", k=12))
            one = replace(envelope(1 + number % 4), queue_id=name, received=1e9 + number)
            text, data = encode_envelope(one), chance.randbytes((100, 900, 9000)[number % 3])
            row = fresh_ids(number % 3)[0] + number // 3 + (number // 450) * 70_000
            database.execute("INSERT INTO fresh VALUES (?, ?, ?)", (row, text, data))
            database.execute("INSERT INTO messages VALUES (?, '', 0, 5, ?, ?)", (one.queue_id, text, data))
            if number % 10 == 0:
                database.execute("DELETE FROM messages WHERE rowid % 7 = 3 AND rowid < ?", (number,))
            database.executemany(
                "INSERT INTO recipients (queue_id, number, address, domain, route, state, due)"
                " VALUES (?, ?, 'to@d.test', 'd.test', 'out', 'queued', 0)",
                [(one.queue_id, recipient.number) for recipient in one.recipients],
            )
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


def every(step: int, seed: int, *, half: bool) -> Torn:
    """Of every so manieth page a half, or all of it."""

    def tear(octets: bytearray) -> None:
        chance = random.Random(seed)
        for page in range(step + seed % step, len(octets) // PAGE, step):
            start = page * PAGE + (PAGE // 2 * chance.randrange(2) if half else 0)
            size = PAGE // 2 if half else PAGE
            octets[start : start + size] = chance.randbytes(size)

    return tear


def leaves(table: str, which: slice) -> Torn:
    """These of a table's leaves, in the order of its rows."""

    def tear(octets: bytearray) -> None:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(bytes(octets[:18]) + b"\1\1" + bytes(octets[20:]))  # as if it had no log
            pages = database.execute(
                "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path", (table,)
            ).fetchall()
        assert len(pages) > 10
        for (page,) in pages[which]:
            octets[(page - 1) * PAGE : page * PAGE] = b"\xff" * PAGE

    return tear


def by_key(old: sqlite3.Connection, whole: sqlite3.Connection, table: str) -> set[str]:
    """What of the whole one can be found in the damaged one by those who know each key, and is what they asked for."""
    found = set()
    key = "rowid" if table != "recipients" else "queue_id, number"
    where = " AND ".join(f"{column} = ?" for column in key.split(", "))
    columns = f"{_NAMES[table]}, {key}"
    for name, *values in whole.execute(f"SELECT {columns} FROM {table}").fetchall():  # noqa: S608  of the test's own
        try:
            rows = old.execute(f"SELECT {columns}, * FROM {table} WHERE {where}", values).fetchall()  # noqa: S608
        except sqlite3.Error:
            continue
        if rows and rows[0][: 1 + len(values)] == (name, *values):
            found.add(str(name))
    return found


TORN = {
    **{f"halves of every 5th, {seed}": every(5, seed, half=True) for seed in range(5)},
    **{f"every 5th, {seed}": every(5, seed, half=False) for seed in range(5)},
    "every 3rd": every(3, 1, half=False),
    "every 20th": every(20, 1, half=False),
    "the first and the last of fresh": leaves("fresh", slice(None, None, 10**6)),
    "each third of messages": leaves("messages", slice(0, None, 3)),
    "a stretch of messages": leaves("messages", slice(5, -5)),
    "each second of recipients": leaves("recipients", slice(0, None, 2)),
    "nothing": leaves("fresh", slice(0)),
}


def _name(table: str, row: dict[str, object]) -> str:
    if table == "fresh":
        return str(row["id"])
    return f"{row['queue_id']} {row['number']}" if table == "recipients" else str(row["queue_id"])


def _is_readable(text: object) -> bool:
    try:
        decode_envelope(str(text))
    except CodecError:
        return False
    return True


@pytest.mark.parametrize("name", TORN)
def test_what_can_be_found_by_its_key_is_found(tmp_path: Path, whole: bytes, name: str) -> None:
    hurt = bytearray(whole)
    TORN[name](hurt)
    (tmp_path / "whole.db").write_bytes(whole)
    (tmp_path / "hurt.db").write_bytes(hurt)
    with (
        closing(sqlite3.connect(tmp_path / "whole.db")) as before,
        closing(sqlite3.connect(tmp_path / "hurt.db")) as old,
        closing(open_database(tmp_path / "new.db")) as new,
    ):
        old.text_factory = as_text
        messages: set[str] = set()
        for table in _NAMES:
            rows = list(rows_of(tmp_path / "hurt.db", old, table, new))
            keys = Counter(_name(table, row) for row in rows)
            known = by_key(old, before, table)
            if table == "recipients":  # without a message that can be read one is of no use to anybody
                known = {one for one in known if one.split()[0] in messages}
            missing = known - set(keys)
            assert missing == set()
            assert set(keys.values()) <= {1}
            if table == "messages":
                messages |= {str(row["queue_id"]) for row in rows if _is_readable(row["envelope"])}
                values = [[row[column] for column in ("queue_id", "envelope")] for row in rows]
                new.executemany("INSERT INTO messages VALUES (?, '', 0, 0, ?, NULL)", values)
            if name == "nothing":
                assert set(keys) >= known
                assert len(known) > 700


def test_what_is_no_database_takes_no_time(tmp_path: Path) -> None:
    (tmp_path / "hurt.db").write_bytes(b"this is no database" * 1000)
    with closing(sqlite3.connect(tmp_path / "hurt.db")) as old, closing(open_database(tmp_path / "new.db")) as new:
        assert [row for table in TABLES for row in rows_of(tmp_path / "hurt.db", old, table, new)] == []


def test_a_row_that_was_not_asked_for_is_none(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "hurt.db"
    path.write_bytes(whole)

    class Torn(sqlite3.Connection):
        """Each key leads to the first row, of which the key is torn."""

        def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
            if "WHERE" not in statement:
                raise sqlite3.DatabaseError("database disk image is malformed")
            return super().execute("SELECT NULL, * FROM messages LIMIT 1")

    with (
        closing(sqlite3.connect(path, factory=Torn)) as old,
        closing(open_database(tmp_path / "new.db")) as new,
    ):
        assert list(rows_of(path, old, "messages", new)) == []


def test_an_ailing_disk_is_asked_a_hundred_times_and_no_more(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "hurt.db"
    path.write_bytes(whole)
    asked: list[str] = []

    class Ailing(sqlite3.Connection):
        def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
            asked.append(statement)
            raise sqlite3.OperationalError("disk I/O error")

    with (
        closing(sqlite3.connect(path, factory=Ailing)) as old,
        closing(open_database(tmp_path / "new.db")) as new,
    ):
        assert list(rows_of(path, old, "fresh", new)) == []
    assert len(asked) == 102
