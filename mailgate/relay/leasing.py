"""Asks the spool for work: what is due, and what waits for its turn at destinations that have room again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred
from mailgate.interfaces import ISpool, Lease, SpoolError
from mailgate.relay.backlog import Backlogs
from mailgate.relay.memory import Jobs
from mailgate.relay.ready.jobs import LEASE_TIME

__all__ = ["AFTER_FAILURE", "Leasing"]

_log = Logger()

#: Recipients that one look into the spool leases at most.
_PER_LEASE = 500
#: Backlogs that are asked at one time.
_AT_ONCE = 32
#: Seconds until a spool that has failed is asked again.
AFTER_FAILURE = 5.0


class Leasing:
    """One round of questions after another, as long as there is an answer, and room; then it sleeps until the next is
    due. Only one is under way: an answer that says that nothing is there is about what was asked last.

    `prepare` is awaited before the first, `take` given each lease and whether it had waited for its turn; what comes
    after the end is for `refuse`. `is_stuck` tells that outcomes cannot be written now.
    """

    def __init__(
        self,
        spool: ISpool,
        clock: IReactorTime,
        backlogs: Backlogs,
        jobs: Jobs,
        *,
        prepare: Callable[[], Deferred[None]],
        take: Callable[[Lease, bool], None],
        refuse: Callable[[Sequence[Lease]], None],
        is_stuck: Callable[[], bool],
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._backlogs = backlogs
        self._jobs = jobs
        self._room = jobs.room
        self._prepare = prepare
        self._take = take
        self._refuse = refuse
        self._is_stuck = is_stuck
        self._due = math.inf  # when to look for what is due
        self._timer: IDelayedCall | None = None
        self._round: Deferred[None] | None = None
        self._pauses = 0
        self._is_prepared = False
        self.is_running = False

    # -- calls

    def start(self) -> None:
        """Begin with what is due."""
        self.is_running = True
        self.look_at(self._clock.seconds())

    async def stop(self) -> None:
        """Ask no more; returns when nothing is under way."""
        self.is_running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._round is not None:
            await self._round

    async def pause(self) -> None:
        """Ask no more until `go_on`; returns when nothing is under way."""
        self._pauses += 1
        if self._round is not None:
            waited: Deferred[None] = Deferred()
            self._round.addCallback(lambda _: waited.callback(None))
            await waited

    def go_on(self) -> None:
        """End one `pause`."""
        self._pauses -= 1
        self.look_at(self._clock.seconds())

    def look_at(self, due: float) -> None:
        """Something may be due then."""
        self._due = min(self._due, due)
        self._wake(self._due)

    def feed(self) -> None:
        """A queue with a backlog has room."""
        self._wake(self._clock.seconds())

    # -- rounds

    def _wake(self, due: float) -> None:
        if not self.is_running or self._round is not None or self._pauses:
            return
        if self._timer is not None:
            if self._timer.getTime() <= due:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(max(due - self._clock.seconds(), 0.0), self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self.is_running and not self._pauses and self._round is None:
            self._round = asking = Deferred.fromCoroutine(self._ask())
            asking.addBoth(self._asked)

    def _asked(self, result: object) -> None:
        self._round = None
        if isinstance(result, Failure):
            if not result.check(SpoolError):
                _log.failure("leasing failed", failure=result)
            self._due = min(self._due, self._clock.seconds() + AFTER_FAILURE)
            self._wake(self._clock.seconds() + AFTER_FAILURE)
            return
        if self._room.free <= 0:
            self._jobs.is_starved = True  # and `look_at` is called when there is room
            return
        due = self._due
        if not self._jobs.is_starved and not self._is_stuck():  # otherwise `look_at` is called when they end
            if self._backlogs.wants:
                due = self._clock.seconds()
            elif (again := self._backlogs.next_look) is not None:
                due = min(due, again)
        if due < math.inf:
            self._wake(due)

    async def _ask(self) -> None:
        if not self._is_prepared:
            await self._prepare()
            self._is_prepared = True
        while self.is_running and not self._pauses:
            if self._room.free <= 0:
                self._jobs.is_starved = True
                return
            asked = not self._is_stuck() and await self._ask_for_turns()
            is_due = self._due <= self._clock.seconds()
            if is_due and self._room.free > 0 and self.is_running:
                await self._ask_for_due()
            if not asked and not is_due:
                return

    async def _ask_for_turns(self) -> bool:
        """Whether anything was there."""
        requests = self._backlogs.requests(_AT_ONCE, self._room.free, self._clock.seconds())
        if not requests:
            return False
        until = self._clock.seconds() + LEASE_TIME
        asking = [
            as_deferred(self._spool.lease_in_turn(one.destination, one.amount, until, one.without)) for one in requests
        ]
        failures: list[Failure] = []
        for request, (_, answer) in zip(requests, await DeferredList(asking, consumeErrors=True), strict=True):
            if isinstance(answer, Failure):
                failures.append(answer)
            elif answer:
                self._sort(answer, in_turn=True)
            else:
                self._backlogs.exhausted(request)
        for failure in failures:
            failure.raiseException()
        return True

    async def _ask_for_due(self) -> None:
        # While outcomes cannot be written, one recipient is enough to find out whether anything can.
        limit = 1 if self._is_stuck() else min(self._room.free, _PER_LEASE)
        until = self._clock.seconds() + LEASE_TIME
        self._due = math.inf  # somebody may say otherwise while we wait
        leases = await self._spool.lease(limit, until, self._backlogs.full)
        if leases:
            self._due = min(self._due, self._clock.seconds())
            self._sort(leases, in_turn=False)
        elif self.is_running:
            due = await self._spool.next_due()
            if due is not None:
                self._due = min(self._due, due)

    def _sort(self, leases: Sequence[Lease], *, in_turn: bool) -> None:
        if not self.is_running:
            self._refuse(leases)
            return
        for lease in leases:
            self._take(lease, in_turn)
