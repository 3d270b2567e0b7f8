"""Stopped at every moment while an older database is brought up to date: each message is there, as it was."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from mailgate.interfaces import Selector
from tests.crash.disk import CrashError, Disk
from tests.crash.life import Bench, StoppedError
from tests.unit.test_spool_versions import V1, old_spool

#: Messages in the database besides those of `old_spool`; one of them is held.
_MORE = 40


@pytest.fixture(autouse=True)
def _small_and_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.spool.disk._RESERVE", 4096)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)


def write_old(folder: Path, version: int) -> None:
    """A spool of that version, with messages in the database and in a file."""
    old_spool(folder, version)
    for name in ("content", "incoming", "set-aside"):
        (folder / name).mkdir()
    (folder / "content" / "FILE").write_bytes(b"hello")
    with closing(sqlite3.connect(folder / "spool.db")) as database:
        for queue_id in ("FILE", *(f"M{number}" for number in range(_MORE))):
            content = None if queue_id == "FILE" else b"hello"
            database.execute(
                "INSERT INTO messages (queue_id, sender, received, size, envelope, content) VALUES (?, ?, ?, ?, ?, ?)",
                (queue_id, "ann@client.test", 1700000000.5, 5, V1.format(id=queue_id), content),
            )
            database.execute(
                "INSERT INTO recipients"
                " (queue_id, number, address, domain, route, state, hold, due, attempts, last_reply)"
                " VALUES (?, 0, 'user0@d0.test', 'd0.test', 'route', ?, 0, 1700000300, 4, '451 later')",
                (queue_id, "held" if queue_id == "M3" else "queued"),
            )
        database.commit()


@pytest.mark.parametrize("version", [1, 2])
def test_a_crash_at_every_moment_of_an_upgrade(tmp_path: Path, version: int) -> None:
    expected = {"FRESH", "OLD", "FILE", *(f"M{number}" for number in range(_MORE))}
    moment = 0
    while True:
        moment += 1
        folder = tmp_path / str(moment) / "spool"
        folder.parent.mkdir()
        write_old(folder, version)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, folder, stop_at=moment, steps=True)
            try:
                bench = Bench(folder, disk)
            except CrashError:
                pass
            else:
                try:
                    bench.wait(bench.spool.sweep())
                except (StoppedError, CrashError):
                    bench.drop()
                else:
                    bench.close()
        images = [disk.image("killed"), disk.image("unplugged")] if disk.is_over else [folder]
        for image in images:
            bench = Bench(image)
            assert bench.wait(bench.spool.sweep()).set_aside == (), disk.moments[-1]
            found = {one.queue_id: one for one in bench.wait(bench.spool.view(Selector(), 1000))}
            assert found.keys() == expected, disk.moments[-1]
            assert {name for name, one in found.items() if one.state == "held"} == {"M3"}
            assert {one.attempts for name, one in found.items() if name != "FRESH"} == {4}
            for queue_id in expected:
                message = bench.wait(bench.spool.content(queue_id))
                assert message is not None
                assert message[1].read() == b"hello"
            bench.close()
            # What was there before is kept.
            if image.name != "spool-unplugged":
                with closing(sqlite3.connect(image / f"spool.db.v{version}")) as kept:
                    assert kept.execute("PRAGMA user_version").fetchone() == (version,)
                    assert kept.execute("SELECT count(*) FROM messages").fetchone() == (_MORE + 2,)
            assert not list(image.glob("*.part"))
        shutil.rmtree(folder.parent)
        if not disk.is_over:
            break
    assert moment > 15
