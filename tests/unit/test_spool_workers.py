"""One spool and several workers: what they share, what is each one's own, and what one does for another that has gone.

Two spools in one process stand for two processes: the locks are those of their open files.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from mailgate.events import EntrySetAside, SpoolFailed, SpoolRecovered
from mailgate.interfaces import Lease, OutcomeKind, Selector, SpoolError
from mailgate.message import Content, ContentWriter
from mailgate.spool.disk import WriteTurn, is_locked, share_directory
from tests.unit.spool_stand import close, kill, quick, together, until, worker  # noqa: F401  fixtures, too
from tests.unit.test_spool import Bench, accept, envelope, give_back, lease_all, outcomes


def ids(leases: list[Lease]) -> set[str]:
    return {lease.envelope.queue_id for lease in leases}


# -- whose directory it is


def test_a_number_is_taken_once_and_others_are_kept_out(tmp_path: Path) -> None:
    one = worker(tmp_path / "spool", 0)
    with pytest.raises(SpoolError, match=rf"another process \({os.getpid()}\)"):
        worker(tmp_path / "spool", 0)
    with pytest.raises(SpoolError, match=rf"another process \({os.getpid()}\)"):
        Bench(tmp_path / "spool")
    two = worker(tmp_path / "spool", 1)
    assert is_locked(tmp_path / "spool", "worker-1")
    close(one)
    with pytest.raises(SpoolError, match="another process"):
        Bench(tmp_path / "spool")
    close(two)
    assert not is_locked(tmp_path / "spool", "worker-1")
    close(Bench(tmp_path / "spool", min_free=0))


def test_one_owner_keeps_out_workers_and_a_supervisor(tmp_path: Path) -> None:
    one = Bench(tmp_path / "spool", min_free=0)
    for name in ("worker-0", "supervisor"):
        with pytest.raises(SpoolError, match="another process"):
            share_directory(tmp_path / "spool", name)
        assert not is_locked(tmp_path / "spool", name)
    close(one)


def test_a_supervisor_without_workers_holds_it(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    locks = share_directory(tmp_path / "spool", "supervisor")
    with pytest.raises(SpoolError, match="another process"):
        share_directory(tmp_path / "spool", "supervisor")
    with pytest.raises(SpoolError, match="another process"):
        Bench(tmp_path / "spool")
    close(worker(tmp_path / "spool", 0))
    for lock in locks:
        os.close(lock)
    close(Bench(tmp_path / "spool", min_free=0))


def test_a_start_that_fails_leaves_no_lock(tmp_path: Path) -> None:
    close(Bench(tmp_path / "spool", min_free=0))
    with closing(sqlite3.connect(tmp_path / "spool" / "spool.db")) as other:
        other.execute("PRAGMA user_version = 99")
    for _ in range(2):
        with pytest.raises(SpoolError, match="newer mailgate"):
            worker(tmp_path / "spool", 1)
        with pytest.raises(SpoolError, match="newer mailgate"):
            Bench(tmp_path / "spool")


# -- what they share


def test_workers_have_their_own_mail_and_share_what_waits(pair: tuple[Bench, Bench]) -> None:
    one, two = pair
    first, second = accept(one), accept(two)
    assert one.spool.incoming != two.spool.incoming
    assert ids(lease_all(one)) == ids(lease_all(two)) == set()
    for bench in pair:
        assert len(bench.view()) == 2
    two.wait(two.spool.record(second, outcomes(second, OutcomeKind.DELIVERED)))
    give_back(one, first)
    (found,) = lease_all(two)
    assert found.envelope == first.envelope
    assert lease_all(one) == []
    # A lease is the worker's who has it, even where it ends at the same time as another's did.
    give_back(one, found)
    assert [one[2] for one in one.view()] == ["leased"]
    two.wait(two.spool.record(found, outcomes(found, OutcomeKind.DELIVERED)))
    assert one.view() == two.view() == []


def test_many_writers_take_turns(tmp_path: Path) -> None:
    benches = [worker(tmp_path / "spool", number, 3) for number in range(3)]
    deadline = time.time() + 60
    for _ in range(20):
        waiting = [
            (bench, bench.spool.accept(envelope(1, 5), Content(b"hello"), deadline))
            for bench in benches
            for _ in range(10)
        ]
        leases = [(bench, bench.wait(done)) for bench, done in waiting]
        for number, (bench, lease) in enumerate(leases):
            kind = OutcomeKind.DEFERRED if number % 7 == 0 else OutcomeKind.DELIVERED
            bench.wait(bench.spool.record(lease, outcomes(lease, kind, deadline)))
    assert [len(bench.view()) for bench in benches] == [100] * 3
    assert not [event for bench in benches for event in bench.events]
    close(*benches)


def test_nobody_writes_while_it_is_not_their_turn(pair: tuple[Bench, Bench]) -> None:
    one, two = pair
    turn = WriteTurn(one.spool.directory / "writing.lock")
    turn.take()
    waiting = [bench.spool.accept(envelope(1, 5), Content(b"hello"), time.time() + 60) for bench in pair]
    assert one.view() == two.view() == []
    turn.give()
    for bench, done in zip(pair, waiting, strict=True):
        bench.wait(done)
    turn.close()
    assert len(one.view()) == 2


def test_an_operator_at_one_reaches_the_mail_of_the_other(pair: tuple[Bench, Bench]) -> None:
    one, two = pair
    lease = accept(two)
    one.wait(one.spool.hold(Selector()))
    give_back(two, lease)
    assert [entry[2] for entry in one.view()] == ["queued"]
    lease = accept(two)
    two.wait(two.spool.expand_fresh())
    one.wait(one.spool.hold(Selector(queue_id=lease.envelope.queue_id)))
    two.wait(two.spool.record(lease, outcomes(lease, OutcomeKind.DEFERRED, 0.0)))
    assert [entry[2] for entry in one.view(queue_id=lease.envelope.queue_id)] == ["held"]


def test_a_reserve_that_another_gave_up_is_no_room(pair: tuple[Bench, Bench]) -> None:
    one, two = pair
    two.spool._min_free = 1
    assert two.spool.refusal(0) == ""
    one.spool._reserve.give_up()
    two.spool._free = (-1.0, 0)  # it looks every second
    assert "free for the spool" in two.spool.refusal(0)


# -- a life that has ended


def test_a_start_puts_in_order_what_the_same_number_has_left_and_no_more(tmp_path: Path) -> None:
    one, two = worker(tmp_path / "spool", 0), worker(tmp_path / "spool", 1)
    alive, alive_large, alive_old = accept(one), accept(one, 1, b"l" * 2000), accept(one)
    give_back(one, alive_old)
    (alive_old,) = lease_all(one)
    lost, lost_large, lost_old = accept(two), accept(two, 1, b"m" * 2000), accept(two)
    give_back(two, lost_old)
    (lost_old,) = lease_all(two)
    for bench in (one, two):
        (bench.spool.incoming / "incoming-abc").write_bytes(b"half")
    kill(two)
    two = worker(tmp_path / "spool", 1)
    report = two.wait(two.spool.sweep())
    assert (report.set_aside, report.leftovers) == ((), 1)
    assert ids(lease_all(two)) == ids([lost, lost_large, lost_old])
    assert lease_all(one) == []
    assert alive_large.content.read() == b"l" * 2000
    for lease in (alive, alive_large, alive_old):
        one.wait(one.spool.record(lease, outcomes(lease, OutcomeKind.DELIVERED)))
    assert {entry[2] for entry in one.view()} == {"leased"}
    assert len(one.view()) == 3
    assert [path.name for path in one.spool.incoming.iterdir()] == ["incoming-abc"]
    close(one, two)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_one_puts_in_order_what_no_number_has_any_more(tmp_path: Path, workers: int) -> None:
    before = [worker(tmp_path / "spool", number, 4) for number in range(4)]
    leases = [accept(bench) for bench in before] + [accept(before[3], 1, b"l" * 2000)]
    for bench in before:
        (bench.spool.incoming / "incoming-abc").write_bytes(b"half")
        give_back(bench, accept(bench))
        assert len(lease_all(bench)) == 1
        kill(bench)
    after = [worker(tmp_path / "spool", number, workers) for number in range(workers)]
    reports = [bench.wait(bench.spool.sweep()) for bench in after]
    assert sum(report.leftovers for report in reports) == 4
    assert {entry[2] for entry in after[0].view()} == {"queued"}
    found = lease_all(after[-1])
    assert len(found) == 9
    assert ids(leases) < ids(found)
    close(*after)


def test_workers_put_in_order_what_a_single_process_has_left(tmp_path: Path) -> None:
    single = Bench(tmp_path / "spool", min_free=0, inline_limit=1000)
    leases = [accept(single), accept(single, 1, b"l" * 2000)]
    (single.spool.incoming / "incoming-abc").write_bytes(b"half")
    close(single)
    two, one = worker(tmp_path / "spool", 1), worker(tmp_path / "spool", 0)
    assert two.wait(two.spool.sweep()).leftovers == 0
    assert one.wait(one.spool.sweep()).leftovers == 1
    assert ids(lease_all(two)) == ids(leases)
    close(one, two)


def test_who_has_outlived_the_supervisor_is_left_alone(tmp_path: Path) -> None:
    old = worker(tmp_path / "spool", 3, 4)
    lease, writer = accept(old), ContentWriter(old.spool.incoming, 10)
    writer.write(b"x" * 2000)
    one = worker(tmp_path / "spool", 0)
    assert one.wait(one.spool.sweep()).leftovers == 0
    assert lease_all(one) == []
    assert old.wait(old.spool.accept(envelope(1, 2000), writer.finish(), time.time() + 60))
    old.wait(old.spool.record(lease, outcomes(lease, OutcomeKind.DELIVERED)))
    close(old, one)


def test_content_of_a_message_that_cannot_be_read_is_no_leftover(pair: tuple[Bench, Bench]) -> None:
    one, two = pair
    accept(two, 1, b"l" * 2000)
    with closing(sqlite3.connect(one.spool.directory / "spool.db")) as other:
        other.execute("UPDATE fresh SET envelope = '{'")
        other.commit()
    unknown = one.spool.directory / "content" / "0000000000000000"
    unknown.write_bytes(b"may be anybody's")
    assert one.wait(one.spool.sweep()).leftovers == 0
    assert unknown.exists()


def test_the_lease_of_one_who_has_gone_ends_by_time(tmp_path: Path) -> None:
    one, two = worker(tmp_path / "spool", 0), worker(tmp_path / "spool", 1)
    give_back(two, accept(two))
    two.wait(two.spool.lease(10, time.time() - 1))
    kill(two)
    assert len(lease_all(one)) == 1
    close(one)


# -- damage


def test_damage_is_put_in_order_once_and_all_go_on(tmp_path: Path) -> None:
    one, two = worker(tmp_path / "spool", 0), worker(tmp_path / "spool", 1)
    fresh, kept = accept(two), accept(two)
    give_back(one, kept)
    give_back(two, kept)
    one.spool._store.checkpoint()
    database = one.spool._store.database
    (root,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'recipients_due'").fetchone()
    with (tmp_path / "spool" / "spool.db").open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(os.urandom(4096))
    for bench in (one, two):
        bench.spool._store.database.execute("PRAGMA shrink_memory")
    with pytest.raises(SpoolError):
        one.wait(one.spool.next_due())
    until(one, SpoolRecovered)
    assert [event.queue_id for event in one.events if isinstance(event, EntrySetAside)] == [""]
    # The other one finds the new file, with what it had in the old one, when it writes next.
    assert ids(lease_all(two)) == {kept.envelope.queue_id}
    assert len(two.view()) == 2
    two.wait(two.spool.record(fresh, outcomes(fresh, OutcomeKind.DELIVERED)))
    for bench in (one, two):
        assert [entry[0] for entry in bench.view()] == [kept.envelope.queue_id]
    more = [accept(bench) for bench in (one, two, one)]
    assert len(one.view()) == 4
    assert len(more) == 3
    assert not [event for event in two.events if isinstance(event, SpoolFailed)]
    close(one, two)
    assert len(list((tmp_path / "spool" / "set-aside").glob("*.db"))) == 1


def test_two_who_come_together_make_one_database(tmp_path: Path) -> None:
    found: list[Bench] = []
    threads = [
        threading.Thread(target=lambda number=number: found.append(worker(tmp_path / "spool", number, 4)))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    for bench in found:
        accept(bench)
    assert len(found[0].view()) == 4
    close(*found)
