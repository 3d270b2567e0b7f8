"""One timer for the time of all peers: nobody is forgotten, nobody is told too soon, and looking costs little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs

from mailgate.smtp.vigil import Vigil


class Peer:
    """Who has until a deadline; and when it was told that it had come."""

    def __init__(self, clock: Clock, deadline: float, *, again: float = inf, fails: bool = False) -> None:
        self._clock = clock
        self.deadline = deadline
        self._again = again
        self._fails = fails
        self.told: list[float] = []

    def out_of_time(self) -> None:
        self.told.append(self._clock.seconds())
        if self._fails:
            raise RuntimeError("a bug of ours")
        self.deadline = self._again


class Watch:
    """A vigil, and its clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.vigil = Vigil(self.clock)

    def add(self, deadline: float, *, again: float = inf, fails: bool = False) -> Peer:
        peer = Peer(self.clock, deadline, again=again, fails=fails)
        self.vigil.watch(peer)
        self.vigil.hasten(deadline)
        return peer

    @property
    def timers(self) -> list[float]:
        return [call.getTime() for call in self.clock.getDelayedCalls()]


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def logged() -> Iterator[Sequence[LogEvent]]:
    with capturedLogs() as events:
        yield events


def test_each_is_told_when_its_time_has_come(watch: Watch) -> None:
    late, soon = watch.add(20.0), watch.add(10.0)
    assert watch.timers == [10.0]
    watch.clock.advance(9.9)
    assert (soon.told, late.told) == ([], [])
    watch.clock.advance(0.1)
    assert (soon.told, late.told) == ([10.0], [])
    watch.clock.advance(10)
    assert (soon.told, late.told) == ([10.0], [20.0])
    assert watch.timers == []


def test_putting_off_costs_no_timer(watch: Watch) -> None:
    peer = watch.add(10.0)
    for deadline in (15.0, 25.0, 40.0):
        peer.deadline = deadline
        assert watch.timers == [10.0]
    watch.clock.advance(10)
    assert watch.timers == [40.0]
    watch.clock.advance(30)
    assert peer.told == [40.0]


def test_a_deadline_can_come_sooner(watch: Watch) -> None:
    peer = watch.add(100.0)
    peer.deadline = 3.0
    watch.vigil.hasten(3.0)
    assert watch.timers == [3.0]
    watch.clock.advance(3)
    assert peer.told == [3.0]


def test_a_deadline_that_is_past_is_now(watch: Watch) -> None:
    watch.clock.advance(50)
    peer = watch.add(40.0)
    watch.clock.advance(0)
    assert peer.told == [50.0]


def test_who_has_left_is_not_told(watch: Watch) -> None:
    gone, stays = watch.add(10.0), watch.add(20.0)
    for _ in range(2):
        watch.vigil.leave(gone)
    watch.clock.advance(20)
    assert (gone.told, stays.told) == ([], [20.0])


def test_with_nobody_there_is_no_timer(watch: Watch) -> None:
    peer = watch.add(10.0)
    watch.vigil.leave(peer)
    assert (watch.timers, watch.vigil.next) == ([], inf)
    watch.add(30.0)
    assert watch.timers == [30.0]


def test_one_that_fails_does_not_take_the_others_with_it(watch: Watch, logged: Sequence[LogEvent]) -> None:
    peers = [watch.add(10.0), watch.add(10.0, fails=True), watch.add(10.0)]
    watch.clock.advance(10)
    watch.clock.advance(100)
    assert [peer.told for peer in peers] == [[10.0]] * 3
    assert [event["log_failure"].getErrorMessage() for event in logged if "log_failure" in event] == ["a bug of ours"]


def test_who_leaves_while_others_are_told_is_not(watch: Watch) -> None:
    first = watch.add(10.0)
    second = watch.add(10.0)
    first.out_of_time = lambda: watch.vigil.leave(second)  # type: ignore[method-assign]
    watch.clock.advance(10)
    assert second.told == []


def test_who_sets_no_new_deadline_is_asked_again_and_others_have_their_turn(watch: Watch) -> None:
    stubborn, other = watch.add(10.0, again=10.0), watch.add(10.00001)
    watch.clock.advance(10)
    assert len(stubborn.told) == 1
    for _ in range(20):
        watch.clock.advance(0.00001)
    assert 2 <= len(stubborn.told) <= 20
    assert len(other.told) == 1


@given(st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=50))
def test_nobody_is_told_too_soon_or_much_too_late(deadlines: list[float]) -> None:
    watch = Watch()
    peers = [(deadline, watch.add(deadline)) for deadline in deadlines]
    while watch.timers:
        watch.clock.advance(max(watch.timers[0] - watch.clock.seconds(), 0.0))
    for deadline, peer in peers:
        (told,) = peer.told
        assert deadline - 1e-9 <= told <= deadline + len(peers) * 20e-6 + 1e-6
