"""The filter quota: what is counted for whom, what is said when it is used up, and who is told before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.envelope import Evidence, Identity
from mailgate.events import LimitNear
from mailgate.filters.quota import Options, QuotaFilter, build
from mailgate.interfaces import IMailFilter, IMessageFilter, IRecipientFilter
from mailgate.pipeline.registry import FilterMaker
from mailgate.stores.counters import MemoryCounters
from mailgate.testing import (
    EventRecorder,
    FilterContract,
    Occasion,
    message,
    recipient,
    services,
    session,
    transaction,
    wait_for,
)
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict
from tests.unit.later import LaterCounters

NOW = 1_800_000_000
ANN = "ann@example.org"


class Desk:
    def __init__(self, *rules: dict[str, Any], later: bool = False, domain: str | None = None) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.events = EventRecorder()
        self.counters = LaterCounters(self.clock) if later else MemoryCounters(self.clock, 10_000)
        self.filter = self.another(rules, domain)
        self.last: Verdict | None = None

    def another(self, rules: Any, domain: str | None = None) -> QuotaFilter:
        options = Options.model_validate({"rules": rules, **({"domain": domain} if domain else {})})
        built = build(options, services(clock=self.clock, counters=self.counters, events=self.events))
        assert isinstance(built, QuotaFilter)
        return built

    def sends(
        self, who: str = ANN, *to: str, size: int = 0, sender: str = ANN, mechanism: str = "PLAIN", **client: Any
    ) -> bool:
        """Whether a whole message, of so many octets, to these recipients passes."""
        one = session(identity=Identity(who, mechanism) if who else None, **client)
        mail = transaction(sender)
        asked: list[Any] = []
        if IMailFilter.providedBy(self.filter):
            asked.append(lambda: self.filter.on_mail(one, mail))
        if IRecipientFilter.providedBy(self.filter):
            asked += [lambda to=to: self.filter.on_rcpt(one, mail, recipient(to)) for to in to]
        if IMessageFilter.providedBy(self.filter):
            asked.append(lambda: self.filter.on_message(one, mail, message(bytes(size))))
        for ask in asked:
            self.last = wait_for(ask(), self.clock)
            if isinstance(self.last, Continue):
                mail.evidence.extend(self.last.evidence)
            elif self.last is not None:
                return False
        return True

    def told(self) -> list[tuple[str, int, bool, tuple[str, ...]]]:
        return [(one.subject, one.count, one.is_reached, one.notify) for one in self.events.of(LimitNear)]


@pytest.mark.parametrize("later", [False, True])
def test_messages_of_an_identity(later: bool) -> None:
    desk = Desk({"count": "messages", "limit": 3, "window": "1h"}, later=later)
    assert [desk.sends() for _ in range(5)] == [True, True, True, False, False]
    assert isinstance(desk.last, Defer)
    assert str(desk.last.reply) == "450 4.7.1 No more than 3 messages in 1h; try again in 1h"
    assert desk.last.reason == "messages per identity: ann@example.org has had 4 in 1h, the limit is 3"
    assert desk.sends("bob@example.org")
    assert desk.sends("")  # who has proved nothing has no identity
    assert not desk.sends("ANN@example.org")


def test_a_period_ends_as_a_whole_and_the_reply_says_when() -> None:
    desk = Desk({"count": "messages", "limit": 2, "window": "1h"})
    assert desk.sends()
    desk.clock.advance(1800)
    assert desk.sends()
    desk.clock.advance(600)
    assert not desk.sends()
    assert isinstance(desk.last, Defer)
    assert desk.last.reply.text.endswith("try again in 20m")
    desk.clock.advance(1200)
    assert [desk.sends() for _ in range(3)] == [True, True, False]


def test_whoever_keeps_trying_waits_no_longer() -> None:
    desk = Desk({"count": "messages", "limit": 1, "window": "1m"})
    passed = 0
    for _ in range(600):
        passed += desk.sends()
        desk.clock.advance(1)
    assert passed == 10


def test_recipients_and_different_recipients() -> None:
    desk = Desk({"count": "recipients", "limit": 3}, {"count": "distinct-recipients", "limit": 2})
    assert desk.sends(ANN, "a@b.test", "A@b.test")
    assert desk.sends(ANN, "c@d.test")
    assert not desk.sends(ANN, "a@b.test")
    assert isinstance(desk.last, Defer)
    assert desk.last.reason.startswith("recipients per identity: ")
    desk = Desk({"count": "distinct-recipients", "limit": 2})
    assert all(desk.sends(ANN, "a@b.test", "c@d.test") for _ in range(10))
    assert not desk.sends(ANN, "e@f.test")
    assert isinstance(desk.last, Defer)
    assert str(desk.last.reply) == "450 4.7.1 No more than 2 different recipients in 1d; try again in 1d"
    assert desk.sends(ANN, "a@b.test")
    desk.clock.advance(86400)
    assert desk.sends(ANN, "e@f.test")


def test_octets_and_a_message_that_is_larger_than_all_of_it() -> None:
    desk = Desk({"count": "bytes", "limit": "64KiB", "window": "1d"})
    assert desk.sends(size=40_000)
    assert not desk.sends(size=40_000)
    assert isinstance(desk.last, Defer)
    assert str(desk.last.reply) == "450 4.7.1 No more than 64KiB in 1d; try again in 1d"
    assert not desk.sends(size=10)  # known at MAIL
    desk.clock.advance(86400)
    assert desk.sends(size=1_000_000)
    assert not desk.sends(size=1)


@pytest.mark.parametrize(
    ("per", "same", "other"),
    [
        ("identity-domain", {"who": "bob@example.org"}, {"who": "bob@example.net"}),
        ("sender", {"who": "x", "sender": "ANN@example.org"}, {"sender": "bob@example.org"}),
        ("sender-domain", {"who": "x", "sender": "bob@example.org"}, {"sender": "ann@example.net"}),
        ("client", {"who": "x"}, {"client": "192.0.2.2"}),
        ("network", {"who": "x", "client": "192.0.2.2"}, {"client": "198.51.100.1"}),
        ("listener", {"who": "x", "client": "198.51.100.1"}, {"listener": "other"}),
        ("identity+network", {"client": "192.0.2.9"}, {"client": "198.51.100.1"}),
    ],
)
def test_whose_count_it_is(per: str, same: dict[str, Any], other: dict[str, Any]) -> None:
    desk = Desk({"count": "messages", "limit": 1, "per": per})
    assert desk.sends()
    assert desk.sends(**{"who": ANN, **other})
    assert not desk.sends(**{"who": ANN, **same})


def test_rules_for_some_identities() -> None:
    desk = Desk(
        {"count": "messages", "limit": 1, "exempt": ["app-*"], "name": "people"},
        {"count": "messages", "limit": 3, "only": ["app-*"], "over": "reject", "text": "Too much", "name": "apps"},
    )
    assert [desk.sends() for _ in range(2)] == [True, False]
    assert [desk.sends("app-1") for _ in range(4)] == [True, True, True, False]
    assert isinstance(desk.last, Reject)
    assert str(desk.last.reply) == "550 5.7.1 Too much"
    assert desk.last.reason.startswith("apps: app-1 has had 3 in 1d")


def test_a_notice_comes_once_before_the_limit_and_once_at_it() -> None:
    desk = Desk({"count": "messages", "limit": 10, "notify": ["user", "postmaster@example.org"]})
    for _ in range(20):
        desk.sends()
    people = (ANN, "postmaster@example.org")
    assert desk.told() == [(ANN, 8, False, people), (ANN, 11, True, people)]
    near = desk.events.of(LimitNear)[0]
    assert (near.rule, near.limit, near.window, near.until) == ("messages per identity", 10, 86400.0, NOW + 86400.0)
    desk.clock.advance(86400)
    for _ in range(8):
        desk.sends()
    assert len(desk.told()) == 3


def test_who_is_told() -> None:
    rule = {"count": "messages", "limit": 1, "notice": 0, "notify": ["user"]}
    desk = Desk(rule)
    assert desk.sends("bob")
    assert not desk.told()
    desk.sends("bob")
    assert desk.told() == [("bob", 2, True, ())]
    desk = Desk(rule, domain="example.org")
    for who, mechanism in (("bob", "PLAIN"), ("192.0.2.1", "network")):
        for _ in range(2):
            desk.sends(who, mechanism=mechanism)
    assert [one[3] for one in desk.told()] == [("bob@example.org",), ()]


@pytest.mark.parametrize("count", ["messages", "recipients", "bytes"])
def test_what_is_over_is_kept_back_where_that_is_asked_for(count: str) -> None:
    desk = Desk({"count": count, "limit": 2 if count != "bytes" else 200, "over": "quarantine"})
    assert [desk.sends(ANN, "a@b.test", size=100) for _ in range(3)] == [True, True, False]
    assert isinstance(desk.last, Quarantine)
    assert "per identity: ann@example.org has had" in desk.last.reason


def test_workers_share_the_counts() -> None:
    rule = {"count": "messages", "limit": 4}
    desk = Desk(rule)
    other = Desk(rule)
    other.clock, other.counters = desk.clock, desk.counters
    other.filter = other.another([rule])
    assert [one.sends() for one in (desk, other) * 3] == [True] * 4 + [False] * 2


def test_memory_is_bounded_by_the_counters() -> None:
    desk = Desk({"count": "distinct-recipients", "limit": 5000})
    desk.counters = MemoryCounters(desk.clock, 1000)
    desk.filter = desk.another([{"count": "distinct-recipients", "limit": 5000}])
    passed = sum(desk.sends(ANN, f"{number}{'x' * 50}@b.test") for number in range(6000))
    assert passed <= 5000


@pytest.mark.parametrize(
    "rule",
    [
        {"count": "messages", "limit": 0},
        {"count": "messages", "limit": "5MB"},
        {"count": "messages", "limit": 5, "per": "recipient"},
        {"count": "messages", "limit": 5, "per": "client+client"},
        {"count": "messages", "limit": 5, "notice": 100},
        {"count": "messages", "limit": 5, "window": "1s"},
        {"count": "messages", "limit": 5, "notify": ["nobody"]},
        {"count": "messages", "limit": 5, "only": "x"},
    ],
)
def test_rules_that_cannot_be(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate({"rules": [rule]})


def test_no_rules_are_an_error() -> None:
    with pytest.raises(ValueError, match="no rules"):
        Desk()


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=60), st.integers(1, 8))
def test_never_more_than_the_limit_in_a_period(steps: list[tuple[int, int]], limit: int) -> None:
    desk = Desk({"count": "recipients", "limit": limit, "window": "2m", "notice": 0})
    begins, passed = -1.0, 0
    for seconds, recipients in steps:
        desk.clock.advance(seconds)
        one, mail = session(identity=Identity(ANN, "PLAIN")), transaction(evidence=Evidence())
        for number in range(recipients):
            if begins < 0 or desk.clock.seconds() - begins >= 120:
                begins, passed = desk.clock.seconds(), 0
            verdict = wait_for(desk.filter.on_rcpt(one, mail, recipient(f"{number}@b.test")), desk.clock)
            passed += verdict is None
            assert passed <= limit
            assert verdict is None or passed == limit


class TestContract(FilterContract):
    factory = FilterMaker("quota", "mailgate.filters.quota", "x")
    settings = {"rules": [{"count": one, "limit": 2} for one in ("messages", "recipients", "bytes")]}  # noqa: RUF012
    varies = "it counts"

    def occasions(self) -> list[Occasion]:
        one = session(identity=Identity(ANN, "PLAIN"))
        return [Occasion(), *(Occasion(session=one) for _ in range(4))]


@pytest.mark.parametrize("over", ["defer", "quarantine"])
def test_a_recipient_who_was_one_too_many_is_one_too_many_again(over: str) -> None:
    desk = Desk({"count": "distinct-recipients", "limit": 2, "over": over})
    assert desk.sends(ANN, "a@b.test", "c@d.test")
    assert not any(desk.sends(ANN, "e@f.test") for _ in range(3))
    assert desk.sends(ANN, "c@d.test")
    desk = Desk({"count": "distinct-recipients", "limit": 9}, {"count": "distinct-recipients", "limit": 1})
    assert desk.sends(ANN, "a@b.test")
    assert not any(desk.sends(ANN, "e@f.test") for _ in range(3))


def test_rules_that_share_their_counts_count_once() -> None:
    desk = Desk({"count": "messages", "limit": 3, "over": "quarantine"}, {"count": "messages", "limit": 5})
    assert [desk.sends() for _ in range(6)] == [True, True, True, False, False, False]
    assert isinstance(desk.last, Defer)
    assert [(count, is_reached) for _, count, is_reached, _ in desk.told()] == [
        (3, False),
        (4, True),
        (4, False),
        (6, True),
    ]
