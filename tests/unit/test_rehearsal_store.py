"""What is found of copies takes a bounded part of the disk, and what has gone for that is counted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from mailgate.awaiting import at_once
from mailgate.rehearsal.compare import Account, Pair, Side
from mailgate.rehearsal.store import (
    LACK_OF_ROOM,
    NOT_JUDGED,
    NOT_WRITTEN,
    Accounts,
    lost_accounts,
    read_accounts,
)
from mailgate.testing import wait_for
from tests.unit.test_rehearsal_copies import Stand, stand

__all__ = ["stand"]

MIB = 1024**2
HOUR = 3600.0


class Kept:
    """The file, opened as often as wanted."""

    def __init__(self, folder: Path, size: int = MIB, most: int = 10**6) -> None:
        self.path = folder / "rehearsal.db"
        self.now = 1000 * HOUR
        self.size, self.most = size, most
        self.count = 0
        self.open()

    def open(self, in_thread: Callable[..., object] = at_once) -> None:
        self.accounts = Accounts(self.path, in_thread, lambda: self.now)  # type: ignore[arg-type]  # as any, for a test
        self.accounts.use(10 * HOUR, self.most, self.size)

    def close(self) -> None:
        wait_for(Deferred.fromCoroutine(self.accounts.close()))

    def add(self, octets: int = 1000, recipients: int = 1) -> None:
        side = Side(outcome="taken", reason="x" * octets)
        pairs = tuple(Pair(recipient=f"u{number}@box.test", was=side, now=side) for number in range(recipients))
        account = Account(
            name=str(self.count), received=1.0, client="c", helo="h", sender="s", subject="", message_id="", pairs=pairs
        )
        self.count += 1
        wait_for(Deferred.fromCoroutine(self.accounts.add(account)))

    def names(self, since: float = 0.0) -> list[int]:
        return [int(one.name) for one in read_accounts(self.path, since)]

    def lost(self, since: float = 0.0) -> dict[str, int]:
        return dict(lost_accounts(self.path, since))


def test_the_file_is_bounded_and_what_has_gone_is_counted(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for _ in range(1500):
        kept.add()
    kept.close()
    assert kept.path.stat().st_size <= MIB + 64 * 1024
    names = kept.names()
    assert names == list(range(kept.count - len(names), kept.count))
    assert len(names) > 150
    assert kept.lost() == {LACK_OF_ROOM: kept.count - len(names)}


def test_the_count_survives_a_restart_and_is_told_by_the_hour(tmp_path: Path) -> None:
    kept = Kept(tmp_path, most=100)
    for _ in range(200):
        kept.add()
    kept.accounts = None  # type: ignore[assignment]  # the process has ended, and nobody has closed anything
    kept.open()
    assert kept.lost() == {LACK_OF_ROOM: 100}
    kept.now += 2 * HOUR
    for _ in range(100):
        kept.add()
    assert kept.lost() == {LACK_OF_ROOM: 200}
    assert kept.lost(kept.now) == {}
    # What is too old to be kept is not missed, and neither is what was lost then.
    kept.now += 20 * HOUR
    for _ in range(100):
        kept.add()
    assert (kept.lost(), len(kept.names())) == ({}, 100)
    kept.close()


def test_a_smaller_bound_counts_at_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path, size=8 * MIB)
    for _ in range(1500):
        kept.add()
    assert kept.lost() == {}
    kept.size = MIB
    kept.close()
    kept.open()
    kept.add()
    assert len(kept.names()) + kept.lost()[LACK_OF_ROOM] == kept.count
    assert len(kept.names()) < 600
    kept.close()


def test_the_newest_is_kept_however_small_the_room(tmp_path: Path) -> None:
    kept = Kept(tmp_path, size=4096)
    for _ in range(5):
        kept.add(30_000)
    assert kept.names() == [4]
    assert kept.lost() == {LACK_OF_ROOM: 4}


def test_recipients_that_are_not_kept_are_counted(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.add(50, 10_000)
    (account,) = read_accounts(kept.path, 0.0)
    assert 100 < len(account.pairs) < 10_000
    assert len(account.pairs) + account.cut == 10_000


def test_what_a_disk_does_not_take_is_counted_as_soon_as_it_does(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.path.mkdir()
    kept.add()
    kept.accounts.lose()
    kept.add()
    kept.path.rmdir()
    kept.add()
    assert (kept.names(), kept.lost()) == ([2], {NOT_WRITTEN: 2, NOT_JUDGED: 1})
    kept.accounts.lose()
    kept.close()
    assert kept.lost() == {NOT_WRITTEN: 2, NOT_JUDGED: 2}


def test_a_file_from_before_has_nothing_to_count(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "rehearsal.db") as database:
        database.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, at REAL NOT NULL, account BLOB NOT NULL)")
    assert lost_accounts(tmp_path / "rehearsal.db", 0.0) == {}
    kept = Kept(tmp_path)
    kept.add()
    assert kept.names() == [0]


def test_the_report_tells_of_what_it_does_not_know(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("mailgate.rehearsal.play._fate", None)
        assert stand.copy("bob@box.test").startswith("250")
    stand.copy("bob@box.test")
    assert f"Of 1 mails more nothing is known: {NOT_JUDGED}" in stand.report().stdout


def test_the_report_tells_first_what_somebody_would_miss(stand: Stand) -> None:
    stand.copy("bob@box.test", fields="X-Spam-Flag: YES\r\n")
    for _ in range(2):
        stand.copy("who@box.test.rehearsal.invalid")
    stand.copy("bob@box.test", client="198.51.100.7")
    text = stand.report("--show", "1", code=1).stdout
    assert text.index("taken       > refused") < text.index("quarantined > taken")
    reasons = text[text.index("Taken before, and not now: look at these first: 3") :].splitlines()
    assert reasons[1].split(":")[0].split() == ["2", "recipients"]
    assert reasons[2].split(":")[0].split() == ["1", "access"]
    assert reasons[4:6] == ["Taken now, and not before: 1", "       1  mailgate"]
    assert "now: refused by recipients" in text
    assert "3 more differ" in text
    alone = stand.report("--missed", code=1).stdout
    assert "Taken now, and not before" not in alone


def test_the_exit_code_may_be_about_what_somebody_would_miss(stand: Stand) -> None:
    stand.copy("bob@box.test", fields="X-Spam-Flag: YES\r\n")
    stand.report(code=1)
    assert "No recipient differs." in stand.report("--missed").stdout
