"""Greetings: what is wrong with them, and what is done about it."""

from __future__ import annotations

from collections.abc import Awaitable
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from mailgate.awaiting import as_deferred
from mailgate.envelope import Client, Identity
from mailgate.filters.helo import Helo, HeloResult, Options, build
from mailgate.interfaces import FilterServices, IRecipientFilter
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import (
    FilterContract,
    MemoryResolver,
    Occasion,
    recipient,
    services,
    session,
    transaction,
    wait_for,
)
from mailgate.verdict import Continue, Defer, Reject, Verdict
from tests.unit.slow_dns import SlowResolver

FACTORY = FilterMaker("helo", "mailgate.filters.helo", "judges the name that a client gives itself")

ADDRESS = "198.51.100.7"
WORLD: dict[str, Any] = {
    "mail.client.example": {"A": [ADDRESS], "AAAA": ["2001:db8::7"]},
    "elsewhere.example": {"A": ["203.0.113.9"]},
    "big.example": {"A": [f"203.0.113.{number}" for number in range(200)]},
    "only.mx.example": {"MX": [[10, "mail.client.example"]]},
    "sick.example": "SERVFAIL",
    "slow.example": "TIMEOUT",
    "half.example": {"A": ["203.0.113.9"], "AAAA": "TIMEOUT"},
    "empty.example": {"TXT": ["nothing here"]},
}


class Desk:
    """The filter; `problems` tells what it finds wrong with a greeting."""

    def __init__(self, **options: Any) -> None:
        self.resolver = MemoryResolver(WORLD)
        built = build(Options.model_validate(options), services(resolver=self.resolver))
        assert isinstance(built, Helo)
        self.filter = built
        self.session = session(Client(ip_address(ADDRESS), 1))

    def helo(self, name: str, client: str = ADDRESS, called: str = "", **changes: Any) -> Verdict | None:
        self.session = session(Client(ip_address(client), 1, called), helo=name, **changes)
        return self.again(name)

    def again(self, name: str) -> Verdict | None:
        self.session.helo = name
        verdict = wait_for(self.filter.on_helo(self.session))
        for one in getattr(verdict, "evidence", ()):
            self.session.evidence.add(one)
        return verdict

    def problems(self, name: str, **changes: Any) -> list[str]:
        self.helo(name, **changes)
        return [one.problem for one in self.session.evidence.all(HeloResult)]

    def rcpt(self, address: str = "bob@example.org") -> Verdict | None:
        return self.filter.on_rcpt(self.session, transaction(), recipient(address))


@pytest.mark.parametrize(
    ("name", "problems"),
    [
        ("mail.client.example", ["ok"]),
        ("MAIL.Client.example.", ["ok"]),
        ("only.mx.example", ["ok"]),
        (f"[{ADDRESS}]", ["literal"]),
        (f"[IPv6:::ffff:{ADDRESS}]", ["literal"]),
        ("[203.0.113.9]", ["literal", "mismatch"]),
        ("[IPv6:2001:db8::9]", ["literal", "mismatch"]),
        ("[2001:db8::9]", ["literal", "invalid"]),
        ("[IPv6:203.0.113.9]", ["literal", "invalid"]),
        ("[300.1.1.1]", ["literal", "invalid"]),
        ("[...]", ["literal", "invalid"]),
        (ADDRESS, ["bare_ip"]),
        ("203.0.113.9", ["bare_ip", "mismatch"]),
        ("localhost", ["single_label"]),
        ("my_pc", ["invalid", "single_label"]),
        ("under_score.example", ["invalid"]),
        ("a..example", ["invalid"]),
        ("-a.example", ["invalid"]),
        ("x" * 64 + ".example", ["invalid"]),
        ("host.1", ["invalid"]),
        (".".join(["abc"] * 64), ["invalid"]),
        ("mx.example.org", ["own_name", "unresolvable"]),
        ("example.org", ["own_domain", "unresolvable"]),
        ("nowhere.example", ["unresolvable"]),
        ("empty.example", ["unresolvable"]),
        ("elsewhere.example", ["mismatch"]),
        ("big.example", ["mismatch"]),
        ("sick.example", ["temporary"]),
        ("slow.example", ["temporary"]),
    ],
)
def test_what_is_wrong(name: str, problems: list[str]) -> None:
    desk = Desk()
    assert desk.problems(name) == problems
    for one in desk.session.evidence.all(HeloResult):
        assert one.facts() == (() if one.problem == "ok" else (f"helo.{one.problem}",))
        assert len(one.summary()) < 400


def test_names_and_addresses_of_ours_beside_the_hostname() -> None:
    desk = Desk(names=["Mail.Example.com."], addresses=["203.0.113.0/24"], resolve=False)
    assert desk.problems("mail.example.com") == ["own_name"]
    assert desk.problems("[203.0.113.9]") == ["literal", "own_address"]
    assert desk.problems("203.0.113.9") == ["bare_ip", "own_address"]
    assert desk.problems("[192.0.2.25]", destination=(ip_address("192.0.2.25"), 25)) == ["literal", "own_address"]
    assert desk.problems("other.example", hostname="other.example") == ["own_name"]


def test_the_clients_name_in_dns() -> None:
    desk = Desk(resolve=False)
    assert desk.problems("mail.client.example", called="mail.client.example") == ["ok"]
    assert desk.problems("smtp2.client.example", called="mail.client.example") == ["ok"]
    assert desk.problems("client.example", called="mail.client.example") == ["ok"]
    assert desk.problems("mail.other.example", called="mail.client.example") == ["other_name"]
    assert desk.problems("other.example", called="client.example") == ["other_name"]


def test_a_name_that_is_confirmed_is_not_asked_for_again() -> None:
    desk = Desk()
    assert desk.problems("Elsewhere.example", called="elsewhere.example") == ["ok"]
    assert desk.resolver.asked == []
    desk.problems("mail.client.example")
    assert desk.resolver.asked == [("mail.client.example", "A"), ("mail.client.example", "AAAA")]
    assert Desk(resolve=False).problems("nowhere.example") == ["ok"]


def test_by_default_only_those_are_refused_that_claim_to_be_us() -> None:
    desk = Desk(addresses=["203.0.113.0/24"])
    replies = {}
    for name in ("mx.example.org", "[203.0.113.9]", "example.org", "localhost", "nowhere.example", "[10.0.0.1]"):
        assert isinstance(desk.helo(name), Continue)
        verdict = desk.rcpt()
        replies[name] = verdict.reply.to_bytes() if isinstance(verdict, Reject) else b""
    assert {name: reply for name, reply in replies.items() if reply} == {
        "mx.example.org": b"550 5.7.1 That is our name, not yours\r\n",
        "[203.0.113.9]": b"550 5.7.1 That is our address, not yours\r\n",
    }


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("own_domain", "example.org"),
        ("invalid", "under_score.example"),
        ("literal", f"[{ADDRESS}]"),
        ("bare_ip", ADDRESS),
        ("single_label", "localhost"),
        ("unresolvable", "nowhere.example"),
        ("mismatch", "elsewhere.example"),
    ],
)
def test_each_is_refused_by_its_option(option: str, name: str) -> None:
    desk = Desk(**{option: "reject"})
    desk.helo(name)
    assert isinstance(desk.rcpt(), Reject)
    desk.helo("mail.client.example")
    assert desk.rcpt() is None
    desk = Desk(**{option: "defer"})
    desk.helo(name)
    verdict = desk.rcpt()
    assert isinstance(verdict, Defer)
    assert verdict.reply.to_bytes().startswith(b"450 4.7.1 ")


def test_rejecting_comes_before_deferring() -> None:
    desk = Desk(single_label="defer", invalid="reject")
    desk.helo("my_pc")
    assert isinstance(desk.rcpt(), Reject)


def test_dns_that_cannot_tell_may_defer() -> None:
    desk = Desk(temporary="defer", unresolvable="reject")
    desk.helo("sick.example")
    assert isinstance(desk.rcpt(), Defer)
    with pytest.raises(ValidationError, match="temporary"):
        Options.model_validate({"temporary": "reject"})


@pytest.mark.parametrize(
    ("client", "problem"), [("203.0.113.9", "ok"), (ADDRESS, "mismatch"), ("2001:db8::7", "temporary")]
)
def test_addresses_of_the_clients_own_kind_that_dns_cannot_tell_are_no_mismatch(client: str, problem: str) -> None:
    assert Desk().problems("half.example", client=client) == [problem]


def test_at_once_the_greeting_itself_is_refused() -> None:
    desk = Desk(when="at-once", single_label="defer")
    verdict = desk.helo("mx.example.org")
    assert isinstance(verdict, Reject)
    assert verdict.reply.to_bytes() == b"550 That is our name, not yours\r\n"
    assert verdict.evidence[0] == HeloResult("mx.example.org", "own_name")
    assert isinstance(desk.helo("localhost"), Defer)
    assert not IRecipientFilter.providedBy(desk.filter)


def test_a_second_greeting_is_judged_by_itself() -> None:
    desk = Desk(single_label="reject")
    desk.helo("localhost")
    assert isinstance(desk.rcpt(), Reject)
    assert desk.again("localhost") is None
    assert len(desk.session.evidence) == 1
    desk.again("mail.client.example")
    assert desk.rcpt() is None


def test_who_is_left_alone() -> None:
    desk = Desk(exempt=["198.51.100.0/24"])
    assert desk.helo("mx.example.org") is None
    assert Desk().helo("mx.example.org", client="127.0.0.1") is None
    assert Desk().helo("mx.example.org", identity=Identity("ann", "network")) is None
    desk = Desk()
    desk.helo("mx.example.org")
    assert desk.rcpt("postmaster@example.org") is None
    desk.session.identity = Identity("ann", "PLAIN")
    assert desk.rcpt() is None


def test_while_dns_is_silent_nobody_waits_for_a_second_question() -> None:
    # A question may take half of the filter's deadline: two, one after the other, would be the filter's failure.
    clock = Clock()
    resolver = SlowResolver(WORLD, clock, 5.0)
    built = build(Options(), services(clock=clock, resolver=resolver))
    assert isinstance(built, Helo)
    verdict = wait_for(built.on_helo(session(Client(ip_address(ADDRESS), 1), helo="slow.example")), clock)
    assert isinstance(verdict, Continue)
    assert verdict.evidence == (HeloResult("slow.example", "temporary", "timeout"),)
    assert [rdtype for _, rdtype in resolver.asked] == ["A", "AAAA"]


def test_addresses_are_looked_up_at_the_same_time_and_giving_up_ends_both() -> None:
    clock = Clock()
    resolver = SlowResolver(WORLD, clock, 1.0)
    built = build(Options(), services(clock=clock, resolver=resolver))
    assert isinstance(built, Helo)
    answer = built.on_helo(session(Client(ip_address(ADDRESS), 1), helo="mail.client.example"))
    assert isinstance(answer, Awaitable)
    ends: list[object] = []
    deferred = as_deferred(answer).addErrback(lambda failure: ends.append(failure.type))
    assert resolver.open == 2
    deferred.cancel()
    assert (ends, resolver.open, clock.getDelayedCalls()) == ([CancelledError], 0, [])


@given(st.from_regex(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?|\[[0-9A-Za-z.:-]+\]", fullmatch=True))
def test_whatever_the_session_lets_through_is_judged(name: str) -> None:
    assert Desk().problems(name[:255])


class TestContract(FilterContract):
    factory = FACTORY
    settings = {"when": "at-once", "literal": "reject", "unresolvable": "defer"}  # noqa: RUF012  FilterContract's

    def make_services(self, clock: Clock, **silent: Any) -> FilterServices:
        return services(clock=clock, **({"resolver": MemoryResolver(WORLD)} | silent))

    def occasions(self) -> list[Occasion]:
        names = ("mail.client.example", "mx.example.org", "[192.0.2.1]", "nowhere.example", "localhost")
        return [Occasion(session=session(helo=name)) for name in names]


class TestContractAtRcpt(TestContract):
    settings = {"single_label": "reject"}  # noqa: RUF012  FilterContract's

    def occasions(self) -> list[Occasion]:
        known = session(helo="localhost")
        known.evidence.add(HeloResult("localhost", "single_label"))
        return [Occasion(session=known)]
