"""Our milter: what a mail server tells becomes sessions and transactions, and verdicts become answers."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.envelope import Client, Identity, Recipient, Session, Transaction
from mailgate.events import Judged, Refused, SessionClosed
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict
from mailgate.wire.milter.codec import (
    Options,
    ReplyGiven,
    options_data,
    packet,
    strings,
)
from mailgate.wire.milter.words import Actions, Code, MacroStage, Plain, Steps
from tests.unit.milter_stand import ALL_STEPS, BOB, BYE, EVE, EVERYTHING, LATER, NO, Desk, Judge, saying


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# -- agreeing


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6, 7])
def test_every_version_is_agreed_on(desk: Desk, version: int) -> None:
    chosen = desk.agree(version, 0x3F if version < 6 else EVERYTHING, 0xFF if version < 6 else ALL_STEPS)
    assert chosen.version == min(version, 6)
    assert chosen.steps & ~(0xFF if version < 6 else ALL_STEPS) == 0
    assert bool(chosen.macros) is (version >= 6)
    assert desk.client() == [Plain.CONTINUE]


def test_no_more_is_wanted_than_is_offered_and_used(desk: Desk) -> None:
    chosen = desk.agree(actions=int(Actions.ADD_HEADERS | Actions.CHOOSE_MACROS))
    assert chosen.actions == int(Actions.ADD_HEADERS | Actions.CHOOSE_MACROS)
    assert desk.is_step(Steps.QUIET_HEADERS)
    assert desk.is_step(Steps.QUIET_BODY)
    assert desk.is_step(Steps.LEADING_SPACE)
    assert not desk.is_step(Steps.NO_DATA | Steps.QUIET_CONNECT | Steps.QUIET_MAIL)
    assert chosen.macros[MacroStage.CONNECT] == b"{client_resolve} {daemon_addr} {daemon_port}"


def test_steps_at_which_nobody_is_asked_are_left_out_or_not_waited_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Judge(["rcpt", "message"]))
    desk.agree()
    assert desk.is_step(Steps.NO_DATA)
    assert desk.client() == []
    assert desk.helo() == []
    desk.envelope()
    assert desk.content() == [Plain.CONTINUE]


def test_macros_are_not_chosen_where_the_server_does_not_let_us(desk: Desk) -> None:
    assert not desk.agree(actions=0x7F).macros


def test_an_ancient_server_is_cut(desk: Desk) -> None:
    assert desk.send(packet(Code.OPTIONS, options_data(Options(1, 0, 0)))) == []
    assert not desk.transport.is_open


def test_each_step_is_answered_where_silence_was_not_agreed_on(desk: Desk) -> None:
    desk.agree(2, 0x3F, 0x7F)
    for answers in (desk.client(), desk.helo(), desk.mail(), desk.rcpt()):
        assert answers == [Plain.CONTINUE]
    # Two fields, the end of the header, the body, and its end.
    assert desk.content() == [Plain.CONTINUE] * 5


# -- sessions


def test_a_client_is_told_with_all_that_is_known(desk: Desk) -> None:
    desk.agree()
    desk.client("2001:db8::1", "unknown", 4711, daemon_addr="192.0.2.25", daemon_port="25")
    desk.helo("host.example", tls_version="TLSv1.3", cipher="AES", cert_subject="CN=host", verify="OK")
    desk.mail(i="4XyZ", auth_authen="ann", auth_type="PLAIN")
    session = desk.judge.session
    assert session is not None
    assert session.client == Client(ip_address("2001:db8::1"), 4711, "")
    assert (session.helo, session.listener, session.role, session.protocol) == (
        "host.example",
        "front",
        "hybrid",
        "ESMTPSA",
    )
    assert session.destination == (ip_address("192.0.2.25"), 25)
    assert session.tls is not None
    assert (session.tls.version, session.tls.subject, session.tls.is_verified) == ("TLSv1.3", "CN=host", True)
    assert session.identity == Identity("ann", "PLAIN")
    assert desk.judge.asked == ["connect", "helo", "auth", "mail"]
    assert desk.judge.transaction is not None
    assert desk.judge.transaction.origin is not None
    assert desk.judge.transaction.origin.ident == "4XyZ"


@pytest.mark.parametrize(
    ("name", "resolve", "known"),
    [
        ("client.example", "OK", "client.example"),
        ("client.example", "FORGED", ""),
        ("[192.0.2.1]", "FAIL", ""),
        ("unknown", "OK", ""),
    ],
)
def test_only_a_confirmed_name_counts(desk: Desk, name: str, resolve: str, known: str) -> None:
    desk.agree()
    desk.client(name=name, client_resolve=resolve)
    assert desk.judge.session is not None
    assert desk.judge.session.client.name == known


def test_a_client_of_a_unix_socket_has_no_address(desk: Desk) -> None:
    desk.agree()
    desk.send(packet(Code.CONNECT, strings(b"localhost") + b"L\0\0" + strings(b"/run/x")))
    assert desk.judge.session is not None
    assert desk.judge.session.client.address is None


@pytest.mark.parametrize(
    ("role", "address", "login", "is_trusted"),
    [
        ("hybrid", "192.0.2.1", "", False),
        ("hybrid", "10.0.0.1", "", True),
        ("hybrid", "192.0.2.1", "ann", True),
        ("inbound", "10.0.0.1", "ann", False),
    ],
)
def test_clients_that_may_relay_have_a_pipeline_of_their_own(
    tmp_path: Path, role: str, address: str, login: str, is_trusted: bool
) -> None:
    own = Judge()
    desk = Desk(tmp_path, trusted=own, role=role, trusted_networks=["10.0.0.0/8"])
    desk.agree()
    desk.client(address)
    desk.helo()
    desk.mail(auth_authen=login) if login else desk.mail()
    desk.rcpt()
    desk.content()
    assert ("message" in own.asked) is is_trusted
    assert ("message" in desk.judge.asked) is not is_trusted


def test_several_messages_and_several_clients_come_over_one_connection(desk: Desk) -> None:
    desk.begin()
    assert desk.content() == [Plain.CONTINUE]
    desk.envelope()
    assert desk.send(packet(Code.ABORT)) == []
    desk.envelope("eve@here.example")
    assert desk.content() == [Plain.CONTINUE]
    first = desk.judge.session
    assert desk.send(packet(Code.QUIT_NEW)) == []
    assert desk.client("192.0.2.2") == [Plain.CONTINUE]
    assert desk.judge.session is not first
    (closed,) = desk.events.of(SessionClosed)
    assert (closed.messages, closed.cause) == (2, "quit")
    desk.helo()
    desk.envelope()
    assert desk.content() == [Plain.CONTINUE]
    desk.send(packet(Code.QUIT))
    assert not desk.transport.is_open
    assert len(desk.events.of(Judged)) == 3


def test_nothing_of_a_client_is_believed_of_the_next_one(desk: Desk) -> None:
    desk.agree()
    desk.client()
    desk.helo(tls_version="TLSv1.3", cipher="AES")
    desk.mail(auth_authen="ann", auth_type="PLAIN", i="4XyZ")
    desk.client("192.0.2.2")
    desk.helo()
    desk.mail()
    session, transaction = desk.judge.session, desk.judge.transaction
    assert session is not None
    assert (session.identity, session.tls, session.protocol) == (None, None, "ESMTP")
    assert transaction is not None
    assert transaction.origin is not None
    assert transaction.origin.ident == ""


def test_a_login_that_is_refused_is_refused_again(desk: Desk) -> None:
    desk.judge.says["auth"] = saying(Reject(NO, "why"))
    desk.agree()
    desk.client()
    desk.helo()
    for _ in range(2):
        assert desk.mail(auth_authen="ann", auth_type="PLAIN") == [ReplyGiven(NO)]
    assert desk.judge.session is not None
    assert desk.judge.session.identity is None
    assert desk.judge.asked.count("auth") == 2
    assert "mail" not in desk.judge.asked


def test_a_connection_that_is_lost_ends_its_session_and_what_is_waited_for(desk: Desk) -> None:
    cancelled: list[Any] = []
    waiting: Deferred[Verdict] = Deferred(cancelled.append)
    desk.judge.says["rcpt"] = saying(waiting)
    desk.agree()
    desk.client()
    desk.helo()
    desk.mail()
    assert desk.rcpt() == []
    desk.server.connectionLost()
    assert cancelled
    assert desk.events.of(SessionClosed)[0].cause == "lost"
    assert desk.office.doors["front"].count == 0
    assert not desk.clock.getDelayedCalls()


# -- refusals


def test_filters_see_whom_an_alias_stands_for(desk: Desk) -> None:
    seen: list[Recipient] = []

    def look(_session: Session, _transaction: Transaction, recipient: Recipient) -> Verdict:
        seen.append(recipient)
        return Continue()

    desk.judge.says["rcpt"] = look
    desk.aliases[BOB] = [EVE]
    desk.aliases[EVE] = Defer(Reply.of(451, "4.4.3", "Later"), "the directory is away")
    desk.agree()
    for answers in (desk.client(), desk.helo(), desk.mail()):
        assert answers == [Plain.CONTINUE]
    assert desk.rcpt("bob@here.example") == [Plain.CONTINUE]
    assert desk.rcpt("eve@here.example") == [ReplyGiven(Reply.of(451, "4.4.3", "Later"))]
    assert [(one.address, [target.address for target in one.targets]) for one in seen] == [(BOB, [EVE])]


@pytest.mark.parametrize("stage", ["connect", "helo", "auth", "mail", "rcpt", "data", "message"])
@pytest.mark.parametrize("verdict", [Reject(NO, "why"), Defer(LATER, "why"), Disconnect(BYE, "why")])
def test_what_filters_refuse_is_refused_with_their_words(desk: Desk, stage: str, verdict: Any) -> None:
    desk.judge.says[stage] = saying(verdict)
    desk.agree()
    steps: dict[str, Callable[[], Any]] = {
        "connect": desk.client,
        "helo": desk.helo,
        "mail": lambda: desk.mail(auth_authen="ann", i="4XyZ"),
        "rcpt": desk.rcpt,
        "data": lambda: desk.send(packet(Code.DATA)),
        "message": desk.content,
    }
    for name, step in steps.items():
        answers = step()
        if name == ("mail" if stage == "auth" else stage):
            break
        assert answers == [Plain.CONTINUE]
    expected = Reply(421, "4.7.0", ("Leave",)) if isinstance(verdict, Disconnect) else verdict.reply
    assert answers == [ReplyGiven(expected)]
    (refused,) = desk.events.of(Refused)
    assert (refused.stage, refused.reason, refused.reply) == (stage, "why", str(expected))
    assert refused.ident == ("4XyZ" if stage in ("mail", "rcpt", "data", "message") else "")
    assert not desk.events.of(Judged)


def test_a_single_recipient_is_refused_and_the_message_goes_to_the_others(desk: Desk) -> None:
    desk.judge.says["rcpt"] = lambda _s, _t, recipient: Reject(NO, "why") if recipient.address == EVE else Continue()
    desk.begin()
    assert desk.rcpt("eve@here.example") == [ReplyGiven(NO)]
    assert desk.content() == [Plain.CONTINUE]
    assert desk.events.of(Judged)[0].recipients == ("bob@here.example",)


def test_who_has_to_leave_is_told_so_at_every_later_step(desk: Desk) -> None:
    desk.judge.says["mail"] = saying(Disconnect(NO, "why"))
    desk.agree()
    desk.client()
    desk.helo()
    for answers in (desk.mail(), desk.mail(), desk.helo(), desk.rcpt()):
        assert answers == [ReplyGiven(NO)]
    del desk.judge.says["mail"]
    assert desk.client() == [Plain.CONTINUE]
    assert desk.mail() == [Plain.CONTINUE]


@pytest.mark.parametrize("stage", ["mail", "message"])
def test_a_filter_that_does_not_answer_in_time_defers(desk: Desk, stage: str) -> None:
    desk.judge.says[stage] = lambda *_: Deferred()
    desk.agree()
    desk.client()
    desk.helo()
    if stage == "mail":
        assert desk.mail() == []
        desk.clock.pump([1.0] * 25)
        answers = desk.answers()
    else:
        desk.envelope()
        assert desk.content() == []
        assert desk.transport.is_paused
        desk.clock.pump([1.0] * 279)
        assert desk.answers() == [Plain.PROGRESS] * 27
        desk.clock.pump([1.0] * 2)
        answers = [one for one in desk.answers() if one is not Plain.PROGRESS]
    assert [one.reply.code for one in answers if isinstance(one, ReplyGiven)] == [451]
    assert not desk.transport.is_paused
    assert desk.left_over() == []


def test_the_stages_of_one_step_have_its_time_together(desk: Desk) -> None:
    first: Deferred[Verdict] = Deferred()
    desk.judge.says["auth"] = saying(first)
    desk.judge.says["mail"] = lambda *_: Deferred()
    desk.agree()
    desk.client()
    desk.helo()
    assert desk.mail(auth_authen="ann") == []
    desk.clock.advance(20)
    first.callback(Continue())
    assert desk.answers() == []
    desk.clock.advance(5)
    (answer,) = desk.answers()
    assert isinstance(answer, ReplyGiven)
    assert answer.reply.code == 451


def test_a_stage_that_raises_defers(desk: Desk) -> None:
    failed: Deferred[Any] = Deferred()
    desk.judge.says["message"] = saying(failed)
    desk.begin()
    assert desk.content() == []
    failed.errback(ValueError("a bug"))
    (answer,) = desk.answers()
    assert isinstance(answer, ReplyGiven)
    assert answer.reply.code == 451


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("<ann@client.example>", "ann@client.example"),
        ("ann@client.example", "ann@client.example"),
        ("<>", ""),
        ("<root>", "root@mx.test"),
        ("<a..b@client.example>", '"a..b"@client.example'),
    ],
)
def test_addresses_are_taken_as_mail_servers_take_them(desk: Desk, path: str, known: str) -> None:
    desk.agree()
    desk.client()
    desk.helo()
    assert desk.send(packet(Code.MAIL, strings(path.encode()))) == [Plain.CONTINUE]
    assert desk.judge.transaction is not None
    assert str(desk.judge.transaction.sender) == known


@pytest.mark.parametrize("path", ["<a@b@>", "<ann@[300.1.1.1]>", "<\x07@client.example>"])
def test_what_is_no_address_is_refused(desk: Desk, path: str) -> None:
    desk.agree()
    desk.client()
    desk.helo()
    (answer,) = desk.send(packet(Code.MAIL, strings(path.encode())))
    assert isinstance(answer, ReplyGiven)
    assert (answer.reply.code, answer.reply.status) == (553, "5.1.7")


def test_what_mail_asked_for_is_known_as_far_as_we_know_it(desk: Desk) -> None:
    desk.agree()
    desk.client()
    desk.helo()
    desk.mail("ann@client.example", "SIZE=1000", "BODY=8BITMIME", "SMTPUTF8", "AUTH=<>", "XNEW=1")
    desk.rcpt("bob@here.example", "NOTIFY=SUCCESS", "ORCPT=rfc822;bob@here.example")
    found = desk.judge.transaction
    assert found is not None
    assert (found.declared_size, found.parameters.body, found.parameters.smtputf8) == (1000, "8BITMIME", True)
    assert found.recipients[0].notify == ("SUCCESS",)


# -- content


def test_the_content_is_what_the_client_has_sent(desk: Desk) -> None:
    desk.begin()
    fields = [(b"Subject", b"  two\n\tlines"), (b"X-Odd", b"tight"), (b"X-8", b" \xc3\xbc\xff"), (b"X-None", b"")]
    desk.content(fields, b"one\r\n\r\n.\r\ntwo\xff\r\n")
    assert desk.judge.content == (
        b"Subject:  two\r\n\tlines\r\nX-Odd:tight\r\nX-8: \xc3\xbc\xff\r\nX-None:\r\n\r\none\r\n\r\n.\r\ntwo\xff\r\n"
    )


def test_the_space_behind_the_colon_comes_back_where_the_server_leaves_it_out(desk: Desk) -> None:
    desk.agree(4, 0x3F, 0x3FF)
    desk.client()
    desk.helo()
    desk.envelope()
    desk.content([(b"Subject", b"two\n\tlines")])
    assert desk.judge.content.startswith(b"Subject: two\r\n\tlines\r\n\r\n")


def test_large_content_goes_to_a_file_which_is_gone_afterwards(desk: Desk) -> None:
    seen: list[list[str]] = []

    def message(*_: Any) -> Verdict:
        seen.append(desk.left_over())
        return Continue()

    desk.judge.says["message"] = message
    desk.begin()
    assert desk.content(body=b"0123456789\r\n" * 20_000) == [Plain.CONTINUE]
    assert len(desk.judge.content) > 200_000
    assert len(seen[0]) == 1
    assert desk.left_over() == []
    assert desk.budget.used == 0


def test_content_that_is_given_up_leaves_nothing(desk: Desk) -> None:
    for way in (lambda: desk.send(packet(Code.ABORT)), lambda: desk.server.connectionLost()):
        desk.begin()
        desk.send(packet(Code.HEADER, strings(b"Subject", b" x")), packet(Code.BODY, b"x" * 60_000))
        assert len(desk.left_over()) == 1
        way()
        assert desk.left_over() == []
    assert desk.budget.used == 0


@pytest.mark.parametrize(
    ("fields", "body", "code"),
    [
        ([(b"Subject", b" x")], b"0123456789\r\n" * 6000, 552),
        ([(b"Sub ject:", b" x")], b"", 550),
        ([(b"Subject", b" x\nBcc: all")], b"", 550),
        ([(b"Subject", b" x\ry")], b"", 550),
        ([(b"X-Long", b" " + b"x" * 60_000)] * 5, b"", 550),
        ([(b"X", b" y")] * 5001, b"", 550),
    ],
)
def test_content_that_cannot_be_judged_is_refused(
    tmp_path: Path, fields: list[tuple[bytes, bytes]], body: bytes, code: int
) -> None:
    desk = Desk(tmp_path, max_message_size="64KiB")
    desk.begin()
    (answer,) = desk.content(fields, body)
    assert isinstance(answer, ReplyGiven)
    assert answer.reply.code == code
    assert desk.events.of(Refused)[0].stage == "content"
    assert "message" not in desk.judge.asked
    assert desk.budget.used == 0
    desk.envelope()
    assert desk.content() == [Plain.CONTINUE]


def test_a_message_that_says_itself_that_it_is_too_large_is_refused_at_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, max_message_size="64KiB")
    desk.agree()
    desk.client()
    desk.helo()
    (answer,) = desk.mail("ann@client.example", "SIZE=65537")
    assert isinstance(answer, ReplyGiven)
    assert answer.reply.code == 552


def test_a_disk_that_is_nearly_full_defers_before_there_is_content(desk: Desk) -> None:
    desk.intake.refusal = Reply.of(452, "4.3.1", "Insufficient system storage")
    desk.agree()
    desk.client()
    desk.helo()
    assert desk.mail() == [ReplyGiven(desk.intake.refusal)]


def test_a_disk_that_takes_nothing_defers(desk: Desk) -> None:
    desk.begin()
    desk.folder.joinpath("gone").touch()
    desk.server._session._services.incoming.rename(desk.folder.with_name("elsewhere"))
    (answer,) = desk.content(body=b"x" * 10_000)
    assert isinstance(answer, ReplyGiven)
    assert answer.reply.code == 452
