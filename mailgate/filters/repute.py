"""What is remembered of one subject: how much good and bad came from it, fading with time."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred, run
from mailgate.filters.steps import Steps, ready
from mailgate.interfaces import ICounters

__all__ = ["Record", "Records"]

_log = Logger()

_FORM = struct.Struct("!ffd")
#: After so many half-lives a thousand are less than one.
_FORGOTTEN = 10
#: Subjects whose numbers are on their way at one time, while the counters are slow.
_MOST_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class Record:
    """How much good and bad there was, each halved every half-life."""

    good: float = 0.0
    bad: float = 0.0

    @property
    def leaning(self) -> float:
        """From -1.0, all good, to 1.0, all bad; one of each is imagined, so that a few do not say everything."""
        return (self.bad - self.good) / (self.bad + self.good + 2.0)


class Records:
    """Records by subject, in the counters: 16 octets each.

    Each change is read, added to and written back. Within a process none is lost; of two processes that change a
    subject within the same moment, the later one may overwrite what the other has added: one message's worth.
    """

    def __init__(self, counters: ICounters, seconds: Callable[[], float], half_life: float) -> None:
        self._counters = counters
        self._seconds = seconds
        self._half_life = half_life
        self._waiting: dict[str, Record] = {}

    def read(self, subject: str) -> Steps[Record]:
        """What there is of a subject now."""
        value = yield from ready(self._counters.get(_key(subject)))
        if value is None or len(value) != _FORM.size:
            return Record()
        good, bad, at = _FORM.unpack(value)
        left = 0.5 ** (max(self._seconds() - at, 0.0) / self._half_life)
        return Record(good * left, bad * left)

    def add(self, subject: str, *, good: float = 0.0, bad: float = 0.0) -> None:
        """Add to a subject, as soon as the counters answer. A failure of theirs is logged, and the number lost."""
        more = self._waiting.get(subject)
        if more is not None:  # the one that is on its way takes this along
            self._waiting[subject] = Record(more.good + good, more.bad + bad)
            return
        if len(self._waiting) >= _MOST_WAITING:
            return
        self._waiting[subject] = Record()
        work = run(self._write(subject, Record(good, bad)))
        if isinstance(work, Awaitable):
            as_deferred(work).addErrback(_failed)

    def _write(self, subject: str, more: Record) -> Steps[None]:
        try:
            while more.good or more.bad:
                old = yield from self.read(subject)
                value = _FORM.pack(old.good + more.good, old.bad + more.bad, self._seconds())
                yield from ready(self._counters.put(_key(subject), value, _FORGOTTEN * self._half_life))
                more, self._waiting[subject] = self._waiting[subject], Record()
        finally:
            del self._waiting[subject]


def _failed(failure: Failure) -> None:
    _log.warn("a reputation cannot be written: {error}", error=failure.getErrorMessage())


def _key(subject: str) -> str:
    return f"reputation {subject}"
