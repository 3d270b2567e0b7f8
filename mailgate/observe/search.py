"""Reading the history, from any process, whether the gateway runs or not."""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailgate.observe.parts import KEY, SEGMENT, EmptyPartError, Part, list_parts, open_part
from mailgate.observe.render import to_stamp

__all__ = ["Found", "Story", "directories", "newest_entries", "read_entries", "read_history"]

Entry = Mapping[str, Any]
"""A line of the log as JSON: "at", "event", and the event's fields that do not have their default."""

_ENTRIES = "SELECT DISTINCT e.id, e.line FROM keys k JOIN entries e ON e.id = k.entry WHERE k.segment = ?"


@dataclass(frozen=True, slots=True)
class Story:
    """What happened to one message or, where none had begun, in one session: first to last.

    `id` is the queue id, the session's id or, where neither is, the address or the user (in lower case) that it is
    about. `about` is the id of the message of which it tells, where it is a report.
    """

    id: str
    entries: tuple[Entry, ...]
    about: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """The newest stories, newest first; whether there are `more`; how many entries the time asked for has `lost`.

    `unreadable` names files that could not be read.
    """

    stories: tuple[Story, ...]
    more: bool = False
    lost: int = 0
    unreadable: tuple[str, ...] = ()


def directories(directory: Path) -> Sequence[Path]:
    """Those in which the parts of a history lie: that of the first worker, then those of the others, by number."""
    others = [path for path in directory.glob("*") if path.name.isdecimal() and path.is_dir()]
    return [directory, *sorted(others, key=lambda path: int(path.name))]


def read_history(directory: Path, subject: str, *, since: float = 0.0, limit: int = 10) -> Found:
    """Stories that `subject` plays a part in, by events at or after `since` (seconds since the epoch).

    The subject is a queue id, a Message-ID, an address of sender or recipient, a user whose login was refused, a
    session's id or a client's address; case does not matter. A story is told whole, also what lies before `since`, and
    where a message was split for some of its recipients, with those of the other parts behind it.
    Files that cannot be read are named as they lie in `directory`.
    """
    start = to_stamp(max(since, 0.0))
    with closing(_Histories([_Readers(one, directory) for one in directories(directory)])) as readers:
        ids: dict[str, None] = {}
        for entry in readers.newest_first(subject, start):
            ids.setdefault(_story_of(entry))
            if len(ids) > limit:
                break
        entries: dict[str, list[Entry]] = {one: [] for one in readers.with_their_parts(list(ids)[:limit])}
        about: dict[str, str] = {}
        for entry in readers.in_order(list(entries)):
            if entry.get("report"):
                about[str(entry["report"])] = _story_of(entry)
            if (one := _story_of(entry)) in entries:
                entries[one].append(entry)
        stories = tuple(Story(one, tuple(story), about.get(one, "")) for one, story in entries.items())
        return Found(stories, len(ids) > limit, readers.lost(start), tuple(readers.unreadable))


def newest_entries(directory: Path, limit: int) -> Iterator[Entry]:
    """Those that were written last, newest first in each file, and of each at most so many; what cannot be read is left
    out."""
    with closing(_Histories([_Readers(one, directory) for one in directories(directory)])) as readers:
        yield from readers.newest(limit)


def read_entries(
    directory: Path, events: Sequence[str], since: float, unreadable: Callable[[str], object]
) -> Iterator[Entry]:
    """Every entry of these events (as "message_accepted") since then (seconds since the epoch), in their order.
    `unreadable` is told of files that cannot be read, as they lie in `directory`."""
    with closing(_Histories([_Readers(one, directory) for one in directories(directory)])) as readers:
        yield from readers.of_events(events, to_stamp(max(since, 0.0)))
        for name in readers.unreadable:
            unreadable(name)


def _story_of(entry: Entry) -> str:
    """What is about no mail and no session is the story of an address, or of a user."""
    return str(entry.get("queue_id") or entry.get("session") or "") or _whose(entry)


def _whose(entry: Entry) -> str:
    return str(entry.get("recipient") or entry.get("user") or "").lower()


def _whole_of(entry: Entry) -> str:
    """The id of the message from which that of the entry was split; "" for none."""
    return str(entry.get("split_from") or "")


def _at(entry: Entry) -> str:
    return str(entry["at"])


class _Histories:
    """What several workers have written, as one: in the order of time."""

    def __init__(self, readers: Sequence[_Readers]) -> None:
        self._readers = readers

    @property
    def unreadable(self) -> list[str]:
        """Files that could not be read."""
        return [name for one in self._readers for name in one.unreadable]

    def newest_first(self, subject: str, since: str) -> Iterator[Entry]:
        """As in _Readers, and so are those below."""
        return heapq.merge(*(one.newest_first(subject, since) for one in self._readers), key=_at, reverse=True)

    def newest(self, limit: int) -> Iterator[Entry]:
        for one in self._readers:
            yield from one.newest(limit)

    def in_order(self, words: Sequence[str]) -> Iterator[Entry]:
        return heapq.merge(*(one.in_order(words) for one in self._readers), key=_at)

    def of_events(self, events: Sequence[str], since: str) -> Iterator[Entry]:
        return heapq.merge(*(one.of_events(events, since) for one in self._readers), key=_at)

    def with_their_parts(self, ids: Sequence[str]) -> Sequence[str]:
        """These stories, each with those of all parts into which its message was split, the first part first."""
        whole = {one: one for one in ids}
        for entry in self.in_order(ids):
            if _story_of(entry) in whole and _whole_of(entry):
                whole[_story_of(entry)] = _whole_of(entry)
        parts: dict[str, list[str]] = {first: [first] for first in dict.fromkeys(whole.values())}
        for entry in self.in_order(list(parts)):
            if _whole_of(entry) in parts:
                parts[_whole_of(entry)].append(_story_of(entry))
        return list(dict.fromkeys(one for found in parts.values() for one in found))

    def lost(self, since: str) -> int:
        return sum(one.lost(since) for one in self._readers)

    def close(self) -> None:
        for one in self._readers:
            one.close()


class _Readers:
    """The open parts of one directory, oldest first; one that cannot be read is left out and named, as it lies below
    `base`."""

    def __init__(self, directory: Path, base: Path) -> None:
        self._base = base
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
                    self._miss(part)

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

    def newest(self, limit: int) -> Iterator[Entry]:
        """Whatever was written last, in the last two of them: the last may have just begun."""
        for part, database in self._open[:-3:-1]:
            query = "SELECT line FROM entries ORDER BY id DESC LIMIT ?"
            for (line,) in self._rows(part, database, query, (limit,)):
                yield json.loads(line)

    def in_order(self, words: Sequence[str]) -> Iterator[Entry]:
        """Every entry of these words, first to last."""
        for part, database in self._open:
            query = f"{_ENTRIES} AND k.key IN ({', '.join([KEY] * len(words))}) ORDER BY k.entry"
            for segment in self._segments(part, database):
                for _, line in self._rows(part, database, query, (segment, *words)):
                    yield json.loads(line)

    def of_events(self, events: Sequence[str], since: str) -> Iterator[Entry]:
        """Every entry of these events since then, first to last."""
        marks = ", ".join("?" * len(events))
        query = f"SELECT id, line FROM entries WHERE at >= ? AND line ->> 'event' IN ({marks}) ORDER BY id"  # noqa: S608  marks
        for part, database in self._open:
            for _, line in self._rows(part, database, query, (since, *events)):
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
            self._miss(part)

    def _miss(self, part: Part) -> None:
        name = str(part.path.relative_to(self._base))
        if name not in self.unreadable:
            self.unreadable.append(name)
