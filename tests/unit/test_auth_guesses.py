"""Open checks, by who has shown the secrets."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError

from mailgate.auth.guesses import Guesses
from tests.unit.auth_stand import failure_of


def test_each_key_has_its_count() -> None:
    guesses = Guesses()
    for _ in range(2):
        guesses.begin("a")
    guesses.begin("b")
    assert [guesses.count(key) for key in "abc"] == [2, 1, 0]
    guesses.end("a")
    assert [guesses.count(key) for key in "abc"] == [1, 1, 0]


def test_whoever_waits_for_a_key_looks_again_when_one_of_it_is_over() -> None:
    guesses = Guesses()
    for key in "aab":
        guesses.begin(key)
    first, second, other = guesses.wait("a"), guesses.wait("a"), guesses.wait("b")
    guesses.end("a")
    assert (first.called, second.called, other.called) == (True, True, False)
    again = guesses.wait("a")
    assert not again.called
    guesses.end("a")
    assert again.called


def test_who_has_left_is_not_told_and_not_remembered() -> None:
    guesses = Guesses()
    guesses.begin("a")
    first, second = guesses.wait("a"), guesses.wait("a")
    first.cancel()
    assert isinstance(failure_of(first), CancelledError)
    assert len(guesses._waiting["a"]) == 1
    second.cancel()
    failure_of(second)
    assert guesses._waiting == {}
    guesses.end("a")


@pytest.mark.parametrize("leaver", [0, 1])
def test_one_may_leave_when_another_is_told(leaver: int) -> None:
    guesses = Guesses()
    guesses.begin("a")
    waiting = [guesses.wait("a") for _ in range(3)]
    waiting[leaver].addCallback(lambda _: waiting[2].cancel())
    guesses.end("a")
    assert [one.called for one in waiting] == [True] * 3
    assert isinstance(failure_of(waiting[2]), CancelledError)
