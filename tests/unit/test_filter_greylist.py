"""Greylisting: who waits, for how long, who is known then, and two workers at one time."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.awaiting import as_deferred
from mailgate.envelope import Client, Identity, Session, Transaction
from mailgate.filters.greylist import Greylist, GreylistResult, Options, build
from mailgate.filters.reputation import ReputationResult
from mailgate.mailauth.results import SpfResult
from mailgate.pipeline.registry import FilterMaker
from mailgate.stores.counters import MemoryCounters
from mailgate.testing import FilterContract, Occasion, recipient, services, session, transaction, wait_for
from mailgate.verdict import Continue, Defer, Verdict
from tests.unit.later import LaterCounters

ANN, EVE = "192.0.2.1", "203.0.113.9"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

greylist = FilterMaker("greylist", "mailgate.filters.greylist", "has strangers come back")


class Gate:
    """A filter with its clock; each method gives the word of what was found, or "" where nobody looked."""

    def __init__(self, later: bool = False, **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.counters: Any = LaterCounters(self.clock) if later else MemoryCounters(self.clock, 1000)
        self.filter = self.another(**options)
        self.last: Verdict | None = None

    def another(self, **options: Any) -> Greylist:
        """As in another worker."""
        built = build(Options.model_validate(options), services(clock=self.clock, counters=self.counters))
        assert isinstance(built, Greylist)
        return built

    def writes(
        self,
        sender: str = "ann@client.example",
        to: str = "bob@example.org",
        client: Client | str = ANN,
        found: Iterable[object] = (),
        **more: Any,
    ) -> str:
        given_to = transaction(sender)
        for one in found:
            given_to.evidence.add(one)
        return self._word(self.filter.on_rcpt(session(client, **more), given_to, recipient(to)))

    def reports(self, *to: str, client: Client | str = ANN) -> str:
        return self._word(self.filter.on_data(session(client), transaction("", to or ["bob@example.org"])))

    def _word(self, answer: Verdict | Awaitable[Verdict | None] | None) -> str:
        self.last = wait_for(answer)
        if self.last is None:
            return ""
        assert isinstance(self.last, Continue | Defer)
        found = [one for one in self.last.evidence if isinstance(one, GreylistResult)]
        assert isinstance(self.last, Defer) == any(one.wait > 0 for one in found)
        return found[0].status


@pytest.mark.parametrize("later", [False, True])
def test_a_stranger_waits_and_is_known_then(later: bool) -> None:
    gate = Gate(later)
    assert gate.writes() == "new"
    assert isinstance(gate.last, Defer)
    assert str(gate.last.reply) == "451 4.7.1 Greylisted, try again in 300 seconds"
    assert gate.last.reason == "greylist: 192.0.2.0/24 from ann@client.example to bob@example.org is new, 300 s left"
    gate.clock.advance(100.5)
    assert gate.writes() == "early"
    assert isinstance(gate.last, Defer)
    assert str(gate.last.reply) == "451 4.7.1 Greylisted, try again in 200 seconds"
    gate.clock.advance(199.5)
    assert gate.writes() == "passed"
    again = wait_for(gate.filter.on_rcpt(session(), transaction(), recipient()))
    assert again == Continue((GreylistResult("known", "192.0.2.0/24"),))


def test_who_comes_back_too_late_is_a_stranger_again() -> None:
    gate = Gate()
    gate.writes()
    gate.clock.advance(2 * DAY)
    assert gate.writes() == "new"
    gate.clock.advance(2 * DAY - 1)
    assert gate.writes() == "passed"


def test_who_is_known_stays_so_while_there_is_mail() -> None:
    gate = Gate(auto_allow=0)
    gate.writes()
    gate.clock.advance(HOUR)
    assert gate.writes() == "passed"
    for _ in range(6):
        gate.clock.advance(33 * DAY)
        assert gate.writes() == "known"
    gate.clock.advance(36 * DAY)
    assert gate.writes() == "new"


def test_a_monthly_mail_that_came_within_a_refresh_is_still_known() -> None:
    gate = Gate(auto_allow=0)
    gate.writes()
    gate.clock.advance(HOUR)
    gate.writes()
    gate.clock.advance(2 * DAY)
    assert gate.writes() == "known"
    gate.clock.advance(33 * DAY)
    assert gate.writes() == "known"


@pytest.mark.parametrize(
    ("same", "other"),
    [
        ({"client": "192.0.2.200"}, {"client": EVE}),
        ({"sender": "ANN@client.EXAMPLE"}, {"sender": "bob@client.example"}),
        ({"to": "BOB@example.org"}, {"to": "eve@example.org"}),
    ],
)
def test_what_makes_them_the_same(same: dict[str, Any], other: dict[str, Any]) -> None:
    gate = Gate()
    gate.writes()
    assert gate.writes(**same) == "early"
    assert gate.writes(**other) == "new"


def test_networks_have_the_length_that_is_wanted() -> None:
    gate = Gate(ipv4_prefix=32, ipv6_prefix=48)
    gate.writes(client=ANN)
    assert gate.writes(client="192.0.2.2") == "new"
    gate.writes(client="2001:db8::1")
    assert gate.writes(client="2001:db8:0:ffff::1") == "early"
    assert gate.writes(client="2001:db8:1::1") == "new"
    assert gate.writes(client="::ffff:192.0.2.1") == "early"


def test_domains_alone_can_be_compared() -> None:
    gate = Gate(compare="domains")
    gate.writes("bounce-1@list.example", "bob@example.org")
    assert gate.writes("bounce-2@list.example", "eve@example.org") == "early"
    assert gate.writes("bounce-2@list.test", "eve@example.org") == "new"


def pass_through(gate: Gate, number: int, **more: Any) -> None:
    sender = f"sender-{number}@client.example"
    assert gate.writes(sender, **more) == "new"
    gate.clock.advance(10 * MINUTE)
    assert gate.writes(sender, **more) == "passed"


@pytest.mark.parametrize("later", [False, True])
def test_a_network_that_has_come_back_often_does_not_wait(later: bool) -> None:
    gate = Gate(later, auto_allow=3)
    for number in range(3):
        pass_through(gate, number)
        assert gate.writes(f"sender-{number}@client.example") in ("known", "allowed")
    assert gate.writes("new@else.example") == "allowed"
    assert gate.writes("new@else.example", client=EVE) == "new"
    for _ in range(4):
        gate.clock.advance(30 * DAY)
        assert gate.writes("newer@else.example") == "allowed"
    gate.clock.advance(36 * DAY)
    assert gate.writes("newest@else.example") == "new"


def test_the_same_that_comes_again_and_again_counts_once() -> None:
    gate = Gate(auto_allow=2)
    pass_through(gate, 1)
    for _ in range(10):
        assert gate.writes("sender-1@client.example") == "known"
    assert gate.writes("other@client.example") == "new"


PASS, FAIL = SpfResult("pass", "client.example"), SpfResult("fail", "client.example")


def test_any_server_of_a_domain_for_which_spf_passes_may_come_back() -> None:
    gate = Gate()
    assert gate.writes(found=[PASS]) == "new"
    assert gate.writes(client=EVE, found=[FAIL]) == "new"
    gate.clock.advance(HOUR)
    assert gate.writes(client="198.51.100.7", found=[PASS]) == "passed"
    # One that has come back is enough for a domain, and says nothing of who only claims to be it.
    assert gate.writes("carl@client.example", client=EVE, found=[PASS]) == "allowed"
    assert gate.writes("carl@client.example", client=EVE, found=[FAIL]) == "new"


def test_spf_can_be_left_out_of_it() -> None:
    gate = Gate(spf_key=False)
    gate.writes(found=[PASS])
    assert gate.writes(client=EVE, found=[PASS]) == "new"


@pytest.mark.parametrize(
    "more",
    [
        {"client": "10.1.2.3"},
        {"client": Client(None)},
        {"client": Client(IPv4Address(0))},
        {"identity": Identity("ann", "PLAIN")},
        {"client": Client(session().client.address, 1, "mail-ej1-f41.google.com")},
        {"client": Client(session().client.address, 1, "outlook.com")},
        {"to": "Postmaster@example.org"},
        {"found": [ReputationResult((("domain client.example", 90.0, 0.0),), -1.4, -0.98)]},
    ],
)
def test_who_never_waits(more: dict[str, Any]) -> None:
    gate = Gate()
    assert gate.writes(**more) == ""
    assert gate.writes() == "new"


@pytest.mark.parametrize("name", ["google.com.evil.example", "notgoogle.com", ""])
def test_names_that_only_look_like_those_of_a_pool(name: str) -> None:
    assert Gate().writes(client=Client(session().client.address, 1, name)) == "new"


def test_a_good_name_with_a_bad_one_beside_it_waits() -> None:
    good = ReputationResult((("domain a.example", 90.0, 0.0),), -1.4, -0.98)
    bad = ReputationResult((("network 192.0.2.0/24", 0.0, 90.0),), 3.0, 0.98)
    assert Gate().writes(found=[good, bad]) == "new"
    assert Gate(trust_reputation=False).writes(found=[good]) == "new"


def test_who_asks_whether_an_address_exists_gets_an_answer_and_reports_wait_at_data() -> None:
    gate = Gate()
    assert gate.writes("") == ""
    assert gate.filter.on_data(session(), transaction()) is None
    assert gate.reports() == "new"
    assert isinstance(gate.last, Defer)
    assert "from <> to bob@example.org" in gate.last.reason
    assert gate.reports("bob@example.org", "eve@example.org") == "early"
    gate.clock.advance(10 * MINUTE)
    assert gate.reports("bob@example.org", "eve@example.org") == "passed"
    assert gate.reports("postmaster@example.org") == ""


def test_the_longest_wait_of_several_recipients_counts() -> None:
    gate = Gate()
    gate.reports("bob@example.org")
    gate.clock.advance(200)
    gate.reports("bob@example.org", "eve@example.org")
    assert isinstance(gate.last, Defer)
    assert gate.last.reply.text.endswith("300 seconds")


def test_where_the_clock_has_stepped_back_nobody_waits_longer_than_a_stranger() -> None:
    gate = Gate()
    gate.writes()
    gate.clock.rightNow -= 6 * HOUR
    assert gate.writes() == "new"
    gate.clock.advance(299)
    assert gate.writes() == "early"
    gate.clock.advance(1)
    assert gate.writes() == "passed"


def test_after_a_clock_has_stepped_back_who_is_known_is_kept_by_the_right_time() -> None:
    gate = Gate(auto_allow=0)
    gate.writes()
    gate.clock.advance(HOUR)
    assert gate.writes() == "passed"
    gate.clock.rightNow -= 300 * DAY
    assert gate.writes() == "known"
    gate.clock.advance(36 * DAY)
    assert gate.writes() == "new"


@pytest.mark.parametrize("value", [b"junk", b"+junk", b"", b"nan"])
def test_what_somebody_else_has_written_keeps_nobody_waiting(value: bytes) -> None:
    gate = Gate()
    gate.writes()
    (key,) = list(gate.counters._values)
    gate.counters.put(key, value, DAY)
    assert gate.writes() in ("passed", "known")
    assert gate.writes() == "known"


def test_two_workers_that_meet_a_stranger_at_one_moment_say_the_same() -> None:
    gate = Gate(later=True)
    other = gate.another()
    gate.counters.holds = True
    answers: list[Verdict | None] = []
    for one in (gate.filter, other):
        asked = one.on_rcpt(session(), transaction(), recipient())
        assert isinstance(asked, Awaitable)
        as_deferred(asked).addCallback(answers.append)
    for _ in range(5):
        gate.counters.release()
    words = [one.evidence[0].status for one in answers if isinstance(one, Defer)]  # type: ignore[attr-defined]
    assert words == ["new", "early"]
    assert {one.reply for one in answers if isinstance(one, Defer)} == {gate.filter._reply(300.0)}


def test_two_workers_that_see_it_come_back_at_one_moment_count_it_once() -> None:
    gate = Gate(later=True, auto_allow=2)
    other = gate.another(auto_allow=2)
    gate.writes()
    gate.clock.advance(HOUR)
    gate.counters.holds = True
    answers: list[Verdict | None] = []
    for one in (gate.filter, other):
        asked = one.on_rcpt(session(), transaction(), recipient())
        assert isinstance(asked, Awaitable)
        as_deferred(asked).addCallback(answers.append)
    for _ in range(10):
        gate.counters.release()
    assert len(answers) == 2
    assert all(isinstance(one, Continue) for one in answers)
    gate.counters.holds = False
    assert gate.writes("other@client.example") == "new"


def test_nothing_of_what_is_remembered_names_anybody() -> None:
    gate = Gate()
    gate.writes("ann@client.example")
    (key,) = list(gate.counters._values)
    assert "client" not in key
    assert "bob" not in key
    long = gate.writes("a" * 60 + "@" + ".".join(["x" * 60] * 3) + ".example")
    assert long == "new"
    assert {len(key) for key in gate.counters._values} == {len(key)}


@given(st.lists(st.tuples(st.integers(1, 4000), st.sampled_from("abc")), max_size=40))
def test_never_earlier_than_the_delay_and_never_a_second_time(steps: list[tuple[int, str]]) -> None:
    gate = Gate(auto_allow=0, delay="5m", window="30m", keep="10h")
    first: dict[str, float] = {}
    for seconds, name in steps:
        gate.clock.advance(seconds)
        now = gate.clock.seconds()
        word = gate.writes(f"{name}@client.example")
        if word == "new":
            assert name not in first or now >= first[name] + 1800
            first[name] = now
        elif word == "early":
            assert now < first[name] + 300
        elif word == "passed":
            assert first[name] + 300 <= now < first[name] + 1800
            first[name] = float("inf")
        else:
            assert first[name] == float("inf")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"delay": "3d"}, "delay must be shorter than window"),
        ({"window": "40d"}, "window not longer than keep"),
        ({"ipv4_prefix": 33}, "ipv4_prefix"),
        ({"compare": "moon"}, "compare"),
        ({"exempt_names": ["no name!"]}, "exempt_names"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Options.model_validate(options)


def occasion(sender: str, client: Session | None = None, *evidence: object) -> Occasion:
    given_to: Transaction = transaction(sender)
    for one in evidence:
        given_to.evidence.add(one)
    return Occasion(session=client or session(), transaction=given_to)


class TestContract(FilterContract):
    factory = greylist
    varies = "who comes a second time is not new"

    def occasions(self) -> Iterable[Occasion]:
        return [occasion("ann@client.example"), occasion(""), occasion("ann@client.example", None, PASS)]
