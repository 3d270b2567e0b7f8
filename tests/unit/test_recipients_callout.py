"""`[recipients.NAME]` of kind callout: when the server behind is asked, and what is kept of its answers."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgate.config.recipients import CalloutRecipients
from mailgate.interfaces import ICounters, RecipientStatus
from mailgate.recipients.callout import CalloutSource, build
from mailgate.recipients.source import ISource
from mailgate.stores.counters import MemoryCounters
from tests.unit.recipients_stand import (
    KNOWN,
    UNAVAILABLE,
    UNKNOWN,
    FakeProber,
    changes,
    lookup,
    source_tools,
)
from tests.unit.remote_peer import is_waiting, outcome

DAY = 86400.0


class Stand:
    """A source, and the server behind as a prober."""

    def __init__(self, *, clock: Clock | None = None, counters: ICounters | None = None, **settings: Any) -> None:
        self.clock = clock or Clock()
        self.counters = counters or MemoryCounters(self.clock, 10_000)
        self.prober = FakeProber()
        self.tools = source_tools(self.clock, prober=self.prober, counters=self.counters)
        defaults = {"kind": "callout", "route": "inside", "detect_catch_all": False}
        self.source: CalloutSource = build(CalloutRecipients.model_validate(defaults | settings), "behind", self.tools)

    def ask(self, address: str = "ann@example.org") -> Deferred[RecipientStatus]:
        asked = lookup(self.source, address)
        assert isinstance(asked, Deferred), asked
        return asked

    def at_hand(self, address: str = "ann@example.org") -> RecipientStatus | None:
        local_part, _, domain = address.rpartition("@")
        return self.source.at_hand(local_part, domain)

    def learn(self, status: RecipientStatus, address: str = "ann@example.org", reason: str = "") -> RecipientStatus:
        asked = self.ask(address)
        self.prober.answer(status, "250 ok", reason)
        return outcome(asked)


@pytest.fixture
def stand() -> Stand:
    return Stand()


def test_it_is_a_source_that_is_given_whole_addresses(stand: Stand) -> None:
    assert verifyObject(ISource, stand.source)
    assert stand.source.takes_whole


@pytest.mark.parametrize("status", [KNOWN, UNKNOWN, UNAVAILABLE])
def test_the_server_says(stand: Stand, status: RecipientStatus) -> None:
    assert stand.learn(status) is status
    assert stand.prober.asked == [("inside", "ann@example.org", "rcpt", "")]


def test_on_the_terms_of_the_section() -> None:
    stand = Stand(stage="data", sender="probe@gw.example", route="other")
    stand.learn(KNOWN, "ann+tag@example.org")
    assert stand.prober.asked == [("other", "ann+tag@example.org", "data", "probe@gw.example")]


@pytest.mark.parametrize(("status", "fresh", "kept"), [(KNOWN, 7 * DAY, 31 * DAY), (UNKNOWN, 3 * 3600.0, 3 * DAY)])
def test_answers_serve_for_long_and_are_renewed_beside_the_mail(
    stand: Stand, status: RecipientStatus, fresh: float, kept: float
) -> None:
    stand.learn(status)
    stand.clock.advance(fresh - 1)
    assert stand.at_hand() is status
    assert len(stand.prober.asked) == 1
    stand.clock.advance(2)
    assert [stand.at_hand(), stand.at_hand()] == [status, status]
    assert len(stand.prober.asked) == 2
    stand.prober.answer(status)
    stand.clock.advance(fresh - 1)
    assert stand.at_hand() is status
    assert len(stand.prober.asked) == 2
    stand.clock.advance(kept)
    assert stand.at_hand() is None


def test_the_new_answer_counts(stand: Stand) -> None:
    stand.learn(UNKNOWN)
    stand.clock.advance(3 * 3600.0)
    assert stand.at_hand() is UNKNOWN
    stand.prober.answer(KNOWN)
    assert stand.at_hand() is KNOWN


def test_an_old_answer_serves_while_nobody_answers(stand: Stand) -> None:
    stand.learn(KNOWN)
    stand.clock.advance(8 * DAY)
    assert stand.at_hand() is KNOWN
    stand.prober.answer(UNAVAILABLE, reason="refused")
    assert stand.at_hand() is KNOWN
    assert len(stand.prober.asked) == 2
    stand.clock.advance(301)
    assert stand.at_hand() is KNOWN
    assert len(stand.prober.asked) == 3


def test_answers_outlive_the_process_and_are_everybodys(stand: Stand) -> None:
    stand.learn(KNOWN)
    stand.learn(UNKNOWN, "bob@example.org")
    other = Stand(clock=stand.clock, counters=stand.counters)
    assert outcome(other.ask()) is KNOWN
    assert outcome(other.ask("bob@example.org")) is UNKNOWN
    assert other.prober.asked == []
    assert other.at_hand() is KNOWN


@pytest.mark.parametrize("settings", [{"route": "other"}, {"stage": "data"}])
def test_answers_are_for_the_server_and_the_stage_that_gave_them(stand: Stand, settings: dict[str, Any]) -> None:
    stand.learn(KNOWN)
    other = Stand(clock=stand.clock, counters=stand.counters, **settings)
    assert is_waiting(other.ask())
    assert len(other.prober.asked) == 1


def test_a_value_that_is_no_answer_is_none(stand: Stand) -> None:
    stand.counters.put("callout behind inside rcpt ann@example.org", b"{", 1000.0)
    assert stand.learn(KNOWN) is KNOWN


def test_equal_questions_at_one_time_are_asked_once(stand: Stand) -> None:
    asked = [stand.ask() for _ in range(5)]
    assert len(stand.prober.asked) == 1
    asked[0].addErrback(lambda _: None)
    asked[0].cancel()
    stand.prober.answer(KNOWN)
    assert [outcome(one) for one in asked[1:]] == [KNOWN] * 4


def test_mail_that_cannot_wait_comes_again_for_the_answer() -> None:
    stand = Stand(timeout="5s")
    asked = stand.ask()
    stand.clock.advance(5.1)
    assert outcome(asked) is UNAVAILABLE
    stand.prober.answer(KNOWN)
    assert stand.at_hand() is KNOWN


def test_connections_have_a_bound() -> None:
    stand = Stand(connections=2)
    asked = [stand.ask(f"u{number}@example.org") for number in range(3)]
    assert len(stand.prober.asked) == 2
    stand.prober.answer(KNOWN)
    assert outcome(asked[0]) is KNOWN
    assert len(stand.prober.asked) == 3


def test_questions_have_a_rate() -> None:
    stand = Stand(rate="2/s", connections=100, timeout="1s")
    asked = [stand.ask(f"u{number}@example.org") for number in range(20)]
    assert len(stand.prober.asked) == 2
    stand.clock.advance(0.6)
    assert 3 <= len(stand.prober.asked) <= 4
    for _ in range(10):
        stand.clock.advance(0.5)
    assert len(stand.prober.asked) <= 5
    assert sum(one.called for one in asked) == 20


def test_what_waits_has_a_bound() -> None:
    """Guesses at one time are put off, and not kept."""
    stand = Stand(rate="100000/s", connections=1)
    asked = [stand.ask(f"u{number}@example.org") for number in range(1200)]
    put_off = [one for one in asked if one.called]
    assert 150 <= len(put_off) <= 250
    assert {outcome(one) for one in put_off} == {UNAVAILABLE}
    assert changes(stand.tools) == []
    while stand.prober.waiting:
        stand.prober.answer(KNOWN)
    assert {outcome(one) for one in asked if one not in put_off} == {KNOWN}
    assert len(stand.prober.asked) == 1200 - len(put_off)


def test_an_outage_is_told_once_and_one_address_that_must_wait_is_none(stand: Stand) -> None:
    assert stand.learn(UNAVAILABLE) is UNAVAILABLE
    assert changes(stand.tools) == []
    stand.learn(UNAVAILABLE, reason="connection refused")
    stand.learn(UNAVAILABLE, "bob@example.org", reason="connection refused")
    stand.learn(UNKNOWN, "carl@example.org")
    assert changes(stand.tools) == [("unavailable", "connection refused"), ("available", "")]


def test_a_server_that_accepts_anything_is_found_out_and_not_asked_again() -> None:
    stand = Stand(detect_catch_all=True)
    asked = stand.ask()
    [(_, address, _, _)] = stand.prober.asked
    assert address.startswith("no-such-user-")
    assert address.endswith("@example.org")
    stand.prober.answer(KNOWN, "250 fine")
    assert outcome(asked) is KNOWN
    assert [stand.at_hand(f"u{number}@example.org") for number in range(5)] == [KNOWN] * 5
    assert len(stand.prober.asked) == 1
    assert changes(stand.tools) == [("accepts all", "example.org: 250 fine")]
    assert stand.at_hand("ann@other.example") is None


def test_that_is_looked_at_anew_after_a_while() -> None:
    stand = Stand(detect_catch_all=True)
    asked = stand.ask()
    stand.prober.answer(KNOWN, "250 fine")
    outcome(asked)
    stand.clock.advance(8 * DAY)
    assert stand.at_hand() is KNOWN
    stand.prober.answer(UNKNOWN)
    assert stand.at_hand() is None
    assert changes(stand.tools)[1:] == [("not accepts all", "example.org")]
    asked = stand.ask()
    stand.prober.answer(UNKNOWN)
    assert outcome(asked) is UNKNOWN


def test_a_server_that_refuses_what_cannot_exist_is_asked_about_each() -> None:
    stand = Stand(detect_catch_all=True)
    asked = stand.ask()
    stand.prober.answer(UNKNOWN)
    stand.prober.answer(KNOWN)
    assert outcome(asked) is KNOWN
    assert stand.learn(UNKNOWN, "bob@example.org") is UNKNOWN
    assert [address for _, address, _, _ in stand.prober.asked[1:]] == ["ann@example.org", "bob@example.org"]


def test_where_that_cannot_be_told_it_is_not_tried_for_each_address() -> None:
    stand = Stand(detect_catch_all=True)
    asked = stand.ask()
    stand.prober.answer(UNAVAILABLE)
    stand.prober.answer(KNOWN)
    assert outcome(asked) is KNOWN
    assert stand.learn(KNOWN, "bob@example.org") is KNOWN
    assert len(stand.prober.asked) == 3


def test_after_the_end_nobody_is_asked(stand: Stand) -> None:
    stand.learn(KNOWN)
    stand.source.retire()
    stand.source.close()
    assert stand.at_hand() is KNOWN
    assert outcome(stand.ask("bob@example.org")) is UNAVAILABLE
    stand.clock.advance(8 * DAY)
    assert stand.at_hand() is KNOWN
    assert len(stand.prober.asked) == 1


def test_what_waits_at_the_end_is_not_asked_any_more() -> None:
    stand = Stand(connections=1)
    first, second = stand.ask("ann@example.org"), stand.ask("bob@example.org")
    stand.source.close()
    stand.prober.answer(KNOWN, "250 ok")
    assert outcome(first) is KNOWN
    assert outcome(second) is UNAVAILABLE
    assert len(stand.prober.asked) == 1
