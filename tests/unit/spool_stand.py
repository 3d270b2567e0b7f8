"""Spools with workers, or with a disk that fails; the fixtures are for modules to import."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailgate.events import Event
from mailgate.interfaces import Lease, OutcomeKind
from mailgate.spool.store import Store
from tests.unit.test_spool import Bench, outcomes

__all__ = [
    "MALFORMED",
    "alone",
    "close",
    "deliver",
    "kill",
    "meanwhile",
    "no_room",
    "once",
    "quick",
    "raises",
    "together",
    "until",
    "worker",
]

MALFORMED = sqlite3.DatabaseError("database disk image is malformed")


@pytest.fixture(name="_quick", autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a spool has failed, it looks again soon."""
    monkeypatch.setattr("mailgate.spool.sqlite._RETEST", 0.01)
    monkeypatch.setattr("mailgate.spool.failing.Failing._pause", 0.01)


@pytest.fixture(name="bench")
def alone(tmp_path: Path) -> Iterator[Bench]:
    """A spool of one process."""
    bench = Bench(tmp_path / "spool", min_free=0, inline_limit=1000)
    yield bench
    close(bench)


@pytest.fixture(name="pair")
def together(tmp_path: Path) -> Iterator[tuple[Bench, Bench]]:
    """A spool of two workers."""
    benches = worker(tmp_path / "spool", 0), worker(tmp_path / "spool", 1)
    yield benches
    close(*benches)


def worker(directory: Path, number: int, workers: int = 2) -> Bench:
    return Bench(directory, min_free=0, inline_limit=1000, worker=number, workers=workers)


def close(*benches: Bench) -> None:
    for bench in benches:
        bench.wait(bench.spool.close())


def kill(bench: Bench) -> None:
    """What the system does for a process that has died."""
    spool = bench.spool
    spool._jobs.put(None)
    spool._thread.join(60)
    spool._reader.close()
    spool._store.database.close()
    if spool._store._turn is not None:
        spool._store._turn.close()
    spool._unlock()


def until(bench: Bench, kind: type[Event], count: int = 1) -> list[Event]:
    """Wait for so many events of this kind."""
    while len(found := [event for event in bench.events if isinstance(event, kind)]) < count:
        bench.pump()
    return found


def raises(error: Exception) -> Callable[..., object]:
    def call(*_: object, **__: object) -> object:
        raise error

    return call


def once(error: Exception, whole: Callable[..., object]) -> Callable[..., object]:
    """The first time this error, and then what there is."""
    left = [error]
    return lambda *values, **named: raises(left.pop())() if left else whole(*values, **named)


def no_room(number: int = errno.ENOSPC) -> OSError:
    return OSError(number, os.strerror(number))


def deliver(bench: Bench, lease: Lease) -> None:
    bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.DELIVERED)))


def meanwhile(bench: Bench, act: Callable[[Store], object]) -> None:
    """Have the writer do it now, seen from another thread than the reactor's."""
    done = threading.Event()
    bench.spool._submit(lambda: act(bench.spool._store), alone=True)
    bench.spool._submit(done.set, alone=True)
    assert done.wait(60)
