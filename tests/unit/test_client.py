"""The client against servers of every kind: scripted peers in memory, and a clock that the test turns."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from mailgate.address import NULL_PATH
from mailgate.envelope import EIGHT_BIT_MAIL
from mailgate.interfaces import OutcomeKind
from mailgate.message import AddHeader, RemoveHeader
from mailgate.relay.attempt import ConnectFailedError, IConnection, IConnector, Target
from mailgate.relay.client.connector import IClientReactor, SmtpConnector
from mailgate.reply import Reply
from tests.unit.peer import LMTP, LOST, MESSAGE, MX, SILENT, STUFFED, Peer, kinds

DELIVERED, DEFERRED, FAILED = OutcomeKind.DELIVERED, OutcomeKind.DEFERRED, OutcomeKind.FAILED


# -- The greeting


def test_the_parts_provide_their_interfaces() -> None:
    peer = Peer()
    assert verifyObject(IConnector, peer.connector)
    assert verifyObject(IConnection, peer.session)
    assert peer.session.is_usable
    assert peer.session.target == MX
    assert peer.commands == ["EHLO gw.example"]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_it_connects_by_tcp_and_by_unix_sockets(address: str) -> None:
    reactor = MemoryReactorClock()
    connector = SmtpConnector(cast(IClientReactor, reactor), "gw.example", 12.0)
    connector.connect(Target("mx", address, 2525))
    connector.connect(LMTP)
    (tcp,), (unix,) = reactor.tcpClients, reactor.unixClients
    assert (tcp[0], tcp[1], tcp[3]) == (address, 2525, 12.0)
    assert (unix[0], unix[2]) == ("/run/lmtp", 12.0)


def test_helo_where_ehlo_is_not_known() -> None:
    peer = Peer(EHLO=[b"502 what?"])
    assert peer.commands == ["EHLO gw.example", "HELO gw.example"]
    assert kinds(peer.send()) == [DELIVERED]
    assert peer.commands[2:] == ["MAIL FROM:<ann@client.test>", "RCPT TO:<user0@example.org>", "DATA"]


def test_lmtp_says_lhlo_and_has_no_helo() -> None:
    assert Peer(LMTP).commands == ["LHLO gw.example"]
    assert not Peer(LMTP, LHLO=[b"500 what?"]).refusal.is_permanent


@pytest.mark.parametrize(
    ("banner", "script", "code", "stage", "is_permanent"),
    [
        (b"554 5.3.2 no", {}, 554, "greeting", True),
        (b"421 busy", {}, 421, "greeting", False),
        (b"450 later", {}, 450, "greeting", False),
        (b"354 what", {}, 451, "greeting", False),
        (b"SSH-2.0-x", {}, 451, "greeting", False),
        (b"220-" + b"x\r\n220-" * 200, {}, 451, "greeting", False),
        (b"220 early\r\n250 bird", {}, 451, "greeting", False),
        (b"220 early\r\n2", {}, 451, "greeting", False),
        (LOST, {}, 451, "greeting", False),
        (b"220 hi", {"EHLO": [b"421 busy"]}, 421, "hello", False),
        (b"220 hi", {"EHLO": [b"500 what"], "HELO": [b"550 not you"]}, 550, "hello", False),
        (b"220 hi", {"EHLO": [b"250-x\r\n250 y\r\n250 z"]}, 451, "greeting", False),
        (b"220 hi", {"EHLO": [b"250-x\r\n550 y"]}, 451, "greeting", False),
        (b"220 hi", {"EHLO": [LOST]}, 451, "greeting", False),
    ],
)
def test_no_session(banner: bytes, script: dict[str, list[bytes]], code: int, stage: str, is_permanent: bool) -> None:
    peer = Peer(MX, banner, **script)
    refusal = peer.refusal
    assert (refusal.reply.code, refusal.stage, refusal.is_permanent) == (code, stage, is_permanent)
    assert refusal.target == MX
    if LOST not in (banner, *script.get("EHLO", [])):
        assert peer.transport.disconnecting
        peer.lose()
    assert not peer.reactor.getDelayedCalls()


def test_a_refused_connection() -> None:
    reactor = MemoryReactorClock()
    found: list[Failure] = []
    SmtpConnector(cast(IClientReactor, reactor), "gw.example").connect(MX).addErrback(found.append)
    factory: Any = reactor.tcpClients[0][2]
    factory.clientConnectionFailed(None, Failure(ConnectError()))
    error = found[0].value
    assert isinstance(error, ConnectFailedError)
    assert (error.stage, error.reply.code, error.reply.status) == ("connect", 451, "4.4.1")


@pytest.mark.parametrize("banner", [SILENT, b"220 hi"])
def test_a_silent_server(banner: bytes) -> None:
    peer = Peer(MX, banner, EHLO=[SILENT])
    peer.reactor.advance(299)
    assert peer.sessions == []
    peer.reactor.advance(1)
    assert peer.refusal.reply.status == "4.4.2"
    assert peer.transport.disconnected


def test_a_connect_that_is_cancelled() -> None:
    peer = Peer(MX, SILENT)
    peer.connecting.cancel()
    (failure,) = peer.sessions
    assert isinstance(failure, Failure)
    assert failure.check(CancelledError)
    peer.say(b"220 too late\r\n")
    peer.lose()
    assert peer.transport.value() == b""
    assert not peer.reactor.getDelayedCalls()


# -- A message


def test_one_write_for_the_commands_and_one_for_the_content() -> None:
    peer = Peer()
    assert kinds(peer.send(2, parameters=EIGHT_BIT_MAIL)) == [DELIVERED, DELIVERED]
    size = len(MESSAGE)
    assert peer.writes[1:] == [
        f"MAIL FROM:<ann@client.test> SIZE={size} BODY=8BITMIME\r\n".encode()
        + b"RCPT TO:<user0@example.org>\r\nRCPT TO:<user1@example.org>\r\nDATA\r\n",
        STUFFED,
    ]
    assert peer.session.messages == 1


def test_one_by_one_where_pipelining_is_not_offered() -> None:
    peer = Peer(EHLO=[b"250 mx"])
    results = peer.send(2)
    assert kinds(results) == [DELIVERED, DELIVERED]
    assert [len(write.splitlines()) for write in peer.writes[1:5]] == [1, 1, 1, 1]
    assert results[0].reply == Reply(250, "2.0.0", ("taken",))
    assert results[0].host == "mx.example.org[192.0.2.1]:25"


def test_edits_are_applied_and_the_null_sender_is_written() -> None:
    peer = Peer()
    edits = (AddHeader("Received", "by gw"), RemoveHeader("subject"))
    assert kinds(peer.send(sender=NULL_PATH, edits=edits)) == [DELIVERED]
    assert peer.contents == [b"Received: by gw\r\nFrom: <ann@client.test>\r\n\r\n..dot\r\nbody\r\n.\r\n"]
    assert f"MAIL FROM:<> SIZE={len(peer.contents[0]) - 4}" in peer.commands


def test_messages_one_after_another_in_one_session() -> None:
    peer = Peer()
    for _ in range(3):
        assert kinds(peer.send()) == [DELIVERED]
        assert peer.session.is_usable
    assert peer.session.messages == 3
    assert "RSET" not in peer.commands


def test_lmtp_answers_for_each_accepted_recipient() -> None:
    peer = Peer(
        LMTP, RCPT=[b"250 ok", b"550 5.1.1 no", b"250 ok", b"250 ok"], END=[b"250 ok", b"452 4.2.2 full", b"550 no"]
    )
    results = peer.send(4)
    assert kinds(results) == [DELIVERED, FAILED, DEFERRED, FAILED]
    assert [result.reply.code for result in results] == [250, 550, 452, 550]
    assert peer.session.is_usable


@pytest.mark.parametrize("lines", [2, 500])
@pytest.mark.parametrize("target", [MX, LMTP])
def test_a_reset_goes_before_the_next_message_after_one_that_was_refused(target: Target, lines: int) -> None:
    peer = Peer(target, RCPT=[b"550 5.1.1 no", b"250 ok"])
    peer.script["DATA"] = [b"554 no recipients", b"354 go on"]
    assert kinds(peer.send()) == [FAILED]
    assert peer.session.is_usable
    assert kinds(peer.send(content=MESSAGE * lines)) == [DELIVERED]
    assert kinds(peer.send()) == [DELIVERED]
    assert peer.commands.count("RSET") == 1
    assert peer.writes[2].startswith(b"RSET\r\nMAIL")


PHASES = ["MAIL", "RCPT", "DATA", "END"]
PIPELINED = {True: Peer.PLAIN["EHLO"], False: [b"250 mx"]}


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("answer", "kind", "is_usable"),
    [
        (b"450 4.2.0 later", DEFERRED, True),
        (b"550 5.7.1 never", FAILED, True),
        (b"503 5.5.1 what?", DEFERRED, True),
        (b"421 4.3.2 closing", DEFERRED, False),
        (LOST, DEFERRED, False),
        (SILENT, DEFERRED, False),
        (b"\xff\xfe\x00noise", DEFERRED, False),
        (b"999 out of range", DEFERRED, False),
        (b"250-never\r\n451 ends well", DEFERRED, False),
    ],
)
def test_every_phase_with_every_answer(
    pipelining: bool, phase: str, answer: bytes, kind: OutcomeKind, is_usable: bool
) -> None:
    peer = Peer(EHLO=PIPELINED[pipelining])
    peer.script[phase] = [answer]
    if phase == "MAIL" and is_usable:
        peer.script |= {"RCPT": [b"503 no"], "DATA": [b"503 no"]}
    if phase == "RCPT" and is_usable:
        peer.script["DATA"] = [b"503 no"]
    results = peer.send(2)
    if answer == SILENT:
        peer.reactor.advance(599 if phase == "END" else 299)
        assert results == []
        peer.reactor.advance(1)
    assert kinds(results) == [kind, kind]
    assert peer.session.is_usable is is_usable
    for result in results:
        is_theirs = is_usable or answer.startswith(b"421")
        assert result.host == (str(MX) if is_theirs else "")
        assert result.next_host is (not is_usable and phase != "END")
        assert result.again is False
    if phase == "END" and not is_usable:  # 421 is an answer: it has not
        assert ("may have been delivered" in results[0].reason) is not answer.startswith(b"421")
    if is_usable:
        peer.script |= {"MAIL": [b"250 ok"], "RCPT": [b"250 ok"], "DATA": [b"354 go"], "END": [b"250 ok"]}
        assert kinds(peer.send(2)) == [DELIVERED, DELIVERED]
        assert ("RSET" in peer.commands) is (phase != "END")
    elif answer != LOST:
        assert peer.transport.disconnecting


@pytest.mark.parametrize("reply", [b"452 4.3.1 Insufficient system resources", b"450 4.3.2 Service not active"])
def test_a_host_that_is_busy_leaves_the_mail_to_another(reply: bytes) -> None:
    peer = Peer(MAIL=[reply], RCPT=[b"503 no"], DATA=[b"503 no"])
    assert [(one.kind, one.next_host, one.host) for one in peer.send()] == [(DEFERRED, True, str(MX))]


def test_no_recipient_is_left_and_the_server_asks_for_content_all_the_same() -> None:
    peer = Peer(RCPT=[b"550 5.1.1 no"], END=[b"554 5.5.1 nobody"])
    results = peer.send(2)
    assert kinds(results) == [FAILED, FAILED]
    assert results[0].reply.code == 550
    assert peer.contents == [b".\r\n"]
    assert peer.session.is_usable
    lmtp = Peer(LMTP, RCPT=[b"550 5.1.1 no"])
    assert kinds(lmtp.send()) == [FAILED]
    assert (lmtp.contents, lmtp.session.is_usable) == ([], False)


@pytest.mark.parametrize("reply", [b"452 4.5.3 too many", b"552 too many", b"552 5.5.3 too many"])
def test_a_limit_of_recipients_is_no_failure(reply: bytes) -> None:
    peer = Peer(RCPT=[b"250 ok", reply])
    results = peer.send(3)
    assert kinds(results) == [DELIVERED, DEFERRED, DEFERRED]
    assert [result.again for result in results] == [False, True, True]


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ([b"552 too many", b"250 ok"], [FAILED, DELIVERED]),
        ([b"250 ok", b"552 5.2.2 mailbox full"], [DELIVERED, FAILED]),
        ([b"250 ok", b"452 4.2.2 mailbox full"], [DELIVERED, DEFERRED]),
    ],
)
def test_what_only_looks_like_a_limit(replies: list[bytes], expected: list[OutcomeKind]) -> None:
    results = Peer(RCPT=replies).send(2)
    assert kinds(results) == expected
    assert not any(result.again for result in results)


@given(st.integers(0, 2**32))
def test_noise_never_raises_and_never_delivers(seed: int) -> None:
    dice = random.Random(seed)
    peer = Peer()
    results = peer.start(2)
    while not results:
        size = dice.randrange(1, 60)
        peer.say(bytes(dice.choice(b"\r\n45\0 -xyz\xff") for _ in range(size)))
    assert all(result.kind is not DELIVERED for result in results)
