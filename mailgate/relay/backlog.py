"""What waits in the spool for room in a ready queue: at which destinations, and which of them is asked next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice, takewhile

from mailgate.envelope import EnvelopeRecipient
from mailgate.interfaces import Destination
from mailgate.relay.fairness import Tags
from mailgate.relay.ready.jobs import Job, JobQueue

__all__ = ["Backlog", "Backlogs", "Request"]

#: Destinations that are remembered. What waits at others comes due by itself after a while.
_MOST = 100_000
#: Jobs that are fetched for a destination whose queue is not known yet, and seconds until it is asked again.
_UNPLACED, _UNPLACED_AGAIN = 20, 1.0
#: Seconds after which is looked, where all known sources of a destination are full, for what may go by another.
_PROBE = 30.0
#: Of the requests of one time those that such destinations have before all others.
_PLACES = 8
#: Destinations of one queue that are asked at one time, and for how many jobs each at least.
_AT_ONCE, _AT_LEAST = 8, 5


class _Full(set[Destination]):
    """Destinations; one without a domain is that of its whole route."""

    def __contains__(self, one: object) -> bool:
        has = super().__contains__
        return has(one) or (isinstance(one, Destination) and has(Destination(one.route, "")))


@dataclass(slots=True, eq=False)
class Backlog:
    """What waits at one destination, for room in any of its queues, of which each source has one (by its name).

    `returning` counts what is on its way there, `returned` what has been; `coming` what has been fetched, and is in no
    queue yet. `is_parked`: nothing is there before that has arrived. `is_gone`: another may have taken its place.
    """

    destination: Destination
    queues: dict[str, JobQueue] = field(default_factory=dict)
    returning: int = 0
    returned: int = 0
    coming: int = 0
    not_before: float = 0.0
    is_parked: bool = False
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """So many recipients are wanted of a backlog, but none that go on from the sources `without`; `seen` is what had
    been returned to it then."""

    backlog: Backlog
    amount: int
    seen: int
    without: tuple[str, ...] = ()

    @property
    def destination(self) -> Destination:
        """Where they wait."""
        return self.backlog.destination


class Backlogs:
    """Backlogs by destination; each belongs to the queues that had no room for it, or to none where that is not known.

    `is_whole` tells of a route by its name whether all its domains go the same way: they are one destination, with the
    domain "". `full` holds the destinations: what is due there joins the backlog. `tags` are theirs.
    """

    def __init__(self, is_whole: Callable[[str], bool] = lambda route: False) -> None:
        self.full: set[Destination] = _Full()
        self.tags = Tags()
        self._is_whole = is_whole
        self._all: dict[Destination, Backlog] = {}
        # Those that have just been asked are at the end.
        self._by_queue: dict[JobQueue, OrderedDict[Backlog, None]] = {}
        self._unplaced: OrderedDict[Backlog, None] = OrderedDict()
        self._pooled: OrderedDict[Backlog, None] = OrderedDict()  # whose queues are those of sources
        self._hungry: OrderedDict[JobQueue, None] = OrderedDict()
        self._coming: dict[Job, list[Backlog]] = {}

    def of(self, recipients: Iterable[EnvelopeRecipient]) -> tuple[Destination, ...]:
        """The destinations of recipients."""
        return tuple({self._key(one.route, one.address.domain): None for one in recipients})

    # -- what becomes of them

    def add(self, destinations: Iterable[Destination]) -> None:
        """Something waits there, the spool says."""
        for route, domain in destinations:
            self._get(self._key(route, domain))

    def returning(self, destination: Destination, queue: JobQueue | None) -> Backlog | None:
        """Something is on its way back there, for want of room in this queue, or in all memory (None): to where, for
        `returned`."""
        backlog = self._get(destination)
        if backlog is not None:
            backlog.returning += 1
            if queue is not None:
                self._place(backlog, queue)
        return backlog

    def returned(self, backlog: Backlog) -> None:
        """It is there."""
        if backlog.is_gone:
            successor = self._all.get(backlog.destination)
            if successor is not None:
                successor.returned += 1
            return
        backlog.returning -= 1
        backlog.returned += 1
        if backlog.is_parked:
            backlog.is_parked, backlog.not_before = False, 0.0
            self._unplaced[backlog] = None

    def coming(self, job: Job) -> None:
        """A job from a backlog is in no queue yet: DNS, or a filter, is asked about it."""
        found = [self._all[one] for one in self.of(job.recipients) if one in self._all]
        if found:
            self._coming[job] = found
            for backlog in found:
                backlog.coming += 1

    def arrived(self, job: Job) -> bool:
        """It is no more on its way, whatever became of it; whether some queue has room."""
        for backlog in self._coming.pop(job, ()):
            backlog.coming -= 1
            for queue in backlog.queues.values():
                if queue.is_hungry:
                    self._hungry[queue] = None
        return bool(self._hungry)

    def placed(self, job: Job, queue: JobQueue) -> None:
        """A job has found room in this queue: what waits at its destinations goes there too."""
        for destination in self.of(job.recipients):
            backlog = self._all.get(destination)
            if backlog is not None and not backlog.is_parked:
                self._place(backlog, queue)

    def forget(self, chosen: Callable[[Destination], bool]) -> None:
        """Nothing more is to be fetched from these: what waits there comes due by itself."""
        for backlog in [one for one in self._all.values() if chosen(one.destination)]:
            self._drop(backlog)

    def forget_queue(self, queue: JobQueue) -> None:
        """Its destinations wait for it no more."""
        for backlog in list(self._by_queue.get(queue, ())):
            self._leave(backlog, queue)
        self._hungry.pop(queue, None)
        queue.has_backlog = False

    def drop_queue(self, queue: JobQueue) -> list[Destination]:
        """As `forget`, for all destinations of this queue, which are returned."""
        dropped = list(self._by_queue.get(queue, ()))
        for backlog in dropped:
            self._drop(backlog)
        return [backlog.destination for backlog in dropped]

    def reload(self) -> bool:
        """Routes have changed. Whether some go by domain now that did not: what waits there has to be added."""
        changed = [one for one in self._all.values() if one.destination != self._key(*one.destination)]
        spread = [name for name in {one.route for one in self._all} if not self._is_whole(name)]
        for backlog in changed:
            self._drop(backlog)
        self.add(backlog.destination for backlog in changed)
        apart = [self._all[one] for name in spread if (one := Destination(name, "")) in self._all]
        for backlog in apart:
            self._drop(backlog)
        return bool(apart)

    # -- what to ask

    def hungry(self, queue: JobQueue) -> None:
        """This queue has room."""
        self._hungry[queue] = None

    @property
    def wants(self) -> bool:
        """Whether some queue has room."""
        return bool(self._hungry)

    @property
    def next_look(self) -> float | None:
        """When a destination is to be asked though none of its queues is hungry; None where there is none."""
        firsts = [next(iter(one)).not_before for one in (self._unplaced, self._pooled) if one]
        return min(firsts, default=None)

    def requests(self, most: int, room: int, now: float) -> list[Request]:
        """What to ask for now: at most so many requests, or a few more, for so many jobs in all."""
        found: list[Request] = []
        room = self._ask_unplaced(found, min(_PLACES, most), room, now)
        for queue in list(self._hungry):
            if len(found) >= most or room <= 0:
                return found
            backlogs = self._by_queue.get(queue)
            amount = min(queue.appetite, room) if backlogs else 0
            if backlogs and self._coming:
                amount -= sum(backlog.coming for backlog in backlogs)
            if not backlogs or amount <= 0:
                del self._hungry[queue]
                continue
            self._hungry.move_to_end(queue)
            asked = min(len(backlogs), _AT_ONCE, max(amount // _AT_LEAST, 1))
            for backlog in list(islice(backlogs, asked)):
                backlogs.move_to_end(backlog)
                without = _full_beside(queue, backlog) if len(backlog.queues) > 1 else ()
                found.append(Request(backlog, max(amount // asked, 1), backlog.returned, without))
            room -= amount
        room = self._ask_unplaced(found, most, room, now)
        self._probe(found, most, room, now)
        return found

    def exhausted(self, request: Request) -> None:
        """Nothing was there."""
        backlog = request.backlog
        if backlog.is_gone or backlog.is_parked or backlog.returned != request.seen:
            return
        if backlog.returning:
            self._take_away(backlog)
            backlog.is_parked = True
        elif request.without:
            # What is there waits for those that are full.
            for source, queue in list(backlog.queues.items()):
                if source not in request.without:
                    self._leave(backlog, queue)
        else:
            self._drop(backlog)

    def _ask_unplaced(self, found: list[Request], most: int, room: int, now: float) -> int:
        """Add requests, until there are so many; the room that is left."""
        for backlog in _due(self._unplaced, most - len(found), now):
            if room <= 0:
                break
            self._unplaced.move_to_end(backlog)
            backlog.not_before = now + _UNPLACED_AGAIN
            amount = min(_UNPLACED - backlog.coming, room)
            if amount > 0:
                found.append(Request(backlog, amount, backlog.returned))
                room -= amount
        return room

    def _probe(self, found: list[Request], most: int, room: int, now: float) -> None:
        """Add requests for what does not go on from the sources that are full."""
        for backlog in _due(self._pooled, most - len(found), now):
            if room <= 0:
                break
            self._pooled.move_to_end(backlog)
            backlog.not_before = now + _PROBE
            if not any(queue.is_hungry for queue in backlog.queues.values()):
                found.append(Request(backlog, min(_UNPLACED, room), backlog.returned, tuple(backlog.queues)))
                room -= _UNPLACED

    def _key(self, route: str, domain: str) -> Destination:
        return Destination(route, "" if self._is_whole(route) else domain)

    def _get(self, destination: Destination) -> Backlog | None:
        backlog = self._all.get(destination)
        if backlog is None and len(self._all) < _MOST:
            backlog = self._all[destination] = Backlog(destination)
            self.full.add(destination)
            self._unplaced[backlog] = None
        return backlog

    def _place(self, backlog: Backlog, queue: JobQueue) -> None:
        old = backlog.queues.get(queue.source)
        if old is queue:
            return
        if old is not None:
            self._unlink(backlog, old)
        elif backlog.is_parked:
            backlog.is_parked = False
        elif not backlog.queues:
            del self._unplaced[backlog]
        backlog.queues[queue.source] = queue
        if queue.source:
            self._pooled.setdefault(backlog)
        self._by_queue.setdefault(queue, OrderedDict())[backlog] = None
        queue.has_backlog = True
        if queue.is_hungry:
            self._hungry[queue] = None

    def _unlink(self, backlog: Backlog, queue: JobQueue) -> None:
        del backlog.queues[queue.source]
        if not backlog.queues:
            self._pooled.pop(backlog, None)
        backlogs = self._by_queue[queue]
        del backlogs[backlog]
        if not backlogs:
            del self._by_queue[queue]
            self._hungry.pop(queue, None)
            queue.has_backlog = False

    def _leave(self, backlog: Backlog, queue: JobQueue) -> None:
        self._unlink(backlog, queue)
        if not backlog.queues:
            backlog.not_before = 0.0
            self._unplaced[backlog] = None

    def _take_away(self, backlog: Backlog) -> None:
        if backlog.is_parked:
            backlog.is_parked = False
        elif not backlog.queues:
            del self._unplaced[backlog]
        for queue in list(backlog.queues.values()):
            self._unlink(backlog, queue)

    def _drop(self, backlog: Backlog) -> None:
        self._take_away(backlog)
        backlog.is_gone = True
        self.full.discard(backlog.destination)
        self.tags.forget(backlog.destination)
        del self._all[backlog.destination]


def _due(backlogs: OrderedDict[Backlog, None], most: int, now: float) -> list[Backlog]:
    """The first of them, at most so many, as far as they are to be asked now."""
    return list(takewhile(lambda one: one.not_before <= now, islice(backlogs, max(most, 0))))


def _full_beside(queue: JobQueue, backlog: Backlog) -> tuple[str, ...]:
    """The sources beside that of a queue that want nothing of a backlog now."""
    return tuple(source for source, one in backlog.queues.items() if source and one is not queue and not one.is_hungry)
