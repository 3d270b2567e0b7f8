"""What is written of an attempt, and told: outcomes, reports, a spool that does not take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from email import message_from_bytes
from email.policy import SMTP
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.config.rules import ReplyRules
from mailgate.config.schema import RetrySection
from mailgate.envelope import Envelope, EnvelopeRecipient, MailParameters
from mailgate.events import Bounced, Delivered, Discarded, Reported
from mailgate.events import Deferred as DeferredEvent
from mailgate.interfaces import Handover, Lease, Outcome, OutcomeKind, SpoolError
from mailgate.message import Content
from mailgate.relay.attempt import Result
from mailgate.relay.ready.jobs import Job
from mailgate.relay.replies.classify import Bounces, Classifier
from mailgate.reply import Reply
from mailgate.testing import EventRecorder
from tests.unit.relaying import LATER, NO, OK, failures_logged, lease, make_writer, results

RETRY = RetrySection(first="5m", longest="4h", expire="5d", warn="0s")  # type: ignore[arg-type]  # as in the file
TELLS = RETRY.model_copy(update={"warn": 4 * 3600.0})
DAY = 86400.0
Report = tuple[Envelope, Content]


class FakeSpool:
    """Writes, or does not, as the test says; as much of a spool as an OutcomeWriter asks for."""

    def __init__(self) -> None:
        self.written: list[tuple[Lease, Sequence[Outcome], Report | None]] = []
        self.refuses: set[str] = set()  # queue ids, or "*"
        self.tries = 0
        self.held: list[Deferred[None]] | None = None
        self.counted: Counter[str] = Counter()

    def add_counts(self, amounts: Mapping[str, int]) -> Deferred[None]:
        if "*" in self.refuses:
            return fail(SpoolError("no disk"))
        self.counted.update(amounts)
        return succeed(None)

    def record(self, lease: Lease, outcomes: Sequence[Outcome], reports: Sequence[Report] = ()) -> Deferred[None]:
        self.tries += 1
        if self.refuses & {"*", lease.envelope.queue_id}:
            return fail(SpoolError("no disk"))
        assert len(reports) <= 1
        self.written.append((lease, outcomes, reports[0] if reports else None))
        if self.held is None:
            return succeed(None)
        self.held.append(Deferred())
        return self.held[-1]


class Bench:
    def __init__(self, bounces: Bounces | None = None) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.spool = FakeSpool()
        self.events = EventRecorder()
        self.written: list[tuple[Job, float | None]] = []
        self.told: list[str] = []
        self.writer = make_writer(
            self.spool,  # type: ignore[arg-type]  # as much of a spool as is asked
            self.events,
            self.clock,
            hostname="gw.example.org",
            route_of=lambda envelope: f"to {envelope.sender}" if bounces else "back",
            written=lambda job, due: self.written.append((job, due)),
            stuck=lambda: self.told.append("stuck"),
            unstuck=lambda: self.told.append("unstuck"),
            bounces=bounces,
        )

    def record(self, *found: Result, job: Job | None = None, retry: RetrySection = RETRY, **more: Any) -> Job:
        job = job or self.job(*(str(one.recipient.address) for one in found), **more)
        job.results = list(found)
        self.writer.record(job, retry)
        return job

    def job(
        self,
        *recipients: str | EnvelopeRecipient,
        attempts: dict[int, int] | None = None,
        warned: frozenset[int] = frozenset(),
        **more: Any,
    ) -> Job:
        one = lease(*(recipients or ("bob@d.test",)), **({"received": self.clock.seconds()} | more))
        one = Lease(one.envelope, one.recipients, one.content, one.until, attempts or {}, warned)
        return Job(one, one.recipients, "out", started=self.clock.seconds() - 2.0)

    def end(self, reply: Reply, **more: Any) -> Job:
        """A job for Bob that ends with this reply."""
        job = self.job(**more)
        return self.record(*results(job.recipients, reply), job=job)

    def report(self) -> str | None:
        """What was written with the last outcomes."""
        report = self.spool.written[-1][2]
        return None if report is None else report[1].read().decode()

    @property
    def outcome(self) -> Outcome:
        (outcome,) = self.spool.written[-1][1]
        return outcome


# -- outcomes


def test_a_delivery_is_written_then_told() -> None:
    bench = Bench()
    bench.spool.held = []
    job = bench.end(OK, received=400.0)
    assert bench.outcome.kind is OutcomeKind.DELIVERED
    assert bench.events.events == []
    assert bench.written == []
    bench.spool.held.pop().callback(None)
    (event,) = bench.events.of(Delivered)
    assert (event.queue_id, event.recipient, event.route, event.host) == ("0Q", "bob@d.test", "out", "mx")
    assert (event.attempt, event.seconds, event.delay) == (1, 2.0, 600.0)
    assert bench.written == [(job, None)]


def test_a_delivery_tells_how_the_message_travelled() -> None:
    bench = Bench()
    tls = "TLSv1.3 TLS_AES_256_GCM_SHA384 verified"
    for told in (tls, ""):
        job = bench.job()
        bench.record(*results(job.recipients, OK, tls=told), job=job)
    assert [event.tls for event in bench.events.of(Delivered)] == [tls, ""]


def test_a_deferral_comes_again_by_the_schedule() -> None:
    bench = Bench()
    job = bench.end(LATER, attempts={0: 2})
    assert bench.outcome.kind is OutcomeKind.DEFERRED
    assert 1000 + 1200 * 0.9 <= bench.outcome.next_attempt <= 1000 + 1200 * 1.1
    assert bench.written == [(job, bench.outcome.next_attempt)]
    (event,) = bench.events.of(DeferredEvent)
    assert (event.attempt, event.next_attempt, event.reply) == (3, bench.outcome.next_attempt, str(LATER))


def test_the_earliest_of_several_is_when_to_wake() -> None:
    bench = Bench()
    job = bench.job("a@d.test", "b@d.test", attempts={0: 5, 1: 0})
    bench.record(*results(job.recipients, LATER), job=job)
    times = [one.next_attempt for one in bench.spool.written[0][1]]
    assert bench.written == [(job, min(times))]


def test_a_discarded_recipient_is_told_as_such() -> None:
    bench = Bench()
    job = bench.job()
    bench.record(Result(job.recipients[0], OutcomeKind.DISCARDED, OK, reason="unwanted"), job=job)
    (event,) = bench.events.of(Discarded)
    assert (event.recipients, event.reason) == (("bob@d.test",), "unwanted")
    assert bench.spool.written[0][2] is None


# -- reports


def test_a_failure_owes_a_report_in_the_same_commit() -> None:
    bench = Bench()
    job = bench.end(NO)
    lease_of, outcomes, report = bench.spool.written[0]
    assert lease_of is job.lease
    assert [one.kind for one in outcomes] == [OutcomeKind.FAILED]
    assert report is not None
    envelope, content = report
    assert not envelope.sender
    assert [(str(one.address), one.route) for one in envelope.recipients] == [("ann@client.test", "back")]
    assert b"no such user" in content.read()
    (event,) = bench.events.of(Bounced)
    assert event.report == envelope.queue_id != "0Q"
    # The report is due at once.
    assert bench.written == [(job, bench.clock.seconds())]


def test_one_report_for_all_that_failed_together() -> None:
    bench = Bench()
    job = bench.job("a@d.test", "b@d.test", "c@d.test")
    first, second, third = job.recipients
    bench.record(*results([first], NO), *results([second]), *results([third], NO), job=job)
    (written,) = bench.spool.written
    assert written[2] is not None
    text = written[2][1].read()
    assert text.count(b"Final-Recipient") == 2
    assert b"b@d.test" not in text
    assert {event.report for event in bench.events.of(Bounced)} == {written[2][0].queue_id}


def test_nobody_is_told_of_a_failed_report() -> None:
    bench = Bench()
    bench.end(NO, sender="")
    assert bench.spool.written[0][2] is None
    (event,) = bench.events.of(Bounced)
    assert event.report == ""


@pytest.mark.parametrize(("age", "kind"), [(5 * DAY - 10, OutcomeKind.DEFERRED), (5 * DAY + 10, OutcomeKind.FAILED)])
def test_a_message_that_is_too_old_is_returned(age: float, kind: OutcomeKind) -> None:
    bench = Bench()
    bench.end(LATER, received=bench.clock.seconds() - age, attempts={0: 30})
    assert bench.outcome.kind is kind
    report = bench.spool.written[0][2]
    assert (report is not None) == (kind is OutcomeKind.FAILED)
    if report is not None:
        assert b"4.4.7" in report[1].read()
        (event,) = bench.events.of(Bounced)
        assert event.reason == f"given up after 31 attempts: {LATER}"


def test_the_last_attempt_is_at_the_end_of_the_time() -> None:
    bench = Bench()
    bench.end(LATER, received=bench.clock.seconds() - 5 * DAY + 10, attempts={0: 30})
    assert bench.outcome.next_attempt == bench.clock.seconds() + 10


def test_nobody_is_given_up_whose_report_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    job = bench.job("a@d.test", "b@d.test")
    first, second = job.recipients

    def broken(*values: Any, **more: Any) -> None:
        raise ValueError("a bug in the report")

    with monkeypatch.context() as patch, failures_logged() as logged:
        patch.setattr("mailgate.relay.outcomes.compose_report", broken)
        bench.record(*results([first], NO), *results([second]), job=job)
    assert logged == ["a bug in the report"]
    (_, (one, two), report) = bench.spool.written[0]
    assert report is None
    assert (one.kind, one.next_attempt, one.reply) == (OutcomeKind.DEFERRED, bench.clock.seconds() + 600, NO)
    assert two.kind is OutcomeKind.DELIVERED
    assert bench.events.of(Bounced) == []
    bench.end(NO)
    assert bench.spool.written[1][2] is not None


def test_a_delay_whose_report_cannot_be_made_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def broken(*values: Any, **more: Any) -> None:
        raise ValueError("a bug in the report")

    job = bench.job(received=bench.clock.seconds() - DAY)
    with monkeypatch.context() as patch, failures_logged():
        patch.setattr("mailgate.relay.outcomes.compose_report", broken)
        bench.record(*results(job.recipients, LATER), job=job, retry=TELLS)
    assert (bench.outcome.kind, bench.outcome.warned, bench.report()) == (OutcomeKind.DEFERRED, False, None)
    assert bench.events.of(Reported) == []


# -- what the sender has asked to hear


def to_bob(*notify: str) -> EnvelopeRecipient:
    return EnvelopeRecipient(0, Address("bob", "d.test"), "out", notify=notify)


@pytest.mark.parametrize(
    ("notify", "reply", "told"),
    [
        ((), OK, None),
        (("FAILURE", "DELAY"), OK, None),
        (("SUCCESS",), OK, "delivered"),
        (("NEVER",), OK, None),
        ((), NO, "failed"),
        (("FAILURE",), NO, "failed"),
        (("SUCCESS", "DELAY"), NO, None),
        (("NEVER",), NO, None),
        ((), LATER, "delayed"),
        (("DELAY",), LATER, "delayed"),
        (("SUCCESS", "FAILURE"), LATER, None),
        (("NEVER",), LATER, None),
    ],
)
def test_the_sender_hears_what_it_asked_for(notify: tuple[str, ...], reply: Reply, told: str | None) -> None:
    bench = Bench()
    job = bench.job(to_bob(*notify), received=bench.clock.seconds() - 5 * 3600)
    bench.record(*results(job.recipients, reply), job=job, retry=TELLS)
    text = bench.report()
    assert bench.outcome.warned == (told == "delayed")
    if told is None or text is None:
        assert (text, told) == (None, None)
        assert bench.events.of(Reported) == []
        return
    assert f"\r\nAction: {told}\r\n" in text
    made = bench.spool.written[-1][2]
    assert made is not None
    if told == "failed":
        assert [one.report for one in bench.events.of(Bounced)] == [made[0].queue_id]
        assert bench.events.of(Reported) == []
    else:
        (event,) = bench.events.of(Reported)
        assert (event.queue_id, event.kind, event.report) == ("0Q", told, made[0].queue_id)
        assert (event.sender, event.recipients) == ("ann@client.test", ("bob@d.test",))


@pytest.mark.parametrize(
    ("handover", "asked", "told"),
    [
        (Handover.RELAYED, MailParameters(), "relayed"),
        (Handover.PASSED_ON, MailParameters(), None),
        (Handover.PASSED_ON, MailParameters(deliver_by=9e9, by_mode="R", by_trace=True), "relayed"),
        (Handover.FINAL, MailParameters(deliver_by=9e9, by_mode="R", by_trace=True), "delivered"),
    ],
)
def test_how_it_was_handed_over_decides_what_is_said(
    handover: Handover, asked: MailParameters, told: str | None
) -> None:
    bench = Bench()
    job = bench.job(to_bob("SUCCESS"), parameters=asked)
    bench.record(*results(job.recipients, OK, handover=handover), job=job)
    assert [one.kind for one in bench.events.of(Reported)] == ([told] if told else [])
    assert bench.outcome.handover is handover


@pytest.mark.parametrize(
    ("notify", "mode", "trace", "handover", "told"),
    [
        ((), "N", False, Handover.RELAYED, True),
        ((), "N", False, Handover.FINAL, False),
        ((), "N", False, Handover.PASSED_ON, False),
        ((), "R", False, Handover.RELAYED, False),
        ((), "R", True, Handover.PASSED_ON, True),
        (("NEVER",), "N", True, Handover.RELAYED, False),
        (("FAILURE",), "N", False, Handover.RELAYED, False),
        (("DELAY",), "N", False, Handover.RELAYED, True),
        (("SUCCESS",), "N", False, Handover.RELAYED, True),
        (("FAILURE", "DELAY"), "N", False, Handover.RELAYED, True),
        (("DELAY",), "R", False, Handover.RELAYED, False),
    ],
)
def test_a_deadline_asks_for_a_word_where_the_message_leaves_our_sight(
    notify: tuple[str, ...], mode: str, trace: bool, handover: Handover, told: bool
) -> None:
    bench = Bench()
    asked = MailParameters(deliver_by=9e9, by_mode=mode, by_trace=trace)
    job = bench.job(to_bob(*notify), parameters=asked)
    bench.record(*results(job.recipients, OK, handover=handover), job=job)
    assert ("Action: relayed" in (bench.report() or "")) == told


def test_a_delay_is_told_once_and_not_too_early() -> None:
    bench = Bench()
    for age, warned, told in (
        (4 * 3600.0 - 1, frozenset[int](), False),
        (4 * 3600.0, frozenset[int](), True),
        (5 * 3600.0, frozenset({0}), False),
    ):
        job = bench.job(received=bench.clock.seconds() - age, warned=warned)
        bench.record(*results(job.recipients, LATER), job=job, retry=TELLS)
        assert (bench.report() is not None, bench.outcome.warned) == (told, told)
    text = bench.spool.written[1][2]
    assert text is not None
    assert b"Will-Retry-Until: " in text[1].read()
    # A sender that is nobody is told nothing, and nothing says so.
    job = bench.job(received=bench.clock.seconds() - DAY, sender="")
    bench.record(*results(job.recipients, LATER), job=job, retry=TELLS)
    assert (bench.report(), bench.outcome.warned) == (None, False)


def test_one_report_for_all_that_became_of_one_attempt() -> None:
    bench = Bench()
    people = [
        EnvelopeRecipient(number, Address(f"u{number}", "d.test"), "out", notify=("SUCCESS", "FAILURE", "DELAY"))
        for number in range(3)
    ]
    job = bench.job(*people, received=bench.clock.seconds() - DAY)
    answers = [results([one], reply)[0] for one, reply in zip(people, (OK, NO, LATER), strict=True)]
    bench.record(*answers, job=job, retry=TELLS)
    text = bench.report()
    assert text is not None
    actions = [line[8:] for line in text.split("\r\n") if line.startswith("Action: ")]
    assert actions == ["delivered", "failed", "delayed"]
    (bounced,) = bench.events.of(Bounced)
    assert [(one.kind, one.recipients) for one in bench.events.of(Reported)] == [
        ("delayed", ("u2@d.test",)),
        ("delivered", ("u0@d.test",)),
    ]
    assert {one.report for one in bench.events.of(Reported)} == {bounced.report}


# -- a time by which it is to be delivered


def test_what_was_to_come_back_by_now_does() -> None:
    bench = Bench()
    asked = MailParameters(deliver_by=bench.clock.seconds() + 100.0, by_mode="R")
    bench.end(LATER, parameters=asked)
    assert bench.outcome.next_attempt == bench.clock.seconds() + 70.0
    bench.clock.advance(100.0)
    bench.end(LATER, parameters=asked)
    assert bench.outcome.kind is OutcomeKind.FAILED
    assert (bench.outcome.reply.code, bench.outcome.reply.status) == (554, "5.4.7")
    text = bench.report()
    assert text is not None
    assert "\r\nStatus: 5.4.7\r\n" in text
    assert "Deliver-By-Date: Thu, 01 Jan 1970 00:18:20 +0000" in text
    assert "the last answer: mx said: 451 4.3.0 later" in " ".join(text.split())


def test_the_last_answer_of_an_application_is_told_in_its_own_words() -> None:
    bench = Bench()
    asked = MailParameters(deliver_by=bench.clock.seconds() + 1.0, by_mode="R")
    bench.clock.advance(1.0)
    job = bench.job(parameters=asked)
    answer = Reply.of(451, "4.3.0", "HTTP 500 Internal Server Error")
    bench.record(*results(job.recipients, answer, answered_in="http"), job=job)
    text = " ".join((bench.report() or "").split())
    assert "the last answer: mx said: HTTP 500 Internal Server Error" in text
    assert "Diagnostic-Code: x-mailgate; 554 5.4.7 " in text
    assert "451" not in text


def test_what_was_to_be_told_of_by_now_is_and_goes_on() -> None:
    bench = Bench()
    asked = MailParameters(deliver_by=bench.clock.seconds() + 1.0, by_mode="N")
    bench.end(LATER, parameters=asked)
    assert bench.outcome.next_attempt == bench.clock.seconds() + 1.0
    assert bench.report() is None
    bench.clock.advance(1.0)
    bench.end(LATER, parameters=asked)
    assert (bench.outcome.kind, bench.outcome.warned) == (OutcomeKind.DEFERRED, True)
    assert bench.outcome.next_attempt > bench.clock.seconds() + 200
    text = bench.report()
    assert text is not None
    assert "\r\nAction: delayed\r\nStatus: 4.4.7\r\n" in text
    bench.end(LATER, parameters=asked, warned=frozenset({0}))
    assert bench.report() is None


@pytest.mark.parametrize(
    ("notify", "told"),
    [((), True), (("DELAY",), True), (("SUCCESS", "FAILURE"), False), (("FAILURE",), False), (("NEVER",), False)],
)
def test_a_deadline_is_told_of_to_those_who_want_to_hear_of_delays(notify: tuple[str, ...], told: bool) -> None:
    bench = Bench()
    job = bench.job(to_bob(*notify), parameters=MailParameters(deliver_by=bench.clock.seconds(), by_mode="N"))
    bench.record(*results(job.recipients, LATER), job=job)
    assert (bench.report() is not None, bench.outcome.warned) == (told, told)


# -- a spool that cannot write


def test_outcomes_are_kept_until_the_spool_takes_them() -> None:
    bench = Bench()
    bench.spool.refuses = {"*"}
    first, second = bench.end(OK), bench.end(NO, queue_id="1Q")
    assert bench.writer.is_stuck
    assert bench.told == ["stuck"]
    assert bench.writer.holds("0Q")
    assert bench.writer.holds("1Q")
    assert not bench.writer.holds("2Q")
    for _ in range(20):
        bench.clock.advance(1.0)
    assert (bench.written, bench.events.events, bench.told) == ([], [], ["stuck"])
    assert bench.spool.tries == 2 + 2 * 20
    bench.spool.refuses = set()
    bench.clock.advance(1.0)
    assert [job for job, _ in bench.written] == [first, second]
    assert bench.told == ["stuck", "unstuck"]
    assert not bench.writer.is_stuck
    assert not bench.writer.holds("0Q")
    # Told and written once.
    assert [len(bench.events.of(kind)) for kind in (Delivered, Bounced)] == [1, 1]
    assert len(bench.spool.written) == 2
    bench.clock.advance(10.0)
    assert bench.clock.getDelayedCalls() == []


def test_a_report_that_waits_is_still_one_report() -> None:
    bench = Bench()
    bench.spool.refuses = {"*"}
    bench.end(NO)
    bench.clock.advance(1.0)
    bench.spool.refuses = set()
    bench.clock.advance(1.0)
    (written,) = bench.spool.written
    (event,) = bench.events.of(Bounced)
    assert written[2] is not None
    assert written[2][0].queue_id == event.report


def test_outcomes_that_alone_cannot_be_written_hold_up_nobody() -> None:
    """A damaged row is one message's misfortune."""
    bench = Bench()
    bench.spool.refuses = {"bad"}
    bench.end(OK, queue_id="bad")
    assert bench.told == ["stuck"]
    bench.end(OK, queue_id="good")  # it was under way
    assert bench.told == ["stuck", "unstuck"]
    for _ in range(5):
        bench.clock.advance(60.0)
    assert bench.told == ["stuck", "unstuck"]
    assert bench.writer.holds("bad")
    assert [job.lease.envelope.queue_id for job, _ in bench.written] == ["good"]
    bench.spool.refuses = set()
    bench.clock.advance(60.0)
    assert [job.lease.envelope.queue_id for job, _ in bench.written] == ["good", "bad"]


def test_anything_that_is_written_shows_that_the_spool_writes() -> None:
    bench = Bench()
    bench.spool.refuses = {"*"}
    bench.end(OK)
    bench.writer.spool_writes()
    bench.writer.spool_writes()
    assert bench.told == ["stuck", "unstuck"]
    bench.clock.advance(1.0)
    assert not bench.writer.is_stuck  # that was no news
    bench.end(OK, queue_id="1Q")
    assert bench.told == ["stuck", "unstuck", "stuck"]


def test_idle_is_when_nothing_is_on_its_way() -> None:
    bench = Bench()
    done: list[None] = []
    bench.writer.when_idle().addCallback(done.append)
    assert done == [None]
    bench.spool.held = []
    bench.end(OK)
    bench.end(OK, queue_id="1Q")
    bench.writer.when_idle().addCallback(done.append)
    first, second = bench.spool.held
    first.callback(None)
    assert done == [None]
    second.errback(SpoolError("no disk"))
    # What cannot be written is not waited for: it stays leased.
    assert done == [None, None]


# -- where it went, and what kind of failure it was


@pytest.mark.parametrize("reply", [OK, LATER, NO])
def test_site_and_source_are_written_and_told(reply: Reply) -> None:
    bench = Bench()
    job = bench.job()
    job.site, job.source = "mx.d.test", "first"
    bench.record(*results(job.recipients, reply), job=job)
    assert (bench.outcome.site, bench.outcome.source) == ("mx.d.test", "first")
    event: Any = bench.events.events[-1]
    assert (event.site, event.source) == ("mx.d.test", "first")


def test_failures_have_a_category_that_is_counted() -> None:
    bench = Bench()
    bench.end(Reply.of(550, "5.1.1", "user unknown"))
    bench.end(Reply.of(452, "4.2.2", "over quota"), queue_id="1Q")
    bench.end(Reply.of(452, "4.2.2", "over quota"), queue_id="2Q")
    bench.end(OK, queue_id="3Q")
    assert [one.category for written in bench.spool.written for one in written[1]] == [
        "no-such-user",
        "mailbox-full",
        "mailbox-full",
        "",
    ]
    assert [event.category for event in bench.events.of(Bounced)] == ["no-such-user"]
    assert [event.category for event in bench.events.of(DeferredEvent)] == ["mailbox-full"] * 2
    assert not bench.spool.counted
    bench.clock.advance(10.0)
    assert bench.spool.counted == {"1970-01-01/bounced/no-such-user": 1, "1970-01-01/deferred/mailbox-full": 2}


def test_what_waits_to_be_counted_is_at_rest() -> None:
    bench = Bench()
    bench.end(NO)
    done: list[None] = []
    bench.writer.when_idle().addCallback(done.append)
    assert done == [None]
    assert bench.spool.counted == {"1970-01-01/bounced/no-such-user": 1}
    assert bench.clock.getDelayedCalls() == []


def test_our_own_findings_are_told_from_answers() -> None:
    bench = Bench()
    finding = Reply.of(451, "4.3.0", "mailbox full")
    job = bench.job()
    bench.record(*(replace(one, host="") for one in results(job.recipients, finding)), job=job)
    assert bench.outcome.category == "local"


def test_who_was_given_up_at_last_has_the_category_of_the_last_answer() -> None:
    bench = Bench()
    bench.end(Reply.of(452, "4.2.2", "over quota"), received=1000.0 - 6 * DAY)
    assert (bench.outcome.kind, bench.outcome.category) == (OutcomeKind.FAILED, "mailbox-full")
    asked = MailParameters(deliver_by=999.0, by_mode="R")
    bench.end(Reply.of(452, "4.2.2", "over quota"), parameters=asked)
    assert (bench.outcome.kind, bench.outcome.category) == (OutcomeKind.FAILED, "expired")


def test_what_refusals_mean_can_change() -> None:
    bench = Bench()
    rules = ReplyRules.model_validate({"rules": [{"category": "policy", "replies": ["5.1.1"]}]})
    bench.writer.use(Bounces(Classifier(rules)))
    bench.end(NO)
    assert bench.outcome.category == "policy"


# -- double bounces


def report_job(bench: Bench, **more: Any) -> Job:
    """A report of ours, on its way to Ann."""
    job = bench.job("ann@client.test", sender="", client="", **more)
    content = Content(b"Subject: Your message could not be delivered\r\nMessage-ID: <1@gw>\r\n\r\nSorry.\r\n")
    job.lease = replace(job.lease, content=content)
    return job


@pytest.mark.parametrize("reply", [NO, LATER])
def test_a_report_that_fails_is_dropped_with_an_event(reply: Reply) -> None:
    bench = Bench()
    job = report_job(bench, received=1000.0 - 6 * DAY)
    bench.record(*results(job.recipients, reply), job=job)
    assert bench.report() is None
    (event,) = bench.events.of(Bounced)
    assert event.reason.startswith("double bounce, dropped: ")
    assert str(reply) in event.reason
    assert event.report == ""
    assert bench.outcome.reason == event.reason


def test_a_report_that_is_late_is_no_double_bounce() -> None:
    bench = Bench(Bounces(double_to="postmaster@gw.test"))
    job = report_job(bench)
    bench.record(*results(job.recipients, LATER), job=job, retry=TELLS)
    assert bench.outcome.kind is OutcomeKind.DEFERRED
    assert bench.report() is None
    assert "double" not in bench.outcome.reason


def test_a_report_that_fails_goes_to_whom_the_configuration_names() -> None:
    bench = Bench(Bounces(double_to="postmaster@gw.test"))
    job = report_job(bench)
    bench.record(*results(job.recipients, NO), job=job)
    report = bench.spool.written[-1][2]
    assert report is not None
    made, content = report
    assert not made.sender
    assert not made.client
    assert [(str(one.address), one.route, one.notify) for one in made.recipients] == [
        ("postmaster@gw.test", "to postmaster@gw.test", ("NEVER",))
    ]
    (event,) = bench.events.of(Bounced)
    assert (event.report, event.report_to) == (made.queue_id, "postmaster@gw.test")
    assert "dropped" not in event.reason
    message: Any = message_from_bytes(content.read(), policy=SMTP)
    assert message["To"] == "postmaster@gw.test"
    assert message["Subject"] == "A report could not be delivered"
    assert message["Auto-Submitted"] == "auto-replied"
    text, status, inner = message.get_payload()
    assert "ann@client.test" in text.get_content()
    assert "Your" not in text.get_content()
    assert "Final-Recipient: rfc822; ann@client.test" in status.as_string()
    assert inner.get_content_type() == "message/rfc822"
    assert inner.get_payload(0)["Subject"] == "Your message could not be delivered"


def test_a_double_bounce_that_bounces_ends_there() -> None:
    bench = Bench(Bounces(double_to="Postmaster@gw.test"))
    job = report_job(bench)
    bench.record(*results(job.recipients, NO), job=job)
    report = bench.spool.written[-1][2]
    assert report is not None
    made, content = report
    again = Job(Lease(made, made.recipients, content, 9e9, {}), made.recipients, "out", started=1000.0)
    bench.record(*results(again.recipients, NO), job=again)
    assert bench.report() is None
    assert bench.events.of(Bounced)[-1].reason.startswith("double bounce, dropped")
    assert len(bench.spool.written) == 2


def test_null_senders_of_others_are_no_reports_of_ours() -> None:
    bench = Bench(Bounces(double_to="postmaster@gw.test"))
    job = bench.job("ann@client.test", sender="")
    bench.record(*results(job.recipients, NO), job=job)
    assert bench.report() is None
    assert "double" not in bench.events.of(Bounced)[0].reason


def test_a_double_bounce_whose_report_cannot_be_made_comes_again() -> None:
    bench = Bench(Bounces(double_to="no address"))
    job = report_job(bench)
    with failures_logged() as logged:
        bench.record(*results(job.recipients, NO), job=job)
    assert len(logged) == 1
    assert bench.outcome.kind is OutcomeKind.DEFERRED


def test_a_report_that_was_to_go_by_tls_only_is_told_of_without_its_text() -> None:
    bench = Bench(Bounces(double_to="postmaster@gw.test"))
    job = report_job(bench, parameters=MailParameters(require_tls=True))
    bench.record(*results(job.recipients, NO), job=job)
    report = bench.spool.written[-1][2]
    assert report is not None
    assert report[0].parameters.require_tls
    assert b"Sorry" not in report[1].read()
    assert b"Header of the report" in report[1].read()
