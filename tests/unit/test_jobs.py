"""Queues of jobs: order, limit, pauses, and the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from mailgate.config.schema import RetrySection
from mailgate.envelope import MailParameters
from mailgate.interfaces import OutcomeKind
from mailgate.relay.ready.job import LedJob
from mailgate.relay.ready.jobs import LEASE_MARGIN, LEASE_TIME, Job, JobQueue
from mailgate.relay.ready.line import Room
from mailgate.relay.ready.local import LocalQueue
from tests.unit.relaying import LATER, OK, LocalHop, NextHop, failures_logged, lease, results

RETRY = RetrySection()


class Owner:
    def __init__(self) -> None:
        self.room = Room(10_000)
        self.done: list[Job] = []
        self.returned: list[Job] = []
        self.empty = 0

    def finished(self, job: Job, retry: RetrySection) -> None:
        assert retry is RETRY
        self.done.append(job)

    def no_room(self, job: Job, queue: JobQueue) -> None:
        raise AssertionError("there is no backlog here")

    def hungry(self, queue: JobQueue) -> None:
        raise AssertionError("there is no backlog here")

    def unbegun(self, job: Job) -> None:
        self.returned.append(job)

    def emptied(self, queue: JobQueue) -> None:
        self.empty += 1


class Bench:
    """A queue whose jobs end when the test says so."""

    def __init__(self, limit: int = 2) -> None:
        self.clock = Clock()
        self.owner = Owner()
        self.hop = NextHop()
        self.queue = LocalQueue("local", LocalHop(self.hop), self.clock, self.owner, RETRY)
        self.queue.limit = limit
        self.running: list[tuple[Deferred[Any], Any]] = []
        self.hop.answer = self._wait

    def _wait(self, connection: object, recipients: Any) -> Deferred[Any]:
        waited: Deferred[Any] = Deferred()
        self.running.append((waited, recipients))
        return waited

    def add(self, *names: str, until: float | None = None, **more: Any) -> list[Job]:
        jobs = [self.job(name, until, **more) for name in names]
        for job in jobs:
            assert self.queue.add(job)
        return jobs

    def job(self, name: str, until: float | None = None, **more: Any) -> Job:
        one = lease(f"{name}@d.test", until=self.clock.seconds() + LEASE_TIME if until is None else until, **more)
        return Job(one, one.recipients, "out")

    def end(self, reply: Any = OK) -> None:
        waited, recipients = self.running.pop(0)
        waited.callback(results(recipients, reply))

    @property
    def done(self) -> list[str]:
        return [str(job.recipients[0].address.local_part) for job in self.owner.done]


def test_jobs_begin_in_order_and_no_more_than_the_limit() -> None:
    bench = Bench(limit=2)
    bench.add("a", "b", "c", "d")
    assert bench.hop.taken == ["a@d.test", "b@d.test"]
    assert bench.queue.active == 2
    bench.end()
    assert bench.hop.taken == ["a@d.test", "b@d.test", "c@d.test"]
    while bench.running:
        bench.end(LATER)
    assert bench.done == ["a", "b", "c", "d"]
    assert [one.kind for job in bench.owner.done for one in job.results] == [OutcomeKind.DELIVERED] + 3 * [
        OutcomeKind.DEFERRED
    ]
    assert bench.queue.active == 0
    assert bench.owner.empty >= 1


def test_a_higher_priority_goes_first_and_equals_in_order() -> None:
    bench = Bench(limit=1)
    bench.add("first")
    for name, priority in (("a", None), ("low", -3), ("b", 0), ("high", 4), ("c", None), ("higher", 9), ("high2", 4)):
        bench.add(name, parameters=MailParameters(priority=priority))
    while bench.running:
        bench.end()
    assert bench.done == ["first", "higher", "high", "high2", "a", "b", "c", "low"]
    assert bench.queue.is_empty()
    bench.queue.pause()
    jobs = bench.add("low", parameters=MailParameters(priority=-9)) + bench.add("plain")
    assert bench.queue.line.count == 2
    assert not bench.queue.is_empty()
    assert set(bench.queue.stop()) == set(jobs)
    assert bench.queue.is_empty()


def test_what_is_to_come_back_by_now_is_not_attempted() -> None:
    bench = Bench(limit=1)
    bench.add("a")
    bench.add("b", parameters=MailParameters(deliver_by=10.0, by_mode="R"))
    bench.add("c", parameters=MailParameters(deliver_by=10.0, by_mode="N"))
    bench.add("d", parameters=MailParameters(deliver_by=11.0, by_mode="R"))
    bench.clock.advance(10.0)
    while bench.running:
        bench.end()
    assert bench.hop.taken == ["a@d.test", "c@d.test", "d@d.test"]
    (late,) = bench.owner.done[1].results
    assert (late.kind, str(late.reply)) == (OutcomeKind.FAILED, "554 5.4.7 Delivery time expired")


def test_a_queue_is_told_empty_only_when_it_is() -> None:
    bench = Bench()
    bench.add("a", "b", "c")
    bench.end()
    bench.end()
    assert bench.owner.empty == 0
    bench.end()
    assert bench.owner.empty == 1


def test_a_pause_lets_what_is_under_way_end_and_begins_nothing() -> None:
    bench = Bench(limit=1)
    bench.add("a", "b")
    bench.queue.pause()
    bench.end()
    bench.add("c")
    assert bench.done == ["a"]
    assert bench.hop.taken == ["a@d.test"]
    bench.queue.go_on()
    bench.end()
    bench.end()
    assert bench.done == ["a", "b", "c"]


def test_stop_gives_back_what_waits() -> None:
    bench = Bench(limit=1)
    first, *waiting = bench.add("a", "b", "c")
    assert bench.queue.stop() == waiting
    assert bench.owner.done == []
    bench.end()
    assert bench.owner.done == [first]
    assert bench.owner.empty == 1
    assert bench.queue.stop() == []


def test_cancelling_defers_what_is_under_way() -> None:
    bench = Bench(limit=2)
    bench.add("a", "b", "c")
    bench.queue.stop()
    bench.queue.cancel()
    assert bench.done == ["a", "b"]
    for job in bench.owner.done:
        (result,) = job.results
        assert (result.kind, result.reply.status) == (OutcomeKind.DEFERRED, "4.3.2")
    assert bench.queue.active == 0


def test_what_has_waited_for_most_of_its_lease_is_not_begun() -> None:
    bench = Bench(limit=1)
    bench.add("a")
    (late,) = bench.add("b")
    bench.clock.advance(LEASE_TIME - LEASE_MARGIN + 1)
    (fresh,) = bench.add("c")
    bench.end()
    assert bench.owner.returned == [late]
    assert bench.hop.taken == ["a@d.test", "c@d.test"]
    bench.end()
    assert bench.owner.done[-1] is fresh


def test_an_attempt_does_not_outlast_its_lease() -> None:
    """A next hop that dawdles keeps a message no longer than its lease lasts: then another may have it."""
    bench = Bench(limit=2)
    bench.add("a")
    bench.clock.advance(LEASE_MARGIN)
    bench.add("b")
    for _ in range(9):
        bench.clock.advance(300)
        bench.queue.cut_overdue()
    assert bench.done == []
    bench.clock.advance(300)
    bench.queue.cut_overdue()
    assert bench.done == ["a"]
    (result,) = bench.owner.done[0].results
    assert result.kind is OutcomeKind.DEFERRED
    assert bench.clock.seconds() < bench.owner.done[0].lease.until
    assert bench.queue.active == 1


def test_a_fault_of_the_transport_defers_and_goes_on() -> None:
    bench = Bench(limit=1)
    bench.add("a", "b")
    waited, _ = bench.running.pop()
    with failures_logged() as logged:
        waited.errback(ZeroDivisionError("a bug"))
    (result,) = bench.owner.done[0].results
    assert (result.kind, result.reply.code) == (OutcomeKind.DEFERRED, 451)
    assert "a bug" in result.reason
    assert "a bug" not in result.reply.text
    bench.end()
    assert bench.done == ["a", "b"]
    assert logged == ["a bug"]


def test_a_transport_that_raises_defers_and_goes_on() -> None:
    bench = Bench(limit=1)

    def broken(connection: object, recipients: Any) -> Any:
        bench.hop.answer = bench._wait
        raise ZeroDivisionError("a bug")

    bench.hop.answer = broken
    with failures_logged() as logged:
        bench.add("a", "b")
    assert bench.done == ["a"]
    assert bench.queue.active == 1
    bench.end()
    assert bench.done == ["a", "b"]
    assert logged == ["a bug"]


@pytest.mark.parametrize("answer", [results, lambda recipients: succeed(results(recipients))])
def test_jobs_that_end_at_once_need_no_stack(answer: Callable[[Any], Any]) -> None:
    """Ten thousand that waited for the disk, say, and whose transport has nothing to wait for."""
    bench = Bench(limit=1)
    bench.queue.pause()
    for number in range(10_000):  # each from a sender of its own
        bench.queue.line.add(bench.job(str(number), sender=f"s{number}@client.test"))
    bench.hop.answer = lambda connection, recipients: answer(recipients)
    bench.queue.go_on()
    assert len(bench.done) == 100  # and not all of them in one turn of the reactor
    for _ in range(99):
        bench.clock.advance(0)
    assert bench.done == [str(number) for number in range(10_000)]
    assert bench.queue.active == 0


def test_settling_gives_each_of_the_remaining_one_result() -> None:
    one = lease("a@d.test", "b@d.test", "c@d.test")
    job = Job(one, one.recipients, "out", remaining=one.recipients[1:])
    job.settle(OutcomeKind.DEFERRED, LATER, "mx", "why")
    assert [(result.recipient.number, result.reply, result.host, result.reason) for result in job.results] == [
        (1, LATER, "mx", "why"),
        (2, LATER, "mx", "why"),
    ]
    job.settle(OutcomeKind.FAILED, LATER, "mx", "again")
    assert len(job.results) == 2


# -- jobs that clients wait for


def led(bench: Bench, name: str) -> LedJob:
    job = bench.job(name)
    return LedJob(job.lease, job.recipients, "out")


def test_what_a_client_waits_for_comes_before_all_others() -> None:
    bench = Bench(limit=1)
    bench.add("a", "b", parameters=MailParameters(priority=9))
    waiting = led(bench, "led")
    assert bench.queue.add(waiting)
    bench.end()
    assert bench.queue.has(waiting)


def test_it_has_room_however_many_wait() -> None:
    bench = Bench(limit=1)
    bench.add("a", "b")
    bench.owner.room.taken = bench.owner.room.most
    assert not bench.queue.add(bench.job("c"))
    assert bench.queue.add(led(bench, "led"))


def test_one_that_nobody_waits_for_any_more_is_withdrawn() -> None:
    bench = Bench(limit=1)
    waiting, running = led(bench, "waiting"), led(bench, "running")
    bench.queue.add(running)
    bench.queue.add(waiting)
    bench.queue.withdraw(waiting)
    assert bench.owner.returned == [waiting]
    bench.queue.withdraw(waiting)
    assert bench.queue.line.count == 0
