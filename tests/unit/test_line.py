"""Who is next in a ready queue."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.envelope import MailParameters
from mailgate.relay.ready.job import LedJob
from mailgate.relay.ready.jobs import Job
from mailgate.relay.ready.line import Line
from tests.unit.relaying import lease


def job(name: str, sender: str = "ann", priority: int | None = None, *, in_turn: bool = False) -> Job:
    one = lease(f"{name}@d.test", sender=f"{sender}@s.test", parameters=MailParameters(priority=priority))
    return Job(one, one.recipients, "out", in_turn=in_turn)


def name(one: Job) -> str:
    return one.recipients[0].address.local_part


def taken(line: Line) -> list[str]:
    found = []
    while line.count:
        found.append(name(line.take()))
    return found


def test_senders_take_turns() -> None:
    line = Line()
    for number in range(4):
        line.add(job(f"ann{number}", "ann"))
    for number in range(2):
        line.add(job(f"bob{number}", "bob"))
    line.add(job("cid0", "cid"))
    assert (line.count, line.senders) == (7, 3)
    assert taken(line) == ["ann0", "bob0", "cid0", "ann1", "bob1", "ann2", "ann3"]
    assert (line.count, line.senders) == (0, 0)


def test_a_higher_priority_goes_before_every_sender_of_a_lower_one() -> None:
    line = Line()
    for one in (job("a", "ann"), job("b", "bob", -4), job("c", "cid", 2), job("d", "ann", 2), job("e", "dan", 9)):
        line.add(one)
    assert taken(line) == ["e", "c", "d", "a", "b"]


def test_who_is_put_back_is_the_next_again() -> None:
    line = Line()
    jobs = [job("a0", "ann"), job("a1", "ann"), job("b0", "bob")]
    for one in jobs:
        line.add(one)
    first = line.take()
    line.put_back(first)
    assert taken(line) == ["a0", "b0", "a1"]
    line.put_back(first)
    assert taken(line) == ["a0"]


def test_what_is_taken_out_leaves_the_others_in_their_order() -> None:
    line = Line()
    for number in range(6):
        line.add(job(f"{number}", f"s{number % 2}", in_turn=number < 2))
    assert line.turned == 2
    out = line.take_where(lambda one: name(one) in ("0", "3"))
    assert sorted(map(name, out)) == ["0", "3"]
    assert (line.count, line.turned) == (4, 1)
    assert taken(line) == ["2", "1", "5", "4"]
    assert line.turned == 0


def test_who_is_next_stays_so_when_others_are_taken_out() -> None:
    line = Line()
    for number in range(3):
        for sender in ("ann", "bob", "eve"):
            line.add(job(f"{sender}{number}", sender))
    assert name(line.take()) == "ann0"
    assert len(line.take_where(lambda one: name(one) == "eve1")) == 1
    assert len(line.trim(5)) == 2
    assert taken(line) == ["bob0", "eve0", "ann1", "bob1", "eve2"]


def test_the_longest_is_trimmed_at_its_end() -> None:
    line = Line()
    for number in range(10):
        line.add(job(f"a{number}", "ann"))
    for number in range(3):
        line.add(job(f"b{number}", "bob"))
    line.add(job("u", "ann", 4))
    line.add(job("a10", "ann", in_turn=True))
    assert [name(one) for one in line.trim(9)] == ["a4", "a5", "a6", "a7", "a8", "a9"]
    assert (line.count, line.turned) == (9, 1)
    assert sorted(map(name, line.trim(0))) == ["a1", "a2", "a3", "b1", "b2"]
    assert taken(line) == ["u", "a0", "a10", "b0"]
    assert line.trim(0) == []


def test_those_that_clients_wait_for_are_not_trimmed() -> None:
    line = Line()
    for number in range(4):
        one = job(f"led{number}").lease
        line.add(LedJob(one, one.recipients, "out"))
        line.add(job(f"a{number}"))
    assert sorted(map(name, line.trim(0))) == ["a1", "a2", "a3"]
    assert taken(line) == ["led0", "led1", "led2", "led3", "a0"]


def test_an_empty_line_has_nobody() -> None:
    line = Line()
    assert line.ahead(job("x")) is None
    with pytest.raises(ValueError, match="max"):
        line.take()


def test_who_came_and_who_has_waited_in_the_spool_take_turns() -> None:
    line = Line()
    for number in range(5):
        line.add(job(f"new{number}", f"s{number}"))
    for number in range(3):
        line.add(job(f"old{number}", "ann", in_turn=True))
    order = taken(line)
    assert order == ["new0", "old0", "new1", "old1", "new2", "old2", "new3", "new4"]
    first, second = job("old", in_turn=True), job("new")
    line.add(second)
    line.put_back(first)
    assert taken(line) == ["old", "new"]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from([None, 0, 3, -2]), st.booleans()), max_size=40))
def test_how_many_are_ahead_is_how_many_go_before(waiting: list[tuple[str, int | None, bool]]) -> None:
    line = Line()
    jobs = [
        job(f"{number}", sender, priority, in_turn=in_turn)
        for number, (sender, priority, in_turn) in enumerate(waiting)
    ]
    for one in jobs:
        line.add(one)
    if jobs:
        jobs.remove(line.take())  # and then it is the turn of the others
    expected = {name(one): line.ahead(one) for one in jobs}
    assert {one: place for place, one in enumerate(taken(line))} == expected


@given(st.lists(st.sampled_from("aaaaaaaabc"), min_size=1, max_size=60))
def test_no_sender_waits_for_more_than_one_job_of_each_other(senders: list[str]) -> None:
    line = Line()
    for number, sender in enumerate(senders):
        line.add(job(f"{sender}{number}", sender))
    order = [one[0] for one in taken(line)]
    left = Counter(senders)
    since: Counter[tuple[str, str]] = Counter()
    for sender in order:
        for other in left:
            if other != sender and left[other]:
                since[other, sender] += 1
                assert since[other, sender] <= 2
            elif other == sender:
                for third in left:
                    since[sender, third] = 0
        left[sender] -= 1
