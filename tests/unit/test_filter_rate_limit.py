"""Rate limits: what counts, against whom, and what is let through."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgate.envelope import Client, Identity
from mailgate.filters.rate_limit import Options, RateLimit, build
from mailgate.interfaces import IConnectFilter, ICounters, IMailFilter, IRecipientFilter
from mailgate.plugins import builtin
from mailgate.stores.counters import MemoryCounters
from mailgate.testing import FilterContract, recipient, services, session, transaction, wait_for
from mailgate.verdict import Defer, Disconnect, Verdict

ANN, EVE = "192.0.2.1", "203.0.113.9"


@implementer(ICounters)
class Later(MemoryCounters):
    """Counters that answer with a Deferred, as those of another machine do."""

    def hit(self, key: str, window: float, amount: int = 1) -> Deferred[int]:  # type: ignore[override]  # so may any
        return succeed(super().hit(key, window, amount))

    def peek(self, key: str, window: float) -> Deferred[int]:  # type: ignore[override]  # as above
        return succeed(super().peek(key, window))


class Gate:
    """A filter with its clock; each method says whether one more is let through."""

    def __init__(self, *rules: Mapping[str, object], later: bool = False, **options: Any) -> None:
        self.clock = Clock()
        self.counters = (Later if later else MemoryCounters)(self.clock, 1000)
        built = build(
            Options.model_validate({"rules": rules, **options}), services(clock=self.clock, counters=self.counters)
        )
        assert isinstance(built, RateLimit)
        self.filter = built
        self.last: Verdict | None = None

    def connects(self, client: Client | str = ANN, listener: str = "mx") -> bool:
        return self._passes(self.filter.on_connect(session(client, listener=listener)))

    def sends(self, sender: str = "ann@client.example", client: Client | str = ANN, user: str = "") -> bool:
        identity = Identity(user, "PLAIN") if user else None
        return self._passes(self.filter.on_mail(session(client, identity=identity), transaction(sender)))

    def writes_to(self, address: str = "bob@example.org", client: Client | str = ANN) -> bool:
        return self._passes(self.filter.on_rcpt(session(client), transaction(), recipient(address)))

    def _passes(self, answer: Verdict | Awaitable[Verdict | None] | None) -> bool:
        self.last = wait_for(answer)
        return self.last is None


@pytest.mark.parametrize("later", [False, True])
def test_a_client_that_connects_too_often_gets_421(later: bool) -> None:
    gate = Gate({"count": "connections", "limit": 3, "window": "1m"}, later=later)
    assert [gate.connects() for _ in range(5)] == [True, True, True, False, False]
    assert isinstance(gate.last, Disconnect)
    assert gate.last.reply.to_bytes() == b"421 Too many connections, try again later\r\n"
    assert gate.last.reason == "connections per client: 192.0.2.1 has had 3 in 1m, the limit is 3"
    assert gate.connects(EVE)


@pytest.mark.parametrize("later", [False, True])
def test_messages_and_recipients_too_many_get_450(later: bool) -> None:
    gate = Gate(
        {"count": "messages", "limit": 1, "window": "1h", "text": "Slower, please"},
        {"count": "recipients", "limit": 2, "window": "1h", "name": "lists {0}"},
        later=later,
    )
    assert [gate.sends(), gate.sends()] == [True, False]
    assert isinstance(gate.last, Defer)
    assert str(gate.last.reply) == "450 4.7.1 Slower, please"
    assert [gate.writes_to() for _ in range(3)] == [True, True, False]
    assert isinstance(gate.last, Defer)
    assert str(gate.last.reply) == "450 4.7.1 Too many recipients, try again later"
    assert gate.last.reason.startswith("lists {0}: 192.0.2.1 has had 2 in 1h,")


def test_whoever_keeps_trying_is_let_in_at_the_limits_pace() -> None:
    gate = Gate({"count": "messages", "limit": 8, "window": "80s"})
    passed = 0
    for _ in range(1600):
        passed += gate.sends()
        gate.clock.advance(1)
    # Twenty windows: no more than the limit in each, and not much less, though each try came ten times too often.
    assert 8 * 16 <= passed <= 8 * 20


@pytest.mark.parametrize("later", [False, True])
def test_what_one_rule_refuses_does_not_count_for_another(later: bool) -> None:
    gate = Gate(
        {"count": "messages", "per": "client", "limit": 5, "window": "1h"},
        {"count": "messages", "per": "sender", "limit": 1, "window": "1h"},
        later=later,
    )
    assert gate.sends("a@client.example")
    assert [gate.sends("a@client.example") for _ in range(10)] == [False] * 10
    assert [gate.sends(f"{name}@client.example") for name in "bcdef"] == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("per", "same", "other"),
    [
        ("client", {"sender": "else@client.example"}, {"client": EVE}),
        ("network", {"client": "192.0.2.200"}, {"client": EVE}),
        ("sender", {"sender": "ANN@CLIENT.example", "client": EVE}, {"sender": "else@client.example"}),
        ("sender-domain", {"sender": "else@client.example", "client": EVE}, {"sender": "ann@client.test"}),
        ("listener", {"client": EVE, "sender": "x@y.example"}, None),
        ("identity", {"user": "ann", "client": EVE}, {"user": "eve"}),
    ],
)
def test_whose_count_it_is(per: str, same: dict[str, str], other: dict[str, str] | None) -> None:
    gate = Gate({"count": "messages", "per": per, "limit": 1, "window": "1h"})
    assert gate.sends(user="ann")
    assert not gate.sends(**same)
    if other is not None:
        assert gate.sends(**other)


@pytest.mark.parametrize(
    ("per", "same", "other"),
    [("recipient", "BOB@example.org", "eve@example.org"), ("recipient-domain", "eve@example.org", "bob@example.com")],
)
def test_recipients_of_mail_can_be_spared(per: str, same: str, other: str) -> None:
    gate = Gate({"count": "recipients", "per": per, "limit": 1, "window": "1h"})
    assert gate.writes_to("bob@example.org")
    assert not gate.writes_to(same, EVE)
    assert gate.writes_to(other)


@pytest.mark.parametrize("per", ["sender", "sender-domain", "identity"])
def test_reports_and_strangers_have_no_sender_and_no_identity_to_count_for(per: str) -> None:
    gate = Gate({"count": "messages", "per": per, "limit": 1, "window": "1h"})
    assert all(gate.sends("") for _ in range(3))


def test_listeners_are_counted_apart() -> None:
    gate = Gate({"count": "connections", "per": "listener", "limit": 1, "window": "1h"})
    assert [gate.connects(ANN, "mx"), gate.connects(EVE, "mx"), gate.connects(ANN, "submission")] == [True, False, True]


def test_an_ipv6_client_cannot_change_its_address_to_get_more() -> None:
    gate = Gate({"count": "connections", "limit": 1, "window": "1h"})
    assert [gate.connects(f"2001:db8::{number}") for number in (1, 2)] == [True, False]
    assert gate.connects("2001:db8:0:1::1")


def test_only_and_exempt() -> None:
    rule = {"count": "connections", "limit": 1, "window": "1h"}
    gate = Gate({**rule, "only": ["192.0.2.0/24"], "exempt": ["192.0.2.7"]})
    assert [gate.connects(ANN), gate.connects(ANN)] == [True, False]
    assert all(gate.connects("192.0.2.7") and gate.connects(EVE) for _ in range(3))


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "10.1.2.3", Client(None)])
def test_local_clients_are_not_limited_by_default(client: Client | str) -> None:
    gate = Gate(*({"count": count, "limit": 1, "window": "1h"} for count in ("connections", "messages", "recipients")))
    assert all(gate.connects(client) and gate.sends(client=client) and gate.writes_to(client=client) for _ in range(3))


def test_local_clients_are_limited_where_that_is_wanted() -> None:
    gate = Gate({"count": "messages", "limit": 1, "window": "1h"}, exempt=[])
    assert [gate.sends(client="10.1.2.3") for _ in range(2)] == [True, False]


def test_rules_of_different_names_count_apart() -> None:
    rule = {"count": "messages", "per": "listener", "window": "1h"}
    gate = Gate({**rule, "limit": 1, "only": [ANN]}, {**rule, "limit": 1, "only": [EVE], "name": "eve"})
    assert [gate.sends(client=ANN), gate.sends(client=EVE)] == [True, True]


def test_rules_that_share_a_count_add_to_it_once() -> None:
    rule = {"count": "messages", "window": "1h"}
    gate = Gate({**rule, "limit": 4}, {**rule, "limit": 2, "exempt": [EVE]})
    assert [gate.sends(client=ANN) for _ in range(3)] == [True, True, False]
    assert [gate.sends(client=EVE) for _ in range(5)] == [True, True, True, True, False]


def test_the_default_rules_let_a_busy_client_through_and_stop_a_flood() -> None:
    clock = Clock()
    built = build(Options(), services(clock=clock))
    assert isinstance(built, RateLimit)
    assert sum(built.on_mail(session(ANN), transaction()) is None for _ in range(5000)) == 600


@pytest.mark.parametrize(
    ("counts", "stages"),
    [
        ([], {IConnectFilter}),
        (["messages"], {IMailFilter}),
        (["connections", "recipients"], {IConnectFilter, IRecipientFilter}),
    ],
)
def test_only_the_stages_that_rules_need_are_provided(counts: list[str], stages: set[object]) -> None:
    built = Gate(*({"count": count, "limit": 1, "window": "1m"} for count in counts)).filter
    every = (IConnectFilter, IMailFilter, IRecipientFilter)
    assert {stage for stage in every if stage.providedBy(built)} == stages
    for stage in every:
        assert verifyObject(stage, built, tentative=True)


def test_no_rules_no_limits() -> None:
    gate = Gate()
    assert all(gate.connects() for _ in range(1000))


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ({"count": "connections", "per": "sender"}, 'valid values are: "client"'),
        ({"count": "messages", "per": "recipient"}, 'write count = "recipients"'),
        ({"count": "letters"}, "count"),
        ({"count": "messages", "limit": 0}, "limit"),
        ({"count": "messages", "window": "10ms"}, "at least 1s"),
        ({"count": "messages", "per": "moon"}, "per"),
        ({"count": "messages", "every": "1m"}, "every"),
    ],
)
def test_rules_that_cannot_be_counted_are_refused(rule: dict[str, object], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Options.model_validate({"rules": [{"limit": 1, "window": "1m", **rule}]})


class TestContract(FilterContract):
    factory = builtin.rate_limit
    settings: Mapping[str, object] = {
        "rules": [{"count": count, "limit": 2, "window": "1h"} for count in ("connections", "messages", "recipients")]
    }
    varies = "it counts"


class TestContractWithoutRules(FilterContract):
    factory = builtin.rate_limit
    settings: Mapping[str, object] = {"rules": []}
