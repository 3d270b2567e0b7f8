"""Octets that go bad, and files that are cut: what cannot be read is set aside, and the rest goes on."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mailgate.events import EntrySetAside, SpoolFailed, SpoolRecovered
from mailgate.interfaces import Lease, Selector, SpoolError
from tests.crash.disk import CrashError, Disk
from tests.crash.life import Bench, Ledger, Life, StoppedError

PAGE = 4096


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.spool.disk._RESERVE", 4096)
    monkeypatch.setattr("mailgate.spool.sqlite._RETEST", 0.01)
    monkeypatch.setattr("mailgate.spool.sqlite._PATIENCE", 0.0005)


class Ward:
    """A closed spool with all kinds of messages, which can be copied, hurt, and opened."""

    def __init__(self, folder: Path, messages: int) -> None:
        self.folder = folder
        self.ledger = Ledger()
        bench = Bench(folder)
        life = Life(bench, self.ledger)
        for number in range(messages):
            lease = life.accept(1 + number % 3, 100 + number % 5 * 180 if number % 6 else 2500)
            if number % 2:
                life.write(lease, "l" * len(lease.recipients))
        bench.close()
        (self.pages, rest) = divmod((folder / "spool.db").stat().st_size, PAGE)
        assert rest == 0

    def copy(self, name: str) -> Path:
        image = self.folder.with_name(name)
        shutil.copytree(self.folder, image)
        return image


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    return Ward(tmp_path_factory.mktemp("ward") / "spool", 60)


def aside(bench: Bench) -> set[str]:
    """The ids of what was set aside."""
    bench.pump(0.02)
    return {event.queue_id for event in bench.events if isinstance(event, EntrySetAside)}


def go_on(folder: Path, ledger: Ledger) -> tuple[Bench, list[Lease]]:
    """Open and sweep it; what can be delivered, which must be whole."""
    bench = Bench(folder)
    life = Life(bench, ledger)
    life.surely(bench.spool.sweep)
    leases = life.lease()
    for lease in leases:
        assert lease.content.read() == ledger.contents[lease.envelope.queue_id]
    return bench, leases


def is_well(folder: Path, bench: Bench) -> None:
    """It takes mail and is rid of it, also after a restart; and a start finds nothing to complain of."""
    life = Life(bench, Ledger())
    life.write(life.accept(2, 3000), "dd")
    kept = life.accept()
    bench.close()
    again = Bench(folder)
    life = Life(again, Ledger())
    assert life.surely(again.spool.sweep).set_aside == ()
    assert kept.envelope.queue_id in {lease.envelope.queue_id for lease in life.lease()}
    assert aside(again) == set()
    again.close()


# -- the database


def test_a_bad_page_costs_what_was_on_it_and_no_more(ward: Ward) -> None:
    chance = random.Random(1)
    survivors = []
    for page in range(ward.pages):
        folder = ward.copy(f"page-{page}")
        with (folder / "spool.db").open("r+b") as file:
            file.seek(page * PAGE)
            file.write(chance.randbytes(PAGE))
        bench, leases = go_on(folder, ward.ledger)
        found = {(lease.envelope.queue_id, one.number) for lease in leases for one in lease.recipients}
        assert found <= ward.ledger.accepted
        survivors.append(len(found) / len(ward.ledger.accepted))
        # Nothing is gone for good: neither the old database nor the content that had a file.
        kept = list((folder / "set-aside").glob("spool-*.db"))
        assert [one.stat().st_size // PAGE >= ward.pages for one in kept] == ([True] if "" in aside(bench) else [])
        if any(isinstance(event, SpoolFailed) for event in bench.events):
            assert any(isinstance(event, SpoolRecovered) for event in bench.events)
        for queue_id, data in ward.ledger.contents.items():
            if len(data) > 1000:
                places = [folder / "content" / queue_id, folder / "set-aside" / f"{queue_id}.eml"]
                assert data in [place.read_bytes() for place in places if place.exists()]
        is_well(folder, bench)
        shutil.rmtree(folder)
    # Where the page is no root of a table, most goes on.
    assert sorted(survivors)[len(survivors) // 2] > 0.8
    assert min(survivors) < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_several_bad_pages_cost_what_was_on_them_and_no_more(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folder = tmp_path / "spool"
    ward = Ward(folder, 250)
    with closing(sqlite3.connect(folder / "spool.db")) as database:
        leaves = [
            page
            for (page,) in database.execute(
                "SELECT pageno FROM dbstat WHERE name IN ('fresh', 'messages', 'recipients') AND pagetype = 'leaf'"
            )
        ]
    with (folder / "spool.db").open("r+b") as file:
        for page in chance.sample(leaves, len(leaves) // 5):
            file.seek((page - 1) * PAGE)
            file.write(chance.randbytes(PAGE))
    bench, leases = go_on(folder, ward.ledger)
    found = [(lease.envelope.queue_id, one.number) for lease in leases for one in lease.recipients]
    assert len(set(found)) == len(found)
    assert set(found) <= ward.ledger.accepted
    # A message needs two pages to be whole, or three.
    assert len(found) / len(ward.ledger.accepted) > 0.6
    is_well(folder, bench)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_a_database_that_is_cut_short(ward: Ward, share: float) -> None:
    folder = ward.copy(f"cut-{share}")
    path = folder / "spool.db"
    os.truncate(path, int(path.stat().st_size * share) // PAGE * PAGE + (100 if share else 0))
    bench, leases = go_on(folder, ward.ledger)
    assert len(leases) < len({queue_id for queue_id, _ in ward.ledger.accepted})
    for queue_id, data in ward.ledger.contents.items():
        if len(data) > 1000 and share:
            places = [folder / "content" / queue_id, folder / "set-aside" / f"{queue_id}.eml"]
            assert data in [place.read_bytes() for place in places if place.exists()]
    is_well(folder, bench)


def test_a_file_that_is_no_database_costs_no_content(ward: Ward) -> None:
    folder = ward.copy("no-database")
    path = folder / "spool.db"
    path.write_bytes(b"this is no database, but somebody may want it" * 500)
    bench, leases = go_on(folder, ward.ledger)
    assert leases == []
    (kept,) = (folder / "set-aside").glob("spool-*.db")
    assert kept.read_bytes().startswith(b"this is no database")
    files = {queue_id: data for queue_id, data in ward.ledger.contents.items() if len(data) > 1000}
    assert {path.stem: path.read_bytes() for path in (folder / "set-aside").glob("*.eml")} == files
    assert aside(bench) == {""}
    is_well(folder, bench)


def test_damage_that_shows_while_running_is_put_in_order(ward: Ward) -> None:
    folder = ward.copy("running")
    bench, leases = go_on(folder, ward.ledger)
    life = Life(bench, ward.ledger)
    life.give_back(*leases)
    bench.spool._store.checkpoint()
    (root,) = bench.spool._store.database.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'messages'"
    ).fetchone()
    with (folder / "spool.db").open("r+b") as file:
        file.seek((root - 1) * PAGE)
        file.write(os.urandom(PAGE))
    bench.spool._store.database.execute("PRAGMA shrink_memory")
    # Whoever asks first finds it out; then the writer puts it in order, and the rest goes on, the reader too.
    life.surely(lambda: bench.spool.lease(1000, time.time() + 3600))
    assert "" in aside(bench)
    assert bench.wait(bench.spool.view(Selector(), 1000)) == []
    is_well(folder, bench)


def test_damage_that_only_a_question_shows_is_put_in_order(ward: Ward) -> None:
    folder = ward.copy("asked")
    bench, leases = go_on(folder, ward.ledger)
    bench.spool._store.checkpoint()
    (root,) = bench.spool._store.database.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'recipients_domain'"
    ).fetchone()
    with (folder / "spool.db").open("r+b") as file:
        file.seek((root - 1) * PAGE)
        file.write(random.Random(4).randbytes(PAGE))
    with pytest.raises(SpoolError, match="malformed"):
        bench.wait(bench.spool.view(Selector(domain="d.test"), 1000))
    while "" not in aside(bench):
        pass
    found = bench.wait(bench.spool.view(Selector(domain="d.test"), 1000))
    assert {one.queue_id for one in found} == {one.envelope.queue_id for one in leases}
    is_well(folder, bench)


def test_a_crash_while_a_damaged_database_is_put_in_order(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda arguments: None)
    hurt = ward.copy("hurt")
    with closing(sqlite3.connect(hurt / "spool.db")) as database:
        # Every row can be read without it, and nobody works without it.
        (page,) = database.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_messages_1'"
        ).fetchone()
    with (hurt / "spool.db").open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(random.Random(3).randbytes(PAGE))
    bench, leases = go_on(hurt, ward.ledger)
    expected = {(lease.envelope.queue_id, one.number) for lease in leases for one in lease.recipients}
    bench.close()
    shutil.rmtree(hurt)
    moment = 0
    while True:
        moment += 1
        hurt = ward.copy(f"hurt-{moment}")
        with (hurt / "spool.db").open("r+b") as file:
            file.seek((page - 1) * PAGE)
            file.write(random.Random(3).randbytes(PAGE))
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, hurt, stop_at=moment)
            bench = Bench(hurt, disk)
            try:
                Life(bench, ward.ledger).surely(bench.spool.sweep)
                Life(bench, ward.ledger).lease()
            except (StoppedError, CrashError):
                bench.drop()
            else:
                bench.close()
        if not disk.is_over:
            break
        again, leases = go_on(disk.image("killed"), ward.ledger)
        found = {(lease.envelope.queue_id, one.number) for lease in leases for one in lease.recipients}
        assert found == expected, disk.moments[-1]
        again.close()
        shutil.rmtree(hurt)
        shutil.rmtree(disk.image("killed"))
    assert moment > 10


# -- rows


Hurt = Callable[[sqlite3.Connection, str], object]
ROWS: dict[str, Hurt] = {
    "no JSON": lambda db, one: db.execute("UPDATE messages SET envelope = '{' WHERE queue_id = ?", (one,)),
    "no text": lambda db, one: db.execute("UPDATE messages SET envelope = x'ff00' WHERE queue_id = ?", (one,)),
    "bad text": lambda db, one: db.execute(
        "UPDATE messages SET envelope = CAST(x'7bff7d' AS TEXT) WHERE queue_id = ?", (one,)
    ),
    "a number": lambda db, one: db.execute("UPDATE messages SET envelope = 7 WHERE queue_id = ?", (one,)),
    "a later version": lambda db, one: db.execute(
        "UPDATE messages SET envelope = replace(envelope, '\"v\":2', '\"v\":99') WHERE queue_id = ?", (one,)
    ),
    "another's": lambda db, one: db.execute(
        "UPDATE messages SET envelope = replace(envelope, queue_id, '0000000000000000') WHERE queue_id = ?", (one,)
    ),
    "content cut": lambda db, one: db.execute(
        "UPDATE messages SET content = substr(content, 2) WHERE queue_id = ?", (one,)
    ),
    "content gone": lambda db, one: db.execute("UPDATE messages SET content = NULL WHERE queue_id = ?", (one,)),
    "content text": lambda db, one: db.execute(
        "UPDATE messages SET content = CAST(content AS TEXT) WHERE queue_id = ?", (one,)
    ),
    "no message": lambda db, one: db.execute("DELETE FROM messages WHERE queue_id = ?", (one,)),
}


@pytest.mark.parametrize("hurt", ROWS.values(), ids=ROWS.keys())
def test_a_row_that_cannot_be_read_is_set_aside_and_the_rest_goes_on(tmp_path: Path, hurt: Hurt) -> None:
    ledger = Ledger()
    bench = Bench(tmp_path / "spool")
    life = Life(bench, ledger)
    leases = [life.accept(2, 500) for _ in range(3)]
    life.give_back(*leases)
    bad = leases[1].envelope.queue_id
    with sqlite3.connect(tmp_path / "spool" / "spool.db") as other:
        hurt(other, bad)
    other.close()
    found = life.lease()
    assert {lease.envelope.queue_id for lease in found} == {one.envelope.queue_id for one in leases} - {bad}
    assert aside(bench) == {bad}
    assert (tmp_path / "spool" / "set-aside" / f"{bad}.envelope").exists()
    assert bad not in {one.queue_id for one in bench.wait(bench.spool.view(Selector(), 100))}
    for lease in found:
        life.write(lease, "dd")
    is_well(tmp_path / "spool", bench)


@pytest.mark.parametrize("text", ["'{'", "x'ff'", "CAST(x'ff' AS TEXT)", "7"])
def test_a_fresh_row_that_cannot_be_read_is_set_aside_at_the_start(tmp_path: Path, text: str) -> None:
    ledger = Ledger()
    bench = Bench(tmp_path / "spool")
    life = Life(bench, ledger)
    leases = [life.accept(1, 500), life.accept(1, 3000), life.accept()]
    bench.close()
    with sqlite3.connect(tmp_path / "spool" / "spool.db") as other:
        other.execute(f"UPDATE fresh SET envelope = {text} WHERE id IN (1, 2)")  # noqa: S608  of the test's own
    other.close()
    bench, found = go_on(tmp_path / "spool", ledger)
    assert [lease.envelope.queue_id for lease in found] == [leases[2].envelope.queue_id]
    assert len(aside(bench)) == 2
    kept = [path.read_bytes() for path in (tmp_path / "spool" / "set-aside").glob("*.eml")]
    assert {ledger.contents[one.envelope.queue_id] for one in leases[:2]} <= set(kept)
    is_well(tmp_path / "spool", bench)


# -- files


@pytest.mark.parametrize("how", ["cut", "gone", "longer", "a folder"])
@pytest.mark.parametrize("at_start", [True, False], ids=["at the start", "while running"])
def test_a_content_file_that_is_not_as_it_was(tmp_path: Path, how: str, at_start: bool) -> None:
    ledger = Ledger()
    bench = Bench(tmp_path / "spool")
    life = Life(bench, ledger)
    bad, good = life.accept(1, 3000), life.accept(1, 3000)
    if not at_start:
        life.give_back(bad, good)
    else:
        bench.close()
    path = tmp_path / "spool" / "content" / bad.envelope.queue_id
    if how == "cut":
        os.truncate(path, 100)
    elif how == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    else:
        path.unlink()
        if how == "a folder":
            path.mkdir()
    if at_start:
        bench, found = go_on(tmp_path / "spool", ledger)
    else:
        found = life.lease()
    assert [lease.envelope.queue_id for lease in found] == [good.envelope.queue_id]
    assert len(aside(bench)) == 1
    kept = tmp_path / "spool" / "set-aside"
    assert any(str(bad.envelope.sender).split("@")[0] in path.read_text() for path in kept.glob("*.envelope"))
    if how in ("cut", "longer"):
        assert [path.stat().st_size for path in kept.glob("*.eml")] == [100 if how == "cut" else 3001]


def test_a_crash_while_setting_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda arguments: None)
    moment = 0
    while True:
        moment += 1
        folder = tmp_path / str(moment) / "spool"
        folder.parent.mkdir()
        ledger = Ledger()
        bench = Bench(folder)
        life = Life(bench, ledger)
        bad, good = life.accept(1, 3000), life.accept(1, 3000)
        life.give_back(bad, good)
        bench.close()
        os.truncate(folder / "content" / bad.envelope.queue_id, 100)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, folder, stop_at=moment)
            bench = Bench(folder, disk)
            try:
                Life(bench, ledger).lease()
            except (StoppedError, CrashError):
                bench.drop()
            else:
                bench.close()
        if not disk.is_over:
            break
        for image in ("killed", "unplugged"):
            again, found = go_on(disk.image(image), ledger)
            assert [lease.envelope.queue_id for lease in found] == [good.envelope.queue_id], disk.moments[-1]
            kept = disk.image(image) / "set-aside"
            assert (kept / f"{bad.envelope.queue_id}.envelope").exists()
            assert [path.stat().st_size for path in kept.glob("*.eml")] == [100]
            again.close()
    assert moment > 8
