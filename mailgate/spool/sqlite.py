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
from mailgate.events import Event
from mailgate.interfaces import IEvents, ISpool, Lease, Outcome, SpoolError
from mailgate.message import Content
from mailgate.process import make_directory
from mailgate.spool.codec import CodecError
from mailgate.spool.database import is_damage, sync
from mailgate.spool.disk import Reserve, is_disk, lock_directory, share_directory
from mailgate.spool.failing import Failing
from mailgate.spool.leasing import record
from mailgate.spool.reader import SpoolReader, failure_of
from mailgate.spool.store import Store
from mailgate.spool.work import (
    Accept,
    AcceptAll,
    Finish,
    Job,
    Work,
    all_final,
    answer,
    coming,
    in_groups,
    is_one_statement,
    run_group,
    split,
    weight_of,
)

__all__ = ["SqliteSpool"]

T = TypeVar("T")

_log = Logger()

#: Messages of one group, or a few more, up to twice as many: bounds the time that the first of them waits.
_GROUP = 200
#: Tells the writer that finishes wait.
_NOTHING: Sequence[Work] = ()
#: Seconds that the end of a message waits for a group to go with, where none comes by itself.
_PATIENCE = 0.02
#: Seconds between tests of a spool that has failed.
_RETEST = 1.0


@implementer(ISpool)
class SqliteSpool(Failing):
    """ISpool in a directory that one process owns, or that so many workers share."""

    def __init__(
        self,
        directory: Path,
        *,
        events: IEvents,
        call_from_thread: Callable[..., object],
        inline_limit: int = 256 * 1024,
        min_free: int = 100 * 1024 * 1024,
        now: Callable[[], float] | None = None,
        soon: Callable[[Callable[[], object]], object] | None = None,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        """Open the spool: SpoolError, with a line for an administrator, where that cannot be.

        `worker` is our number among `workers` processes, from 0 on. `now` tells the time in seconds since the epoch, in
        any thread; without it, the system does. `soon` has something called when the reactor has served what it has at
        hand: what has come by then goes to the writer together. Without it, all goes to it at once.
        """
        self.directory = directory
        self._events = events
        self._call = call_from_thread
        self._min_free = min_free
        self._now = now = now or time.time
        self._jobs: SimpleQueue[Sequence[Work] | None] = SimpleQueue()
        self._gathered: list[Work] = []  # of this turn of the reactor
        self._soon = soon or (lambda call: call())
        self._is_asked = False  # for the end of this turn
        self._finishes: deque[Finish] = deque()
        self._is_closed = False
        self._lingers = False  # the writer knows of the finishes
        self._next_test = 0.0
        self._free: tuple[float, int] = (-1.0, 0)
        self._is_shared = workers > 1
        self._number_lock: int | None = None
        try:
            make_directory(directory)
            if self._is_shared:
                self._number_lock, self._lock = share_directory(directory, f"worker-{worker}")
            else:
                self._lock = lock_directory(directory)
        except OSError as error:
            raise SpoolError(f"cannot open the spool in {directory}: {error}") from error
        try:
            self._reserve = Reserve(directory / "reserve")
            full = self._open(lambda: Store(directory, inline_limit, now=now, worker=worker, workers=workers))
            self._reader = SpoolReader(directory, call_from_thread, now)
        except BaseException as error:
            self._unlock()
            if isinstance(error, OSError | sqlite3.Error):
                raise SpoolError(f"cannot open the spool in {directory}: {error}") from error
            raise
        self.incoming = self._store.incoming
        self._store.reopened = self._reader.reopen
        self._reader.found_damage = self._found_damage
        self._tell_aside(self._store.damage)
        if full is not None:
            self._fail(full)
        self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._thread.start()
        self._reader.start()

    # -- ISpool

    def accept(self, envelope: Envelope, content: Content, until: float) -> Deferred[Lease]:
        if self._failed or self._low:
            content.discard()
            return fail(SpoolError(self._failed or "the disk is full"))
        done: Deferred[Lease] = Deferred()
        self._gathered.append(Accept(envelope, content, until, done))
        if not self._is_asked:
            self._ask()
        return done

    def accept_all(self, messages: Sequence[tuple[Envelope, Content]], until: float) -> Deferred[Sequence[Lease]]:
        if self._failed or self._low:
            for _, content in messages:
                content.discard()
            return fail(SpoolError(self._failed or "the disk is full"))
        done: Deferred[Sequence[Lease]] = Deferred()
        self._gathered.append(AcceptAll([Accept(*message, until) for message in messages], done))
        if not self._is_asked:
            self._ask()
        return done

    def record(
        self, lease: Lease, outcomes: Sequence[Outcome], reports: Sequence[tuple[Envelope, Content]] = ()
    ) -> Deferred[None]:
        come = list(reports)

        def run() -> None:
            record(self._store, lease, outcomes)
            for at, report in enumerate(come):
                envelope, content, text, data = self._store.prepare(*report)
                come[at] = envelope, content  # where it lies now, should this be done again
                if data is None:
                    sync(self._store.contents)
                self._store.insert(envelope, text, data, None)

        def undone(failure: Failure) -> Failure:
            for (_, now), (_, before) in zip(come, reports, strict=True):
                if now is not before:
                    now.discard()
            return failure

        done: Deferred[None] = Deferred()
        if reports:
            done.addErrback(undone)
        if not reports and len(outcomes) == len(lease.envelope.recipients) and all_final(outcomes):
            self._finishes.append(Finish(lease, run, done))
            if not (self._lingers or self._is_asked):
                self._ask()
        else:
            self._put(Job(run, done))
        return done

    def close(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        if self._is_closed:
            return succeed(None)
        self._is_closed = True
        self._hand_over()

        def end() -> None:
            self._jobs.put(None)
            self._thread.join()
            self._end()
            self._call(done.callback, None)

        threading.Thread(target=end, name="spool-close", daemon=True).start()
        return done

    def _end(self) -> None:
        self._reader.close()
        self._store.close()
        self._unlock()

    def _unlock(self) -> None:
        os.close(self._lock)
        if self._number_lock is not None:
            os.close(self._number_lock)

    # -- what the intake asks

    def refusal(self, size: int) -> str:
        """Why a message of this size cannot be taken now, or ""."""
        if self._failed or self._low:
            return self._failed or "the disk is full"
        now = time.monotonic()
        if now - self._free[0] > 1.0:
            stat = os.statvfs(self.directory)
            room = stat.f_bavail * stat.f_frsize
            if self._is_shared and not self._reserve.is_whole:
                room = 0  # another worker has given it up, for what is under way
            self._free = (now, room)
        free = self._free[1] + self._spare
        if free >= self._min_free + size:
            return ""
        if not self._tight:
            self._tight = True
            self._submit(lambda: None)  # wakes the writer
        return f"only {free // 2**20} MiB are free for the spool"

    # -- to the writer's thread: each message on its own would wake it once for each

    def _ask(self) -> None:
        self._is_asked = True
        self._soon(self._hand_over)

    def _put(self, job: Job[Any]) -> None:
        self._gathered.append(job)
        self._hand_over()

    def _hand_over(self) -> None:
        self._is_asked = False
        gathered, self._gathered = self._gathered, []
        if gathered:
            for group in in_groups(gathered, _GROUP):
                self._jobs.put(group)
        elif self._finishes and not self._lingers:
            self._lingers = True
            self._jobs.put(_NOTHING)

    # -- the writer's thread

    def _submit(self, run: Callable[[], T], *, alone: bool = False) -> Deferred[T]:
        done: Deferred[T] = Deferred()
        self._put(Job(run, done, alone))
        return done

    def _work(self) -> None:
        while True:
            wait = self._until_test()
            if wait == 0.0:  # also where jobs never cease
                self._retest()
                wait = self._until_test()
            try:
                first = self._jobs.get(timeout=wait)
                if first is _NOTHING:
                    first = self._jobs.get(timeout=_PATIENCE)
            except Empty:
                first = _NOTHING
            group, last = self._gather(first)
            self._do(group)
            if last:
                return

    def _do(self, group: Sequence[Work]) -> None:
        for part in split(group):
            results = self._commit(part)
            self._call(answer, [(one.done, result) for one, result in zip(part, results, strict=True)])

    def _gather(self, first: Sequence[Work] | None) -> tuple[list[Work], bool]:
        """What waits, `first` first, and whether it is the last."""
        group: list[Work] = []
        weight = 0
        jobs = first
        while jobs is not None:
            group += jobs
            weight += sum(map(weight_of, jobs))
            if weight >= _GROUP:
                break
            try:
                jobs = self._jobs.get_nowait()
            except Empty:
                break
        self._lingers = False  # before the look: whoever comes behind it tells us again
        while self._finishes:
            group.append(self._finishes.popleft())
        return group, jobs is None

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
            self._store.begin(lambda: is_one_statement(self._store, group))
            results = run_group(self._store, group)
            self._store.commit()
        except Exception as error:
            self._rollback()
            if not self._low and self._reserve.is_wanted(error):
                # There is room now for whatever makes room, and for the outcomes of what is under way.
                self._fail(error)
                return [
                    self._failure(one, error) if isinstance(one, Accept | AcceptAll) else self._commit([one])[0]
                    for one in group
                ]
            if len(group) > 1 and not is_disk(error):
                return [self._commit([one])[0] for one in group]
            return [self._failure(one, error) for one in group]
        if self._low:
            self._shrink()
        return results

    def _failure(self, work: Work, error: Exception) -> Failure:
        for message in coming([work]):
            message.content.discard()
        if not isinstance(error, OSError | sqlite3.Error | CodecError):
            _log.failure("a job of the spool failed", failure=failure_of(error))
        if is_damage(error):
            self._damage = error, self._store.file
        if isinstance(error, OSError | sqlite3.OperationalError | sqlite3.DatabaseError):
            self._fail(error)
        return failure_of(SpoolError(str(error)))

    def _rollback(self) -> None:
        try:
            self._store.rollback()
        except Exception as error:
            self._fail(error)

    # -- failing and coming back

    def _until_test(self) -> float | None:
        """Seconds until a spool that has failed, or has no room, is looked at again; None where it is well."""
        if not (self._failed or self._low or self._tight):
            return None
        return max(self._next_test - time.monotonic(), 0.0)

    def _test_later(self) -> None:
        self._next_test = time.monotonic() + _RETEST

    def _found_damage(self, error: Exception, file: int = 0) -> None:
        """Have the writer run into what the reader has found in that file (0: in the one that is there then), perhaps
        in a part that the writer never looks at itself."""

        def run() -> None:
            # Another worker may have put it in order meanwhile.
            if file in (0, self._store.file):
                raise error

        done: Deferred[None] = Deferred()
        self._jobs.put([Job(run, done.addErrback(lambda _: None))])  # in the reader's thread

    def _publish(self, event: Event) -> None:
        self._call(self._events.publish, event)
