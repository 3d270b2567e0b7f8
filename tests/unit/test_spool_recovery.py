"""The spool that has no room, or a damaged database: how it begins, goes on, and comes back."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mailgate.events import EntrySetAside, SpoolFailed, SpoolRecovered
from mailgate.interfaces import SpoolError
from mailgate.spool import database
from mailgate.spool.disk import Reserve, lock_directory
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
)
from tests.unit.test_spool import Bench, accept, give_back, lease_all

# -- no room


@pytest.mark.parametrize("workers", [1, 2])
def test_a_start_on_a_full_disk_delivers_and_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def start() -> Bench:
        return Bench(tmp_path / "spool", min_free=0, worker=0, workers=workers)

    bench = start()
    kept = accept(bench)
    give_back(bench, kept)
    bench.spool._reserve.give_up()
    close(bench)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", raises(no_room()))
        bench = start()
        assert "full" in bench.spool.refusal(0)
        with pytest.raises(SpoolError, match="full"):
            accept(bench)
        (lease,) = lease_all(bench)
        deliver(bench, lease)
        assert bench.view() == []
        (failed,) = until(bench, SpoolFailed)
        assert "No space left" in str(failed)
        assert not any(isinstance(event, SpoolRecovered) for event in bench.events)
    until(bench, SpoolRecovered)
    accept(bench)
    assert bench.spool._reserve.is_whole
    close(bench)


def test_what_opening_takes_comes_from_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close(Bench(tmp_path / "spool", min_free=0))
    seen: list[bool] = []
    whole = database.open_database

    def open_database(path: Path) -> sqlite3.Connection:
        seen.append((tmp_path / "spool" / "reserve").exists())
        if seen == [True]:
            raise sqlite3.OperationalError("database or disk is full")
        return whole(path)

    monkeypatch.setattr("mailgate.spool.store.open_database", open_database)
    bench = Bench(tmp_path / "spool", min_free=0)
    assert seen == [True, False]
    until(bench, SpoolRecovered)
    accept(bench)
    close(bench)


def test_a_start_that_no_reserve_helps_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.spool.store.open_database", raises(no_room()))
    with pytest.raises(SpoolError, match="No space left"):
        Bench(tmp_path / "spool")
    monkeypatch.setattr(os, "posix_fallocate", raises(no_room(errno.EIO)))
    with pytest.raises(SpoolError, match="Input/output"):
        Bench(tmp_path / "other")


def test_a_share_that_is_used_up_is_a_full_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    lease = accept(bench)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", raises(no_room(errno.EDQUOT)))
        patch.setattr(bench.spool._store, "exchange_fresh", once(error, bench.spool._store.exchange_fresh))
        with pytest.raises(SpoolError):
            accept(bench)
        assert bench.spool.refusal(0) == "the disk is full"
        assert not bench.spool._reserve.is_whole
        deliver(bench, lease)
    until(bench, SpoolRecovered)
    assert not (bench.spool.directory / "reserve.probe").exists()


def test_a_disk_with_room_that_cannot_write_is_not_full(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve")
    error = sqlite3.OperationalError("disk I/O error")
    assert not reserve.is_wanted(error)
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
    assert not reserve.is_wanted(error)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").write_text("123456789\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", raises(no_room()))
        os.close(lock_directory(tmp_path))
        patch.setattr(os, "pwrite", raises(no_room(errno.EIO)))
        with pytest.raises(OSError, match="Input/output"):
            lock_directory(tmp_path)
    os.close(lock_directory(tmp_path))
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def folded(store: Store) -> None:
    store.rollback()
    store.database.execute("PRAGMA busy_timeout = 600000")  # longer than any test
    store.checkpoint()


def test_folding_the_log_waits_for_nobody_who_reads(pair: tuple[Bench, Bench]) -> None:
    one, _ = pair
    accept(one)
    with closing(sqlite3.connect(one.spool.directory / "spool.db", isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM fresh").fetchone()
        accept(one)
        meanwhile(one, folded)
    (patience,) = one.spool._store.database.execute("PRAGMA busy_timeout").fetchone()
    assert patience == 5000


# -- a rebuild that fails


def test_a_rebuild_that_fails_is_tried_again_and_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(names: set[str]) -> None:
        names |= {path.name for path in bench.spool.directory.iterdir()}
        raise ValueError("enough")

    lease, other = accept(bench), accept(bench, data=b"l" * 2000)
    give_back(bench, other)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", raises(no_room()))
        bench.spool._found_damage(MALFORMED)
        failed = until(bench, SpoolFailed, 2)
        deliver(bench, lease)  # what can be read of it goes on
        names: set[str] = set()
        with pytest.raises(SpoolError, match="enough"):  # between two attempts
            bench.wait(bench.spool._submit(lambda: look(names), alone=True))
        assert "spool.db" in names
        assert not {name for name in names if name.startswith("rebuilt")}
        assert "cannot be put in order: [Errno 28]" in bench.spool.refusal(0)
    assert "malformed" in str(failed[0])
    assert "cannot be put in order" in str(failed[1])
    until(bench, SpoolRecovered)
    assert len(until(bench, SpoolFailed)) == 2
    assert [one.envelope.queue_id for one in lease_all(bench)] == [other.envelope.queue_id]


def test_what_is_linked_for_a_rebuild_goes_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path / "spool", min_free=0)
    accept(bench)
    close(bench)
    folder = tmp_path / "spool"
    (folder / "content" / "LOST").write_bytes(b"lost")
    whole = (folder / "spool.db").read_bytes()
    monkeypatch.setattr("mailgate.spool.database.sync", once(no_room(), lambda path: None))
    for _ in range(2):
        monkeypatch.setattr(os, "link", once(no_room(), os.link))
        with pytest.raises(OSError, match="No space"):
            database.rebuild(folder / "spool.db", folder / "set-aside", folder / "content")
        assert list((folder / "set-aside").iterdir()) == []
        assert not (folder / "rebuilt.db").exists()
        assert (folder / "spool.db").read_bytes() == whole


def test_a_rebuild_without_room_forgets_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path / "spool", min_free=0)
    for _ in range(40):
        accept(bench, data=b"x" * 2000)
    close(bench)
    folder = tmp_path / "spool"
    whole = database.open_database

    def small(path: Path) -> sqlite3.Connection:
        found = whole(path)
        found.execute("PRAGMA max_page_count = 30")
        return found

    monkeypatch.setattr(database, "open_database", small)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        database.rebuild(folder / "spool.db", folder / "set-aside", folder / "content")
    assert not (folder / "rebuilt.db").exists()
    bench = Bench(folder, min_free=0)
    assert len(bench.view()) == 40
    close(bench)


def test_a_log_has_gone_for_good_before_another_database_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path / "spool", min_free=0)
    accept(bench)
    close(bench)
    folder = tmp_path / "spool"
    (folder / "spool.db-wal").touch()
    done: list[str] = []
    sync, unlink, replace = database.sync, Path.unlink, Path.replace

    def note(what: str, call: Callable[..., object]) -> Callable[..., object]:
        def noted(path: Path, *values: object, **named: object) -> object:
            done.append(f"{what} {path.name}")
            return call(path, *values, **named)

        return noted

    monkeypatch.setattr(database, "sync", note("sync", sync))
    monkeypatch.setattr(Path, "unlink", note("unlink", unlink))
    monkeypatch.setattr(Path, "replace", note("replace", replace))
    database.rebuild(folder / "spool.db", folder / "set-aside", folder / "content")
    gone = done.index("unlink spool.db-wal")
    assert done.index("sync spool", gone) < done.index("replace rebuilt.db")
    assert done[-1] == "sync spool"


def test_a_database_that_is_in_place_but_does_not_open_is_put_in_order_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, lonely = accept(bench), accept(bench)
    give_back(bench, kept, lonely)
    store = bench.spool._store
    meanwhile(
        bench,
        lambda store: store.database.execute("DELETE FROM recipients WHERE queue_id = ?", (lonely.envelope.queue_id,)),
    )
    number = store.file
    monkeypatch.setattr(store, "_open", once(no_room(errno.EMFILE), store._open))
    bench.spool._found_damage(MALFORMED)
    until(bench, SpoolRecovered)
    assert store.file != number
    assert [event.queue_id for event in until(bench, EntrySetAside, 2)] == ["", lonely.envelope.queue_id]  # type: ignore[attr-defined]
    assert len(list((bench.spool.directory / "set-aside").glob("spool-*.db"))) == 1
    assert [one.envelope.queue_id for one in lease_all(bench)] == [kept.envelope.queue_id]
