"""Several messages as one: where anything fails, none of them is there, and nothing of them is left."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import pytest
from msgspec.structs import replace

from mailgate.envelope import Envelope
from mailgate.events import SpoolRecovered
from mailgate.interfaces import SpoolError
from mailgate.message import Content, ContentWriter
from tests.unit.spool_stand import alone, quick, raises, until  # noqa: F401  fixtures, too
from tests.unit.test_spool import Bench, accept, envelope


def drafts(bench: Bench) -> list[tuple[Envelope, Content]]:
    """Three: in the database, in a file as it came, and too large for the database."""
    writer = ContentWriter(bench.spool.incoming, 10)
    writer.write(b"x" * 2000)
    return [
        (envelope(1, 5), Content(b"hello")),
        (envelope(2, 2000), writer.finish()),
        (envelope(1, 3000), Content(b"y" * 3000)),
    ]


def left(bench: Bench) -> list[str]:
    """Files of contents."""
    return [path.name for folder in (bench.spool.incoming, bench.spool._store.contents) for path in folder.iterdir()]


def failing_at(call: Callable[..., Any], number: int, error: Exception) -> Callable[..., Any]:
    """Fails at its call of this number, from 1 on, and at all after it."""
    calls: list[None] = []

    def instead(*values: Any, **named: Any) -> Any:
        calls.append(None)
        if len(calls) >= number:
            raise error
        return call(*values, **named)

    return instead


NO_DISK = OSError(errno.EIO, os.strerror(errno.EIO))
NO_DATABASE = sqlite3.OperationalError("disk I/O error")
MOMENTS = [
    ("mailgate.spool.store.sync", 1, NO_DISK),
    ("mailgate.spool.store.write_durably", 1, NO_DISK),
    ("mailgate.spool.work.sync", 1, NO_DISK),
    ("pathlib.Path.replace", 1, NO_DISK),
    ("mailgate.spool.store.Store.prepare", 1, NO_DISK),
    ("mailgate.spool.store.Store.prepare", 2, NO_DISK),
    ("mailgate.spool.store.Store.prepare", 3, NO_DISK),
    ("mailgate.spool.store.Store.begin", 1, NO_DATABASE),
    ("mailgate.spool.store.Store.exchange_fresh", 1, NO_DATABASE),
    ("mailgate.spool.store.Store.commit", 1, NO_DATABASE),
]


@pytest.mark.parametrize(
    ("where", "number", "error", "is_kept"),
    # Without rows of their own all are one statement, which is its own commit.
    [(*moment, is_kept) for moment in MOMENTS for is_kept in (False, True) if is_kept or "commit" not in moment[0]],
)
def test_where_one_fails_none_is_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, where: str, number: int, error: Exception, is_kept: bool
) -> None:
    messages = drafts(bench)
    if is_kept:  # rows of its own, before the others are written
        first, content = messages[0]
        kept = tuple(replace(one, quarantine="odd") for one in first.recipients)
        messages[0] = (replace(first, recipients=kept), content)
    with monkeypatch.context() as patch:
        patch.setattr(where, failing_at(resolve_name(where), number, error))
        with pytest.raises(SpoolError):
            bench.wait(bench.spool.accept_all(messages, time.time() + 60))
    until(bench, SpoolRecovered)
    assert (bench.view(), left(bench)) == ([], [])
    again = bench.wait(bench.spool.accept_all(drafts(bench), time.time() + 60))
    assert [lease.content.size for lease in again] == [5, 2000, 3000]
    assert len(bench.view()) == 4
    assert sorted(left(bench)) == sorted(lease.envelope.queue_id for lease in again[1:])


def test_one_whose_content_has_gone_takes_the_others_with_it_and_nobody_else(bench: Bench) -> None:
    messages = drafts(bench)
    assert messages[1][1].path is not None
    messages[1][1].path.unlink()
    done = bench.spool.accept_all(messages, time.time() + 60)
    other = bench.spool.accept(envelope(), Content(b"hello"), time.time() + 60)
    with pytest.raises(SpoolError, match="has gone"):
        bench.wait(done)
    lease = bench.wait(other)
    assert [one[0] for one in bench.view()] == [lease.envelope.queue_id]
    assert left(bench) == []
    assert bench.spool.refusal(0) == ""


def test_a_spool_that_has_failed_takes_none(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bench.spool._store, "exchange_fresh", raises(NO_DISK))
        with pytest.raises(SpoolError):
            accept(bench)
        messages = drafts(bench)
        with pytest.raises(SpoolError):
            bench.wait(bench.spool.accept_all(messages, time.time() + 60))
        assert left(bench) == []
    until(bench, SpoolRecovered)


def test_a_full_disk_takes_none_and_gives_up_its_reserve(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(bench.spool._store, "exchange_fresh", raises(full))
        with pytest.raises(SpoolError, match="No space"):
            bench.wait(bench.spool.accept_all(drafts(bench), time.time() + 60))
    until(bench, SpoolRecovered)
    assert (bench.view(), left(bench)) == ([], [])


def test_many_that_are_many_each_are_several_groups(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One statement has 32766 variables at most, in SQLite as it comes."""
    store, rows = bench.spool._store, list[int]()
    exchange = store.exchange_fresh

    def noted(coming: Any, left: Any) -> None:
        rows.append(len(coming))
        exchange(coming, left)

    monkeypatch.setattr(store, "exchange_fresh", noted)
    asked = [
        bench.spool.accept_all([(envelope(), Content(b"x")) for _ in range(90)], time.time() + 60) for _ in range(30)
    ]
    assert sum(len(bench.wait(one)) for one in asked) == sum(rows) == 2700
    assert max(rows) <= 400
