"""Stages, groups, votes, modifiers, deadlines, failures and shadow mode: what a pipeline makes of its filters."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock, deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer
from zope.interface.verify import verifyObject

from mailgate.address import Address
from mailgate.envelope import Identity, TraceStep
from mailgate.events import BreakerChanged, FilterFailed
from mailgate.interfaces import AttemptContext, IMessageModifier, IPipeline
from mailgate.message import AddHeader, Edit, For, RemoveHeader, RenameHeader
from mailgate.pipeline.ask import MAX_STEPS
from mailgate.pipeline.breaker import FAILURES, PAUSE
from mailgate.pipeline.delivery import DeliveryFilters
from mailgate.pipeline.member import ATTEMPT, MESSAGE, MODIFY, QUESTIONS, RCPT, ROUTE, Member, Question
from mailgate.pipeline.runner import Pipeline
from mailgate.pipeline.scope import Scope
from mailgate.pipeline.votes import CONTINUE, Pending
from mailgate.reply import Reply
from mailgate.testing import EventRecorder, Occasion, message, recipient, session, transaction
from mailgate.verdict import (
    Accept,
    Continue,
    Defer,
    Discard,
    Disconnect,
    PermanentFailure,
    Quarantine,
    Reject,
    TemporaryFailure,
    Verdict,
)

REJECT = Reject(Reply.of(550, "5.7.1", "No"), "rejected")
DEFER = Defer(Reply.of(450, "4.7.1", "Later"), "deferred")
DISCONNECT = Disconnect(Reply.of(421, "4.7.0", "Bye"), "thrown out")
QUARANTINE = Quarantine("suspicious")
DISCARD = Discard("unwanted")
ACCEPT = Accept("trusted")
REFUSALS: list[Verdict] = [DISCONNECT, REJECT, DEFER]
BY_STRENGTH: list[Verdict] = [*REFUSALS, DISCARD, QUARANTINE, ACCEPT, CONTINUE]

BEFORE_MESSAGE = [one for one in QUESTIONS if one not in (MESSAGE, MODIFY, ROUTE, ATTEMPT)]
BOB, EVE = Address("bob", "example.org"), Address("eve", "example.org")


class Says:
    """A filter of one stage with one answer: a value, an exception, or what a function answers."""

    def __init__(self, question: Question[Any], answer: object) -> None:
        self.answer = answer
        self.calls: list[tuple[object, ...]] = []
        setattr(self, question.method, self._say)
        directlyProvides(self, question.interface)

    def _say(self, *values: object) -> object:
        self.calls.append(values)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(*values) if callable(self.answer) else self.answer


class Stand:
    """A pipeline under test with its clock and events, and one mail."""

    def __init__(self, *groups: Member | Sequence[Member], routes: Sequence[str] | None = None) -> None:
        self.clock = Clock()
        self.events = EventRecorder()
        self.pipeline = Pipeline(
            [[group] if isinstance(group, Member) else group for group in groups], self.clock, self.events, routes
        )
        self.mail = Occasion(transaction=transaction(recipients=["bob@example.org", "eve@example.org"]))

    def ask(self, question: Question[Any]) -> Any:
        """What the pipeline answers at the stage, as it is."""
        stage = "message" if question is MODIFY else "rcpt" if question is ROUTE else question.stage
        return getattr(self.pipeline, stage)(*self.mail.values(question))

    @property
    def trace(self) -> list[TraceStep]:
        return [*self.mail.session.trace, *self.mail.transaction.trace]

    @property
    def told(self) -> list[tuple[str, str]]:
        """The filters of the trace with their words."""
        return [(step.filter, step.verdict) for step in self.trace]


def member(name: str, question: Question[Any], answer: object, **more: Any) -> Member:
    return Member(name, Says(question, answer), **more)


def asked(one: Member) -> int:
    assert isinstance(one.filter, Says)
    return len(one.filter.calls)


def result(deferred: Deferred[Any]) -> Any:
    found: list[Any] = []
    deferred.addBoth(found.append)
    assert found, "no result yet"
    if isinstance(found[0], Failure):
        found[0].raiseException()
    return found[0]


async def coroutine(value: object) -> object:
    return value


# -- one stage after another


def test_it_provides_the_interface() -> None:
    verifyObject(IPipeline, Stand().pipeline)


@pytest.mark.parametrize("question", BEFORE_MESSAGE, ids=lambda one: one.stage)
def test_a_stage_without_filters_continues_and_leaves_nothing(question: Question[Any]) -> None:
    stand = Stand(member("other", MESSAGE, REJECT))
    assert stand.ask(question) is CONTINUE
    assert stand.trace == []


@pytest.mark.parametrize("verdict", [*BY_STRENGTH, None], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("question", BEFORE_MESSAGE, ids=lambda one: one.stage)
def test_what_each_verdict_does_at_each_stage(question: Question[Any], verdict: Verdict | None) -> None:
    first, second = member("first", question, verdict), member("second", question, None)
    stand = Stand(first, second)
    answer = stand.ask(question)
    goes_on = verdict not in REFUSALS and verdict is not ACCEPT
    assert answer == (verdict if verdict in REFUSALS else CONTINUE)
    assert asked(second) == goes_on
    assert first.filter.calls == [stand.mail.values(question)]  # type: ignore[attr-defined]
    word = "continue" if verdict is None else type(verdict).__name__.lower()
    assert stand.told == [("first", word)] + [("second", "continue")] * goes_on
    step = stand.trace[0]
    assert step.stage == question.stage
    assert step.reason == getattr(verdict, "reason", "")
    assert step.recipient == ("bob@example.org" if question is RCPT else "")
    of_session = question.stage in ("connect", "helo", "auth")
    assert bool(stand.mail.session.trace) == of_session
    assert bool(stand.mail.transaction.trace) != of_session


@pytest.mark.parametrize("question", BEFORE_MESSAGE, ids=lambda one: one.stage)
@pytest.mark.parametrize("verdict", [QUARANTINE, DISCARD])
def test_what_can_only_happen_to_a_message_waits_for_it(question: Question[Any], verdict: Quarantine | Discard) -> None:
    stand = Stand(member("early", question, verdict))
    assert stand.ask(question) is CONTINUE
    only = BOB if question is RCPT else None
    of_session = question.stage in ("connect", "helo", "auth")
    evidence = (stand.mail.session if of_session else stand.mail.transaction).evidence
    assert list(evidence) == [Pending(verdict, "early", only)]
    assert stand.ask(MESSAGE) == [verdict, CONTINUE if only else verdict]
    # A session's holds for its later transactions, a transaction's ends with it.
    stand.mail.transaction = transaction()
    assert stand.ask(MESSAGE) == [verdict if of_session else CONTINUE]


def test_a_pending_verdict_is_kept_once_however_often_the_client_greets() -> None:
    stand = Stand(member("early", QUESTIONS[1], QUARANTINE))
    for _ in range(5):
        stand.ask(QUESTIONS[1])
    assert len(stand.mail.session.evidence) == 1


def test_a_refused_recipient_leaves_no_pending_verdict() -> None:
    stand = Stand(member("early", RCPT, DISCARD), member("late", RCPT, REJECT))
    assert stand.ask(RCPT) is REJECT
    assert len(stand.mail.transaction.evidence) == 0


def test_a_stronger_vote_beats_a_pending_verdict() -> None:
    stand = Stand(member("early", BEFORE_MESSAGE[3], DISCARD), member("late", MESSAGE, REJECT))
    stand.ask(BEFORE_MESSAGE[3])
    assert stand.ask(MESSAGE) == [REJECT, REJECT]


def test_evidence_is_for_later_filters() -> None:
    def look(_: object, mail: Any, *more: object) -> None:
        assert mail.evidence.get(str) == "found"

    first, second = member("first", RCPT, Continue(("found", 5))), member("second", RCPT, look)
    stand = Stand(first, second)
    assert stand.ask(RCPT) is CONTINUE
    assert list(stand.mail.transaction.evidence) == ["found", 5]
    assert stand.told == [("first", "continue"), ("second", "continue")]


def test_evidence_of_the_connection_belongs_to_the_session() -> None:
    verdict = Reject(Reply.of(550, "5.7.1", "No"), "listed", evidence=("listed",))
    stand = Stand(member("dnsbl", QUESTIONS[0], verdict))
    assert stand.ask(QUESTIONS[0]) is verdict
    assert list(stand.mail.session.evidence) == ["listed"]


# -- several verdicts


def test_a_message_filter_says_of_each_what_it_thinks() -> None:
    found = Continue(("found",))
    about_bob = Reject(REJECT.reply, "rejected", (BOB,), ("of bob",))
    about_eve = Quarantine("suspicious", (EVE,))
    for answer in ([found, about_bob, about_eve], (about_bob, None, about_eve, found)):
        stand = Stand(member("one", MESSAGE, lambda *_, answer=answer: answer), member("last", MESSAGE, None))
        assert stand.ask(MESSAGE) == [about_bob, about_eve]
        assert sorted(stand.mail.transaction.evidence) == ["found", "of bob"]  # type: ignore[type-var]  # texts
        told = [(one.verdict, one.recipient, one.reason) for one in stand.trace if one.filter == "one"]
        assert sorted(told) == [
            ("continue", "", ""),
            ("quarantine", "eve@example.org", "suspicious"),
            ("reject", "bob@example.org", "rejected"),
        ]
        assert stand.told[-1] == ("last", "continue")


def test_each_of_several_verdicts_is_a_vote() -> None:
    for answer in ([Reject(REJECT.reply, "x", (BOB,)), QUARANTINE], [QUARANTINE, Reject(REJECT.reply, "x", (BOB,))]):
        stand = Stand(member("one", MESSAGE, lambda *_, answer=answer: answer))
        assert [type(one) for one in stand.ask(MESSAGE)] == [Reject, Quarantine]


@pytest.mark.parametrize(
    ("answer", "verdict"), [([], CONTINUE), ([None], CONTINUE), ([REJECT], REJECT), ((), CONTINUE)]
)
def test_one_or_none_of_several_is_as_one(answer: object, verdict: Verdict) -> None:
    stand = Stand(member("one", MESSAGE, lambda *_: answer))
    assert stand.ask(MESSAGE) == [verdict, verdict]
    assert len(stand.trace) == 1


@pytest.mark.parametrize("answer", [[REJECT, ACCEPT], [DISCONNECT, REJECT], [REJECT, "no"], [REJECT] * 1001])
def test_what_is_no_sequence_of_verdicts_is_a_failure(answer: object) -> None:
    stand = Stand(member("one", MESSAGE, lambda *_: answer, on_failure="continue"))
    assert stand.ask(MESSAGE) == [CONTINUE, CONTINUE]
    assert stand.told == [("one", "failure")]


def test_several_verdicts_are_for_the_message_only() -> None:
    stand = Stand(member("one", RCPT, lambda *_: [REJECT, QUARANTINE], on_failure="continue"))
    assert stand.ask(RCPT) is CONTINUE
    assert stand.told == [("one", "failure")]


def test_very_many_verdicts_make_a_bounded_trace() -> None:
    verdicts = [Quarantine(f"reason {number}", (BOB,), (number,)) for number in range(1000)]
    stand = Stand(member("one", MESSAGE, lambda *_: verdicts))
    assert stand.ask(MESSAGE) == [verdicts[0], CONTINUE]
    assert (len(stand.trace), stand.trace[-1].reason) == (21, "980 more")
    assert len(stand.mail.transaction.evidence) == 1000


def test_several_verdicts_in_shadow_mode_are_noted_only() -> None:
    answer = [Reject(REJECT.reply, "x", (BOB,)), Quarantine("y", (EVE,))]
    stand = Stand(member("one", MESSAGE, lambda *_: answer, mode="shadow"))
    assert stand.ask(MESSAGE) == [CONTINUE, CONTINUE]
    assert [(one.verdict, one.enforced) for one in stand.trace] == [("reject", False), ("quarantine", False)]


# -- groups


@pytest.mark.parametrize("stronger", range(len(BY_STRENGTH) - 1))
def test_the_strongest_verdict_of_a_group_counts(stronger: int) -> None:
    for weaker in range(stronger + 1, len(BY_STRENGTH)):
        for order in ((stronger, weaker), (weaker, stronger)):
            group = [member(str(one), MESSAGE, BY_STRENGTH[one]) for one in order]
            last = member("last", MESSAGE, None)
            stand = Stand(group, last)
            verdict = BY_STRENGTH[stronger]
            expected = CONTINUE if verdict is ACCEPT else verdict
            assert stand.ask(MESSAGE) == [expected, expected]
            assert asked(group[0]) == asked(group[1]) == 1
            assert asked(last) == (verdict in (DISCARD, QUARANTINE))


def test_the_first_of_two_equals_counts() -> None:
    other = Reject(Reply.of(554, "5.7.1", "No"), "other")
    stand = Stand([member("a", RCPT, REJECT), member("b", RCPT, other)])
    assert stand.ask(RCPT) is REJECT
    stand = Stand([member("a", RCPT, QUARANTINE), member("b", RCPT, Quarantine("other"))])
    stand.ask(RCPT)
    assert stand.mail.transaction.evidence.get(Pending) == Pending(QUARANTINE, "a", BOB)


def test_a_group_is_started_together_and_waited_for() -> None:
    answers = [Deferred[Verdict | None]() for _ in range(3)]
    group = [member(str(number), RCPT, lambda *_, one=one: one) for number, one in enumerate(answers)]
    last = member("last", RCPT, None)
    stand = Stand(group, last)
    verdict = stand.ask(RCPT)
    assert [asked(one) for one in group] == [1, 1, 1]
    stand.clock.advance(1)
    answers[2].callback(None)
    stand.clock.advance(1)
    answers[0].callback(None)
    assert asked(last) == 0
    answers[1].callback(DEFER)
    assert result(verdict) is DEFER
    assert [(one.filter, one.seconds) for one in stand.trace] == [("2", 1.0), ("0", 2.0), ("1", 2.0)]
    assert stand.clock.getDelayedCalls() == []


# -- answers of every sort


@pytest.mark.parametrize("make", [lambda one: one, succeed, coroutine], ids=["plain", "Deferred", "coroutine"])
@pytest.mark.parametrize("question", [*BEFORE_MESSAGE, MESSAGE], ids=lambda one: one.stage)
def test_what_is_at_hand_is_answered_at_once(question: Question[Any], make: Callable[[object], object]) -> None:
    stand = Stand(member("one", question, lambda *_: make(REJECT)))
    assert stand.ask(question) == ([REJECT, REJECT] if question is MESSAGE else REJECT)
    assert stand.clock.getDelayedCalls() == []


def test_a_synchronous_mail_creates_no_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a Deferred is created")

    members = [member(one.stage, one, None) for one in QUESTIONS if one not in (MODIFY, ATTEMPT)]
    stand = Stand(members, member("m", MODIFY, (AddHeader("X", "y"),)))
    monkeypatch.setattr(defer.Deferred, "__init__", refuse)
    for question in (*BEFORE_MESSAGE, MESSAGE):
        stand.ask(question)
    assert len(stand.trace) == len(QUESTIONS) - 1


def test_filters_for_some_create_no_deferred_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a Deferred is created")

    scope = Scope(["bob@example.org"], [], Clock())
    edits = (For((BOB,), (AddHeader("X", "y"),)),)
    members = [member(one.stage, one, None, scope=scope) for one in QUESTIONS if one not in (MODIFY, ATTEMPT)]
    stand = Stand(members, member("m", MODIFY, edits, scope=scope), member("n", MODIFY, edits))
    monkeypatch.setattr(defer.Deferred, "__init__", refuse)
    for question in (*BEFORE_MESSAGE, MESSAGE):
        stand.ask(question)
    assert len(stand.trace) == len(QUESTIONS) + 1  # the last is asked about each message
    (some,) = stand.mail.transaction.edits_for
    assert some.edits == (AddHeader("X", "y"), AddHeader("X", "y"))


def test_what_comes_later_is_waited_for() -> None:
    async def later(*_: object) -> Verdict:
        await deferLater(stand.clock, 3.0)
        return REJECT

    stand = Stand(member("slow", RCPT, later))
    verdict = stand.ask(RCPT)
    stand.clock.advance(3.0)
    assert result(verdict) is REJECT
    assert stand.trace[0].seconds == 3.0
    assert stand.clock.getDelayedCalls() == []


def test_any_awaitable_serves() -> None:
    class Odd:
        def __await__(self) -> Any:
            yield from waiting
            return REJECT

    waiting: Deferred[None] = Deferred()
    stand = Stand(member("odd", RCPT, lambda *_: Odd()))
    verdict = stand.ask(RCPT)
    waiting.callback(None)
    assert result(verdict) is REJECT


# -- failures


def failing(kind: str) -> object:
    """An answer that is a failure of one kind or another, from a filter with a deadline of 10 s."""
    match kind:
        case "raises":
            return ValueError("boom")
        case "raises later":
            return lambda *_: fail(ValueError("boom"))
        case "coroutine raises":
            return lambda *_: _raise()
        case "wrong value":
            return "yes"
        case "wrong value later":
            return lambda *_: succeed(True)
        case "cancels itself":
            return CancelledError()
        case "cancels itself later":
            return lambda *_: fail(CancelledError())
        case _:
            return lambda *_: Deferred()


async def _raise() -> None:
    raise ValueError("boom")


FAILING = {
    "raises": "ValueError: boom",
    "raises later": "ValueError: boom",
    "coroutine raises": "ValueError: boom",
    "wrong value": "TypeError: answered 'yes' where a verdict or None belongs",
    "wrong value later": "TypeError: answered True where a verdict or None belongs",
    "cancels itself": "CancelledError: ",
    "cancels itself later": "CancelledError: ",
    "never answers": "no answer within 10 s",
}


def settle(stand: Stand, question: Question[Any]) -> Any:
    answer = stand.ask(question)
    if isinstance(answer, Deferred):
        stand.clock.advance(10.0)
        return result(answer)
    return answer


@pytest.mark.parametrize("kind", FAILING)
@pytest.mark.parametrize("question", [*BEFORE_MESSAGE, MESSAGE, MODIFY, ROUTE], ids=lambda one: one.stage)
@pytest.mark.parametrize("on_failure", ["defer", "reject", "continue", "quarantine"])
def test_a_failure_takes_on_failure_and_is_told(question: Question[Any], kind: str, on_failure: str) -> None:
    wrong = {MODIFY: 5, ROUTE: 5}.get(question)
    answer = failing(kind)
    if wrong is not None and kind.startswith("wrong"):
        answer = (lambda *_: succeed(wrong)) if kind.endswith("later") else wrong
    stand = Stand(member("bad", question, answer, on_failure=on_failure))
    given = settle(stand, question)
    verdict = given[0] if isinstance(given, list) else given
    match on_failure:
        case "continue":
            assert verdict is CONTINUE
        case "reject":
            assert (verdict.reply.code, verdict.reply.status) == (550, "5.3.0")
        case "quarantine" if question in (MESSAGE, MODIFY):
            assert isinstance(verdict, Quarantine)
        case _:
            assert (verdict.reply.code, verdict.reply.status) == (451, "4.3.0")
    (event,) = stand.events.of(FilterFailed)
    error = FAILING[kind] if wrong is None or not kind.startswith("wrong") else "TypeError: answered 5 where"
    assert event.error.startswith(error)
    assert (event.filter, event.stage, event.on_failure) == ("bad", question.stage, on_failure)
    assert event.session == stand.mail.session.id
    assert event.queue_id == ("" if question.stage in ("connect", "helo", "auth") else stand.mail.transaction.id)
    (step,) = stand.trace
    assert (step.filter, step.verdict) == ("bad", "failure")
    assert step.reason == f"{event.error} (on_failure: {on_failure})"
    if isinstance(verdict, Reject | Defer):
        assert "boom" not in str(verdict.reply)
        assert verdict.reason == f"bad: {event.error}"
    assert stand.clock.getDelayedCalls() == []
    assert stand.mail.transaction.edits == []


@pytest.mark.parametrize("later", [False, True])
def test_the_two_failures_that_may_cross_a_stage_are_answers(later: bool) -> None:
    for raised, kind, word in (
        (TemporaryFailure("the source is away"), Defer, "defer"),
        (PermanentFailure("never"), Reject, "reject"),
    ):
        for question in (*BEFORE_MESSAGE, MESSAGE, MODIFY, ROUTE):
            one = member("x", question, (lambda *_, raised=raised: fail(raised)) if later else raised)
            stand = Stand(one)
            given = settle(stand, question)
            verdict = given[0] if isinstance(given, list) else given
            assert verdict == kind(raised.reply, str(raised))
            assert stand.told == [("x", word)]
            assert stand.events.events == []


def test_an_error_of_any_length_and_any_text_is_bounded() -> None:
    class NastyError(Exception):
        def __str__(self) -> str:
            raise ValueError("not even its text")

    stand = Stand(member("x", RCPT, ValueError("y" * 10_000)), member("y", RCPT, None))
    stand.ask(RCPT)
    assert len(stand.events.of(FilterFailed)[0].error) == 500
    stand = Stand(member("x", RCPT, NastyError()))
    assert isinstance(stand.ask(RCPT), Defer)


def test_a_verdict_with_wrong_evidence_is_a_failure() -> None:
    stand = Stand(member("x", RCPT, Continue(5)))  # type: ignore[arg-type]
    assert isinstance(stand.ask(RCPT), Defer)
    assert stand.events.of(FilterFailed)


def test_a_failed_filter_is_no_reason_to_leave_out_the_next_when_it_continues() -> None:
    stand = Stand(member("x", RCPT, ValueError("boom"), on_failure="continue"), member("y", RCPT, REJECT))
    assert stand.ask(RCPT) is REJECT


# -- deadlines and cancellation


def test_a_deadline_cancels_the_filter_and_holds_although_it_swallows_that() -> None:
    cancelled = []

    async def stubborn(*_: object) -> Verdict:
        try:
            await Deferred()
        except Exception:
            cancelled.append(True)
        await deferLater(stand.clock, 100.0)
        return REJECT

    one = member("x", RCPT, stubborn, deadline=2.0)
    stand = Stand(one)
    verdict = stand.ask(RCPT)
    stand.clock.advance(1.9)
    assert not cancelled
    stand.clock.advance(0.1)
    assert isinstance(result(verdict), Defer)
    assert cancelled == [True]
    # What it says long after is nobody's concern.
    stand.clock.advance(100.0)
    assert stand.told == [("x", "failure")]
    assert stand.trace[0].seconds == 2.0
    assert len(stand.events.events) == 1


def test_a_canceller_that_fails_does_no_harm() -> None:
    def canceller(_: object) -> None:
        raise ValueError("not now")

    stand = Stand(member("x", RCPT, lambda *_: Deferred(canceller), deadline=2.0))
    verdict = stand.ask(RCPT)
    stand.clock.advance(2.0)
    assert isinstance(result(verdict), Defer)


@pytest.mark.parametrize("question", [*BEFORE_MESSAGE, MESSAGE, MODIFY, ROUTE], ids=lambda one: one.stage)
def test_cancelling_a_stage_cancels_its_filters(question: Question[Any]) -> None:
    cancelled: list[str] = []

    def waits(name: str) -> Callable[..., Deferred[Any]]:
        return lambda *_: Deferred(lambda _: cancelled.append(name))

    group = [member(name, question, waits(name)) for name in "ab"]
    last = member("last", question, None)
    stand = Stand(group, last)
    answer = stand.ask(question)
    answer.cancel()
    with pytest.raises(CancelledError):
        result(answer)
    # Modifiers and routers are asked one by one.
    names = ["a"] if question in (MODIFY, ROUTE) else ["a", "b"]
    assert cancelled == names
    assert stand.told == [(name, "abandoned") for name in names]
    assert stand.clock.getDelayedCalls() == []
    assert stand.events.events == []
    assert asked(last) == 0


def test_cancelling_a_stage_leaves_no_unhandled_error() -> None:
    @implementer(ILogObserver)
    class Watch:
        def __call__(self, event: LogEvent) -> None:
            errors.append(event)

    errors: list[LogEvent] = []
    watch = Watch()
    globalLogPublisher.addObserver(watch)
    try:
        stand = Stand([member(name, RCPT, lambda *_: Deferred()) for name in "abc"])
        stand.ask(RCPT).addErrback(lambda failure: failure.trap(CancelledError)).cancel()
        del stand
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(watch)
    assert errors == []


def test_giving_up_is_no_failure_of_the_filter() -> None:
    one = member("x", RCPT, lambda *_: Deferred())
    stand = Stand(one)
    for _ in range(FAILURES * 2):
        answer = stand.ask(RCPT)
        answer.addErrback(lambda failure: failure.trap(CancelledError))
        answer.cancel()
    assert not one.breaker.is_open


# -- the breaker


def test_a_filter_that_fails_again_and_again_is_left_alone_for_a_while() -> None:
    one = member("x", RCPT, ValueError("boom"))
    stand = Stand(one)
    for _ in range(FAILURES):
        stand.ask(RCPT)
    assert [(event.filter, event.is_open) for event in stand.events.of(BreakerChanged)] == [("x", True)]
    failures = len(stand.events.of(FilterFailed))
    verdict = stand.ask(RCPT)
    assert (asked(one), verdict.reply.code) == (FAILURES, 451)
    assert stand.trace[-1].verdict == "failure"
    assert "not asked" in stand.trace[-1].reason
    assert len(stand.events.of(FilterFailed)) == failures
    stand.clock.advance(PAUSE)
    one.filter.answer = None  # type: ignore[attr-defined]
    assert stand.ask(RCPT) is CONTINUE
    assert [event.is_open for event in stand.events.of(BreakerChanged)] == [True, False]


def test_only_one_trial_is_under_way_at_a_time() -> None:
    one = member("x", RCPT, ValueError("boom"))
    stand = Stand(one)
    for _ in range(FAILURES):
        stand.ask(RCPT)
    stand.clock.advance(PAUSE)
    trial: Deferred[None] = Deferred()
    one.filter.answer = lambda *_: trial  # type: ignore[attr-defined]
    first = stand.ask(RCPT)
    assert isinstance(stand.ask(RCPT), Defer)
    assert asked(one) == FAILURES + 1
    trial.callback(None)
    assert result(first) is CONTINUE


def test_the_breaker_is_one_for_all_stages_and_pipelines() -> None:
    both = Says(RCPT, ValueError("boom"))
    one = Member("x", both)
    stand, other = Stand(one), Stand(one)
    for number in range(FAILURES):
        (stand, other)[number % 2].ask(RCPT)
    stand.ask(RCPT)
    other.ask(RCPT)
    assert len(both.calls) == FAILURES


def test_refusing_to_judge_is_no_failure() -> None:
    one = member("x", RCPT, TemporaryFailure("busy"))
    stand = Stand(one)
    for _ in range(FAILURES * 2):
        stand.ask(RCPT)
    assert asked(one) == FAILURES * 2


# -- shadow mode


@pytest.mark.parametrize("verdict", [*REFUSALS, DISCARD, QUARANTINE, ACCEPT], ids=lambda one: type(one).__name__)
def test_a_shadow_verdict_is_noted_and_not_acted_on(verdict: Verdict) -> None:
    for question in (*BEFORE_MESSAGE, MESSAGE):
        last = member("last", question, None)
        stand = Stand(member("shadow", question, verdict, mode="shadow"), last)
        assert stand.ask(question) == ([CONTINUE, CONTINUE] if question is MESSAGE else CONTINUE)
        assert asked(last) == 1
        step = stand.trace[0]
        assert (step.verdict, step.enforced) == (type(verdict).__name__.lower(), False)
        assert not list(stand.mail.session.evidence)
        assert not list(stand.mail.transaction.evidence)


def test_shadow_evidence_counts() -> None:
    verdict = Reject(Reply.of(550, "5.7.1", "No"), "listed", evidence=("listed",))
    stand = Stand(member("shadow", RCPT, verdict, mode="shadow"))
    stand.ask(RCPT)
    assert list(stand.mail.transaction.evidence) == ["listed"]


@pytest.mark.parametrize("kind", [*FAILING, "temporary"])
def test_a_shadow_that_fails_harms_nobody(kind: str) -> None:
    answer = TemporaryFailure("x") if kind == "temporary" else failing(kind)
    for question in (RCPT, MESSAGE):
        stand = Stand(member("shadow", question, answer, mode="shadow", on_failure="reject"))
        assert settle(stand, question) == ([CONTINUE, CONTINUE] if question is MESSAGE else CONTINUE)
        assert [event.on_failure for event in stand.events.of(FilterFailed)] == ["continue"] * (kind != "temporary")
        assert not stand.trace[0].enforced


def test_a_shadow_modifier_and_router_only_say_what_they_would_do() -> None:
    stand = Stand(
        member("m", MODIFY, [AddHeader("X-Spam", "yes"), RemoveHeader("Bcc")], mode="shadow"),
        member("r", ROUTE, "lab", mode="shadow"),
    )
    assert stand.ask(ROUTE) is CONTINUE
    assert stand.ask(MODIFY) == [CONTINUE, CONTINUE]
    assert stand.mail.recipient.route == "inside"
    assert stand.mail.transaction.edits == []
    assert [(one.verdict, one.reason, one.enforced) for one in stand.trace] == [
        ("route", "lab", False),
        ("edit", "add X-Spam; remove Bcc", False),
    ]


# -- the message


def only(verdict: Any, *addresses: Address) -> Verdict:
    return type(verdict)(  # type: ignore[no-any-return]
        **({"reply": verdict.reply} if hasattr(verdict, "reply") else {}), reason="one only", recipients=addresses
    )


def test_votes_on_single_recipients_leave_the_others_alone() -> None:
    last = member("last", MESSAGE, None)
    stand = Stand(
        member("a", MESSAGE, only(REJECT, EVE)),
        member("b", MESSAGE, only(QUARANTINE, BOB, EVE, Address("nobody", "here.example"))),
        last,
    )
    assert stand.ask(MESSAGE) == [only(QUARANTINE, BOB, EVE, Address("nobody", "here.example")), only(REJECT, EVE)]
    assert asked(last) == 1
    assert [step.recipient for step in stand.trace] == [
        "eve@example.org",
        "bob@example.org, eve@example.org, nobody@here.example",
        "",
    ]


def test_when_all_are_refused_nobody_else_is_asked() -> None:
    last, modifier = member("last", MESSAGE, None), member("m", MODIFY, ())
    stand = Stand(member("a", MESSAGE, only(REJECT, EVE)), member("b", MESSAGE, only(DEFER, BOB)), last, modifier)
    assert stand.ask(MESSAGE) == [only(DEFER, BOB), only(REJECT, EVE)]
    assert (asked(last), asked(modifier)) == (0, 0)


def test_many_named_recipients_are_counted_in_the_trace() -> None:
    addresses = [Address(f"u{number}", "example.org") for number in range(30)]
    stand = Stand(member("a", MESSAGE, only(QUARANTINE, *addresses)))
    stand.ask(MESSAGE)
    assert stand.trace[0].recipient.endswith("u9@example.org and 20 more")


@pytest.mark.parametrize(
    ("verdict", "modified"),
    [(None, 1), (ACCEPT, 1), (QUARANTINE, 1), (DISCARD, 0), (REJECT, 0), (DEFER, 0), (DISCONNECT, 0)],
    ids=lambda one: type(one).__name__,
)
def test_modifiers_run_only_when_somebody_gets_the_mail(verdict: Verdict | None, modified: int) -> None:
    modifier = member("m", MODIFY, [AddHeader("X", "y")])
    stand = Stand(modifier, member("a", MESSAGE, verdict))
    stand.ask(MESSAGE)
    assert asked(modifier) == len(stand.mail.transaction.edits) == modified


def test_modifiers_run_after_the_votes_one_by_one_in_order() -> None:
    order: list[str] = []
    first_answer: Deferred[Sequence[Edit]] = Deferred()

    @implementer(IMessageModifier)
    class Modifier:
        def __init__(self, name: str, answer: Sequence[Edit] | Awaitable[Sequence[Edit]]) -> None:
            self.name, self.answer = name, answer

        def modify(self, session: object, mail: Any, message: object) -> Sequence[Edit] | Awaitable[Sequence[Edit]]:
            order.append(f"{self.name} after {len(mail.edits)}")
            return self.answer

    def vote(*_: object) -> None:
        order.append("vote")

    stand = Stand(
        [Member("a", Modifier("a", first_answer)), Member("b", Modifier("b", [RenameHeader("A", "B")]))],
        member("v", MESSAGE, vote),
    )
    verdicts = stand.ask(MESSAGE)
    assert order == ["vote", "a after 0"]
    first_answer.callback([AddHeader("A", "1"), AddHeader("A", "2")])
    assert result(verdicts) == [CONTINUE, CONTINUE]
    assert order == ["vote", "a after 0", "b after 2"]
    assert stand.mail.transaction.edits == [AddHeader("A", "1"), AddHeader("A", "2"), RenameHeader("A", "B")]
    assert [one.reason for one in stand.trace] == ["", "add A; add A", "rename A"]


@pytest.mark.parametrize(
    "edits",
    [
        [AddHeader("Fine", "y"), RenameHeader("X", "no name:")],
        [RenameHeader("X", "ü")],
        [RemoveHeader(None)],  # type: ignore[arg-type]
        ["X: y"],
        None,
        "X: y",
        {"X": "y"},
    ],
)
def test_edits_that_cannot_be_applied_are_a_failure_and_none_is_kept(edits: object) -> None:
    last = member("last", MODIFY, ())
    stand = Stand(member("m", MODIFY, edits), last)
    assert [verdict.reply.code for verdict in stand.ask(MESSAGE)] == [451, 451]
    assert stand.mail.transaction.edits == []
    assert asked(last) == 0
    assert len(stand.events.of(FilterFailed)[0].error) <= 500


def test_a_modifier_that_fails_counts_for_those_who_are_left() -> None:
    last = member("last", MODIFY, [AddHeader("X", "y")])
    stand = Stand(
        member("a", MESSAGE, only(REJECT, EVE)),
        member("m", MODIFY, ValueError("boom"), on_failure="quarantine"),
        last,
    )
    bob, eve = stand.ask(MESSAGE)
    assert isinstance(bob, Quarantine)
    assert eve == only(REJECT, EVE)
    assert stand.mail.transaction.edits == [AddHeader("X", "y")]


def test_a_message_without_filters_goes_to_everyone() -> None:
    stand = Stand()
    assert stand.ask(MESSAGE) == [CONTINUE, CONTINUE]
    stand.mail.transaction.recipients.clear()
    assert stand.ask(MESSAGE) == []


# -- routers


def test_the_first_router_that_names_a_route_decides_after_the_filters() -> None:
    last = member("last", ROUTE, "other")
    stand = Stand(
        member("none", ROUTE, None), member("lab", ROUTE, "lab"), last, member("f", RCPT, ACCEPT), routes=["lab"]
    )
    assert stand.ask(RCPT) is CONTINUE
    assert stand.mail.recipient.route == "lab"
    assert stand.told == [("f", "accept"), ("none", "continue"), ("lab", "route")]
    assert asked(last) == 0


def test_a_router_is_not_asked_for_a_refused_recipient() -> None:
    router = member("r", ROUTE, "lab")
    stand = Stand(router, member("f", RCPT, REJECT))
    assert stand.ask(RCPT) is REJECT
    assert asked(router) == 0


@pytest.mark.parametrize("named", ["nowhere", "", 5])
def test_a_route_that_there_is_not_is_a_failure(named: object) -> None:
    stand = Stand(member("r", ROUTE, named), routes=["lab", "inside"])
    assert stand.ask(RCPT).reply.code == 451
    assert stand.mail.recipient.route == "inside"
    if named == "nowhere":
        assert "(valid are: inside, lab)" in stand.events.of(FilterFailed)[0].error


def test_a_router_may_take_its_time() -> None:
    answer: Deferred[str] = Deferred()
    stand = Stand(member("r", ROUTE, lambda *_: answer))
    verdict = stand.ask(RCPT)
    answer.callback("lab")
    assert result(verdict) is CONTINUE
    assert stand.mail.recipient.route == "lab"


# -- what a client can make us keep


def test_the_trace_of_a_session_does_not_grow_with_its_messages() -> None:
    every = [member(one.stage, one, None) for one in QUESTIONS if one is not ATTEMPT]
    stand = Stand(*every)
    for question in BEFORE_MESSAGE[:3]:
        stand.ask(question)
    for _ in range(50):
        stand.mail.transaction = transaction()
        for question in (*BEFORE_MESSAGE[3:], MESSAGE):
            stand.ask(question)
    assert [step.stage for step in stand.mail.session.trace] == ["connect", "helo", "auth"]


def test_greeting_without_end_is_ended() -> None:
    helo = QUESTIONS[1]
    stand = Stand(member("a", helo, Continue(("seen",))), member("b", helo, None))
    answers = [stand.ask(helo) for _ in range(MAX_STEPS)]
    assert answers[MAX_STEPS // 2 - 1] is CONTINUE
    assert answers[-1].reply.code == 421
    assert isinstance(answers[-1], Disconnect)
    assert len(stand.mail.session.trace) == MAX_STEPS
    assert len(stand.mail.session.evidence) == MAX_STEPS // 2


def test_a_long_list_of_recipients_keeps_what_matters() -> None:
    def judge(_: object, __: object, one: Any) -> Verdict | None:
        return REJECT if one.address.local_part == "last" else None

    stand = Stand(member("a", RCPT, judge), member("v", MESSAGE, None))
    for number in range(2 * MAX_STEPS):
        stand.pipeline.rcpt(stand.mail.session, stand.mail.transaction, recipient(f"u{number}@example.org"))
    stand.pipeline.rcpt(stand.mail.session, stand.mail.transaction, recipient("last@example.org"))
    stand.pipeline.message(stand.mail.session, stand.mail.transaction, message())
    assert len(stand.trace) == MAX_STEPS + 2
    assert [(one.filter, one.verdict) for one in stand.trace[-2:]] == [("a", "reject"), ("v", "continue")]


def test_auth_is_asked_with_the_identity() -> None:
    one = member("a", BEFORE_MESSAGE[2], None)
    stand = Stand(one)
    identity = Identity("ann", "PLAIN")
    mail = session()
    stand.pipeline.auth(mail, identity)
    assert one.filter.calls == [(mail, identity)]  # type: ignore[attr-defined]


# -- before a delivery


@pytest.mark.parametrize("verdict", [*BY_STRENGTH, None], ids=lambda one: type(one).__name__)
def test_what_stops_a_delivery(verdict: Verdict | None) -> None:
    first, last = member("a", ATTEMPT, verdict), member("b", ATTEMPT, None)
    filters = DeliveryFilters([first, last], Clock(), EventRecorder())
    (attempt,) = Occasion().values(ATTEMPT)
    assert isinstance(attempt, AttemptContext)
    stops = isinstance(verdict, Reject | Defer | Discard)
    assert filters.on_attempt(attempt) == (verdict if stops else CONTINUE)
    assert asked(last) == (not stops and verdict is not ACCEPT)


def test_a_delivery_filter_that_fails_postpones() -> None:
    events, clock = EventRecorder(), Clock()
    filters = DeliveryFilters([member("a", ATTEMPT, lambda *_: Deferred(), on_failure="quarantine")], clock, events)
    (attempt,) = Occasion().values(ATTEMPT)
    assert isinstance(attempt, AttemptContext)
    answer = filters.on_attempt(attempt)
    assert isinstance(answer, Deferred)
    clock.advance(10.0)
    assert isinstance(result(answer), Defer)
    (event,) = events.of(FilterFailed)
    assert (event.stage, event.queue_id) == ("attempt", attempt.envelope.queue_id)


def test_without_delivery_filters_there_is_nothing_to_ask() -> None:
    filters = DeliveryFilters([member("a", RCPT, None)], Clock(), EventRecorder())
    assert not filters
    assert filters.on_attempt(AttemptContext(None, (), "", 1)) is CONTINUE  # type: ignore[arg-type]
