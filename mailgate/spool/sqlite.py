"""The spool of one machine: SQLite with group commit, on a thread of its own.

Callers in the reactor's thread get Deferreds, which they must not cancel: what was asked for is done. Whatever waits
when the writer comes round is one transaction with one sync. What comes waits for no timer, so an idle gateway adds no
delay; only the end of a message waits a moment for a group to go with. Results go back with one call into the reactor
per group. What an administrator reads comes by a second thread and connection, beside the writer.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.envelope import Envelope
from mailgate.events import EntrySetAside, SpoolFailed, SpoolRecovered
from mailgate.interfaces import (
    EntryView,
    IEvents,
    ISpool,
    Lease,
    Outcome,
    OutcomeKind,
    Selector,
    SpoolError,
    SweepReport,
)
from mailgate.message import Content
from mailgate.spool.codec import CodecError
from mailgate.spool.database import is_damage, sync
from mailgate.spool.disk import Reserve, is_disk, is_full, lock_directory
from mailgate.spool.operate import change, delete
from mailgate.spool.reader import SpoolReader, failure_of
from mailgate.spool.store import SetAside, Store
from mailgate.spool.sweep import sweep
from mailgate.spool.work import LINGER, Accept, Finish, Job, Token, Work, is_one_statement, run_group, split

__all__ = ["SqliteSpool"]

T = TypeVar("T")

_log = Logger()

#: Messages of one group at most: bounds the time that the first of them waits.
_GROUP = 200
#: Seconds that the end of a message waits for a group to go with, where none comes by itself.
_PATIENCE = 0.02
#: Seconds between tests of a spool that has failed.
_RETEST = 1.0
#: Seconds in which a damaged database is put in order once: where that does not last, a person has to look.
_REBUILD = 3600.0


@implementer(ISpool)
class SqliteSpool:
    """ISpool in a directory that one process owns at a time."""

    def __init__(
        self,
        directory: Path,
        *,
        events: IEvents,
        call_from_thread: Callable[..., object],
        inline_limit: int = 64 * 1024,
        min_free: int = 100 * 1024 * 1024,
    ) -> None:
        """Open the spool: SpoolError, with a line for an administrator, where that cannot be."""
        self.directory = directory
        self.incoming = directory / "incoming"
        self._events = events
        self._call = call_from_thread
        self._min_free = min_free
        self._jobs: SimpleQueue[Work | Token | None] = SimpleQueue()
        self._finishes: deque[Finish] = deque()
        self._is_closed = False
        self._lingers = False  # the writer knows of the finishes
        self._failed = ""  # why nothing can be written now
        self._low = False  # the reserve is given up: deliver, but take nothing
        self._next_test = 0.0
        self._tight = False  # the disk has too little room: shrink what can be shrunk
        self._spare = 0  # octets that are free within the database
        self._free: tuple[float, int] = (-1.0, 0)
        self._damage: Exception | None = None
        self._rebuilt = -_REBUILD
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = lock_directory(directory)
            self._reserve = Reserve(directory / "reserve")
            self._store = Store(directory, inline_limit)
            self._reserve.make()
            self._reader = SpoolReader(directory, call_from_thread)
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(f"cannot open the spool in {directory}: {error}") from error
        self._tell_aside(self._store.damage)
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._thread.start()

    # -- ISpool

    def accept(self, envelope: Envelope, content: Content, until: float) -> Deferred[Lease]:
        if self._failed or self._low:
            content.discard()
            return fail(SpoolError(self._failed or "the disk is full"))
        done: Deferred[Lease] = Deferred()
        self._jobs.put(Accept(envelope, content, until, done))
        return done

    def record(
        self, lease: Lease, outcomes: Sequence[Outcome], reports: Sequence[tuple[Envelope, Content]] = ()
    ) -> Deferred[None]:
        def run() -> None:
            self._store.record(lease, outcomes)
            for report in reports:
                envelope, _, text, data = self._store.prepare(*report)
                if data is None:
                    sync(self._store.contents)
                self._store.insert(envelope, text, data, None)

        done: Deferred[None] = Deferred()
        if not reports and len(outcomes) == len(lease.envelope.recipients) and _all_final(outcomes):
            self._finishes.append(Finish(lease, run, done))
            if not self._lingers:
                self._lingers = True
                self._jobs.put(LINGER)
        else:
            self._jobs.put(Job(run, done))
        return done

    def lease(self, limit: int, until: float) -> Deferred[list[Lease]]:
        def run() -> list[Lease]:
            leases, aside = self._store.lease(limit, until, time.time())
            self._tell_aside(aside)
            return leases

        return self._submit(run)

    def release_leases(self, leases: Sequence[Lease]) -> Deferred[None]:
        return self._submit(lambda: self._store.give_back(leases))

    def next_due(self) -> Deferred[float | None]:
        return self._submit(self._store.next_due)

    def view(self, selector: Selector, limit: int, after: tuple[str, int] | None = None) -> Deferred[list[EntryView]]:
        return self._reader.view(selector, limit, after)

    def content(self, queue_id: str) -> Deferred[tuple[Envelope, Content] | None]:
        return self._reader.content(queue_id)

    def hold(self, selector: Selector) -> Deferred[int]:
        return self._submit(lambda: change(self._store, "hold", selector))

    def release(self, selector: Selector) -> Deferred[int]:
        return self._submit(lambda: change(self._store, "release", selector))

    def retry(self, selector: Selector) -> Deferred[int]:
        return self._submit(lambda: change(self._store, "retry", selector))

    def delete(self, selector: Selector) -> Deferred[list[EntryView]]:
        return self._submit(lambda: delete(self._store, selector))

    def sweep(self) -> Deferred[SweepReport]:
        def run() -> SweepReport:
            aside, leftovers = sweep(self._store)
            self._tell_aside(aside)
            return SweepReport(tuple(name for name, _, _ in aside), leftovers)

        return self._submit(run, alone=True)

    def close(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        if self._is_closed:
            return succeed(None)
        self._is_closed = True

        def end() -> None:
            self._jobs.put(None)
            self._thread.join()
            self._reader.close()
            self._store.close()
            os.close(self._lock)
            self._call(done.callback, None)

        threading.Thread(target=end, name="spool-close", daemon=True).start()
        return done

    # -- what the intake asks

    def refusal(self, size: int) -> str:
        """Why a message of this size cannot be taken now, or ""."""
        if self._failed or self._low:
            return self._failed or "the disk is full"
        now = time.monotonic()
        if now - self._free[0] > 1.0:
            stat = os.statvfs(self.directory)
            self._free = (now, stat.f_bavail * stat.f_frsize)
        free = self._free[1] + self._spare
        if free >= self._min_free + size:
            return ""
        if not self._tight:
            self._tight = True
            self._submit(lambda: None)  # wakes the writer
        return f"only {free // 2**20} MiB are free for the spool"

    # -- the writer's thread

    def _submit(self, run: Callable[[], T], *, alone: bool = False) -> Deferred[T]:
        done: Deferred[T] = Deferred()
        self._jobs.put(Job(run, done, alone))
        return done

    def _work(self) -> None:
        while True:
            wait = self._until_test()
            if wait == 0.0:  # also where jobs never cease
                self._retest()
                wait = self._until_test()
            try:
                first = self._jobs.get(timeout=wait)
                if first is LINGER:
                    first = self._jobs.get(timeout=_PATIENCE)
            except Empty:
                first = LINGER
            group, last = self._gather(first)
            for part in split(group):
                self._answer(part, self._commit(part))
            if last:
                return

    def _gather(self, first: Work | Token | None) -> tuple[list[Work], bool]:
        """What waits, `first` first, and whether it is the last."""
        group: list[Work] = []
        job: Work | Token | None = first
        while job is not None:
            if not isinstance(job, Token):
                group.append(job)
                if len(group) >= _GROUP:
                    break
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
        self._lingers = False  # before the look: whoever comes behind it tells us again
        while self._finishes:
            group.append(self._finishes.popleft())
        return group, job is None

    def _commit(self, group: Sequence[Work]) -> list[object]:
        """The result of each, or a Failure, whatever happens: the thread outlives every piece of work."""
        try:
            return self._transact(group)
        except Exception as error:
            _log.failure("the spool's writer failed", failure=failure_of(error))
            with contextlib.suppress(Exception):
                self._store.rollback()
            self._fail(SpoolError(str(error)))
            return [failure_of(SpoolError(str(error))) for _ in group]

    def _transact(self, group: Sequence[Work]) -> list[object]:
        """All in one transaction, or, where one is at fault, one by one."""
        try:
            if not is_one_statement(self._store, group):
                self._store.database.execute("BEGIN IMMEDIATE")
            results = run_group(self._store, group)
            self._store.commit()
        except Exception as error:
            self._rollback()
            if is_full(error) and not self._low:
                # There is room now for whatever makes room, and for the outcomes of what is under way.
                self._fail(error)
                return [
                    self._failure(one, error) if isinstance(one, Accept) else self._commit([one])[0] for one in group
                ]
            if len(group) > 1 and not is_disk(error):
                return [self._commit([one])[0] for one in group]
            return [self._failure(one, error) for one in group]
        if self._low:
            self._shrink()
        return results

    def _answer(self, group: Sequence[Work], results: Sequence[object]) -> None:
        self._call(_fire, [(one.done, result) for one, result in zip(group, results, strict=True)])

    def _failure(self, work: Work, error: Exception) -> Failure:
        if isinstance(work, Accept):
            work.content.discard()
        if not isinstance(error, OSError | sqlite3.Error | CodecError):
            _log.failure("a job of the spool failed", failure=failure_of(error))
        if is_damage(error):
            self._damage = error
        if isinstance(error, OSError | sqlite3.OperationalError | sqlite3.DatabaseError):
            self._fail(error)
        return failure_of(SpoolError(str(error)))

    def _rollback(self) -> None:
        try:
            self._store.rollback()
        except Exception as error:
            self._fail(error)

    # -- failing and coming back

    def _fail(self, error: Exception) -> None:
        if is_full(error):
            if self._low:
                return
            self._low = True
            self._reserve.give_up()
            self._shrink()
        elif not self._failed:
            self._failed = f"the spool cannot be written: {error}"
        else:
            return
        self._next_test = time.monotonic() + _RETEST
        self._publish(SpoolFailed(at=time.time(), error=str(error)))

    def _until_test(self) -> float | None:
        """Seconds until a spool that has failed, or has no room, is looked at again; None where it is well."""
        if not (self._failed or self._low or self._tight):
            return None
        return max(self._next_test - time.monotonic(), 0.0)

    def _retest(self) -> None:
        self._next_test = time.monotonic() + _RETEST
        self._shrink()
        if not (self._failed or self._low):
            return
        try:
            if self._damage is not None:
                self._rebuild(self._damage)
            self._store.database.execute("BEGIN IMMEDIATE")
            self._store.database.execute("CREATE TABLE probe (octets BLOB)")
            self._store.database.execute("INSERT INTO probe VALUES (zeroblob(65536))")
            self._store.database.execute("DROP TABLE probe")
            self._store.commit()
            self._reserve.make()
        except Exception as error:
            if not isinstance(error, OSError | sqlite3.Error):
                _log.failure("the spool cannot be tested", failure=failure_of(error))
            self._rollback()
            return
        self._failed = ""
        self._low = False
        self._publish(SpoolRecovered(at=time.time()))

    def _rebuild(self, error: Exception) -> None:
        if time.monotonic() - self._rebuilt < _REBUILD:
            raise error
        self._rebuilt = time.monotonic()
        self._tell_aside(self._store.rebuild(error))
        self._reader.reopen()
        self._damage = None

    def _shrink(self) -> None:
        self._tight = False
        try:
            self._store.checkpoint()
            self._spare = self._store.spare()
        except Exception as error:
            _log.warn("the spool's log cannot be folded into its database: {error}", error=error)

    def _tell_aside(self, aside: Sequence[SetAside]) -> None:
        for name, where, reason in aside:
            self._publish(EntrySetAside(at=time.time(), queue_id=name, where=where, reason=reason))

    def _publish(self, event: Any) -> None:
        self._call(self._events.publish, event)


def _all_final(outcomes: Sequence[Outcome]) -> bool:
    return all(one.kind is not OutcomeKind.DEFERRED for one in outcomes)


def _fire(results: Sequence[tuple[Deferred[Any], object]]) -> None:
    for done, result in results:
        # A caller that has gone away has cancelled its Deferred; what was asked for is done nevertheless.
        if not done.called:
            if isinstance(result, Failure):
                done.errback(result)
            else:
                done.callback(result)
