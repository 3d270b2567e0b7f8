"""Clients that are slow, silent or deaf: how long each phase lasts, and who is waited for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mailgate.events import Refused
from mailgate.reply import Reply
from mailgate.verdict import Continue
from tests.unit.smtp_stand import CONTENT, ENVELOPE, Stand, Wire

MakeStand = Callable[..., Stand]

#: The defaults: 300 s for a command, 180 s for content, 3600 s for a session; 10 s for taking our last reply.
COMMAND, DATA, SESSION, PARTING = 300.0, 180.0, 3600.0, 10.0


def pass_by(stand: Stand, seconds: float) -> None:
    """Let time pass in steps: a timer that was moved must come in its turn."""
    whole = int(seconds)
    stand.clock.pump([1.0] * whole + ([seconds - whole] if seconds > whole else []))


PHASES: dict[str, Callable[[Wire], object]] = {
    "after the banner": lambda wire: wire.codes(),
    "within a command": lambda wire: wire.send(b"EHL"),
    "within an endless line": lambda wire: wire.send(b"x" * 5000),
    "after the greeting": lambda wire: wire.hello(),
    "within a transaction": lambda wire: wire.hello().send(ENVELOPE),
    "after a message": lambda wire: wire.data().send(CONTENT),
    "after a mistake": lambda wire: wire.say("FROB"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_silence_where_a_command_is_due(make_stand: MakeStand, phase: str) -> None:
    stand = make_stand()
    wire = stand.connect()
    PHASES[phase](wire)
    wire.codes()
    pass_by(stand, COMMAND - 1)
    assert wire.codes() == []
    assert not wire.is_closed
    pass_by(stand, 2)
    assert wire.codes() == [421]
    assert wire.is_closed
    wire.lose()
    assert stand.causes == ["timeout"]
    assert stand.refusals == ([("session", "421")] if phase == "within a transaction" else [])


def test_a_command_starts_the_time_again_and_its_pieces_do_not(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = stand.connect().hello()
    for _ in range(5):
        pass_by(stand, COMMAND - 1)
        assert wire.say("NOOP") == [250]
    for _ in range(int(COMMAND) - 1):
        pass_by(stand, 1)
        assert wire.send(b"x") == []
    pass_by(stand, 1)
    assert wire.codes() == [421]


@pytest.mark.parametrize("begun", [b"", b"Subject: x\r\n\r\nhalf a li", b"z" * 70 + b"\r\n" * 2000])
def test_silence_where_content_is_due(make_stand: MakeStand, begun: bytes) -> None:
    stand = make_stand()
    wire = stand.connect().data()
    wire.send(begun)
    pass_by(stand, DATA - 1)
    assert wire.codes() == []
    pass_by(stand, 2)
    assert wire.codes() == [421]
    assert stand.files == []
    (refused,) = stand.events.of(Refused)
    assert (refused.stage, refused.reply) == ("content", "421 4.4.2 Time-out, closing the connection")


def test_each_piece_of_content_starts_the_time_again(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = stand.connect().data()
    for _ in range(5):
        pass_by(stand, DATA - 1)
        wire.send(b"line\r\n")
    assert wire.send(b".\r\n") == [250]
    pass_by(stand, COMMAND - 1)
    assert wire.say("QUIT") == [221]


def test_refused_content_leaves_the_time_of_a_command(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = stand.connect().data()
    assert wire.send(b"a\nb\r\n.\r\n") == [550]
    pass_by(stand, COMMAND - 1)
    assert wire.say("NOOP") == [250]


@pytest.mark.parametrize("stage", ["connect", "helo", "mail", "rcpt", "data", "message", "take"])
def test_we_are_never_waited_for_on_the_clients_account(make_stand: MakeStand, stage: str) -> None:
    stand = make_stand()
    waited = stand.pend(stage)
    wire = stand.connect()
    wire.send(b"EHLO client.example\r\n" + ENVELOPE + b"DATA\r\n")
    if stage in ("message", "take"):
        wire.send(CONTENT)
    wire.codes()
    pass_by(stand, 2 * COMMAND)
    assert wire.codes() == []
    stand.script.answers.clear()
    verdict = {"message": [Continue()], "take": [Reply.of(250, "2.0.0", "queued")]}.get(stage, Continue())
    waited.callback(verdict)
    assert wire.codes() != []
    pass_by(stand, DATA - 1)
    assert not wire.is_closed
    pass_by(stand, COMMAND)
    assert wire.codes() == [421]


def test_a_session_has_its_end_however_busy_it_is(make_stand: MakeStand) -> None:
    stand = make_stand({"max_commands": 1000})
    wire = stand.connect().hello()
    for _ in range(int(SESSION / 100) - 1):
        pass_by(stand, 100)
        assert wire.say("NOOP") == [250]
    pass_by(stand, 101)
    assert wire.codes() == [421]
    assert wire.is_closed


def test_a_session_has_its_end_within_content(make_stand: MakeStand) -> None:
    stand = make_stand({"session_timeout": "10m"})
    wire = stand.connect().data()
    for _ in range(6):
        pass_by(stand, 99)
        assert wire.send(b"line\r\n") == []
    pass_by(stand, 7)
    assert wire.codes() == [421]


def test_a_session_may_be_shorter_than_a_command(make_stand: MakeStand) -> None:
    stand = make_stand({"session_timeout": "30s"})
    wire = stand.connect().hello()
    pass_by(stand, 29)
    assert wire.say("NOOP") == [250]
    pass_by(stand, 2)
    assert wire.codes() == [421]


def test_a_client_that_does_not_take_the_last_reply_is_cut(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = stand.connect().hello()
    assert wire.say("QUIT") == [221]
    pass_by(stand, PARTING - 1)
    assert not wire.transport.disconnected
    pass_by(stand, 1)
    assert wire.transport.disconnected


def test_a_silent_client_that_stays_is_cut_soon(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = stand.connect().hello()
    pass_by(stand, COMMAND + 1)
    assert wire.codes() == [421]
    pass_by(stand, PARTING)
    assert wire.transport.disconnected


def test_a_session_whose_time_is_over_still_parts(make_stand: MakeStand) -> None:
    stand = make_stand({"session_timeout": "30s"})
    wire = stand.connect().hello()
    pass_by(stand, 31)
    assert wire.codes() == [421]
    assert not wire.transport.disconnected
    pass_by(stand, PARTING)
    assert wire.transport.disconnected


def test_short_times_are_kept(make_stand: MakeStand) -> None:
    stand = make_stand({"command_timeout": "2s", "data_timeout": "5s"})
    wire = stand.connect().data()
    pass_by(stand, 4)
    assert wire.send(b"x\r\n") == []
    pass_by(stand, 4)
    assert wire.send(b".\r\n") == [250]
    pass_by(stand, 2.5)
    assert wire.codes() == [421]


def test_one_timer_for_all(make_stand: MakeStand) -> None:
    stand = make_stand()
    wires = [stand.connect(f"192.0.2.{number}").data() for number in range(1, 11)]
    assert len(stand.clock.getDelayedCalls()) == 1
    for wire in wires:
        wire.send(CONTENT)
        wire.say("QUIT")
        wire.lose()
    assert stand.clock.getDelayedCalls() == []
