"""Calls carried out on a spool in memory, through real filters' verdicts: once, whatever breaks in between."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import Address
from mailgate.awaiting import at_once
from mailgate.config.injection import MOST_KEPT, InjectionSection
from mailgate.envelope import Client, Identity, Recipient, Session, Transaction
from mailgate.events import Refused
from mailgate.interfaces import IPipeline, IRouting, Lease, Placed, Selector
from mailgate.message import MemoryBudget, Message
from mailgate.quarantine.originals import Originals
from mailgate.relay.editing import ContentEditor
from mailgate.relay.intake import Intake
from mailgate.reply import Reply as SmtpReply
from mailgate.spool.operate import COUNTED_FOR
from mailgate.testing import EventRecorder, MemorySpool
from mailgate.verdict import Continue, Defer, Discard, Quarantine, Reject, Verdict
from mailgate.web.answering import Reply
from mailgate.web.injection.calls import Calls
from mailgate.web.injection.following import Following
from mailgate.web.injection.problems import CallError, Fault
from mailgate.web.injection.reading import Asked, Call, read_whole
from mailgate.web.injection.register import Entry, Register
from mailgate.web.injection.taking import Caller, Taker
from tests.unit.http_stand import result

NOW = 1_800_000_000.0
CALLER = Caller("app", Client(None))
SHOP = {"from": "shop@example.org", "subject": "x", "text": "y"}
POLICY = SmtpReply.of(550, "5.7.1", "Not you")
LATER = SmtpReply.of(450, "4.7.1", "Enough for now")


@implementer(IPipeline)
class Judging:
    """Says Continue, or what the test has put in for a stage; `asked` has the senders' stages."""

    stages = frozenset({"auth", "mail", "rcpt", "data", "message"})

    def __init__(self) -> None:
        self.says: dict[str, Callable[[Any], Verdict]] = {}
        self.asked: list[str] = []
        self.sessions: list[Session] = []

    def _say(self, stage: str, transaction: Any) -> Verdict:
        self.asked.append(stage)
        return self.says[stage](transaction) if stage in self.says else Continue()

    def connect(self, session: Session) -> Verdict:
        raise AssertionError("there is no connection")

    def helo(self, session: Session) -> Verdict:
        raise AssertionError("nobody greets")

    def auth(self, session: Session, identity: Identity) -> Verdict:
        self.sessions.append(session)
        return self._say("auth", None)

    def mail(self, session: Session, transaction: Transaction) -> Verdict:
        return self._say("mail", transaction)

    def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict:
        return self._say("rcpt", recipient)

    def data(self, session: Session, transaction: Transaction) -> Verdict:
        return self._say("data", transaction)

    def message(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Verdict]:
        return [self._say("message", transaction) for _ in transaction.recipients]


@implementer(IRouting)
class Everywhere:
    def route(self, session: Session, transaction: Transaction, address: Address) -> Placed:
        return "box"


class Stand:
    """Calls of one gateway; `restart` is what a crash leaves: the spool, and the register's file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.clock.advance(NOW)
        self.spool = MemorySpool(self.clock)
        self.events = EventRecorder()
        self.pipeline = Judging()
        self.delivered: list[Lease] = []
        self.refusal = ""
        self.in_thread: Any = at_once
        self.section = InjectionSection(pipeline="out", max_calls=5)
        self.restart()

    def restart(self) -> None:
        intake = Intake(
            self.spool,
            refusal=lambda size: self.refusal,
            deliver=self.delivered.append,
            events=self.events,
            clock=self.clock,
            editor=ContentEditor(self.folder, self.clock, MemoryBudget(10**6)),
            next_hop=lambda recipient, sender: "box",
            originals=Originals(self.folder),
        )
        taker = Taker(
            self.section,
            hostname="gw.example.org",
            pipeline=self.pipeline,
            routing=Everywhere(),
            intake=intake,
            events=self.events,
            clock=self.clock,
            incoming=self.folder,
            memory_limit=100_000,
            budget=MemoryBudget(10**7),
        )
        self.register = Register(self.folder / "injections.db")
        self.calls = Calls(self.register, self.spool, lambda: taker, self.clock, lambda call: self.in_thread(call))

    def begin(self, key: str = "", caller: Caller = CALLER, **order: Any) -> Deferred[Reply]:
        content = json.dumps({**SHOP, **order}).encode()
        fields = {"idempotency-key": [key]} if key else {}
        read = lambda: Asked(content, "application/json", {}, fields)  # noqa: E731
        return Deferred.fromCoroutine(self.calls.call(caller, len(content), read))

    def call(self, key: str = "", caller: Caller = CALLER, **order: Any) -> tuple[int, Any]:
        reply = result(self.begin(key, caller, **order))
        return reply.status, json.loads(reply.body)

    @property
    def kept(self) -> list[str]:
        """The recipients of all that the spool has, each as often as it is there."""
        return sorted(one.recipient for one in result(self.spool.view(Selector(), 200_000)))

    def marks(self) -> int:
        return len(result(self.spool.counts("")))


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def people(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"to": f"a{one:05}@example.net"} for one in range(start, count)]


def names(count: int) -> list[str]:
    return [one["to"] for one in people(count)]


def test_what_is_answered_is_durable_and_has_been_judged_at_every_stage(stand: Stand) -> None:
    status, told = stand.call(to=["ann@example.net"], stream="news", tags=["a"])
    assert (status, told["taken"], told["refused"]) == (202, 1, [])
    assert stand.kept == ["ann@example.net"]
    assert stand.pipeline.asked == ["auth", "mail", "rcpt", "data", "message"]
    (session,) = stand.pipeline.sessions
    assert (session.role, session.listener, session.identity) == ("outbound", "api", Identity("app", "token"))
    assert [lease.envelope.queue_id for lease in stand.delivered] == told["ids"]
    assert stand.delivered[0].envelope.stream == "news"
    assert stand.marks() == 0  # without a key nothing is noted


@pytest.mark.parametrize(
    ("stage", "reply", "status", "path"),
    [
        ("auth", POLICY, 403, ""),
        ("mail", POLICY, 403, "from"),
        ("mail", LATER, 429, "from"),
        ("mail", SmtpReply.of(451, "4.3.0", "x"), 503, "from"),
        ("rcpt", SmtpReply.of(550, "5.1.1", "x"), 422, "to.0"),
        ("data", POLICY, 403, ""),
        ("message", POLICY, 403, ""),
        ("message", LATER, 429, ""),
        ("message", SmtpReply.of(554, "5.6.0", "x"), 422, ""),
        ("message", SmtpReply.of(552, "5.3.4", "x"), 413, ""),
    ],
)
def test_a_verdict_is_an_answer(stand: Stand, stage: str, reply: SmtpReply, status: int, path: str) -> None:
    verdict = Reject(reply, "private") if reply.is_permanent else Defer(reply, "private")
    stand.pipeline.says[stage] = lambda _: verdict
    found, told = stand.call("k", to=["ann@example.net"])
    assert (found, told["errors"]) == (status, [{"path": path, "error": str(reply)}])
    assert "private" not in json.dumps(told)
    assert [event.reason for event in stand.events.of(Refused)] == ["private"]
    assert stand.kept == []
    stand.pipeline.says.clear()
    assert stand.call("k", to=["ann@example.net"])[0] == 202  # a key of which nothing was taken is free


def test_what_is_discarded_or_kept_back_is_taken(stand: Stand) -> None:
    stand.pipeline.says["message"] = lambda _: Discard("private")
    assert stand.call(to=["ann@example.net"])[0] == 202
    assert stand.kept == []
    stand.pipeline.says["message"] = lambda _: Quarantine("private")
    status, told = stand.call(to=["ann@example.net"])
    assert status == 202
    following = Following(stand.spool, stand.folder / "history", at_once)
    found = result(following.follow(told["ids"][0], "app", "api"))
    assert [(one.address, one.state) for one in found.recipients] == [("ann@example.net", "quarantined")]
    assert result(following.follow(told["ids"][0], "other", "api")) is None
    assert result(following.follow("ABC", "app", "api")) is None


def test_one_of_many_who_is_refused_is_told_and_the_others_get_theirs(stand: Stand) -> None:
    stand.pipeline.says["rcpt"] = lambda one: Reject(POLICY, "x") if "00003" in str(one.address) else Continue()
    status, told = stand.call("k", recipients=people(100))
    assert (status, told["taken"], told["ids"][3]) == (202, 99, None)
    assert told["refused"] == [{"number": 3, "path": "recipients.3.to", "status": 403, "error": str(POLICY)}]
    assert len(stand.kept) == 99
    assert stand.call("k", recipients=people(100)) == (status, told)


def test_what_is_said_about_the_sender_is_said_once(stand: Stand) -> None:
    stand.pipeline.says["mail"] = lambda _: Reject(POLICY, "x")
    assert stand.call("k", recipients=people(500))[0] == 403
    assert stand.pipeline.asked == ["auth", "mail"]


def test_a_limit_in_the_middle_and_the_rest_with_the_same_key(stand: Stand) -> None:
    stand.pipeline.says["mail"] = lambda _: Defer(LATER, "x") if len(stand.kept) >= 40 else Continue()
    status, told = stand.call("k", recipients=people(100))
    assert (status, told["taken"], told["idempotency_key"]) == (429, len(stand.kept), "k")
    assert 40 <= len(stand.kept) < 100
    known = result(stand.calls.known("app", "k"))
    assert (known.status, json.loads(known.body)["taken"]) == (409, len(stand.kept))
    stand.pipeline.says.clear()
    status, told = stand.call("k", recipients=people(100))
    assert (status, told["taken"], None in told["ids"]) == (202, 100, False)
    assert stand.kept == names(100)
    assert stand.marks() == 100
    stand.clock.pump([1, 1])
    assert stand.marks() == 0  # the register knows
    known = result(stand.calls.known("app", "k"))
    assert (known.status, json.loads(known.body)) == (200, told)
    assert result(stand.calls.known("other", "k")) is None


def test_a_full_disk_takes_nothing_or_says_how_much(stand: Stand) -> None:
    stand.refusal = "full"
    status, told = stand.call("k", recipients=people(10))
    assert (status, told["taken"], stand.kept) == (503, 0, [])
    stand.refusal = ""

    def fills(_: object) -> Verdict:
        stand.refusal = "full" if len(stand.kept) > 4 else ""
        return Continue()

    stand.pipeline.says["data"] = fills
    status, told = stand.call("k", recipients=people(100))
    assert (status, told["taken"]) == (503, len(stand.kept))
    assert 0 < len(stand.kept) < 100
    stand.pipeline.says.clear()
    stand.refusal = ""
    assert stand.call("k", recipients=people(100))[0] == 202
    assert stand.kept == names(100)


def test_without_a_key_those_are_named_who_have_theirs(stand: Stand) -> None:
    stand.pipeline.says["mail"] = lambda _: Defer(LATER, "x") if stand.kept else Continue()
    status, told = stand.call(recipients=people(10))
    assert (status, told["taken"], len(told["ids"])) == (429, 1, 1)


@pytest.mark.parametrize(("error", "status"), [(503, 503), (413, 413)])
def test_where_nobody_has_the_rest_any_more_what_was_taken_is_told(stand: Stand, error: int, status: int) -> None:
    def read(asked: Asked, *given: Any) -> Call:
        call = read_whole(asked, *given)
        drafts = call.messages.drafts

        def dying(start: int, stop: int) -> Sequence[Any]:
            if start >= 40:
                raise CallError(HTTPStatus(error), (Fault("", "it is gone"),))
            return drafts(start, min(stop, 40))

        call.messages.drafts = dying  # type: ignore[method-assign]  # its process has died
        return call

    whole, stand.calls._read_large = stand.calls._read_large, read
    text = "x" * 200_000
    found, told = stand.call(recipients=people(60), text=text)
    assert (found, told["taken"], len(told["ids"])) == (status, len(stand.kept), len(stand.kept))
    assert 0 < len(stand.kept) < 60
    found, told = stand.call("k", recipients=people(60), text=text)
    assert (found, told["idempotency_key"], told["taken"] > 0) == (status, "k", True)
    stand.calls._read_large = whole
    assert stand.call("k", recipients=people(60), text=text)[0] == 202


def test_a_disk_that_fails_in_the_middle_says_how_much_was_taken(stand: Stand) -> None:
    def full(_: object) -> Verdict:
        if len(stand.kept) > 4:
            raise OSError(28, "No space left on device")
        return Continue()

    stand.pipeline.says["data"] = full
    status, told = stand.call(recipients=people(100))
    assert (status, told["taken"], len(told["ids"])) == (503, len(stand.kept), len(stand.kept))
    assert 0 < len(stand.kept) < 100
    assert "space" not in told["error"]


class CrashError(Exception):
    """Stands for kill -9."""


@pytest.mark.parametrize("step", range(5))
def test_a_crash_between_any_two_steps_and_the_same_call_again(stand: Stand, step: int) -> None:
    left = [step]

    async def dying(call: Callable[[], object]) -> object:
        if left[0] == 0:
            raise CrashError
        left[0] -= 1
        return call()

    stand.in_thread = dying
    first = stand.begin("k", recipients=people(70))
    if step == 4:
        assert result(first).status == 202  # there are no more steps than that
    else:
        with pytest.raises(CrashError):
            result(first)
    before = len(stand.kept)
    assert before == (0, 1, 33, 65, 70)[step]
    stand.in_thread = at_once
    stand.restart()
    status, told = stand.call("k", recipients=people(70))
    assert (status, told["taken"]) == (202, 70)
    assert stand.kept == names(70)
    held = {one.queue_id for one in result(stand.spool.view(Selector(), 1000))}
    assert held == set(told["ids"])
    assert len(stand.delivered) == 70


def test_a_crash_between_the_commit_and_all_that_follows(stand: Stand) -> None:
    accept = stand.spool.accept
    commits = []

    def dying(*given: Any) -> Deferred[Lease]:
        commits.append(accept(*given))
        raise CrashError  # it is durable, and nobody was told

    stand.spool.accept = dying  # type: ignore[assignment,method-assign]  # the test's own
    with pytest.raises(CrashError):
        result(stand.begin("k", to=["ann@example.net"]))
    assert len(commits) == 1
    stand.spool.accept = accept  # type: ignore[method-assign]  # as it was
    stand.restart()
    status, told = stand.call("k", to=["ann@example.net"])
    assert (status, told["taken"]) == (202, 1)
    assert stand.kept == ["ann@example.net"]


def test_the_same_key_at_the_same_time_is_one_call(stand: Stand) -> None:
    held: list[tuple[Deferred[object], Callable[[], object]]] = []

    def waiting(call: Callable[[], object]) -> Deferred[object]:
        held.append((Deferred(), call))
        return held[-1][0]

    stand.in_thread = waiting
    calls = [stand.begin("k", to=["ann@example.net"]) for _ in range(4)]
    calls.append(stand.begin("k", to=["bob@example.net"]))
    while held:
        done, call = held.pop(0)
        done.callback(call())
    answers = [result(one) for one in calls]
    assert [one.status for one in answers] == [202, 202, 202, 202, 422]
    assert len({one.body for one in answers[:4]}) == 1
    assert stand.kept == ["ann@example.net"]


def test_the_same_key_of_another_token_is_another_call(stand: Stand) -> None:
    assert stand.call("k", to=["ann@example.net"])[0] == 202
    assert stand.call("k", Caller("other", Client(None)), to=["bob@example.net"])[0] == 202
    assert stand.call("k", to=["bob@example.net"])[0] == 422
    assert stand.kept == ["ann@example.net", "bob@example.net"]


def test_keys_are_remembered_for_their_time(stand: Stand) -> None:
    first = stand.call("k", to=["ann@example.net"])
    stand.clock.advance(stand.section.keep - 1)
    assert stand.call("k", to=["ann@example.net"]) == first
    stand.clock.advance(2)
    assert stand.call("other", to=["bob@example.net"])[0] == 202
    assert stand.call("k", to=["ann@example.net"])[1]["ids"] != first[1]["ids"]


def test_no_key_is_remembered_longer_than_the_marks_of_its_messages(stand: Stand) -> None:
    """Otherwise the rest of a call that was broken off would be all of it."""
    assert stand.section.keep <= MOST_KEPT <= (COUNTED_FOR - 2) * 86400
    assert InjectionSection.model_validate({"pipeline": "out", "keep": "30d"}).keep == MOST_KEPT
    with pytest.raises(ValueError, match="must be at most 30d"):
        InjectionSection.model_validate({"pipeline": "out", "keep": "31d"})


class Slow:
    """An InThread that does what it is told to when the test lets it."""

    def __init__(self) -> None:
        self.held: list[tuple[Deferred[object], Callable[[], object]]] = []

    def __call__(self, call: Callable[[], object]) -> Deferred[object]:
        self.held.append((Deferred(), call))
        return self.held[-1][0]

    def one(self) -> None:
        done, call = self.held.pop(0)
        done.callback(call())

    def all(self) -> None:
        while self.held:
            self.one()


def test_calls_that_come_together_are_noted_together(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    together = Register.together

    def counted(register: Register, calls: Sequence[Callable[[Register], object]]) -> Sequence[object]:
        written.append(len(calls))
        return together(register, calls)

    monkeypatch.setattr(Register, "together", counted)
    slow = stand.in_thread = Slow()
    calls = [stand.begin(str(number), to=[f"a{number}@example.net"]) for number in range(5)]
    slow.all()
    assert [result(one).status for one in calls] == [202] * 5
    assert written == [1, 5]
    calls = [stand.begin(str(number), to=[f"a{number}@example.net"]) for number in range(5, 10)]
    slow.all()
    assert written == [1, 5, 5, 5]  # with what the first ones have come to
    stand.clock.advance(1)
    slow.all()
    assert written == [1, 5, 5, 5, 4]
    assert len(stand.kept) == 10


def test_what_is_done_is_known_before_it_is_noted(stand: Stand) -> None:
    first = stand.call("k", to=["ann@example.net"])
    found = result(Deferred.fromCoroutine(noted(stand)))
    assert found is not None
    assert found.answer is None
    assert stand.call("k", to=["ann@example.net"]) == first
    assert stand.call("k", to=["bob@example.net"])[0] == 422
    known = result(stand.calls.known("app", "k"))
    assert (known.status, json.loads(known.body)) == (200, first[1])
    assert stand.kept == ["ann@example.net"]


async def noted(stand: Stand) -> Entry | None:
    return stand.register.find("app", "k")


def test_what_cannot_be_noted_afterwards_is_told_by_the_marks(stand: Stand) -> None:
    def broken(*given: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    stand.register.finish = broken  # type: ignore[assignment,method-assign]  # the disk's doing
    first = stand.call("k", recipients=people(50))
    stand.clock.pump([1, 1])
    assert (first[0], stand.marks()) == (202, 50)
    assert stand.call("k", recipients=people(50)) == first
    stand.restart()
    assert stand.call("k", recipients=people(50)) == first
    assert stand.kept == names(50)


def test_the_stop_notes_what_is_done(stand: Stand) -> None:
    first = stand.call("k", to=["ann@example.net"])
    result(stand.calls.close())
    assert stand.marks() == 0
    assert not stand.clock.getDelayedCalls()
    stand.restart()
    assert stand.call("k", to=["ann@example.net"]) == first


def test_the_stop_waits_until_all_marks_of_many_are_gone(stand: Stand) -> None:
    assert stand.call("k", recipients=people(1001))[0] == 202
    slow = stand.in_thread = Slow()
    closing = Deferred.fromCoroutine(stand.calls.close())
    while slow.held:
        assert not closing.called
        slow.one()
    assert closing.called
    assert stand.marks() == 0
    assert not stand.clock.getDelayedCalls()


def test_a_call_ends_behind_all_that_it_has_begun(stand: Stand) -> None:
    """An error of one message is told when the others are durable or not: the call may be made again at once."""
    accept = stand.spool.accept
    held: list[Callable[[], object]] = []

    def late(*given: Any) -> Deferred[Lease]:
        if len(held) == 10:
            held.append(lambda: None)
            raise CrashError
        done: Deferred[Lease] = Deferred()
        held.append(lambda: accept(*given).addCallbacks(done.callback, done.errback))
        return done

    assert stand.call(to=["first@example.net"])[0] == 202
    stand.spool.accept = late  # type: ignore[assignment,method-assign]  # the test's own
    call = stand.begin("k", recipients=people(33))
    held.pop(0)()
    assert len(held) == 32
    assert not call.called
    again = stand.begin("k", recipients=people(33))
    for one in held:
        assert not call.called
        one()
    with pytest.raises(CrashError):
        result(call)
    assert result(again).status == 503
    stand.spool.accept = accept  # type: ignore[method-assign]  # as it was
    assert stand.call("k", recipients=people(33))[0] == 202
    assert stand.kept == [*names(33), "first@example.net"]


def test_large_messages_are_few_at_a_time_in_the_rest_of_a_call_too(stand: Stand) -> None:
    text = "line of the text\n" * 100_000
    stand.section = InjectionSection(pipeline="out", max_calls=5)
    stand.pipeline.says["mail"] = lambda _: Defer(LATER, "x") if len(stand.kept) >= 5 else Continue()
    assert stand.call("k", recipients=people(20), text=text)[0] == 429
    stand.pipeline.says.clear()
    before, most = len(stand.kept), 0
    waiting: list[Callable[[], object]] = []
    accept = stand.spool.accept

    def late(*given: Any) -> Deferred[Lease]:
        done: Deferred[Lease] = Deferred()
        waiting.append(lambda: accept(*given).addCallbacks(done.callback, done.errback))
        return done

    stand.spool.accept = late  # type: ignore[assignment,method-assign]  # the test's own
    call = stand.begin("k", recipients=people(20), text=text)
    while waiting:
        most = max(most, len(waiting))
        waiting.pop(0)()
    assert result(call).status == 202
    assert before < 20
    assert most <= 3
    assert stand.kept == names(20)


def test_a_message_with_large_files_waits_for_no_call_that_is_for_many(stand: Stand) -> None:
    held: list[Callable[[], object]] = []
    accept = stand.spool.accept

    def late(*given: Any) -> Deferred[Lease]:
        if "a0" not in str(given[0].recipients[0].address):
            return accept(*given)
        done: Deferred[Lease] = Deferred()
        held.append(lambda: accept(*given).addCallbacks(done.callback, done.errback))
        return done

    stand.spool.accept = late  # type: ignore[assignment,method-assign]  # the test's own
    text = "x" * 1024 * 1024
    many = [stand.begin(str(number), recipients=people(3), text=text) for number in range(3)]
    assert len(held) == 2  # the third waits for one of them
    assert stand.call(to=["urgent@example.net"], text=text)[0] == 202
    while held:
        held.pop(0)()
    assert [result(one).status for one in many] == [202] * 3
    assert len(stand.kept) == 10


LOOPS = {"text": "{% for x in a %}" + "{{ x|upper|title }}" * 20 + "{% endfor %}"}


@pytest.mark.parametrize(
    ("order", "is_large"),
    [
        ({}, False),
        ({"text": "x" * 120_000}, False),
        ({"text": "x" * 140_000}, True),
        ({"text": "", "subject": "", "template": {"text": "{{ a }}"}, "substitutions": {"a": "b"}}, False),
        (
            {"text": "", "subject": "", "template": {"text": "{{ a|title }}"}, "substitutions": {"a": "b" * 50_000}},
            True,
        ),
        ({"text": "", "subject": "", "template": LOOPS, "substitutions": {"a": ["b" * 100] * 50}}, True),
        ({"text": "", "subject": "", "template": {"text": "{{ 1 }}" * 600}}, True),
    ],
)
def test_what_takes_long_to_read_is_read_elsewhere(stand: Stand, order: dict[str, Any], is_large: bool) -> None:
    elsewhere: list[Asked] = []

    def read(asked: Asked, *given: Any) -> Call:
        elsewhere.append(asked)
        return read_whole(asked, *given)

    stand.calls._read_large = read
    assert stand.call("k", to=["ann@example.net"], **order)[0] == 202
    assert len(elsewhere) == is_large
    assert stand.kept == ["ann@example.net"]


def test_whoever_reads_elsewhere_hears_when_a_call_is_over(stand: Stand) -> None:
    closed: list[int] = []

    def read(asked: Asked, *given: Any) -> Call:
        call = read_whole(asked, *given)
        call.messages.close = lambda: closed.append(call.count)  # type: ignore[method-assign]  # it counts
        return call

    stand.calls._read_large = read
    text = "x" * 200_000
    assert stand.call("1", recipients=people(3), text=text)[0] == 202
    stand.pipeline.says["mail"] = lambda _: Reject(POLICY, "x")
    assert stand.call("2", recipients=people(4), text=text)[0] == 403
    stand.pipeline.says["mail"] = lambda _: 1 / 0  # type: ignore[assignment,return-value]  # an error of ours
    with pytest.raises(ZeroDivisionError):
        stand.call("3", recipients=people(6), text=text)
    assert closed == [3, 4, 6]


def test_a_register_that_cannot_be_written_is_no_answer_but_later(stand: Stand) -> None:
    def broken(*given: object) -> Entry:
        raise sqlite3.OperationalError("disk I/O error")

    stand.register.begin = broken  # type: ignore[assignment,method-assign]  # the disk's doing
    status, told = stand.call("k", to=["ann@example.net"])
    assert (status, told["taken"], stand.kept) == (503, 0, [])
    assert "I/O" not in told["error"]


def test_more_calls_than_there_may_be(stand: Stand) -> None:
    stand.in_thread = lambda call: Deferred()
    calls = [stand.begin(str(number), to=["ann@example.net"]) for number in range(6)]
    assert result(calls[5]).status == 503
    assert not any(one.called for one in calls[:5])


def test_the_stop_waits_for_what_has_begun_and_lets_nothing_in(stand: Stand) -> None:
    held: list[tuple[Deferred[object], Callable[[], object]]] = []

    def waiting(call: Callable[[], object]) -> Deferred[object]:
        held.append((Deferred(), call))
        return held[-1][0]

    stand.in_thread = waiting
    call = stand.begin("k", recipients=people(100))
    for _ in range(3):  # it is noted, and the first portions are composed
        done, work = held.pop(0)
        done.callback(work())
    closing = Deferred.fromCoroutine(stand.calls.close())
    assert not closing.called
    while held:
        done, work = held.pop(0)
        done.callback(work())
    assert closing.called
    answer = result(call)
    told = json.loads(answer.body)
    assert (answer.status, told["taken"], told["idempotency_key"]) == (503, len(stand.kept), "k")
    assert 0 < len(stand.kept) < 100
    assert result(stand.begin(to=["ann@example.net"])).status == 503
    stand.in_thread = at_once
    stand.restart()
    assert stand.call("k", recipients=people(100))[0] == 202
    assert stand.kept == names(100)


def test_what_waits_for_its_turn_is_not_read_when_the_gateway_stops(stand: Stand) -> None:
    held: list[Callable[[], object]] = []
    reads: list[Asked] = []
    accept = stand.spool.accept

    def late(*given: Any) -> Deferred[Lease]:
        done: Deferred[Lease] = Deferred()
        held.append(lambda: accept(*given).addCallbacks(done.callback, done.errback))
        return done

    def read(asked: Asked, *given: Any) -> Call:
        reads.append(asked)
        return read_whole(asked, *given)

    stand.spool.accept = late  # type: ignore[assignment,method-assign]  # the test's own
    stand.calls._read_large = read
    calls = [stand.begin(recipients=people(3), text="x" * 200_000) for _ in range(5)]
    before = len(reads)
    closing = Deferred.fromCoroutine(stand.calls.close())
    while held:
        held.pop(0)()
    assert closing.called
    assert len(reads) == before
    answers = [result(one) for one in calls]
    assert {one.status for one in answers} == {503}
    assert "the gateway stops" in json.loads(answers[4].body)["error"]


def test_a_hundred_thousand_in_portions(stand: Stand) -> None:
    most = under_way = 0

    def accept(envelope: Any, content: Any, until: float) -> Deferred[Lease]:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        done: Deferred[Lease] = Deferred()
        waiting.append(lambda: done.callback(Lease(envelope, envelope.recipients, content, until, {})))
        return done

    waiting: list[Callable[[], None]] = []
    stand.spool.accept = accept  # type: ignore[method-assign]  # what is kept would be the test's memory
    stand.events.publish = lambda event: None  # type: ignore[method-assign]  # and so would these
    stand.delivered = []
    stand.section = InjectionSection(pipeline="out")
    stand.restart()
    call = stand.begin("k", recipients=people(100_000))
    while waiting:
        portion, waiting[:] = list(waiting), []
        for one in portion:
            under_way -= 1
            one()
        stand.delivered.clear()
        stand.pipeline.asked.clear()
    told = json.loads(result(call).body)
    assert (told["taken"], len(set(told["ids"]))) == (100_000, 100_000)
    assert most <= 32
