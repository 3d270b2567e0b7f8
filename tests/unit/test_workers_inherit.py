"""Mail of a worker whose number there is no more, and that dies when the next start has begun."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mailgate.interfaces import Lease
from mailgate.spool import leasing
from tests.unit.spool_stand import close, kill, worker
from tests.unit.test_spool import Bench, accept


def leased_at(bench: Bench, seconds: float) -> list[Lease]:
    """What is leased so many seconds later than now, and not what was leased before."""
    store, real = bench.spool._store, bench.spool._store.now
    store.now = lambda: real() + seconds
    try:
        found: Sequence[Lease] = bench.wait(bench.spool.lease(10, real() + 86400))
        return list(found)
    finally:
        store.now = real


def test_its_leases_end_with_it(tmp_path: Path) -> None:
    orphan = worker(tmp_path / "spool", 3, 4)
    accept(orphan)
    orphan.wait(orphan.spool.expand_fresh())
    first = worker(tmp_path / "spool", 0)
    first.wait(first.spool.sweep())
    kill(orphan)
    assert len(leased_at(first, 0)) == 1
    close(first)


def test_what_it_had_is_due_soon_after_its_end(tmp_path: Path) -> None:
    orphan = worker(tmp_path / "spool", 3, 4)
    taken = accept(orphan)
    first, second = worker(tmp_path / "spool", 0), worker(tmp_path / "spool", 1)
    first.wait(first.spool.sweep())
    assert leased_at(first, 0) == []
    kill(orphan)
    assert leased_at(first, 30) == []  # it is not looked for all the time
    assert leased_at(second, 61) == []
    (lease,) = leased_at(first, 61)
    assert lease.envelope.queue_id == taken.envelope.queue_id
    assert first.spool._store.past.next_look < float("inf")
    assert leased_at(first, 125) == []
    assert first.spool._store.past.next_look == float("inf")
    close(first, second)


def test_while_it_lives_it_keeps_its_mail_and_the_next_look_is_due(tmp_path: Path) -> None:
    orphan = worker(tmp_path / "spool", 3, 4)
    accept(orphan)
    first = worker(tmp_path / "spool", 0)
    first.wait(first.spool.sweep())
    for seconds in (0.0, 61.0, 122.0):
        assert leased_at(first, seconds) == []
    due = first.wait(first.spool.next_due())
    assert due is not None
    assert due - first.spool._store.now() == pytest.approx(122 + 60, abs=50)
    kill(orphan)
    close(first)


def test_who_has_nobody_to_look_for_is_never_due_because_of_that(tmp_path: Path) -> None:
    first = worker(tmp_path / "spool", 0)
    assert first.wait(first.spool.next_due()) is None
    assert leasing.next_due(first.spool._store) is None
    close(first)
