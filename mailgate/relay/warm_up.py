"""What each source has sent today, for warm-up plans: in memory, and in the spool's counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.interfaces import ISpool, SpoolError
from mailgate.relay.counts import Counts, day_of

__all__ = ["DAY", "WarmUp"]

_log = Logger()

#: Seconds of a day.
DAY = 86400.0
#: Seconds between looks at what other workers have sent, and until a read that failed is tried again.
_ANEW = 5.0


class WarmUp:
    """Counts messages by source and day (UTC); those under way count as sent until they are not.

    `worker` is our number of `workers`, each of which counts for itself in the one spool, and has its `share` of what a
    source may send.
    """

    def __init__(self, spool: ISpool, clock: IReactorTime, *, worker: int = 0, workers: int = 1) -> None:
        self._spool = spool
        self._clock = clock
        self._worker = worker
        self._workers = workers
        self._counts = Counts(spool, clock)
        self._before: Counter[str] = Counter()  # sent today, as the spool knew it
        self._since: Counter[str] = Counter()  # and since then
        self._under_way: Counter[str] = Counter()
        self._others: dict[str, dict[int, int]] = {}  # sent today by other numbers, those of an earlier start too
        self._day = -1
        self._timer: IDelayedCall | None = None
        self._reading: Deferred[None] | None = None
        self._is_running = False
        self.is_known = False

    # -- life

    def start(self) -> Deferred[None]:
        """Read what was sent today; `is_known` tells when that is there. Never fails."""
        self._is_running = True
        self._cancel()
        if self._reading is None:
            return self._read()
        known: Deferred[None] = Deferred()
        self._reading.addCallback(lambda _: known.callback(None))
        return known

    def flush(self) -> Deferred[None]:
        """Write to the spool what it does not have yet. Never fails: what cannot be written is kept."""
        return self._counts.flush()

    async def stop(self) -> None:
        """Write for the last time. Before the spool is closed."""
        self._is_running = False
        self._cancel()
        if self._reading is not None:
            await self._reading
        await self.flush()

    # -- counting

    def now(self) -> float:
        """The time by which days are counted."""
        return self._clock.seconds()

    def begin(self, source: str) -> None:
        """A message is about to go out."""
        self._under_way[source] += 1

    def end(self, source: str, *, sent: bool) -> None:
        """It has, or it has not after all."""
        self._under_way[source] -= 1
        if sent:
            self._today()
            self._since[source] += 1
            self._counts.add(f"source/{source}/{self._worker}" if self._worker else f"source/{source}")

    def has_room(self, source: str, most: int) -> bool:
        """Whether we may send one more, where all workers together may send `most` today."""
        self._today()
        spent = self._before[source] + self._since[source] + self._under_way[source]
        others = self._others.get(source)
        if others is None and self._workers == 1:
            return spent < most
        return spent < _share(most, {**(others or {}), self._worker: spent}, self._worker, self._workers)

    def _today(self) -> None:
        day = int(self._clock.seconds() // DAY)
        if day != self._day:
            self._day = day
            self._before.clear()
            self._since.clear()
            self._others.clear()

    # -- reading

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self) -> Deferred[None]:
        self._timer = None
        reading = self._reading = Deferred.fromCoroutine(self._read_counts())
        return reading.addBoth(self._have_read)

    async def _read_counts(self) -> None:
        await self._counts.flush()
        if not self._counts.is_clean:
            return  # the sum would lack what only we know
        self._today()
        day, prefix = self._day, f"{day_of(self._clock.seconds())}/source/"
        written = self._since.copy()
        found = await self._spool.counts(prefix)
        self._today()
        if day == self._day:
            self._before.clear()
            self._others.clear()
            for key, amount in found.items():
                source, _, number = key.removeprefix(prefix).partition("/")
                if int(number or 0) == self._worker:
                    self._before[source] = amount
                else:
                    self._others.setdefault(source, {})[int(number or 0)] = amount
            self._since.subtract(written)
        self.is_known = True

    def _have_read(self, result: object) -> None:
        self._reading = None
        if isinstance(result, Failure) and not result.check(SpoolError):
            _log.failure("counters cannot be read", failure=result)
        if self._is_running and (self._workers > 1 or not self.is_known):
            self._timer = self._clock.callLater(_ANEW, self._read)


def _share(most: int, sent: Mapping[int, int], worker: int, workers: int) -> int:
    """What a worker may send of `most`, where each number has sent so much today.

    The workers divide `most` evenly, the first of them getting one more where it does not come out even. Whoever is
    above his share already, since there were fewer workers earlier today, sends nothing, and the others divide what is
    left; a number that no worker has any more is of that kind too. So all workers find the same shares, whenever they
    look: nobody within his share gets beyond it.
    """
    left = most - sum(amount for number, amount in sent.items() if number >= workers)
    numbers = list(range(workers))
    while numbers:
        share, more = divmod(max(left, 0), len(numbers))
        shares = {number: share + (place < more) for place, number in enumerate(numbers)}
        above = [number for number in numbers if sent.get(number, 0) > shares[number]]
        if not above:
            return shares.get(worker, 0)
        left -= sum(sent[number] for number in above)
        numbers = [number for number in numbers if number not in above]
    return 0
