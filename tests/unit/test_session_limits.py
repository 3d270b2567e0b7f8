"""Bounds: errors, commands, messages, recipients, sizes, connections; and the end of a listener."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.address import Address
from mailgate.config.schema import ListenerSection
from mailgate.envelope import Session, Target, Transaction
from mailgate.events import Refused, SessionClosed
from mailgate.reply import Reply
from mailgate.smtp.protocol import ServerProtocol
from mailgate.verdict import Continue, Reject
from tests.unit.smtp_stand import CONTENT, ENVELOPE, Script, Stand

MakeStand = Callable[..., Stand]


def test_errors(make_stand: MakeStand) -> None:
    stand = make_stand({"max_errors": 3})
    wire = stand.connect().hello()
    assert wire.say("FROB", "NOOP", "MAIL", "RCPT TO:<bob@example.org>", "NOOP") == [500, 250, 501, 503, 421]
    assert wire.is_closed
    wire.lose()
    assert stand.causes == ["errors"]


@pytest.mark.parametrize("refusal", ["a filter", "the content"])
def test_refusals_are_errors_too(make_stand: MakeStand, refusal: str) -> None:
    stand = make_stand({"max_errors": 1})
    if refusal == "a filter":
        stand.script.answers["mail"] = Reject(Reply.of(550, "5.7.1", "No"), "no")
        wire = stand.connect().hello()
        assert wire.say("MAIL FROM:<>", "NOOP") == [550, 421]
    else:
        wire = stand.connect().data()
        assert wire.send(b"a\nb\r\n.\r\nNOOP\r\n") == [550, 421]


def test_commands_without_a_message_between_them(make_stand: MakeStand) -> None:
    stand = make_stand({"max_commands": 10})
    wire = stand.connect().hello()  # EHLO is the first
    assert wire.say(*["NOOP"] * 8, "MAIL FROM:<>", "RCPT TO:<bob@example.org>", "DATA") == [250] * 10 + [354]
    assert wire.send(CONTENT) == [250]
    assert wire.say(*["NOOP"] * 10, "NOOP") == [250] * 10 + [421]
    assert wire.is_closed


def test_transactions_that_come_to_nothing_are_commands(make_stand: MakeStand) -> None:
    wire = make_stand({"max_commands": 10}).connect().hello()
    said = wire.say(*["MAIL FROM:<>", "RCPT TO:<bob@example.org>", "RSET"] * 5)
    assert said == [250, 250, 250] * 4 + [250, 250, 421]


def test_quitting_is_always_allowed(make_stand: MakeStand) -> None:
    wire = make_stand({"max_commands": 10}).connect().hello()
    assert wire.say(*["NOOP"] * 9, "QUIT") == [250] * 9 + [221]


def test_messages(make_stand: MakeStand) -> None:
    stand = make_stand({"max_messages": 2})
    wire = stand.connect().data()
    assert wire.send(CONTENT + ENVELOPE + b"DATA\r\n" + CONTENT + b"NOOP\r\n" + ENVELOPE) == [
        250,
        250,
        250,
        354,
        250,
        250,
        421,
    ]
    wire.lose()
    (closed,) = stand.events.of(SessionClosed)
    assert (closed.messages, closed.cause) == (2, "limits")


def recipients(count: int, start: int = 0) -> list[str]:
    return [f"RCPT TO:<user{number}@example.org>" for number in range(start, start + count)]


def test_recipients(make_stand: MakeStand) -> None:
    stand = make_stand({"max_recipients": 100, "max_errors": 5})
    wire = stand.connect().hello()
    assert wire.say("MAIL FROM:<>", *recipients(130)) == [250] * 101 + [452] * 30
    (refused,) = stand.events.of(Refused)  # one tells of them all
    assert (refused.recipient, refused.reply[:3]) == ("user100@example.org", "452")
    assert wire.say("DATA") == [354]
    wire.send(CONTENT)
    assert len(stand.script.taken[0][1].recipients) == 100
    assert wire.say("MAIL FROM:<>", *recipients(30, 100)) == [250] * 31


def aliases(stand: Stand, sizes: dict[str, int]) -> None:
    """Local parts that stand for so many others."""

    def route(session: Session, transaction: Transaction, address: Address) -> Any:
        name = address.local_part.partition("+")[0]
        if name not in sizes:
            return "inside"
        return tuple(Target(Address(f"{address.local_part}.{n}", "d.test"), "inside") for n in range(sizes[name]))

    stand.script.route = route  # type: ignore[method-assign]  # of this listener


def test_those_that_an_address_stands_for_count(make_stand: MakeStand) -> None:
    """Extensions make new targets without end: ten RCPTs must not be ten thousand recipients."""
    stand = make_stand({"max_recipients": 100})
    aliases(stand, {"all": 40})
    wire = stand.connect().hello()
    said = wire.say("MAIL FROM:<>", *[f"RCPT TO:<all+{number}@example.org>" for number in range(5)])
    assert said == [250, 250, 250, 452, 452, 452]
    (refused,) = stand.events.of(Refused)
    assert refused.recipient == "all+2@example.org"
    assert "80 so far, aliases resolved" in refused.reason
    assert wire.say(*recipients(21)) == [250] * 20 + [452]
    assert wire.say("RSET", "MAIL FROM:<>", "RCPT TO:<all+2@example.org>") == [250] * 3


def test_an_address_that_stands_for_more_than_there_may_be_has_a_mail_for_itself(make_stand: MakeStand) -> None:
    stand = make_stand({"max_recipients": 100})
    aliases(stand, {"all": 500})
    wire = stand.connect().hello()
    assert wire.say("MAIL FROM:<>", "RCPT TO:<bob@example.org>", "RCPT TO:<all@example.org>") == [250, 250, 452]
    assert wire.say("RSET", "MAIL FROM:<>", "RCPT TO:<all@example.org>", *recipients(1)) == [250, 250, 250, 452]
    assert wire.say("RCPT TO:<all@example.org>") == [452]
    assert wire.say("DATA") == [354]
    wire.send(CONTENT)
    assert len(stand.script.taken[0][1].recipients[0].targets) == 500


def test_recipients_without_end(make_stand: MakeStand) -> None:
    wire = make_stand({"max_recipients": 100, "max_errors": 3}).connect().hello()
    assert wire.say("MAIL FROM:<>", *recipients(210)) == [250] * 101 + [452] * 103 + [421]
    assert wire.is_closed


def test_the_same_recipient_without_end(make_stand: MakeStand) -> None:
    wire = make_stand({"max_recipients": 100, "max_errors": 3}).connect().hello()
    said = wire.say("MAIL FROM:<>", *["RCPT TO:<bob@example.org>"] * 210)
    assert said == [250] * 101 + [452] * 103 + [421]


def test_sizes_at_the_limit(make_stand: MakeStand) -> None:
    stand = make_stand({"max_message_size": "64KiB"})
    wire = stand.connect().hello()
    assert wire.say("MAIL FROM:<> SIZE=65537", "MAIL FROM:<> SIZE=65536") == [552, 250]
    assert stand.refusals == [("mail", "552")]
    assert wire.say("RCPT TO:<bob@example.org>", "DATA") == [250, 354]
    line = b"x" * 62 + b"\r\n"
    assert wire.send(line * 1024 + b".\r\n") == [250]
    assert wire.send(ENVELOPE + b"DATA\r\n" + line * 1024 + b"\r\n.\r\n") == [250, 250, 354, 552]


def test_the_longest_command_line(make_stand: MakeStand) -> None:
    wire = make_stand().connect().hello()
    longest = b"NOOP " + b"x" * (2048 - 7) + b"\r\n"
    assert wire.send(longest) == [250]
    assert wire.send(b"x" + longest) == [500]
    assert wire.send(b"NOOP" + b"x" * 1_000_000) == []
    assert wire.send(b"\r") == []
    assert wire.send(b"\r\nNOOP\r\n") == [500, 250]


@pytest.mark.parametrize("octets", [b"NOOP\n", b"\n", b"NOOP\nNOOP\r\n", b"EHLO a\n\r\n", b"x\n" + b"y" * 3000])
def test_lines_that_end_otherwise_end_the_session(make_stand: MakeStand, octets: bytes) -> None:
    wire = make_stand().connect().hello()
    assert wire.send(octets) == [500]
    assert wire.is_closed


# -- connections


def test_connections_in_all(make_stand: MakeStand) -> None:
    stand = make_stand({"max_connections": 2})
    first, _ = stand.connect("192.0.2.1"), stand.connect("192.0.2.2")
    third = stand.connect("192.0.2.3")
    assert third.codes() == [421]
    assert third.is_closed
    assert stand.script.asked == ["connect"] * 2
    third.lose()
    first.lose()
    assert stand.connect("192.0.2.3").codes() == [220]
    assert stand.causes == ["refused", "lost"]
    assert stand.events.of(Refused)[0].reason == "max_connections of the listener is 2"


def test_refused_connections_take_no_place(make_stand: MakeStand) -> None:
    stand = make_stand({"max_connections": 3, "max_connections_per_client": 2})
    assert [stand.connect("192.0.2.1").codes() for _ in range(6)] == [[220]] * 2 + [[421]] * 4
    assert stand.connect("192.0.2.2").codes() == [220]
    stand.wires[0].lose()
    assert stand.connect("192.0.2.1").codes() == [220]  # though the refused ones have not gone yet


def test_so_many_may_wait_to_take_their_refusal(make_stand: MakeStand) -> None:
    stand = make_stand({"max_connections": 1})
    stand.connect("192.0.2.1").hello()
    told = [stand.connect(f"192.0.2.{number}") for number in range(2, 102)]
    assert [wire.codes() for wire in told] == [[421]] * 100
    untold = [stand.connect(f"192.0.2.{number}") for number in range(102, 110)]
    for wire in untold:
        assert wire.codes() == []
        assert wire.transport.disconnected
        assert wire.send(b"EHLO client.example\r\n") == []
    assert stand.refusals == [("connect", "421")] * 100 + [("connect", "")] * 8
    for wire in (*told[:1], *untold):
        wire.lose()
    assert stand.connect("192.0.2.200").codes() == [421]
    stand.wires[0].lose()
    assert stand.connect("192.0.2.201").codes() == [220]


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("0.0.0.1", "::", False),
        ("/run/mail.sock", "/run/mail.sock", False),
    ],
)
def test_connections_of_one_client(make_stand: MakeStand, first: str, second: str, is_same: bool) -> None:
    stand = make_stand({"max_connections_per_client": 1})
    one = stand.connect(first)
    assert stand.connect(second).codes() == [421 if is_same else 220]
    one.lose()
    stand.wires[1].lose()
    assert stand.connect(second).codes() == [220]


def test_a_link_local_client(make_stand: MakeStand) -> None:
    assert str(make_stand().connect("fe80::1%eth0").session.client) == "unknown[fe80::1]"


# -- reload and the end


def test_a_reload_is_for_new_sessions(make_stand: MakeStand) -> None:
    stand = make_stand({"max_messages": 1})
    old = stand.connect().hello()
    script = Script()
    script.answers["helo"] = Reject(Reply.of(550, "5.7.1", "No"), "new")
    section = {"name": "mx", "endpoints": ["tcp:25"], "pipeline": "p", "resolve_clients": False}
    stand.listener.serve(ListenerSection.model_validate(section), replace(stand.listener.services, pipeline=script))
    assert old.say("EHLO client.example") == [250]
    assert stand.connect("192.0.2.2").say("EHLO client.example") == [220, 550]


def ended(listening: Deferred[None]) -> bool:
    results: list[object] = []
    listening.addCallback(results.append)
    return bool(results)


def test_a_listener_at_rest_is_drained_at_once(make_stand: MakeStand) -> None:
    assert ended(make_stand().listener.drain())


def test_idle_sessions_are_let_go_and_busy_ones_finish(make_stand: MakeStand) -> None:
    stand = make_stand()
    waited = stand.pend("take")
    idle = stand.connect("192.0.2.1").hello()
    started = stand.connect("192.0.2.2").hello()
    started.send(ENVELOPE)
    sending = stand.connect("192.0.2.3").data()
    taking = stand.connect("192.0.2.4").data()
    taking.send(CONTENT)
    drained = stand.listener.drain()
    assert idle.codes() == [421]
    assert idle.is_closed
    for wire in (started, sending, taking):
        assert wire.codes() == []
        assert not wire.is_closed
    waited.callback([Reply.of(250, "2.0.0", "queued")])
    assert taking.codes() == [250, 421]
    del stand.script.answers["take"]
    assert started.say("DATA") == [354]
    assert started.send(CONTENT) == [250, 421]
    assert sending.send(CONTENT + ENVELOPE) == [250, 421]  # no new transaction
    for wire in stand.wires:
        assert not ended(drained)
        wire.lose()
    assert ended(drained)
    assert stand.causes == ["shutdown"] * 4


def test_a_session_before_its_banner_is_let_go_behind_it(make_stand: MakeStand) -> None:
    stand = make_stand()
    waited = stand.pend("connect")
    wire = stand.connect()
    stand.listener.drain()
    assert wire.codes() == []
    waited.callback(Continue())
    assert wire.codes() == [220, 421]


def test_a_transaction_that_begins_while_draining_is_finished(make_stand: MakeStand) -> None:
    stand = make_stand()
    waited = stand.pend("mail")
    wire = stand.connect().hello()
    wire.say("MAIL FROM:<>")
    stand.listener.drain()
    waited.callback(Continue())
    assert wire.codes() == [250]
    assert wire.say("RCPT TO:<bob@example.org>", "RSET") == [250, 250, 421]


def test_connections_that_come_while_draining_are_refused(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.connect().hello().send(ENVELOPE)
    drained = stand.listener.drain()
    late = stand.connect()
    assert late.codes() == [421]
    stand.wires[0].lose()
    assert not ended(drained)
    late.lose()
    assert ended(drained)


def test_what_is_left_is_cut(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = stand.connect().data()
    drained = stand.listener.drain()
    stand.listener.cut()
    assert wire.codes()[-1] == 421
    assert wire.is_closed
    wire.lose()
    assert stand.causes == ["shutdown"]
    assert ended(drained)


def test_a_session_that_cannot_begin_is_not_counted(make_stand: MakeStand) -> None:
    stand = make_stand()
    protocol = stand.listener.buildProtocol(None)
    assert isinstance(protocol, ServerProtocol)
    protocol.connectionLost()
    assert stand.listener.session_count == 0
    assert stand.causes == []
