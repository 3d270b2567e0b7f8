"""The client's name in DNS: what the result is, which names are those of lines, and what is done about it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
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
from mailgate.filters.fcrdns import DynamicNameResult, Fcrdns, IprevResult, Options, build
from mailgate.filters.generic_names import is_generic
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
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict
from tests.unit.slow_dns import SlowResolver

FACTORY = FilterMaker("fcrdns", "mailgate.filters.fcrdns", "judges the client's name in DNS")

NAMED, LIAR, NAMELESS, SICK, LINE, SIX = (
    "203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "203.0.113.77", "2001:db8::25"
)  # fmt: skip

WORLD: dict[str, Any] = {
    "1.113.0.203.in-addr.arpa": {"PTR": ["other.example", "Mx.Client.example"]},
    "mx.client.example": {"A": [NAMED], "AAAA": [SIX]},
    "other.example": {"A": ["203.0.113.99"]},
    "2.113.0.203.in-addr.arpa": {"PTR": ["mx.client.example", "nowhere.example"]},
    "4.113.0.203.in-addr.arpa": "SERVFAIL",
    "77.113.0.203.in-addr.arpa": {"PTR": ["dsl-203-0-113-77.isp.example"]},
    "dsl-203-0-113-77.isp.example": {"A": [LINE]},
    f"{ip_address(SIX).reverse_pointer}": {"PTR": ["mx.client.example"]},
}


def nameless(address: str) -> Client:
    return Client(ip_address(address), 4711)


class Desk:
    """The filter with a zone: what it finds out about a client, and what it says at RCPT."""

    def __init__(self, world: Mapping[str, Any] = WORLD, **options: Any) -> None:
        self.resolver = MemoryResolver(world)
        built = build(Options.model_validate(options), services(resolver=self.resolver))
        assert isinstance(built, Fcrdns)
        self.filter = built

    def verdict(self, client: Client | str, **changes: Any) -> Verdict | None:
        self.session = session(nameless(client) if isinstance(client, str) else client, **changes)
        verdict = wait_for(self.filter.on_connect(self.session))
        for one in getattr(verdict, "evidence", ()):
            self.session.evidence.add(one)
        return verdict

    def result(self, client: Client | str) -> IprevResult | None:
        self.verdict(client)
        return self.session.evidence.get(IprevResult)

    def rcpt(self, client: Client | str, address: str = "bob@example.org") -> Verdict | None:
        self.verdict(client)
        return self.filter.on_rcpt(self.session, transaction(), recipient(address))


@pytest.mark.parametrize(
    ("client", "result", "name"),
    [
        (NAMED, "pass", "mx.client.example"),
        (SIX, "pass", "mx.client.example"),
        (f"::ffff:{NAMED}", "pass", "mx.client.example"),
        (LIAR, "fail", ""),
        (NAMELESS, "permerror", ""),
        (SICK, "temperror", ""),
    ],
)
def test_the_results_of_rfc_8601(client: str, result: str, name: str) -> None:
    found = Desk().result(client)
    assert found is not None
    assert (found.result, found.name) == (result, name)
    assert found.facts() == (f"fcrdns.{result}",)
    assert found.summary().startswith(f"iprev={result} policy.iprev=")


def test_a_name_that_the_session_has_confirmed_is_not_asked_for_again() -> None:
    desk = Desk()
    found = desk.result(Client(ip_address(NAMED), 1, "mx.client.example"))
    assert found == IprevResult("pass", "mx.client.example", ("mx.client.example",), NAMED)
    assert desk.resolver.asked == []


def test_one_name_that_cannot_be_looked_up_makes_it_a_temperror() -> None:
    found = Desk({**WORLD, "nowhere.example": "TIMEOUT"}).result(LIAR)
    assert found is not None
    assert found.result == "temperror"


def test_a_confirmed_name_outweighs_one_that_cannot_be_looked_up() -> None:
    found = Desk({**WORLD, "other.example": "TIMEOUT"}).result(NAMED)
    assert found is not None
    assert found.result == "pass"


def test_names_that_are_none_and_names_without_end_are_not_asked_for() -> None:
    names = ["evil\r\n.example", "a b.example", "x" * 300, *(f"h{number}.example" for number in range(500))]
    desk = Desk({"9.113.0.203.in-addr.arpa": {"PTR": names}})
    found = desk.result("203.0.113.9")
    assert found is not None
    assert found.result == "fail"
    assert len(found.names) == 5
    assert len(desk.resolver.asked) == 6
    assert found.summary().isprintable()


def test_names_are_looked_up_at_the_same_time() -> None:
    clock = Clock()
    world = {"9.113.0.203.in-addr.arpa": {"PTR": [f"h{number}.example" for number in range(5)]}}
    resolver = SlowResolver(world, clock, 1.0)
    built = build(Options(), services(clock=clock, resolver=resolver))
    assert isinstance(built, Fcrdns)
    wait_for(built.on_connect(session(nameless("203.0.113.9"))), clock)
    assert resolver.most == 5
    assert clock.seconds() < 3


def test_by_default_nobody_is_refused() -> None:
    for client in (NAMED, LIAR, NAMELESS, SICK, LINE):
        assert isinstance(Desk().verdict(client), Continue)
        assert Desk().rcpt(client) is None
    assert not IRecipientFilter.providedBy(Desk().filter)
    assert IRecipientFilter.providedBy(Desk(no_name="reject").filter)


@pytest.mark.parametrize(
    ("option", "client", "reply"),
    [
        ("no_name", NAMELESS, b"550 5.7.25 Your address has no name in DNS\r\n"),
        ("unconfirmed", LIAR, b"550 5.7.25 The name of your address does not lead back to it\r\n"),
        ("dynamic", LINE, b"550 5.7.1 Your address seems to be dynamic, send through your provider's mail server\r\n"),
    ],
)
def test_each_is_refused_by_its_option_only(option: str, client: str, reply: bytes) -> None:
    desk = Desk(WORLD, **{option: "reject"})
    verdict = desk.rcpt(client)
    assert isinstance(verdict, Reject)
    assert verdict.reply.to_bytes() == reply
    for other in {NAMED, LIAR, NAMELESS, LINE, SICK} - {client}:
        assert desk.rcpt(other) is None


def test_defer_and_at_once() -> None:
    verdict = Desk(no_name="defer").rcpt(NAMELESS)
    assert isinstance(verdict, Defer)
    assert verdict.reply.to_bytes().startswith(b"450 4.7.25 ")
    verdict = Desk(no_name="reject", when="at-once").verdict(NAMELESS)
    assert isinstance(verdict, Disconnect)
    assert verdict.reply.to_bytes() == b"554 Your address has no name in DNS\r\n"
    assert verdict.evidence
    verdict = Desk(temporary="defer", when="at-once").verdict(SICK)
    assert isinstance(verdict, Disconnect)
    assert verdict.reply.code == 421


def test_who_is_left_alone() -> None:
    desk = Desk(no_name="reject", when="at-once", exempt=["203.0.113.3"])
    assert desk.verdict(NAMELESS) is None
    assert desk.verdict(Client(None)) is None
    assert Desk().verdict("127.0.0.1") is None
    assert Desk().verdict(LIAR, identity=Identity("ann", "network")) is None
    assert desk.resolver.asked == []
    assert Desk(no_name="reject").rcpt(NAMELESS, "postmaster@example.org") is None


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("dsl-203-0-113-77.isp.example", "203.0.113.77"),
        ("203.0.113.77.isp.example", "203.0.113.77"),
        ("77.113.0.203.dynamic.isp.example", "203.0.113.77"),
        ("host203-000-113-077.isp.example", "203.0.113.77"),
        ("p203000113077.isp.example", "203.0.113.77"),
        ("cb00714d.isp.example", "203.0.113.77"),
        ("x-cb00714d-7.cust.isp.example", "203.0.113.77"),
        ("113-77.pool.isp.example", "203.0.113.77"),
        ("77-113.adsl2.isp.example", "203.0.113.77"),
        ("20010db8000000000000000000000025.isp.example", "2001:db8::25"),
        ("2001-db8--25.isp.example", "2001:db8::25"),
        ("5.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.isp.example", "2001:db8::25"),
        ("203-0-113-77.isp.example", "::ffff:203.0.113.77"),
    ],
)
def test_names_of_lines(name: str, address: str) -> None:
    assert is_generic(name, ip_address(address))


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("mx.client.example", "203.0.113.77"),
        ("mail-203-0-113-77.isp.example", "203.0.113.77"),
        ("203-0-113-77.static.isp.example", "203.0.113.77"),
        ("203-0-113-78.isp.example", "203.0.113.77"),
        ("h113-77.isp.example", "203.0.113.77"),
        ("pool.example", "203.0.113.77"),
        ("web25.client.example", "2001:db8::25"),
        ("203-0-113-77.example", "203.0.113.77"),
        ("a." * 200 + "203-0-113-77.isp.example", "203.0.113.77"),
    ],
)
def test_names_of_hosts(name: str, address: str) -> None:
    assert not is_generic(name, ip_address(address))


@given(st.text(alphabet="0123456789abcdefx-._", max_size=260), st.ip_addresses())
def test_any_name_can_be_asked_about(name: str, address: Any) -> None:
    assert is_generic(name, address) in (True, False)


def test_names_of_lines_and_hosts_by_pattern() -> None:
    desk = Desk(dynamic_names=["*.pool.client.example", "mx.*"], static_names=["*.isp.example"])
    desk.verdict(Client(ip_address(NAMED), 1, "Mx.client.example"))
    assert desk.session.evidence.get(DynamicNameResult) == DynamicNameResult(
        "mx.client.example", "it is one of dynamic_names"
    )
    desk.verdict(LINE)
    assert desk.session.evidence.get(DynamicNameResult) is None
    desk = Desk(recognize=False)
    desk.verdict(LINE)
    assert desk.session.evidence.get(DynamicNameResult) is None


def test_names_of_lines_are_a_fact_of_their_own() -> None:
    desk = Desk()
    desk.verdict(LINE)
    found = desk.session.evidence.get(DynamicNameResult)
    assert found is not None
    assert found.facts() == ("fcrdns.dynamic",)


def test_giving_up_ends_every_question() -> None:
    clock = Clock()
    resolver = SlowResolver(WORLD, clock, 1.0)
    built = build(Options(), services(clock=clock, resolver=resolver))
    assert isinstance(built, Fcrdns)
    answer = built.on_connect(session(nameless(NAMED)))
    assert isinstance(answer, Awaitable)
    ends: list[object] = []
    deferred = as_deferred(answer).addErrback(lambda failure: ends.append(failure.type))
    clock.advance(1)
    assert resolver.open == 2
    deferred.cancel()
    assert (ends, resolver.open, clock.getDelayedCalls()) == ([CancelledError], 0, [])


def test_temperror_is_no_reason_to_reject() -> None:
    with pytest.raises(ValidationError, match="temporary"):
        Options.model_validate({"temporary": "reject"})


class TestContract(FilterContract):
    factory = FACTORY
    settings = {  # noqa: RUF012  FilterContract's
        "no_name": "reject",
        "unconfirmed": "defer",
        "dynamic": "reject",
        "when": "at-once",
    }

    def make_services(self, clock: Clock, **silent: Any) -> FilterServices:
        return services(clock=clock, **({"resolver": MemoryResolver(WORLD)} | silent))

    def occasions(self) -> list[Occasion]:
        return [Occasion(session=session(nameless(client))) for client in (NAMED, LIAR, NAMELESS, SICK, LINE)]


class TestContractAtRcpt(TestContract):
    settings = {"no_name": "reject"}  # noqa: RUF012  FilterContract's

    def occasions(self) -> list[Occasion]:
        known = session(nameless(NAMELESS))
        known.evidence.add(IprevResult("permerror", address=NAMELESS))
        return [Occasion(session=known), *super().occasions()]
