"""Hosts that are unwell are asked last, until a probe finds them well; how large a message hosts take is learnt."""

from __future__ import annotations

from itertools import pairwise

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from mailgate.relay.attempt import IConnection, Target
from mailgate.relay.ready.host_watch import HostWatch
from mailgate.relay.sizes import LearntSizes
from mailgate.reply import Reply
from tests.unit.relaying import Connection, NextHop, failures_logged, refuse
from tests.unit.test_site import DELIVERED, ONE, TWO, Bench, outcome

BUSY = Reply.of(421, "4.3.2", "Service not active")


class Stand:
    """A watch, and three hosts of which some can be connected to."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.watch = HostWatch(self.clock.seconds)
        self.hosts = [Target(name, f"192.0.2.{number}", 25) for number, name in enumerate("abc", 1)]
        self.down: set[str] = set()
        self.probed: list[str] = []
        self.made: list[Connection] = []
        self.waits: Deferred[IConnection] | None = None

    def probe(self, target: Target) -> Deferred[IConnection]:
        self.probed.append(target.host)
        if self.waits is not None:
            return self.waits
        if target.host in self.down:
            return fail(refuse(target))
        self.made.append(Connection(NextHop(), target))
        return succeed(self.made[-1])

    def order(self) -> str:
        return "".join(one.host for one in self.watch.order("exchange", self.hosts, self.probe))

    def unwell(self, *names: str) -> None:
        self.down |= set(names)
        for host in self.hosts:
            if host.host in names:
                self.watch.unwell("exchange", str(host))


def test_hosts_that_are_well_come_first_in_their_order() -> None:
    stand = Stand()
    assert stand.order() == "abc"
    stand.unwell("a")
    assert stand.order() == "bca"
    stand.unwell("b")
    assert stand.order() == "cab"
    stand.watch.well("exchange", str(stand.hosts[0]))
    assert stand.order() == "acb"
    assert stand.probed == []


def test_where_nobody_is_well_they_are_asked_in_their_order_and_not_probed() -> None:
    stand = Stand()
    stand.unwell("a", "b", "c")
    stand.clock.advance(1000)
    assert (stand.order(), stand.probed) == ("abc", [])


def test_a_probe_brings_a_host_back_and_nobody_waits_for_it() -> None:
    stand = Stand()
    stand.unwell("a")
    stand.clock.advance(29)
    assert (stand.order(), stand.probed) == ("bca", [])
    stand.clock.advance(1)
    stand.waits = Deferred()
    assert stand.order() == "bca"
    assert stand.order() == "bca"
    assert stand.probed == ["a"]
    connection = Connection(NextHop(), stand.hosts[0])
    stand.waits.callback(connection)
    assert (stand.order(), connection.is_closed) == ("abc", True)


def test_probes_of_a_host_that_stays_away_become_rare() -> None:
    stand = Stand()
    stand.unwell("a")
    times = []
    for _ in range(1200):
        stand.clock.advance(1)
        before = len(stand.probed)
        stand.order()
        if len(stand.probed) > before:
            times.append(int(stand.clock.seconds()))
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert gaps == [60, 120, 240, 300, 300]
    stand.down.clear()
    stand.clock.advance(300)
    stand.order()
    assert stand.order() == "abc"


def test_a_probe_that_fails_in_another_way_is_told_and_no_end() -> None:
    stand = Stand()
    stand.unwell("a")
    stand.clock.advance(30)
    stand.waits = fail(RuntimeError("a bug"))
    with failures_logged() as told:
        stand.order()
    assert told == ["a bug"]
    assert stand.order() == "bca"


def test_memory_is_bounded() -> None:
    watch = HostWatch(lambda: 0.0)
    for number in range(3000):
        watch.unwell("r", f"h{number}")
    assert len(watch._unwell) == 1000
    hosts = [Target("old", "192.0.2.1", 25), Target("new", "192.0.2.2", 25)]
    watch.unwell("r", str(hosts[1]))
    assert [one.host for one in watch.order("r", hosts, Stand().probe)] == ["old", "new"]
    watch.unwell("r", str(hosts[0]))
    watch.well("r", str(hosts[1]))
    assert [one.host for one in watch.order("r", hosts, Stand().probe)] == ["new", "old"]


# -- in a site


def test_mail_does_not_wait_for_a_host_that_is_in_maintenance() -> None:
    bench = Bench(preset="exchange", idle_timeout="1s")
    bench.down(ONE, reply=BUSY, stage="greeting")
    for _ in range(3):
        assert outcome(bench.send()).kind is DELIVERED
        bench.clock.advance(2)
    assert bench.hop.targets == [ONE, TWO, TWO, TWO]
    bench.hop.connecting = lambda target: None
    bench.clock.advance(30)
    bench.send()
    bench.clock.advance(2)
    assert bench.hop.targets[4:] == [ONE, TWO]
    bench.send()
    assert bench.hop.targets[6:] == [ONE]


def test_other_routes_ask_their_hosts_in_order() -> None:
    bench = Bench(idle_timeout="1s")
    bench.down(ONE)
    for _ in range(2):
        bench.send()
        bench.clock.advance(2)
    assert bench.hop.targets == [ONE, TWO, ONE, TWO]


# -- sizes


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, 50 * MIB),
        ({"a": 36 * MIB}, 36 * MIB - 16 * 1024),
        ({"a": 36 * MIB, "b": 10 * MIB}, 10 * MIB - 16 * 1024),
        ({"a": 0}, 50 * MIB),
        ({"a": 0, "b": 10 * MIB}, 10 * MIB - 16 * 1024),
        ({"a": 100 * MIB}, 50 * MIB),
        ({"a": 10}, 64 * 1024),
    ],
)
def test_the_smallest_host_and_the_policy_decide(said: dict[str, int], expected: int) -> None:
    sizes = LearntSizes(Clock().seconds)
    for host, size in said.items():
        sizes.learn("exchange", host, size)
    sizes.learn("other", "c", 70 * 1024)
    assert sizes.limit(["exchange", "unknown"], 50 * MIB) == expected


def test_the_latest_word_of_a_host_counts_and_hosts_are_bounded() -> None:
    sizes = LearntSizes(Clock().seconds)
    sizes.learn("exchange", "a", 10 * MIB)
    sizes.learn("exchange", "a", 20 * MIB)
    assert sizes.limit(["exchange"], 50 * MIB) == 20 * MIB - 16 * 1024
    for number in range(100):
        sizes.learn("exchange", f"h{number}", 30 * MIB)
    assert sizes.limit(["exchange"], 50 * MIB) == 30 * MIB - 16 * 1024
    sizes.learn("exchange", "new", 1 * MIB)
    assert sizes.limit(["exchange"], 50 * MIB) == 1 * MIB - 16 * 1024


def test_a_host_that_is_gone_does_not_limit_mail_for_ever() -> None:
    clock = Clock()
    sizes = LearntSizes(clock.seconds)
    sizes.learn("exchange", "old", 1 * MIB)
    clock.advance(86_000)
    sizes.learn("exchange", "new", 30 * MIB)
    assert sizes.limit(["exchange"], 50 * MIB) == 1 * MIB - 16 * 1024
    clock.advance(1_000)
    assert sizes.limit(["exchange"], 50 * MIB) == 30 * MIB - 16 * 1024
