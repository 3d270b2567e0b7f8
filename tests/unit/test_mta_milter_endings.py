"""Our milter at the end of a message: what verdicts and edits become at a mail server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.address import Address
from mailgate.events import Discarded, Judged, Refused
from mailgate.message import (
    AddHeader,
    AddRecipient,
    ChangeReturnPath,
    ChangeSender,
    Content,
    ContentWriter,
    For,
    RemoveHeader,
    RemoveRecipient,
    ReplaceBody,
    Splice,
)
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Discard, Disconnect, Quarantine, Reject
from mailgate.wire.milter.codec import (
    BodyReplaced,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Quarantined,
    RecipientAdded,
    RecipientRemoved,
    ReplyGiven,
    SenderChanged,
)
from mailgate.wire.milter.words import Actions, Plain
from tests.unit.milter_stand import BOB, EVE, EVERYTHING, LATER, NO, Desk, changing, saying


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_changes_are_asked_for_in_order_and_the_trace_field_is_the_servers(desk: Desk) -> None:
    desk.judge.says["message"] = changing(
        RemoveHeader("subject"),
        AddHeader("X-One", "1"),
        AddHeader("X-Two", "2"),
        AddHeader("X-End", "a\r\n\tb", at_end=True),
        AddHeader("Received", "from here"),
        ChangeSender(Address("new", "here.example")),
        AddRecipient(EVE),
        RemoveRecipient(BOB),
    )
    desk.begin()
    assert desk.content([(b"Subject", b" a"), (b"From", b" <x@y>"), (b"SUBJECT", b" b")]) == [
        HeaderChanged(2, b"SUBJECT", b""),
        HeaderChanged(1, b"Subject", b""),
        HeaderInserted(1, b"X-One", b" 1"),
        HeaderInserted(1, b"X-Two", b" 2"),
        HeaderAdded(b"X-End", b" a\n\tb"),
        RecipientRemoved(b"<bob@here.example>"),
        RecipientAdded(b"<eve@here.example>"),
        SenderChanged(b"<new@here.example>"),
        Plain.CONTINUE,
    ]
    (event,) = desk.events.of(Judged)
    assert "a new field X-One" in event.changes
    assert "without its field Subject number 1" in event.changes


def test_without_the_leading_space_values_have_none(desk: Desk) -> None:
    desk.judge.says["message"] = changing(AddHeader("X-One", "1"))
    desk.agree(4, 0x3F, 0x3FF)
    desk.client()
    desk.helo()
    desk.envelope()
    assert HeaderInserted(1, b"X-One", b"1") in desk.content()


def test_a_body_is_sent_only_where_it_has_changed_and_in_pieces(desk: Desk) -> None:
    body = b"0123456789\r\n" * 20_000
    start = len(b"Subject: x\r\n\r\n")
    desk.judge.says["message"] = changing(Splice(start, start, b"Banner\r\n"))
    desk.begin()
    *pieces, last = desk.content([(b"Subject", b" x")], body)
    assert last is Plain.CONTINUE
    assert all(isinstance(one, BodyReplaced) and len(one.data) <= 65535 for one in pieces)
    assert b"".join(one.data for one in pieces if isinstance(one, BodyReplaced)) == b"Banner\r\n" + body
    assert desk.left_over() == []
    assert desk.budget.used == 0


def test_a_server_that_is_slow_to_take_a_body_is_waited_for_and_not_for_ever(desk: Desk) -> None:
    desk.judge.says["message"] = changing(Splice(13, 13, b"Banner\r\n"))
    desk.begin()
    desk.server.pauseProducing()
    first = desk.content([(b"Subject", b" x")], b"0123456789\r\n" * 20_000)
    assert len(first) == 1
    desk.server.resumeProducing()
    assert len(desk.answers()) == 4
    desk.envelope()
    desk.server.pauseProducing()
    desk.content([(b"Subject", b" x")], b"0123456789\r\n" * 20_000)
    desk.clock.pump([1.0] * 281)
    assert not desk.transport.is_open
    assert desk.left_over() == []
    assert desk.budget.used == 0


@pytest.mark.parametrize(
    ("edit", "right"),
    [
        (AddHeader("X-One", "1"), Actions.ADD_HEADERS),
        (RemoveHeader("Subject"), Actions.CHANGE_HEADERS),
        (Splice(13, 13, b"x\r\n"), Actions.CHANGE_BODY),
        (AddRecipient(EVE), Actions.ADD_RECIPIENTS),
        (ChangeSender(EVE), Actions.CHANGE_SENDER),
    ],
)
def test_what_was_not_agreed_on_is_never_asked_for(desk: Desk, edit: Any, right: Actions) -> None:
    desk.judge.says["message"] = changing(edit)
    desk.agree(actions=EVERYTHING & ~int(right))
    desk.client()
    desk.helo()
    desk.envelope()
    (answer,) = desk.content([(b"Subject", b" x")])
    assert isinstance(answer, ReplyGiven)
    assert answer.reply.code == 451
    assert "does not let us" in desk.events.of(Refused)[0].reason


def test_quarantine_is_the_servers_own(desk: Desk) -> None:
    desk.judge.says["message"] = changing(AddHeader("X-One", "1"), verdict=Quarantine("bad words"))
    desk.begin()
    inserted, held, last = desk.content(i="4XyZ")
    assert isinstance(inserted, HeaderInserted)
    (event,) = desk.events.of(Judged)
    assert held == Quarantined(f"mailgate {event.queue_id}: bad words".encode())
    assert last is Plain.CONTINUE
    assert (event.answer, event.reason, event.ident) == ("quarantine", "bad words", "4XyZ")


def test_discarded_is_said_to_have_been_taken(desk: Desk) -> None:
    desk.judge.says["message"] = saying(Discard("junk"))
    desk.begin("bob@here.example", "eve@here.example")
    assert desk.content() == [Plain.DISCARD]
    (event,) = desk.events.of(Discarded)
    assert (event.recipients, event.reason) == (("bob@here.example", "eve@here.example"), "junk")
    assert desk.events.of(Judged)[0].answer == "discard"


def test_who_is_to_get_nothing_is_removed(desk: Desk) -> None:
    desk.judge.says["message"] = saying([Continue(), Discard("junk")])
    desk.begin("bob@here.example", "eve@here.example")
    assert desk.content() == [RecipientRemoved(b"<eve@here.example>"), Plain.CONTINUE]
    assert desk.events.of(Discarded)[0].recipients == ("eve@here.example",)


def test_who_is_removed_is_named_as_the_mail_server_knows_him(desk: Desk) -> None:
    # It looks for what the client has written: under another name nobody is found, and gets what he must not get.
    desk.judge.says["message"] = lambda _s, transaction, _m: [
        Discard("junk") if one.address.local_part == "Eve" else Continue() for one in transaction.recipients
    ]
    desk.begin("bob@here.example", "Eve@HERE.Example", "@relay.test:Eve@Here.example", "Eve@here.example.")
    assert desk.content() == [
        RecipientRemoved(b"<Eve@here.example>"),
        RecipientRemoved(b"<Eve@HERE.Example>"),
        RecipientRemoved(b"<@relay.test:Eve@Here.example>"),
        RecipientRemoved(b"<Eve@Here.example>"),
        RecipientRemoved(b"<Eve@here.example.>"),
        Plain.CONTINUE,
    ]
    desk.envelope("Eve@here.example")
    assert desk.content() == [Plain.DISCARD]
    desk.envelope("bob@here.example", "Eve@here.example")
    assert desk.content() == [RecipientRemoved(b"<Eve@here.example>"), Plain.CONTINUE]


def test_all_who_are_left_get_a_message_of_which_one_has_many_names(desk: Desk) -> None:
    desk.judge.says["message"] = changing(RemoveRecipient(BOB))
    desk.begin("bob@here.example", "bob@HERE.example", "eve@here.example")
    assert desk.content()[-1] is Plain.CONTINUE


def by_hand(desk: Desk, *recipients: str) -> None:
    """A mail of Postfix's sendmail command, as cleanup tells of it."""
    desk.agree()
    desk.client("127.0.0.1", "localhost", 0)
    desk.helo()
    desk.envelope(*recipients)


def test_mail_by_hand_that_is_not_for_all_is_ours_altogether(tmp_path: Path) -> None:
    # Postfix tells of rewritten recipients, and finds them by what was written: nobody could be removed.
    desk = Desk(tmp_path, route="back")
    desk.judge.says["message"] = saying([Continue(), Quarantine("why"), Discard("junk")])
    by_hand(desk, "bob@here.example", "eve@here.example", "joe@here.example")
    assert desk.content() == [Plain.DISCARD]
    ((transaction, _, verdicts),) = desk.intake.taken
    assert [one.address for one in transaction.recipients] == [BOB, EVE]
    assert [type(one) for one in verdicts] == [Continue, Quarantine]
    by_hand(desk, "bob@here.example")
    desk.judge.says["message"] = saying([Continue()])
    assert desk.content() == [Plain.CONTINUE]


@pytest.mark.parametrize("verdict", [Reject(NO, "why"), Disconnect(NO, "why")])
def test_mail_by_hand_hears_of_a_refused_recipient_at_its_end(desk: Desk, verdict: Any) -> None:
    # Postfix would keep it, and try again for ever.
    desk.judge.says["rcpt"] = lambda _s, _t, one: verdict if one.address == EVE else Continue()
    by_hand(desk, "eve@here.example", "Eve@here.example", "eve@HERE.example")
    assert desk.content()[-1] is Plain.CONTINUE
    assert desk.judge.transaction is not None
    held = desk.events.of(Judged)[0]
    assert (held.answer, held.recipients) == ("quarantine", ("Eve@here.example", "eve@here.example"))
    asked = desk.judge.asked.count("message")
    desk.envelope("eve@here.example")
    assert desk.content() == [ReplyGiven(NO)]
    assert desk.judge.asked.count("message") == asked
    assert desk.events.of(Refused)[-1].recipients == ("eve@here.example",)
    # Nothing of it is left for the next.
    desk.envelope("bob@here.example")
    assert desk.content() == [Plain.CONTINUE]


def test_mail_by_hand_that_is_deferred_for_one_is_deferred_at_once(desk: Desk) -> None:
    desk.judge.says["rcpt"] = saying(Defer(LATER, "why"))
    desk.agree()
    desk.client("127.0.0.1", "localhost", 0)
    desk.helo()
    desk.mail()
    assert desk.rcpt() == [ReplyGiven(LATER)]


@pytest.mark.parametrize("others", [(), ("bob@here.example",)])
def test_mail_by_hand_to_what_is_no_address_is_returned_at_its_end(desk: Desk, others: Sequence[str]) -> None:
    by_hand(desk, "bob@@", *others)
    asked = desk.judge.asked.count("message")
    (told,) = desk.content()
    assert isinstance(told, ReplyGiven)
    assert (told.reply.code, told.reply.status) == (553, "5.1.3")
    assert desk.judge.asked.count("message") == asked
    refused = desk.events.of(Refused)[-1]
    assert (refused.stage, refused.recipients) == ("content", others)
    assert "RCPT TO:<bob@@>" in refused.reason
    assert desk.budget.used == 0
    # Nothing of it is left for the next; and who comes by SMTP hears of it at once.
    desk.envelope("bob@here.example")
    assert desk.content() == [Plain.CONTINUE]
    desk.client()
    desk.helo()
    desk.mail()
    (told,) = desk.rcpt("bob@@")
    assert isinstance(told, ReplyGiven)


@pytest.mark.parametrize(
    ("reply", "told"), [(NO, Plain.CONTINUE), (LATER, ReplyGiven(Reply.of(421, "4.7.1", "Come again")))]
)
def test_mail_by_hand_of_whoever_is_to_go_is_not_refused_at_rcpt_for_good(desk: Desk, reply: Reply, told: Any) -> None:
    desk.judge.says["connect"] = saying(Disconnect(reply, "why"))
    desk.agree()
    (first,) = desk.client("127.0.0.1", "localhost", 0)
    desk.helo()
    assert desk.mail() == [first]
    assert desk.rcpt() == [told]
    assert desk.content() == [first]


def test_mail_by_hand_that_is_not_for_all_is_held_where_there_is_no_route(desk: Desk) -> None:
    desk.judge.says["message"] = saying([Continue(), Discard("junk")])
    by_hand(desk, "bob@here.example", "eve@here.example")
    _, held, last = desk.content()
    assert isinstance(held, Quarantined)
    assert b"may not find them" in held.reason
    assert last is Plain.CONTINUE


def test_a_message_whose_recipients_have_all_been_removed_is_discarded(desk: Desk) -> None:
    desk.judge.says["message"] = changing(RemoveRecipient(BOB))
    desk.begin()
    assert desk.content() == [Plain.DISCARD]
    (event,) = desk.events.of(Discarded)
    assert (event.recipients, event.reason) == (("bob@here.example",), "a filter has removed the recipient")


def test_one_who_is_deferred_defers_all(desk: Desk) -> None:
    desk.judge.says["message"] = saying([Continue(), Defer(LATER, "why")])
    desk.begin("bob@here.example", "eve@here.example")
    assert desk.content() == [ReplyGiven(LATER)]


def test_refused_for_some_holds_all_where_there_is_no_route(desk: Desk) -> None:
    desk.judge.says["message"] = saying([Continue(), Reject(NO, "why")])
    desk.begin("bob@here.example", "eve@here.example")
    held, last = desk.content()
    assert isinstance(held, Quarantined)
    assert b"refused: 550 5.7.1 Not 100% liked (why)" in held.reason
    assert last is Plain.CONTINUE


@pytest.mark.parametrize("settings", [{"route": "back"}, {"route": "back", "quarantine": "own"}])
@pytest.mark.parametrize("verdict", [Quarantine("why"), Reject(NO, "why")])
def test_what_is_kept_for_some_is_ours_where_there_is_a_route(tmp_path: Path, settings: Any, verdict: Any) -> None:
    desk = Desk(tmp_path, **settings)
    desk.judge.says["message"] = saying([Continue(), verdict])
    desk.begin("bob@here.example", "eve@here.example")
    assert desk.content(body=b"x" * 5000) == [RecipientRemoved(b"<eve@here.example>"), Plain.CONTINUE]
    ((transaction, content, verdicts),) = desk.intake.taken
    assert [(one.address, one.route) for one in transaction.recipients] == [(EVE, "back")]
    assert content.endswith(b"x" * 5000)
    assert all(isinstance(one, Quarantine) for one in verdicts)
    assert desk.events.of(Judged)[0].taken == ("eve@here.example",)


@pytest.mark.parametrize(("way", "login"), [("report", ""), ("quarantine", "ann")])
def test_a_sender_who_may_know_gets_a_report_of_what_is_refused_for_some(tmp_path: Path, way: str, login: str) -> None:
    desk = Desk(tmp_path, route="back", refused_for_some=way)
    desk.judge.says["message"] = saying([Continue(), Reject(NO, "why")])
    desk.agree()
    desk.client()
    desk.helo()
    desk.mail(**({"auth_authen": login} if login else {}))
    desk.rcpt()
    desk.rcpt("eve@here.example")
    assert desk.content() == [RecipientRemoved(b"<eve@here.example>"), Plain.CONTINUE]
    ((_, _, verdicts),) = desk.intake.taken
    assert verdicts == [Reject(NO, "why")]
    assert desk.events.of(Refused)[0].recipients == ("eve@here.example",)


def test_our_own_quarantine_takes_a_message_whole(tmp_path: Path) -> None:
    desk = Desk(tmp_path, route="back", quarantine="own")
    desk.judge.says["message"] = changing(AddHeader("Received", "by us"), verdict=Quarantine("why"))
    desk.begin()
    # The intake has the file then, and it is elsewhere.
    assert desk.content([(b"Message-ID", b" <1@a>")], b"0123456789\r\n" * 1000) == [Plain.DISCARD]
    assert desk.events.of(Judged)[0].message_id == "<1@a>"
    ((transaction, _, _),) = desk.intake.taken
    assert [edit.name for edit in transaction.edits if isinstance(edit, AddHeader)] == ["Received"]


def test_a_spool_that_is_full_defers_what_it_should_keep(tmp_path: Path) -> None:
    desk = Desk(tmp_path, route="back", quarantine="own")
    desk.intake.answer = Reply.of(452, "4.3.1", "Insufficient system storage")
    desk.judge.says["message"] = saying(Quarantine("why"))
    desk.begin()
    assert desk.content() == [ReplyGiven(desk.intake.answer)]


def test_a_connection_that_is_lost_does_not_stop_what_is_being_made_durable(tmp_path: Path) -> None:
    desk = Desk(tmp_path, route="back", quarantine="own")
    stopped: list[Any] = []
    durable: Deferred[Reply] = Deferred(stopped.append)
    desk.intake.answer = durable
    desk.judge.says["message"] = saying(Quarantine("why"))
    desk.begin()
    assert desk.content() == []
    desk.server.connectionLost()
    assert not stopped
    durable.callback(Reply.of(250, "2.0.0", "queued"))


def body_of(text: bytes, folder: Path) -> ReplaceBody:
    """A new body, in a file."""
    writer = ContentWriter(folder, 0)
    writer.write(text)
    return ReplaceBody(writer.finish())


def test_what_is_made_for_a_connection_that_is_lost_is_let_go(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    made: Deferred[Content] = Deferred()
    desk.edit = lambda content, edits: made
    desk.use()
    desk.judge.says["message"] = changing(body_of(b"x\r\n", tmp_path))
    desk.begin()
    assert desk.content() == []
    desk.server.connectionLost()
    assert desk.left_over() == []
    made.callback(body_of(b"y\r\n", tmp_path).content)
    assert desk.left_over() == []


@pytest.mark.parametrize("fails", [False, True])
def test_what_the_intake_works_on_is_let_go_when_it_is_done(tmp_path: Path, fails: bool) -> None:
    desk = Desk(tmp_path, route="back", quarantine="own")
    durable: Deferred[Reply] = Deferred()
    desk.intake.answer = durable
    body = body_of(b"x\r\n", tmp_path)
    desk.judge.says["message"] = changing(For((EVE,), (body,)), verdict=Quarantine("why"))
    desk.begin()
    assert desk.content() == []
    desk.server.connectionLost()
    assert len(desk.left_over()) == 1
    if fails:
        durable.errback(OSError("no disk"))
    else:
        durable.callback(Reply.of(250, "2.0.0", "queued"))
    assert desk.left_over() == []


def test_edits_for_some_only_are_ours_with_a_route_and_deferred_without(tmp_path: Path) -> None:
    edits = For((EVE,), (AddHeader("X-For", "eve"),))
    for route in (None, "back"):
        desk = Desk(tmp_path, route=route)
        desk.judge.says["message"] = changing(AddHeader("X-All", "1"), edits)
        desk.begin("bob@here.example", "ann@here.example", "eve@here.example")
        answers = desk.content()
        if route is None:
            assert isinstance(answers[0], ReplyGiven)
            assert answers[0].reply.code == 451
            continue
        assert answers == [
            HeaderInserted(1, b"X-All", b" 1"),
            RecipientRemoved(b"<eve@here.example>"),
            Plain.CONTINUE,
        ]
        ((transaction, _, verdicts),) = desk.intake.taken
        assert (transaction.edits_for, list(verdicts)) == ((edits,), [Continue()])


def test_a_return_path_for_all_is_the_sender(desk: Desk) -> None:
    desk.judge.says["message"] = changing(ChangeReturnPath(Address("bounce+bob", "here.example"), (BOB,)))
    desk.begin()
    assert desk.content() == [SenderChanged(b"<bounce+bob@here.example>"), Plain.CONTINUE]
