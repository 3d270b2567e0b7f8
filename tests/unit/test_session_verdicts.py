"""Verdicts on the message: one reply for all of it in SMTP, one for each recipient in LMTP (RFC 2033)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import Address
from mailgate.envelope import Session, Transaction
from mailgate.events import Discarded, FilterFailed, MessageAccepted, Quarantined, Refused
from mailgate.interfaces import IMessageFilter, IMessageModifier, Lease
from mailgate.message import AddHeader, Content, Edit, For, Message, ReplaceBody, body_edits
from mailgate.pipeline.runner import Member, Pipeline
from mailgate.relay.editing import ContentEditor
from mailgate.relay.intake import Intake
from mailgate.reply import Reply
from mailgate.testing import EventRecorder, MemoryOriginals, MemorySpool
from mailgate.verdict import Continue, Defer, Discard, Disconnect, Quarantine, Reject, Verdict
from tests.unit.smtp_stand import CONTENT, Call, Stand, Wire

MakeStand = Callable[..., Stand]

TAKE = Continue()
REJECT = Reject(Reply.of(550, "5.7.1", "No"), "rejected")
OTHER = Reject(Reply.of(554, "5.6.0", "No, either"), "rejected otherwise")
DEFER = Defer(Reply.of(451, "4.7.1", "Later"), "deferred")
LEAVE = Disconnect(Reply.of(421, "4.7.0", "Go away"), "thrown out")
KEEP = Quarantine("suspicious")
DROP = Discard("unwanted")

LARGE = (b"z" * 70 + b"\r\n") * 30 + b".\r\n"


def envelope(*names: str) -> bytes:
    lines = "".join(f"RCPT TO:<{name}@example.org>\r\n" for name in names)
    return f"MAIL FROM:<ann@client.example>\r\n{lines}".encode()


def send(stand: Stand, verdicts: list[Verdict], content: bytes = CONTENT) -> tuple[Wire, list[int]]:
    """A message to as many recipients as there are verdicts, in this order; the replies to its content."""
    stand.script.answers["message"] = verdicts
    wire = stand.connect().data(envelope(*(f"user{number}" for number in range(len(verdicts)))))
    return wire, wire.send(content)


@pytest.mark.parametrize(
    ("verdicts", "code", "is_taken"),
    [
        ([TAKE, TAKE], 250, True),
        ([KEEP, DROP], 250, True),
        ([REJECT, REJECT], 550, False),
        ([REJECT, OTHER], 550, False),
        ([OTHER, REJECT], 554, False),
        ([REJECT, TAKE], 250, True),
        ([DROP, REJECT], 250, True),
        ([TAKE, DEFER], 451, False),
        ([REJECT, DEFER], 451, False),
        ([KEEP, DEFER, REJECT], 451, False),
        ([LEAVE, LEAVE], 421, False),
    ],
)
def test_smtp_has_one_answer(make_stand: MakeStand, verdicts: list[Verdict], code: int, is_taken: bool) -> None:
    stand = make_stand({"refused_for_some": "report"})
    wire, codes = send(stand, verdicts, LARGE)
    assert codes == [code]
    assert bool(stand.script.taken) is is_taken
    assert wire.is_closed is (LEAVE in verdicts)
    if is_taken:
        assert stand.script.taken[0][3] == verdicts
    else:
        assert stand.files == []


@pytest.mark.parametrize(
    ("verdicts", "codes", "is_taken"),
    [
        ([TAKE], [250], True),
        ([REJECT, TAKE, DEFER], [250, 250, 250], True),  # as the intake says: see below
        ([REJECT, DEFER, OTHER], [550, 451, 554], False),
        ([LEAVE, LEAVE], [421, 421], False),
    ],
)
def test_lmtp_has_one_answer_for_each(
    make_stand: MakeStand, verdicts: list[Verdict], codes: list[int], is_taken: bool
) -> None:
    stand = make_stand({"protocol": "lmtp"})
    wire, said = send(stand, verdicts)
    assert said == codes
    assert bool(stand.script.taken) is is_taken
    assert wire.is_closed is (LEAVE in verdicts)


def test_lmtp_greets_with_lhlo_only(make_stand: MakeStand) -> None:
    stand = make_stand({"protocol": "lmtp"})
    wire = stand.connect()
    assert wire.replies()[0].text == "mx.example.org LMTP mailgate"
    assert wire.say("EHLO a", "HELO a", "MAIL FROM:<>", "LHLO client.example", "MAIL FROM:<>") == [
        500,
        500,
        503,
        250,
        250,
    ]
    assert wire.session.protocol == "LMTP"
    assert b"PIPELINING" in wire.octets
    assert b"ENHANCEDSTATUSCODES" in wire.octets


def test_lmtp_answers_for_each_rcpt_that_was_accepted(make_stand: MakeStand) -> None:
    stand = make_stand({"protocol": "lmtp"})
    stand.script.answers["message"] = [REJECT, DEFER]
    wire = stand.connect().hello()
    assert wire.send(envelope("bob", "eve")) == [250, 250, 250]
    assert wire.say("RCPT TO:<x@elsewhere.example>") == [550]
    assert wire.say(*["RCPT TO:<bob@example.org>"] * 2, "DATA") == [250, 250, 354]
    assert wire.send(CONTENT) == [550, 451, 550, 550]


@pytest.mark.parametrize("octets", [b"a\nb\r\n.\r\n", b"y" * 5000 + b"\r\n.\r\n"])
def test_lmtp_answers_for_each_where_the_content_is_refused(make_stand: MakeStand, octets: bytes) -> None:
    wire = make_stand({"protocol": "lmtp"}).connect().data(envelope("bob", "eve", "bob"))
    assert wire.send(octets + b"NOOP\r\n") == [550, 550, 550, 250]


@pytest.mark.parametrize("stage", ["message", "take"])
def test_lmtp_answers_for_each_where_we_fail(make_stand: MakeStand, stage: str) -> None:
    stand = make_stand({"protocol": "lmtp"})
    waited = stand.pend(stage)
    wire = stand.connect().data(envelope("bob", "eve"))
    assert wire.send(CONTENT) == []
    waited.errback(ZeroDivisionError("a bug"))
    assert wire.codes() == [451, 451]
    assert stand.failed() == ["a bug"]


# -- what is made known


def test_an_event_for_each_reason_about_all_whom_it_concerns(make_stand: MakeStand) -> None:
    stand = make_stand({"refused_for_some": "report"})
    send(stand, [REJECT, TAKE, REJECT, OTHER])
    told = [(event.reason, event.recipients, event.recipient, event.reply[:3]) for event in stand.events.of(Refused)]
    assert told == [
        ("rejected", ("user0@example.org", "user2@example.org"), "", "550"),
        ("rejected otherwise", ("user3@example.org",), "user3@example.org", "554"),
    ]
    assert {event.message_id for event in stand.events.of(Refused)} == {"<1@client.example>"}


def test_events_tell_what_the_client_was_told(make_stand: MakeStand) -> None:
    stand = make_stand()
    send(stand, [REJECT, DEFER, TAKE])
    told = [(event.recipient, event.reason, event.reply[:3]) for event in stand.events.of(Refused)]
    assert told == [
        ("user0@example.org", "rejected", "451"),
        ("user1@example.org", "deferred", "451"),
        ("user2@example.org", "deferred because another recipient is: SMTP has one answer for all", "451"),
    ]


@implementer(IMessageFilter)
class Says:
    def __init__(self, verdict: Verdict | Exception) -> None:
        self.verdict = verdict

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict:
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


class Whole:
    """A stand with the real pipeline and the real intake."""

    def __init__(self, make_stand: MakeStand, *members: Member, protocol: str = "smtp", **settings: object) -> None:
        self.clock, self.events = Clock(), EventRecorder()
        self.spool, self.leases = MemorySpool(self.clock), list[Lease]()
        pipeline = Pipeline([[member] for member in members], self.clock, self.events)
        intake = Intake(
            self.spool,
            refusal=lambda size: self.spool.error,
            deliver=self.leases.append,
            events=self.events,
            clock=self.clock,
            editor=ContentEditor(Path(), self.clock),
            next_hop=lambda recipient, sender: None,
            originals=MemoryOriginals(),
        )
        stand = make_stand(
            {"protocol": protocol, **settings}, pipeline=pipeline, intake=intake, events=self.events, clock=self.clock
        )
        stand.clock, stand.events = self.clock, self.events
        self.stand = stand


def about(verdict: Reject | Defer | Quarantine | Discard, *names: str) -> Verdict:
    """The verdict for these users only."""
    return replace(verdict, recipients=tuple(Address(name, "example.org") for name in names))


@pytest.mark.parametrize("option", ["quarantine", "report"])
def test_a_message_that_is_refused_for_some_is_taken_for_the_others(make_stand: MakeStand, option: str) -> None:
    members = [Member("virus", Says(about(REJECT, "bob"))), Member("spam", Says(about(KEEP, "eve")))]
    whole = Whole(make_stand, *members, refused_for_some=option)
    wire = whole.stand.connect().data(envelope("bob", "eve", "joe"))
    assert wire.send(LARGE) == [250]
    (accepted,) = whole.events.of(MessageAccepted)
    assert accepted.size == len(LARGE) - 3
    (lease,) = whole.leases
    fates = {str(one.address): (one.quarantine, one.refusal) for one in lease.envelope.recipients}
    is_reported = option == "report"
    assert fates == {
        "bob@example.org": ("", "550 5.7.1 No") if is_reported else ("refused: 550 5.7.1 No (rejected)", ""),
        "eve@example.org": ("suspicious", ""),
        "joe@example.org": ("", ""),
    }
    refused = [(one.filter, one.recipient, one.queue_id) for one in whole.events.of(Refused)]
    assert refused == [("virus", "bob@example.org", accepted.queue_id)] * is_reported
    kept = [one.recipients for one in whole.events.of(Quarantined)]
    assert kept == [("bob@example.org",)] * (not is_reported) + [("eve@example.org",)]


def test_who_is_known_gets_a_report(make_stand: MakeStand) -> None:
    stand = make_stand({"role": "hybrid", "trusted_networks": ["192.0.2.0/24"]})
    stand.trusted.answers["message"] = [REJECT, TAKE]
    stand.connect().data(envelope("a", "b")).send(CONTENT)
    assert [one[3] for one in (*stand.script.taken, *stand.trusted.taken)] == [[REJECT, TAKE]]


def test_what_cannot_be_told_to_a_stranger_is_kept(make_stand: MakeStand) -> None:
    stand = make_stand()
    send(stand, [REJECT, DROP, LEAVE.__class__(OTHER.reply, "thrown out"), KEEP])
    assert list(stand.script.taken[0][3]) == [
        Quarantine("refused: 550 5.7.1 No (rejected)"),
        DROP,
        Quarantine("refused: 554 5.6.0 No, either (thrown out)"),
        KEEP,
    ]


def test_lmtp_with_the_real_intake(make_stand: MakeStand) -> None:
    members = [
        Member("virus", Says(about(REJECT, "bob"))),
        Member("busy", Says(about(DEFER, "eve"))),
        Member("drop", Says(about(DROP, "joe"))),
    ]
    whole = Whole(make_stand, *members, protocol="lmtp")
    wire = whole.stand.connect().data(envelope("bob", "eve", "joe", "ann", "bob"))
    assert wire.send(CONTENT) == [550, 451, 250, 250, 550]
    (lease,) = whole.leases
    assert [str(one.address) for one in lease.envelope.recipients] == ["ann@example.org"]
    assert [(event.filter, event.recipient) for event in whole.events.of(Refused)] == [
        ("virus", "bob@example.org"),
        ("busy", "eve@example.org"),
    ]
    assert whole.events.of(Discarded)[0].recipients == ("joe@example.org",)


@implementer(IMessageModifier)
class Changes:
    """Puts another body, which lies in a file, in the place of the one that came."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        self.path.write_bytes(b"another\r\n")
        return [ReplaceBody(Content.in_file(self.path), len(body_edits(transaction.edits)))]


def test_what_filters_change_is_what_is_taken(make_stand: MakeStand, tmp_path: Path) -> None:
    whole = Whole(make_stand, Member("change", Changes(tmp_path / "body")))
    assert whole.stand.connect().data().send(LARGE) == [250]
    (lease,) = whole.leases
    assert lease.content.read().endswith(b"\r\n\r\nanother\r\n")
    (accepted,) = whole.events.of(MessageAccepted)
    assert accepted.size == lease.content.size
    assert not (tmp_path / "body").exists()
    assert whole.stand.files == []


def test_nothing_stays_of_changes_to_a_message_that_is_refused(make_stand: MakeStand, tmp_path: Path) -> None:
    class Breaks(Changes):
        def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
            assert self.path.exists()
            raise ZeroDivisionError("a bug")

    change, broken = Changes(tmp_path / "body"), Breaks(tmp_path / "body")
    whole = Whole(make_stand, Member("change", change), Member("broken", broken))
    assert whole.stand.connect().data().send(LARGE) == [451]
    assert whole.stand.failed() == ["a bug"]
    assert not (tmp_path / "body").exists()
    assert whole.stand.files == []


def test_nothing_stays_of_changes_for_some_either(make_stand: MakeStand, tmp_path: Path) -> None:
    class ForSome(Changes):
        def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Any]:
            edits = super().modify(session, transaction, message)
            return [For((Address("bob", "example.org"),), tuple(edits))]

    class Breaks(Changes):
        def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
            assert self.path.exists()
            raise ZeroDivisionError("a bug")

    change, broken = ForSome(tmp_path / "body"), Breaks(tmp_path / "body")
    whole = Whole(make_stand, Member("change", change), Member("broken", broken))
    assert whole.stand.connect().data(envelope("bob", "eve")).send(LARGE) == [451]
    assert len(whole.stand.failed()) == 2  # once for each message
    assert not (tmp_path / "body").exists()
    assert whole.stand.files == []


@implementer(IMessageModifier)
class Stamps:
    """Adds a field to each message, as `headers` does."""

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        return [AddHeader("X-Stamp", "ours")]


@implementer(IMessageModifier)
class Splits:
    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Any]:
        return [For((Address("bob", "example.org"),), (AddHeader("X-Bob", "his"),))]


@pytest.mark.parametrize(
    ("verdicts", "members"),
    [
        ((about(REJECT, "bob"),), [Member("split", Splits()), Member("stamp", Stamps())]),
        ((about(REJECT, "bob"), about(DROP, "eve")), [Member("stamp", Stamps())]),
    ],
)
def test_what_is_kept_instead_of_refused_has_its_edits(
    make_stand: MakeStand, verdicts: tuple[Verdict, ...], members: list[Member]
) -> None:
    judges = [Member(f"judge{number}", Says(one)) for number, one in enumerate(verdicts)]
    whole = Whole(make_stand, *judges, *members)
    assert whole.stand.connect().data(envelope("bob", "eve")).send(CONTENT) == [250]
    stored = {str(one.address): lease.envelope.edits for lease in whole.leases for one in lease.envelope.recipients}
    assert AddHeader("X-Stamp", "ours") in stored["bob@example.org"]


def test_a_spool_that_cannot_write(make_stand: MakeStand) -> None:
    whole = Whole(make_stand)
    wire = whole.stand.connect().data()
    whole.spool.error = "the disk is full"
    assert wire.send(LARGE) == [452]
    assert whole.stand.files == []
    assert wire.say("MAIL FROM:<>") == [452]
    whole.spool.error = ""
    assert wire.data_again() == [250]


@pytest.mark.parametrize(
    ("on_failure", "code"), [("defer", 451), ("continue", 250), ("reject", 550), ("quarantine", 250)]
)
def test_a_filter_that_fails(make_stand: MakeStand, on_failure: str, code: int) -> None:
    member = Member("broken", Says(ZeroDivisionError("a bug")), on_failure=on_failure)  # type: ignore[arg-type]  # one of its words
    whole = Whole(make_stand, member)
    assert whole.stand.connect().data().send(CONTENT) == [code]
    assert whole.stand.failed() == ["a bug"]
    assert whole.events.of(FilterFailed)[0].on_failure == on_failure
    refusals = [(event.filter, event.reply[:3]) for event in whole.events.of(Refused)]
    assert refusals == ([] if code == 250 else [("broken", str(code))])


def test_the_pipeline_may_look_at_the_content_for_as_long_as_it_needs(make_stand: MakeStand) -> None:
    stand = make_stand()
    waited = stand.pend("message")
    wire = stand.connect().data()
    assert wire.send(LARGE + CONTENT) == []
    assert len(stand.files) == 1
    waited.callback([DEFER])
    assert wire.codes()[0] == 451
    assert stand.files == []


def test_reply_text_of_a_filter_cannot_add_a_reply(make_stand: MakeStand) -> None:
    stand = make_stand()
    evil = Reject(Reply.of(550, "5.7.1", "No\r\n250 yes\r\x00" + "é" * 600), "no")
    stand.script.answers["mail"] = evil
    stand.script.answers["message"] = Call(lambda *_: [evil])
    wire = stand.connect().hello()
    assert wire.say("MAIL FROM:<>") == [550]
    del stand.script.answers["mail"]
    assert wire.send(envelope("bob") + b"DATA\r\n") == [250, 250, 354]
    assert wire.send(CONTENT) == [550]
