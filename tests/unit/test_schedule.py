"""Retry times: within the configured bounds, spread, and never behind the expiry."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import Address
from mailgate.config.schema import RetrySection
from mailgate.envelope import Envelope, MailParameters
from mailgate.interfaces import Lease
from mailgate.message import Content
from mailgate.relay.schedule import HostState, expiry, is_too_late, late_at, next_attempt

DAY = 86400.0
ANN = Address("ann", "client.test")
DEFAULT = RetrySection()


def waits(retry: RetrySection, seed: int = 1) -> list[float]:
    """The waits of a message that is deferred until it expires."""
    dice, now = random.Random(seed), 0.0
    found: list[float] = []
    while (due := next_attempt(retry, len(found) + 1, retry.expire, now, dice)) is not None:
        found.append(due - now)
        now = due
    return found


def test_the_default_schedule() -> None:
    found = waits(DEFAULT)
    for wait, ideal in zip(found, (300, 600, 1200, 2400, 4800, 9600), strict=False):
        assert ideal * 0.9 <= wait <= ideal * 1.1
    assert all(0.9 * 4 * 3600 <= wait <= 4 * 3600 for wait in found[6:-1])
    assert sum(found) == pytest.approx(5 * DAY)


def test_the_last_attempt_is_at_the_expiry() -> None:
    dice = random.Random(1)
    assert next_attempt(DEFAULT, 40, 5 * DAY, 5 * DAY - 1, dice) == 5 * DAY
    assert next_attempt(DEFAULT, 40, 5 * DAY, 5 * DAY, dice) is None
    assert next_attempt(DEFAULT, 1, 5 * DAY, 6 * DAY, dice) is None


def test_an_attempt_is_made_shortly_before_a_deadline_and_one_at_it() -> None:
    def after(now: float) -> float | None:
        return next_attempt(DEFAULT, 8, 5 * DAY, now, random.Random(1), deadline=5000.0)

    assert [after(now) for now in (1000.0, 4970.0, 4999.5)] == [4970.0, 5000.0, 5000.0]
    beyond = after(5000.0)
    assert beyond is not None
    assert beyond > 5000.0 + 3600


def message(*, since: float = 0.0, **parameters: object) -> Lease:
    asked = MailParameters(**parameters)  # type: ignore[arg-type]  # as a test names them
    one = Envelope(queue_id="0Q", sender=ANN, recipients=(), received=1000.0, size=5, parameters=asked)
    return Lease(one, (), Content(b""), 0.0, {}, since=since)


def test_what_the_sender_has_asked_moves_the_ends() -> None:
    assert (expiry(DEFAULT, message()), late_at(DEFAULT, message())) == (1000 + 5 * DAY, 1000 + 4 * 3600)
    assert late_at(RetrySection.model_validate({"warn": "0s"}), message()) == math.inf
    # What was to be released in the past was so at once; else its time begins then.
    assert expiry(DEFAULT, message(release_at=500.0)) == 1000 + 5 * DAY
    later = message(release_at=DAY)
    assert (expiry(DEFAULT, later), late_at(DEFAULT, later)) == (6 * DAY, DAY + 4 * 3600)
    # So does that of what somebody has released.
    freed = message(since=9 * DAY)
    assert (expiry(DEFAULT, freed), late_at(DEFAULT, freed)) == (14 * DAY, 9 * DAY + 4 * 3600)
    assert expiry(DEFAULT, message(since=500.0)) == 1000 + 5 * DAY
    back = message(deliver_by=5000.0, by_mode="R")
    assert (expiry(DEFAULT, back), late_at(DEFAULT, back)) == (5000.0, 1000 + 4 * 3600)
    assert [is_too_late(back.envelope, now) for now in (4999.0, 5000.0)] == [False, True]
    told = message(deliver_by=5000.0, by_mode="N")
    assert (expiry(DEFAULT, told), late_at(DEFAULT, told)) == (1000 + 5 * DAY, 5000.0)
    assert not is_too_late(told.envelope, 6000.0)
    assert expiry(RetrySection.model_validate({"expire": "60s"}), back) == 1060.0


def test_what_failed_together_does_not_come_back_together() -> None:
    found = {next_attempt(DEFAULT, 1, 5 * DAY, 0.0, random.Random(seed)) for seed in range(100)}
    assert len(found) == 100


@given(
    st.floats(0.001, DAY),
    st.floats(1, 10),
    st.floats(0.001, 10 * DAY),
    st.floats(1, 30 * DAY),
    st.integers(0, 10**9),
    st.floats(0, 31 * DAY),
    st.integers(),
)
def test_any_schedule_goes_forward_and_stays_within_its_bounds(
    first: float, factor: float, longest: float, expire: float, attempts: int, age: float, seed: int
) -> None:
    retry = RetrySection.model_construct(first=first, factor=factor, longest=longest, expire=expire)
    received = 1.7e9
    now = received + age
    due = next_attempt(retry, attempts, received + expire, now, random.Random(seed))
    if due is None:
        assert now >= received + expire
        return
    assert now < due <= received + expire
    assert due - now <= max(longest, 1.0) + 1e-6
    assert due == received + expire or due - now >= min(0.9 * min(first, longest), 1.0) - 1e-6


def test_a_host_that_fails_is_left_alone_for_longer_and_longer() -> None:
    dice, now, state = random.Random(1), 1000.0, HostState()
    found: list[float] = []
    assert state.may_try(now)
    for _ in range(12):
        state = state.after_failure(now, dice)
        assert not state.may_try(now)
        found.append(state.not_before - now)
        now = state.not_before
        assert state.may_try(now)
    for wait, ideal in zip(found, (15, 30, 60, 120, 240, 480), strict=False):
        assert ideal * 0.9 <= wait <= ideal * 1.1
    assert all(540 <= wait <= 600 for wait in found[6:])


def test_attempts_that_fail_together_count_once() -> None:
    dice = random.Random(1)
    state = HostState().after_failure(0.0, dice)
    assert state.after_failure(1.0, dice) is state
