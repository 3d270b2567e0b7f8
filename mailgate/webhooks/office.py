"""All webhooks of one process: what happens is queued by every worker, and sent by the first."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mailgate.awaiting import InThread
from mailgate.backends.questions import IBackendReactor
from mailgate.config.webhooks import WebhookSection
from mailgate.events import WebhookDropped
from mailgate.observe.hub import EventHub
from mailgate.stores.opened import OpenedFile
from mailgate.webhooks.courier import Courier
from mailgate.webhooks.gathering import Gathering
from mailgate.webhooks.queue_file import Batch, Dropped, QueueFile
from mailgate.webhooks.target import Target

__all__ = ["Webhooks"]

_log = Logger()

#: Seconds between two looks at what other workers have written.
_POLL = 1.0
#: Seconds between two events that tell of what was dropped.
_TELL = 60.0


class Webhooks:
    """Without webhooks in the configuration there is no thread, no file, and nothing to do for an event.

    `leads`: whether this process sends, of `workers`.
    """

    def __init__(
        self,
        path: Path,
        *,
        reactor: IBackendReactor,
        events: EventHub,
        in_thread: InThread,
        random: Random,
        leads: bool,
        workers: int,
    ) -> None:
        self._file = OpenedFile(path, QueueFile)
        self._reactor = reactor
        self._events = events
        self._in_thread = in_thread
        self._random = random
        self._leads = leads
        self._poll = _POLL if workers > 1 else None
        self._gathering: Gathering | None = None
        self._couriers: list[Courier] = []
        self._changes: Deferred[None] = succeed(None)
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._telling: IDelayedCall | None = None

    def use(self, targets: Mapping[str, Target]) -> None:
        """From now on there are these webhooks; what waits for others is dropped."""
        if targets and self._gathering is None:
            self._gathering = Gathering(self._file, written=self._written, dropped=self._told_in_thread)
            self._events.add(self._gathering)
        sections: dict[str, WebhookSection] = {name: one.section for name, one in targets.items()}
        if self._gathering is not None:
            self._gathering.use(sections)
        if self._leads and (targets or self._couriers or self._file.path.exists()):
            self._change(targets)

    def flush(self) -> bool:
        """Write what happened up to now; blocks until that is done. Whether it was done."""
        return self._gathering is None or self._gathering.flush()

    async def close(self) -> None:
        """Keep what waits for the next start, and end."""
        if self._leads:
            self._change(None)
        await self._changes
        gathering, self._gathering = self._gathering, None
        if gathering is not None:
            self._events.remove(gathering)
            await self._in_thread(gathering.close)
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
        await self._in_thread(self._file.close)

    # -- for the couriers

    async def take(self, hook: str, *, limit: int, octets: int, oldest: float) -> Batch | None:
        """See IQueue."""
        batch, dropped = await self._in_thread(
            lambda: self._file.use(lambda file: file.take(hook, limit=limit, octets=octets, oldest=oldest))
        )
        self._tell(dropped)
        return batch

    async def done(self, hook: str, batch: Batch) -> None:
        """See IQueue."""
        await self._in_thread(lambda: self._file.use(lambda file: file.done(hook, batch)))

    # -- changes

    def _change(self, targets: Mapping[str, Target] | None) -> None:
        """One after another: two couriers never bring the same."""
        self._changes.addCallback(lambda _: Deferred.fromCoroutine(self._replace(targets)))
        self._changes.addErrback(lambda failure: _log.failure("webhooks cannot be begun", failure=failure))

    async def _replace(self, targets: Mapping[str, Target] | None) -> None:
        before, self._couriers = self._couriers, []
        for one in before:
            await one.stop()
        if targets is None:
            return
        try:
            self._tell(await self._in_thread(lambda: self._file.use(lambda file: file.keep_only(targets.keys()))))
        except (OSError, sqlite3.Error) as error:
            # Others are served all the same; what waits for those that are gone is found at the next start.
            _log.warn("what waits for webhooks that are gone cannot be removed: {error}", error=error)
        for target in targets.values():
            courier = Courier(
                target,
                self,
                clock=self._reactor,
                events=self._events,
                random=self._random,
                poll=self._poll,
            )
            self._couriers.append(courier)
            courier.start()

    def _written(self) -> None:
        """In the recorder's thread."""
        if self._leads:
            self._reactor.callFromThread(self._wake)

    def _wake(self) -> None:
        for one in self._couriers:
            one.wake()

    # -- what was dropped

    def _told_in_thread(self, dropped: Dropped) -> None:
        self._reactor.callFromThread(self._tell, dropped)

    def _tell(self, dropped: Dropped) -> None:
        """Publish it, once in a while."""
        self._dropped.update(dropped)
        if self._dropped and self._telling is None:
            self._publish()

    def _publish(self) -> None:
        self._telling = None
        dropped, self._dropped = self._dropped, Counter()
        for (hook, reason), count in dropped.items():
            self._events.publish(WebhookDropped(at=self._reactor.seconds(), webhook=hook, count=count, reason=reason))
        if dropped:
            self._telling = self._reactor.callLater(_TELL, self._publish)
