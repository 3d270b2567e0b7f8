"""Our milter where something goes otherwise than it should: each step has its one answer, nobody is believed too much,
and nobody has the reactor to himself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailgate.events import Refused
from mailgate.reply import Reply
from mailgate.wire.milter.codec import ReplyGiven, packet, strings
from mailgate.wire.milter.words import Code, Plain
from tests.unit.milter_stand import EVERYTHING, Desk, Judge

FAULT = ReplyGiven(Reply.of(451, "4.3.0", "Local error, try again later"))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def broken(*_: Any) -> Any:
    raise RuntimeError("a fault of ours")


def test_an_unknown_command_is_answered_where_it_could_not_be_left_out(desk: Desk) -> None:
    desk.agree(6, EVERYTHING, 0)
    assert desk.client() == [Plain.CONTINUE]
    assert desk.send(packet(Code.UNKNOWN, strings(b"NOOB"))) == [Plain.CONTINUE]
    assert desk.helo() == [Plain.CONTINUE]
    assert desk.transport.is_open


@pytest.mark.parametrize("stage", ["connect", "helo", "mail", "rcpt", "data", "message"])
def test_a_fault_of_ours_is_a_temporary_refusal_and_the_session_goes_on(desk: Desk, stage: str) -> None:
    desk.judge.says[stage] = broken
    desk.agree()
    steps: dict[str, Callable[[], Any]] = {
        "connect": desk.client,
        "helo": desk.helo,
        "mail": desk.mail,
        "rcpt": desk.rcpt,
        "data": lambda: desk.send(packet(Code.DATA)),
        "message": lambda: desk.content(body=b"0123456789\r\n" * 1000),
    }
    for name, step in steps.items():
        answers = step()
        if name == stage:
            break
        assert answers == [Plain.CONTINUE]
    assert answers == [FAULT]
    (event,) = desk.events.of(Refused)
    assert event.reply == "451 4.3.0 Local error, try again later"
    assert desk.left_over() == []
    del desk.judge.says[stage]
    desk.send(packet(Code.ABORT))
    desk.client()
    desk.helo()
    desk.envelope()
    assert desk.content() == [Plain.CONTINUE]


def test_a_fault_behind_an_answer_is_no_second_answer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would be taken for the answer to the next step.
    monkeypatch.setattr("mailgate.mta.milter.ending.release", broken)
    desk.begin()
    assert desk.content() == [Plain.CONTINUE]
    assert not desk.transport.is_open


def test_a_client_that_the_server_cannot_tell_is_nobody_of_ours(tmp_path: Path) -> None:
    own = Judge()
    desk = Desk(tmp_path, trusted=own, trusted_networks=["127.0.0.0/8"])
    desk.agree()
    for family, is_ours in ((b"U", False), (b"L\0\0/run/x\0", True)):
        desk.send(packet(Code.CONNECT, strings(b"unknown") + family))
        judge = own if is_ours else desk.judge
        assert judge.session is not None
        assert judge.session.client.address is None
        assert (judge.session.identity is not None) is is_ours
    assert own.asked == ["connect"]


def test_nobody_has_logged_in_where_the_role_is_inbound(tmp_path: Path) -> None:
    desk = Desk(tmp_path, role="inbound")
    desk.agree()
    desk.client()
    desk.helo()
    desk.mail(auth_authen="ann", auth_type="PLAIN")
    assert "auth" not in desk.judge.asked
    assert desk.judge.session is not None
    assert desk.judge.session.identity is None
    assert desk.judge.session.protocol == "ESMTP"


GREETINGS = packet(Code.HELO, strings(b"client.example")) * 1000


def test_others_have_their_turn_between_packets(desk: Desk) -> None:
    desk.agree()
    desk.client()
    desk.server.dataReceived(GREETINGS)
    assert desk.judge.asked.count("helo") < 100
    assert desk.transport.is_paused
    desk.clock.advance(0)
    assert not desk.transport.is_paused
    assert desk.answers() == [Plain.CONTINUE] * 1000


def test_a_connection_may_end_between_two_turns(desk: Desk) -> None:
    desk.agree()
    desk.client()
    desk.server.dataReceived(GREETINGS)
    desk.server.connectionLost()
    assert not desk.clock.getDelayedCalls()
    assert desk.judge.asked.count("helo") < 100


def test_draining_waits_for_what_has_come(desk: Desk) -> None:
    desk.agree()
    desk.client()
    desk.server.dataReceived(GREETINGS)
    desk.office.doors["front"].drain()
    assert desk.transport.is_open
    while desk.transport.is_open:
        desk.clock.advance(0)
    assert desk.judge.asked.count("helo") == 1000


@pytest.mark.parametrize(
    ("written", "understood", "known"),
    [
        ("<closed(x)@here.example>", "closed@here.example", "closed@here.example"),
        ("<closed%here.example@mx.test>", "closed@here.example", "closed@here.example"),
        ("<here.example!closed@mx.test>", "closed@here.example", "closed@here.example"),
        ("<closed%here.example@mx.test>", "", "closed%here.example@mx.test"),
        ("<closed@here.example>", "another@here.example", "closed@here.example"),
    ],
)
def test_what_only_the_mail_server_can_read_is_what_it_has_read(
    desk: Desk, written: str, understood: str, known: str
) -> None:
    desk.agree()
    desk.client()
    desk.helo()
    desk.send(desk.macros(Code.MAIL, mail_addr=understood), packet(Code.MAIL, strings(written.encode())))
    desk.send(desk.macros(Code.RCPT, rcpt_addr=understood), packet(Code.RCPT, strings(written.encode())))
    transaction = desk.judge.transaction
    assert transaction is not None
    assert str(transaction.sender) == known
    assert [str(one.address) for one in transaction.recipients] == [known]


def test_what_it_has_read_of_one_recipient_is_not_believed_of_the_next(desk: Desk) -> None:
    desk.begin("closed@here.example")
    desk.rcpt("closed@here.example", rcpt_addr="closed@here.example")
    desk.rcpt("open%there.example@mx.test")
    assert desk.judge.transaction is not None
    assert str(desk.judge.transaction.recipients[-1].address) == "open%there.example@mx.test"
