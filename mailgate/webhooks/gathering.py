"""Puts events into the queue of the webhooks, off the reactor's hot path: in the thread of a recorder."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace
from twisted.logger import Logger
from zope.interface import implementer

from mailgate import events
from mailgate.config.webhooks import WEBHOOK_EVENTS, WebhookSection
from mailgate.envelope import new_id
from mailgate.events import Event, MessageAccepted, Refused
from mailgate.interfaces import IEventObserver
from mailgate.observe.recorder import Recorder, Written
from mailgate.observe.render import event_name
from mailgate.stores.opened import OpenedFile
from mailgate.webhooks.queue_file import Dropped, Queued, QueueFile

__all__ = ["Gathering"]

_log = Logger()

#: Events that wait in memory while the disk does not take them.
_MOST_UNWRITTEN = 20_000

_WORDS = {name: word for word, name in WEBHOOK_EVENTS.items()}
_KINDS: Mapping[str, type[Event]] = {
    event_name(kind): kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, Event) and event_name(kind) in _WORDS
}


@implementer(IEventObserver)
class Gathering:
    """Keeps what the webhooks want. `written` is called, in the recorder's thread, when there is something new, and
    `dropped` with what was dropped for that."""

    def __init__(
        self,
        file: OpenedFile[QueueFile],
        *,
        written: Callable[[], object],
        dropped: Callable[[Dropped], object],
        delay: float = 0.2,
        limit: int = 20_000,
    ) -> None:
        """`delay` (seconds) is how long an event waits for others before all are written; a crash loses them."""
        self._sink = _Sink(file, written, dropped)
        self._recorder = Recorder([self._sink], delay=delay, limit=limit)
        self._kinds: frozenset[type[Event]] = frozenset()

    def use(self, hooks: Mapping[str, WebhookSection]) -> None:
        """From now on events are for these."""
        wanted: dict[type[Event], list[tuple[str, WebhookSection]]] = {}
        for name, section in hooks.items():
            for word in dict.fromkeys(section.events):
                wanted.setdefault(_KINDS[WEBHOOK_EVENTS[word]], []).append((name, section))
        self._sink.wanted = wanted
        self._sink.max_size = {name: section.max_size for name, section in hooks.items()}
        self._kinds = frozenset(wanted)

    def observe(self, event: Event) -> None:
        if type(event) not in self._kinds:
            return
        # `mailgate why` has the trace; it is the longest part by far.
        if isinstance(event, MessageAccepted | Refused) and event.trace:
            event = replace(event, trace=())
        self._recorder.observe(event)

    def flush(self) -> bool:
        """Write what waits; blocks until that is done. Whether it was done."""
        return self._recorder.flush()

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, and end; blocks, at most `timeout` seconds."""
        self._recorder.close(timeout)


class _Sink:
    """Writes. Its two tables are replaced by the reactor's thread, as wholes."""

    def __init__(
        self, file: OpenedFile[QueueFile], written: Callable[[], object], dropped: Callable[[Dropped], object]
    ) -> None:
        self._file = file
        self._written = written
        self._dropped = dropped
        self.wanted: Mapping[type[Event], Sequence[tuple[str, WebhookSection]]] = {}
        self.max_size: Mapping[str, int] = {}
        self._unwritten: list[Queued] = []
        self._missed: dict[str, int] = {}
        self._is_failing = False

    def write(self, batch: Sequence[Written]) -> None:
        wanted = self.wanted
        for event, line in batch:
            concerned = [
                name for name, section in wanted.get(type(event), ()) if section.is_for(getattr(event, "stream", ""))
            ]
            if not concerned:
                continue
            key, kind, text = new_id(), _WORDS[event_name(type(event))], line.decode("ascii")
            if len(self._unwritten) >= _MOST_UNWRITTEN:
                self._miss(concerned, 1)
            else:
                self._unwritten += [Queued(name, event.at, key, kind, text) for name in concerned]
        self._flush()

    def missed(self, count: int) -> None:
        """Of which kind they were nobody knows: each webhook may have missed them."""
        self._miss(list(self.max_size), count)
        self._flush()

    def tidy(self) -> None:
        self._flush()

    def close(self) -> None:
        self._flush()

    def _miss(self, hooks: Sequence[str], count: int) -> None:
        for hook in hooks:
            self._missed[hook] = self._missed.get(hook, 0) + count

    def _flush(self) -> None:
        if not self._unwritten and not self._missed:
            return
        sizes = self.max_size
        events = [one for one in self._unwritten if one.hook in sizes]  # others are not there any more
        try:
            dropped = self._file.use(lambda file: self._put(file, events, sizes))
        except (OSError, sqlite3.Error) as error:
            if not self._is_failing:
                _log.warn("events for webhooks cannot be written: {error}", error=error)
            self._is_failing = True
            return
        self._is_failing = False
        told = dict(dropped) | {(hook, "slow disk"): count for hook, count in self._missed.items()}
        self._unwritten, self._missed = [], {}
        if told:
            self._dropped(told)
        self._written()

    def _put(self, file: QueueFile, events: Sequence[Queued], sizes: Mapping[str, int]) -> Dropped:
        dropped = file.put(events, sizes)
        for hook, count in self._missed.items():
            file.miss(hook, count)
        return dropped
