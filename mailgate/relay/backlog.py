"""What waits in the spool for room in a ready queue: at which destinations, and which of them is asked next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from mailgate.interfaces import Destination
from mailgate.relay.jobs import JobQueue

__all__ = ["Backlogs", "Request"]

#: Destinations that are remembered. What waits at others comes due by itself after a while.
_MOST = 100_000
#: Jobs that are fetched for a destination whose queue is not known yet, and seconds until it is asked again.
_UNPLACED, _UNPLACED_AGAIN = 20, 1.0
#: Destinations of one queue that are asked at one time, and for how many jobs each at least.
_AT_ONCE, _AT_LEAST = 8, 5


@dataclass(slots=True, eq=False)
class _Backlog:
    """What waits at one destination. `returning` counts what is on its way there, `returned` what has been.

    `is_parked`: nothing is there before that has arrived.
    """

    destination: Destination
    queue: JobQueue | None = None
    returning: int = 0
    returned: int = 0
    not_before: float = 0.0
    is_parked: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """So many recipients are wanted of a backlog; `seen` is what had been returned to it then."""

    destination: Destination
    amount: int
    seen: int


class Backlogs:
    """Backlogs by destination; each belongs to the queue that had no room for it, or to none where that is not known.

    `full` holds the destinations: what is due there joins the backlog.
    """

    def __init__(self) -> None:
        self.full: set[Destination] = set()
        self._all: dict[Destination, _Backlog] = {}
        # Those that have just been asked are at the end.
        self._by_queue: dict[JobQueue, OrderedDict[_Backlog, None]] = {}
        self._unplaced: OrderedDict[_Backlog, None] = OrderedDict()
        self._hungry: OrderedDict[JobQueue, None] = OrderedDict()

    # -- what becomes of them

    def add(self, destinations: Iterable[Destination]) -> None:
        """Something waits there, the spool says."""
        for destination in destinations:
            self._get(destination)

    def returning(self, destination: Destination, queue: JobQueue | None) -> None:
        """Something is on its way back there, for want of room in this queue, or in all memory (None)."""
        backlog = self._get(destination)
        if backlog is not None:
            backlog.returning += 1
            if queue is not None and backlog.queue is not queue:
                self._place(backlog, queue)

    def returned(self, destination: Destination) -> None:
        """It is there."""
        backlog = self._all.get(destination)
        if backlog is not None:
            backlog.returning -= 1
            backlog.returned += 1
            if backlog.is_parked:
                backlog.is_parked, backlog.not_before = False, 0.0
                self._unplaced[backlog] = None

    def placed(self, destination: Destination, queue: JobQueue) -> None:
        """Something from a backlog has found room in this queue."""
        backlog = self._all.get(destination)
        if backlog is not None and backlog.queue is None:
            self._place(backlog, queue)

    def forget(self, chosen: Callable[[Destination], bool]) -> None:
        """Nothing more is to be fetched from these: what waits there comes due by itself."""
        for backlog in [one for one in self._all.values() if chosen(one.destination)]:
            self._drop(backlog)

    def forget_queue(self, queue: JobQueue) -> None:
        """Its destinations wait for no queue any more."""
        self._hungry.pop(queue, None)
        for backlog in self._by_queue.pop(queue, ()):
            backlog.queue, backlog.not_before = None, 0.0
            self._unplaced[backlog] = None
        queue.has_backlog = False

    def drop_queue(self, queue: JobQueue) -> None:
        """As `forget`, for all destinations of this queue."""
        for backlog in list(self._by_queue.get(queue, ())):
            self._drop(backlog)

    # -- what to ask

    def hungry(self, queue: JobQueue) -> None:
        """This queue has room."""
        self._hungry[queue] = None

    @property
    def wants(self) -> bool:
        """Whether some queue has room."""
        return bool(self._hungry)

    @property
    def next_unplaced(self) -> float | None:
        """When a destination without a queue is to be asked; None where there is none."""
        return next(iter(self._unplaced)).not_before if self._unplaced else None

    def requests(self, most: int, room: int, now: float) -> list[Request]:
        """What to ask for now: at most so many requests, for so many jobs in all."""
        found: list[Request] = []
        for queue in list(self._hungry):
            if len(found) >= most or room <= 0:
                return found
            backlogs = self._by_queue.get(queue)
            amount = min(queue.appetite, room)
            if not backlogs or amount <= 0:
                del self._hungry[queue]
                continue
            self._hungry.move_to_end(queue)
            asked = min(len(backlogs), _AT_ONCE, max(amount // _AT_LEAST, 1))
            for backlog in list(islice(backlogs, asked)):
                backlogs.move_to_end(backlog)
                found.append(_request(backlog, max(amount // asked, 1)))
            room -= amount
        while len(found) < most and room > 0 and (due := self.next_unplaced) is not None and due <= now:
            backlog = next(iter(self._unplaced))
            self._unplaced.move_to_end(backlog)
            backlog.not_before = now + _UNPLACED_AGAIN
            found.append(_request(backlog, min(_UNPLACED, room)))
            room -= _UNPLACED
        return found

    def exhausted(self, request: Request) -> None:
        """Nothing was there."""
        backlog = self._all.get(request.destination)
        if backlog is None:
            return
        if backlog.returning:
            self._take_away(backlog)
            backlog.queue, backlog.is_parked = None, True
        elif backlog.returned == request.seen:
            self._drop(backlog)

    def _get(self, destination: Destination) -> _Backlog | None:
        backlog = self._all.get(destination)
        if backlog is None and len(self._all) < _MOST:
            backlog = self._all[destination] = _Backlog(destination)
            self.full.add(destination)
            self._unplaced[backlog] = None
        return backlog

    def _place(self, backlog: _Backlog, queue: JobQueue) -> None:
        self._take_away(backlog)
        backlog.queue = queue
        self._by_queue.setdefault(queue, OrderedDict())[backlog] = None
        queue.has_backlog = True
        if queue.is_hungry:
            self._hungry[queue] = None

    def _take_away(self, backlog: _Backlog) -> None:
        queue = backlog.queue
        if backlog.is_parked:
            backlog.is_parked = False
            return
        if queue is None:
            del self._unplaced[backlog]
            return
        backlogs = self._by_queue[queue]
        del backlogs[backlog]
        if not backlogs:
            del self._by_queue[queue]
            self._hungry.pop(queue, None)
            queue.has_backlog = False

    def _drop(self, backlog: _Backlog) -> None:
        self._take_away(backlog)
        self.full.discard(backlog.destination)
        del self._all[backlog.destination]


def _request(backlog: _Backlog, amount: int) -> Request:
    return Request(backlog.destination, amount, backlog.returned)
