"""Who waits in a ready queue, and who is next: senders take turns, and priorities go first (RFC 6710)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mailgate.address import Address
from mailgate.relay.ready.job import Job, LedJob

__all__ = ["Line", "Room"]


@dataclass(slots=True)
class _Lane:
    """Jobs of each sender in their order, and the senders in the order of their turns."""

    jobs: dict[Address, deque[Job]] = field(default_factory=dict)
    turns: deque[Address] = field(default_factory=deque)
    count: int = 0

    def add(self, job: Job) -> None:
        sender = job.lease.envelope.sender
        jobs = self.jobs.get(sender)
        if jobs is None:
            self.jobs[sender] = deque((job,))
            self.turns.append(sender)
        else:
            jobs.append(job)
        self.count += 1

    def put_back(self, job: Job) -> None:
        sender = job.lease.envelope.sender
        if sender in self.jobs:
            self.turns.remove(sender)
            self.jobs[sender].appendleft(job)
        else:
            self.jobs[sender] = deque((job,))
        self.turns.appendleft(sender)
        self.count += 1

    def take(self) -> Job:
        sender = self.turns.popleft()
        jobs = self.jobs[sender]
        job = jobs.popleft()
        if jobs:
            self.turns.append(sender)
        else:
            del self.jobs[sender]
        self.count -= 1
        return job

    def drop(self, gone: set[Job]) -> None:
        """Without these; the others keep their turns."""
        kept = {sender: deque(job for job in jobs if job not in gone) for sender, jobs in self.jobs.items()}
        self.jobs = {sender: jobs for sender, jobs in kept.items() if jobs}
        self.turns = deque(sender for sender in self.turns if sender in self.jobs)
        self.count = sum(map(len, self.jobs.values()))

    def ahead(self, job: Job) -> int | None:
        """How many of this lane begin before this one."""
        sender = job.lease.envelope.sender
        jobs = self.jobs.get(sender)
        if jobs is None or job not in jobs:
            return None
        rounds = jobs.index(job)  # in each of which every sender begins one
        place = self.turns.index(sender)
        others = sum(
            min(len(self.jobs[other]), rounds + (turn < place))
            for turn, other in enumerate(self.turns)
            if other != sender
        )
        return others + rounds


@dataclass(slots=True)
class _Rank:
    """Jobs of one priority: those that came and those that have waited in the spool begin one by one in turn, so that
    neither holds up the other."""

    came: _Lane = field(default_factory=_Lane)
    waited: _Lane = field(default_factory=_Lane)
    is_waited_next: bool = False

    @property
    def lanes(self) -> tuple[_Lane, _Lane]:
        return self.came, self.waited

    def lane(self, job: Job) -> _Lane:
        return self.waited if job.in_turn else self.came

    def take(self) -> Job:
        is_waited = self.waited.count > 0 and (self.is_waited_next or not self.came.count)
        self.is_waited_next = not is_waited
        return (self.waited if is_waited else self.came).take()

    def ahead(self, job: Job) -> int | None:
        """How many of this priority begin before this one."""
        before = self.lane(job).ahead(job)
        if before is None:
            return None
        other = self.came if job.in_turn else self.waited
        return before + min(other.count, before + (self.is_waited_next != job.in_turn))


@dataclass(slots=True)
class Room:
    """How many jobs may be in memory in all, and how many are."""

    most: int
    taken: int = 0

    @property
    def free(self) -> int:
        """Room that is left."""
        return self.most - self.taken


class Line:
    """Jobs that wait. `count` is how many, `turned` how many of them have waited for their turn in the spool."""

    __slots__ = ("_ranks", "count", "turned")

    def __init__(self) -> None:
        self.count = 0
        self.turned = 0
        self._ranks: dict[int, _Rank] = {}  # none empty

    def __iter__(self) -> Iterator[Job]:
        return (job for lane in self._lanes() for jobs in lane.jobs.values() for job in jobs)

    @property
    def senders(self) -> int:
        """How many different senders wait."""
        return sum(len(lane.jobs) for lane in self._lanes())

    def has(self, sender: Address) -> bool:
        """Whether anything of this sender waits."""
        return any(sender in lane.jobs for lane in self._lanes())

    def add(self, job: Job) -> None:
        """Behind the others of its sender."""
        self._rank(job).lane(job).add(job)
        self._count(job, 1)

    def put_back(self, job: Job) -> None:
        """Before all others of its priority: it was its turn, and still is."""
        rank = self._rank(job)
        rank.lane(job).put_back(job)
        rank.is_waited_next = job.in_turn
        self._count(job, 1)

    def take(self) -> Job:
        """The one whose turn it is; ValueError where nobody waits."""
        priority = max(self._ranks)
        rank = self._ranks[priority]
        job = rank.take()
        if not (rank.came.count or rank.waited.count):
            del self._ranks[priority]
        self._count(job, -1)
        return job

    def take_where(self, chosen: Callable[[Job], bool]) -> list[Job]:
        """All that are chosen, in no order that matters; they wait no more, and the others keep their turns."""
        taken = [job for job in self if chosen(job)]
        if taken:
            gone = set(taken)
            for lane in self._lanes():
                lane.drop(gone)
            self._ranks = {level: rank for level, rank in self._ranks.items() if rank.came.count or rank.waited.count}
            for job in taken:
                self._count(job, -1)
        return taken

    def trim(self, most: int) -> list[Job]:
        """All but so many, who wait no more: the last of those who have the most. Who has waited in the spool stays,
        and so do the first of each sender and those that clients wait for."""
        places = {
            job: place
            for rank in self._ranks.values()
            for jobs in rank.came.jobs.values()
            for place, job in enumerate(jobs)
            if place and not isinstance(job, LedJob)
        }
        last = sorted(places, key=places.__getitem__, reverse=True)
        chosen = set(last[: max(self.count - most, 0)])
        return self.take_where(chosen.__contains__) if chosen else []

    def ahead(self, job: Job) -> int | None:
        """How many begin before this one, if nobody else comes; None where it does not wait here."""
        priority = job.priority
        rank = self._ranks.get(priority)
        before = None if rank is None else rank.ahead(job)
        if before is None:
            return None
        higher = sum(one.came.count + one.waited.count for level, one in self._ranks.items() if level > priority)
        return higher + before

    def _lanes(self) -> Iterator[_Lane]:
        return (lane for rank in self._ranks.values() for lane in rank.lanes)

    def _rank(self, job: Job) -> _Rank:
        priority = job.priority
        rank = self._ranks.get(priority)
        if rank is None:
            rank = self._ranks[priority] = _Rank()
        return rank

    def _count(self, job: Job, change: int) -> None:
        self.count += change
        if job.in_turn:
            self.turned += change
