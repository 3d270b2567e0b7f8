"""Content filters of a pipeline, asked again: who is asked, what they are shown, and what their answers come to."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgate.address import Address
from mailgate.envelope import Session, Transaction
from mailgate.events import BreakerChanged, FilterFailed
from mailgate.filters.score import Options, Score
from mailgate.findings import Finding
from mailgate.interfaces import Again, IContentFilter, IMessageFilter, IMessageModifier, IRescan, IWeighingFilter
from mailgate.message import Edit, Message
from mailgate.pipeline.breaker import FAILURES
from mailgate.pipeline.member import Member
from mailgate.pipeline.rescan import Rescan
from mailgate.pipeline.scope import Scope
from mailgate.reply import Reply
from mailgate.testing import EventRecorder, message, session, transaction, wait_for
from mailgate.verdict import (
    Accept,
    Continue,
    Defer,
    Discard,
    Disconnect,
    Quarantine,
    Reject,
    TemporaryFailure,
    Verdict,
)
from tests.unit.relaying import failures_logged

BOB, EVE = Address("bob", "example.org"), Address("eve", "example.org")
PASS = Again("pass")


@dataclass(frozen=True)
class Found(Finding):
    words: tuple[str, ...]

    def facts(self) -> Sequence[str]:
        return self.words


@implementer(IContentFilter, IMessageModifier)
class Says:
    """A content filter with one answer."""

    def __init__(self, answer: object = None) -> None:
        self.answer = answer
        self.asked: list[tuple[Session, Transaction]] = []

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Any:
        self.asked.append((session, transaction))
        answer = self.answer() if callable(self.answer) else self.answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        raise AssertionError("nothing is changed again")


@implementer(IMessageFilter)
class Counts:
    """A filter that counts messages, and must not be asked again."""

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> None:
        raise AssertionError("asked again")


class Bench:
    def __init__(self, *groups: Sequence[tuple[str, Any]], **how: Any) -> None:
        self.clock = Clock()
        self.events = EventRecorder()
        members = [[Member(name, one, **how) for name, one in group] for group in groups]
        self.rescan = Rescan(members, {}, self.clock, self.events)

    def start(self, facts: Sequence[str] | None = (), of: Container[str] | None = None) -> Deferred[Sequence[Again]]:
        self.transaction = transaction(recipients=[BOB, EVE])
        return Deferred.fromCoroutine(self.rescan.ask(session(), self.transaction, message(), facts, of))

    def ask(self, facts: Sequence[str] | None = (), of: Container[str] | None = None) -> list[Again]:
        return list(wait_for(self.start(facts, of)))


def test_it_provides_the_interface() -> None:
    assert verifyObject(IRescan, Bench().rescan)


def test_only_content_filters_are_asked_and_nothing_is_changed() -> None:
    says = Says()
    bench = Bench([("counts", Counts())], [("says", says)])
    assert bench.ask() == [PASS, PASS]
    assert len(says.asked) == 1
    assert bench.rescan.names == {"says"}
    assert bench.transaction.edits == []
    assert bench.events.events == []


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (None, "pass"),
        (Continue((Found(("x.y",)),)), "pass"),
        (Accept("trusted"), "pass"),
        (Quarantine("why"), "objects"),
        (Discard("why"), "objects"),
        (Reject(Reply.of(550, "5.7.1", "no"), "why"), "objects"),
        (Disconnect(Reply.of(421, "4.7.0", "bye"), "why"), "objects"),
        (Defer(Reply.of(451, "4.7.1", "later"), "why"), "unknown"),
        (TemporaryFailure("why"), "unknown"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_what_an_answer_comes_to(answer: object, word: str, later: bool) -> None:
    if isinstance(answer, Exception):
        bench = Bench([("av", Says(answer))])
    else:
        bench = Bench([("av", Says(lambda: succeed(answer) if later else answer))])
    expected = PASS if word == "pass" else Again(word, "av", "why")  # type: ignore[arg-type]  # one of the three
    assert bench.ask() == [expected, expected]


def test_each_recipient_has_its_own() -> None:
    several = [Quarantine("bob's", (BOB,)), Reject(Reply.of(550, "5.7.1", "no"), "eve's", (EVE,))]
    assert Bench([("av", Says(several))]).ask() == [Again("objects", "av", "bob's"), Again("objects", "av", "eve's")]
    assert Bench([("av", Says(several[0]))]).ask() == [Again("objects", "av", "bob's"), PASS]


def test_a_filter_counts_for_those_that_it_is_for() -> None:
    clock = Clock()
    says = Says(Quarantine("why"))
    bench = Bench([("av", says)], scope=Scope(["eve@example.org"], [], clock))
    assert bench.ask() == [PASS, Again("objects", "av", "why")]
    assert [str(one.address) for one in says.asked[0][1].recipients] == ["eve@example.org"]
    nobody = Says(Quarantine("why"))
    assert Bench([("av", nobody)], scope=Scope(["other.test"], [], clock)).ask() == [PASS, PASS]
    assert nobody.asked == []


@pytest.mark.parametrize("on_failure", ["continue", "reject", "defer", "quarantine"])
def test_a_filter_that_fails_has_not_objected(on_failure: str) -> None:
    with failures_logged():
        bench = Bench([("av", Says(RuntimeError("broken")))], on_failure=on_failure)
        assert bench.ask() == [Again("unknown", "av", "RuntimeError: broken")] * 2
    assert len(bench.events.of(FilterFailed)) == 1


def test_a_filter_that_is_stuck_ends_with_its_deadline() -> None:
    bench = Bench([("av", Says(Deferred))], deadline=10.0)
    waiting = bench.start()
    bench.clock.advance(9.9)
    assert not waiting.called
    bench.clock.advance(0.2)
    assert list(wait_for(waiting)) == [Again("unknown", "av", "no answer within 10 s")] * 2
    assert bench.clock.getDelayedCalls() == []


def test_who_gives_up_waits_no_longer() -> None:
    cancelled: list[object] = []
    bench = Bench([("av", Says(lambda: Deferred(cancelled.append)))])
    waiting = bench.start()
    waiting.cancel()
    with pytest.raises(CancelledError):
        wait_for(waiting)
    assert len(cancelled) == 1
    assert bench.clock.getDelayedCalls() == []


def test_old_mail_does_not_keep_a_scanner_from_the_mail_of_now() -> None:
    member = Member("av", Says(RuntimeError("broken")))
    bench = Bench()
    bench.rescan = Rescan([[member]], {}, bench.clock, bench.events)
    with failures_logged():
        for _ in range(FAILURES + 3):
            assert bench.ask()[0].word == "unknown"
    assert member.breaker.is_calm
    assert bench.events.of(BreakerChanged) == []
    assert len(bench.events.of(FilterFailed)) >= FAILURES


def test_an_objection_counts_more_than_a_failure() -> None:
    with failures_logged():
        bench = Bench([("one", Says(RuntimeError("x")))], [("two", Says(Quarantine("why")))])
        assert bench.ask() == [Again("objects", "two", "why")] * 2


def test_a_shadow_has_no_say() -> None:
    shadow = Bench([("av", Says(Quarantine("why")))], mode="shadow")
    assert shadow.ask() == [PASS, PASS]
    assert shadow.rescan.names == frozenset()
    with failures_logged():
        assert Bench([("av", Says(RuntimeError("x")))], mode="shadow").ask() == [PASS, PASS]


def test_they_are_asked_in_their_order_until_all_is_objected_to() -> None:
    last = Says()
    assert Bench([("one", Says(Quarantine("why")))], [("two", last)]).ask() == [Again("objects", "one", "why")] * 2
    assert last.asked == []
    Bench([("one", Says(Quarantine("why", (BOB,))))], [("two", last)]).ask()
    assert len(last.asked) == 1
    Bench([("one", Says(Accept("trusted")))], [("two", last)]).ask()
    assert len(last.asked) == 1  # as when it came


def test_only_those_count_that_are_meant_whatever_others_say_before() -> None:
    last, idle = Says(Quarantine("Eicar", (BOB,))), Says()
    bench = Bench([("spam", Says(Quarantine("why")))], [("av", last)], [("idle", idle)])
    assert bench.ask(of={"av"}) == [Again("objects", "av", "Eicar"), PASS]
    assert idle.asked == []  # nobody wants to know
    assert bench.ask(of={"other"}) == [PASS, PASS]
    assert len(last.asked) == 1


def test_acceptance_ends_nothing_beside_an_objection() -> None:
    last = Says(Quarantine("why", (EVE,)))
    group = [("good", Says(Accept("trusted"))), ("bad", Says(Quarantine("why", (BOB,))))]
    assert Bench(group, [("last", last)]).ask() == [Again("objects", "bad", "why"), Again("objects", "last", "why")]


def test_those_of_a_group_are_asked_together() -> None:
    answers: list[Deferred[Verdict | None]] = [Deferred(), Deferred()]
    one, two = (Says(lambda answer=answer: answer) for answer in answers)
    bench = Bench([("one", one), ("two", two)])
    waiting = bench.start()
    assert (len(one.asked), len(two.asked)) == (1, 1)
    answers[1].callback(Quarantine("why"))
    assert not waiting.called
    answers[0].callback(None)
    assert list(wait_for(waiting)) == [Again("objects", "two", "why")] * 2


# -- what was found when the message came


def score(**thresholds: float) -> Score:
    return Score(Options(weights={"old": 3, "old.worse": 5, "av.found": 4}, thresholds={"tag": False, **thresholds}))  # type: ignore[arg-type]  # pydantic reads it


def test_facts_of_then_count_beside_those_of_now() -> None:
    av = Says(Continue((Found(("av.found",)),)))
    groups: list[list[tuple[str, Any]]] = [[("av", av)], [("score", score(quarantine=9.0))]]
    assert Bench(*groups).ask(["old", "old.worse"])[0].word == "objects"  # 5 + 4
    assert Bench(*groups).ask(["old"])[0].word == "pass"
    assert Bench(*groups).ask([])[0].word == "pass"


@pytest.mark.parametrize(
    ("facts", "points"),
    [
        (["old"], 3),
        (["old", "old.worse"], 5),  # one finding
        (["old.worse", "spf.x", "old"], 8),
        (["av.found"], 0),  # of a filter that is asked again
        (["av.found.eicar", "old"], 3),
    ],
)
def test_each_finding_counts_once(facts: list[str], points: float) -> None:
    for limit, word in ((points, "objects"), (points + 0.5, "pass")):
        if limit > 0:
            bench = Bench([("av", Says())], [("score", score(quarantine=limit))])
            assert bench.ask(facts)[0].word == word


def test_nothing_is_weighed_where_the_facts_are_not_known() -> None:
    av = Says(Continue((Found(("av.found",)),)))
    bench = Bench([("av", av)], [("score", score(quarantine=1.0))])
    assert bench.ask(None) == [PASS, PASS]
    assert bench.ask(())[0].word == "objects"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("attachments", "Attachments"),
        ("clamav", "Clamav"),
        ("command", "Command"),
        ("headers_check", "HeadersCheck"),
        ("http", "HttpVerdict"),
        ("rspamd", "Rspamd"),
        ("score", "Score"),
        ("signatures", "Signatures"),
        ("spamassassin", "SpamAssassin"),
        ("uribl", "Uribl"),
    ],
)
def test_the_filters_that_are_asked_again(module: str, name: str) -> None:
    kind = getattr(import_module(f"mailgate.filters.{module}"), name)
    assert IContentFilter.implementedBy(kind)
    assert IWeighingFilter.implementedBy(kind) == (module == "score")
