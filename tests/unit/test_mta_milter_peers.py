"""Our milter and peers that are hostile, slow or many; reloads, and the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address

from mailgate.events import Judged, SessionClosed
from mailgate.wire.milter.codec import (
    Options,
    options_data,
    packet,
    strings,
)
from mailgate.wire.milter.words import Code, Plain
from tests.unit.milter_stand import ALL_STEPS, EVERYTHING, LOCAL, Desk, Judge
from tests.unit.pieces import pieces


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def whole_session() -> bytes:
    """All that a mail server says of two messages."""
    steps = [
        packet(Code.OPTIONS, options_data(Options(6, EVERYTHING, ALL_STEPS))),
        packet(Code.CONNECT, strings(b"client.example") + b"4\x12\x34" + strings(b"192.0.2.1")),
        packet(Code.HELO, strings(b"client.example")),
    ]
    for _ in range(2):
        steps += [
            packet(Code.MACROS, b"M" + strings(b"i", b"4XyZ")),
            packet(Code.MAIL, strings(b"<ann@client.example>")),
            packet(Code.RCPT, strings(b"<bob@here.example>")),
            packet(Code.DATA),
            packet(Code.HEADER, strings(b"Subject", b" x")),
            packet(Code.END_OF_HEADER),
            packet(Code.BODY, b"Hello\r\n"),
            packet(Code.END_OF_BODY),
        ]
    return b"".join([*steps, packet(Code.QUIT)])


@given(cuts=st.lists(st.integers(0, len(whole_session()))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_octets_may_come_in_any_pieces(tmp_path: Path, cuts: list[int]) -> None:
    desk = Desk(tmp_path)
    answers: list[Any] = []
    for piece in pieces(whole_session(), cuts):
        answers += desk.send(piece)
    assert answers[1:] == [Plain.CONTINUE] * (2 + 2 * 4)
    assert len(desk.events.of(Judged)) == 2
    assert not desk.transport.is_open


@given(octets=st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_cut_or_waited_for_and_leaves_nothing(tmp_path: Path, octets: bytes) -> None:
    desk = Desk(tmp_path)
    desk.begin()
    desk.server.dataReceived(octets)
    desk.server.connectionLost()
    assert desk.office.doors["front"].count == 0
    assert desk.left_over() == []
    assert desk.budget.used == 0


@given(code=st.sampled_from(list(Code)), data=st.binary(max_size=80))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_packets_with_any_content_are_answered_or_end_the_connection(tmp_path: Path, code: Code, data: bytes) -> None:
    desk = Desk(tmp_path)
    desk.begin()
    desk.send(packet(code, data))
    desk.server.connectionLost()
    assert desk.events.of(SessionClosed)
    assert desk.budget.used == 0


@pytest.mark.parametrize(
    "octets",
    [
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xffB",
        (256 * 1024 + 2).to_bytes(4) + b"B",
        packet(Code.MAIL, strings(b"<ann@client.example>")),
        b"\x00\x00\x00\x01Z",
    ],
)
def test_who_does_not_follow_the_protocol_is_cut(desk: Desk, octets: bytes) -> None:
    desk.agree()
    desk.send(octets)
    assert not desk.transport.is_open


def test_a_step_before_an_agreement_is_a_fault(desk: Desk) -> None:
    assert desk.client() == []
    assert not desk.transport.is_open


def test_of_macros_only_those_are_kept_that_mean_anything(desk: Desk) -> None:
    desk.agree()
    desk.client()
    for number in range(50):
        desk.server.dataReceived(desk.macros(Code.HELO, **{f"x{number}": "y" * 60_000}))
    desk.helo(tls_version="TLSv1.3", cipher="x" * 256, cert_subject="CN=a\r\nb")
    assert len(repr(desk.server._session._macros)) < 1000
    assert desk.judge.session is not None
    assert desk.judge.session.tls is not None
    assert (desk.judge.session.tls.cipher, desk.judge.session.tls.subject) == ("", "")
    # Two names are not to become one.
    assert desk.mail(auth_authen="a" * 256) == [Plain.CONTINUE]
    assert desk.judge.session.identity is None


def test_only_mail_servers_may_connect(tmp_path: Path) -> None:
    desk = Desk(tmp_path, peer=IPv4Address("TCP", "192.0.2.9", 1), mail_servers=["192.0.2.8"])
    assert not desk.transport.is_open
    assert desk.office.doors["front"].count == 0
    assert Desk(tmp_path, peer=LOCAL, mail_servers=["192.0.2.8"]).transport.is_open


def test_connections_are_limited(tmp_path: Path) -> None:
    desk = Desk(tmp_path, max_connections=2)
    first, server = desk.transport, desk.server
    desk.connect_again()
    assert desk.transport.is_open
    desk.connect_again()
    assert not desk.transport.is_open
    server.connectionLost()
    desk.connect_again()
    assert desk.transport.is_open
    assert first is not desk.transport


def test_a_silent_server_is_left(tmp_path: Path) -> None:
    desk = Desk(tmp_path, idle_timeout="60s")
    desk.agree()
    desk.clock.advance(59)
    desk.client()
    desk.clock.advance(59)
    assert desk.transport.is_open
    desk.clock.advance(1)
    assert not desk.transport.is_open
    assert desk.events.of(SessionClosed)[0].cause == "timeout"


def test_a_reload_is_for_new_sessions(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Judge(["message"]))
    desk.begin()
    before = desk.judge
    desk.judge = desk.trusted = Judge(["message"])
    desk.use()
    desk.content()
    assert before.asked[-1] == "message"
    desk.send(packet(Code.QUIT_NEW))
    desk.client()
    desk.helo()
    desk.envelope()
    desk.content()
    assert desk.judge.asked[-1] == "message"


def test_a_pipeline_that_asks_more_waits_for_another_agreement(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Judge(["message"]))
    desk.begin()
    desk.judge = desk.trusted = Judge()
    desk.use()
    desk.send(packet(Code.QUIT_NEW))
    assert desk.client() == []
    assert desk.judge.asked == []
    desk.agree()
    assert desk.client() == [Plain.CONTINUE]
    assert desk.judge.asked == ["connect"]


def test_draining_lets_a_message_finish(desk: Desk) -> None:
    door = desk.office.doors["front"]
    desk.begin()
    gone: list[Any] = []
    door.drain().addCallback(gone.append)
    assert desk.transport.is_open
    assert not gone
    assert desk.content() == [Plain.CONTINUE]
    assert not desk.transport.is_open
    assert gone


def test_draining_ends_who_is_idle_and_lets_nobody_in(desk: Desk) -> None:
    door = desk.office.doors["front"]
    desk.agree()
    desk.client()
    assert door.drain().called
    assert not desk.transport.is_open
    desk.connect_again()
    assert not desk.transport.is_open


def test_what_does_not_finish_is_cut(desk: Desk) -> None:
    door = desk.office.doors["front"]
    desk.begin()
    drained = door.drain()
    door.cut()
    assert drained.called
    assert desk.events.of(SessionClosed)[0].cause == "shutdown"
