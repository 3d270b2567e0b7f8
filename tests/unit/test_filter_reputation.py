"""Reputation: what is good and bad, for whom it counts, how it fades, and what is said of it."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from mailgate.awaiting import as_deferred, run
from mailgate.envelope import Client, Identity, Session, TraceStep, Transaction
from mailgate.events import Discarded, MessageAccepted, Quarantined, Refused, SessionClosed
from mailgate.filters.geo import GeoResult
from mailgate.filters.open_sessions import OpenSessions
from mailgate.filters.reputation import Options, Reputation, ReputationResult, build
from mailgate.filters.repute import Record, Records
from mailgate.findings import Points
from mailgate.mailauth.results import DkimResult, SpfResult
from mailgate.pipeline.registry import FilterMaker
from mailgate.stores.counters import MemoryCounters
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction, wait_for
from mailgate.verdict import Continue, Verdict
from tests.unit.later import LaterCounters

DAY = 86400.0
ANN, EVE = "192.0.2.1", "203.0.113.9"
SPF = SpfResult("pass", "client.example")
DKIM = DkimResult("pass", "list.example")
UNKNOWN, REFUSED = "550 5.1.1 No such recipient here", "550 5.7.1 Refused"

reputation = FilterMaker("reputation", "mailgate.filters.reputation", "remembers how mail fared")


class Town:
    """A filter with its clock, and sessions that come and go."""

    def __init__(self, *, later: bool = False, **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.counters: Any = LaterCounters(self.clock) if later else MemoryCounters(self.clock, 1000)
        built = build(
            Options.model_validate({"enough": 10.0, **options}), services(clock=self.clock, counters=self.counters)
        )
        assert isinstance(built, Reputation)
        self.filter = built
        self._last = 0

    def opens(self, client: Client | str = ANN, geo: GeoResult | None = None, **more: Any) -> Session:
        """A session, past the connect stage."""
        self._last += 1
        one = session(client, id=f"S{self._last}", **more)
        if geo is not None:
            one.evidence.add(geo)
        self.told(self.filter.on_connect(one))
        return one

    def begins(self, one: Session, *found: object) -> Transaction:
        """A transaction, past the message stage, with this evidence."""
        self._last += 1
        mail = transaction(id=f"Q{self._last}")
        for finding in found:
            mail.evidence.add(finding)
        wait_for(self.filter.on_mail(one, mail))
        wait_for(self.filter.on_message(one, mail, message()))
        return mail

    def accepts(self, one: Session, mail: Transaction, *steps: TraceStep) -> None:
        mail.trace.extend(steps)
        self.filter.observe(
            MessageAccepted(
                at=0.0,
                queue_id=mail.id,
                session=one.id,
                client="x",
                listener="mx",
                helo="x",
                sender="x",
                recipients=("x",),
                size=1,
                trace=(*one.trace, *mail.trace),
            )
        )

    def refuses(
        self, one: Session, reply: str, mail: Transaction | None = None, stage: str = "message", name: str = "other"
    ) -> None:
        self.filter.observe(
            Refused(
                at=0.0,
                session=one.id,
                client="x",
                listener="mx",
                helo="x",
                stage=stage,
                filter=name,
                reason="a reason",
                reply=reply,
                queue_id="" if mail is None else mail.id,
            )
        )

    def quarantines(self, mail: Transaction) -> None:
        self.filter.observe(Quarantined(at=0.0, queue_id=mail.id, sender="x", recipients=("x",), reason="a reason"))

    def known(self, subject: str) -> tuple[float, float]:
        record = wait_for(run(self.filter._records.read(subject)))
        assert isinstance(record, Record)
        return round(record.good, 2), round(record.bad, 2)

    def told(self, answer: Verdict | Awaitable[Verdict | None] | None) -> ReputationResult | None:
        verdict = wait_for(answer)
        if verdict is None:
            return None
        assert isinstance(verdict, Continue)
        (result, *points) = verdict.evidence
        assert isinstance(result, ReputationResult)
        assert points == ([Points(result.points, f"reputation of {result.subjects[0][0]}")] if result.points else [])
        return result

    def says(self, client: str = ANN, geo: GeoResult | None = None) -> ReputationResult | None:
        """What it says of a new session."""
        one = session(client, id="new")
        if geo is not None:
            one.evidence.add(geo)
        return self.told(self.filter.on_connect(one))


NETWORK, ASN = "network 192.0.2.0/24", "asn 64496"
GEO = GeoResult("DE", 64496)


@pytest.mark.parametrize("later", [False, True])
def test_what_is_good_and_what_is_bad(later: bool) -> None:
    town = Town(later=later)
    one = town.opens(geo=GEO)
    town.accepts(one, town.begins(one, SPF, DKIM))
    subjects = [NETWORK, ASN, "domain client.example", "domain list.example"]
    assert [town.known(subject) for subject in subjects] == [(1.0, 0.0)] * 4
    town.refuses(one, REFUSED, town.begins(one, SPF))
    assert [town.known(subject) for subject in subjects] == [(1.0, 1.0)] * 3 + [(1.0, 0.0)]
    town.refuses(one, UNKNOWN, town.begins(one), "rcpt")
    assert town.known(NETWORK) == (1.0, 1.2)
    assert town.known("domain client.example") == (1.0, 1.0)


@pytest.mark.parametrize(
    ("reply", "name"), [("450 4.7.1 Later", "greylist"), ("421 Bye", "rate-limit"), ("501 5.5.4 Syntax", ""), ("", "x")]
)
def test_what_is_neither(reply: str, name: str) -> None:
    town = Town()
    one = town.opens()
    town.refuses(one, reply, name=name, stage="mail")
    assert town.known(NETWORK) == (0.0, 0.0)


def step(verdict: str, *, enforced: bool = True) -> TraceStep:
    return TraceStep("message", "score", verdict, enforced=enforced)


def test_a_message_that_was_taken_and_kept_back_is_bad() -> None:
    town = Town()
    one = town.opens()
    mail = town.begins(one, SPF)
    town.accepts(one, mail, step("quarantine"))
    town.quarantines(mail)
    town.quarantines(mail)
    assert [town.known(subject) for subject in (NETWORK, "domain client.example")] == [(0.0, 1.0)] * 2
    mail = town.begins(one)
    mail.trace.append(step("discard"))
    town.filter.observe(Discarded(at=0.0, queue_id=mail.id, sender="x", recipients=("x",), reason="a virus"))
    assert town.known(NETWORK) == (0.0, 2.0)


def test_in_shadow_mode_nothing_was_kept_back() -> None:
    town = Town()
    one = town.opens()
    town.accepts(one, town.begins(one), step("quarantine", enforced=False))
    assert town.known(NETWORK) == (1.0, 0.0)


def test_a_filter_that_failed_says_nothing_about_the_mail() -> None:
    town = Town()
    one = town.opens()
    mail = town.begins(one)
    town.accepts(one, mail, step("failure"))
    town.quarantines(mail)
    assert town.known(NETWORK) == (0.0, 0.0)


def test_a_message_counts_once_whatever_is_told_of_it() -> None:
    town = Town()
    one = town.opens()
    mail = town.begins(one, SPF)
    town.refuses(one, REFUSED, mail)
    town.refuses(one, REFUSED, mail)
    town.accepts(one, mail)
    assert town.known(NETWORK) == (0.0, 1.0)
    assert town.known("domain client.example") == (0.0, 1.0)


def test_a_refusal_before_its_own_transaction_is_known_blames_no_domain() -> None:
    town = Town()
    one = town.opens()
    town.begins(one, SPF)
    town.refuses(one, REFUSED, transaction(id="another"), "mail")
    assert town.known(NETWORK) == (0.0, 1.0)
    assert town.known("domain client.example") == (0.0, 0.0)


@pytest.mark.parametrize(
    "found",
    [
        SpfResult("softfail", "client.example"),
        SpfResult("pass", "client.example", identity="helo"),
        DkimResult("fail", "client.example"),
    ],
)
def test_nobody_earns_another_ones_name(found: object) -> None:
    town = Town()
    one = town.opens()
    town.accepts(one, town.begins(one, found))
    assert town.known("domain client.example") == (0.0, 0.0)
    assert town.known(NETWORK) == (1.0, 0.0)


def test_many_signatures_count_for_a_few_domains_only() -> None:
    town = Town()
    one = town.opens()
    town.accepts(one, town.begins(one, *(DkimResult("pass", f"d{number}.example") for number in range(1000))))
    known = [number for number in range(1000) if town.known(f"domain d{number}.example") != (0.0, 0.0)]
    assert known == [0, 1, 2]


@pytest.mark.parametrize(
    "more",
    [
        {"client": "10.1.2.3"},
        {"client": Client(None)},
        {"client": Client(IPv4Address(0))},
        {"identity": Identity("ann", "PLAIN")},
    ],
)
def test_of_our_own_nothing_is_remembered(more: dict[str, Any]) -> None:
    town = Town()
    one = town.opens(geo=GEO, **more)
    town.accepts(one, town.begins(one, SPF))
    town.refuses(one, REFUSED)
    assert len(town.counters._values) == 0


def test_who_logs_in_later_is_not_counted_either() -> None:
    town = Town()
    one = town.opens()
    one.identity = Identity("ann", "PLAIN")
    town.refuses(one, UNKNOWN, stage="rcpt")
    assert town.known(NETWORK) == (0.0, 0.0)


def fill(town: Town, good: int, bad: int, client: str = ANN, *found: object) -> None:
    one = town.opens(client, GEO)
    for number in range(good + bad):
        mail = town.begins(one, *found)
        if number < good:
            town.accepts(one, mail)
        else:
            town.refuses(one, REFUSED, mail)


def test_nothing_is_said_before_there_is_enough() -> None:
    town = Town()
    fill(town, 0, 9)
    assert town.says() is None
    fill(town, 0, 1)
    found = town.says()
    assert found is not None
    assert found.facts() == ("reputation.bad",)


@pytest.mark.parametrize(
    ("good", "bad", "facts", "points"),
    [
        (0, 98, ("reputation.bad",), 2.9),
        (98, 0, ("reputation.good",), -1.5),
        (50, 50, (), 0.0),
        (20, 80, ("reputation.bad",), 1.8),
        (70, 30, (), -0.6),
    ],
)
def test_points_follow_what_there_was(good: int, bad: int, facts: tuple[str, ...], points: float) -> None:
    town = Town()
    fill(town, good, bad)
    found = town.says()
    assert found is not None
    assert found.facts() == facts
    assert found.points == points
    assert found.subjects == ((NETWORK, float(good), float(bad)),)
    word = facts[0].removeprefix("reputation.") if facts else "mixed"
    assert found.summary() == f"reputation={word} network 192.0.2.0/24 (good {good}.0, bad {bad}.0)"


def test_a_network_of_which_nothing_is_known_is_half_as_bad_as_its_system() -> None:
    town = Town()
    fill(town, 0, 98)
    found = town.says(EVE, GEO)
    assert found is not None
    assert found.subjects == ((ASN, 0.0, 98.0),)
    assert found.points == 1.5
    assert not found.is_bad
    assert town.says(EVE) is None


def test_domains_speak_at_mail_and_with_the_message_each_once() -> None:
    town = Town(enough=5.0)
    fill(town, 0, 10, EVE, SPF, DKIM)
    one = town.opens()
    mail = transaction(id="Q")
    assert town.told(town.filter.on_mail(one, mail)) is None
    mail.evidence.add(SPF)
    mail.evidence.add(DKIM)
    mail.evidence.add(DkimResult("pass", "client.example"))
    at_mail = town.told(town.filter.on_mail(one, mail))
    at_message = town.told(town.filter.on_message(one, mail, message()))
    assert at_mail is not None
    assert at_message is not None
    assert [subject for subject, _, _ in at_mail.subjects] == ["domain client.example"]
    assert [subject for subject, _, _ in at_message.subjects] == ["domain list.example"]


def test_the_worst_signature_speaks() -> None:
    town = Town()
    fill(town, 90, 0, EVE, DKIM)
    fill(town, 0, 90, EVE, DkimResult("pass", "bad.example"))
    one = town.opens()
    mail = transaction(id="Q")
    mail.evidence.add(DKIM)
    mail.evidence.add(DkimResult("pass", "bad.example"))
    found = town.told(town.filter.on_message(one, mail, message()))
    assert found is not None
    assert found.is_bad


def test_what_was_fades() -> None:
    town = Town(half_life="10d")
    fill(town, 0, 40)
    town.clock.advance(10 * DAY)
    assert town.known(NETWORK) == (0.0, 20.0)
    fill(town, 1, 0)
    town.clock.advance(10 * DAY)
    assert town.known(NETWORK) == (0.5, 10.0)
    town.clock.advance(100 * DAY)
    assert town.known(NETWORK) == (0.0, 0.0)
    assert len([key for key in town.counters._values if town.counters.get(key) is not None]) == 0


def test_sessions_of_other_pipelines_do_not_count_and_closed_ones_are_forgotten() -> None:
    town = Town()
    stranger = session(id="elsewhere")
    town.refuses(stranger, REFUSED)
    one = town.opens()
    mail = town.begins(one, SPF)
    town.filter.observe(
        SessionClosed(at=0.0, session=one.id, client="x", listener="mx", helo="x", messages=0, seconds=0.0, cause="x")
    )
    town.accepts(one, mail)
    town.quarantines(mail)
    assert len(town.counters._values) == 0
    assert len(town.filter._sessions) == 0
    assert town.filter._sessions._by_queue_id == {}


def test_open_sessions_are_bounded() -> None:
    sessions = OpenSessions(most=10)
    for number in range(100):
        one = session(id=f"S{number}")
        for place in range(3):
            sessions.note(one, transaction(id=f"Q{number}-{place}"))
    assert len(sessions) == 10
    assert len(sessions._by_queue_id) == 10


def test_one_connection_may_bring_mail_of_several_clients() -> None:
    sessions = OpenSessions()
    first, second = session(ANN, id="S"), session(EVE, id="S")
    sessions.note(first, transaction(id="Q1"))
    sessions.note(second, transaction(id="Q2"))
    known = sessions.find(Quarantined(at=0.0, queue_id="Q2", sender="", recipients=(), reason=""))
    assert known is not None
    assert known.session is second
    assert sessions.find(Quarantined(at=0.0, queue_id="Q1", sender="", recipients=(), reason="")) is None
    assert len(sessions) == 1


@pytest.mark.parametrize("order", [1, 5])
def test_while_the_counters_are_slow_nothing_is_lost(order: int) -> None:
    clock = Clock()
    counters = LaterCounters(clock)
    counters.holds = True
    records = Records(counters, clock.seconds, DAY)
    for _ in range(10):
        records.add("a", good=1.0)
        records.add("a", bad=0.5)
        for _ in range(order):
            counters.release()
    for _ in range(20):
        counters.release()
    counters.holds = False
    assert wait_for(run(records.read("a"))) == Record(10.0, 5.0)
    assert records._waiting == {}


def test_two_workers_lose_no_more_than_what_came_at_the_same_moment() -> None:
    clock = Clock()
    counters = LaterCounters(clock)
    counters.holds = True
    for records in (Records(counters, clock.seconds, DAY), Records(counters, clock.seconds, DAY)):
        records.add("a", good=1.0)
    for _ in range(10):
        counters.release()
    counters.holds = False
    found = wait_for(run(Records(counters, clock.seconds, DAY).read("a")))
    assert isinstance(found, Record)
    assert 1.0 <= found.good <= 2.0


def test_what_waits_is_bounded_and_ends_with_a_failure() -> None:
    class Failing(LaterCounters):
        def put(self, key: str, value: bytes, ttl: float) -> Deferred[None]:
            return fail(ConnectionError("away"))

    clock = Clock()
    counters = Failing(clock)
    counters.holds = True
    records = Records(counters, clock.seconds, DAY)
    for number in range(12_000):
        records.add(str(number), good=1.0)
    assert len(records._waiting) == 10_000
    counters.release()
    assert records._waiting == {}


def test_an_answer_can_be_cancelled_while_others_are_written() -> None:
    town = Town(later=True)
    one = town.opens()
    town.counters.holds = True
    answer = town.filter.on_connect(one)
    assert isinstance(answer, Awaitable)
    waiting = as_deferred(answer)
    waiting.addErrback(lambda _: None)
    town.refuses(one, REFUSED)
    waiting.cancel()
    for _ in range(4):
        town.counters.release()
    town.counters.holds = False
    assert town.known(NETWORK) == (0.0, 1.0)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5), st.floats(0, 1e6)), max_size=30))
def test_a_leaning_is_always_between_good_and_bad(steps: list[tuple[float, float, float]]) -> None:
    clock = Clock()
    records = Records(MemoryCounters(clock, 10), clock.seconds, DAY)
    for good, bad, seconds in steps:
        records.add("a", good=good, bad=bad)
        clock.advance(seconds)
    found = wait_for(run(records.read("a")))
    assert isinstance(found, Record)
    assert 0.0 <= found.good <= 1.0001 * sum(good for good, _, _ in steps)
    assert -1.0 < found.leaning < 1.0


def test_what_is_no_record_counts_as_nothing() -> None:
    town = Town()
    town.counters.put(f"reputation {NETWORK}", b"rubbish", DAY)
    assert town.known(NETWORK) == (0.0, 0.0)


class TestContract(FilterContract):
    factory = reputation

    def occasions(self) -> Iterable[Occasion]:
        mail = transaction()
        mail.evidence.add(SPF)
        mail.evidence.add(DKIM)
        one = session()
        one.evidence.add(GEO)
        return [Occasion(), Occasion(session=one, transaction=mail)]
