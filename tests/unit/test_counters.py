"""Counts over sliding windows: what is promised about them, against a plain list of all hits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgate.interfaces import ICounters
from mailgate.stores.counters import MemoryCounters


def test_hits_are_counted_and_forgotten() -> None:
    clock = Clock()
    counters = MemoryCounters(clock, 10)
    assert verifyObject(ICounters, counters)
    assert counters.peek("a", 80.0) == 0
    assert [counters.hit("a", 80.0) for _ in range(3)] == [1, 2, 3]
    assert counters.hit("a", 80.0, 5) == 8
    clock.advance(79)
    assert counters.hit("a", 80.0) == 9
    clock.advance(11)
    assert counters.peek("a", 80.0) == 1
    assert counters.hit("a", 80.0) == 2
    clock.advance(1000)
    assert counters.peek("a", 80.0) == 0
    assert counters.hit("a", 80.0) == 1


def test_keys_and_windows_are_counted_apart() -> None:
    counters = MemoryCounters(Clock(), 10)
    counters.hit("a", 60.0)
    assert counters.hit("b", 60.0) == 1
    assert counters.hit("a", 3600.0) == 1
    assert counters.hit("a", 60.0) == 2


def test_the_least_recently_hit_goes_first() -> None:
    counters = MemoryCounters(Clock(), 3)
    for key in "abc":
        counters.hit(key, 60.0)
    counters.hit("a", 60.0)
    counters.peek("b", 60.0)
    counters.hit("d", 60.0)
    assert [counters.peek(key, 60.0) for key in "abcd"] == [2, 0, 1, 1]


def test_peek_makes_no_counter() -> None:
    counters = MemoryCounters(Clock(), 1)
    counters.hit("a", 60.0)
    assert counters.peek("b", 60.0) == 0
    assert counters.peek("a", 60.0) == 1


def test_a_clock_that_steps_back_loses_nothing() -> None:
    clock = Clock()
    clock.advance(1000)
    counters = MemoryCounters(clock, 10)
    counters.hit("a", 80.0)
    clock.rightNow = 900.0
    assert counters.hit("a", 80.0) == 2


# Steps are multiples of 1/8 and windows powers of two: without rounding the promise is exact.
@given(
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from("ab"), st.integers(1, 5), st.booleans()), max_size=60),
    st.sampled_from([1.0, 8.0, 64.0]),
)
def test_never_less_than_the_window_and_never_more_than_nine_eighths_of_it(
    steps: list[tuple[int, str, int, bool]], window: float
) -> None:
    clock = Clock()
    counters = MemoryCounters(clock, 10)
    hits: list[tuple[float, str, int]] = []
    for step, key, amount, is_hit in steps:
        clock.advance(step / 8)
        now = clock.seconds()
        if is_hit:
            hits.append((now, key, amount))
            count = counters.hit(key, window, amount)
        else:
            count = counters.peek(key, window)
        least = sum(amount for at, other, amount in hits if other == key and at >= now - window)
        most = sum(amount for at, other, amount in hits if other == key and at > now - window * 9 / 8)
        assert least <= count <= most


@given(st.lists(st.integers(0, 30), max_size=100), st.integers(1, 5))
def test_no_more_keys_than_allowed(keys: list[int], most: int) -> None:
    counters = MemoryCounters(Clock(), most)
    for key in keys:
        counters.hit(str(key), 60.0)
    assert sum(counters.peek(str(key), 60.0) > 0 for key in range(31)) <= most
