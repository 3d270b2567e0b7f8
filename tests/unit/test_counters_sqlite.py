"""Counters that outlive a restart: what comes back, what does not, and what a broken file or disk does."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from mailgate.stores.counters_file import CountersFile, Row
from mailgate.stores.counters_sqlite import SqliteCounters

Make = Callable[..., SqliteCounters]


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1_800_000_000.25)
    return clock


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Iterator[Make]:
    """Counters of one file, opened; all are closed at the end."""
    made: list[SqliteCounters] = []

    def make(max_keys: int = 1000, max_octets: int = 1 << 20) -> SqliteCounters:
        counters = SqliteCounters(clock, max_keys, max_octets, tmp_path / "counters.db")
        counters.open()
        made.append(counters)
        return counters

    yield make
    for counters in made:
        counters.close()


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The lines of the log."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if (text := event.get("log_format")) and "counters" in text:
            lines.append(text.format(**event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def later(clock: Clock, counters: SqliteCounters) -> None:
    """A second passes, in which the thread writes, and another, in which that is noticed."""
    clock.advance(1)
    if counters._writing is not None:
        wait([counters._writing])
    clock.advance(1)


def rows(tmp_path: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(tmp_path / "counters.db") as database:
        return database.execute("SELECT kind, id FROM counters ORDER BY rowid").fetchall()


def test_all_is_there_after_a_restart(make: Make, clock: Clock) -> None:
    counters = make()
    for _ in range(3):
        counters.hit("a", 3600.0)
    counters.take("a", 0.1, 5.0, 4.0)
    counters.put("a", bytes(range(256)), 86400.0)
    counters.add("b", b"", 86400.0)
    counters.put("c", b"gone", 86400.0)
    counters.forget("c")
    counters.close()
    clock.advance(10)
    again = make()
    assert again.peek("a", 3600.0) == 3
    assert again.take("a", 0.1, 5.0, 3.0) == pytest.approx(10.0)
    assert again.get("a") == bytes(range(256))
    assert again.add("b", b"other", 1.0) == b""
    assert again.get("c") is None
    assert again.hit("a", 3600.0) == 4


def test_a_crash_loses_only_what_came_since_the_last_second(make: Make, clock: Clock) -> None:
    counters = make()
    counters.put("early", b"1", 86400.0)
    later(clock, counters)
    counters.put("late", b"1", 86400.0)
    again = make()
    assert again.get("early") == b"1"
    assert again.get("late") is None


def test_what_is_over_does_not_come_back_and_goes_from_the_file(make: Make, clock: Clock, tmp_path: Path) -> None:
    counters = make()
    counters.hit("short", 60.0)
    counters.hit("long", 10 * 86400.0)
    counters.take("short", 1.0, 5.0)
    counters.put("short", b"1", 60.0)
    counters.put("long", b"1", 86400.0)
    counters.close()
    clock.advance(4000)
    again = make()
    assert (again.peek("short", 60.0), again.get("short")) == (0, None)
    assert (again.peek("long", 10 * 86400.0), again.get("long")) == (1, b"1")
    clock.advance(4000)
    again.put("new", b"1", 60.0)
    again.close()
    assert sorted(rows(tmp_path)) == [("value", '"long"'), ("value", '"new"'), ("window", '["long", 864000.0]')]


def test_a_row_goes_when_memory_forgets_it(make: Make, clock: Clock, tmp_path: Path) -> None:
    counters = make(10)
    for number in range(100):
        counters.put(str(number), b"1", 86400.0)
        counters.hit(str(number), 3600.0)
        counters.take(str(number), 0.001, 5.0)
        if number % 7 == 0:
            later(clock, counters)
    counters.close()
    assert len(rows(tmp_path)) == 30


def test_of_more_than_may_be_kept_the_newest_comes_back(make: Make, clock: Clock, tmp_path: Path) -> None:
    counters = make()
    for number in range(50):
        counters.hit(str(number), 3600.0)
        later(clock, counters)
    counters.close()
    fewer = make(10)
    assert [number for number in range(50) if fewer.peek(str(number), 3600.0)] == list(range(40, 50))
    later(clock, fewer)
    assert len(rows(tmp_path)) == 10


def test_no_timer_where_nothing_changes(make: Make, clock: Clock) -> None:
    counters = make()
    assert clock.getDelayedCalls() == []
    counters.put("a", b"1", 60.0)
    counters.put("a", b"2", 60.0)
    assert len(clock.getDelayedCalls()) == 1
    later(clock, counters)
    clock.advance(1)
    assert clock.getDelayedCalls() == []


def test_the_disk_is_touched_by_a_thread_only(make: Make, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    write = CountersFile.write

    def noted(self: CountersFile, batch: Any) -> bool:
        threads.append(threading.current_thread())
        return write(self, batch)

    monkeypatch.setattr(CountersFile, "write", noted)
    counters = make()
    counters.hit("a", 60.0)
    later(clock, counters)
    counters.hit("a", 60.0)
    counters.close()
    assert len(threads) == 2
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("content", [b"no database at all, but text " * 200, "version"])
def test_a_broken_file_is_set_aside_and_begun_anew(
    content: bytes | str, make: Make, clock: Clock, tmp_path: Path, told: list[str]
) -> None:
    path = tmp_path / "counters.db"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    counters = make()
    counters.put("a", b"1", 86400.0)
    counters.close()
    assert (tmp_path / "counters.unreadable").read_bytes() == before
    assert len(told) == 1
    assert "set aside" in told[0]
    assert make().get("a") == b"1"


@pytest.mark.parametrize("damage", [(b"expires REAL", b"expired REAL"), (b"CREATE TABLE", b"CREATE\xffTABLE")])
def test_a_file_whose_tables_are_damaged_is_set_aside(
    damage: tuple[bytes, bytes], make: Make, tmp_path: Path, told: list[str]
) -> None:
    make().close()
    path = tmp_path / "counters.db"
    broken = path.read_bytes().replace(*damage)
    path.write_bytes(broken)
    counters = make()
    counters.put("a", b"1", 86400.0)
    counters.close()
    assert (tmp_path / "counters.unreadable").read_bytes() == broken
    assert len(told) == 1
    assert "set aside" in told[0]
    assert make().get("a") == b"1"


def test_a_file_whose_tables_break_meanwhile_is_written_anew_whole(
    make: Make, clock: Clock, tmp_path: Path, told: list[str]
) -> None:
    counters = make()
    counters.put("early", b"1", 86400.0)
    later(clock, counters)
    with sqlite3.connect(tmp_path / "counters.db") as database:
        database.execute("DROP TABLE counters")
    counters.put("late", b"1", 86400.0)
    later(clock, counters)
    later(clock, counters)
    assert len(told) == 1
    again = make()
    assert (again.get("early"), again.get("late")) == (b"1", b"1")


def test_a_file_that_breaks_meanwhile_is_written_anew_whole(
    make: Make, clock: Clock, tmp_path: Path, told: list[str]
) -> None:
    counters = make()
    counters.put("early", b"1", 86400.0)
    counters.hit("early", 86400.0)
    later(clock, counters)
    counters._thread.submit(counters._file.close).result()
    (tmp_path / "counters.db").write_bytes(b"rubbish" * 1000)
    counters.put("late", b"1", 86400.0)
    later(clock, counters)
    later(clock, counters)
    assert len(told) == 1
    again = make()
    assert (again.get("early"), again.peek("early", 86400.0), again.get("late")) == (b"1", 1, b"1")


def test_a_disk_that_takes_nothing_for_a_while(
    make: Make, clock: Clock, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = make()
    with monkeypatch.context() as patch:

        def full(*_: object) -> bool:
            raise sqlite3.OperationalError("database or disk is full")

        patch.setattr(CountersFile, "write", full)
        for number in range(5):
            counters.put(str(number), b"1", 86400.0)
            later(clock, counters)
        assert [counters.get(str(number)) for number in range(5)] == [b"1"] * 5
    later(clock, counters)
    assert told == [
        "the counters cannot be written: database or disk is full; they are kept in memory until they can",
        "the counters are written again",
    ]
    assert [make().get(str(number)) for number in range(5)] == [b"1"] * 5


def test_a_directory_that_is_not_there_stops_nothing(clock: Clock, tmp_path: Path, told: list[str]) -> None:
    counters = SqliteCounters(clock, 10, 1 << 20, tmp_path / "nowhere" / "counters.db")
    counters.open()
    counters.put("a", b"1", 60.0)
    later(clock, counters)
    assert counters.get("a") == b"1"
    counters.close()
    assert len(told) == 1


def test_what_somebody_else_wrote_into_the_file_counts_as_never_seen(make: Make, tmp_path: Path) -> None:
    make().close()
    with sqlite3.connect(tmp_path / "counters.db") as database:
        database.executemany(
            "INSERT INTO counters VALUES (?, ?, ?, 1e12)",
            [
                ("window", '["a", 60.0]', "[1, 2]"),
                ("window", '["b", -1]', "[0,0,0,0,0,0,0,0,0,0]"),
                ("window", '"c"', "[0,0,0,0,0,0,0,0,0,0]"),
                ("bucket", '"a"', "[1]"),
                ("bucket", '"b"', '["x", 1, 2]'),
                ("value", '"a"', "no base64!"),
                ("value", '"b"', "A" * 8000),
                ("value", "no json", "AAAA"),
                ("moon", '"a"', "AAAA"),
                ("window", '["d", 60.0]', "[0,0,0,0,0,0,0,0,0,1e999]"),
                ("bucket", '"d"', "[NaN, 1, 2]"),
                ("value", '"d"', b"\xffAAA"),
                ("value", b'"\xff"', "AAAA"),
                ("value", '"good"', "AAAA"),
                ("value", '"null"', None),
            ],
        )
    counters = make()
    assert counters.get("good") == b"\0\0\0"
    assert [counters.get(key) for key in ("a", "b", "null")] == [None] * 3
    assert counters.peek("a", 60.0) == 0
    assert counters.take("a", 1.0, 2.0, 2.0) == 0.0


def test_many_changes_go_in_several_transactions(
    make: Make, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    write = CountersFile.write

    def noted(self: CountersFile, batch: list[Row]) -> bool:
        sizes.append(len(batch))
        return write(self, batch)

    monkeypatch.setattr(CountersFile, "write", noted)
    counters = make(10_000)
    for number in range(5_000):
        counters.hit(str(number), 3600.0)
    clock.advance(1)
    for _ in range(2):
        assert counters._writing is not None
        wait([counters._writing])
        clock.advance(0.1 if len(sizes) == 1 else 1)
    counters.close()
    assert sizes == [2_000, 2_000, 1_000]
    assert len(rows(tmp_path)) == 5_000
