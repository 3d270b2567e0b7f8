"""Fairness: what waits for room at a busy destination, in which order, and that it holds up nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.address import Address
from mailgate.envelope import MailParameters
from mailgate.interfaces import Destination
from mailgate.relay.attempt import Result
from mailgate.relay.backlog import Backlogs
from mailgate.relay.fairness import Tags
from mailgate.reply import Reply
from mailgate.testing import Silent
from tests.unit.relaying import Connection, refuse, results
from tests.unit.test_relay_service import ROUTES, Bench

ONE_CONNECTION: dict[str, Any] = {"internet": ROUTES["internet"] | {"connections": 1}}


class Slow(Bench):
    """Everything goes by MX; c.test takes one message a second over one connection, the others are quick."""

    def __init__(self, **more: Any) -> None:
        super().__init__(routes=ONE_CONNECTION, **more)
        self.taken_at: dict[str, float] = {}
        self.hop.answer = self._answer

    def _answer(self, connection: Connection, recipients: Sequence[Any]) -> Any:
        if recipients[0].address.domain != "c.test":
            return self._took(recipients)
        waited: Deferred[list[Result]] = Deferred()
        self.clock.callLater(1.0, lambda: waited.callback(self._took(recipients)))
        return waited

    def _took(self, recipients: Sequence[Any]) -> list[Result]:
        for one in recipients:
            self.taken_at[str(one.address)] = self.clock.seconds()
        return results(recipients)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.pump(1.0)

    def send(self, name: str, sender: str = "ann@client.test", domain: str = "c.test", **more: Any) -> None:
        self.accept(f"{name}@{domain}", route="internet", sender=sender, **more)
        self.pump()

    def crowd(self, number: int, name: str = "u", *, sender: str = "") -> None:
        """So many messages at once, from one sender, or each from a sender of its own."""
        for one in range(number):
            self.accept(f"{name}{one}@c.test", route="internet", sender=sender or f"s{one}@client.test")

    def waited(self, name: str, sent: float, domain: str = "c.test") -> float:
        return self.taken_at[f"{name}@{domain}"] - sent


def test_a_single_message_overtakes_a_large_sender() -> None:
    bench = Slow()
    bench.crowd(1500, sender="list@client.test")
    bench.pump()
    assert bench.relay.sites()[0].backlog
    sent = bench.clock.seconds()
    bench.send("single", "bob@client.test")
    bench.run(4)
    assert bench.waited("single", sent) <= 4


def test_one_that_comes_back_overtakes_those_who_wait_in_the_spool() -> None:
    bench = Slow()
    bench.accept(
        "again@c.test", route="internet", sender="bob@client.test", parameters=MailParameters(release_at=1_000_020.0)
    )
    bench.crowd(1500, sender="list@client.test")
    bench.run(80)
    assert bench.waited("again", 1_000_020.0) < 60


def test_a_destination_that_stalls_holds_up_no_other() -> None:
    bench = Slow(spool={"max_active": 100})
    bench.crowd(500)
    bench.pump()
    for number in range(50):
        bench.send(f"q{number}", domain="a.test")
        assert bench.waited(f"q{number}", bench.clock.seconds(), "a.test") == 0
    assert bench.relay.room.taken <= 100


def test_all_of_a_backlog_is_delivered_and_nothing_waits_for_nothing() -> None:
    bench = Slow(spool={"max_active": 100})
    for number in range(700):
        bench.accept(f"u{number}@c.test", route="internet", sender=f"s{number % 7}@client.test")
    bench.run(705)
    assert len(bench.view()) == 0
    assert len(bench.hop.taken) == len(set(bench.hop.taken)) == 700
    assert bench.relay.room.taken == 0
    assert bench.relay._backlogs.full == set()


def test_what_waited_for_its_turn_at_the_last_stop_has_it_after_the_start() -> None:
    bench = Slow(spool={"max_active": 100})
    bench.crowd(300, sender="list@client.test")
    bench.pump()
    spool, old = bench.spool, bench
    stopped = bench.stop()
    bench.pump(2.0)
    assert stopped.called
    states = {one.state for one in spool._stored["0299Q"].entries.values()}
    assert states == {"turn"}
    bench = Slow(start=False)
    bench.clock.advance(old.clock.seconds() - bench.clock.seconds())
    for queue_id, stored in spool._stored.items():
        bench.spool._stored[queue_id] = stored
    bench.start()
    bench.run(330)
    assert len(bench.view()) == 0
    assert len(bench.hop.taken) == 299


def test_a_message_for_thousands_is_leased_in_pieces_and_singles_go_between() -> None:
    bench = Slow()
    bench.accept(*(f"u{number}@c.test" for number in range(5000)), route="internet", sender="list@client.test")
    bench.pump()
    sent = bench.clock.seconds()
    bench.send("single", "bob@client.test")
    bench.run(60)
    assert bench.waited("single", sent) < 4
    assert len(bench.view()) == 0


def test_a_higher_priority_comes_first_out_of_the_spool_too() -> None:
    bench = Slow(spool={"max_active": 100})
    bench.crowd(400)
    urgent = MailParameters(priority=4)
    bench.pump()
    bench.crowd(150, "low", sender="list@client.test")
    bench.accept("urgent@c.test", route="internet", sender="list@client.test", parameters=urgent)
    sent = bench.clock.seconds()
    bench.run(100)
    assert bench.waited("urgent", sent) < 80  # behind those only who had left the spool before


def test_a_dead_destination_drains_its_backlog_into_deferrals() -> None:
    bench = Slow(spool={"max_active": 100})
    bench.crowd(300)
    bench.pump()
    bench.hop.answer = _lost
    bench.hop.connecting = refuse
    bench.run(10)
    assert {one.attempts for one in bench.view()} == {1}
    assert bench.relay.room.taken == 0


def _lost(connection: Connection, recipients: Sequence[Any]) -> list[Result]:
    connection.is_usable = False
    return results(recipients, Reply.of(451, "4.4.2", "lost"), next_host=True)


def test_a_spool_that_fails_meanwhile_loses_no_turn() -> None:
    bench = Slow(spool={"max_active": 100})
    for number in range(300):
        bench.accept(f"u{number}@c.test", route="internet", sender=f"s{number}@client.test")
        if number == 200:
            bench.pump()
            bench.spool.refuses = {"lease"}
    bench.run(60)
    bench.spool.refuses = set()
    bench.run(320)
    assert len(bench.view()) == 0


def test_a_reload_gives_the_backlog_to_the_new_queues() -> None:
    bench = Slow(spool={"max_active": 100})
    bench.crowd(300)
    bench.pump()
    bench.reload(routes={"internet": ROUTES["internet"] | {"connections": 5}}, spool={"max_active": 100})
    bench.run(120)
    assert len(bench.view()) == 0
    assert len(bench.hop.taken) == len(set(bench.hop.taken)) == 300


def test_each_queue_tells_how_it_stands_and_each_message_why_it_waits() -> None:
    bench = Slow(spool={"max_active": 100})
    bench.crowd(200)
    bench.pump(0.5)
    (site,) = bench.relay.sites()
    assert (site.site, site.route, site.active, site.most, site.connections, site.state) == (
        "other.test",
        "internet",
        1,
        1,
        1,
        "delivering",
    )
    assert site.backlog
    assert site.waiting > 10
    assert bench.relay.waits("0000Q") == {0: "being delivered to other.test since 0 s"}
    second = bench.relay.waits("0001Q")[0]
    assert second == f"1st of {site.waiting} in line for other.test (1 of 1 connections in use)"
    assert bench.relay.waits("0199Q") == {}
    waits = {one.queue_id: one.waits for one in bench.view()}
    assert waits["0199Q"] == "waits for room in memory"
    bench.run(3)
    assert {one.waits for one in bench.view()} == {"", "waits for its turn at other.test", "waits for room in memory"}
    assert bench.relay.waits("nobody") == {}


# -- the parts


def test_tags_of_a_sender_grow_and_those_of_others_do_not() -> None:
    tags, ann, bob = Tags(), Address("ann", "s.test"), Address("bob", "s.test")
    here, there = Destination("out", "a.test"), Destination("out", "b.test")
    assert [tags.next(here, ann, 1, 100.0) for _ in range(3)] == [100.0, 101.0, 102.0]
    assert tags.next(here, bob, 1, 100.0) == 100.0
    assert tags.next(there, ann, 50_000, 100.0) == 100.0
    assert tags.next(there, ann, 1, 100.0, 30.0) == pytest.approx(100.0 + 2501.0, abs=0.1)
    assert tags.next(there, ann, 1, 100.0) == pytest.approx(100.0 + 2531.0, abs=0.1)
    assert tags.next(here, ann, 1, 200.0) == 200.0


def test_backlogs_are_not_without_bound() -> None:
    backlogs = Backlogs()
    backlogs.add(Destination("out", f"d{number}.test") for number in range(150_000))
    assert len(backlogs.full) == 100_000
    requests = backlogs.requests(32, 100, 0.0)
    assert [one.amount for one in requests] == 5 * [20]
    assert len({one.destination for one in requests}) == 5
    for request in requests:
        backlogs.exhausted(request)
    assert len(backlogs.full) == 100_000 - 5


def test_what_comes_back_while_a_backlog_is_asked_is_not_forgotten() -> None:
    backlogs, here = Backlogs(), Destination("out", "d.test")
    backlogs.add([here])
    (request,) = backlogs.requests(32, 100, 0.0)
    backlog = backlogs.returning(here, None)
    backlogs.exhausted(request)
    assert here in backlogs.full
    assert backlogs.requests(32, 100, 5.0) == []  # nothing is there before that has come back
    assert backlogs.next_look is None
    assert backlog is not None
    backlogs.returned(backlog)
    (second,) = backlogs.requests(32, 100, 5.0)
    backlogs.exhausted(request)  # about which it says nothing
    assert here in backlogs.full
    assert backlogs.requests(32, 100, 5.5) == []
    (second,) = backlogs.requests(32, 100, 6.0)
    backlogs.exhausted(second)
    assert here not in backlogs.full


def test_what_is_in_no_queue_has_its_reason_too() -> None:
    bench = Bench()
    bench.ask(Silent())
    bench.accept("x@c.test", route="internet")
    assert bench.relay.waits("0000Q") == {0: "DNS, or a delivery filter, is asked about it"}
    bench = Bench()
    bench.spool.refuses = {"record"}
    bench.accept("x@a.test")
    assert bench.relay.waits("0000Q") == {0: "what became of it is being written"}
