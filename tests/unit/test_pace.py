"""How fast a site is asked, and how it recovers from having said "not so fast"."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.config.schema import RetrySection
from mailgate.events import SiteSlowed
from mailgate.interfaces import ISlots
from mailgate.relay.ready.pace import Pace
from mailgate.relay.replies.limits import Limits, Signal
from mailgate.stores.slots import LocalSlots
from mailgate.testing import EventRecorder

SLOWER = Signal(0.0, 600.0, "too many connections")
REST = Signal(300.0, 600.0, "421")


class Bench:
    def __init__(self, slots: ISlots | None = None, connections: int = 20, **rates: float) -> None:
        self.clock = Clock()
        self.events = EventRecorder()
        self.changes = 0
        self.pace = Pace(
            "out",
            Limits(connections, 100, RetrySection(), **rates),  # type: ignore[arg-type]  # rates only
            site="mx.test",
            source="",
            slots=slots or LocalSlots(self.clock),
            clock=self.clock,
            events=self.events,
            changed=self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    def begun_in(self, seconds: float) -> int:
        """How many messages begin in this time, by someone who asks whenever something has changed."""
        begun, end, changes = 0, self.clock.seconds() + seconds, -1
        while self.clock.seconds() < end:
            if changes != self.changes:
                changes = self.changes
                while self.pace.may_begin():
                    self.pace.begun()
                    begun += 1
            self.clock.advance(0.01)
        return begun


def test_without_a_rate_nothing_is_asked() -> None:
    bench = Bench()
    assert not bench.pace.is_held
    assert (bench.pace.rate, bench.pace.connections) == (0.0, 20)


@pytest.mark.parametrize("rate", [0.5, 2.0, 10.0])
def test_messages_begin_at_their_rate(rate: float) -> None:
    bench = Bench(message_rate=rate)
    assert bench.pace.is_held
    assert bench.begun_in(100) == pytest.approx(100 * rate, abs=rate + 2)
    while bench.pace.may_begin():
        bench.pace.begun()
    told = {0.5: "30 messages a minute", 2.0: "2 messages a second", 10.0: "10 messages a second"}[rate]
    assert bench.pace.hindrance("mx.test").startswith(f"{told} to mx.test: in ")


def test_what_has_been_paid_for_may_begin_later() -> None:
    bench = Bench(message_rate=0.1)
    assert bench.pace.may_begin()
    assert bench.pace.may_begin()
    bench.pace.begun()
    assert not bench.pace.may_begin()
    bench.clock.advance(10)
    assert bench.changes == 1
    assert bench.pace.may_begin()


def test_a_budget_that_others_keep_is_waited_for() -> None:
    answers: list[Deferred[float]] = []

    @implementer(ISlots)
    class Remote:
        def acquire(self, key: str, limit: int, wanted: Callable[[], None]) -> None:
            raise AssertionError("no connections here")

        def release(self, key: str) -> None:
            raise AssertionError("no connections here")

        def spend(self, key: str, rate: float, amount: int = 1) -> Deferred[float]:
            answers.append(Deferred())
            return answers[-1]

    bench = Bench(Remote(), message_rate=1.0)
    assert not bench.pace.may_begin()
    assert not bench.pace.may_begin()
    assert len(answers) == 1
    answers[0].callback(0.0)
    assert bench.changes == 1
    assert bench.pace.may_begin()
    bench.pace.begun()
    assert not bench.pace.may_begin()
    answers[1].callback(3.0)
    assert not bench.pace.may_begin()
    bench.clock.advance(3.0)
    assert bench.pace.may_begin()
    bench.pace.begun()
    assert not bench.pace.may_begin()
    answers[2].errback(RuntimeError("the supervisor has gone"))
    assert bench.changes == 2
    bench.clock.advance(1.0)
    assert bench.changes == 3
    assert not bench.pace.may_begin()
    assert len(answers) == 4


def test_a_site_that_says_so_is_asked_half_and_recovers_step_by_step() -> None:
    bench = Bench(connections=20, message_rate=8.0, connection_rate=2.0)
    bench.clock.advance(1.0)
    bench.pace.slow(SLOWER, 0.5)
    assert (bench.pace.connections, bench.pace.rate, bench.pace.connection_rate) == (10, 4.0, 1.0)
    bench.clock.advance(1.0)
    bench.pace.slow(SLOWER, 1.5)
    assert (bench.pace.connections, bench.pace.rate) == (5, 2.0)
    bench.clock.advance(599)
    assert bench.pace.factor == 0.25
    bench.clock.advance(1)
    assert bench.pace.factor == 0.5
    bench.clock.advance(600)
    assert bench.pace.factor == 1.0
    assert not bench.pace.is_slowed
    assert [event.factor for event in bench.events.of(SiteSlowed)] == [0.5, 0.25, 0.5, 1.0]
    assert {event.reason for event in bench.events.of(SiteSlowed)} == {"too many connections"}
    assert bench.clock.getDelayedCalls() == []


def test_answers_to_what_began_before_the_last_one_are_the_same_answer() -> None:
    bench = Bench()
    bench.clock.advance(10.0)
    for _ in range(20):
        bench.pace.slow(SLOWER, 9.0)
    assert bench.pace.factor == 0.5


def test_a_site_without_a_rate_gets_one() -> None:
    bench = Bench(connections=1)
    for _ in range(4):
        bench.clock.advance(1.0)
        bench.pace.slow(SLOWER, bench.clock.seconds())
    assert bench.pace.connections == 1
    assert 0 < bench.pace.rate < 1.0
    for _ in range(40):
        bench.clock.advance(1.0)
        bench.pace.slow(SLOWER, bench.clock.seconds())
    assert bench.pace.rate > 0


def test_who_is_slowed_says_how_much_why_and_how_long() -> None:
    bench = Bench()
    assert bench.pace.slowed == ""
    for _ in range(2):
        bench.clock.advance(10.0)
        bench.pace.slow(SLOWER, bench.clock.seconds())
    bench.clock.advance(5.0)
    assert bench.pace.slowed == f"slowed to 1/4 by {SLOWER.reason}, for {SLOWER.recovery - 5:.0f} s yet"
    for _ in range(2):
        bench.clock.advance(SLOWER.recovery)
    assert bench.pace.slowed == ""


def test_who_is_slowed_by_what_is_built_in_says_so() -> None:
    bench = Bench()
    bench.clock.advance(10.0)
    bench.pace.slow(Signal(0.0, 60.0, "built in"), 10.0)
    assert bench.pace.slowed == "slowed to 1/2 by a rule that is built in, for 60 s yet"


def test_a_rest_by_a_built_in_rule_says_so() -> None:
    bench = Bench()
    bench.clock.advance(10.0)
    bench.pace.slow(Signal(300.0, 60.0, "built in"), 9.0)
    assert bench.pace.hindrance("mx.test") == "mx.test rests for 300 s: a rule that is built in"


def test_a_rest_is_kept() -> None:
    bench = Bench()
    bench.clock.advance(10.0)
    bench.pace.slow(REST, 9.0)
    assert bench.pace.is_held
    assert not bench.pace.may_begin()
    assert bench.pace.hindrance("mx.test") == "mx.test rests for 300 s: 421"
    assert [event.rests_until for event in bench.events.of(SiteSlowed)] == [310.0]
    changes = bench.changes
    bench.clock.advance(299.0)
    assert bench.changes == changes
    bench.clock.advance(1.0)
    assert bench.changes == changes + 1
    assert bench.pace.may_begin()
    assert bench.pace.hindrance("mx.test") == ""


def test_a_rest_that_is_over_is_forgotten_though_nobody_asks() -> None:
    bench = Bench()
    bench.clock.advance(10.0)
    bench.pace.slow(REST, 9.0)
    bench.clock.advance(REST.rest + REST.recovery)
    assert (bench.pace.factor, bench.pace.is_slowed, bench.pace.is_held) == (1.0, False, False)
    assert [event.rests_until for event in bench.events.of(SiteSlowed)] == [310.0, 0.0]


def test_an_operator_ends_it() -> None:
    bench = Bench()
    bench.clock.advance(10.0)
    bench.pace.slow(REST, 9.0)
    bench.pace.forget()
    assert (bench.pace.factor, bench.pace.may_begin(), bench.pace.is_slowed) == (1.0, True, False)
    assert bench.clock.getDelayedCalls() == []
    events = len(bench.events.events)
    bench.pace.forget()
    assert len(bench.events.events) == events


def test_who_is_slowed_no_more_waits_no_longer_than_others() -> None:
    bench = Bench(message_rate=0.1)
    bench.clock.advance(1)
    bench.pace.slow(SLOWER, bench.clock.seconds())
    assert bench.pace.may_begin()
    bench.pace.begun()
    assert not bench.pace.may_begin()
    assert bench.pace.hindrance("mx.test").startswith("3 messages a minute to mx.test")
    bench.clock.advance(4)
    bench.pace.forget()
    assert not bench.pace.may_begin()  # 16 s were left, of which every second counts twice now
    changes = bench.changes
    bench.clock.advance(7.9)
    assert not bench.pace.may_begin()
    bench.clock.advance(0.2)
    assert bench.changes == changes + 1
    assert bench.pace.may_begin()


def test_who_is_slowed_while_he_waits_waits_longer() -> None:
    bench = Bench(message_rate=0.1)
    bench.clock.advance(1)
    assert bench.pace.may_begin()
    bench.pace.begun()
    assert not bench.pace.may_begin()
    bench.pace.slow(SLOWER, bench.clock.seconds())
    assert not bench.pace.may_begin()
    bench.clock.advance(19.9)
    assert not bench.pace.may_begin()
    bench.clock.advance(0.2)
    assert bench.pace.may_begin()


def test_connections_have_a_rate_of_their_own() -> None:
    bench = Bench(connection_rate=0.5)
    assert bench.pace.is_held
    assert bench.pace.may_begin()
    assert bench.pace.may_connect()
    bench.pace.connecting()
    assert not bench.pace.may_connect()
    assert bench.pace.hindrance("mx.test") == "30 connections a minute to mx.test: in 2 s"
    assert bench.pace.may_begin()
    bench.clock.advance(2)
    assert bench.pace.may_connect()
    bench.pace.connecting()
    bench.pace.connecting()  # that must be, at once
    assert not bench.pace.may_connect()
    bench.clock.advance(2.1)
    assert not bench.pace.may_connect()
    bench.clock.advance(2)
    assert bench.pace.may_connect()
