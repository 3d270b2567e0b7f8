"""Reading the history, from any process, whether the gateway runs or not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailgate.observe.parts import KEY, SEGMENT, EmptyPartError, Part, list_parts, open_part
from mailgate.observe.render import to_stamp

__all__ = ["Found", "Story", "read_history"]

Entry = Mapping[str, Any]
"""A line of the log as JSON: "at", "event", and the event's fields that do not have their default."""

_ENTRIES = "SELECT DISTINCT e.id, e.line FROM keys k JOIN entries e ON e.id = k.entry WHERE k.segment = ?"


@dataclass(frozen=True, slots=True)
class Story:
    """What happened to one message or, where none had begun, in one session: first to last.

    `id` is the queue id, or the session's id.
    """

    id: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The newest stories, newest first; whether there are `more`; how many entries the time asked for has `lost`.

    `unreadable` names files that could not be read.
    """

    stories: tuple[Story, ...]
    more: bool = False
    lost: int = 0
    unreadable: tuple[str, ...] = ()


def read_history(directory: Path, subject: str, *, since: float = 0.0, limit: int = 10) -> Found:
    """Stories that `subject` plays a part in, by events at or after `since` (seconds since the epoch).

    The subject is a queue id, a Message-ID, an address of sender or recipient, a user whose login was refused, a
    session's id or a client's address; case does not matter. A story is told whole, also what lies before `since`.
    """
    start = to_stamp(max(since, 0.0))
    with closing(_Readers(directory)) as readers:
        ids: dict[str, None] = {}
        for entry in readers.newest_first(subject, start):
            ids.setdefault(_story_of(entry))
            if len(ids) > limit:
                break
        entries: dict[str, list[Entry]] = {one: [] for one in list(ids)[:limit]}
        for entry in readers.in_order(list(entries)):
            if (one := _story_of(entry)) in entries:
                entries[one].append(entry)
        stories = tuple(Story(one, tuple(story)) for one, story in entries.items())
        return Found(stories, len(ids) > limit, readers.lost(start), tuple(readers.unreadable))


def _story_of(entry: Entry) -> str:
    return str(entry.get("queue_id") or entry.get("session") or "")


class _Readers:
    """The open parts, oldest first; one that cannot be read is left out and named."""

    def __init__(self, directory: Path) -> None:
        self.unreadable: list[str] = []
        self._open: list[tuple[Part, sqlite3.Connection]] = []
        for part in list_parts(directory):
            try:
                self._open.append((part, open_part(part, write=False)))
            except EmptyPartError:
                continue
            except sqlite3.Error:
                # A part that the gateway has removed meanwhile is not missed.
                if part.path.exists():
                    self.unreadable.append(part.path.name)

    def newest_first(self, subject: str, since: str) -> Iterator[Entry]:
        """Entries of the subject, from the newest back to `since`."""
        end = ""
        for part, database in reversed(self._open):
            if end and end < since:
                return
            query = f"{_ENTRIES} AND k.key = {KEY} AND e.at >= ? ORDER BY k.entry DESC"
            for segment in reversed(self._segments(part, database)):
                for _, line in self._rows(part, database, query, (segment, subject, since)):
                    yield json.loads(line)
            end = to_stamp(part.start / 1000)

    def in_order(self, words: Sequence[str]) -> Iterator[Entry]:
        """Every entry of these words, first to last."""
        for part, database in self._open:
            query = f"{_ENTRIES} AND k.key IN ({', '.join([KEY] * len(words))}) ORDER BY k.entry"
            for segment in self._segments(part, database):
                for _, line in self._rows(part, database, query, (segment, *words)):
                    yield json.loads(line)

    def lost(self, since: str) -> int:
        """How many entries could not be written."""
        return sum(
            count
            for part, database in self._open
            for (count,) in self._rows(part, database, "SELECT count FROM gaps WHERE at >= ?", (since,))
        )

    def close(self) -> None:
        """Close all."""
        for _, database in self._open:
            database.close()

    def _segments(self, part: Part, database: sqlite3.Connection) -> range:
        last = max(
            (last for (last,) in self._rows(part, database, "SELECT max(id) FROM entries", ()) if last), default=0
        )
        return range(last // SEGMENT + 1)

    def _rows(
        self, part: Part, database: sqlite3.Connection, query: str, values: tuple[object, ...]
    ) -> Iterator[tuple[Any, ...]]:
        try:
            yield from database.execute(query, values)
        except sqlite3.Error:
            if part.path.name not in self.unreadable:
                self.unreadable.append(part.path.name)
