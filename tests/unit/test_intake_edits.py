"""What filters have changed is made so before a message is accepted, or it is not accepted."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import EIGHT_BIT_MAIL, PLAIN_MAIL, MailParameters, Recipient, Target, Transaction
from mailgate.events import Discarded, FilterFailed, MessageAccepted, Quarantined, Refused
from mailgate.interfaces import IMessageModifier, SpoolError
from mailgate.message import (
    AddHeader,
    AddRecipient,
    ChangeSender,
    Content,
    ContentWriter,
    Edit,
    MemoryBudget,
    Message,
    RemoveRecipient,
    ReplaceBody,
    Splice,
)
from mailgate.pipeline.member import Member
from mailgate.pipeline.runner import Pipeline
from mailgate.relay.editing import ContentEditor
from mailgate.reply import Reply
from mailgate.testing import EventRecorder, session, transaction, wait_for
from mailgate.verdict import Continue, Defer, Discard, Quarantine, Reject, Verdict
from tests.unit.relaying import failures_logged
from tests.unit.test_filter_dkim import Threads
from tests.unit.test_intake import DATA, NO, Bench

AT = DATA.index(b"hello")
TOP = Splice(AT, AT, b"top\r\n")
ANN, BOB, EVE = Address("u0", "d.test"), Address("u1", "d.test"), Address("eve", "d.test")


class EditBench(Bench):
    def __init__(self, directory: Path = Path()) -> None:
        super().__init__(directory)
        self.parameters: MailParameters = PLAIN_MAIL
        self.edits: list[Edit] = []

    def transaction(self, recipients: int) -> Transaction:
        found = super().transaction(recipients)
        found.edits, found.parameters = list(self.edits), self.parameters
        return found

    def change(self, *edits: Edit, verdicts: Sequence[Verdict] = (Continue(),), protocol: str = "ESMTP") -> list[Reply]:
        self.edits = list(edits)
        return self.take(*verdicts, protocol=protocol)

    @property
    def taken(self) -> list[tuple[str, str]]:
        return [(str(one.address), one.route) for one in self.delivered[-1].envelope.recipients]


def test_the_content_is_the_new_one() -> None:
    bench = EditBench()
    (reply,) = bench.change(AddHeader("X", "y"), TOP)
    (lease,) = bench.delivered
    new = DATA.replace(b"hello", b"top\r\nhello")
    assert (reply.code, lease.content.read(), lease.envelope.size) == (250, new, len(new))
    assert lease.envelope.edits == (AddHeader("X", "y"),)
    (event,) = bench.events.of(MessageAccepted)
    assert (event.size, event.message_id) == (len(new), "<1@client.test>")


def test_what_lies_in_files_goes_to_a_new_one(tmp_path: Path) -> None:
    old, body = tmp_path / "old", tmp_path / "body"
    old.write_bytes(DATA)
    body.write_bytes(b"new\r\n")
    bench = EditBench(tmp_path)
    bench.edits = [ReplaceBody(Content.in_file(body))]
    bench.take(Continue(), content=Content.in_file(old))
    assert bench.delivered[0].content.read() == DATA.replace(b"hello", b"new")
    assert list(tmp_path.iterdir()) == []


def test_shares_of_the_budget_are_given_back(tmp_path: Path) -> None:
    budget = MemoryBudget(1 << 20)
    bench = EditBench(tmp_path)
    bench.intake._editor = ContentEditor(tmp_path, bench.clock, budget)
    contents = []
    for data in (DATA, b"new\r\n"):
        writer = ContentWriter(tmp_path, 1 << 20, budget)
        writer.write(data)
        contents.append(writer.finish())
    bench.edits = [ReplaceBody(contents[1])]
    bench.spool.waits = []
    answer = bench.start(Continue(), content=contents[0])
    assert budget.used == len(DATA.replace(b"hello", b"new"))
    bench.spool.tell()
    assert (wait_for(answer)[0].code, budget.used) == (250, 0)


def test_octets_beyond_ascii_are_declared() -> None:
    bench = EditBench()
    bench.change(Splice(AT, AT, "ä".encode()))
    assert bench.delivered[-1].envelope.parameters is EIGHT_BIT_MAIL
    bench.parameters = MailParameters(priority=3)
    bench.change(ReplaceBody(Content("ä\r\n".encode())))
    assert bench.delivered[-1].envelope.parameters == MailParameters(priority=3, body="8BITMIME")
    bench.change(TOP)
    assert bench.delivered[-1].envelope.parameters == MailParameters(priority=3)


def test_recipients_come_and_go() -> None:
    bench = EditBench()
    bench.routes["other.test"] = "out"
    other = Address("x", "other.test")
    verdicts = (Continue(), Continue())
    bench.change(RemoveRecipient(ANN), AddRecipient(other), AddRecipient(BOB), verdicts=verdicts)
    assert bench.taken == [("u1@d.test", "in"), ("x@other.test", "out")]
    numbers = [one.number for one in bench.delivered[-1].envelope.recipients]
    assert len(set(numbers)) == 2
    (event,) = bench.events.of(Discarded)
    assert (event.recipients, event.reason) == (("u0@d.test",), "a filter has removed the recipient")
    bench.change(RemoveRecipient(ANN), AddRecipient(ANN), AddRecipient(EVE), RemoveRecipient(EVE), verdicts=verdicts)
    assert bench.taken == [("u0@d.test", "in"), ("u1@d.test", "in")]


def test_nobody_is_left() -> None:
    bench = EditBench()
    (reply,) = bench.change(RemoveRecipient(ANN), TOP)
    assert (reply.code, bench.delivered, len(bench.events.of(Discarded))) == (250, [], 1)


def test_verdicts_go_before_changes() -> None:
    bench = EditBench()
    verdicts = (Reject(NO, "x"), Quarantine("a virus"), Discard("spam"))
    gone = [RemoveRecipient(Address(f"u{number}", "d.test")) for number in range(3)]
    bench.change(*gone, AddRecipient(EVE), verdicts=verdicts)
    refused, added = bench.delivered[0].envelope.recipients
    assert (refused.refusal, added.address, added.quarantine) == (str(NO), EVE, "a virus")
    assert [one.recipients for one in bench.events.of(Quarantined)] == [(str(EVE),)]
    assert sorted(one.reason for one in bench.events.of(Discarded)) == ["a filter has removed the recipient", "spam"]


def test_those_that_an_address_stands_for() -> None:
    bench = EditBench()
    team = Recipient(address=Address("team", "d.test"), targets=(Target(ANN, "in"), Target(BOB, "in")))
    for edit, left in (
        (RemoveRecipient(ANN), ["u1@d.test", "u7@d.test"]),
        (RemoveRecipient(team.address), ["u7@d.test"]),
    ):
        found = transaction(recipients=[team, Recipient(address=Address("u7", "d.test"), route="in")], edits=[edit])
        wait_for(bench.intake.take(session(), found, Content(DATA), [Continue(), Continue()]))
        assert [address for address, _ in bench.taken] == left


def test_the_sender_changes() -> None:
    bench = EditBench()
    bench.change(ChangeSender(EVE), ChangeSender(NULL_PATH))
    assert bench.delivered[0].envelope.sender == NULL_PATH


@pytest.mark.parametrize("protocol", ["ESMTP", "LMTP"])
def test_a_recipient_without_a_route_defers_the_message(protocol: str, tmp_path: Path) -> None:
    bench = EditBench(tmp_path)
    body = tmp_path / "body"
    body.write_bytes(b"new\r\n")
    edits: list[Edit] = [AddRecipient(Address("x", "nowhere.test")), ReplaceBody(Content.in_file(body))]
    replies = bench.change(*edits, verdicts=(Continue(), Reject(NO, "x")), protocol=protocol)
    assert [one.code for one in replies] == [451, 550 if protocol == "LMTP" else 451]
    (event,) = bench.events.of(Refused)
    assert (event.stage, event.reply) == ("content", "451 4.3.0 Local error, try again later")
    assert "x@nowhere.test" in event.reason
    assert (bench.delivered, list(tmp_path.iterdir())) == ([], [])


class Failing(ContentEditor):
    error: Exception = OSError(errno.ENOSPC, "No space left on device")

    def edit(self, content: Content, edits: Sequence[Edit]) -> Deferred[Content]:
        return fail(self.error)


def test_a_disk_that_does_not_take_it(tmp_path: Path) -> None:
    bench = EditBench(tmp_path)
    bench.intake._editor = Failing(tmp_path, bench.clock)
    old = tmp_path / "old"
    old.write_bytes(DATA)
    bench.edits = [TOP]
    (reply,) = bench.take(Continue(), content=Content.in_file(old))
    assert (reply.code, len(bench.events.of(Refused)), bench.delivered) == (452, 1, [])
    assert not old.exists()


def test_a_bug_defers_and_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "error", RuntimeError("a bug"))
    bench = EditBench()
    bench.intake._editor = Failing(Path(), bench.clock)
    with failures_logged() as logged:
        (reply,) = bench.change(TOP)
    assert (reply.code, bench.delivered, len(logged)) == (451, [], 1)


def test_a_spool_that_does_not_take_the_new_content() -> None:
    bench = EditBench()
    bench.spool.accept = lambda *_: fail(SpoolError("full"))  # type: ignore[method-assign]
    assert bench.change(TOP)[0].code == 452


def test_files_are_read_in_a_thread(tmp_path: Path) -> None:
    clock = Threads()
    old = tmp_path / "old"
    old.write_bytes(DATA)
    editor = ContentEditor(tmp_path, clock)
    assert isinstance(editor.edit(Content(DATA), [TOP]), Content)
    answer = editor.edit(Content.in_file(old), [TOP])
    assert isinstance(answer, Deferred)
    assert not answer.called
    clock.pool.work()
    found = wait_for(answer)
    assert found.path is not None
    assert found.read() == DATA.replace(b"hello", b"top\r\nhello")
    large = editor.edit(Content(DATA), [ReplaceBody(Content(b"large\r\n" * 100_000))])
    assert isinstance(large, Deferred)
    clock.pool.work()
    assert wait_for(large).size > 700_000


# -- through the pipeline


@implementer(IMessageModifier)
class Modifier:
    def __init__(self, *edits: Edit) -> None:
        self.edits = edits

    def modify(self, session: object, transaction: object, message: object) -> Sequence[Edit]:
        return self.edits


def judged(events: EventRecorder, *members: Member) -> tuple[Transaction, Sequence[Verdict]]:
    mail = transaction()
    pipeline = Pipeline([[member] for member in members], Clock(), events)
    return mail, wait_for(pipeline.message(session(), mail, Message(Content(DATA))))


def test_edits_are_kept_and_told() -> None:
    edits = (TOP, Splice(AT, AT, b"x\r\n", "banner"), AddRecipient(EVE), ReplaceBody(Content(b"n\r\n"), 2))
    mail, (verdict,) = judged(EventRecorder(), Member("one", Modifier(*edits)))
    assert (mail.edits, type(verdict)) == (list(edits), Continue)
    (step,) = mail.trace
    assert step.verdict == "edit"
    assert step.reason == f"put 5 octets for 0 at {AT}; banner; add recipient <eve@d.test>; a new body of 3 octets"


def test_the_trace_of_many_edits_is_short() -> None:
    mail, _ = judged(EventRecorder(), Member("one", Modifier(*[TOP] * 900)))
    assert mail.trace[0].reason.endswith("; 850 more")


def test_what_does_not_fit_is_the_failure_of_the_later_filter(tmp_path: Path) -> None:
    events = EventRecorder()
    body = tmp_path / "body"
    body.write_bytes(b"new\r\n")
    first = Member("first", Modifier(Splice(AT, AT + 5, b"x")))
    second = Member("second", Modifier(AddHeader("X", "y"), ReplaceBody(Content.in_file(body))))
    mail, (verdict,) = judged(events, first, second)
    (failure,) = events.of(FilterFailed)
    assert (failure.filter, failure.stage, type(verdict)) == ("second", "modify", Defer)
    assert "follows 0 edits, where there are 1" in failure.error
    assert mail.edits == [Splice(AT, AT + 5, b"x")]
    assert not body.exists()


def test_shadow_edits_are_let_go_of(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"new\r\n")
    mail, _ = judged(EventRecorder(), Member("one", Modifier(ReplaceBody(Content.in_file(body))), mode="shadow"))
    assert (mail.edits, mail.trace[0].verdict, body.exists()) == ([], "edit", False)


def test_answers_that_are_no_edits() -> None:
    class Odd(Modifier):
        def modify(self, session: object, transaction: object, message: object) -> Sequence[Edit]:
            return [RemoveRecipient("ann@d.test")]  # type: ignore[arg-type]  # the point

    events = EventRecorder()
    judged(events, Member("odd", Odd()))
    assert "where an edit belongs" in events.of(FilterFailed)[0].error
