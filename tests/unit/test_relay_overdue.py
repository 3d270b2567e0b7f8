"""Mail that waits for what is no attempt: its sender is told that it is late, and gets it back in time."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.events import Bounced, Delivered, Reported
from mailgate.events import Deferred as DeferredEvent
from mailgate.interfaces import Selector, Suspended
from mailgate.testing import wait_for
from tests.unit.relaying import LATER, results
from tests.unit.test_relay_orders import SOURCES, resume, suspend
from tests.unit.test_relay_service import ROUTES, Bench

HOUR = 3600.0
RETRY: dict[str, Any] = {"retry": {"warn": "1h", "expire": "2h"}}
SHORT: dict[str, Any] = ROUTES | {"internet": ROUTES["internet"] | RETRY, "out": ROUTES["out"] | RETRY}
ONE_AN_HOUR = {"slow": {"domains": ["c.test"], "message_rate": "1/h"}}


def told(bench: Bench) -> list[tuple[str, ...]]:
    """Of whom senders have heard that their mail is late."""
    return [event.recipients for event in bench.events.of(Reported) if event.kind == "delayed"]


def run(bench: Bench, seconds: float, step: float = 60.0) -> None:
    for _ in range(int(seconds / step)):
        bench.pump(step)


def test_who_waits_for_a_rate_is_warned_once_and_returned_in_time() -> None:
    bench = Bench(routes=SHORT, shaping=ONE_AN_HOUR)
    for number in range(10):
        bench.accept(f"u{number}@c.test", route="internet")
    run(bench, HOUR - 300)
    assert told(bench) == []
    run(bench, 600)
    waiting = [one for one in bench.view(domain="c.test") if one.state == "leased"]
    assert sorted(told(bench)) == sorted((one.recipient,) for one in waiting)
    assert {one.attempts for one in waiting} == {0}
    run(bench, HOUR)
    assert bench.view() == []
    assert bench.relay.room.taken == 0
    assert len(told(bench)) == len(waiting)
    delivered = [event for event in bench.events.of(Delivered) if event.recipient.endswith("@c.test")]
    bounced = bench.events.of(Bounced)
    assert len(delivered) + len(bounced) == 10
    assert {(event.attempt, event.reply, event.report != "") for event in bounced} == {
        (0, "554 5.4.7 Delivery time expired", True)
    }
    assert all("messages a" in event.reason for event in bounced)


def test_nobody_hears_of_a_delay_who_does_not_want_to() -> None:
    bench = Bench(routes=SHORT, shaping=ONE_AN_HOUR)
    for number in range(4):
        bench.accept(f"u{number}@c.test", route="internet", sender="")
    run(bench, 1.5 * HOUR)
    assert told(bench) == []
    assert bench.hop.taken != []
    assert all(one.endswith("@c.test") for one in bench.hop.taken)


def test_a_warning_that_the_spool_refuses_is_tried_again() -> None:
    bench = Bench(routes=SHORT, shaping=ONE_AN_HOUR)
    for number in range(3):
        bench.accept(f"u{number}@c.test", route="internet")
    run(bench, HOUR - 300)
    bench.spool.refuses = {"record"}
    run(bench, 300)
    bench.spool.refuses = set()
    assert told(bench) == []
    run(bench, 600)
    assert 1 <= len(told(bench)) <= 2
    assert {one.state for one in bench.view()} == {"leased"}


@pytest.mark.parametrize(
    ("kind", "name"), [("route", "internet"), ("domain", "c.test"), ("site", "other.test"), ("sender", "client.test")]
)
def test_what_is_suspended_is_returned_when_its_time_is_over(kind: Suspended, name: str) -> None:
    bench = Bench(routes=SHORT)
    suspend(bench, kind, name)
    bench.accept("x@c.test", route="internet")
    run(bench, 1.5 * HOUR)
    assert told(bench) == [("x@c.test",)]
    assert [one.attempts for one in bench.view(domain="c.test")] == [0]
    run(bench, HOUR)
    (event,) = bench.events.of(Bounced)
    assert (event.recipient, event.attempt) == ("x@c.test", 0)
    assert f"suspended: {kind} {name}" in event.reason
    assert bench.view(domain="c.test") == []
    assert told(bench) == [("x@c.test",)]
    assert bench.relay.room.taken == 0


def test_a_suspension_that_ends_in_time_returns_nothing() -> None:
    bench = Bench(routes=SHORT)
    suspend(bench, "domain", "c.test")
    bench.accept("x@c.test", route="internet")
    run(bench, 1.9 * HOUR)
    resume(bench, "domain", "c.test")
    assert "x@c.test" in bench.hop.taken
    assert bench.events.of(Bounced) == []


def test_what_a_warm_up_keeps_back_is_returned_when_its_time_is_over() -> None:
    warm_up = {"start": "1970-01-12", "first": 1, "factor": 2.0}
    sources = {"one": {"address": "192.0.2.1", "warm_up": warm_up}}
    routes = SHORT | {"internet": SHORT["internet"] | {"pool": "pool"}}
    bench = Bench(**(SOURCES | {"routes": routes, "sources": sources, "pools": {"pool": {"sources": {"one": 1}}}}))
    for number in range(2):
        bench.accept(f"u{number}@c.test", route="internet")
    run(bench, 2.1 * HOUR)
    assert [(event.recipient, event.attempt) for event in bench.events.of(Bounced)] == [("u1@c.test", 0)]


def test_whose_time_is_over_already_has_one_attempt_where_it_is_its_turn() -> None:
    bench = Bench(routes=SHORT)
    bench.put("x@c.test", route="internet", received=bench.clock.seconds() - 10 * HOUR)
    bench.relay.look()
    bench.pump()
    assert bench.hop.taken == ["x@c.test"]
    assert [event.attempt for event in bench.events.of(Delivered)] == [1]


def test_attempts_are_told_as_they_were_made() -> None:
    bench = Bench()
    bench.hop.answer = lambda connection, recipients: results(recipients, LATER)
    bench.accept("x@c.test", route="internet")
    bench.pump()
    wait_for(Deferred.fromCoroutine(bench.relay.bounce(Selector())))
    assert [event.attempt for event in bench.events.of(DeferredEvent)] == [1]
    assert [event.attempt for event in bench.events.of(Bounced)] == [1]
