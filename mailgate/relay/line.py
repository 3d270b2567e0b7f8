"""Who waits in a ready queue, and who is next: senders take turns, and priorities go first (RFC 6710)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailgate.address import Address

if TYPE_CHECKING:
    from mailgate.relay.jobs import Job

__all__ = ["Line", "Room"]


@dataclass(slots=True)
class _Rank:
    """Jobs of one priority: those of each sender in their order, and the senders in the order of their turns."""

    jobs: dict[Address, deque[Job]] = field(default_factory=dict)
    turns: deque[Address] = field(default_factory=deque)


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
        return (job for rank in self._ranks.values() for jobs in rank.jobs.values() for job in jobs)

    @property
    def senders(self) -> int:
        """How many different senders wait."""
        return sum(len(rank.jobs) for rank in self._ranks.values())

    def has(self, sender: Address) -> bool:
        """Whether anything of this sender waits."""
        return any(sender in rank.jobs for rank in self._ranks.values())

    def add(self, job: Job) -> None:
        """Behind the others of its sender."""
        rank, sender = self._rank(job), job.lease.envelope.sender
        jobs = rank.jobs.get(sender)
        if jobs is None:
            rank.jobs[sender] = deque((job,))
            rank.turns.append(sender)
        else:
            jobs.append(job)
        self._count(job, 1)

    def put_back(self, job: Job) -> None:
        """Before all others of its priority: it was its turn, and still is."""
        rank, sender = self._rank(job), job.lease.envelope.sender
        if sender in rank.jobs:
            rank.turns.remove(sender)
            rank.jobs[sender].appendleft(job)
        else:
            rank.jobs[sender] = deque((job,))
        rank.turns.appendleft(sender)
        self._count(job, 1)

    def take(self) -> Job:
        """The one whose turn it is; IndexError or ValueError where nobody waits."""
        priority = max(self._ranks)
        rank = self._ranks[priority]
        sender = rank.turns.popleft()
        jobs = rank.jobs[sender]
        job = jobs.popleft()
        if jobs:
            rank.turns.append(sender)
        else:
            del rank.jobs[sender]
            if not rank.jobs:
                del self._ranks[priority]
        self._count(job, -1)
        return job

    def take_where(self, chosen: Callable[[Job], bool]) -> list[Job]:
        """All that are chosen, in no order that matters; they wait no more."""
        taken = [job for job in self if chosen(job)]
        if taken:
            gone = set(taken)
            kept = [job for job in self if job not in gone]
            self._ranks.clear()
            self.count = self.turned = 0
            for job in kept:
                self.add(job)
        return taken

    def trim(self, most: int) -> list[Job]:
        """All but so many, who wait no more: the last of those who have the most. Who has waited in the spool stays,
        and so does the first of each sender."""
        places = {
            job: place
            for rank in self._ranks.values()
            for jobs in rank.jobs.values()
            for place, job in enumerate(jobs)
            if place and not job.in_turn
        }
        last = sorted(places, key=places.__getitem__, reverse=True)
        chosen = set(last[: max(self.count - most, 0)])
        return self.take_where(chosen.__contains__) if chosen else []

    def ahead(self, job: Job) -> int | None:
        """How many begin before this one, if nobody else comes; None where it does not wait here."""
        priority, sender = job.lease.envelope.parameters.priority or 0, job.lease.envelope.sender
        rank = self._ranks.get(priority)
        jobs = rank.jobs.get(sender) if rank else None
        if rank is None or jobs is None or job not in jobs:
            return None
        rounds = jobs.index(job)  # in each of which every sender begins one
        place = rank.turns.index(sender)
        others = sum(
            min(len(rank.jobs[other]), rounds + (turn < place))
            for turn, other in enumerate(rank.turns)
            if other != sender
        )
        higher = sum(
            len(waiting) for level, one in self._ranks.items() if level > priority for waiting in one.jobs.values()
        )
        return higher + others + rounds

    def _rank(self, job: Job) -> _Rank:
        priority = job.lease.envelope.parameters.priority or 0
        rank = self._ranks.get(priority)
        if rank is None:
            rank = self._ranks[priority] = _Rank()
        return rank

    def _count(self, job: Job, change: int) -> None:
        self.count += change
        if job.in_turn:
            self.turned += change
