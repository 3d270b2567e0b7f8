"""The spool where things fail: disks, rows, leases that end; and what it must not do to those at work meanwhile."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from mailgate.events import EntrySetAside, SpoolFailed, SpoolRecovered
from mailgate.interfaces import Lease, OutcomeKind, Selector, SpoolError
from mailgate.message import Content, ContentWriter
from mailgate.spool.codec import CodecError, decode_envelope, encode_envelope
from mailgate.spool.disk import Reserve
from tests.unit.spool_stand import alone, quick, raises, until  # noqa: F401  fixtures, too
from tests.unit.test_spool import Bench, accept, envelope, give_back, lease_all, outcomes


def again(bench: Bench) -> Bench:
    """The spool in its next life."""
    bench.wait(bench.spool.close())
    return Bench(bench.spool.directory, min_free=0, inline_limit=1000)


def read_only() -> OSError:
    return OSError(errno.EROFS, os.strerror(errno.EROFS))


def rows(bench: Bench, what: str = "state, hold") -> list[tuple[object, ...]]:
    with sqlite3.connect(bench.spool.directory / "spool.db") as other:
        found = other.execute(f"SELECT {what} FROM recipients").fetchall()  # noqa: S608  of the test's own
    other.close()
    return found


# -- the threads outlive whatever happens


def test_a_disk_that_cannot_even_remove_a_file(bench: Bench) -> None:
    writer = ContentWriter(bench.spool.incoming, 10)
    writer.write(b"x" * 2000)
    content = writer.finish()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", raises(read_only()))
        patch.setattr(Path, "unlink", raises(read_only()))
        with pytest.raises(SpoolError, match="Read-only"):
            bench.wait(bench.spool.accept(envelope(1, 2000), content, time.time() + 60))
        with pytest.raises(SpoolError, match="Read-only"):
            accept(bench)
        content.discard()
        assert "Read-only" in bench.spool.refusal(0)
    until(bench, SpoolRecovered)
    accept(bench)


def test_a_writer_on_a_disk_that_is_read_only_now_is_abandoned(tmp_path: Path) -> None:
    writer = ContentWriter(tmp_path, 10)
    writer.write(b"x" * 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", raises(read_only()))
        writer.abandon()
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_reserve_that_cannot_be_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", raises(OSError(errno.EDQUOT, "Disk quota exceeded")))
        bench.spool._reserve.give_up()
        patch.setattr(bench.spool._store, "exchange_fresh", raises(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(SpoolError, match="No space"):
            accept(bench)
    until(bench, SpoolRecovered)
    accept(bench)


@pytest.mark.parametrize("where", ["_fail", "_failure", "_shrink"])
def test_no_exception_ends_the_writer(bench: Bench, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    whole = getattr(bench.spool, where)
    once = [RuntimeError("a fault of ours")]
    with monkeypatch.context() as patch:
        patch.setattr(bench.spool, where, lambda *values: raises(once.pop())() if once else whole(*values))
        patch.setattr(bench.spool._store, "exchange_fresh", raises(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(SpoolError):
            accept(bench)
        assert once == []
    until(bench, SpoolRecovered)
    accept(bench)


def test_a_test_of_the_disk_that_goes_wrong_is_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make, once = bench.spool._reserve.make, [RuntimeError("a fault of ours")]
    monkeypatch.setattr(bench.spool._reserve, "make", lambda: raises(once.pop())() if once else make())
    with monkeypatch.context() as patch:
        patch.setattr(bench.spool._store, "exchange_fresh", raises(read_only()))
        with pytest.raises(SpoolError):
            accept(bench)
    until(bench, SpoolRecovered)
    assert once == []
    accept(bench)


def test_no_question_ends_the_reader(bench: Bench) -> None:
    lease = accept(bench)
    with pytest.raises(SpoolError):
        bench.wait(bench.spool.view(Selector(), 10, ("A", 2**80)))
    assert [one[0] for one in bench.view()] == [lease.envelope.queue_id]


def test_a_reserve_that_was_cut_off_is_made_whole(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    path.touch()
    Reserve(path).make()
    size = path.stat().st_size
    assert size > 2**20
    before = path.stat().st_mtime_ns
    Reserve(path).make()
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (size, before)


def test_content_that_has_gone_is_nobody_elses_trouble(bench: Bench) -> None:
    gone = Content(None, bench.spool.incoming / "incoming-gone", 2000)
    done = bench.spool.accept(envelope(1, 2000), gone, time.time() + 60)
    other = bench.spool.accept(envelope(), Content(b"hello"), time.time() + 60)
    with pytest.raises(SpoolError, match="has gone"):
        bench.wait(done)
    assert bench.wait(other)
    assert bench.spool.refusal(0) == ""
    assert not [event for event in bench.events if isinstance(event, SpoolFailed)]


# -- leases


def test_a_fresh_message_whose_lease_ends_is_leased_again(bench: Bench) -> None:
    soon, late = time.time() - 1, time.time() + 1000
    ended = bench.wait(bench.spool.accept(envelope(2), Content(b"hello"), soon))
    alive = bench.wait(bench.spool.accept(envelope(), Content(b"hello"), late))
    assert bench.wait(bench.spool.next_due()) == soon
    (lease,) = lease_all(bench)
    assert (lease.envelope, lease.recipients, lease.content.read()) == (ended.envelope, ended.recipients, b"hello")
    assert lease_all(bench) == []
    bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.DELIVERED)))
    assert bench.wait(bench.spool.next_due()) == late
    bench.wait(bench.spool.record(alive, outcomes(alive, OutcomeKind.DELIVERED)))
    assert bench.wait(bench.spool.next_due()) is None
    assert bench.view() == []


def test_a_give_back_that_failed_strands_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = bench.wait(bench.spool.accept(envelope(), Content(b"hello"), time.time() - 1))
    with monkeypatch.context() as patch:
        patch.setattr("mailgate.spool.leasing.give_back", raises(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(SpoolError):
            give_back(bench, lease)
    until(bench, SpoolRecovered)
    assert [one.envelope for one in lease_all(bench)] == [lease.envelope]


def test_a_failed_group_leaves_fresh_messages_as_they_were(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = accept(bench)
    with monkeypatch.context() as patch:
        patch.setattr("mailgate.spool.leasing._end", raises(ValueError("a fault of ours")))
        with pytest.raises(SpoolError):
            bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.DEFERRED)))
    assert list(bench.spool._store.fresh) == [lease.envelope.queue_id]
    bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.DELIVERED)))
    assert bench.view() == []
    assert bench.spool._store.fresh == {}


def test_a_look_at_the_queue_shortens_no_lease(bench: Bench) -> None:
    until = time.time() + 7200
    bench.wait(bench.spool.accept(envelope(), Content(b"hello"), until))
    bench.wait(bench.spool.hold(Selector(domain="unrelated.test")))
    assert rows(bench, "state, due") == [("leased", until)]


@pytest.mark.parametrize("stale", ["give back", "defer"])
def test_who_has_lost_a_lease_cannot_end_the_next_one(bench: Bench, stale: str) -> None:
    lost = bench.wait(bench.spool.accept(envelope(), Content(b"hello"), time.time() - 1))
    (newer,) = lease_all(bench)
    if stale == "defer":
        bench.wait(bench.spool.record(lost, outcomes(lost, OutcomeKind.DEFERRED, 0.0)))
    else:
        give_back(bench, lost)
    assert bench.view() == [(lost.envelope.queue_id, 0, "leased", 0)]
    assert lease_all(bench) == []
    bench.wait(bench.spool.record(newer, outcomes(newer, OutcomeKind.DEFERRED, 0.0)))
    assert bench.view() == [(lost.envelope.queue_id, 0, "queued", 1)]


def test_who_has_lost_a_lease_still_tells_what_is_final(bench: Bench) -> None:
    lost = bench.wait(bench.spool.accept(envelope(), Content(b"hello"), time.time() - 1))
    assert len(lease_all(bench)) == 1
    bench.wait(bench.spool.record(lost, outcomes(lost, OutcomeKind.DELIVERED)))
    assert bench.view() == []


def test_a_hold_outlives_a_lease_that_ends(bench: Bench) -> None:
    lease = bench.wait(bench.spool.accept(envelope(), Content(b"hello"), time.time() - 1))
    bench.wait(bench.spool.hold(Selector(queue_id=lease.envelope.queue_id)))
    assert lease_all(bench) == []
    assert rows(bench) == [("held", 0)]
    assert bench.wait(bench.spool.release(Selector())) == 1
    assert len(lease_all(bench)) == 1


def test_a_hold_outlives_a_restart(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", min_free=0)
    held, other = accept(bench), accept(bench)
    bench.wait(bench.spool.hold(Selector(queue_id=held.envelope.queue_id)))
    bench = again(bench)
    bench.wait(bench.spool.sweep())
    assert sorted(rows(bench)) == [("held", 0), ("queued", 0)]
    assert [one.envelope for one in lease_all(bench)] == [other.envelope]
    bench.wait(bench.spool.close())


# -- the start


def damaged(text: bytes) -> dict[str, object]:
    return {
        "a bit": text.replace(b"user0", b"user\xb0"),
        "half a character": text.replace(b"user0", b"user\\ud800"),
        "a number without end": text.replace(b'"size":5', b'"size":1e999'),
        "a large number": text.replace(b'"to":[[0', b'"to":[[99999999999999999999'),
        "no number": text.replace(b'"at":', b'"at":NaN,"x":'),
        "a list": b"[[]]",
        "an address of numbers": text.replace(b'"user0"', b"7"),
        "a deep one": b"[" * 200_000,
    }


@pytest.mark.parametrize("how", damaged(b""))
def test_one_bad_row_does_not_stop_the_start(tmp_path: Path, how: str) -> None:
    bench = Bench(tmp_path / "spool", min_free=0)
    bad, good = accept(bench), accept(bench)
    path = bench.spool.directory / "spool.db"
    text = damaged(encode_envelope(bad.envelope).encode())[how]
    with sqlite3.connect(path) as other:
        other.execute("UPDATE fresh SET envelope = CAST(? AS TEXT) WHERE id = 1", (text,))
    other.close()
    assert good.envelope.queue_id in {one[0] for one in bench.view()}
    bench = again(bench)
    report = bench.wait(bench.spool.sweep())
    assert report.set_aside == ("fresh-1",)
    assert [one.envelope for one in lease_all(bench)] == [good.envelope]
    kept = bench.spool.directory / "set-aside"
    assert (kept / "fresh-1.envelope").read_bytes() == text + b"\n"  # type: ignore[operator]
    assert (kept / "fresh-1.eml").read_bytes() == b"hello"
    accept(bench)
    bench.wait(bench.spool.close())


def test_a_bad_row_whose_lease_ends_is_set_aside_with_its_content(bench: Bench) -> None:
    bad = bench.wait(bench.spool.accept(envelope(1, 2000), Content(b"f" * 2000), time.time() - 1))
    good = bench.wait(bench.spool.accept(envelope(), Content(b"hello"), time.time() - 1))
    with sqlite3.connect(bench.spool.directory / "spool.db") as other:
        other.execute("UPDATE fresh SET envelope = '{' WHERE id = 1")
    other.close()
    assert bench.wait(bench.spool.retry(Selector())) == 0
    assert [one.envelope for one in lease_all(bench)] == [good.envelope]
    (event,) = [event for event in bench.events if isinstance(event, EntrySetAside)]
    assert event.queue_id == bad.envelope.queue_id
    assert (bench.spool.directory / "set-aside" / f"{bad.envelope.queue_id}.eml").read_bytes() == b"f" * 2000


def test_text_that_is_not_ours_is_no_envelope() -> None:
    text = encode_envelope(envelope())
    for bad in (text.replace("ann", "a\udcb0n"), text.replace("ann", "a\\udc00"), "[" * 200_000):
        with pytest.raises(CodecError):
            decode_envelope(bad)


def test_a_message_in_both_tables_is_delivered_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", min_free=0)
    leases = [accept(bench), accept(bench)]
    path = bench.spool.directory / "spool.db"
    with sqlite3.connect(path) as other:
        (row,) = other.execute("SELECT * FROM fresh WHERE id = 1")
        bench.wait(bench.spool.hold(Selector(domain="none.test")))
        other.execute("INSERT INTO fresh VALUES (?, ?, ?)", row)
    other.close()
    bench = again(bench)
    assert bench.wait(bench.spool.sweep()).set_aside == ()
    found = sorted(one.envelope.queue_id for one in lease_all(bench))
    assert found == sorted(one.envelope.queue_id for one in leases)
    bench.wait(bench.spool.close())


def test_a_sweep_leaves_alone_what_is_at_work(bench: Bench) -> None:
    writer = ContentWriter(bench.spool.incoming, 10)
    writer.write(b"x" * 1000)
    small, large = accept(bench), accept(bench, 1, b"l" * 2000)
    spread = accept(bench)
    bench.wait(bench.spool.hold(Selector(domain="none.test")))
    last = accept(bench, 1, b"m" * 2000)
    assert bench.wait(bench.spool.sweep()).leftovers == 0
    assert lease_all(bench) == []
    assert [one.content.size for one in (small, large, spread, last)] == [5, 2000, 5, 2000]
    assert large.content.read() + last.content.read() == b"l" * 2000 + b"m" * 2000
    writer.write(b"x" * 1000)
    assert bench.wait(bench.spool.accept(envelope(1, 2000), writer.finish(), time.time() + 60))


def test_a_sweep_shares_no_transaction(bench: Bench) -> None:
    gate = threading.Event()
    busy = bench.spool._submit(gate.wait)
    before = bench.spool.accept(envelope(), Content(b"hello"), time.time() + 60)
    swept = bench.spool.sweep()
    behind = bench.spool.accept(envelope(1, 2000), Content(b"f" * 2000), time.time() + 60)
    gate.set()
    leases: list[Lease] = [bench.wait(before)]
    assert bench.wait(busy)
    assert bench.wait(swept).set_aside == ()
    leases.append(bench.wait(behind))
    assert leases[1].content.read() == b"f" * 2000
    assert lease_all(bench) == []
    assert {one[2] for one in bench.view()} == {"leased"}


# -- a database that is put in order


def test_content_that_is_set_aside_stays_for_those_who_deliver_it_and_no_longer(tmp_path: Path) -> None:
    now = [time.time()]
    bench = Bench(tmp_path / "spool", min_free=0, inline_limit=1000, now=lambda: now[0])
    store = bench.spool._store
    lost, left = accept(bench, data=b"l" * 5000), accept(bench, data=b"k" * 5000)
    give_back(bench, lost, left)
    lost, left = sorted(lease_all(bench), key=lambda lease: lease.envelope.queue_id != lost.envelope.queue_id)

    def rebuild() -> None:
        for table in ("messages", "recipients"):
            store.database.execute(f"DELETE FROM {table} WHERE queue_id = ?", (lost.envelope.queue_id,))  # noqa: S608  of the test's own
        store.database.commit()
        store.rebuild(sqlite3.DatabaseError("by the test"))

    bench.wait(bench.spool._submit(rebuild, alone=True))
    content = tmp_path / "spool" / "content"
    assert lease_all(bench) == []
    assert lost.content.read() == b"l" * 5000
    now[0] = lost.until
    # Whose end has come as well is leased again.
    assert [one.envelope.queue_id for one in lease_all(bench)] == [left.envelope.queue_id]
    assert [path.name for path in content.iterdir()] == [left.envelope.queue_id]
    aside = tmp_path / "spool" / "set-aside" / f"{lost.envelope.queue_id}.eml"
    assert aside.read_bytes() == b"l" * 5000
    bench.wait(bench.spool.close())
