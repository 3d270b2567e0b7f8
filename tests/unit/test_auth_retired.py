"""Authenticators after a reload: they serve the sessions that have them, and are closed after these."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from mailgate.auth.portal import Authenticator
from mailgate.auth.retired import Retired, close_all
from mailgate.wire.sasl_exchange import Password
from tests.unit.auth_stand import Reactor, outcome_of, verifier
from tests.unit.test_auth_portal import Checker


class Stand:
    def __init__(self) -> None:
        self.clock = Clock()
        self.serving: list[Authenticator | None] = [None]
        self.retired = Retired(self.clock, lambda: self.serving)

    def make(self) -> tuple[Authenticator, Checker]:
        checker, reactor = Checker(), Reactor()
        made = Authenticator(checker, clock=reactor, verifier=verifier(reactor), cache=0, cache_size=0)
        return made, checker


def ask(one: Authenticator) -> Deferred[Any]:
    return one.check(Password("ann", "hunter2"), mechanism="PLAIN")


def test_one_that_was_replaced_serves_until_nobody_asks_for_an_hour() -> None:
    stand = Stand()
    one, checker = stand.make()
    other, kept = stand.make()
    stand.retired.replace({"users": one, "kept": other}, {"users": stand.make()[0], "kept": other})
    for _ in range(3):
        stand.clock.advance(3599)
        answer = ask(one)
        checker.answer(b"ann")
        assert outcome_of(answer).name == "ann"
        stand.clock.advance(1)
    assert checker.closed == 0
    stand.clock.advance(3600)
    assert (checker.closed, kept.closed) == (1, 0)
    assert stand.retired.take() == []
    assert stand.clock.getDelayedCalls() == []


def test_one_whose_name_is_gone_was_replaced_too() -> None:
    stand = Stand()
    one, checker = stand.make()
    stand.retired.replace({"users": one}, {})
    stand.clock.advance(3600)
    assert checker.closed == 1


def test_one_that_a_listener_still_gives_away_is_not_closed() -> None:
    stand = Stand()
    one, checker = stand.make()
    stand.serving.append(one)
    stand.retired.replace({"users": one}, {})
    for _ in range(20):
        stand.retired.replace({"users": stand.make()[0]}, {})
    stand.clock.advance(7200)
    assert checker.closed == 0
    stand.serving.clear()
    stand.clock.advance(3600)
    assert checker.closed == 1


def test_so_many_serve_and_the_oldest_make_room() -> None:
    stand = Stand()
    made = [stand.make() for _ in range(11)]
    for one, _ in made:
        stand.retired.replace({"users": one}, {})
    assert [checker.closed for _, checker in made] == [1] * 3 + [0] * 8
    assert stand.retired.take() == [one for one, _ in made[3:]]
    assert stand.clock.getDelayedCalls() == []


def test_all_are_closed_at_once_and_what_fails_is_logged() -> None:
    stand = Stand()
    (first, broken), (second, slow), (third, whole) = (stand.make() for _ in range(3))
    broken.closing, slow.closing = fail(ZeroDivisionError("a bug")), Deferred()
    with capturedLogs() as logs:
        closed = close_all([first, second, third])
    assert [checker.closed for checker in (broken, slow, whole)] == [1, 1, 1]
    assert [event["log_failure"].getErrorMessage() for event in logs] == ["a bug"]
    assert not closed.called
    slow.closing.callback(None)
    assert outcome_of(closed) == [None] * 3
    assert outcome_of(close_all([])) == []
