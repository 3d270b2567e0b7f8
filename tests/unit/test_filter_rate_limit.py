"""Rate limits: what counts, against whom, and what is let through."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from ipaddress import IPv4Address
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgate.awaiting import as_deferred
from mailgate.envelope import Client, Identity
from mailgate.events import Refused, SessionClosed
from mailgate.filters.geo import GeoResult
from mailgate.filters.rate_limit import Options, RateLimit, SlowedResult, build
from mailgate.interfaces import (
    IConnectFilter,
    IEventObserver,
    IMailFilter,
    IMessageFilter,
    IRecipientFilter,
)
from mailgate.plugins import builtin
from mailgate.stores.counters import MemoryCounters
from mailgate.testing import FilterContract, message, recipient, services, session, transaction, wait_for
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict
from tests.unit.later import LaterCounters

ANN, EVE = "192.0.2.1", "203.0.113.9"


class Gate:
    """A filter with its clock; each method says whether one more is let through."""

    def __init__(self, *rules: Mapping[str, object], later: bool = False, **options: Any) -> None:
        self.clock = Clock()
        self.counters = LaterCounters(self.clock) if later else MemoryCounters(self.clock, 1000)
        built = build(
            Options.model_validate({"rules": rules, **options}), services(clock=self.clock, counters=self.counters)
        )
        assert isinstance(built, RateLimit)
        self.filter = built
        self.last: Verdict | None = None

    def connects(
        self, client: Client | str = ANN, listener: str = "mx", geo: GeoResult | None = None, number: str = "S1"
    ) -> bool:
        one = session(client, listener=listener, id=number)
        if geo is not None:
            one.evidence.add(geo)
        return self._passes(self.filter.on_connect(one))

    def sends(
        self,
        sender: str = "ann@client.example",
        client: Client | str = ANN,
        user: str = "",
        size: int | None = None,
        **more: Any,
    ) -> bool:
        identity = Identity(user, "PLAIN") if user else None
        geo = more.pop("geo", None)
        one = session(client, identity=identity, **more)
        if geo is not None:
            one.evidence.add(geo)
        return self._passes(self.filter.on_mail(one, transaction(sender, declared_size=size)))

    def writes_to(self, address: str = "bob@example.org", client: Client | str = ANN) -> bool:
        return self._passes(self.filter.on_rcpt(session(client), transaction(), recipient(address)))

    def brings(self, octets: int, client: Client | str = ANN) -> bool:
        return self._passes(self.filter.on_message(session(client), transaction(), message(bytes(octets))))

    def refuses(self, reply: str, stage: str = "rcpt", number: str = "S1", **more: Any) -> None:
        """An event of a session that has connected."""
        fields = {"client": "x", "listener": "mx", "helo": "x", "filter": "other", "reason": "a reason", **more}
        self.filter.observe(Refused(at=0.0, session=number, stage=stage, reply=reply, **fields))

    def _passes(self, answer: Verdict | Awaitable[Verdict | None] | None) -> bool:
        self.last = wait_for(answer, self.clock)
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


@pytest.mark.parametrize(("amount", "passing"), [(1, 3), (5, 1)])
def test_of_those_that_ask_at_the_same_time_no_more_pass_than_there_is_room_for(amount: int, passing: int) -> None:
    count = "connections" if amount == 1 else "bytes"
    gate = Gate({"count": count, "limit": 3, "window": "1h"}, later=True)
    assert isinstance(gate.counters, LaterCounters)
    gate.counters.holds = True
    answers: list[Verdict | None] = []
    for _ in range(20):
        asked = (
            gate.filter.on_connect(session(ANN))
            if amount == 1
            else gate.filter.on_message(session(ANN), transaction(), message(bytes(amount)))
        )
        assert isinstance(asked, Awaitable)
        as_deferred(asked).addCallback(answers.append)
    for _ in range(5):
        gate.counters.release()
    assert len(answers) == 20
    assert answers.count(None) == passing


def test_keys_are_short_however_long_the_names_that_peers_think_of() -> None:
    gate = Gate({"count": "messages", "per": "helo+sender", "limit": 1, "window": "1h"})
    assert isinstance(gate.counters, MemoryCounters)
    long = "h" * 450
    assert gate.sends(f"{'a' * 64}@{'.'.join(['b' * 60] * 3)}", helo=long)
    assert not gate.sends(f"{'a' * 64}@{'.'.join(['b' * 60] * 3)}", helo=long)
    assert isinstance(gate.last, Defer)
    assert "hhhhhhhh..." in gate.last.reason
    assert gate.sends(f"{'a' * 64}@{'.'.join(['b' * 60] * 3)}", helo=f"{long}x")
    assert max(len(key) for key, _ in gate.counters._windows) < 300


def test_other_spellings_of_a_name_have_no_count_of_their_own() -> None:
    gate = Gate({"count": "messages", "per": "identity", "limit": 1, "window": "1h"})
    assert [gate.sends(user=user) for user in ("ann", "Ann", "ANN")] == [True, False, False]
    gate = Gate({"count": "messages", "per": "helo", "limit": 1, "window": "1h"})
    assert [gate.sends(helo=helo) for helo in ("mx.client.example", "MX.client.example.")] == [True, False]


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
def test_whose_count_it_is(per: str, same: dict[str, Any], other: dict[str, Any] | None) -> None:
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


@pytest.mark.parametrize("client", [Client(IPv4Address(0)), "::"])
def test_clients_whose_address_is_not_known_have_no_count_in_common(client: Client | str) -> None:
    rule = {"limit": 1, "window": "1h"}
    gate = Gate({**rule, "count": "messages"}, {**rule, "count": "connections", "per": "network"})
    assert all(gate.connects(client) and gate.sends(client=client) for _ in range(3))
    gate = Gate({"count": "messages", "per": "listener", "limit": 1, "window": "1h"})
    assert [gate.sends(client=client), gate.sends(client=client)] == [True, False]


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
        (["bytes"], {IMailFilter, IMessageFilter}),
        (["auth-failures"], {IConnectFilter, IEventObserver}),
    ],
)
def test_only_the_stages_that_rules_need_are_provided(counts: list[str], stages: set[object]) -> None:
    built = Gate(*({"count": count, "limit": 1, "window": "1m"} for count in counts)).filter
    every = (IConnectFilter, IMailFilter, IRecipientFilter, IMessageFilter, IEventObserver)
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
        ({"count": "messages", "limit": "1MB"}, "limit is a number"),
        ({"count": "messages", "burst": 5}, "burst is for"),
        ({"count": "messages", "per": "client+moon"}, '"moon" is nothing'),
        ({"count": "messages", "per": "client+client"}, "one thing twice"),
        ({"count": "messages", "per": ""}, '"" is nothing'),
        ({"count": "connections", "per": "client+helo"}, "not counted per helo"),
        ({"count": "bytes", "per": "recipient"}, 'write count = "recipients"'),
        ({"count": "auth-failures", "per": "sender"}, "not counted per sender"),
        ({"count": "refusals", "algorithm": "bucket"}, "counted in a window"),
        ({"count": "messages", "verdict": "slow", "delay": "1m"}, "at most 9s"),
    ],
)
def test_rules_that_cannot_be_counted_are_refused(rule: dict[str, object], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Options.model_validate({"rules": [{"limit": 1, "window": "1m", **rule}]})


@pytest.mark.parametrize("later", [False, True])
def test_a_bucket_lets_a_burst_through_and_then_its_rate(later: bool) -> None:
    rule = {"count": "messages", "algorithm": "bucket", "limit": 60, "window": "1m", "burst": 3}
    gate = Gate(rule, later=later)
    assert [gate.sends() for _ in range(4)] == [True, True, True, False]
    assert isinstance(gate.last, Defer)
    assert gate.last.reason == "messages per client: 192.0.2.1 has had too many in 1m, the limit is 60"
    passed = 0
    for _ in range(100):
        gate.clock.advance(0.5)
        passed += gate.sends()
    assert passed == 50
    gate.clock.advance(1000)
    assert [gate.sends() for _ in range(4)] == [True, True, True, False]


def test_a_bucket_without_a_burst_holds_the_limit() -> None:
    gate = Gate({"count": "recipients", "algorithm": "bucket", "limit": 5, "window": "1h"})
    assert [gate.writes_to() for _ in range(6)] == [True] * 5 + [False]


def test_a_window_that_refuses_takes_nothing_out_of_a_bucket() -> None:
    gate = Gate(
        {"count": "messages", "algorithm": "bucket", "limit": 3, "window": "1h"},
        {"count": "messages", "per": "sender", "limit": 1, "window": "1h"},
    )
    assert gate.sends("a@client.example")
    assert not any(gate.sends("a@client.example") for _ in range(5))
    assert [gate.sends(f"{name}@client.example") for name in "bcd"] == [True, True, False]


DE, FR = GeoResult("DE", 64496), GeoResult("FR", 64497)


@pytest.mark.parametrize(
    ("per", "same", "other"),
    [
        ("asn", {"client": EVE, "geo": GeoResult("FR", 64496)}, {"geo": FR}),
        ("country", {"client": EVE, "geo": GeoResult("DE", 64497)}, {"geo": FR}),
        ("helo", {"client": EVE, "helo": "CLIENT.example"}, {"helo": "other.example"}),
        ("identity-domain", {"user": "bob@Example.org", "client": EVE}, {"user": "bob@example.net"}),
        ("client+sender-domain", {"sender": "bob@client.example"}, {"client": EVE}),
        ("client+sender-domain", {"sender": "bob@client.example"}, {"sender": "ann@client.test"}),
        ("country+helo+listener", {"client": EVE}, {"listener": "other"}),
    ],
)
def test_further_subjects(per: str, same: dict[str, Any], other: dict[str, Any]) -> None:
    gate = Gate({"count": "messages", "per": per, "limit": 1, "window": "1h"})
    first: dict[str, Any] = {"geo": DE, "user": "ann@example.org"}
    assert gate.sends(**first)
    assert not gate.sends(**{**first, **same})
    assert gate.sends(**{**first, **other})


@pytest.mark.parametrize("per", ["asn", "country", "client+asn"])
def test_a_rule_is_not_about_what_lacks_its_subject(per: str) -> None:
    gate = Gate({"count": "connections", "per": per, "limit": 1, "window": "1h"})
    assert all(gate.connects() and gate.connects(geo=GeoResult()) for _ in range(3))
    assert [gate.connects(geo=DE) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("later", [False, True])
def test_octets_are_counted_when_they_have_come(later: bool) -> None:
    gate = Gate({"count": "bytes", "limit": "10kB", "window": "1h"}, later=later)
    assert gate.brings(6000)
    assert not gate.brings(6000)
    assert isinstance(gate.last, Defer)
    assert str(gate.last.reply) == "450 4.7.1 Too many octets, try again later"
    assert gate.last.reason.endswith("192.0.2.1 has had 6000 in 1h, the limit is 10000B")
    assert not gate.sends(size=4001)
    assert gate.sends(size=4000)
    assert gate.brings(4000)
    assert not gate.sends()
    assert gate.sends(client=EVE)
    gate.clock.advance(2 * 3600)
    assert gate.sends()


@pytest.mark.parametrize("algorithm", ["window", "bucket"])
def test_a_message_larger_than_the_limit_passes_alone(algorithm: str) -> None:
    gate = Gate({"count": "bytes", "limit": "10kB", "window": "1h", "algorithm": algorithm})
    assert gate.sends(size=50_000)
    assert gate.brings(50_000)
    assert not gate.brings(1)
    gate.clock.advance(2 * 3600)
    assert gate.brings(50_000)


@pytest.mark.parametrize(
    ("count", "verdict", "reply"),
    [
        ("messages", "reject", "550 5.7.1 Too many messages"),
        ("messages", "disconnect", "421 4.7.0 Too many messages, try again later"),
        ("connections", "reject", "554 Too many connections"),
        ("connections", "disconnect", "421 Too many connections, try again later"),
    ],
)
def test_verdicts(count: str, verdict: str, reply: str) -> None:
    gate = Gate({"count": count, "limit": 1, "window": "1h", "verdict": verdict})
    ask = gate.sends if count == "messages" else gate.connects
    assert [ask(), ask()] == [True, False]
    assert isinstance(gate.last, Reject if reply.startswith("550") else Disconnect)
    assert str(gate.last.reply) == reply


@pytest.mark.parametrize("later", [False, True])
def test_who_is_slowed_gets_through_later(later: bool) -> None:
    gate = Gate({"count": "messages", "limit": 2, "window": "1h", "verdict": "slow", "delay": "3s"}, later=later)
    assert [gate.sends(), gate.sends()] == [True, True]
    before = gate.clock.seconds()
    assert not gate.sends()
    assert isinstance(gate.last, Continue)
    assert gate.clock.seconds() - before == pytest.approx(3.0, abs=0.2)
    (found,) = gate.last.evidence
    assert found == SlowedResult(3.0, "messages per client: 192.0.2.1 has had 2 in 1h, the limit is 2")
    assert isinstance(found, SlowedResult)
    assert found.summary().startswith("held back for 3 s: messages per client")
    assert not gate.sends()
    assert isinstance(gate.last, Continue)
    assert "has had 3" in str(gate.last.evidence)


def test_a_bucket_slows_only_until_it_has_enough() -> None:
    rule = {"count": "messages", "algorithm": "bucket", "limit": 60, "window": "1m", "burst": 1}
    gate = Gate({**rule, "verdict": "slow", "delay": "5s"})
    assert gate.sends()
    before = gate.clock.seconds()
    assert not gate.sends()
    assert gate.clock.seconds() - before == pytest.approx(1.0, abs=0.2)


UNKNOWN, REFUSED, LATER_PLEASE = "550 5.1.1 No such recipient here", "550 5.7.1 Refused", "450 4.7.1 Later"
WRONG = "535 5.7.8 Authentication credentials invalid"


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("count", "counted", "not_counted"),
    [
        ("refusals", [(UNKNOWN, "rcpt"), (REFUSED, "message"), ("554 No", "connect")], [(LATER_PLEASE, "rcpt")]),
        ("unknown-recipients", [(UNKNOWN, "rcpt")] * 3, [(REFUSED, "rcpt"), ("550 5.1.10 x", "rcpt")]),
        (
            "auth-failures",
            [(WRONG, "auth"), ("", "auth"), (WRONG, "auth")],
            [("454 4.7.0 x", "auth"), (WRONG, "mail"), ("", "rcpt")],
        ),
    ],
)
def test_what_goes_wrong_limits_later_connections(
    later: bool, count: str, counted: list[tuple[str, str]], not_counted: list[tuple[str, str]]
) -> None:
    gate = Gate({"count": count, "limit": 3, "window": "1h"}, later=later)
    assert gate.connects()
    for reply, stage in (*not_counted * 3, *counted[:2]):
        gate.refuses(reply, stage, user="ann")
    assert gate.connects()
    gate.refuses(*counted[2], user="ann")
    assert not gate.connects()
    assert isinstance(gate.last, Disconnect)
    assert gate.last.reply.code == 421
    assert f"{count} per client: 192.0.2.1 has had 3 in 1h" in gate.last.reason
    assert gate.connects(EVE, number="S2")
    gate.clock.advance(2 * 3600)
    assert gate.connects()


def test_what_goes_wrong_with_a_sender_limits_its_later_messages() -> None:
    gate = Gate({"count": "refusals", "per": "sender-domain", "limit": 2, "window": "1h"})
    assert gate.connects()
    for sender in ("ann@client.example", "bob@client.example", "", "no address", "eve@client.test"):
        gate.refuses(REFUSED, sender=sender)
    assert gate.connects()
    assert [gate.sends("eve@client.example"), gate.sends("eve@client.test")] == [False, True]


def test_what_goes_wrong_elsewhere_or_with_friends_does_not_count() -> None:
    gate = Gate({"count": "refusals", "limit": 1, "window": "1h"})
    gate.refuses(REFUSED, number="of another pipeline")
    assert gate.connects()
    assert gate.connects("10.1.2.3", number="S2")
    gate.refuses(REFUSED, number="S2")
    gate.filter.observe(
        SessionClosed(at=0.0, session="S1", client="x", listener="mx", helo="x", messages=0, seconds=1.0, cause="quit")
    )
    gate.refuses(REFUSED)
    assert gate.connects()


def test_its_own_refusals_do_not_keep_a_client_out_for_ever() -> None:
    gate = Gate({"count": "refusals", "limit": 1, "window": "1h", "verdict": "reject"})
    assert gate.connects()
    gate.refuses(REFUSED)
    for _ in range(45):
        gate.clock.advance(100)
        if not gate.connects():
            assert isinstance(gate.last, Disconnect)
            gate.refuses(str(gate.last.reply), "connect", reason=gate.last.reason)
    assert gate.connects()


def test_counters_that_fail_while_events_are_counted_disturb_nobody() -> None:
    class Failing(MemoryCounters):
        def hit(self, key: str, window: float, amount: int = 1) -> Deferred[int]:  # type: ignore[override]  # as above
            return fail(ConnectionError("away"))

    clock = Clock()
    options = Options.model_validate({"rules": [{"count": "refusals", "limit": 1, "window": "1h"}]})
    built = build(options, services(clock=clock, counters=Failing(clock, 10)))
    assert isinstance(built, RateLimit)
    assert built.on_connect(session(id="S1")) is None
    built.observe(
        Refused(
            at=0.0, session="S1", client="x", listener="mx", helo="x", stage="rcpt", filter="", reason="", reply=REFUSED
        )
    )


class TestContract(FilterContract):
    factory = builtin.rate_limit
    settings: Mapping[str, object] = {
        "rules": [
            *({"count": count, "limit": 2, "window": "1h"} for count in ("connections", "messages", "recipients")),
            {"count": "bytes", "limit": 10, "window": "1h", "verdict": "slow"},
            {"count": "messages", "algorithm": "bucket", "limit": 1, "window": "1h", "verdict": "reject"},
            {"count": "refusals", "limit": 10, "window": "1h"},
        ]
    }
    varies = "it counts"


class TestContractWithoutRules(FilterContract):
    factory = builtin.rate_limit
    settings: Mapping[str, object] = {"rules": []}
