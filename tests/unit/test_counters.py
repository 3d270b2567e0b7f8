"""What filters remember: what is promised about it, wherever it is kept."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgate.interfaces import ICounters
from mailgate.stores.counters import MemoryCounters
from mailgate.stores.counters_sqlite import SqliteCounters
from mailgate.testing import wait_for
from mailgate.workers.shared import NoAnswerError
from tests.unit.workers_line import Room


class Bench:
    """Counters of one kind, asked as if all answers were plain."""

    def __init__(self, clock: Clock, counters: Any, run: Callable[[], object] = lambda: None) -> None:
        self.clock = clock
        self.counters = counters
        self._run = run

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*values: object) -> Any:
            answer = getattr(self.counters, name)(*values)
            if isinstance(answer, Awaitable):
                self._run()
            return wait_for(answer)

        return ask


@pytest.fixture(params=["memory", "sqlite", "asked"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "asked":
        room = Room()
        yield Bench(room.clock, room.shared(1).counters, lambda: room.run(0.0))
        return
    clock = Clock()
    if request.param == "memory":
        yield Bench(clock, MemoryCounters(clock, 1000))
        return
    counters = SqliteCounters(clock, 1000, 1 << 20, tmp_path / "counters.db")
    counters.open()
    yield Bench(clock, counters)
    counters.close()


# -- what is the same everywhere


def test_all_provide_the_interface(bench: Bench) -> None:
    assert verifyObject(ICounters, bench.counters)


def test_hits_are_counted_and_forgotten(bench: Bench) -> None:
    assert bench.peek("a", 80.0) == 0
    assert [bench.hit("a", 80.0) for _ in range(3)] == [1, 2, 3]
    assert bench.hit("a", 80.0, 5) == 8
    bench.clock.advance(79)
    assert bench.hit("a", 80.0) == 9
    bench.clock.advance(11)
    assert bench.peek("a", 80.0) == 1
    assert bench.hit("a", 80.0) == 2
    bench.clock.advance(1000)
    assert bench.peek("a", 80.0) == 0
    assert bench.hit("a", 80.0) == 1


def test_keys_and_windows_are_counted_apart(bench: Bench) -> None:
    bench.hit("a", 60.0)
    assert bench.hit("b", 60.0) == 1
    assert bench.hit("a", 3600.0) == 1
    assert bench.hit("a", 60.0) == 2


def test_a_bucket_gives_its_burst_and_then_its_rate(bench: Bench) -> None:
    assert [bench.take("a", 0.5, 3.0) for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]
    assert bench.take("b", 0.5, 3.0, 2.5) == 0.0
    bench.clock.advance(1)
    assert bench.take("a", 0.5, 3.0) == 1.0
    bench.clock.advance(1)
    assert bench.take("a", 0.5, 3.0) == 0.0
    bench.clock.advance(1000)
    assert bench.take("a", 0.5, 3.0, 3.0) == 0.0
    assert bench.take("a", 0.5, 3.0, 3.0) == 6.0
    assert bench.take("a", 0.5, 3.0, 0.0) == 0.0


def test_what_no_bucket_holds_never_comes(bench: Bench) -> None:
    assert bench.take("a", 1.0, 3.0, 3.1) == math.inf
    assert bench.take("a", 1.0, 3.0, 3.0) == 0.0


def test_whoever_waits_as_long_as_it_is_told_gets_it(bench: Bench) -> None:
    bench.clock.advance(1_800_000_000.1)
    bench.take("a", 1 / 3, 1.0)
    bench.clock.advance(bench.take("a", 1 / 3, 1.0, 0.7))
    assert bench.take("a", 1 / 3, 1.0, 0.7) == 0.0


def test_values_are_kept_for_their_time(bench: Bench) -> None:
    octets = bytes(range(256)) * 16
    assert bench.get("a") is None
    assert bench.put("a", octets, 10.0) is None
    assert bench.get("a") == octets
    bench.put("a", b"", 10.0)
    assert bench.get("a") == b""
    bench.clock.advance(9.5)
    assert bench.get("a") == b""
    bench.put("b", b"2", 1.0)
    bench.clock.advance(0.5)
    assert bench.get("a") is None
    assert bench.get("b") == b"2"
    assert bench.forget("b") is None
    assert bench.get("b") is None
    assert bench.forget("c") is None


def test_only_the_first_adds(bench: Bench) -> None:
    assert bench.add("a", b"first", 10.0) is None
    assert bench.add("a", b"second", 100.0) == b"first"
    bench.clock.advance(10)
    assert bench.add("a", b"third", 10.0) is None
    assert bench.get("a") == b"third"
    bench.forget("a")
    assert bench.add("a", b"fourth", 10.0) is None


@pytest.mark.parametrize("method", ["put", "add"])
def test_a_value_that_is_too_long_is_refused(bench: Bench, method: str) -> None:
    with pytest.raises(ValueError, match="4096 octets"):
        getattr(bench, method)("a", bytes(4097), 10.0)
    assert bench.get("a") is None


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("hit", (b"key", 60.0)),
        ("hit", ("key", "60")),
        ("peek", (["key"], 60.0)),
        ("take", ("key", 1.0, None)),
        ("get", (None,)),
        ("put", (b"key", b"1", 60.0)),
        ("add", ("key", b"1", "60")),
        ("forget", (["key"],)),
        ("hit", ("key", 0.0)),
        ("hit", ("key", float("nan"))),
        ("take", ("key", 0.0, 1.0, 1.0)),
    ],
)
def test_who_asks_other_workers_for_nonsense_fails_alone(method: str, values: tuple[object, ...]) -> None:
    room = Room()
    bench = Bench(room.clock, room.shared(1).counters, lambda: room.run(0.0))
    good = room.shared(1).counters.hit("good", 60.0)
    with pytest.raises((TypeError, NoAnswerError)):
        bench.__getattr__(method)(*values)
    room.run(0.0)
    assert wait_for(good) == 1
    assert bench.hit("good", 60.0) == 2


def test_keys_of_any_characters(bench: Bench) -> None:
    keys = ["\0", "\0a", 'ä"\\', "\ud800", "a b"]
    for number, key in enumerate(keys, 1):
        bench.put(key, bytes([number]), 10.0)
        bench.hit(key, 10.0, number)
    assert [bench.get(key) for key in keys] == [b"\1", b"\2", b"\3", b"\4", b"\5"]
    assert [bench.peek(key, 10.0) for key in keys] == [1, 2, 3, 4, 5]


# -- in memory


def test_the_least_recently_used_goes_first() -> None:
    counters = MemoryCounters(Clock(), 3)
    for key in "abc":
        counters.hit(key, 60.0)
    counters.hit("a", 60.0)
    counters.peek("b", 60.0)
    counters.hit("d", 60.0)
    assert [counters.peek(key, 60.0) for key in "abcd"] == [2, 1, 0, 1]


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
    counters.take("a", 1.0, 5.0, 2.0)
    clock.rightNow = 900.0
    assert counters.hit("a", 80.0) == 2
    assert counters.take("a", 1.0, 5.0, 4.0) == 1.0
    assert counters.take("a", 1.0, 5.0, 3.0) == 0.0


@pytest.mark.parametrize("step", [30.0, 86400.0, 1e9])
def test_after_a_clock_has_stepped_back_hits_are_forgotten_in_their_time(step: float) -> None:
    clock = Clock()
    clock.advance(2e9)
    counters = MemoryCounters(clock, 10)
    counters.hit("a", 80.0, 5)
    clock.rightNow -= step
    assert counters.peek("a", 80.0) == 5
    clock.advance(79.0)
    assert counters.hit("a", 80.0) == 6
    clock.advance(12.0)
    assert counters.peek("a", 80.0) == 1
    clock.advance(90.0)
    assert counters.peek("a", 80.0) == 0


def test_the_least_recently_used_bucket_goes_first_and_is_full_again() -> None:
    counters = MemoryCounters(Clock(), 2)
    for key in "aba":
        counters.take(key, 1.0, 2.0)
    counters.take("c", 1.0, 2.0)
    assert counters.take("a", 1.0, 2.0) == 1.0
    assert counters.take("b", 1.0, 2.0, 2.0) == 0.0


def test_a_flood_of_strangers_does_not_drive_out_who_is_known() -> None:
    counters = MemoryCounters(Clock(), 100)
    friends = [f"friend {number}" for number in range(50)]
    for friend in friends:
        counters.add(friend, b"1", 1e6)
    assert all(counters.add(friend, b"2", 1e6) == b"1" for friend in friends)
    for number in range(10_000):
        counters.add(f"stranger {number}", b"1", 1e6)
    assert all(counters.get(friend) == b"1" for friend in friends)
    # Whoever came last has its chance to come again.
    assert all(counters.get(f"stranger {number}") == b"1" for number in range(9_975, 10_000))


def test_those_who_are_known_leave_room_for_strangers() -> None:
    counters = MemoryCounters(Clock(), 100)
    for number in range(1000):
        counters.put(f"{number}", b"1", 1e6)
        counters.put(f"{number}", b"2", 1e6)
    strangers = [f"stranger {number}" for number in range(25)]
    for stranger in strangers:
        counters.put(stranger, b"3", 1e6)
    assert all(counters.get(stranger) == b"3" for stranger in strangers)
    assert counters.get("999") == b"2"


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "add", "get", "forget"]), st.integers(0, 12), st.integers(0, 40)),
        max_size=120,
    ),
    st.integers(1, 6),
)
def test_values_are_bounded_and_never_wrong(steps: list[tuple[str, int, int]], most: int) -> None:
    clock = Clock()
    counters = MemoryCounters(clock, most, 100)
    latest: dict[str, tuple[bytes, float]] = {}
    for word, number, size in steps:
        clock.advance(0.5)
        key, now = str(number), clock.seconds()
        known, ends = latest.get(key, (None, 0.0))
        if ends <= now:
            known = None
        if word == "put":
            counters.put(key, bytes(size), size / 4)
            latest[key] = bytes(size), now + size / 4
        elif word == "forget":
            counters.forget(key)
            latest.pop(key, None)
        elif word == "get":
            assert counters.get(key) in (known, None)
        else:
            found = counters.add(key, bytes(size), 5.0)
            assert found in (known, None)
            if found is None:
                latest[key] = bytes(size), now + 5.0
        assert len(counters._values) <= most
        assert 0 <= counters._values.octets <= 100


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


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 4)), max_size=60), st.sampled_from([0.25, 1.0, 3.0]))
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(steps: list[tuple[float, float]], rate: float) -> None:
    clock = Clock()
    counters = MemoryCounters(clock, 10)
    given_out = 0.0
    for step, amount in steps:
        clock.advance(step)
        if counters.take("a", rate, 4.0, amount) == 0.0:
            given_out += amount
        assert given_out <= 4.0 + rate * clock.seconds() + 1e-3


@given(st.lists(st.integers(0, 30), max_size=100), st.integers(1, 5))
def test_no_more_keys_than_allowed(keys: list[int], most: int) -> None:
    counters = MemoryCounters(Clock(), most)
    for key in keys:
        counters.hit(str(key), 60.0)
        counters.take(str(key), 1.0, 2.0)
    assert sum(counters.peek(str(key), 60.0) > 0 for key in range(31)) <= most
    assert len(list(counters._buckets)) <= most
