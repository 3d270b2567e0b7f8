"""How many connections a site bears."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mailgate.relay.ready.window import Window

DICE = random.Random(1)


def test_it_begins_small_and_grows_to_its_limit() -> None:
    window = Window(20)
    sizes = [window.size]
    for _ in range(300):
        window.succeeded(0.0)
        sizes.append(window.size)
    assert sizes[0] == 5
    assert sizes == sorted(sizes)
    assert sizes[-1] == 20
    # One more for each round: not all at once.
    assert sizes[5] <= 6
    assert sizes[20] <= 8


def test_a_small_limit_is_kept_from_the_start() -> None:
    window = Window(2)
    assert window.size == 2
    window.succeeded(0.0)
    assert window.size == 2


def test_a_site_that_bears_few_is_not_asked_for_more_all_the_time() -> None:
    window, now, refused = Window(20), 0.0, 0
    for _ in range(10_000):  # one a second, and a fourth connection is never to be had
        now += 1.0
        window.succeeded(now)
        if window.size > 3:
            refused += 1
            window.refused(3, now, DICE)
        assert window.size <= 5
    assert 5 < refused < 40


def test_after_a_failure_one_tries_alone_until_there_is_somebody() -> None:
    window = Window(20)
    window.failed()
    assert window.size == 1
    window.recovered()
    assert window.size == 5


@given(st.integers(1, 50), st.lists(st.tuples(st.sampled_from("srfx"), st.integers(1, 60)), max_size=200))
def test_it_stays_between_one_and_its_limit(most: int, steps: list[tuple[str, int]]) -> None:
    window, now = Window(most), 0.0
    for step, number in steps:
        now += number
        if step == "s":
            window.succeeded(now)
        elif step == "r":
            window.refused(number, now, DICE)
        elif step == "f":
            window.failed()
        else:
            window.recovered()
        assert 1 <= window.size <= most
