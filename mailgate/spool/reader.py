"""Reading the spool beside its writer: what administrators ask for, on a thread and a connection of their own."""

from __future__ import annotations

import contextlib
import heapq
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import EntryView, Selector, SpoolError
from mailgate.message import Content
from mailgate.spool.codec import CodecError, decode_envelope, read_message
from mailgate.spool.database import as_text
from mailgate.spool.query import kept_sender, select_view

__all__ = ["SpoolReader", "failure_of"]

T = TypeVar("T")

_log = Logger()


class SpoolReader:
    """Answers questions about an open spool; each fails with SpoolError, only."""

    def __init__(self, directory: Path, call_from_thread: Callable[..., object]) -> None:
        self._contents = directory / "content"
        self._path = directory / "spool.db"
        self._call = call_from_thread
        self._database = self._open()
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Deferred[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="spool-reader", daemon=True)
        self._thread.start()

    def view(self, selector: Selector, limit: int, after: tuple[str, int] | None) -> Deferred[list[EntryView]]:
        """Entries by queue id and number, those of fresh messages too."""

        def run() -> list[EntryView]:
            found = chain(select_view(self._database, selector, limit, after), self._fresh(selector, after))
            return heapq.nsmallest(limit, found, key=lambda entry: (entry.queue_id, entry.number))

        return self._submit(run)

    def content(self, queue_id: str) -> Deferred[tuple[Envelope, Content] | None]:
        """A message with its envelope."""

        def run() -> tuple[Envelope, Content] | None:
            row = self._database.execute(
                "SELECT envelope, content FROM messages WHERE queue_id = ?", (queue_id,)
            ).fetchone()
            if row is None:
                wanted = (number for number, envelope in self._fresh_envelopes() if envelope.queue_id == queue_id)
                row = self._database.execute(
                    "SELECT envelope, content FROM fresh WHERE id = ?", (next(wanted, None),)
                ).fetchone()
            return None if row is None else read_message(self._contents, queue_id, *row)

        return self._submit(run)

    def reopen(self) -> None:
        """Another file has taken the database's place. From any thread; the questions that follow are put to it."""

        def run() -> None:
            old, self._database = self._database, self._open()
            old.close()

        self._submit(run)

    def close(self) -> None:
        """End the thread; blocks until it has answered what was asked."""
        self._jobs.put(None)
        self._thread.join()
        self._database.close()

    def _open(self) -> sqlite3.Connection:
        uri = f"file:{self._path}?mode=ro"
        database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        database.text_factory = as_text
        return database

    def _fresh_envelopes(self) -> Iterator[tuple[int, Envelope]]:
        for number, text in self._database.execute("SELECT id, envelope FROM fresh"):
            # One that cannot be read hides no other; the next start sets it aside.
            with contextlib.suppress(CodecError):
                yield number, decode_envelope(text)

    def _fresh(self, selector: Selector, after: tuple[str, int] | None) -> Iterator[EntryView]:
        if selector.state not in ("", "leased"):
            return
        for _, envelope in self._fresh_envelopes():
            for one in envelope.recipients:
                if (after is None or (envelope.queue_id, one.number) > after) and _matches(selector, envelope, one):
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

    def _submit(self, run: Callable[[], T]) -> Deferred[T]:
        done: Deferred[T] = Deferred()
        self._jobs.put((run, done))
        return done

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            run, done = job
            try:
                self._call(_fire, done.callback, run())
            except Exception as error:
                if not isinstance(error, sqlite3.Error | OSError | CodecError):
                    _log.failure("the spool's reader failed", failure=failure_of(error))
                self._call(_fire, done.errback, failure_of(SpoolError(f"cannot read the spool: {error}")))


def failure_of(error: Exception) -> Failure:
    """The error as Deferreds carry it."""
    return Failure(error)


def _fire(end: Callable[[Any], None], result: object) -> None:
    end(result)


def _matches(selector: Selector, envelope: Envelope, one: EnvelopeRecipient) -> bool:
    return (
        selector.queue_id in ("", envelope.queue_id)
        and (not selector.sender or kept_sender(selector) == str(envelope.sender).lower())
        and selector.recipient.lower() in ("", str(one.address).lower())
        and selector.domain.lower() in ("", one.address.domain)
        and selector.route in ("", one.route)
        and (not selector.older_than or envelope.received <= time.time() - selector.older_than)
    )
