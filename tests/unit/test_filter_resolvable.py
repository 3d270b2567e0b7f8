"""The sender's domain: whether it could take an answer, and what is said where it could not."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from mailgate.awaiting import as_deferred
from mailgate.filters.resolvable import Options, Resolvable, SenderDomainResult, build
from mailgate.interfaces import FilterServices
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, MemoryResolver, Occasion, services, session, transaction, wait_for
from mailgate.verdict import Continue, Defer, Reject, Verdict
from tests.unit.slow_dns import SlowResolver

FACTORY = FilterMaker("resolvable", "mailgate.filters.resolvable", "refuses senders whose domain takes no answers")

WORLD: dict[str, Any] = {
    "good.example": {"MX": [[10, "mx1.good.example"], [20, "mx2.good.example"]]},
    "mx1.good.example": {"A": ["203.0.113.1"]},
    "mx2.good.example": "SERVFAIL",
    "six.example": {"MX": [[10, "mx.six.example"]]},
    "mx.six.example": {"AAAA": ["2001:db8::25"]},
    "plain.example": {"A": ["203.0.113.2"]},
    "null.example": {"MX": [[0, "."]]},
    "nullish.example": {"MX": [[0, "."], [10, "mx1.good.example"]]},
    "bare.example": {"TXT": ["nothing to see"]},
    "dead.example": {"MX": [[10, "gone.example"], [20, "bare.example"]]},
    "number.example": {"MX": [[10, "203.0.113.9"]]},
    "bogus.example": {"MX": [[10, "in.bogus.example"], [20, "lo.bogus.example"]]},
    "in.bogus.example": {"A": ["10.0.0.1"], "AAAA": ["fd00::1"]},
    "lo.bogus.example": {"A": ["127.0.0.1"], "AAAA": ["::ffff:127.0.0.1"]},
    "loop.example": {"A": ["127.0.0.1"]},
    "zero.example": {"MX": [[10, "zero.example"]], "A": ["0.0.0.0"]},  # noqa: S104  no bind
    "half.example": {"MX": [[10, "in.bogus.example"], [20, "mx1.good.example"]]},
    "ours.example": {"MX": [[10, "mx.ours.example"]]},
    "mx.ours.example": {"A": ["192.0.2.25"]},
    "sick.example": "SERVFAIL",
    "slow.example": "TIMEOUT",
    "sickmx.example": {"MX": [[10, "sick.example"]]},
    "doubt.example": {"MX": [[10, "in.bogus.example"], [20, "sick.example"]]},
    "huge.example": {"MX": [[number, f"h{number}.huge.example"] for number in range(2000)]},
}


def make(world: Mapping[str, Any] = WORLD, **options: Any) -> tuple[Resolvable, MemoryResolver]:
    resolver = MemoryResolver(world)
    built = build(Options.model_validate(options), services(resolver=resolver))
    assert isinstance(built, Resolvable)
    return built, resolver


def judge(domain: str, client: str = "198.51.100.7", **options: Any) -> Verdict | None:
    built, _ = make(**options)
    return wait_for(built.on_mail(session(client), transaction(f"ann@{domain}" if domain else "")))


@pytest.mark.parametrize(
    ("domain", "result", "reply"),
    [
        ("good.example", "ok", ""),
        ("six.example", "ok", ""),
        ("plain.example", "ok", ""),
        ("half.example", "ok", ""),
        ("nullish.example", "ok", ""),
        ("null.example", "null_mx", "550 5.7.27 "),
        ("nowhere.example", "unknown", "550 5.1.8 "),
        ("bare.example", "no_host", "550 5.1.8 "),
        ("dead.example", "dead_mx", "550 5.1.8 "),
        ("number.example", "dead_mx", "550 5.1.8 "),
        ("huge.example", "dead_mx", "550 5.1.8 "),
        ("bogus.example", "bogus_mx", "550 5.1.8 "),
        ("loop.example", "bogus_mx", "550 5.1.8 "),
        ("zero.example", "bogus_mx", "550 5.1.8 "),
        ("[203.0.113.7]", "literal", ""),
        ("sick.example", "temporary", "451 4.1.8 "),
        ("slow.example", "temporary", "451 4.1.8 "),
        ("sickmx.example", "temporary", "451 4.1.8 "),
        ("doubt.example", "temporary", "451 4.1.8 "),
    ],
)
def test_what_becomes_of_a_domain(domain: str, result: str, reply: str) -> None:
    verdict = judge(domain)
    assert isinstance(verdict, Continue | Reject | Defer)
    (found,) = verdict.evidence
    assert isinstance(found, SenderDomainResult)
    assert (found.result, found.domain) == (result, domain)
    assert found.facts() == (f"resolvable.{result}",)
    assert domain in found.summary()
    said = "" if isinstance(verdict, Continue) else str(verdict.reply)
    assert said.startswith(reply)
    assert bool(said) == bool(reply)


@pytest.mark.parametrize(
    ("option", "domain"),
    [
        ("null_mx", "null.example"),
        ("unknown", "nowhere.example"),
        ("no_host", "bare.example"),
        ("dead_mx", "dead.example"),
        ("bogus_mx", "bogus.example"),
        ("literal", "[203.0.113.7]"),
        ("temporary", "sick.example"),
    ],
)
def test_each_has_its_option(option: str, domain: str) -> None:
    assert isinstance(judge(domain, **{option: "continue"}), Continue)
    verdict = judge(domain, **{option: "defer"})
    assert isinstance(verdict, Defer)
    assert verdict.reply.code == 451
    assert verdict.evidence
    if option != "temporary":
        assert isinstance(judge(domain, **{option: "reject"}), Reject)


def test_networks_of_ours_are_no_place_for_a_strangers_mail_servers() -> None:
    assert isinstance(judge("ours.example"), Continue)
    assert isinstance(judge("ours.example", own_networks=["192.0.2.0/24"]), Reject)


def test_who_is_not_looked_up() -> None:
    built, resolver = make(exempt=["198.51.100.8"])
    for client, sender in (
        ("198.51.100.7", ""),
        ("198.51.100.7", "bob@example.org"),
        ("198.51.100.8", "a@sick.example"),
    ):
        assert wait_for(built.on_mail(session(client), transaction(sender))) is None
    assert judge("sick.example", client="10.1.2.3") is None
    assert resolver.asked == []


def test_no_more_than_ten_mail_servers_are_looked_at_and_those_at_the_same_time() -> None:
    clock = Clock()
    resolver = SlowResolver(WORLD, clock, 1.0)
    built = build(Options(), services(clock=clock, resolver=resolver))
    assert isinstance(built, Resolvable)
    verdict = wait_for(built.on_mail(session(), transaction("ann@huge.example")), clock)
    assert isinstance(verdict, Reject)
    assert len(resolver.asked) == 1 + 20
    assert resolver.most == 20
    assert clock.seconds() < 3
    assert {name for name, _ in resolver.asked[1:]} == {f"h{number}.huge.example" for number in range(10)}
    assert len(verdict.reason) < 300


def test_giving_up_ends_every_question() -> None:
    clock = Clock()
    resolver = SlowResolver(WORLD, clock, 1.0)
    built = build(Options(), services(clock=clock, resolver=resolver))
    assert isinstance(built, Resolvable)
    answer = built.on_mail(session(), transaction("ann@huge.example"))
    assert isinstance(answer, Awaitable)
    ends: list[object] = []
    deferred = as_deferred(answer).addErrback(lambda failure: ends.append(failure.type))
    clock.advance(1)
    assert resolver.open == 20
    deferred.cancel()
    assert (ends, resolver.open, clock.getDelayedCalls()) == ([CancelledError], 0, [])


def test_dns_that_cannot_tell_is_no_reason_to_reject() -> None:
    with pytest.raises(ValidationError, match="temporary"):
        Options.model_validate({"temporary": "reject"})


class TestContract(FilterContract):
    factory = FACTORY

    def make_services(self, clock: Clock, **silent: Any) -> FilterServices:
        return services(clock=clock, **({"resolver": MemoryResolver(WORLD)} | silent))

    def occasions(self) -> list[Occasion]:
        domains = ("good.example", "null.example", "bogus.example", "sick.example", "nowhere.example")
        return [Occasion(transaction=transaction(f"ann@{domain}")) for domain in domains] + [
            Occasion(transaction=transaction(""))
        ]
