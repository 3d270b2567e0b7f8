"""The relay: from leases to deliveries and back, on a clock and a spool in memory."""

from __future__ import annotations

import itertools
import random
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import Address
from mailgate.envelope import EnvelopeRecipient, MailParameters
from mailgate.events import Bounced, Delivered, Discarded, Reported
from mailgate.events import Deferred as DeferredEvent
from mailgate.interfaces import (
    Answer,
    AttemptContext,
    Destination,
    DnsStatus,
    EntryView,
    IDeliveryFilter,
    IResolver,
    Lease,
    MaybeVerdict,
    Return,
    Selector,
    SpoolError,
)
from mailgate.message import Content
from mailgate.relay.attempt import Result
from mailgate.relay.destinations import Destinations
from mailgate.relay.locate import Locator
from mailgate.relay.ready.jobs import LEASE_MARGIN, LEASE_TIME, Job
from mailgate.relay.replies.classify import Bounces
from mailgate.relay.routing import Routing
from mailgate.relay.service import REPORTS
from mailgate.reply import Reply
from mailgate.testing import EventRecorder, MemoryResolver, MemorySpool, wait_for
from mailgate.verdict import Accept, Defer, Discard, Quarantine, Reject
from tests.unit.relaying import (
    LATER,
    NO,
    OK,
    Connection,
    FakeTransports,
    by_domain,
    configuration,
    envelope,
    failures_logged,
    make_relay,
    refuse,
    results,
)

ROUTES: dict[str, Any] = {
    "out": {"transport": "smtp", "hosts": ["192.0.2.1"]},
    "box": {"transport": "maildir", "path": "/mail"},
    "internet": {"transport": "smtp"},
}
ZONE: dict[tuple[str, str], Any] = {
    ("a.test", "MX"): [(10, "mx.test")],
    ("b.test", "MX"): [(10, "mx.test")],
    ("c.test", "MX"): [(10, "other.test")],
    ("client.test", "MX"): [(10, "mx.client.test")],
    ("servfail.test", "MX"): DnsStatus.SERVFAIL,
    ("null.test", "MX"): [(0, "")],
    ("mx.test", "A"): [ip_address("192.0.2.10")],
    ("other.test", "A"): [ip_address("192.0.2.11")],
    ("mx.client.test", "A"): [ip_address("192.0.2.12")],
}


class Spool(MemorySpool):
    """Counts what it is asked, and refuses what a test says."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.asked: list[str] = []
        self.refuses: set[str] = set()

    def lease(self, limit: int, until: float, full: Container[Destination] = ()) -> Deferred[Sequence[Lease]]:
        self.asked.append(f"lease {limit}")
        return fail(SpoolError("no")) if "lease" in self.refuses else super().lease(limit, until, full)

    def lease_in_turn(
        self, destination: Destination, limit: int, until: float, without: Sequence[str] = ()
    ) -> Deferred[Sequence[Lease]]:
        self.asked.append(f"turn {destination.domain} {limit}")
        if "lease" in self.refuses:
            return fail(SpoolError("no"))
        return super().lease_in_turn(destination, limit, until, without)

    def record(self, lease: Lease, *more: Any) -> Deferred[None]:
        self.asked.append("record")
        refused = self.refuses & {"record", lease.envelope.queue_id}
        return fail(SpoolError("no")) if refused else super().record(lease, *more)

    def release_leases(self, returns: Sequence[Return]) -> Deferred[None]:
        self.asked.append("give back")
        return fail(SpoolError("no")) if "give back" in self.refuses else super().release_leases(returns)


class Bench:
    def __init__(self, *, start: bool = True, delivery_filter: Any = None, **sections: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000.0)
        self.spool = Spool(self.clock)
        self.resolver = MemoryResolver(ZONE)
        self.transports = FakeTransports()
        self.hop = self.transports.hop
        self.events = EventRecorder()
        self.ids = itertools.count()
        self.held: list[tuple[Deferred[list[Result]], Sequence[EnvelopeRecipient]]] = []
        self.config = configuration(**({"routes": ROUTES} | sections))
        self.relay = make_relay(
            self.spool,
            self.config,
            transports=self.transports,
            locator=Locator(self.resolver, "gw.example.org", random.Random(1)),
            events=self.events,
            clock=self.clock,
            random=random.Random(1),
            delivery_filter=delivery_filter,
        )
        if start:
            self.start()

    def ask(self, resolver: IResolver) -> None:
        """From now on the relay asks this one."""
        locator = Locator(resolver, "gw.example.org", random.Random(1))
        self.relay._destinations._tools = replace(self.relay._destinations._tools, locator=locator)

    def start(self) -> None:
        self.relay.start()
        self.pump()

    def pump(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        for _ in range(20):
            self.clock.advance(0)

    def accept(self, *recipients: str, route: str = "out", **more: Any) -> str:
        """Take a message, as the intake does; its queue id."""
        more.setdefault("queue_id", f"{next(self.ids):04}Q")
        addressed = [
            EnvelopeRecipient(number, Address.parse(one), route)
            for number, one in enumerate(recipients or ("bob@a.test",))
        ]
        return self.take(*addressed, **more)

    def take(self, *recipients: EnvelopeRecipient, **more: Any) -> str:
        one = envelope(*recipients, **({"received": self.clock.seconds()} | more))
        lease = wait_for(self.spool.accept(one, Content(b"hello"), self.clock.seconds() + LEASE_TIME))
        self.relay.deliver(lease)
        return one.queue_id

    def put(self, *recipients: str, route: str = "out", **more: Any) -> str:
        """Put a message into the spool as one that was there before."""
        queue_id = f"{next(self.ids):04}Q"
        addressed = [EnvelopeRecipient(number, Address.parse(one), route) for number, one in enumerate(recipients)]
        values: dict[str, Any] = {"queue_id": queue_id, "received": self.clock.seconds(), **more}
        one = envelope(*addressed, **values)
        lease = wait_for(self.spool.accept(one, Content(b"hello"), self.clock.seconds() + LEASE_TIME))
        if lease.recipients:
            wait_for(MemorySpool.release_leases(self.spool, [Return(lease)]))
        return queue_id

    def view(self, **selector: Any) -> Sequence[EntryView]:
        return wait_for(self.spool.view(Selector(**selector), 5000))

    def states(self) -> dict[str, str]:
        return {one.recipient: one.state for one in self.view()}

    def hold(self) -> None:
        def answer(connection: Connection, recipients: Sequence[EnvelopeRecipient]) -> Deferred[list[Result]]:
            self.held.append((Deferred(), recipients))
            return self.held[-1][0]

        self.hop.answer = answer

    def release(self, reply: Reply = OK) -> None:
        waited, recipients = self.held.pop(0)
        waited.callback(results(recipients, reply))

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.relay.stop())

    def reload(self, delivery_filter: IDeliveryFilter | None = None, **sections: Any) -> None:
        self.config = configuration(**sections)
        self.relay.reload(self.config, Routing(self.config), delivery_filter, Bounces())


# -- the way of a message


def test_a_fresh_message_is_delivered_from_its_first_lease() -> None:
    bench = Bench()
    bench.spool.asked.clear()
    bench.accept()
    assert bench.hop.taken == ["bob@a.test"]
    assert bench.view() == []
    assert bench.spool.asked == ["record"]
    assert len(bench.events.of(Delivered)) == 1


def test_what_is_due_is_delivered_at_the_start() -> None:
    bench = Bench(start=False)
    bench.put("old@a.test")
    assert bench.hop.taken == []
    bench.start()
    assert bench.hop.taken == ["old@a.test"]
    assert bench.view() == []


def test_what_comes_before_the_start_waits_for_it() -> None:
    bench = Bench(start=False)
    bench.accept()
    bench.pump()
    assert bench.hop.taken == []
    assert bench.states() == {"bob@a.test": "queued"}
    bench.start()
    assert bench.hop.taken == ["bob@a.test"]


def test_a_deferred_message_is_tried_again_when_it_is_due() -> None:
    bench = Bench(routes={"out": ROUTES["out"] | {"retry": {"first": "5m", "longest": "10m"}}})
    bench.hop.answer = by_domain({"a.test": LATER})
    bench.accept("bob@a.test", "eve@b.test")
    assert bench.states() == {"bob@a.test": "queued"}
    attempts = [1]
    for wait in (300, 600, 600):
        (entry,) = bench.view()
        due = entry.next_attempt
        assert 0.85 * wait <= due - bench.clock.seconds() <= 1.1 * wait + 1
        bench.pump(due - bench.clock.seconds() - 0.5)
        assert bench.view()[0].attempts == attempts[-1]
        bench.pump(0.6)
        attempts.append(bench.view()[0].attempts)
    assert attempts == [1, 2, 3, 4]
    bench.hop.answer = by_domain({})
    bench.pump(700)
    assert bench.view() == []
    assert [event.attempt for event in bench.events.of(Delivered)] == [1, 5]
    assert bench.hop.taken.count("eve@b.test") == 1


def test_a_deferred_message_does_not_wait_for_a_later_one() -> None:
    bench = Bench(routes={"out": ROUTES["out"], "box": ROUTES["box"] | {"retry": {"first": "1m"}}})
    bench.hop.answer = by_domain({"a.test": LATER, "b.test": LATER})
    bench.accept("slow@a.test")
    bench.accept("quick@b.test", route="box")
    bench.pump(70)
    assert bench.hop.taken == ["slow@a.test", "quick@b.test", "quick@b.test"]


def test_a_refusal_is_returned_to_the_sender() -> None:
    bench = Bench()
    bench.hop.answer = by_domain({"a.test": NO})
    queue_id = bench.accept()
    bench.pump()
    assert bench.hop.taken == ["bob@a.test", "ann@client.test"]
    assert bench.view() == []
    (bounced,) = bench.events.of(Bounced)
    (delivered,) = bench.events.of(Delivered)
    assert (bounced.queue_id, bounced.report) == (queue_id, delivered.queue_id)
    assert (delivered.sender, delivered.route) == ("", REPORTS)


def test_reports_go_by_the_configuration_where_it_says_how() -> None:
    domains = {"client.test": {"route": "out"}}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"domains": domains}, "out"),
        ({"routing": {"default": "internet"}}, "internet"),
        ({"domains": domains, "routing": {"recipients": {"ann@client.test": "box"}}}, "box"),
        ({"routing": {"senders": {"ann@client.test": "box"}}}, REPORTS),
    ]
    for sections, route in cases:
        bench = Bench(**sections)
        bench.hop.answer = by_domain({"a.test": NO})
        bench.accept()
        bench.pump()
        (delivered,) = bench.events.of(Delivered)
        assert delivered.route == route


def test_a_report_that_is_refused_is_the_end() -> None:
    bench = Bench()
    bench.hop.answer = by_domain({"a.test": NO, "client.test": NO})
    bench.accept()
    bench.pump()
    assert bench.hop.taken == ["bob@a.test", "ann@client.test"]
    assert bench.view() == []
    assert [event.report != "" for event in bench.events.of(Bounced)] == [True, False]


def test_an_expired_message_is_returned() -> None:
    bench = Bench()
    bench.hop.answer = by_domain({"a.test": LATER})
    bench.accept()
    for _ in range(200):
        bench.pump(3600)
    assert bench.view() == []
    (bounced,) = bench.events.of(Bounced)
    assert bounced.reason.startswith("given up after")
    # The last attempt was at the end of five days, and not before.
    assert 5 * 86400 - 1 < bounced.at - 1_000_000 < 5 * 86400 + 3601
    # Ann was told twice: that it is late, and that it was given up.
    (late,) = bench.events.of(Reported)
    assert (late.kind, late.recipients) == ("delayed", (bounced.recipient,))
    assert 4 * 3600 <= late.at - 1_000_000 < 9 * 3600
    assert [one.queue_id for one in bench.events.of(Delivered)] == [late.report, bounced.report]


def test_a_message_for_later_wakes_the_relay_then() -> None:
    bench = Bench()
    later = bench.clock.seconds() + 86400.0
    one = envelope("bob@a.test", received=bench.clock.seconds(), parameters=MailParameters(release_at=later))
    lease = wait_for(bench.spool.accept(one, Content(b"hello"), bench.clock.seconds() + LEASE_TIME))
    bench.relay.deliver(lease)
    bench.relay.kick()
    bench.pump(0)
    bench.pump(86399)
    assert bench.hop.taken == []
    bench.pump(1)
    assert bench.hop.taken == ["bob@a.test"]
    assert bench.view() == []


# -- destinations


def test_recipients_are_sorted_by_destination() -> None:
    bench = Bench()
    bench.take(
        EnvelopeRecipient(0, Address.parse("one@a.test"), "out"),
        EnvelopeRecipient(1, Address.parse("two@a.test"), "internet"),
        EnvelopeRecipient(2, Address.parse("three@c.test"), "internet"),
        EnvelopeRecipient(3, Address.parse("four@b.test"), "internet"),
        EnvelopeRecipient(4, Address.parse("five@elsewhere.test"), "out"),
        EnvelopeRecipient(5, Address.parse("six@c.test"), "box"),
        EnvelopeRecipient(6, Address.parse("seven@a.test"), "internet"),
    )
    bench.pump()
    groups = [[str(one.address.local_part) for one in recipients] for _, recipients in bench.hop.asked]
    assert sorted(groups) == [["four"], ["one", "five"], ["six"], ["three"], ["two", "seven"]]
    assert bench.view() == []
    hosts = {one.address.local_part: connection.target.host for connection, group in bench.hop.asked for one in group}
    assert hosts["two"] == hosts["four"] == "mx.test"
    assert hosts["three"] == "other.test"


def test_recipients_with_reverse_paths_of_their_own_go_apart() -> None:
    bench = Bench()
    ours, other = Address("SRS0=a", "gw.test"), Address("SRS0=b", "gw.test")
    bench.take(
        EnvelopeRecipient(0, Address.parse("one@a.test"), "out", return_path=ours),
        EnvelopeRecipient(1, Address.parse("two@a.test"), "out"),
        EnvelopeRecipient(2, Address.parse("three@a.test"), "out", return_path=ours),
        EnvelopeRecipient(3, Address.parse("four@a.test"), "out", return_path=other),
        EnvelopeRecipient(4, Address.parse("five@a.test"), "out"),
    )
    bench.pump()
    groups = [[str(one.address.local_part) for one in recipients] for _, recipients in bench.hop.asked]
    assert sorted(groups) == [["four"], ["one", "three"], ["two", "five"]]
    assert bench.view() == []


def test_domains_with_one_host_share_its_connection() -> None:
    bench = Bench()
    bench.accept("x@a.test", route="internet")
    bench.accept("x@b.test", route="internet")
    bench.accept("x@c.test", route="internet")
    assert bench.hop.targets == ["192.0.2.10", "192.0.2.11"]


def test_a_slow_destination_holds_up_no_other() -> None:
    bench = Bench(routes=ROUTES | {"out": ROUTES["out"] | {"connections": 1}})
    bench.hold()
    for number in range(5):
        bench.accept(f"u{number}@a.test")
    bench.hop.answer = by_domain({})
    bench.accept("quick@c.test", route="internet")
    assert bench.hop.taken == ["u0@a.test", "quick@c.test"]
    bench.release()
    assert len(bench.hop.taken) == 6
    assert bench.view() == []


def test_a_thousand_recipients_go_a_hundred_at_a_time() -> None:
    bench = Bench()
    bench.accept(*(f"u{number}@a.test" for number in range(1000)))
    bench.pump()
    assert [len(recipients) for _, recipients in bench.hop.asked] == 10 * [100]
    assert len(set(bench.hop.taken)) == 1000
    assert bench.view() == []


def test_a_thousand_recipients_come_back_in_parts() -> None:
    bench = Bench(start=False)
    bench.put(*(f"u{number}@a.test" for number in range(1200)))
    bench.start()
    assert len(bench.hop.taken) == len(set(bench.hop.taken)) == 1200
    assert bench.view() == []
    assert [one for one in bench.spool.asked if one != "record"] == 4 * ["lease 500"]


@pytest.mark.parametrize(
    ("domain", "kind", "status"),
    [
        ("nowhere.test", Bounced, "5.1.2"),
        ("null.test", Bounced, "5.1.10"),
        ("servfail.test", DeferredEvent, "4.4.3"),
    ],
)
def test_what_dns_says_of_a_domain_is_the_outcome(domain: str, kind: Any, status: str) -> None:
    bench = Bench()
    bench.accept(f"x@{domain}", "y@a.test", route="internet")
    (event,) = bench.events.of(kind)
    assert (event.recipient, event.host, event.attempt) == (f"x@{domain}", "", 1)
    assert status in event.reply
    assert bench.hop.taken[0] == "y@a.test"


def test_a_resolver_that_breaks_defers() -> None:
    class Broken(MemoryResolver):
        def resolve(self, name: str, rdtype: str) -> Any:
            return fail(ZeroDivisionError("a bug"))

    bench = Bench()
    bench.ask(Broken())
    with failures_logged() as logged:
        bench.accept("x@a.test", route="internet")
    assert logged == ["a bug"]
    assert bench.states() == {"x@a.test": "queued"}
    (event,) = bench.events.of(DeferredEvent)
    assert "a bug" not in event.reply


# -- routes that are gone


def test_a_route_that_is_gone_is_chosen_anew_for_each_recipient() -> None:
    bench = Bench(
        start=False,
        domains={"a.test": {"route": "out"}, "b.test": {"route": "box"}},
        routing={"default": "internet"},
    )
    bench.put("one@a.test", "two@b.test", "three@c.test", route="old")
    bench.start()
    assert {(event.recipient, event.route) for event in bench.events.of(Delivered)} == {
        ("one@a.test", "out"),
        ("two@b.test", "box"),
        ("three@c.test", "internet"),
    }
    hosts = {group[0].address.local_part: connection.target.host for connection, group in bench.hop.asked}
    assert hosts == {"one": "192.0.2.1", "two": "local", "three": "other.test"}


def test_where_no_route_is_left_the_message_waits_for_one() -> None:
    bench = Bench(start=False)
    bench.put("x@c.test", route="old")
    bench.start()
    (event,) = bench.events.of(DeferredEvent)
    assert "4.3.5" in event.reply
    assert bench.states() == {"x@c.test": "queued"}
    bench.reload(routes=ROUTES, routing={"default": "internet"})
    bench.pump(400)
    assert bench.hop.taken == ["x@c.test"]


def test_a_report_whose_route_is_gone_goes_by_mx() -> None:
    bench = Bench(start=False)
    bench.put("ann@client.test", route="old", sender="", client="")
    bench.put("bob@client.test", route="old", sender="")
    bench.start()
    assert bench.hop.taken == ["ann@client.test"]
    assert bench.states() == {"bob@client.test": "queued"}


# -- refused for some, taken for others


def test_those_refused_at_arrival_are_returned_in_one_report_without_an_attempt() -> None:
    bench = Bench()
    bench.take(
        EnvelopeRecipient(0, Address.parse("good@a.test"), "out"),
        EnvelopeRecipient(1, Address.parse("bad@a.test"), "out", refusal="550 5.7.1 no such thing here"),
        EnvelopeRecipient(2, Address.parse("worse@b.test"), "box", refusal="554 5.7.0 nor there"),
        queue_id="MIXED",
    )
    bench.pump()
    assert bench.hop.taken == ["good@a.test", "ann@client.test"]
    assert {(event.recipient, event.reply) for event in bench.events.of(Bounced)} == {
        ("bad@a.test", "550 5.7.1 no such thing here"),
        ("worse@b.test", "554 5.7.0 nor there"),
    }
    assert len({event.report for event in bench.events.of(Bounced)}) == 1
    assert bench.view() == []


def test_a_message_that_cannot_be_sorted_stays_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(start=False)
    bench.put("bad@a.test")
    bench.put("good@a.test")
    found = Destinations.put

    def put(destinations: Destinations, job: Job) -> None:
        if job.recipients[0].address.local_part == "bad":
            raise RuntimeError("a bug")
        found(destinations, job)

    monkeypatch.setattr(Destinations, "put", put)
    with failures_logged() as logged:
        bench.start()
    assert len(logged) == 1
    assert bench.hop.taken == ["good@a.test"]
    assert bench.states() == {"bad@a.test": "leased"}
    with failures_logged() as logged:
        bench.pump(LEASE_TIME + 1)
    assert len(logged) == 1  # not more often than its lease ends


def test_a_refusal_that_is_no_reply_is_a_refusal_all_the_same() -> None:
    bench = Bench()
    bad = EnvelopeRecipient(0, Address.parse("bad@a.test"), "out", refusal="not a reply")
    bench.take(bad, EnvelopeRecipient(1, Address.parse("good@a.test"), "out"))
    bench.pump()
    assert "good@a.test" in bench.hop.taken
    (bounced,) = bench.events.of(Bounced)
    assert bounced.recipient == "bad@a.test"
    assert "bad@a.test" not in bench.states()


def test_what_has_a_job_here_is_not_delivered_twice_when_the_clock_jumps() -> None:
    bench = Bench()
    bench.hop.answer = by_domain({"later.test": LATER})
    bench.accept("first@later.test")  # the next look into the spool is in some minutes
    bench.hold()
    for number in range(60):
        bench.accept(f"u{number}@a.test")
    bench.pump(3 * 3600)
    while bench.held:
        bench.release()
        bench.pump()
    assert sorted(bench.hop.taken.count(f"u{number}@a.test") for number in range(60)) == [1] * 60
    assert len([one for one in bench.events.of(Delivered) if one.recipient.endswith("@a.test")]) == 60


def test_what_the_spool_would_not_take_back_is_given_back_later() -> None:
    bench = Bench(start=False)
    bench.spool.refuses.add("give back")
    bench.accept("bob@a.test")  # before it runs: nobody delivers yet
    bench.start()
    bench.accept("other@a.test")
    assert bench.hop.taken == ["other@a.test"]
    assert bench.states() == {"bob@a.test": "leased"}
    bench.spool.refuses.clear()
    bench.pump(6)
    assert bench.hop.taken == ["other@a.test", "bob@a.test"]


# -- delivery filters


@implementer(IDeliveryFilter)
class Filter:
    """Answers by the recipient's local part."""

    def __init__(self, verdicts: Mapping[str, Any]) -> None:
        self.verdicts = verdicts
        self.asked: list[AttemptContext] = []

    def on_attempt(self, attempt: AttemptContext) -> Any:
        self.asked.append(attempt)
        return self.verdicts.get(attempt.recipients[0].address.local_part)


def test_a_filter_is_asked_about_each_job() -> None:
    judge = Filter({})
    bench = Bench(delivery_filter=judge)
    bench.accept("one@a.test", "two@a.test")
    bench.accept("three@c.test", route="internet")
    assert [(one.route, one.attempt, len(one.recipients)) for one in judge.asked] == [("out", 1, 2), ("internet", 1, 1)]
    assert len(bench.hop.taken) == 3


def test_the_verdicts_of_a_filter() -> None:
    no, later = Reply.of(550, "5.7.1", "not today"), Reply.of(451, "4.7.1", "not now")
    late: Deferred[MaybeVerdict] = Deferred()
    judge = Filter(
        {
            "reject": Reject(no, "private"),
            "defer": Defer(later, "private"),
            "accept": Accept(),
            "quarantine": Quarantine("too late for that"),
            "discard": Discard("and for that"),
            "late": late,
        }
    )
    bench = Bench(delivery_filter=judge)
    for name in ("reject", "defer", "accept", "quarantine", "discard", "late"):
        bench.accept(f"{name}@a.test")
    assert [one.partition("@")[0] for one in bench.hop.taken] == ["accept", "quarantine"]
    (dropped,) = bench.events.of(Discarded)
    assert (dropped.recipients, dropped.reason) == (("discard@a.test",), "and for that")
    (bounced,), (deferred,) = bench.events.of(Bounced), bench.events.of(DeferredEvent)
    assert (bounced.recipient, bounced.reply, bounced.reason) == ("reject@a.test", str(no), "private")
    assert (deferred.recipient, deferred.reply) == ("defer@a.test", str(later))
    late.callback(None)
    assert bench.hop.taken[2] == "late@a.test"
    bench.pump(400)
    assert judge.asked[-1].attempt == 2


def test_a_filter_names_single_recipients() -> None:
    no, later = Reply.of(550, "5.7.1", "not today"), Reply.of(451, "4.7.1", "not now")
    addresses = [Address(name, "a.test") for name in ("one", "two", "three", "four", "five")]

    def asked(attempt: AttemptContext) -> MaybeVerdict:
        there = {one.address for one in attempt.recipients}
        for verdict in (
            Reject(no, "private", recipients=(addresses[0],)),
            Defer(later, "private", recipients=(addresses[1],)),
            Discard("private", recipients=(addresses[2],)),
        ):
            if there.intersection(verdict.recipients):
                return verdict
        return Reject(no, "of others", recipients=(Address("else", "a.test"),))

    judge = Filter({})
    judge.on_attempt = asked  # type: ignore[method-assign]
    bench = Bench(delivery_filter=judge)
    bench.accept(*map(str, addresses))
    assert bench.hop.taken == ["four@a.test", "five@a.test"]
    assert [one.recipient for one in bench.events.of(Bounced)] == ["one@a.test"]
    assert [one.recipients for one in bench.events.of(Discarded)] == [("three@a.test",)]
    assert bench.states()["two@a.test"] == "queued"
    assert bench.relay.room.taken == 0


def test_a_filter_that_fails_defers() -> None:
    judge = Filter({"bob": fail(ZeroDivisionError("a bug"))})
    bench = Bench(delivery_filter=judge)
    with failures_logged() as logged:
        bench.accept()
    assert logged == ["a bug"]
    assert bench.states() == {"bob@a.test": "queued"}
    assert bench.hop.taken == []


def test_a_bug_in_a_filter_or_behind_dns_defers_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: object, **__: object) -> Any:
        raise ZeroDivisionError("a bug")

    late: Deferred[MaybeVerdict] = Deferred()
    for is_filter in (True, False):
        judge = Filter({"late": late})
        bench = Bench(delivery_filter=judge)
        if is_filter:
            monkeypatch.setattr(judge, "on_attempt", stumble)
        else:
            monkeypatch.setattr(bench.relay._destinations._tools.shaping, "limits", stumble)
        with failures_logged() as logged:
            bench.accept("bob@c.test", route="internet")
            if not is_filter:
                bench.accept("late@c.test", route="internet")
                late.callback(None)
            bench.pump()
        assert set(logged) == {"a bug"}
        assert {(one.state, one.attempts) for one in bench.view()} == {("queued", 1)}
        assert bench.relay.room.taken == 0
        monkeypatch.undo()
        bench.pump(700)
        assert bench.view() == []


def test_a_filter_that_answers_after_the_stop_delivers_nothing() -> None:
    late: Deferred[MaybeVerdict] = Deferred()
    bench = Bench(delivery_filter=Filter({"bob": late}))
    bench.accept()
    stopped = bench.stop()
    assert stopped.called
    late.callback(None)
    assert bench.hop.taken == []
    assert bench.states() == {"bob@a.test": "queued"}


# -- room


def test_no_more_messages_are_in_memory_than_the_limit() -> None:
    bench = Bench(spool={"max_active": 100}, routes={"out": ROUTES["out"] | {"connections": 10}})
    bench.hold()
    for number in range(250):
        bench.accept(f"u{number}@a.test")
    bench.pump()
    # A destination leaves room to others.
    assert 50 <= list(bench.states().values()).count("leased") < 90
    most = 0
    while bench.held:
        bench.release()
        bench.pump()
        most = max(most, list(bench.states().values()).count("leased"))
    assert most <= 100
    assert bench.view() == []
    assert len(bench.hop.taken) == len(set(bench.hop.taken)) == 250


def test_no_more_content_is_in_memory_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.relay.service._MOST_OCTETS", 15)  # three of them
    bench = Bench(routes={"out": ROUTES["out"] | {"connections": 10}})
    bench.hold()
    for number in range(5):
        bench.accept(f"u{number}@a.test")
    assert bench.relay._jobs.octets == 15
    bench.pump()
    while bench.held:
        bench.release()
        bench.pump()
    assert bench.view() == []
    assert sorted(one for one in bench.hop.taken) == sorted(set(bench.hop.taken))
    assert len(bench.hop.taken) == 5
    assert bench.relay._jobs.octets == 0


def test_the_spool_is_not_asked_for_every_message_when_there_is_no_room() -> None:
    bench = Bench(spool={"max_active": 100}, routes={"out": ROUTES["out"] | {"connections": 1}})
    bench.hold()
    for number in range(500):
        bench.accept(f"u{number}@a.test")
    bench.spool.asked.clear()
    for _ in range(100):
        bench.release()
        bench.pump()
    assert 1 <= sum(one.startswith("lease") for one in bench.spool.asked) <= 10


def test_many_queued_messages_are_leased_in_portions() -> None:
    bench = Bench(start=False, spool={"max_active": 200})
    for number in range(700):
        bench.put(f"u{number}@a.test")
    bench.hold()
    bench.start()
    assert 100 <= list(bench.states().values()).count("leased") <= 200
    bench.hop.answer = by_domain({})
    while bench.held:
        bench.release()
        bench.pump()
    assert bench.view() == []


def test_a_message_that_is_done_leaves_nothing_in_memory() -> None:
    bench = Bench(start=False)
    bench.put(*(f"u{number}@a.test" for number in range(1200)))
    bench.hold()
    bench.start()
    assert bench.relay.room.taken == 12
    while bench.held:
        bench.release()
        bench.pump()
    assert bench.relay.room.taken == 0
    assert bench.relay.waits("0000Q") == {}


# -- time


def test_what_waits_too_long_for_its_destination_is_leased_anew() -> None:
    bench = Bench(routes={"out": ROUTES["out"] | {"connections": 1}})
    bench.hold()
    bench.accept("slow@a.test")
    bench.accept("late@a.test")
    bench.pump(LEASE_TIME - LEASE_MARGIN + 60)
    bench.release()
    bench.pump()
    assert bench.hop.taken == ["slow@a.test", "late@a.test"]
    assert bench.view()[0].next_attempt > bench.clock.seconds() + LEASE_MARGIN
    bench.release()
    assert bench.view() == []


def test_no_message_is_with_two_hosts_at_once() -> None:
    """However slowly a next hop answers: the attempt ends before its lease does, so that nobody begins another."""
    bench = Bench()
    bench.hold()
    bench.accept()
    for _ in range(3):
        asked = len(bench.hop.asked)
        while len(bench.hop.asked) == asked:
            bench.pump(60)
            assert sum(not waited.called for waited, _ in bench.held) <= 1
    assert bench.clock.seconds() < 1_000_000 + 4 * LEASE_TIME
    assert all(event.attempt == number for number, event in enumerate(bench.events.of(DeferredEvent), 1))


def test_an_operator_gets_an_attempt_at_once() -> None:
    bench = Bench()
    bench.hop.connecting = refuse
    bench.accept("one@a.test")
    bench.pump(1)
    bench.accept("two@a.test")  # deferred at once: the site rests
    assert bench.hop.targets == ["192.0.2.1"]
    bench.hop.connecting = lambda target: None
    wait_for(bench.spool.retry(Selector()))
    bench.relay.kick()
    bench.pump()
    assert bench.view() == []
    held = bench.put("three@a.test")
    wait_for(bench.spool.hold(Selector(queue_id=held)))
    bench.pump(3600)
    assert bench.states() == {"three@a.test": "held"}
    wait_for(bench.spool.release(Selector(queue_id=held)))
    bench.relay.kick()
    bench.pump()
    assert bench.view() == []


def test_the_relay_sleeps_when_nothing_is_due() -> None:
    bench = Bench()
    bench.pump(100)
    bench.spool.asked.clear()
    bench.pump(86400)
    assert bench.spool.asked == []


# -- a spool that fails


def test_while_outcomes_cannot_be_written_nothing_more_is_delivered() -> None:
    bench = Bench()
    bench.hold()
    bench.accept("one@a.test")
    bench.spool.refuses = {"record", "lease", "give back"}
    bench.release()
    bench.accept("two@a.test")  # what is accepted has been written, so another attempt is worth while
    bench.release()
    for _ in range(30):
        bench.pump(1)
    assert bench.hop.taken == ["one@a.test", "two@a.test"]
    bench.spool.refuses = set()
    bench.pump(5)
    assert bench.view() == []
    assert len(bench.events.of(Delivered)) == 2
    assert bench.hop.taken == ["one@a.test", "two@a.test"]


def test_what_waits_goes_on_when_the_spool_does() -> None:
    bench = Bench(routes={"out": ROUTES["out"] | {"connections": 1}})
    bench.hold()
    for name in ("one", "two", "three"):
        bench.accept(f"{name}@a.test")
    bench.spool.refuses = {"record", "lease"}
    bench.release()
    for _ in range(20):
        bench.pump(1)
    assert bench.hop.taken == ["one@a.test"]
    bench.spool.refuses = set()
    bench.pump(1)
    assert bench.hop.taken == ["one@a.test", "two@a.test"]
    bench.release()
    bench.release()
    assert bench.view() == []


def test_one_message_whose_outcome_cannot_be_written_stops_nobody_else() -> None:
    bench = Bench()
    bench.spool.refuses = {"BAD"}
    bench.accept("bad@a.test", queue_id="BAD")
    bench.accept("good@a.test")
    bench.pump(10)
    for number in range(3):
        bench.accept(f"u{number}@a.test")
    assert bench.states() == {"bad@a.test": "leased"}
    # Nor is it delivered again, as long as this process remembers that it was.
    bench.pump(2 * LEASE_TIME)
    bench.pump(2 * LEASE_TIME)
    assert bench.hop.taken.count("bad@a.test") == 1
    bench.spool.refuses = set()
    bench.pump(120)
    assert bench.view() == []


def test_queued_mail_shows_that_the_spool_writes_again() -> None:
    bench = Bench()
    bench.spool.refuses = {"BAD"}
    bench.put("waiting@a.test")
    bench.accept("bad@a.test", queue_id="BAD")
    bench.pump(6)
    assert "waiting@a.test" in bench.hop.taken


def test_a_spool_that_cannot_lease_is_asked_again() -> None:
    bench = Bench(start=False)
    bench.put("x@a.test")
    bench.spool.refuses = {"lease"}
    bench.start()
    bench.pump(4)
    assert bench.hop.taken == []
    bench.spool.refuses = set()
    bench.pump(2)
    assert bench.hop.taken == ["x@a.test"]


# -- reload


def test_new_jobs_go_by_the_new_configuration_and_old_ones_by_theirs() -> None:
    bench = Bench(routes={"out": ROUTES["out"] | {"connections": 1}})
    bench.hold()
    bench.accept("one@a.test")
    bench.accept("two@a.test")
    bench.reload(routes={"out": {"transport": "smtp", "hosts": ["192.0.2.99"]}})
    bench.accept("three@a.test")
    assert bench.hop.taken == ["one@a.test", "three@a.test"]
    bench.release()
    assert bench.hop.taken == ["one@a.test", "three@a.test", "two@a.test"]
    # Its connection is used again as long as somebody waits for it.
    assert bench.hop.targets == ["192.0.2.1", "192.0.2.99"]
    while bench.held:
        bench.release()
    assert bench.view() == []
    assert len(bench.hop.open) == 1  # that of the new configuration


def test_a_job_that_waits_for_dns_goes_by_the_new_configuration() -> None:
    late: list[tuple[Deferred[Answer], Answer]] = []

    class Late(MemoryResolver):
        def resolve(self, name: str, rdtype: str) -> Any:
            answer = super().resolve(name, rdtype)
            if rdtype != "MX":
                return answer
            late.append((Deferred(), answer))
            return late[-1][0]

    bench = Bench()
    bench.ask(Late(ZONE))
    bench.accept("x@a.test", route="internet")
    bench.accept("y@a.test", route="internet")
    bench.reload(routes={"internet": {"transport": "smtp", "hosts": ["192.0.2.99"]}})
    for waited, answer in late:
        waited.callback(answer)
    assert bench.hop.targets == ["192.0.2.99"]
    assert bench.hop.taken == ["x@a.test", "y@a.test"]
    assert bench.view() == []


def test_a_filter_comes_and_goes_with_a_reload() -> None:
    bench = Bench()
    judge = Filter({})
    bench.reload(judge, routes=ROUTES)
    bench.accept()
    bench.reload(routes=ROUTES)
    bench.accept()
    assert len(judge.asked) == 1
    assert len(bench.hop.taken) == 2


# -- stop


def test_a_stop_waits_for_what_is_under_way_and_gives_back_what_waits() -> None:
    bench = Bench(routes={"out": ROUTES["out"] | {"connections": 1}})
    bench.hold()
    for name in ("one", "two", "three"):
        bench.accept(f"{name}@a.test")
    bench.spool.asked.clear()
    stopped = bench.stop()
    assert bench.spool.asked == ["give back"]
    assert not stopped.called
    assert bench.states() == {"one@a.test": "leased", "two@a.test": "queued", "three@a.test": "queued"}
    bench.accept("four@a.test")
    bench.release()
    bench.pump(0.1)
    assert stopped.called
    assert bench.hop.taken == ["one@a.test"]
    assert bench.states() == {"two@a.test": "queued", "three@a.test": "queued", "four@a.test": "queued"}
    assert bench.hop.open == []
    assert bench.clock.getDelayedCalls() == []
    bench.relay.kick()
    assert bench.clock.getDelayedCalls() == []


def test_a_stop_can_be_cut_short() -> None:
    bench = Bench()
    bench.hold()
    bench.accept("one@a.test")
    stopped = bench.stop()
    bench.pump(30)
    assert not stopped.called
    stopped.addErrback(lambda failure: None)
    stopped.cancel()
    bench.relay.cut()
    again = bench.stop()
    bench.pump(0.1)
    assert again.called
    assert bench.states() == {"one@a.test": "queued"}
    assert len(bench.events.of(DeferredEvent)) == 1


def test_a_stop_while_leasing_gives_the_leases_back() -> None:
    bench = Bench(start=False)
    bench.put("x@a.test")
    answers: list[tuple[Deferred[Any], Any]] = []

    def late(limit: int, until: float, full: Container[Destination] = ()) -> Deferred[Any]:
        answers.append((Deferred(), wait_for(MemorySpool.lease(bench.spool, limit, until))))
        return answers[-1][0]

    bench.spool.lease = late  # type: ignore[method-assign]
    bench.start()
    stopped = bench.stop()
    assert not stopped.called
    waited, leases = answers.pop()
    waited.callback(leases)
    assert stopped.called
    assert bench.hop.taken == []
    assert bench.states() == {"x@a.test": "queued"}


def test_a_stop_does_not_wait_for_a_spool_that_cannot_write() -> None:
    bench = Bench(routes={"out": ROUTES["out"] | {"connections": 1}})
    bench.hold()
    bench.accept("one@a.test")
    bench.accept("two@a.test")
    bench.spool.refuses = {"record", "give back", "lease"}
    bench.release()
    stopped = bench.stop()
    bench.pump(0.1)
    assert stopped.called
    # Both are leased still: the next start ends the leases.
    assert bench.states() == {"one@a.test": "leased", "two@a.test": "leased"}
