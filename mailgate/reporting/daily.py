"""Sends reports once a day, each about one day and one domain: when, how often, and what is remembered of it.

What is done is in the same file as what is to be done, so a restart goes on where it was. A report that is in the spool
is not sent again, unless the process was killed in the moment between the two; it has the same names then, by which
its readers know it (RFC 9990 section 3.5.4).
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.address import Address
from mailgate.stores.counted_file import Batch, CountedFile, HasDomain
from mailgate.stores.gatherer import DAY

__all__ = ["DailyReports", "IGathered", "LaterError", "Send", "about"]

_log = Logger()

F = TypeVar("F", bound=CountedFile[Any, Any])
F_co = TypeVar("F_co", bound=CountedFile[Any, Any], covariant=True)
P = TypeVar("P", bound=HasDomain)
R = TypeVar("R")

Send = Callable[[Address, Sequence[Address], bytes], Awaitable[str]]
"""Takes responsibility for a mail: the envelope's sender, its recipients, and the content with CRLF line ends. Its
queue id; any exception where that cannot be now."""

#: Seconds after midnight (UTC) until all workers have counted the day, and until the last one begins with its reports.
_SETTLED, _SPREAD = 600.0, 3 * 3600.0
#: Seconds until a first look after a start, and between two reports, at most.
_FIRST, _PAUSE = 60.0, 2.0
#: Seconds that a report is ours once we have begun with it.
_CLAIM = 900.0
#: Seconds until the second attempt; each wait is twice the one before, up to the other.
_RETRY, _LONGEST_RETRY = 1800.0, 4 * 3600.0
#: Seconds until the file is tried again.
_ANEW = 300.0
#: Days for which a report is tried.
_KEEP = 3


class IGathered(Protocol[F_co]):
    """Where things were counted, as Gatherer has it."""

    def run(self, work: Callable[[F_co], R], /) -> Deferred[R]:
        """What `work` makes of the file."""


class DailyReports(Generic[F, P]):
    """Each report is made by one of those who work on the same file, whichever comes first.

    `kind` is what reports are called in the log, and `sender` the address that their mail comes from. Its heirs say
    what is delivered.
    """

    kind = ""

    def __init__(
        self,
        gathered: IGathered[F],
        *,
        sender: Address,
        clock: IReactorTime,
        random: random.Random,
        send: Send,
    ) -> None:
        self._gathered = gathered
        self._sender = sender
        self._clock = clock
        self._random = random
        self._send = send
        self._timer: IDelayedCall | None = None
        self._round: Deferred[None] = succeed(None)
        self._waits: Deferred[object] | None = None
        # Batches and addresses, for the case that the file does not take a note of it.
        self._handed_over: set[tuple[int, str]] = set()
        self._is_running = False

    async def _deliver(self, batch: Batch[P]) -> str:
        """Send a report to those who do not have it: what was done, in words. LaterError where more is to be done."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin: what an earlier process has left soon, and the rest in its time."""
        self._is_running = True
        self._look_at(self._clock.seconds() + self._random.uniform(0, _FIRST))

    async def stop(self) -> None:
        """End: a report that is being handed over gets there, others wait for the next start."""
        self._is_running = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._waits is not None:
            self._waits.cancel()
        await self._round

    # -- when

    def _look_at(self, at: float) -> None:
        if self._is_running:
            self._timer = self._clock.callLater(max(at - self._clock.seconds(), 0.0), self._look)

    def _look(self) -> None:
        self._round = Deferred.fromCoroutine(self._look_once()).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if failure.check(sqlite3.Error, OSError):
            _log.warn("{kind} reports cannot be made now: {error}", kind=self.kind, error=failure.getErrorMessage())
        else:
            _log.failure("{kind} reports failed", failure=failure, kind=self.kind)
        self._look_at(self._clock.seconds() + _ANEW)

    async def _look_once(self) -> None:
        """Send what is due, and come again when more is."""
        await self._tidy()
        while self._is_running:
            now = self._clock.seconds()
            before = _settled(now)
            claimed = now + _CLAIM
            batch = await self._gathered.run(lambda file: file.claim(before, now, claimed))  # noqa: B023  run before the next
            if batch is None:
                break
            await self._report(batch)
            if not self._is_running:
                break
            with suppress(CancelledError):
                await self._waiting(deferLater(self._clock, self._random.uniform(0, _PAUSE)))
        now = self._clock.seconds()
        before = _settled(now)
        due = await self._gathered.run(lambda file: file.next_due(before))
        tomorrow = (before + 1) * DAY + _SETTLED + self._random.uniform(0, _SPREAD)
        self._look_at(tomorrow if due is None else min(tomorrow, max(due, now + _FIRST)))

    async def _tidy(self) -> None:
        oldest = _settled(self._clock.seconds()) - _KEEP
        for batch in await self._gathered.run(lambda file: file.tidy(oldest)):
            text = "the {kind} report {about} could not be sent to all in {days} days"
            _log.warn(text, kind=self.kind, about=about(batch), days=_KEEP)

    async def _waiting(self, deferred: Deferred[R]) -> R:
        """What comes of it; `stop` cancels it."""
        self._waits = deferred  # type: ignore[assignment]  # only ever cancelled
        try:
            return await deferred
        finally:
            self._waits = None

    # -- what

    async def _report(self, batch: Batch[P]) -> None:
        """See to one report, whatever becomes of it."""
        try:
            outcome = await self._deliver(batch)
        except CancelledError:
            await self._put_off(batch, 0.0, "the gateway stops", counts=False)
        except (sqlite3.Error, OSError):
            raise  # the file, for which others wait as well: the claim ends by itself
        except LaterError as error:
            wait = min(_RETRY * 2**batch.attempts, _LONGEST_RETRY) * self._random.uniform(1.0, 1.2)
            await self._put_off(batch, wait, str(error))
        except Exception:
            _log.failure("the {kind} report {about} cannot be made", kind=self.kind, about=about(batch))
            await self._finish(batch, "cannot be made")
        else:
            await self._finish(batch, outcome)

    async def _note(self, batch: Batch[P], address: str, hand_over: Callable[[], Awaitable[str]]) -> None:
        """Hand the report over, and take note that this address has it; LaterError where that cannot be now."""
        try:
            queue_id = await hand_over()
        except CancelledError:
            raise
        except Exception as error:
            # Whatever it is, it may be taken later.
            raise LaterError(f"the report cannot be handed over: {error}") from error
        self._handed_over.add((batch.id, address))
        await self._gathered.run(lambda file: file.note_sent(batch, address, queue_id))
        self._handed_over.discard((batch.id, address))

    async def _put_off(self, batch: Batch[P], wait: float, reason: str, *, counts: bool = True) -> None:
        due = self._clock.seconds() + wait
        await self._gathered.run(lambda file: file.put_off(batch, due, counts=counts))
        _log.info("the {kind} report {about} is put off: {reason}", kind=self.kind, about=about(batch), reason=reason)

    async def _finish(self, batch: Batch[P], outcome: str) -> None:
        await self._gathered.run(lambda file: file.finish(batch, outcome))
        _log.info("the {kind} report {about}: {outcome}", kind=self.kind, about=about(batch), outcome=outcome)


class LaterError(Exception):
    """More of a report is to be done, but not now; the text says why."""


def _settled(now: float) -> int:
    """The first day that is not over yet, as far as reports are concerned."""
    return int((now - _SETTLED) // DAY)


def about(batch: Batch[P]) -> str:
    """Which one, in words."""
    return f"on {batch.policy.domain} of {datetime.fromtimestamp(batch.day * DAY, UTC).date()}"
