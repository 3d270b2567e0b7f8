"""The line between the supervisor and workers, over connected ends in memory."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from zope.interface.verify import verifyObject

from mailgate.envelope import Client
from mailgate.interfaces import ICounters, ISlots, ITally
from mailgate.smtp.factory import Listener
from tests.unit.workers_line import Room


def result(deferred: Deferred[Any]) -> Any:
    """What it came to; AssertionError where nothing has come."""
    found: list[Any] = []
    deferred.addBoth(found.append)
    assert found, "nothing has come"
    return found[0]


def is_open(deferred: Deferred[Any]) -> bool:
    return not deferred.called


def nobody() -> None:
    raise AssertionError("nobody waits")


def test_what_is_shared_is_what_the_interfaces_say() -> None:
    shared = Room().shared(0)
    assert verifyObject(ISlots, shared.slots)
    assert verifyObject(ITally, shared.tally)
    assert verifyObject(ICounters, shared.counters)


def test_a_slot_goes_from_one_worker_to_another() -> None:
    room = Room()
    one, two = room.shared(0).slots, room.shared(1).slots
    wanted: list[str] = []
    first = one.acquire("mx", 1, lambda: wanted.append("first"))
    room.run()
    assert result(first) is None
    second = two.acquire("mx", 1, nobody)
    room.run()
    assert is_open(second)
    assert wanted == ["first"]
    one.release("mx")
    room.run()
    assert result(second) is None
    two.release("mx")
    third = one.acquire("mx", 1, nobody)
    room.run()
    assert result(third) is None


def test_whoever_gives_up_waiting_gets_no_slot() -> None:
    room = Room()
    one, two = room.shared(0).slots, room.shared(1).slots
    one.acquire("mx", 1, lambda: None)
    room.run()
    waiting = two.acquire("mx", 1, nobody)
    room.run()
    waiting.addErrback(lambda _: None)
    waiting.cancel()
    one.release("mx")
    room.run()
    again = one.acquire("mx", 1, nobody)
    room.run()
    assert result(again) is None


def test_a_slot_that_is_granted_to_who_has_just_given_up_is_not_lost() -> None:
    room = Room()
    one, two = room.shared(0).slots, room.shared(1).slots
    waiting = two.acquire("mx", 1, nobody)
    room.workers[1].end.flush()
    waiting.addErrback(lambda _: None)
    waiting.cancel()  # the question is on its way, and so is the answer before this is heard
    next_one = one.acquire("mx", 1, lambda: None)
    room.run()
    assert result(next_one) is None


def test_what_a_worker_held_is_free_when_it_has_died() -> None:
    room = Room()
    room.shared(0).slots.acquire("mx", 1, lambda: None)
    room.shared(0).tally.add("open", 3)
    room.run()
    waiting = room.shared(1).slots.acquire("mx", 1, nobody)
    room.run()
    assert room.shared(1).tally.total("open") == 3
    assert is_open(waiting)
    room.leave(0)
    room.run()
    assert result(waiting) is None
    assert room.shared(1).tally.total("open") == 0


def test_numbers_are_exact_for_ourselves_and_a_moment_old_for_others() -> None:
    room = Room(3)
    one, two = room.shared(0).tally, room.shared(1).tally
    one.add("open", 2)
    assert (one.total("open"), two.total("open")) == (2, 0)
    room.run()
    two.add("open", 1)
    assert (one.total("open"), two.total("open")) == (2, 3)
    room.run()
    assert [room.shared(number).tally.total("open") for number in range(3)] == [3, 3, 3]
    room.leave(2)
    assert room.join(2).shared.tally.total("open") == 0
    room.run()
    assert room.shared(2).tally.total("open") == 3
    one.add("open", -2)
    two.add("open", -1)
    room.run()
    assert [room.shared(number).tally.total("open") for number in range(3)] == [0, 0, 0]
    assert room.shared(2).tally._others == {}


def test_counters_and_budgets() -> None:
    room = Room()
    counts = [room.shared(number % 2).counters.hit("key", 60.0, 2) for number in range(4)]
    peeked = room.shared(1).counters.peek("key", 60.0)
    room.run()
    assert sorted(map(result, counts)) == [2, 4, 6, 8]
    assert result(peeked) == 8
    spent = [room.shared(number).slots.spend("mx", 0.5) for number in (0, 1)]
    forgotten = room.shared(0).counters.hit("key", 60.0)
    forgotten.addErrback(lambda _: None)
    forgotten.cancel()
    room.run()
    assert sorted(map(result, spent)) == [0.0, 2.0]


def test_many_questions_go_in_one_box() -> None:
    room = Room()
    boxes: list[Any] = []
    end = room.workers[0].end
    send = end.sendBox

    def noted(box: object) -> None:
        boxes.append(box)
        send(box)  # type: ignore[no-untyped-call]  # Twisted's

    end.sendBox = noted  # type: ignore[method-assign]
    for _ in range(1000):
        room.shared(0).counters.hit("key", 60.0)
        room.shared(0).tally.add("open", 1)
    room.run()
    assert len(boxes) == 1
    assert room.shared(1).tally.total("open") == 1000


@pytest.mark.parametrize("size", [0, 1, 0xFFFF, 0x10000, 3_000_000])
def test_texts_of_any_length(size: int) -> None:
    room = Room()
    text = "ä" * (size // 2) + "x" * (size % 2)
    begun = Deferred.fromCoroutine(room.ends[0].begin(text, "running"))
    prepared = Deferred.fromCoroutine(room.ends[0].prepare(text))
    answered = Deferred.fromCoroutine(room.workers[0].end.ask_others("question", text))
    for _ in range(20):
        room.run()
    assert result(begun) == ""
    assert room.workers[0].begun == (text, "running")
    assert result(prepared) == ""
    assert room.workers[0].prepared == [text]
    assert result(answered) == (f'["question {len(text)}"]', "")


def test_what_the_supervisor_wants_of_a_worker() -> None:
    room = Room()
    end, worker = room.ends[1], room.workers[1]
    worker.errors = "mailgate.toml:1: one\nmailgate.toml:2: two"
    worker.answers = lambda question, argument: (f"{question} {argument}", "the disk is full")
    prepared = Deferred.fromCoroutine(end.prepare("text"))
    settled = Deferred.fromCoroutine(end.settle("errors"))
    asked = Deferred.fromCoroutine(end.ask("sites", "null"))
    drained = Deferred.fromCoroutine(end.drain())
    told = Deferred.fromCoroutine(end.tell_end(0, "killed by signal 9"))
    room.run()
    assert result(prepared) == worker.errors
    assert result(settled) is None
    assert worker.settled == ["errors"]
    assert result(asked) == ("sites null", "the disk is full")
    assert result(drained) == 30.0
    assert result(told) is None
    assert worker.ends == [(0, "killed by signal 9")]


@pytest.mark.parametrize("of_supervisor", [True, False])
def test_a_question_that_fails_with_anything_does_not_break_the_line(of_supervisor: bool) -> None:
    room = Room()
    end, worker = room.ends[1], room.workers[1]

    def fail(*_: object) -> Any:
        raise KeyError("a bug")

    async def fail_later(question: str, argument: str) -> tuple[str, str]:
        fail()
        return "", ""

    worker.answers = fail
    end._office.ask_others = fail_later  # type: ignore[method-assign]
    ask = worker.end.ask_others if of_supervisor else end.ask
    asked = Deferred.fromCoroutine(ask("sites", "null"))
    room.run()
    assert result(asked) == ("", "KeyError: 'a bug'")
    assert end.is_open
    assert not worker.is_abandoned


class Guest:
    """A connection, as far as stress concerns it."""

    def __init__(self) -> None:
        self.hurried = 0

    def hurry(self) -> None:
        self.hurried += 1


def test_stress_is_that_of_all_workers() -> None:
    room = Room()
    settings: Any = SimpleNamespace(name="mx", max_connections=10, max_connections_per_client=100)
    client = Client(ip_address("192.0.2.1"), 1)
    one, two = (Listener(settings, room.shared(number).tally) for number in (0, 1))
    many, few = [Guest() for _ in range(7)], [Guest() for _ in range(3)]
    for guest in many:
        assert one.admit(cast(Any, guest), client) is None
    for guest in few[:1]:
        assert two.admit(cast(Any, guest), client) is None
    room.run()
    assert (one.is_stressed, two.is_stressed) == (False, False)
    for guest in few[1:]:
        assert two.admit(cast(Any, guest), client) is None
    room.run()
    assert (one.is_stressed, two.is_stressed) == (True, True)
    assert [guest.hurried for guest in many] == [1] * 7
    assert two.admit(cast(Any, Guest()), client) is not None
    for guest in few:
        two.left(cast(Any, guest), None, "", 0)
    room.run()
    assert (one.is_stressed, two.is_stressed) == (False, False)
    for guest in few:
        two.admit(cast(Any, guest), client)
    room.run()
    assert one.is_stressed
    room.leave(1)
    room.run()
    assert not one.is_stressed


def test_a_line_that_breaks() -> None:
    room = Room()
    end, worker = room.ends[0], room.workers[0]
    asked = Deferred.fromCoroutine(end.drain())
    room.shared(0).tally.add("open", 1)
    counted = room.shared(0).counters.hit("key", 60.0)
    room.cut(0)
    assert worker.is_abandoned
    assert not end.is_open
    assert result(asked).check(ConnectionDone)
    # Who waits for an answer does not wait for ever.
    assert result(counted).check(ConnectionDone)
    assert result(room.shared(0).slots.spend("mx", 1.0)).check(ConnectionDone)
    end.send(["wanted", "mx"])
    room.shared(0).slots.acquire("mx", 1, nobody)
    room.run()
