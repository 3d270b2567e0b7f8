"""The jobs that are in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from mailgate.interfaces import Lease
from mailgate.relay.ready.jobs import Job
from mailgate.relay.ready.line import Room

__all__ = ["Jobs"]


class Jobs:
    """All of them, by queue id, and how much room they leave. While `is_starved`, something was left in the spool for
    want of room: `room_made` is called when there is enough again. `octets` is what their content takes of memory."""

    def __init__(self, most: int, room_made: Callable[[], None]) -> None:
        self.room = Room(most)
        self.is_starved = False
        self.octets = 0
        self._room_made = room_made
        self._jobs: dict[str, list[Job]] = {}
        self._leaving: set[Job] = set()

    def of(self, queue_id: str) -> Sequence[Job]:
        """Those of a message."""
        return self._jobs.get(queue_id, ())

    def add(self, job: Job) -> None:
        """One more."""
        self.room.taken += 1
        lease = job.lease
        queue_id = lease.envelope.queue_id
        jobs = self._jobs.get(queue_id)
        if jobs is None:
            self._jobs[queue_id] = [job]
            if lease.content.in_memory:
                self.octets += lease.content.size
        else:
            jobs.append(job)

    def remove(self, job: Job) -> None:
        """One less; nothing where it is gone already."""
        lease = job.lease
        queue_id = lease.envelope.queue_id
        jobs = self._jobs.get(queue_id, ())
        if job not in jobs:
            return
        room = self.room
        room.taken -= 1
        if len(jobs) == 1:
            del self._jobs[queue_id]
            if lease.content.in_memory:
                self.octets -= lease.content.size
        else:
            self._jobs[queue_id].remove(job)
        if self.is_starved and room.taken <= room.most * 3 // 4:
            self.is_starved = False
            self._room_made()

    def leaving(self, job: Job) -> None:
        """It is on its way back to the spool, by the lease that it has."""
        self._leaving.add(job)

    def left(self, job: Job) -> None:
        """The spool has it."""
        self._leaving.discard(job)
        self.remove(job)

    def is_leaving(self, job: Job) -> bool:
        """Whether it is on its way back."""
        return job in self._leaving

    def new_of(self, lease: Lease) -> Lease:
        """The lease without recipients that have a job here.

        Those were leased again because the clock has jumped, or the machine has slept: their jobs have the time of the
        new lease. Those that are on their way back go by the old one, which has ended: they have no job.
        """
        held: set[int] = set()
        leased = {one.number for one in lease.recipients}
        for job in self._jobs.get(lease.envelope.queue_id, ()):
            if job in self._leaving:
                continue
            again = leased.intersection(one.number for one in job.recipients)
            if again:
                job.lease = replace(job.lease, until=lease.until)
                held |= again
        if not held:
            return lease
        return replace(lease, recipients=tuple(one for one in lease.recipients if one.number not in held))
