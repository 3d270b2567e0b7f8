"""What an operator wants of the relay: suspensions, bounces, another try now."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from mailgate.address import Address
from mailgate.envelope import EnvelopeRecipient
from mailgate.events import Bounced, Delivered, Reported
from mailgate.events import Deferred as DeferredEvent
from mailgate.interfaces import IRelay, Selector, SpoolError, Suspended, Suspension
from mailgate.testing import MemoryResolver, wait_for
from tests.unit.relaying import by_domain, refuse
from tests.unit.test_relay_service import ROUTES, ZONE, Bench

SOURCES: dict[str, Any] = {
    "routes": ROUTES | {"internet": ROUTES["internet"] | {"pool": "pool"}},
    "sources": {"one": {"address": "192.0.2.101"}, "two": {"address": "192.0.2.102"}},
    "pools": {"pool": {"sources": {"one": 1, "two": 1}}},
}


class Late(MemoryResolver):
    """Answers when `waited` has fired."""

    def __init__(self, waited: Deferred[Any]) -> None:
        super().__init__(ZONE)
        self._waited = waited

    def resolve(self, name: str, rdtype: str) -> Any:
        answer = super().resolve(name, rdtype)
        if self._waited.called:
            return answer
        late: Deferred[Any] = Deferred()
        self._waited.addCallback(lambda _: late.callback(answer))
        return late


def suspend(bench: Bench, kind: Suspended, name: str, *, until: float = 0.0, reason: str = "") -> None:
    one = Suspension(kind=kind, name=name, since=bench.clock.seconds(), until=until, reason=reason)
    wait_for(bench.spool.suspend(one))
    wait_for(Deferred.fromCoroutine(bench.relay.apply_suspensions()))
    bench.pump()


def resume(bench: Bench, kind: Suspended, name: str) -> None:
    wait_for(bench.spool.resume(kind, name))
    wait_for(Deferred.fromCoroutine(bench.relay.apply_suspensions()))
    bench.pump()


def bounce(bench: Bench, reason: str = "", **selector: Any) -> int:
    count = wait_for(Deferred.fromCoroutine(bench.relay.bounce(Selector(**selector), reason)))
    bench.pump()
    return count


def test_it_is_what_it_says() -> None:
    verifyObject(IRelay, Bench().relay)


# -- suspensions


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("route", "internet"),
        ("domain", "c.test"),
        ("site", "other.test"),
        ("sender", "ann@client.test"),
        ("sender", "client.test"),
    ],
)
def test_what_is_suspended_waits_with_its_reason_until_it_is_resumed(kind: Suspended, name: str) -> None:
    bench = Bench()
    suspend(bench, kind, name, reason="maintenance")
    bench.accept("x@c.test", route="internet")
    bench.accept("free@a.test", sender="bob@elsewhere.test")
    bench.pump()
    assert bench.hop.taken == ["free@a.test"]
    (entry,) = bench.view()
    assert entry.waits == f"suspended: {kind} {name} (maintenance)"
    assert entry.attempts == 0
    bench.pump(2 * 3600)
    assert bench.hop.taken == ["free@a.test"]
    assert bench.view()[0].waits == entry.waits
    resume(bench, kind, name)
    assert bench.hop.taken == ["free@a.test", "x@c.test"]
    assert bench.view() == []


def test_a_suspension_ends_at_its_time() -> None:
    bench = Bench()
    suspend(bench, "site", "other.test", until=bench.clock.seconds() + 5000)
    bench.accept("x@c.test", route="internet")
    bench.pump()
    assert bench.view()[0].next_attempt == bench.clock.seconds() + 5000
    bench.pump(4999)
    assert bench.hop.taken == []
    bench.pump(1)
    assert bench.hop.taken == ["x@c.test"]


def test_only_those_recipients_wait_that_are_suspended() -> None:
    bench = Bench()
    suspend(bench, "domain", "b.test")
    bench.accept("x@a.test", "y@b.test", "z@c.test")
    bench.pump()
    assert bench.hop.taken == ["x@a.test", "z@c.test"]
    assert {one.recipient: one.waits for one in bench.view()} == {"y@b.test": "suspended: domain b.test"}


def test_what_waits_in_memory_is_given_back_and_what_is_under_way_ends() -> None:
    bench = Bench(routes={"out": ROUTES["out"] | {"connections": 1}})
    bench.hold()
    for name in ("one@a.test", "two@a.test", "three@b.test"):
        bench.accept(name)
    suspend(bench, "domain", "a.test")
    assert {one.recipient: one.state for one in bench.view()} == {
        "one@a.test": "leased",
        "two@a.test": "queued",
        "three@b.test": "leased",
    }
    bench.release()
    bench.release()
    bench.pump()
    assert bench.hop.taken == ["one@a.test", "three@b.test"]
    resume(bench, "domain", "a.test")
    assert bench.hop.taken[2:] == ["two@a.test"]


def test_a_backlog_that_is_suspended_is_not_fetched_and_comes_back() -> None:
    bench = Bench(routes={"out": ROUTES["out"] | {"connections": 1}}, spool={"max_active": 100})
    bench.hold()
    for number in range(300):
        bench.accept(f"u{number}@a.test")
    bench.pump()
    suspend(bench, "route", "out", reason="moved")
    bench.hop.answer = by_domain({})
    bench.release()
    bench.pump(1000)  # what had waited for its turn is looked for, and told why it waits
    assert bench.hop.taken == ["u0@a.test"]
    assert {one.waits for one in bench.view()} == {"suspended: route out (moved)"}
    assert bench.relay.room.taken == 0
    resume(bench, "route", "out")
    bench.pump(1)
    assert len(bench.view()) == 0
    assert len(set(bench.hop.taken)) == 300


def test_what_is_suspended_while_it_is_asked_where_it_goes_does_not_go() -> None:
    for kind, name in (("domain", "c.test"), ("sender", "client.test"), ("site", "other.test")):
        bench = Bench()
        waited: Deferred[Any] = Deferred()
        resolver = Late(waited)
        bench.ask(resolver)
        bench.accept("x@c.test", route="internet")
        suspend(bench, kind, name)  # type: ignore[arg-type]  # it is one of them
        waited.callback(None)
        bench.pump()
        assert bench.hop.taken == []
        assert [one.waits for one in bench.view()] == [f"suspended: {kind} {name}"]
        resume(bench, kind, name)  # type: ignore[arg-type]  # it is one of them
        assert bench.hop.taken == ["x@c.test"]


def test_a_suspension_that_is_over_is_shown_no_more() -> None:
    bench = Bench()
    bench.accept("x@c.test", route="internet")
    bench.pump()
    suspend(bench, "site", "other.test", until=bench.clock.seconds() + 2)
    assert [one.state for one in bench.relay.sites()] == ["suspended: site other.test"]
    bench.pump(2.1)
    assert [one.state for one in bench.relay.sites()] == ["idle"]


def test_what_waits_for_a_rate_goes_by_the_new_one_after_a_reload() -> None:
    def shaping(rate: str) -> dict[str, Any]:
        return {"routes": ROUTES, "shaping": {"slow": {"domains": ["c.test"], "message_rate": rate}}}

    bench = Bench(**shaping("1/h"))
    for number in range(4):
        bench.accept(f"u{number}@c.test", route="internet")
    bench.pump(1)
    assert len(bench.hop.taken) == 1
    bench.reload(**shaping("10/s"))
    bench.pump(1)
    bench.pump(1)
    assert len(bench.hop.taken) == 4
    assert bench.view() == []


def test_suspensions_are_known_from_the_start() -> None:
    bench = Bench(start=False)
    bench.put("x@a.test")
    wait_for(bench.spool.suspend(Suspension(kind="route", name="out", since=0.0)))
    bench.start()
    assert bench.hop.taken == []
    assert bench.view()[0].waits == "suspended: route out"


def test_a_spool_that_cannot_tell_of_suspensions_is_asked_again_before_anything_goes() -> None:
    bench = Bench(start=False)
    bench.put("x@a.test")
    bench.spool.error = "the disk is away"
    bench.start()
    bench.spool.error = ""
    bench.accept("y@a.test")
    assert bench.hop.taken == []
    bench.pump(6)
    assert sorted(bench.hop.taken) == ["x@a.test", "y@a.test"]


# -- giving up


def test_what_an_operator_gives_up_is_returned_with_his_reason() -> None:
    bench = Bench()
    bench.hop.connecting = refuse
    bench.accept("x@a.test")
    bench.accept("y@b.test")
    bench.hop.connecting = lambda target: None
    assert bounce(bench, "the host is gone for good", domain="a.test") == 1
    (event,) = bench.events.of(Bounced)
    assert (event.recipient, event.reply) == (
        "x@a.test",
        "550 5.0.0 Returned by the administrator: the host is gone for good",
    )
    (report,) = bench.events.of(Delivered)
    assert report.queue_id == event.report
    assert bench.states() == {"y@b.test": "queued"}


def test_what_waits_in_memory_is_given_up_too_and_what_is_under_way_is_not() -> None:
    bench = Bench(routes=ROUTES | {"out": ROUTES["out"] | {"connections": 1}})
    bench.hold()
    for number in range(4):
        bench.accept(f"u{number}@a.test")
    bench.accept("other@c.test", sender="bob@client.test")
    assert bounce(bench, sender="ann@client.test") == 3
    assert {event.recipient for event in bench.events.of(Bounced)} == {f"u{number}@a.test" for number in (1, 2, 3)}
    while bench.held:
        bench.release()
        bench.pump()
    assert bench.view() == []
    delivered = {event.recipient for event in bench.events.of(Delivered)}
    assert delivered == {"u0@a.test", "other@c.test", "ann@client.test"}


def test_what_waits_in_memory_is_put_back_for_a_change_and_what_is_under_way_is_not() -> None:
    bench = Bench(routes=ROUTES | {"out": ROUTES["out"] | {"connections": 1}})
    bench.hold()
    for number in range(3):
        bench.accept(f"u{number}@a.test")
    bench.accept("other@c.test", sender="bob@client.test")
    wait_for(Deferred.fromCoroutine(bench.relay.put_back(Selector(sender="ann@client.test"))))
    queued = {"u1@a.test": "queued", "u2@a.test": "queued"}
    assert bench.states() == {"u0@a.test": "leased", "other@c.test": "leased", **queued}
    bench.pump()
    assert bench.states() == {"u0@a.test": "leased", "other@c.test": "leased", **queued}
    wait_for(bench.spool.hold(Selector(recipient="u1@a.test")))
    while bench.held:
        bench.release()
        bench.pump()
    bench.pump(6)
    while bench.held:
        bench.release()
        bench.pump()
    assert bench.states() == {"u1@a.test": "held"}


def test_a_message_that_is_chosen_by_its_id_is_looked_for_where_it_is() -> None:
    bench = Bench(routes=ROUTES | {"out": ROUTES["out"] | {"connections": 1}})
    bench.hold()
    ids = [bench.accept(f"u{number}@a.test") for number in range(4)]
    assert bench.relay.waits(ids[2]) == {0: "2nd of 3 in line for 192.0.2.1 (1 of 1 connections in use)"}
    assert bounce(bench, queue_id=ids[2]) == 1
    assert [len(bench.relay.waits(one)) for one in ids] == [1, 1, 0, 1]
    elsewhere = bench.accept("x@c.test", route="internet")
    assert bench.relay.waits(elsewhere)[0].startswith("being delivered to other.test since ")
    wait_for(bench.spool.hold(Selector(queue_id=ids[2])))
    given_back = bench.spool.asked.count("give back")
    assert bounce(bench, queue_id="nothing") == 0
    assert bench.spool.asked.count("give back") == given_back


def test_sites_are_found_by_what_they_hold() -> None:
    bench = Bench(routes=ROUTES | {"out": ROUTES["out"] | {"connections": 1}})
    bench.hold()
    bench.accept("x@a.test", route="internet")
    bench.accept("y@c.test")
    bench.accept("z@c.test", sender="bob@client.test")
    sites = {one.route for one in bench.relay.sites()}
    assert sites == {"internet", "out"}
    assert [one.route for one in bench.relay.sites(Selector(domain="a.test"))] == ["internet"]
    assert [one.route for one in bench.relay.sites(Selector(sender="bob@client.test"))] == ["out"]
    assert bench.relay.sites(Selector(domain="b.test")) == []


def test_while_the_gateway_stops_sites_say_so() -> None:
    bench = Bench()
    bench.hold()
    bench.accept("x@a.test")
    Deferred.fromCoroutine(bench.relay.stop())
    assert [one.state for one in bench.relay.sites()] == ["the gateway stops"]
    bench.release()
    bench.pump()


def test_a_spool_that_fails_meanwhile_is_told_and_the_relay_goes_on() -> None:
    bench = Bench()
    bench.hop.connecting = refuse
    bench.accept("x@a.test")
    bench.spool.error = "the disk is full"
    giving_up = Deferred.fromCoroutine(bench.relay.bounce(Selector()))
    failures: list[Any] = []
    giving_up.addErrback(failures.append)
    assert failures[0].check(SpoolError)
    bench.spool.error = ""
    bench.hop.connecting = lambda target: None
    bench.relay.kick()
    bench.pump(700)
    assert bench.hop.taken == ["x@a.test"]


# -- another try now


@pytest.mark.parametrize(
    ("selector", "woken"),
    [
        (None, {"a", "c"}),
        (Selector(domain="c.test"), {"c"}),
        (Selector(domain="b.test"), {"a"}),  # whose host is the same
        (Selector(site="OTHER.test"), {"c"}),
        (Selector(route="internet"), {"a", "c"}),
        (Selector(route="out"), set()),
        (Selector(domain="nowhere.test"), set()),
        (Selector(), {"a", "c"}),
        (Selector(queue_id="0000Q"), set()),
        (Selector(sender="ann@client.test"), set()),
    ],
)
def test_sites_are_woken_that_are_meant(selector: Selector | None, woken: set[str]) -> None:
    bench = Bench()
    bench.hop.connecting = refuse
    for name in ("a", "c"):
        bench.accept(f"x@{name}.test", route="internet")
    assert all(f"{site.site} rests for " in site.state for site in bench.relay.sites())
    bench.hop.connecting = lambda target: None
    bench.relay.kick(selector)
    bench.pump()
    for name in ("a", "c"):
        bench.accept(f"y@{name}.test", route="internet")
    assert {one.partition("@")[2].removesuffix(".test") for one in bench.hop.taken} == woken


# -- sources


def test_a_message_goes_out_from_a_source_of_its_pool_and_keeps_it() -> None:
    bench = Bench(**SOURCES)
    bench.hop.connecting = refuse
    for number in range(20):
        bench.accept(f"u{number}@a.test", route="internet")
    first = {event.recipient: event.source for event in bench.events.of(DeferredEvent)}
    assert set(first.values()) == {"one", "two"}
    assert {site.source for site in bench.relay.sites()} == {"one", "two"}
    bench.hop.connecting = lambda target: None
    bench.reload(**(SOURCES | {"pools": {"pool": {"sources": {"one": 1000, "two": 1}}}}))
    bench.pump(700)
    second = {event.recipient: event.source for event in bench.events.of(Delivered)}
    assert second == first
    assert {source.name for source in bench.hop.sources} == {"one", "two"}
    assert {event.site for event in bench.events.of(Delivered)} == {"mx.test"}


def test_a_source_that_has_sent_its_share_lets_mail_wait_for_the_next_day() -> None:
    warm_up = {"start": "1970-01-12", "first": 2, "factor": 2.0}
    bench = Bench(
        **(
            SOURCES
            | {
                "sources": {"one": {"address": "192.0.2.1", "warm_up": warm_up}},
                "pools": {"pool": {"sources": {"one": 1}}},
            }
        )
    )
    for number in range(3):
        bench.accept(f"u{number}@a.test", route="internet")
    bench.pump()
    assert bench.hop.taken == ["u0@a.test", "u1@a.test"]
    (entry,) = bench.view()
    assert entry.attempts == 0
    assert entry.waits != ""
    assert entry.next_attempt == bench.clock.seconds() + 4 * 3600  # when its sender is told that it is late
    bench.pump(4 * 3600)
    (entry,) = bench.view()
    assert (entry.attempts, entry.next_attempt) == (0, 12 * 86400.0)
    assert [event.kind for event in bench.events.of(Reported)] == ["delayed"]
    bench.pump(86400)
    assert bench.hop.taken[2:] == ["ann@client.test", "u2@a.test"]


# -- limits of a destination


def test_a_job_has_no_more_recipients_than_its_destination_takes() -> None:
    shaping = {"small": {"domains": ["c.test"], "recipients_per_message": 3}}
    bench = Bench(shaping=shaping)
    recipients = [
        EnvelopeRecipient(number, Address("u", f"{'ac'[number % 2]}.test"), "internet") for number in range(20)
    ]
    bench.take(*recipients)
    bench.pump()
    sizes = sorted((group[0].address.domain, len(group)) for _, group in bench.hop.asked)
    assert sizes == [("a.test", 10), ("c.test", 1), ("c.test", 3), ("c.test", 3), ("c.test", 3)]
    assert bench.view() == []
    assert bench.relay.room.taken == 0


def test_the_retry_schedule_of_a_destination_is_its_own() -> None:
    shaping = {"patient": {"domains": ["c.test"], "retry": {"first": "2h"}}}
    bench = Bench(shaping=shaping)
    bench.hop.connecting = refuse
    for domain in ("a.test", "c.test"):
        bench.accept(f"x@{domain}", route="internet")
    due = {one.recipient: one.next_attempt - bench.clock.seconds() for one in bench.view()}
    assert due["x@a.test"] < 400
    assert due["x@c.test"] > 6000


def test_domains_of_one_site_with_limits_of_their_own_have_a_queue_of_their_own() -> None:
    shaping = {"one": {"domains": ["b.test"], "connections": 1}}
    bench = Bench(shaping=shaping)
    bench.hold()
    for number in range(4):
        bench.accept(f"u{number}@a.test", route="internet")
        bench.accept(f"u{number}@b.test", route="internet")
    assert sorted((site.site, site.active, site.waiting) for site in bench.relay.sites()) == [
        ("mx.test", 1, 3),
        ("mx.test", 4, 0),
    ]
