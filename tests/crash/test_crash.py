"""The spool is stopped, or fails, at every moment of its life: what it has acknowledged survives."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.disk import CrashError, Disk
from tests.crash.life import Bench, Ledger, StoppedError, check, live

#: The moments are shared out among so many tests.
PARTS = 6


@pytest.fixture(autouse=True)
def _small_quick_and_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.spool.disk._RESERVE", 4096)
    monkeypatch.setattr("mailgate.spool.sqlite._RETEST", 0.01)
    monkeypatch.setattr("mailgate.spool.sqlite._PATIENCE", 0.0005)
    # A thread that ends by a CrashError is no news.
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)


def run(folder: Path, stop_at: int, fail_with: Callable[[str], Exception | None] | None = None) -> tuple[Disk, Ledger]:
    """Live until that moment, or with an error at that moment."""
    ledger = Ledger()
    benches: list[Bench] = []
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, folder / "spool", stop_at=stop_at, fail_with=fail_with)
        try:
            live(disk, ledger, benches)
        except (StoppedError, CrashError):
            benches[-1].drop()
    return disk, ledger


def test_a_life_without_a_crash(tmp_path: Path) -> None:
    disk, ledger = run(tmp_path, 0)
    assert len(disk.moments) > 150
    assert {moment.split()[1] for moment in disk.moments} == {"fsync", "replace", "unlink", "commit"}
    check(disk.folder, ledger)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_crash_at_every_moment_loses_nothing_acknowledged(tmp_path: Path, part: int) -> None:
    whole, _ = run(tmp_path / "whole", 0)
    for moment in range(1 + part, len(whole.moments) + 1, PARTS):
        folder = tmp_path / str(moment)
        disk, ledger = run(folder, moment)
        # A life may be a little shorter than another.
        for left in [disk.image("killed"), disk.image("unplugged")] if disk.is_over else [disk.folder]:
            try:
                check(left, ledger)
            except BaseException as error:
                error.add_note(f"{left.name} at moment {moment}: {disk.moments[moment - 1]}")
                raise
        shutil.rmtree(folder)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("part", range(PARTS))
def test_an_error_at_every_moment_loses_nothing_and_leaves_nothing(tmp_path: Path, part: int, code: int) -> None:
    def fail(what: str) -> Exception | None:
        if "commit" not in what:
            return OSError(code, "by the test")
        if what == "after commit":
            return None  # that is no error any more
        return sqlite3.OperationalError("database or disk is full" if code == errno.ENOSPC else "disk I/O error")

    whole, _ = run(tmp_path / "whole", 0)
    for moment in range(1 + part, len(whole.moments) + 1, PARTS):
        if code == errno.ENOSPC and whole.moments[moment - 1].startswith("after"):
            continue  # a full disk does nothing before it says so
        folder = tmp_path / str(moment)
        try:
            disk, ledger = run(folder, moment, fail)
            check(disk.folder, ledger)
        except BaseException as fault:
            fault.add_note(f"an error at moment {moment}")
            raise
        shutil.rmtree(folder)
