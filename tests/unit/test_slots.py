"""Slots, rates and tallies of one process."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgate.interfaces import ISlots, ITally
from mailgate.stores.slots import LocalSlots, LocalTally


def ignore() -> None:
    """Somebody waits."""


def test_they_are_what_they_say() -> None:
    verifyObject(ISlots, LocalSlots(Clock()))
    verifyObject(ITally, LocalTally())


def test_a_slot_is_there_until_there_is_none() -> None:
    slots = LocalSlots(Clock())
    assert slots.acquire("a", 2, ignore) is None
    assert slots.acquire("a", 2, ignore) is None
    assert slots.acquire("b", 1, ignore) is None
    first, second = slots.acquire("a", 2, ignore), slots.acquire("a", 2, ignore)
    assert first is not None
    assert second is not None
    slots.release("a")
    assert (first.called, second.called) == (True, False)
    slots.release("a")
    assert second.called


def test_holders_are_told_that_somebody_waits_each_once() -> None:
    slots = LocalSlots(Clock())
    told: list[str] = []
    holders = [lambda: told.append("one"), lambda: told.append("two")]
    for holder in (*holders, holders[0]):
        assert slots.acquire("a", 3, holder) is None
    waiting = slots.acquire("a", 3, lambda: told.append("three"))
    assert told == ["one", "two"]
    slots.release("a")
    assert waiting is not None
    assert waiting.called


def test_a_holder_who_releases_at_once_serves_who_waits_at_once() -> None:
    slots = LocalSlots(Clock())
    assert slots.acquire("a", 1, lambda: slots.release("a")) is None
    waiting = slots.acquire("a", 1, ignore)
    assert waiting is not None
    assert waiting.called


def test_who_gives_up_is_not_served_and_does_not_hold_up_others() -> None:
    slots = LocalSlots(Clock())
    assert slots.acquire("a", 1, ignore) is None
    first, second = slots.acquire("a", 1, ignore), slots.acquire("a", 2, ignore)
    assert first is not None
    assert second is not None
    failed: Deferred[object] = first.addErrback(lambda failure: failure.trap(CancelledError))
    first.cancel()
    assert failed.called
    assert second.called  # for whom there was a slot, behind the first
    slots.release("a")
    slots.release("a")
    slots.release("a")  # once too often
    assert slots.acquire("a", 1, ignore) is None
    assert slots.acquire("a", 1, ignore) is not None


def test_a_lower_limit_holds_for_who_comes_then() -> None:
    slots = LocalSlots(Clock())
    for _ in range(3):
        assert slots.acquire("a", 3, ignore) is None
    waiting = slots.acquire("a", 1, ignore)
    assert waiting is not None
    slots.release("a")
    slots.release("a")
    assert not waiting.called
    slots.release("a")
    assert waiting.called


@pytest.mark.parametrize(("rate", "at_once"), [(0.1, 1), (1.0, 1), (5.0, 5), (2.5, 2)])
def test_a_budget_holds_one_second_at_most(rate: float, at_once: int) -> None:
    clock = Clock()
    slots = LocalSlots(clock)
    waits = [slots.spend("a", rate) for _ in range(at_once + 3)]
    assert waits[:at_once] == at_once * [0.0]
    assert all(one > 0 for one in waits[at_once:])
    assert waits[-1] - waits[-2] == pytest.approx(1 / rate)
    clock.advance(1000)
    assert [slots.spend("a", rate) for _ in range(at_once)] == at_once * [0.0]
    assert slots.spend("a", rate) > 0


def test_what_is_spent_over_time_is_the_rate() -> None:
    clock = Clock()
    slots = LocalSlots(clock)
    began = 0
    for _ in range(1000):
        clock.advance(slots.spend("a", 7.0))
        began += 1
    assert began / clock.seconds() == pytest.approx(7.0, rel=0.02)


def test_budgets_that_are_full_again_are_forgotten() -> None:
    clock = Clock()
    slots = LocalSlots(clock)
    for number in range(50_000):
        slots.spend(f"{number}", 10.0)
        clock.advance(0.01)
    assert len(slots._times) <= 10_001


def test_a_tally_adds_and_forgets() -> None:
    tally = LocalTally()
    tally.add("a", 2)
    tally.add("b", 1)
    tally.add("a", -1)
    assert (tally.total("a"), tally.total("b"), tally.total("c")) == (1, 1, 0)
    tally.add("a", -1)
    assert tally.total("a") == 0
    assert list(tally._totals) == ["b"]


def test_what_is_owed_is_paid_off_by_the_rate_of_now() -> None:
    clock = Clock()
    slots = LocalSlots(clock)
    for _ in range(3):
        slots.spend("key", 1 / 3600)
    assert slots.spend("key", 1.0) == pytest.approx(3.0)
    assert slots.spend("key", 0.5) == pytest.approx(8.0)
    clock.advance(4)
    assert slots.spend("key", 0.5) == pytest.approx(6.0)
