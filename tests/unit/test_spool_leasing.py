"""What is leased from the database: what it holds in memory, and what damage does to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mailgate.envelope import Envelope
from mailgate.events import EntrySetAside
from mailgate.interfaces import Lease, OutcomeKind, Selector
from mailgate.message import Content
from mailgate.spool.codec import decode_named
from mailgate.spool.stored import StoredContent
from tests.unit.test_spool import Bench, accept, envelope, give_back, lease_all, outcomes

LARGE = b"Subject: x\r\n\r\n" + b"line\r\n" * 2000


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "spool", min_free=0)
    yield bench
    bench.wait(bench.spool.close())


def change(bench: Bench, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(bench.spool.directory / "spool.db")) as other:
        other.execute(statement, values)
        other.commit()


def again(bench: Bench, data: bytes = LARGE) -> Lease:
    """A message as it is leased from the database."""
    give_back(bench, accept(bench, 1, data))
    (lease,) = lease_all(bench)
    return lease


# -- content


def test_large_content_stays_in_the_database_until_it_is_read(bench: Bench) -> None:
    lease = again(bench)
    content = lease.content
    assert isinstance(content, StoredContent)
    assert (content.in_memory, content.path, content.size) == (False, None, len(LARGE))
    assert content.header == b"Subject: x\r\n"
    assert content.read() == b"".join(content.chunks()) == b"".join(content.chunks(100)) == LARGE
    assert max(map(len, content.chunks(100))) == 100
    content.discard()
    content.give_back()
    assert content.read() == LARGE


def test_small_content_comes_with_the_lease(bench: Bench) -> None:
    lease = again(bench, b"hello")
    assert lease.content.in_memory


def test_content_of_a_message_that_has_ended_has_gone(bench: Bench) -> None:
    lease = again(bench)
    assert lease.content.read() == LARGE
    bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.DELIVERED)))
    for read in (lease.content.read, lambda: list(lease.content.chunks()), lambda: lease.content.header):
        with pytest.raises(OSError, match="has gone"):
            read()


def test_content_is_read_from_a_database_that_was_put_in_order(bench: Bench) -> None:
    lease = again(bench)
    assert lease.content.read() == LARGE
    store = bench.spool._store
    bench.wait(bench.spool._submit(lambda: store.rebuild(sqlite3.DatabaseError("by the test")), alone=True))
    assert lease.content.read() == LARGE
    assert [path.name for path in (bench.spool.directory / "set-aside").iterdir() if path.suffix == ".db"]


def test_content_that_cannot_be_read_is_an_error_of_the_disk(bench: Bench, tmp_path: Path) -> None:
    lease = again(bench)
    bench.spool._store.reader.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.spool._store.reader, "_path", tmp_path / "none")
        with pytest.raises(OSError, match="cannot be read"):
            lease.content.read()
    assert lease.content.read() == LARGE


# -- envelopes


def test_a_long_envelope_is_decoded_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def decode(text: str, queue_id: str) -> Envelope:
        decoded.append(queue_id)
        return decode_named(text, queue_id)

    monkeypatch.setattr("mailgate.spool.leasing.decode_named", decode)
    lease = accept(bench, 350)
    short = accept(bench, 2)
    give_back(bench, short)
    numbers: list[int] = []
    while leases := bench.wait(bench.spool.lease(50, lease.until)):
        for one in leases:
            if one.envelope == lease.envelope:
                numbers += [recipient.number for recipient in one.recipients]
                assert one.content.read() == b"hello"
    assert sorted(numbers) == list(range(350))
    assert sorted(decoded) == sorted([lease.envelope.queue_id, short.envelope.queue_id])


def test_numbers_need_not_be_in_their_order(bench: Bench) -> None:
    one = envelope(4)
    recipients = tuple(reversed(one.recipients))
    one = type(one)(
        queue_id=one.queue_id, sender=one.sender, recipients=recipients, received=one.received, size=one.size
    )
    give_back(bench, bench.wait(bench.spool.accept(one, Content(b"hello"), 0.0)))
    (lease,) = lease_all(bench)
    assert [(one.number, str(one.address)) for one in lease.recipients] == [
        (number, f"user{number}@d{number}.test") for number in range(4)
    ]


# -- damage


@pytest.mark.parametrize("bad", [b"Q\xff\xff", b"../../x", b"Q\x00", b"", b"Q" * 5000], ids=repr)
def test_an_id_that_damage_has_made_stops_nobody(bench: Bench, bad: bytes) -> None:
    """The row of a recipient names no message, and the message has no recipient any more."""
    hurt, good = accept(bench), accept(bench)
    give_back(bench, hurt, good)
    change(bench, "UPDATE recipients SET queue_id = CAST(? AS TEXT) WHERE queue_id = ?", bad, hurt.envelope.queue_id)
    assert [one.envelope for one in lease_all(bench)] == [good.envelope]
    assert lease_all(bench) == []
    assert len([event for event in bench.events if isinstance(event, EntrySetAside)]) == 1
    assert [one[0] for one in bench.view()] == [good.envelope.queue_id]
    for path in bench.spool.directory.parent.rglob("*.envelope"):
        assert path.parent == bench.spool.directory / "set-aside"


@pytest.mark.parametrize("column", ["route", "domain", "source", "address", "last_reply", "waits"])
@pytest.mark.parametrize("value", [b"\xff\xfe", "\x00\x1f\"'", 7])
def test_a_column_that_damage_has_changed_stops_nobody(bench: Bench, column: str, value: object) -> None:
    hurt, good = accept(bench), accept(bench)
    give_back(bench, hurt, good)
    change(bench, f"UPDATE recipients SET {column} = ? WHERE queue_id = ?", value, hurt.envelope.queue_id)  # noqa: S608  of the test's own
    leases = {one.envelope.queue_id: one for one in lease_all(bench)}
    assert set(leases) == {hurt.envelope.queue_id, good.envelope.queue_id}
    for lease in leases.values():
        bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.DEFERRED, 0.0)))
    assert len(bench.view()) == 2
    assert sum(one.recipients for one in bench.wait(bench.spool.summary("domain", 10, Selector()))) == 2


def test_a_recipient_that_the_envelope_does_not_have_is_set_aside(bench: Bench) -> None:
    hurt, good = accept(bench), accept(bench)
    give_back(bench, hurt, good)
    change(bench, "UPDATE recipients SET number = 9 WHERE queue_id = ?", hurt.envelope.queue_id)
    assert [one.envelope for one in lease_all(bench)] == [good.envelope]
    (event,) = [event for event in bench.events if isinstance(event, EntrySetAside)]
    assert (event.queue_id, "does not have" in event.reason) == (hurt.envelope.queue_id, True)


def without_number(octets: bytes, queue_id: str) -> bytes:
    """A database in which one bit has changed: a recipient of this message has no `not_before` any more."""
    at = octets.find(queue_id.encode())
    while at >= 0:
        for place in range(max(at - 40, 0), at):  # the types of a row's columns are before them
            hurt = octets[:place] + b"\0" + octets[place + 1 :]
            if octets[place] == 8 and _numbers_missing(hurt) == 1:
                return hurt
        at = octets.find(queue_id.encode(), at + 1)
    raise AssertionError("no such bit")


def _numbers_missing(octets: bytes) -> int:
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(octets[:18] + b"\1\1" + octets[20:])  # as if it had no log
        rows = database.execute("SELECT count(*) FROM recipients WHERE typeof(not_before) = 'null'")
        try:
            return int(rows.fetchone()[0])
        except sqlite3.DatabaseError:
            return 0


def test_a_number_that_damage_has_taken_stops_nobody(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", min_free=0)
    hurt, good = accept(bench, 2), accept(bench)
    give_back(bench, hurt, good)
    bench.wait(bench.spool.close())
    path = tmp_path / "spool" / "spool.db"
    path.write_bytes(without_number(path.read_bytes(), hurt.envelope.queue_id))
    bench = Bench(tmp_path / "spool", min_free=0)
    leases = {one.envelope.queue_id: one for one in lease_all(bench)}
    assert {name: len(one.recipients) for name, one in leases.items()} == {
        hurt.envelope.queue_id: 2,
        good.envelope.queue_id: 1,
    }
    for lease in leases.values():
        bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.DEFERRED, 0.0)))
    for change_all in (bench.spool.retry, bench.spool.hold, bench.spool.release):
        assert bench.wait(change_all(Selector())) == 3
    assert len(bench.view()) == 3
    bench.wait(bench.spool.close())


def test_a_description_of_the_database_that_is_damaged_costs_no_start(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", min_free=0)
    accept(bench)
    bench.wait(bench.spool.close())
    path = tmp_path / "spool" / "spool.db"
    data = path.read_bytes()
    at = data.index(b"CREATE TABLE fresh") + 13
    path.write_bytes(data[:at] + b"\xce" + data[at + 1 :])
    bench = Bench(tmp_path / "spool", min_free=0)
    accept(bench)
    assert [event.queue_id for event in bench.events if isinstance(event, EntrySetAside)] == [""]
    assert len(bench.view()) == 1
    bench.wait(bench.spool.close())
