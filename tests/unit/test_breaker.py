"""The breaker opens after failures in a row, admits one trial at a time, and waits longer after each that fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.pipeline.breaker import FAILURES, LONGEST_PAUSE, PAUSE, Admission, Breaker


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    assert [breaker.failed(now, breaker.admit(now)) for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]
    return breaker


def test_only_failures_in_a_row_open_it() -> None:
    breaker = Breaker()
    for _ in range(3):
        for _ in range(FAILURES - 1):
            assert not breaker.failed(0.0, Admission.ORDINARY)
        assert not breaker.succeeded()
    assert not breaker.is_open
    assert breaker.admit(0.0) is Admission.ORDINARY


def test_an_open_breaker_refuses_until_the_pause_is_over_then_admits_one_trial() -> None:
    breaker = opened()
    assert breaker.is_open
    assert breaker.admit(PAUSE - 0.001) is Admission.REFUSED
    assert breaker.admit(PAUSE) is Admission.TRIAL
    assert breaker.admit(PAUSE) is Admission.REFUSED
    assert breaker.succeeded()
    assert not breaker.is_open
    assert breaker.admit(PAUSE) is Admission.ORDINARY


def test_a_trial_that_fails_doubles_the_pause_up_to_the_longest() -> None:
    breaker, now, pauses = opened(), PAUSE, []
    for _ in range(6):
        assert breaker.admit(now) is Admission.TRIAL
        assert not breaker.failed(now, Admission.TRIAL)
        pause = next(seconds for seconds in range(1, 1000) if breaker.admit(now + seconds) is not Admission.REFUSED)
        breaker.abandoned(Admission.TRIAL)
        pauses.append(pause)
        now += pause
    assert pauses == [60, 120, 240, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_success_makes_the_pause_short_again() -> None:
    breaker = opened()
    breaker.failed(PAUSE, breaker.admit(PAUSE))
    breaker.succeeded()
    for _ in range(FAILURES):
        breaker.failed(1000.0, Admission.ORDINARY)
    assert breaker.admit(1000.0 + PAUSE) is Admission.TRIAL


def test_a_trial_that_is_given_up_makes_room_for_another() -> None:
    breaker = opened()
    breaker.abandoned(breaker.admit(PAUSE))
    assert breaker.admit(PAUSE) is Admission.TRIAL


@pytest.mark.parametrize("end", ["failed", "abandoned"])
def test_questions_from_before_it_opened_do_not_count_as_the_trial(end: str) -> None:
    breaker = opened()
    assert breaker.admit(PAUSE) is Admission.TRIAL
    if end == "failed":
        assert not breaker.failed(PAUSE, Admission.ORDINARY)
    else:
        breaker.abandoned(Admission.ORDINARY)
    assert breaker.admit(PAUSE) is Admission.REFUSED
    assert breaker.succeeded()


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 400.0)), max_size=60))
def test_it_never_stays_shut_for_longer_than_the_longest_pause(steps: list[tuple[bool, float]]) -> None:
    breaker, now = Breaker(), 0.0
    for works, wait in steps:
        now += wait
        admission = breaker.admit(now)
        if admission is Admission.REFUSED:
            continue
        if works:
            breaker.succeeded()
            assert not breaker.is_open
        else:
            breaker.failed(now, admission)
    assert breaker.admit(now + LONGEST_PAUSE) is not Admission.REFUSED
