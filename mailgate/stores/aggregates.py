"""Gathers evaluations of DMARC for the reports, off the reactor's hot path.

The reactor's thread only appends to a queue. A thread of our own counts what is in it, by kind, and adds that to the
file once a second: a crash loses a second or two, never the mail.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.events import DmarcEvaluated, Event
from mailgate.interfaces import IEventObserver
from mailgate.stores.aggregate_file import AggregateFile, Policy, Tally

__all__ = ["DAY", "Aggregates", "counted"]

_log = Logger()

T = TypeVar("T")

#: Seconds of a day.
DAY = 86400
#: Characters of one value that are kept, of a comment and of a URI; URIs of a record, and signatures of a message.
_LONGEST, _LONGEST_COMMENT, _LONGEST_URI, _MOST_URIS, _MOST_SIGNATURES = 253, 120, 500, 20, 20
#: Seconds until what could not be written is tried again.
_ANEW = 5.0


def counted(event: DmarcEvaluated) -> tuple[int, Policy, Tally]:
    """The day (since the epoch, UTC) of an evaluation, the record by which it was made, and of which kind it is.

    Everything that peers chose is bounded. Of the signatures those come first that say most to the domain's owner (RFC
    9990 section 3.1.3).
    """
    policy = Policy(
        domain=_name(event.domain),
        policy=event.policy,
        subdomain_policy=event.subdomain_policy,
        missing_policy=event.missing_policy,
        strict_dkim=event.strict_dkim,
        strict_spf=event.strict_spf,
        is_testing=event.is_testing,
        rua=tuple(_text(uri, _LONGEST_URI) for uri in event.rua[:_MOST_URIS]),
    )
    header_from = _name(event.header_from)
    spf_domain, spf_scope, spf_result = event.spf
    tally = Tally(
        source=_text(event.source),
        header_from=header_from,
        envelope_from=_name(event.envelope_from),
        envelope_to=_name(event.envelope_to[0]) if len(set(event.envelope_to)) == 1 else "",
        result=event.result,
        disposition=event.disposition,
        override=event.override,
        comment=_text(event.comment, _LONGEST_COMMENT),
        aligned=tuple(sorted(event.aligned)),
        dkim=tuple(
            (_name(domain), _text(selector), result)
            for domain, selector, result in sorted(event.dkim, key=lambda one: _rank(one, header_from))
        )[:_MOST_SIGNATURES],
        spf=(_name(spf_domain), spf_scope, spf_result),
    )
    return int(event.at // DAY), policy, tally


@implementer(IEventObserver)
class Aggregates:
    """Counts the evaluations that `wants` says yes to, where the record asks for reports.

    `limit` is how many evaluations may wait to be counted; more are missed, as are more kinds than this while the file
    cannot be written. Workers may share the file. `call_from_thread` calls something in the reactor's thread.
    """

    def __init__(
        self,
        path: Path,
        *,
        wants: Callable[[DmarcEvaluated], bool],
        call_from_thread: Callable[..., object],
        delay: float = 1.0,
        limit: int = 20_000,
        open_file: Callable[[Path], AggregateFile] = AggregateFile,
    ) -> None:
        self.wants = wants
        self._path = path
        self._call_from_thread = call_from_thread
        self._delay = delay
        self._limit = limit
        self._open_file = open_file
        self._file: AggregateFile | None = None
        self._is_damaged = False
        self._waiting: deque[DmarcEvaluated] = deque()
        self._jobs: deque[tuple[Callable[[AggregateFile], Any], Deferred[Any]]] = deque()
        self._counts: Counter[tuple[int, Policy, Tally]] = Counter()
        self._missed: Counter[int] = Counter()
        self._lock = threading.Lock()  # of `_missed`, which both threads change
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._closed = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._work, name="aggregates", daemon=True)
        self._thread.start()

    def observe(self, event: Event) -> None:
        if not isinstance(event, DmarcEvaluated) or not event.rua or not self.wants(event):
            return
        if len(self._waiting) >= self._limit:
            with self._lock:
                self._missed[int(event.at // DAY)] += 1
            return
        self._waiting.append(event)
        self._wake.set()

    def run(self, work: Callable[[AggregateFile], T]) -> Deferred[T]:
        """What `work` makes of the file, in our thread, once all is counted that was told before; fails as `work` does,
        and with sqlite3.Error or OSError where the file cannot be used, RuntimeError once it is closed."""
        if self._closed:
            return fail(RuntimeError("what is to be reported by DMARC is closed"))
        done: Deferred[T] = Deferred()
        self._jobs.append((work, done))
        self._hurry.set()
        self._wake.set()
        return done

    def close(self, timeout: float = 5.0) -> None:
        """Count what waits, and end; blocks, at most `timeout` seconds."""
        self._closed = True
        self._hurry.set()
        self._wake.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            _log.warn("what was to be reported by DMARC could not be written: the disk does not answer")

    # -- in the thread

    def _work(self) -> None:
        while True:
            self._wake.wait(_ANEW if self._counts or self._missed else None)
            self._hurry.wait(self._delay)
            self._wake.clear()
            self._hurry.clear()
            closing = self._closed
            # First, what is to be done: whoever asks finds counted what was told before.
            jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
            self._write()
            for job in jobs:
                self._do(*job)
            if closing:
                break
        if self._file is not None:
            self._file.close()

    def _write(self) -> None:
        while self._waiting:
            event = self._waiting.popleft()
            key = counted(event)
            if key in self._counts or len(self._counts) < self._limit:
                self._counts[key] += 1
            else:
                with self._lock:
                    self._missed[key[0]] += 1
        if not self._counts and not self._missed:
            return
        with self._lock:
            missed = self._missed.copy()
        try:
            self._use(lambda file: file.add(self._counts, missed))
        except (OSError, sqlite3.Error) as error:
            if not self._is_failing:
                _log.warn("what is to be reported by DMARC cannot be written: {error}", error=error)
            self._is_failing = True
            return
        if self._is_failing:
            _log.warn("what is to be reported by DMARC is written again")
        self._is_failing = False
        self._counts.clear()
        with self._lock:
            self._missed -= missed  # more may have been missed meanwhile

    def _do(self, work: Callable[[AggregateFile], T], done: Deferred[T]) -> None:
        try:
            result: T | Failure = self._use(work)
        except Exception:
            # Whatever it is, it belongs to whoever asked.
            result = Failure()
        self._call_from_thread(_answer, done, result)

    def _use(self, work: Callable[[AggregateFile], T]) -> T:
        try:
            if self._file is None:
                self._file = self._open_file(self._path)
            result = work(self._file)
        except sqlite3.DatabaseError as error:
            if type(error) is sqlite3.DatabaseError:  # no whole database; the others say what went wrong now
                self._found_damage(str(error))
            raise
        self._is_damaged = False
        return result

    def _found_damage(self, error: str) -> None:
        """Open it anew next time; the second time in a row it is put aside for a person to look at."""
        if self._file is not None:
            with contextlib.suppress(sqlite3.Error):
                self._file.close()
            self._file = None
        if not self._is_damaged:
            self._is_damaged = True
            return
        self._is_damaged = False
        for suffix in ("", "-wal", "-shm"):
            old = self._path.with_name(self._path.name + suffix)
            with contextlib.suppress(OSError):
                old.replace(old.with_name(f"{self._path.name}.unreadable{suffix}"))
        _log.error("{path} cannot be read and was set aside: {error}", path=str(self._path), error=error)


def _answer(done: Deferred[Any], result: object) -> None:
    if done.called:  # whoever asked has gone away
        return
    if isinstance(result, Failure):
        done.errback(result)
    else:
        done.callback(result)


def _rank(signature: tuple[str, str, str], header_from: str) -> int:
    domain, _, result = signature
    if result != "pass":
        return 3
    name = domain.lower()
    if name == header_from:
        return 0
    return 1 if name.endswith(f".{header_from}") or header_from.endswith(f".{name}") else 2


def _name(domain: str) -> str:
    """A domain, or that of an address, as it is compared."""
    return _text(domain.rpartition("@")[2].lower().removesuffix("."))


def _text(text: str, longest: int = _LONGEST) -> str:
    return text[:longest].encode("utf-8", "replace").decode()
