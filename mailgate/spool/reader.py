"""Reading the spool beside its writer: what administrators ask for, on a thread and a connection of their own."""

from __future__ import annotations

import contextlib
import heapq
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import Destination, EntryView, Grouping, Selector, SpoolError, Summary, Suspension
from mailgate.message import Content
from mailgate.spool.codec import CodecError, decode_envelope, read_message
from mailgate.spool.database import in_one_row, is_damage, open_for_reading
from mailgate.spool.query import STATE, kept_sender, select_view, selected

__all__ = ["SpoolReader", "failure_of"]

T = TypeVar("T")

_log = Logger()

_WAITING = "SELECT DISTINCT route, domain FROM recipients INDEXED BY recipients_turn WHERE state = 'turn'"

_GROUPS: dict[Grouping, str] = {
    "domain": "r.domain",
    "site": "r.site",
    "route": "r.route",
    "sender": "m.sender",
    "source": "r.source",
    "category": "r.category",
    "state": STATE,
    "stream": "r.queue_id",  # of the whole message, whose envelope is looked into once for all its recipients
}
_GROUPED = "SELECT key, count(*) AS n, sum(due) AS due, sum(held) AS held, min(queue_id) AS first FROM one GROUP BY key"
_STREAM = (
    "CASE WHEN instr(m.envelope, '\"stream\":') = 0 OR NOT json_valid(m.envelope) THEN ''"
    " ELSE coalesce(CAST(json_extract(m.envelope, '$.stream') AS TEXT), '') END"
)
_BY_STREAM = (
    f"SELECT {_STREAM} AS key, sum(n) AS n, sum(due) AS due, sum(held) AS held, min(first) AS first"
    f" FROM ({_GROUPED}) AS message JOIN messages m ON m.queue_id = message.key GROUP BY 1"
)


class SpoolReader:
    """Answers questions about an open spool; each fails with SpoolError, only. `start` it, or `answer` at once.

    Each is put to one state of the file that is the database now. `found_damage` is called with the error and that
    file's number, in the reader's thread, where it turns out to be damaged.
    """

    def __init__(self, directory: Path, call_from_thread: Callable[..., object], now: Callable[[], float]) -> None:
        self._contents = directory / "content"
        self._path = directory / "spool.db"
        self._call = call_from_thread
        self._now = now
        self._file = self._path.stat().st_ino
        self._database = open_for_reading(self._path)
        self.jobs: SimpleQueue[tuple[Callable[[], Any], Deferred[Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.found_damage: Callable[[Exception, int], object] = lambda error, file: None

    def start(self) -> None:
        """Begin to answer, on a thread."""
        self._thread = threading.Thread(target=self._work, name="spool-reader", daemon=True)
        self._thread.start()

    def view(self, selector: Selector, limit: int, after: tuple[str, int] | None) -> Deferred[list[EntryView]]:
        """Entries by queue id and number, those of fresh messages too."""

        def run() -> list[EntryView]:
            stored = select_view(self._database, selector, self._now(), limit, after)
            with contextlib.closing(self._fresh(selector, after)) as fresh:
                views = (entry for entry, _ in fresh)
                merged = heapq.merge(stored, views, key=lambda entry: (entry.queue_id, entry.number))
                return list(islice(merged, limit))

        return self._submit(run)

    def summary(self, by: Grouping, limit: int, selector: Selector) -> Deferred[list[Summary]]:
        """Entries counted, those of fresh messages too."""
        return self._submit(lambda: self._summary(by, limit, selector))

    def content(self, queue_id: str) -> Deferred[tuple[Envelope, Content] | None]:
        """A message with its envelope, in which each recipient has its route of now."""

        def run() -> tuple[Envelope, Content] | None:
            row = self._database.execute(
                "SELECT envelope, content FROM messages WHERE queue_id = ?", (queue_id,)
            ).fetchone()
            if row is None:
                row = self._database.execute(
                    "SELECT envelope, content FROM fresh WHERE CASE WHEN json_valid(envelope)"
                    " THEN json_extract(envelope, '$.id') END = ?",
                    (queue_id,),
                ).fetchone()
                return None if row is None else read_message(self._contents, queue_id, *row)
            envelope, content = read_message(self._contents, queue_id, *row)
            routes = dict(
                self._database.execute("SELECT number, route FROM recipients WHERE queue_id = ?", (queue_id,))
            )
            return replace(envelope, recipients=tuple(_routed(one, routes) for one in envelope.recipients)), content

        return self._submit(run)

    def waiting(self) -> Deferred[list[Destination]]:
        """The destinations at which anything waits for its turn."""

        def run() -> list[Destination]:
            return [Destination(*row) for row in in_one_row(self._database, "route, domain", _WAITING, {})]

        return self._submit(run)

    def suspensions(self) -> Deferred[list[Suspension]]:
        """Those in force."""

        def run() -> list[Suspension]:
            rows = self._database.execute(
                "SELECT kind, name, since, until, reason FROM suspensions WHERE until = 0 OR until > ?", (self._now(),)
            )
            return [
                Suspension(kind=kind, name=name, since=since, until=until, reason=reason)
                for kind, name, since, until, reason in rows
            ]

        return self._submit(run)

    def counts(self, prefix: str) -> Deferred[dict[str, int]]:
        """The counters whose keys begin so."""

        def run() -> dict[str, int]:
            rows = self._database.execute(
                "SELECT key, amount FROM counts WHERE key >= ?1 AND key < ?1 || char(1114111)"
                " AND substr(key, 1, length(?1)) = ?1",
                (prefix,),
            )
            return dict(rows.fetchall())

        return self._submit(run)

    def reopen(self) -> None:
        """Let go of a file that is the database no more. From any thread."""
        self._submit(lambda: None)

    def close(self) -> None:
        """End the thread; blocks until it has answered what was asked."""
        if self._thread is not None:
            self.jobs.put(None)
            self._thread.join()
        self._database.close()

    # -- counting

    def _summary(self, by: Grouping, limit: int, selector: Selector) -> list[Summary]:
        now = self._now()
        fresh: Counter[str] = Counter()
        first: dict[str, float] = {}
        for entry, stream in self._fresh(selector, None):
            key = stream if by == "stream" else _fresh_key(entry, by)
            fresh[key] += 1
            first[key] = min(first.get(key, entry.received), entry.received)
        columns = (
            f"CAST({_GROUPS[by]} AS TEXT) AS key, r.queue_id, r.state IN ('held', 'quarantined') AS held,"
            " r.state = 'turn' OR (r.state = 'queued' AND r.due <= :now) AS due"
        )
        select, values = selected(self._database, selector, now, columns=columns)
        rows = self._database.execute(
            f"WITH one AS ({select.rpartition(' ORDER BY ')[0]}),"
            f" grouped AS MATERIALIZED ({_BY_STREAM if by == 'stream' else _GROUPED})"
            " SELECT key, n, due, held, received FROM ("
            "  SELECT * FROM (SELECT * FROM grouped ORDER BY n DESC, key LIMIT :limit)"
            "  UNION SELECT * FROM grouped WHERE key IN (SELECT value FROM json_each(:fresh)))"
            " JOIN messages ON messages.queue_id = first",
            {**values, "now": now, "limit": limit, "fresh": json.dumps(list(fresh))},
        ).fetchall()
        found = [
            Summary(
                key=key,
                recipients=n + fresh.pop(key, 0),
                due=due,
                held=held,
                oldest=min(oldest, first.get(key, oldest)),
            )
            for key, n, due, held, oldest in rows
        ]
        found += [Summary(key=key, recipients=n, due=0, held=0, oldest=first[key]) for key, n in fresh.items()]
        return heapq.nsmallest(limit, found, key=lambda one: (-one.recipients, one.key))

    # -- fresh messages

    def _fresh(self, selector: Selector, after: tuple[str, int] | None) -> Generator[tuple[EntryView, str], None, None]:
        """Entries of fresh messages with their streams, by queue id and number. All are leased for the first time."""
        if selector.state not in ("", "leased") or selector.site or selector.source or selector.reason:
            return
        values: dict[str, object] = {"first": after[0] if after else "", "queue_id": selector.queue_id}
        with contextlib.closing(
            self._database.execute(
                "SELECT envelope FROM (SELECT envelope, json_extract(envelope, '$.id') AS id FROM fresh"
                " WHERE json_valid(envelope)) WHERE id >= :first AND :queue_id IN ('', id) ORDER BY id",
                values,
            )
        ) as rows:
            for (text,) in rows:
                # One that cannot be read hides no other; the next start sets it aside.
                with contextlib.suppress(CodecError):
                    envelope = decode_envelope(text)
                    for entry in self._views(envelope, selector, after):
                        yield entry, envelope.stream

    def _views(self, envelope: Envelope, selector: Selector, after: tuple[str, int] | None) -> Iterator[EntryView]:
        for one in sorted(envelope.recipients, key=lambda one: one.number):
            if (after is None or (envelope.queue_id, one.number) > after) and self._matches(selector, envelope, one):
                yield EntryView(
                    queue_id=envelope.queue_id,
                    number=one.number,
                    sender=str(envelope.sender).lower(),
                    recipient=str(one.address).lower(),
                    route=one.route,
                    state="leased",
                    size=envelope.size,
                    received=envelope.received,
                    attempts=0,
                    next_attempt=envelope.received,
                    last_reply="",
                )

    def _matches(self, selector: Selector, envelope: Envelope, one: EnvelopeRecipient) -> bool:
        return (
            selector.queue_id in ("", envelope.queue_id)
            and (not selector.sender or kept_sender(selector) == str(envelope.sender).lower())
            and selector.recipient.lower() in ("", str(one.address).lower())
            and selector.domain.lower() in ("", one.address.domain)
            and selector.route in ("", one.route)
            and (not selector.older_than or envelope.received <= self._now() - selector.older_than)
        )

    # -- the thread

    def _submit(self, run: Callable[[], T]) -> Deferred[T]:
        done: Deferred[T] = Deferred()
        self.jobs.put((run, done))
        return done

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            self.answer(*job)

    def answer(self, run: Callable[[], T], done: Deferred[T]) -> None:
        """Answer one question."""
        try:
            self._call(_fire, done.callback, self._ask(run))
        except Exception as error:
            if not isinstance(error, sqlite3.Error | OSError | CodecError):
                _log.failure("the spool's reader failed", failure=failure_of(error))
            if is_damage(error):
                self.found_damage(error, self._file)
            self._call(_fire, done.errback, failure_of(SpoolError(f"cannot read the spool: {error}")))

    def _ask(self, run: Callable[[], T]) -> T:
        """The answer, of one state of the database: between two statements others may write."""
        file = self._path.stat().st_ino
        if file != self._file:
            new = open_for_reading(self._path)
            self._database.close()
            self._database, self._file = new, file
        self._database.execute("BEGIN")
        try:
            return run()
        finally:
            self._database.rollback()


def failure_of(error: Exception) -> Failure:
    """The error as Deferreds carry it."""
    return Failure(error)


def _fire(end: Callable[[Any], None], result: object) -> None:
    end(result)


def _routed(one: EnvelopeRecipient, routes: dict[int, str]) -> EnvelopeRecipient:
    route = routes.get(one.number, one.route)
    return one if route == one.route else replace(one, route=route)


def _fresh_key(entry: EntryView, by: Grouping) -> str:
    if by == "domain":
        return entry.recipient.rpartition("@")[2]
    key: str = getattr(entry, by)
    return key
