"""What workers share: slots that are never more than the limit, budgets, counters, numbers, and what the dead leave."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mailgate.stores.counters import MemoryCounters
from mailgate.workers.commands import Item
from mailgate.workers.ledger import Ledger


class Book:
    """A ledger, and what it told each worker."""

    def __init__(self, workers: int = 3) -> None:
        self.clock = Clock()
        self.told: list[tuple[int, Item]] = []
        self.ledger = Ledger(
            self.clock, MemoryCounters(self.clock, 1000), lambda worker, item: self.told.append((worker, item))
        )
        for worker in range(workers):
            self.ledger.join(worker)

    def hear(self, worker: int, *items: Item) -> list[tuple[int, Item]]:
        """What is told because of these."""
        self.told.clear()
        for item in items:
            self.ledger.hear(worker, item)
        return list(self.told)


def test_slots_are_granted_in_order_and_holders_hear_who_waits() -> None:
    book = Book()
    assert book.hear(0, ["acquire", 1, "mx", 2], ["acquire", 2, "mx", 2]) == [
        (0, ["granted", 1, "mx"]),
        (0, ["granted", 2, "mx"]),
    ]
    assert book.hear(1, ["acquire", 1, "mx", 2]) == [(0, ["wanted", "mx"])]
    assert book.hear(2, ["acquire", 7, "mx", 2]) == [(0, ["wanted", "mx"])]
    # Who is granted one while another waits hears of that one as well.
    assert book.hear(0, ["release", "mx"]) == [(1, ["granted", 1, "mx"]), (1, ["wanted", "mx"])]
    assert book.hear(1, ["release", "mx"]) == [(2, ["granted", 7, "mx"])]
    assert book.hear(1, ["acquire", 9, "other", 1]) == [(1, ["granted", 9, "other"])]


def test_a_limit_that_grows_or_shrinks_holds_for_who_names_it() -> None:
    book = Book()
    book.hear(0, *(["acquire", ticket, "mx", 3] for ticket in range(3)))
    assert book.hear(1, ["acquire", 1, "mx", 2]) == [(0, ["wanted", "mx"])]
    assert book.hear(0, ["release", "mx"]) == []
    assert book.hear(0, ["release", "mx"]) == [(1, ["granted", 1, "mx"])]


def test_who_withdraws_makes_room_for_the_next() -> None:
    book = Book()
    book.hear(0, ["acquire", 1, "mx", 1])
    book.hear(1, ["acquire", 1, "mx", 1])
    book.hear(2, ["acquire", 1, "mx", 1])
    assert book.hear(1, ["withdraw", 1, "mx"]) == []
    assert book.hear(0, ["release", "mx"]) == [(2, ["granted", 1, "mx"])]
    assert book.hear(1, ["withdraw", 1, "mx"], ["withdraw", 5, "nowhere"]) == []


def test_who_names_a_low_limit_does_not_hold_up_those_behind_it() -> None:
    book = Book()
    book.hear(0, *(["acquire", ticket, "mx", 3] for ticket in range(3)))
    book.hear(1, ["acquire", 1, "mx", 1], ["acquire", 2, "mx", 3])
    assert book.hear(0, ["release", "mx"]) == [(1, ["granted", 2, "mx"]), (1, ["wanted", "mx"])]
    assert book.hear(2, ["acquire", 1, "mx", 4]) == [(2, ["granted", 1, "mx"]), (2, ["wanted", "mx"])]
    assert book.hear(0, ["release", "mx"], ["release", "mx"]) == []
    assert book.hear(1, ["release", "mx"]) == []
    assert book.hear(2, ["release", "mx"]) == [(1, ["granted", 1, "mx"])]


def test_what_a_dead_worker_held_and_waited_for_is_free() -> None:
    book = Book()
    book.hear(0, ["acquire", 1, "mx", 2], ["acquire", 2, "mx", 2])
    book.hear(1, ["acquire", 1, "mx", 2])
    book.hear(0, ["acquire", 3, "mx", 2])
    book.hear(2, ["acquire", 1, "mx", 2])
    book.told.clear()
    book.ledger.leave(0)
    assert [one for one in book.told if one[1][0] == "granted"] == [
        (1, ["granted", 1, "mx"]),
        (2, ["granted", 1, "mx"]),
    ]
    assert not any(worker == 0 for worker, _ in book.told)


def test_a_slot_that_nobody_holds_cannot_be_given_back() -> None:
    with pytest.raises(AssertionError, match="does not hold"):
        Book().hear(0, ["release", "mx"])
    with pytest.raises(AssertionError, match="a worker says"):
        Book().hear(0, ["nonsense", 1])


def test_counters_and_budgets_are_common() -> None:
    book = Book()
    assert book.hear(0, ["hit", 1, "key", 60.0, 2]) == [(0, ["answer", 1, 2])]
    assert book.hear(1, ["hit", 4, "key", 60.0, 1]) == [(1, ["answer", 4, 3])]
    assert book.hear(2, ["peek", 5, "key", 60.0]) == [(2, ["answer", 5, 3])]
    assert book.hear(0, ["spend", 6, "mx", 1.0, 1]) == [(0, ["answer", 6, 0.0])]
    assert book.hear(1, ["spend", 6, "mx", 1.0, 1]) == [(1, ["answer", 6, 1.0])]
    book.clock.advance(2)
    assert book.hear(2, ["spend", 6, "mx", 1.0, 1]) == [(2, ["answer", 6, 0.0])]


def numbers(book: Book) -> dict[tuple[int, str], int]:
    """What is told when it is time for numbers."""
    book.told.clear()
    book.ledger.publish()
    assert all(item[0] == "others" for _, item in book.told)
    return {(worker, item[1]): item[2] for worker, item in book.told}


def test_each_worker_is_told_what_the_others_have_added() -> None:
    book = Book()
    assert numbers(book) == {}
    assert book.hear(0, ["add", "open", 2], ["add", "open", -1]) == []
    assert book.ledger.has_news
    assert numbers(book) == {(1, "open"): 1, (2, "open"): 1}
    assert not book.ledger.has_news
    book.hear(1, ["add", "open", 5])
    assert numbers(book) == {(0, "open"): 5, (2, "open"): 6}
    book.ledger.leave(1)
    assert numbers(book) == {(0, "open"): 0, (2, "open"): 1}
    book.ledger.join(1)
    assert numbers(book) == {(1, "open"): 1}
    book.hear(0, ["add", "open", -1])
    assert numbers(book) == {(1, "open"): 0, (2, "open"): 0}


def test_numbers_wait_for_a_worker_that_is_not_ready() -> None:
    book = Book()
    told: list[int] = []
    for _ in range(100):
        book.hear(0, ["add", "open", 1])
        book.ledger.publish(lambda worker: worker != 1)
        told += [worker for worker, _ in book.told]
    assert told == [2] * 100
    assert book.ledger.has_news
    assert numbers(book) == {(1, "open"): 100}


STEPS = st.lists(
    st.tuples(st.sampled_from(["acquire", "release", "withdraw", "leave"]), st.integers(0, 2), st.sampled_from("ab")),
    max_size=60,
)


@given(STEPS, st.integers(1, 3))
def test_never_more_than_the_limit_and_nothing_stays(steps: list[tuple[str, int, str]], limit: int) -> None:
    book = Book()
    held: Counter[tuple[int, str]] = Counter()
    waiting: dict[tuple[int, int], str] = {}
    last = 0

    def settle(told: list[tuple[int, Any]]) -> None:
        for worker, item in told:
            if item[0] == "granted":
                assert waiting.pop((worker, item[1])) == item[2]
                held[worker, item[2]] += 1

    for step, worker, key in steps:
        if step == "acquire":
            last += 1
            waiting[worker, last] = key
            settle(book.hear(worker, ["acquire", last, key, limit]))
        elif step == "release" and held[worker, key]:
            held[worker, key] -= 1
            settle(book.hear(worker, ["release", key]))
        elif step == "withdraw" and (mine := [one for one in waiting if one[0] == worker]):
            wanted = waiting.pop(mine[0])
            settle(book.hear(worker, ["withdraw", mine[0][1], wanted]))
        elif step == "leave":
            waiting = {one: wanted for one, wanted in waiting.items() if one[0] != worker}
            held = Counter({one: count for one, count in held.items() if one[0] != worker})
            book.told.clear()
            book.ledger.leave(worker)
            settle(list(book.told))
            book.ledger.join(worker)
        for name in "ab":
            taken = sum(count for (_, one), count in held.items() if one == name)
            assert taken <= limit
            # Nobody waits while there is room.
            assert taken == limit or name not in waiting.values()
    for worker in range(3):
        book.ledger.leave(worker)
    assert book.ledger._slots == {}
    assert book.ledger._numbers == {}
