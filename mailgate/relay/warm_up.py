"""What each source has sent today, for warm-up plans: in memory, and in the spool's counters."""

from __future__ import annotations

from collections import Counter

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

    `is_shared`: other workers count in the same spool; their numbers are read again every few seconds.
    """

    def __init__(self, spool: ISpool, clock: IReactorTime, *, is_shared: bool = False) -> None:
        self._spool = spool
        self._clock = clock
        self._is_shared = is_shared
        self._counts = Counts(spool, clock)
        self._before: Counter[str] = Counter()  # sent today, as the spool knew it
        self._since: Counter[str] = Counter()  # and since then
        self._under_way: Counter[str] = Counter()
        self._day = -1
        self._timer: IDelayedCall | None = None
        self._reading: Deferred[None] | None = None
        self._is_running = False
        self.is_known = False

    # -- life

    def start(self) -> Deferred[None]:
        """Read what was sent today; `is_known` tells when that is there. Never fails."""
        self._is_running = True
        return self._read()

    def flush(self) -> Deferred[None]:
        """Write to the spool what it does not have yet. Never fails: what cannot be written is kept."""
        return self._counts.flush()

    async def stop(self) -> None:
        """Write for the last time. Before the spool is closed."""
        self._is_running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
            self._counts.add(f"source/{source}")

    def spent(self, source: str) -> int:
        """Messages sent today or under way."""
        self._today()
        return self._before[source] + self._since[source] + self._under_way[source]

    def _today(self) -> None:
        day = int(self._clock.seconds() // DAY)
        if day != self._day:
            self._day = day
            self._before.clear()
            self._since.clear()

    # -- reading

    def _read(self) -> Deferred[None]:
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
            self._before = Counter({key.removeprefix(prefix): amount for key, amount in found.items()})
            self._since.subtract(written)
        self.is_known = True

    def _have_read(self, result: object) -> None:
        self._reading = None
        if isinstance(result, Failure) and not result.check(SpoolError):
            _log.failure("counters cannot be read", failure=result)
        if self._is_running and (self._is_shared or not self.is_known):
            self._timer = self._clock.callLater(_ANEW, self._read)
