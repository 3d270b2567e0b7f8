"""Nobody starves: neither those who wait in the spool, nor those who come, nor the relay by asking for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from mailgate.address import Address
from mailgate.envelope import EnvelopeRecipient
from mailgate.interfaces import Destination, Return, Suspension
from mailgate.relay.backlog import Backlogs
from mailgate.relay.fairness import Tags
from mailgate.relay.leasing import Leasing
from mailgate.relay.memory import Jobs
from mailgate.relay.ready.job import Job
from mailgate.testing import MemoryResolver, wait_for
from tests.unit.relaying import LATER, Connection, lease, results
from tests.unit.test_relay_orders import SOURCES
from tests.unit.test_relay_service import ROUTES, ZONE, Bench, Spool
from tests.unit.test_relay_turns import Slow


class LateDns(MemoryResolver):
    """Answers for the MX of c.test after so many seconds."""

    def __init__(self, bench: Bench, seconds: float) -> None:
        super().__init__(ZONE)
        self.clock = bench.clock
        self.seconds = seconds

    def resolve(self, name: str, rdtype: str) -> Any:
        answer = super().resolve(name, rdtype)
        if (name, rdtype) != ("c.test", "MX"):
            return answer
        waited: Deferred[Any] = Deferred()
        self.clock.callLater(self.seconds, waited.callback, answer)
        return waited


class SlowWriter(Spool):
    """Takes leases back after `seconds`."""

    seconds = 0.0

    def release_leases(self, returns: Sequence[Return]) -> Deferred[None]:
        written: Deferred[None] = Deferred()
        give_back = super().release_leases
        self._clock.callLater(self.seconds, lambda: give_back(returns).chainDeferred(written))
        return written


def take_after(bench: Bench, seconds: float) -> dict[str, float]:
    """From now on every transaction takes so long; when each recipient was taken."""
    taken: dict[str, float] = {}

    def answer(connection: Connection, recipients: Sequence[EnvelopeRecipient]) -> Deferred[Any]:
        waited: Deferred[Any] = Deferred()

        def end() -> None:
            taken.update((str(one.address), bench.clock.seconds()) for one in recipients)
            waited.callback(results(recipients))

        bench.clock.callLater(seconds, end)
        return waited

    bench.hop.answer = answer
    return taken


def count_rounds(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each round of the leasing, which ends after some, so that a test of a busy loop ends too."""
    rounds: list[None] = []
    ask = Leasing._ask

    async def counted(leasing: Leasing) -> None:
        rounds.append(None)
        leasing.is_running = len(rounds) < 50
        await ask(leasing)

    monkeypatch.setattr(Leasing, "_ask", counted)
    return rounds


# -- the relay asks only where there may be an answer


def test_a_full_memory_waits_for_room_and_asks_nothing_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Slow(spool={"max_active": 100})
    bench.hold()
    zone: dict[tuple[str, str], Any] = {}
    for number in range(150):
        zone[f"d{number}.test", "MX"] = [(10, f"mx{number}.test")]
        zone[f"mx{number}.test", "A"] = [ip_address(f"10.0.0.{number}")]
    bench.ask(MemoryResolver(zone))
    for number in range(150):
        bench.put(f"u@d{number}.test", route="internet", sender=f"s{number}@client.test")
    rounds = count_rounds(monkeypatch)
    bench.relay.look()
    bench.pump(1.0)
    assert bench.relay.room.taken == 100
    assert len(rounds) < 5
    while bench.held:
        bench.release()
        bench.pump()
    assert len(bench.hop.taken) == 150


def test_a_spool_that_cannot_write_is_not_asked_for_turns_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    queue_id = bench.put("x@c.test", route="internet")
    (entry,) = bench.spool._stored[queue_id].entries.values()
    entry.state, entry.due = "turn", bench.clock.seconds() + 600
    bench.spool.refuses = {"record"}
    bench.accept("bob@a.test")
    bench.relay._backlogs.add([Destination("internet", "c.test")])
    rounds = count_rounds(monkeypatch)
    bench.relay.look()
    bench.pump(1.0)
    assert len(rounds) < 5
    bench.spool.refuses = set()
    for _ in range(10):
        bench.pump(5.0)
    assert len(bench.view()) == 0


def test_returns_that_the_spool_refuses_keep_their_turns() -> None:
    bench = Slow(spool={"max_active": 100})
    bench.crowd(50)
    bench.run(5)
    bench.spool.refuses = {"give back"}
    bench.crowd(250, "v")
    bench.run(1)
    assert bench.relay.room.taken > 90  # they are not forgotten
    bench.spool.refuses = set()
    bench.run(310)
    assert len(bench.view()) == 0
    assert len(bench.hop.taken) == 300


def test_turns_of_which_nobody_knows_come_by_themselves() -> None:
    bench = Slow(spool={"max_active": 100})
    bench.crowd(200)
    bench.pump()
    bench.relay._backlogs.forget(lambda destination: True)
    bench.run(60)
    left = len(bench.view())
    assert left > 100
    bench.run(1000)
    assert len(bench.view()) == 0


def test_a_return_that_is_under_way_when_its_backlog_is_forgotten_parks_nothing_for_ever() -> None:
    bench = Slow(spool={"max_active": 100})
    bench.crowd(300)
    bench.pump()
    bench.spool.__class__ = SlowWriter
    bench.spool.seconds = 0.03  # type: ignore[attr-defined]
    bench.accept("late@c.test", route="internet", sender="s1@client.test")
    bench.clock.advance(0)
    site = Suspension(kind="site", name="other.test", since=0.0)
    wait_for(bench.spool.suspend(site))
    Deferred.fromCoroutine(bench.relay.apply_suspensions())
    for _ in range(30):
        bench.pump(0.005)
    bench.spool.seconds = 0.0  # type: ignore[attr-defined]
    bench.run(40)
    assert bench.relay._backlogs.full == set()  # nothing is fetched that is to wait
    wait_for(bench.spool.resume("site", "other.test"))
    wait_for(Deferred.fromCoroutine(bench.relay.apply_suspensions()))
    bench.run(1000)
    assert len(bench.view()) == 0


def test_what_a_jump_of_the_clock_has_leased_anew_is_delivered_though_it_was_given_back() -> None:
    bench = Slow(spool={"max_active": 100})
    bench.crowd(60)
    bench.run(3)
    bench.spool.__class__ = SlowWriter
    bench.spool.seconds = 0.01  # type: ignore[attr-defined]
    bench.clock.rightNow += 3 * 3600.0
    bench.relay.look()
    bench.run(100)
    assert len(bench.view()) == 0
    assert bench.relay.room.taken == 0


def test_a_lease_of_other_recipients_of_a_message_changes_no_job_of_it() -> None:
    jobs = Jobs(10, lambda: None)
    first, later = lease("a@d.test", "b@d.test", "c@d.test", until=7200.0), 9000.0
    one, two, gone = (Job(first, (recipient,), "out") for recipient in first.recipients)
    for job in (one, two, gone):
        jobs.add(job)
    jobs.leaving(gone)
    again = replace(first, recipients=first.recipients[1:], until=later)
    assert jobs.new_of(again).recipients == first.recipients[2:]  # the only one of which there is no job to go on with
    assert [job.lease.until for job in (one, two, gone)] == [7200.0, later, 7200.0]
    jobs.left(gone)
    assert jobs.room.taken == 2
    assert jobs.new_of(again).recipients == first.recipients[2:]


# -- destinations and sources


def test_a_domain_whose_mail_goes_elsewhere_now_does_not_wait_for_its_old_site() -> None:
    bench = Slow(spool={"max_active": 1000})
    bench.crowd(900)
    bench.run(5)
    in_spool = [one.recipient for one in bench.view() if one.waits]
    assert len(in_spool) > 100

    def answer(connection: Connection, recipients: Sequence[EnvelopeRecipient]) -> Any:
        return Deferred() if connection.target.address == "192.0.2.11" else results(recipients)

    bench.hop.answer = answer
    bench.ask(MemoryResolver(ZONE | {("c.test", "MX"): [(10, "mx.test")]}))
    bench.accept("new@c.test", route="internet", sender="new@client.test")
    bench.run(30)
    assert {"new@c.test", *in_spool} <= set(bench.hop.taken)


def test_a_list_of_many_domains_goes_by_a_smarthost_in_large_pieces_and_singles_go_between() -> None:
    bench = Bench(routes={"out": ROUTES["out"] | {"connections": 2}}, spool={"max_active": 200})
    taken = take_after(bench, 0.2)
    for number in range(400):
        bench.accept(f"w{number}@w.test", sender="warm@client.test")
    bench.put(*(f"u{number}@d{number % 1000}.test" for number in range(2000)), sender="list@client.test")
    bench.relay.look()
    bench.pump(0.1)
    assert bench.relay.full == {Destination("out", "")}
    assert Destination("out", "any.test") in bench.relay.full
    assert Destination("internet", "any.test") not in bench.relay.full
    sent = bench.clock.seconds()
    for number in range(6):
        bench.accept(f"bob@e{number}.test", sender="bob@client.test")
    for _ in range(400):
        bench.pump(0.2)
    assert len(bench.view()) == 0
    assert len(bench.hop.asked) < 600  # transactions
    assert max(taken[f"bob@e{number}.test"] for number in range(6)) < sent + 10


@pytest.mark.parametrize(("before", "after"), [({"hosts": ["192.0.2.1"]}, {}), ({}, {"hosts": ["192.0.2.1"]})])
def test_a_reload_that_makes_a_route_go_by_domain_or_no_more_loses_no_turn(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    plain = {"transport": "smtp", "connections": 1}
    bench = Bench(routes={"internet": plain | before}, spool={"max_active": 100})
    take_after(bench, 0.5)
    for number in range(200):
        bench.accept(f"u{number}@{'ac'[number % 2]}.test", route="internet", sender=f"s{number}@client.test")
    bench.pump()
    bench.reload(routes={"internet": plain | after}, spool={"max_active": 100})
    domains = {one.domain for one in bench.relay.full}
    for _ in range(240):
        bench.pump(0.5)
    assert domains <= ({""} if after else {"a.test", "c.test"})
    assert len(bench.view()) == 0


def many_from(bench: Bench, number: int) -> None:
    for one in range(number):
        bench.put(f"u{one}@c.test", route="internet", sender=f"s{one % 50}@client.test")
    bench.relay.look()


def test_a_source_that_is_slow_does_not_slow_the_others_of_its_pool() -> None:
    bench = Bench(**SOURCES, shaping={"slow": {"sources": ["two"], "message_rate": "6/m"}}, spool={"max_active": 300})
    take_after(bench, 0.1)
    many_from(bench, 2000)
    for _ in range(240):
        bench.pump(0.5)
    sent = Counter(source.name for source in bench.hop.sources)
    assert sent["one"]
    assert len(bench.view()) < 100


def test_retries_that_wait_for_their_source_let_first_attempts_pass() -> None:
    slow = {"slow": {"sources": ["two"], "message_rate": "60/h"}}
    bench = Bench(**SOURCES, shaping=slow, spool={"max_active": 300})
    for number in range(2000):
        queue_id = bench.put(f"r{number}@c.test", route="internet", sender=f"s{number % 90}@client.test")
        for entry in bench.spool._stored[queue_id].entries.values():
            entry.source, entry.attempts, entry.state, entry.turn = "two", 1, "turn", 1.0
            entry.due = bench.clock.seconds() + 1e6
    taken = take_after(bench, 0.1)
    wait_for(Deferred.fromCoroutine(bench.relay.apply_suspensions()))  # reads what waits
    for _ in range(20):
        bench.pump(0.5)
    many_from(bench, 300)
    for _ in range(240):
        bench.pump(0.5)
    assert sum(one.startswith("u") for one in taken) > 250
    asked = len(bench.spool.asked)
    bench.pump(30.0)
    assert len(bench.spool.asked) < asked + 20  # what only waits for its source is not asked for again and again
    assert bench.relay.room.taken < 200


def test_a_deferred_recipient_keeps_its_source_at_its_retry() -> None:
    bench = Bench(**SOURCES)
    bench.hop.answer = lambda connection, recipients: results(recipients, LATER)
    for number in range(20):
        bench.accept(f"u{number}@c.test", route="internet")
    bench.pump()
    first = {one.recipient: one.source for one in bench.view()}
    bench.pump(700.0)
    assert {one.recipient: one.source for one in bench.view()} == first
    assert set(first.values()) == {"one", "two"}


# -- what has been fetched, what comes, and what is not known


def test_a_domain_with_slow_dns_does_not_take_all_memory() -> None:
    bench = Bench(spool={"max_active": 500})
    taken = take_after(bench, 0.05)
    for number in range(3000):
        bench.put(f"u{number}@c.test", route="internet", sender=f"s{number % 90}@client.test")
    bench.relay.look()
    for _ in range(40):
        bench.pump(0.1)
    dns = LateDns(bench, 20.0)
    bench.ask(dns)
    for number in range(60):
        sent = bench.clock.seconds()
        bench.accept(f"q{number}@a.test", route="internet", sender="bob@client.test")
        for _ in range(5):
            bench.pump(0.1)
        assert taken[f"q{number}@a.test"] - sent < 0.5
    assert bench.relay.room.taken < 500
    dns.seconds = 0.0
    for _ in range(300):
        bench.pump(1.0)
    assert len(bench.view()) == 0


def test_a_stream_of_new_senders_takes_no_more_than_half() -> None:
    bench = Slow(spool={"max_active": 500})
    bench.crowd(600, "old")
    bench.pump()
    for second in range(1100):
        bench.accept(f"new{second}@c.test", route="internet", sender=f"n{second}@client.test")
        bench.run(1)
    assert sum(one.startswith("old") for one in bench.taken_at) == 600
    assert sum(one.startswith("new") for one in bench.taken_at) > 400


def test_a_sender_begins_anew_when_nothing_waits_any_more() -> None:
    bench = Slow(spool={"max_active": 100})
    bench.crowd(1500, sender="shop@client.test")
    bench.pump()
    bench.hop.answer = lambda connection, recipients: results(recipients)
    bench.run(30)
    assert len(bench.view()) == 0
    shop = Address("shop", "client.test")
    tags = bench.relay._backlogs.tags
    now = bench.clock.seconds()
    assert tags.next(Destination("internet", "c.test"), shop, 1, now) == now


def test_tags_of_many_senders_are_forgotten_one_by_one() -> None:
    tags, here, there = Tags(), Destination("out", "a.test"), Destination("out", "b.test")
    for number in range(60_000):
        tags.next(there if number % 2 else here, Address(f"u{number}", "s.test"), 1, 5.0)
    assert tags.next(here, Address("u0", "s.test"), 1, 5.0) == 5.0  # forgotten
    assert tags.next(here, Address("u59998", "s.test"), 1, 5.0) == 6.0
    tags.forget(here)
    tags.forget(here)
    assert tags.next(here, Address("u59998", "s.test"), 1, 5.0) == 5.0
    assert tags.next(there, Address("u59999", "s.test"), 1, 5.0) == 6.0


# -- the parts


class Queue:
    """A ready queue that takes whatever it is given."""

    has_backlog = True
    appetite = 50

    def __init__(self, source: str = "", *, is_hungry: bool = True) -> None:
        self.source = source
        self.is_hungry = is_hungry


@pytest.fixture
def backlogs() -> Any:
    return Backlogs()


def test_a_destination_of_no_queue_is_asked_beside_any_number_of_hungry_ones(backlogs: Any) -> None:
    queues = [Queue() for _ in range(40)]
    for number, queue in enumerate(queues):
        backlogs.returned(backlogs.returning(Destination("out", f"b{number}"), queue))
    quiet = Destination("out", "quiet")
    backlogs.add([quiet])
    asked: Counter[str] = Counter()
    for second in range(100):
        for queue in queues:
            backlogs.hungry(queue)
        asked.update(one.destination.domain for one in backlogs.requests(32, 10_000, float(second)))
    assert asked["quiet"] == 100
    assert min(asked[f"b{number}"] for number in range(40)) > 50


def test_a_backlog_that_had_no_place_is_not_owed_anything(backlogs: Any) -> None:
    here = Destination("out", "here")
    backlogs.add(Destination("out", f"d{number}") for number in range(100_000))
    assert backlogs.returning(here, None) is None  # it comes due by itself
    backlogs.forget(lambda one: one.domain == "d7")
    backlogs.add([here])
    found = backlogs.returning(here, None)
    backlogs.returned(found)
    assert (found.returning, found.returned) == (0, 1)


def test_what_returns_to_a_backlog_that_is_gone_is_found_by_the_next(backlogs: Any) -> None:
    here = Destination("out", "here")
    old = backlogs.returning(here, None)
    backlogs.forget(lambda one: True)
    backlogs.add([here])
    (request,) = backlogs.requests(32, 100, 0.0)
    backlogs.returned(old)
    backlogs.exhausted(request)
    assert here in backlogs.full  # the answer was older
    (request,) = backlogs.requests(32, 100, 1.0)
    backlogs.exhausted(request)
    assert backlogs.full == set()


def test_a_backlog_belongs_to_one_queue_of_each_source(backlogs: Any) -> None:
    here = Destination("out", "here")
    old, new, other = Queue("one"), Queue("one"), Queue("two", is_hungry=False)
    backlogs.returned(backlogs.returning(here, old))
    backlogs.returned(backlogs.returning(here, other))
    backlogs.returned(backlogs.returning(here, new))
    assert (old.has_backlog, new.has_backlog, other.has_backlog) == (False, True, True)
    (request,) = backlogs.requests(32, 100, 0.0)
    assert request.without == ("two",)
    backlogs.exhausted(request)
    assert (new.has_backlog, other.has_backlog) == (False, True)  # what is there waits for the other
    assert here in backlogs.full
    assert backlogs.requests(32, 100, 1.0) == []
    other.is_hungry = True
    backlogs.hungry(other)
    (request,) = backlogs.requests(32, 100, 1.0)
    assert request.without == ()
    backlogs.forget_queue(other)
    (request,) = backlogs.requests(32, 100, 1.0)
    assert request.amount == 20
    backlogs.exhausted(request)
    assert backlogs.full == set()


def test_what_is_on_its_way_counts_and_is_not_asked_for_twice(backlogs: Any) -> None:
    here, queue = Destination("out", "here.test"), Queue()
    backlogs.returned(backlogs.returning(here, queue))
    one = lease("x@here.test")
    jobs = [Job(one, one.recipients, "out", in_turn=True) for _ in range(50)]
    for job in jobs:
        backlogs.coming(job)
    assert backlogs.requests(32, 1000, 0.0) == []
    assert not backlogs.wants
    for job in jobs[:30]:
        assert backlogs.arrived(job)
    (request,) = backlogs.requests(32, 1000, 0.0)
    assert request.amount == 30
    for job in jobs:
        backlogs.arrived(job)
    assert [one.amount for one in backlogs.requests(32, 1000, 0.0)] == [50]
