"""The spool beside others: a database that another worker has put in order, one state for each question, a turn that
nobody gives; and what is told to be set aside."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from mailgate.events import EntrySetAside, SpoolFailed, SpoolRecovered
from mailgate.interfaces import Selector, SpoolError
from mailgate.message import Content
from mailgate.spool import disk, query
from mailgate.spool.disk import WriteTurn
from mailgate.spool.store import Store
from tests.unit.spool_stand import (  # noqa: F401  fixtures, too
    MALFORMED,
    alone,
    close,
    deliver,
    meanwhile,
    no_room,
    once,
    quick,
    raises,
    together,
    until,
    worker,
)
from tests.unit.test_spool import Bench, accept, envelope, give_back, lease_all

# -- another worker has put it in order


def replaced(bench: Bench) -> None:
    bench.spool._found_damage(MALFORMED)
    until(bench, SpoolRecovered)


def test_all_read_the_database_that_is_there_now(pair: tuple[Bench, Bench]) -> None:
    one, two = pair
    accept(one)
    old = accept(one, data=b"l" * 900)
    give_back(one, old)
    (content,) = [lease.content for lease in lease_all(one)]
    assert content.read() == b"l" * 900
    reading = one.spool._store.reader
    with pytest.raises(OSError, match="has gone"):
        reading.read("NONE")
    replaced(two)
    new = accept(two, data=b"m" * 900)
    two.wait(two.spool.expand_fresh())
    assert len(one.view()) == len(two.view()) == 3
    assert reading.read(new.envelope.queue_id) == b"m" * 900


def test_damage_of_a_file_that_is_no_more_is_nobodys(pair: tuple[Bench, Bench]) -> None:
    one, two = pair
    accept(one)
    number = one.spool._store.file
    replaced(two)
    one.spool._found_damage(MALFORMED, number)
    accept(one)
    assert not [event for event in one.events if isinstance(event, SpoolFailed)]
    # Nor where the writer itself has found it there.
    one.spool._damage = MALFORMED, number
    one.spool._submit(raises(sqlite3.OperationalError("disk I/O error"))).addErrback(lambda _: None)
    until(one, SpoolRecovered)
    assert len(list((one.spool.directory / "set-aside").glob("spool-*.db"))) == 1


def test_a_file_that_did_not_open_is_opened_at_the_next_turn(
    pair: tuple[Bench, Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    accept(one)
    replaced(two)
    store = one.spool._store
    monkeypatch.setattr(store, "_open", once(no_room(errno.EMFILE), store._open))
    with pytest.raises(SpoolError, match="Too many open files"):
        accept(one)
    until(one, SpoolRecovered)
    accept(one)
    assert len(one.view()) == 2


def test_what_a_group_is_shows_once_it_has_its_turn(pair: tuple[Bench, Bench]) -> None:
    one, two = pair
    number = one.spool._store.file
    replaced(two)
    seen: list[int] = []
    meanwhile(one, lambda store: store.rollback())
    store = one.spool._store
    store.file = number  # as before the turn

    def look() -> bool:
        seen.append(store.file)
        return False

    store.begin(look)
    store.rollback()
    assert seen == [store.file] != [number]


# -- one state for a question


def test_no_entry_is_missed_that_moves_meanwhile(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(bench)
    select = query.select_view

    def and_then(*values: object) -> object:
        found = list(select(*values))  # type: ignore[arg-type]
        meanwhile(bench, Store.expand_all)
        return found

    monkeypatch.setattr("mailgate.spool.reader.select_view", and_then)
    assert len(bench.view()) == 1


def test_no_entry_is_counted_twice_that_moves_meanwhile(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(bench)
    selected = query.selected

    def but_first(*values: object, **named: object) -> object:
        meanwhile(bench, Store.expand_all)
        return selected(*values, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("mailgate.spool.reader.selected", but_first)
    assert [one.recipients for one in bench.wait(bench.spool.summary("domain", 10))] == [1]
    monkeypatch.undo()
    # And the next question sees what there is then.
    assert bench.wait(bench.spool.hold(Selector())) == 0
    accept(bench)
    assert len(bench.view()) == 2


# -- whose turn it is


def test_who_hangs_with_the_turn_fails_the_others_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_PATIENCE", 0.05)
    monkeypatch.setattr(disk, "_LITTLE_PATIENCE", 0.01)
    one = worker(tmp_path / "spool", 0)
    lease = accept(one)
    hung = WriteTurn(tmp_path / "spool" / "writing.lock")
    hung.take()
    with pytest.raises(SpoolError, match="another worker does not answer"):
        accept(one)
    assert "waits for its turn to write" in one.spool.refusal(0)
    with pytest.raises(SpoolError, match="another worker does not answer"):
        deliver(one, lease)
    with pytest.raises(SpoolError, match="another worker does not answer"):
        worker(tmp_path / "spool", 1)
    assert len(one.view()) == 1  # reading needs no turn
    hung.give()
    until(one, SpoolRecovered)
    deliver(one, lease)
    accept(one)
    assert len(until(one, SpoolFailed)) == 1
    hung.close()
    close(one)


def test_a_worker_can_be_stopped_while_another_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_PATIENCE", 0.05)
    one = worker(tmp_path / "spool", 0)
    hung = WriteTurn(tmp_path / "spool" / "writing.lock")
    hung.take()
    close(one)
    hung.close()


@pytest.mark.parametrize("how", ["give", "close"])
def test_who_waits_has_the_turn_when_it_is_free(tmp_path: Path, how: str) -> None:
    """`close` is what the system does for a process that is killed: nobody is told."""
    first, second = WriteTurn(tmp_path / "writing.lock"), WriteTurn(tmp_path / "writing.lock")
    first.take()
    thread = threading.Thread(target=second.take)
    thread.start()
    thread.join(0.02)
    assert not second.is_ours
    getattr(first, how)()
    thread.join(60)
    assert second.is_ours
    second.close()


def test_a_turn_is_given_more_often_than_anybody_is_told(tmp_path: Path) -> None:
    turn = WriteTurn(tmp_path / "writing.lock")
    for _ in range(70_000):
        turn.take()
        turn.give()
    other = WriteTurn(tmp_path / "writing.lock")
    other.take()
    other.close()
    turn.close()


# -- what is set aside


def test_nothing_is_told_to_be_set_aside_that_is_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = bench.wait(bench.spool.accept(envelope(), Content(b"hello"), time.time() - 1))
    with closing(sqlite3.connect(bench.spool.directory / "spool.db")) as other:
        other.execute("UPDATE fresh SET envelope = '{'")
        other.commit()
    with monkeypatch.context() as patch:
        patch.setattr(bench.spool._store, "commit", raises(no_room(errno.EIO)))
        with pytest.raises(SpoolError):
            bench.wait(bench.spool.lease(10, time.time() + 60))
    until(bench, SpoolRecovered)
    assert not [event for event in bench.events if isinstance(event, EntrySetAside)]
    assert lease_all(bench) == []
    assert [event.queue_id for event in until(bench, EntrySetAside)] == [bad.envelope.queue_id]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["fresh", "deferred"])
def test_content_that_the_disk_does_not_tell_of_now_is_tried_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    ended = time.time() - 1
    lease = bench.wait(bench.spool.accept(envelope(1, 2000), Content(b"l" * 2000), ended))
    other = bench.wait(bench.spool.accept(envelope(), Content(b"hello"), ended))
    if kind == "deferred":
        give_back(bench, lease, other)
    with monkeypatch.context() as patch:
        patch.setattr(Content, "in_file", raises(no_room(errno.EACCES)))
        leases = {one.envelope.queue_id: one for one in lease_all(bench)}
    assert set(leases) == {lease.envelope.queue_id, other.envelope.queue_id}
    assert leases[lease.envelope.queue_id].content.read() == b"l" * 2000  # by then it does
    assert not [event for event in bench.events if isinstance(event, SpoolFailed | EntrySetAside)]


def test_an_operator_is_told_of_content_that_the_disk_does_not_tell_of(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = accept(bench, data=b"l" * 2000)
    monkeypatch.setattr(Content, "in_file", raises(no_room(errno.EIO)))
    with pytest.raises(SpoolError, match="Input/output"):
        bench.wait(bench.spool.content(lease.envelope.queue_id))
