"""Which address a message goes out from, and how much a new one may send."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from mailgate.config.schema import SmtpRoute, WarmUpSection
from mailgate.interfaces import SpoolError
from mailgate.relay.counts import Counts
from mailgate.relay.sources import SYSTEM, Capped, Source, Sources, daily_cap
from mailgate.relay.warm_up import DAY, WarmUp
from tests.unit.relaying import configuration

NOON = datetime(2026, 12, 3, 12, tzinfo=UTC).timestamp()
ROUTE = SmtpRoute(transport="smtp", pool="out")
PLAN = {"start": date(2026, 12, 1), "first": 2, "factor": 2.0, "days": 5}  # 8 on the third day
A, B, C = {"address": "192.0.2.1"}, {"address": "192.0.2.2"}, {"address": "192.0.2.3"}


class Shelf:
    """The counters of a spool, and nothing else of it."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()
        self.writes = 0
        self.error = ""
        self.held: Deferred[None] | None = None

    def add_counts(self, amounts: Mapping[str, int]) -> Deferred[None]:
        self.writes += 1
        if self.error:
            return fail(SpoolError(self.error))
        self.kept.update(amounts)
        if self.held is not None:
            return self.held
        return succeed(None)

    def counts(self, prefix: str) -> Deferred[Mapping[str, int]]:
        if self.error:
            return fail(SpoolError(self.error))
        return succeed({key: amount for key, amount in self.kept.items() if key.startswith(prefix)})


class Bench:
    def __init__(self, shelf: Shelf | None = None, *, worker: int = 0, workers: int = 1, **pool: int) -> None:
        self.clock = Clock()
        self.clock.advance(NOON)
        self.shelf = shelf or Shelf()
        self.warm_up = WarmUp(self.shelf, self.clock, worker=worker, workers=workers)  # type: ignore[arg-type]  # as much as is asked
        self.pool = pool or {"a": 1, "b": 1}
        self.warm_up.start()

    def sources(self, **more: dict[str, Any]) -> Sources:
        sections = {"a": A, "b": B, "c": C} | more
        config = configuration(sources=sections, pools={"out": {"sources": self.pool}})
        return Sources(config, self.warm_up)

    def send(self, sources: Sources, number: int, *, start: int = 0) -> Counter[str]:
        """Send messages, one after another: how many by which source ("" where none may)."""
        sent: Counter[str] = Counter()
        for one in range(start, start + number):
            chosen = sources.choose(ROUTE, f"0Q{one}")
            sent["" if isinstance(chosen, Capped) else chosen.name] += 1
            if isinstance(chosen, Source):
                sources.settle(chosen.name, sent=True)
        return sent


def chosen(sources: Sources, queue_id: str, kept: str = "") -> str:
    one = sources.choose(ROUTE, queue_id, kept)
    assert isinstance(one, Source)
    return one.name


# -- choosing


def test_without_a_pool_the_system_chooses_and_nothing_is_counted() -> None:
    bench = Bench()
    assert bench.sources().choose(SmtpRoute(transport="smtp"), "0Q") is SYSTEM
    assert bench.clock.getDelayedCalls() == []


def test_a_route_may_name_one_source() -> None:
    one = Bench().sources(a={"address6": "2001:db8::1", "hostname": "out.example.org"})
    found = one.choose(SmtpRoute(transport="smtp", pool="a"), "0Q")
    assert found == Source("a", None, IPv6Address("2001:db8::1"), "out.example.org")


def test_a_source_has_what_its_section_says() -> None:
    one = Bench(a=1).sources(a={"address": "192.0.2.7", "address6": "2001:db8::7"})
    assert one.choose(ROUTE, "0Q") == Source("a", IPv4Address("192.0.2.7"), IPv6Address("2001:db8::7"), "")


def test_messages_are_shared_by_weight() -> None:
    sent = Bench(a=3, b=1, c=0).send(Bench(a=3, b=1, c=0).sources(), 4000)
    assert set(sent) == {"a", "b"}
    assert 2800 < sent["a"] < 3200


def test_a_message_keeps_to_its_source_and_others_move_no_more_than_they_must() -> None:
    before = Bench(a=1, b=1).sources()
    after = Bench(a=1, b=1, c=1).sources()
    ids = [f"0Q{number}" for number in range(600)]
    assert [chosen(before, one) for one in ids] == [chosen(before, one) for one in ids]
    moved = [(chosen(before, one), chosen(after, one)) for one in ids if chosen(before, one) != chosen(after, one)]
    assert {new for _, new in moved} == {"c"}
    assert 150 < len(moved) < 250


def test_a_retry_keeps_its_source_while_the_pool_has_it() -> None:
    bench = Bench(a=0, b=1)
    one = bench.sources()
    assert chosen(one, "0Q", "a") == "a"
    assert chosen(one, "0Q", "c") == "b"
    assert chosen(one, "0Q", "gone") == "b"


# -- warm-up


@pytest.mark.parametrize(
    ("day", "cap"),
    [
        (datetime(2026, 11, 30, 23, 59, tzinfo=UTC), 0),
        (datetime(2026, 12, 1, 0, 0, tzinfo=UTC), 50),
        (datetime(2026, 12, 1, 23, 59, tzinfo=UTC), 50),
        (datetime(2026, 12, 2, 0, 0, tzinfo=UTC), 75),
        (datetime(2026, 12, 4, 0, 0, tzinfo=UTC), 168),
        (datetime(2026, 12, 30, 0, 0, tzinfo=UTC), 6391701),
        (datetime(2026, 12, 31, 0, 0, tzinfo=UTC), None),
        (datetime(2036, 12, 31, 0, 0, tzinfo=UTC), None),
    ],
)
def test_what_a_plan_allows_a_day(day: datetime, cap: int | None) -> None:
    assert daily_cap(WarmUpSection(start=date(2026, 12, 1)), day.timestamp()) == cap


def test_a_plan_without_an_end_grows_to_no_end_and_does_not_fail() -> None:
    plan = WarmUpSection(start=date(2026, 12, 1), factor=10.0, days=10**9)
    assert (daily_cap(plan, NOON + 3000 * DAY) or 0) > 10**40


def test_a_source_that_is_warmed_up_sends_so_many_and_the_others_the_rest() -> None:
    bench = Bench(a=1, b=1)
    sent = bench.send(bench.sources(a={**A, "warm_up": PLAN}), 100)
    assert sent == {"a": 8, "b": 92}


def test_messages_wait_for_the_next_day_where_no_source_is_left() -> None:
    bench = Bench(a=1)
    one = bench.sources(a={**A, "warm_up": PLAN})
    assert bench.send(one, 10) == {"a": 8, "": 2}
    capped = one.choose(ROUTE, "0Q")
    assert isinstance(capped, Capped)
    assert capped.until == NOON + DAY / 2
    assert "out" in capped.reason
    bench.clock.advance(DAY / 2)
    assert bench.send(one, 20) == {"a": 16, "": 4}
    bench.clock.advance(2 * DAY)
    assert bench.send(one, 100) == {"a": 100}


def test_what_is_under_way_counts_until_it_has_not_been_sent() -> None:
    bench = Bench(a=1)
    one = bench.sources(a={**A, "warm_up": PLAN})
    for _ in range(8):
        assert chosen(one, "0Q") == "a"
    assert isinstance(one.choose(ROUTE, "0Q"), Capped)
    one.settle("a", sent=False)
    assert chosen(one, "0Q") == "a"
    assert isinstance(one.choose(ROUTE, "0Q"), Capped)


def test_a_retry_takes_another_source_where_its_own_has_sent_all() -> None:
    bench = Bench(a=1, b=1)
    one = bench.sources(a={**A, "warm_up": PLAN | {"first": 1, "start": date(2026, 12, 3)}})
    assert chosen(one, "0Q", "a") == "a"
    assert chosen(one, "0Q", "a") == "b"


def test_before_its_first_day_a_source_sends_nothing() -> None:
    bench = Bench(a=1)
    later = bench.sources(a={**A, "warm_up": PLAN | {"start": date(2026, 12, 4)}})
    assert bench.send(later, 3) == {"": 3}


# -- counting


def test_what_was_sent_is_known_after_a_restart() -> None:
    bench = Bench(a=1)
    assert bench.send(bench.sources(a={**A, "warm_up": PLAN}), 5) == {"a": 5}
    Deferred.fromCoroutine(bench.warm_up.stop())
    assert bench.shelf.kept == {"2026-12-03/source/a": 5}
    assert bench.clock.getDelayedCalls() == []
    again = Bench(bench.shelf, a=1)
    assert again.send(again.sources(a={**A, "warm_up": PLAN}), 10) == {"a": 3, "": 7}


def test_a_reload_does_not_begin_the_day_anew() -> None:
    bench = Bench(a=1)
    assert bench.send(bench.sources(a={**A, "warm_up": PLAN}), 6) == {"a": 6}
    assert bench.send(bench.sources(a={**A, "warm_up": PLAN}), 6) == {"a": 2, "": 4}


def test_numbers_are_written_together_now_and_then() -> None:
    bench = Bench(a=1)
    bench.send(bench.sources(), 50)
    assert bench.shelf.writes == 0
    bench.clock.advance(10)
    assert bench.shelf.writes == 1
    assert bench.shelf.kept["2026-12-03/source/a"] == 50
    bench.clock.advance(3600)
    assert bench.shelf.writes == 1


def team(shelf: Shelf, workers: int) -> list[Bench]:
    return [Bench(shelf, worker=number, workers=workers, a=1) for number in range(workers)]


def sent_by(benches: list[Bench], each: int) -> list[int]:
    """How many each sends of so many messages, and of the day's cap."""
    plan = {**A, "warm_up": PLAN}
    return [bench.send(bench.sources(a=plan), each)["a"] for bench in benches]


def stop(benches: list[Bench]) -> None:
    for bench in benches:
        Deferred.fromCoroutine(bench.warm_up.stop())
        assert bench.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("workers", "shares"), [(1, [8]), (2, [4, 4]), (3, [3, 3, 2]), (10, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0])]
)
def test_workers_divide_the_cap_of_the_day(workers: int, shares: list[int]) -> None:
    benches = team(Shelf(), workers)
    assert sent_by(benches, 20) == shares
    for bench in benches:
        bench.clock.advance(10)
    assert sent_by(benches, 20) == [0] * workers
    stop(benches)


def test_a_worker_that_takes_the_place_of_another_goes_on_with_its_share() -> None:
    shelf = Shelf()
    first, second = team(shelf, 2)
    assert sent_by([first, second], 3) == [3, 3]
    stop([second])
    again = Bench(shelf, worker=1, workers=2, a=1)
    assert sent_by([again, first], 20) == [1, 1]


def test_on_the_next_day_all_workers_have_their_shares_of_the_new_cap() -> None:
    benches = team(Shelf(), 2)
    assert sent_by(benches, 20) == [4, 4]
    for bench in benches:
        bench.clock.advance(DAY)
    assert sent_by(benches, 20) == [8, 8]


@given(st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(0, 4), min_size=5, max_size=5)), max_size=4))
def test_the_cap_is_kept_exactly_however_many_workers_there_were(starts: list[tuple[int, list[int]]]) -> None:
    shelf, total = Shelf(), 0
    for workers, amounts in starts:
        benches: list[Bench] = []
        for number in range(workers):  # the later ones start when the first have sent something already
            benches.append(Bench(shelf, worker=number, workers=workers, a=1))
            total += sum(sent_by(benches[-1:], amounts[number]))
            benches[0].clock.advance(10)
        total += sum(sent_by(benches, amounts[-1]))
        stop(benches)
        assert total <= 8
    last = team(shelf, 3)
    total += sum(sent_by(last, 20))
    assert total == 8


def test_nothing_goes_out_from_a_new_source_before_what_it_has_sent_is_known() -> None:
    shelf = Shelf()
    shelf.error = "no disk"
    bench = Bench(shelf, a=1, b=1)
    one = bench.sources(a={**A, "warm_up": PLAN})
    assert bench.send(one, 20) == {"b": 20}
    alone = Bench(shelf, a=1)
    two = alone.sources(a={**A, "warm_up": PLAN})
    capped = two.choose(ROUTE, "0Q")
    assert isinstance(capped, Capped)
    assert 0 < capped.until - NOON < 10
    shelf.error = ""
    alone.clock.advance(5)
    assert chosen(two, "0Q") == "a"


def test_who_starts_twice_reads_as_often_as_who_starts_once() -> None:
    shelf = Shelf()
    shelf.error = "no"
    bench = Bench(shelf)
    bench.warm_up.start()
    assert len(bench.clock.getDelayedCalls()) == 1
    bench.clock.advance(5)
    assert len(bench.clock.getDelayedCalls()) == 1
    shelf.error = ""
    shelf.held = Deferred()
    bench.warm_up.begin("a")
    bench.warm_up.end("a", sent=True)
    first, second = bench.warm_up.start(), bench.warm_up.start()
    assert not first.called
    assert not second.called
    shelf.held.callback(None)
    assert first.called
    assert second.called
    assert bench.warm_up.is_known
    assert bench.clock.getDelayedCalls() == []


def test_numbers_that_cannot_be_written_are_kept() -> None:
    clock, shelf = Clock(), Shelf()
    counts = Counts(shelf, clock)  # type: ignore[arg-type]  # as much as is asked
    shelf.error = "no disk"
    counts.add("bounced/policy", 2)
    done: list[None] = []
    counts.flush().addCallback(done.append)
    assert done == [None]
    assert not counts.is_clean
    counts.add("bounced/policy")
    shelf.error = ""
    clock.advance(10)
    assert shelf.kept == {"1970-01-01/bounced/policy": 3}
    assert counts.is_clean


def test_a_flush_waits_for_what_is_under_way_and_writes_the_rest() -> None:
    clock, shelf = Clock(), Shelf()
    counts = Counts(shelf, clock)  # type: ignore[arg-type]  # as much as is asked
    counts.add("a")
    held = shelf.held = Deferred()
    clock.advance(10)
    counts.add("b")
    done: list[None] = []
    counts.flush().addCallback(done.append)
    assert done == []
    shelf.held = None
    held.callback(None)
    assert done == [None]
    assert shelf.kept == {"1970-01-01/a": 1, "1970-01-01/b": 1}
    assert clock.getDelayedCalls() == []


def test_counters_that_cannot_be_written_do_not_grow_without_end() -> None:
    clock, shelf = Clock(), Shelf()
    counts = Counts(shelf, clock)  # type: ignore[arg-type]  # as much as is asked
    for number in range(20_000):
        counts.add(f"bounced/{number}")
    counts.add("bounced/0")
    counts.flush()
    assert len(shelf.kept) == 10_000
    assert shelf.kept["1970-01-01/bounced/0"] == 2
