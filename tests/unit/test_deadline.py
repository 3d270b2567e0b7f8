"""One moment after another by which something must have come."""

from __future__ import annotations

from twisted.internet.task import Clock

from mailgate.relay.client.deadline import Deadline


class Watched:
    def __init__(self) -> None:
        self.clock = Clock()
        self.passed: list[float] = []
        self.deadline = Deadline(self.clock, lambda: self.passed.append(self.clock.seconds()))

    def wait(self, seconds: int) -> list[float]:
        """When it has passed by then."""
        self.clock.pump([1.0] * seconds)
        return self.passed


def test_it_passes_once_at_its_moment() -> None:
    one = Watched()
    one.deadline.set(10)
    assert one.wait(9) == []
    assert one.wait(100) == [10]
    assert one.clock.getDelayedCalls() == []


def test_the_last_moment_counts_be_it_later_or_earlier() -> None:
    one = Watched()
    one.deadline.set(10)
    one.wait(5)
    one.deadline.set(10)  # at 15
    one.wait(8)
    one.deadline.set(1)  # at 14
    assert one.wait(100) == [14]


def test_an_earlier_moment_behind_a_later_one_that_was_looked_at() -> None:
    one = Watched()
    one.deadline.set(10)
    one.deadline.set(300)
    one.wait(20)  # it has looked at 10, and waits for 300
    one.deadline.set(5)
    assert one.wait(300) == [25]


def test_none_while_it_is_clear() -> None:
    one = Watched()
    one.deadline.set(10)
    one.deadline.clear()
    assert one.wait(50) == []
    one.deadline.set(10)
    assert one.wait(50) == [60]


def test_one_call_serves_them_all() -> None:
    one = Watched()
    for _ in range(1000):
        one.deadline.set(300)
        one.deadline.set(600)
        one.deadline.clear()
    assert len(one.clock.getDelayedCalls()) == 1
    one.deadline.stop()
    assert one.clock.getDelayedCalls() == []
