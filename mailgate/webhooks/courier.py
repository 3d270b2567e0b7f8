"""Brings one webhook its events, in their order, for as long as that takes."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable
from random import Random
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.events import WebhookChanged
from mailgate.interfaces import IEvents
from mailgate.webhooks.queue_file import Batch
from mailgate.webhooks.target import NotTakenError, Target

__all__ = ["Courier", "IQueue"]

_log = Logger()

#: Octets of events in one request, about.
_BATCH_SIZE = 512 * 1024
#: Seconds of the first pause; each is twice as long as the one before.
_FIRST_PAUSE = 1.0
#: Seconds until a disk that failed is asked again.
_DISK_PAUSE = 5.0


class IQueue(Protocol):
    """The queue, whose disk is waited for elsewhere. Fails as QueueFile does."""

    def take(self, hook: str, *, limit: int, octets: int, oldest: float) -> Awaitable[Batch | None]:
        """As in QueueFile; what was dropped has been told of."""

    def done(self, hook: str, batch: Batch) -> Awaitable[None]:
        """As in QueueFile."""


class Courier:
    """One request after another. `poll` is after how many seconds it looks by itself for what others have written; None
    where whoever writes calls `wake`."""

    def __init__(
        self,
        target: Target,
        queue: IQueue,
        *,
        clock: IReactorTime,
        events: IEvents,
        random: Random,
        poll: float | None,
    ) -> None:
        self._target = target
        self._queue = queue
        self._clock = clock
        self._events = events
        self._random = random
        self._poll = poll
        self._failures = 0
        self._is_woken = False
        self._sleeping: Deferred[None] | None = None
        self._is_stopped = False
        self._running: Deferred[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._broken)

    def wake(self) -> None:
        """There is something new. A pause after a failure goes on."""
        self._is_woken = True
        if self._sleeping is not None and not self._failures:
            self._sleeping.callback(None)

    async def stop(self) -> None:
        """End. What is being sent is broken off, and sent again by whoever comes next."""
        self._is_stopped = True
        if self._running is not None:
            self._running.cancel()
        await self._target.close()

    def _broken(self, failure: Failure) -> None:
        if not self._is_stopped:
            _log.failure("webhook {name} is not served any more", name=self._target.name, failure=failure)

    async def _run(self) -> None:
        while not self._is_stopped:
            self._is_woken = False
            try:
                batch = await self._take()
                if batch is not None:
                    await self._send(batch)
            except CancelledError:
                raise
            except Exception as error:
                # Whatever it is: the events are there, and a webhook that nobody serves is worse than one that waits.
                if isinstance(error, OSError | sqlite3.Error):
                    _log.warn("the queue of the webhooks cannot be used: {error}", error=error)
                else:
                    _log.failure("webhook {name} cannot be served now", name=self._target.name)
                await self._sleep(_DISK_PAUSE)
                continue
            if self._is_stopped:
                return  # nobody would end the pause
            if self._failures:
                await self._sleep(self._pause())
            elif batch is None and not self._is_woken:
                await self._sleep(self._poll)

    async def _take(self) -> Batch | None:
        section = self._target.section
        oldest = self._clock.seconds() - section.max_age
        return await self._queue.take(self._target.name, limit=section.max_events, octets=_BATCH_SIZE, oldest=oldest)

    async def _send(self, batch: Batch) -> None:
        try:
            await self._target.send(batch)
        except NotTakenError as error:
            self._fail(str(error))
            return
        except CancelledError:
            raise
        except Exception as error:
            # Whatever it is, it is this webhook's: the events stay, and others go on.
            _log.failure("webhook {name} cannot be sent to", name=self._target.name)
            self._fail(repr(error))
            return
        if self._failures:
            self._tell(is_failing=False)
        self._failures = 0
        await self._queue.done(self._target.name, batch)

    def _fail(self, reason: str) -> None:
        if self._is_stopped:
            return  # by us, and it has answered nothing
        self._failures += 1
        if self._failures == 1:
            self._tell(is_failing=True, reason=reason)

    def _tell(self, *, is_failing: bool, reason: str = "") -> None:
        event = WebhookChanged(
            at=self._clock.seconds(), webhook=self._target.name, is_failing=is_failing, reason=reason
        )
        self._events.publish(event)

    def _pause(self) -> float:
        longest = self._target.section.max_pause
        pause: float = min(_FIRST_PAUSE * 2 ** min(self._failures - 1, 30), longest)
        return pause * self._random.uniform(0.8, 1.0)

    async def _sleep(self, seconds: float | None) -> None:
        """Until so many seconds have gone, or `wake`."""
        self._sleeping = Deferred()
        call = None if seconds is None else self._clock.callLater(seconds, self._sleeping.callback, None)
        try:
            await self._sleeping
        finally:
            self._sleeping = None
            if call is not None and call.active():
                call.cancel()
