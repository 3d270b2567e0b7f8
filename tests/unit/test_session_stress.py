"""Much at one time: the memory that content shares, a listener with hardly a connection left, and ETRN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from mailgate.message import ContentWriter, MemoryBudget
from mailgate.reply import Reply
from mailgate.verdict import Continue, Reject
from tests.unit.session_security import server
from tests.unit.smtp_stand import ENVELOPE, Stand, Wire

MakeStand = Callable[..., Stand]

LINE = b"z" * 70 + b"\r\n"


# -- memory


def stand_with(make_stand: MakeStand, ceiling: int, **settings: object) -> tuple[Stand, MemoryBudget]:
    budget = MemoryBudget(ceiling)
    return make_stand(settings, budget=budget, memory_limit=100_000), budget


def test_content_goes_to_files_when_all_of_it_is_too_much(make_stand: MakeStand) -> None:
    stand, budget = stand_with(make_stand, 2000)
    first, second, third = [stand.connect(f"192.0.2.{number}").data() for number in range(1, 4)]
    first.send(LINE * 20 + b"a")
    assert (budget.used, stand.files) == (1441, [])
    second.send(LINE * 7 + b"b")
    assert (budget.used, stand.files) == (1441 + 505, [])
    third.send(LINE + b"c")
    assert budget.used == 1441 + 505
    assert len(stand.files) == 1  # the one that was too much
    second.send(LINE * 2)
    assert budget.used == 1441
    assert len(stand.files) == 2
    for wire in (first, second, third):
        assert wire.send(b"\r\n.\r\n") == [250]
    assert budget.used == 0
    assert stand.script.messages == [LINE * 20 + b"a\r\n", LINE * 7 + b"b" + LINE * 2 + b"\r\n", LINE + b"c\r\n"]
    assert [content.in_memory for _, _, content, _ in stand.script.taken] == [True, False, False]
    assert stand.connect("192.0.2.4").data().send(LINE * 20 + b".\r\n") == [250]
    assert stand.script.taken[-1][2].in_memory


ENDS: dict[str, Callable[[Stand, Wire], object]] = {
    "the end of data": lambda stand, wire: wire.send(b".\r\n"),
    "a fault": lambda stand, wire: wire.send(b"a\nb\r\n"),
    "a fault in what is held": lambda stand, wire: wire.send(b"a\r"),
    "the connection is lost": lambda stand, wire: wire.lose(),
    "silence": lambda stand, wire: stand.clock.pump([1.0] * 200),
    "a cut": lambda stand, wire: stand.listener.cut(),
    "too large": lambda stand, wire: wire.send(LINE * 1000),
    "a drain": lambda stand, wire: (stand.listener.drain(), wire.send(b".\r\n")),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("ceiling", [100, 1_000_000])
def test_memory_is_given_back(make_stand: MakeStand, end: str, ceiling: int) -> None:
    stand, budget = stand_with(make_stand, ceiling, max_message_size="64KiB")
    wire = stand.connect().data()
    wire.send(LINE * 20)
    assert budget.used == (1438 if ceiling > 100 else 0)  # the last CRLF may be the beginning of the end
    assert len(stand.files) == (ceiling == 100)
    ENDS[end](stand, wire)
    if end == "a fault in what is held":
        wire.send(b"\r\n.\r\n")
    wire.codes()
    assert budget.used == 0


@pytest.mark.parametrize("end", ["RSET", "EHLO a", "QUIT", "BDAT 0 LAST", "BDAT x"])
def test_memory_of_chunks_is_given_back(make_stand: MakeStand, end: str) -> None:
    stand, budget = stand_with(make_stand, 1_000_000)
    wire = stand.connect().hello()
    wire.send(ENVELOPE + b"BDAT 72\r\n" + LINE + b"BDAT 100\r\n" + LINE)
    assert budget.used == 144
    wire.send(b"x" * 28)
    wire.say(end)
    if end in ("QUIT", "BDAT x"):
        wire.lose()
    assert budget.used == 0


@pytest.mark.parametrize("stage", ["data", "message"])
def test_memory_of_what_is_refused_is_given_back(make_stand: MakeStand, stage: str) -> None:
    stand, budget = stand_with(make_stand, 1_000_000)
    reject = Reject(Reply.of(550, "5.7.1", "No"), "because")
    stand.script.answers[stage] = [reject] if stage == "message" else reject
    wire = stand.connect().hello()
    assert wire.send(ENVELOPE + b"BDAT 72 LAST\r\n" + LINE)[-1] == 550
    assert budget.used == 0


def test_a_disk_that_is_full_gives_back_too(make_stand: MakeStand) -> None:
    stand, budget = stand_with(make_stand, 100)
    wire = stand.connect().data()
    stand.folder.rmdir()
    assert wire.send(LINE * 20 + b".\r\n") == [452]
    stand.folder.mkdir()
    assert budget.used == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300)), max_size=40), st.lists(st.booleans(), min_size=4))
def test_writers_share_what_there_is(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int]], ends: list[bool]
) -> None:
    folder = tmp_path_factory.mktemp("incoming")
    budget = MemoryBudget(500)
    writers = [ContentWriter(folder, 400, budget) for _ in range(4)]
    written = [b""] * 4
    for number, size in writes:
        octets = bytes([65 + number]) * size
        writers[number].write(octets)
        written[number] += octets
        assert 0 <= budget.used <= budget.ceiling
    for writer, octets, is_kept in zip(writers, written, ends, strict=False):
        if is_kept:
            content = writer.finish()
            assert content.read() == octets
            held = budget.used
            content.discard()
            content.give_back()
            content.give_back()
            assert budget.used == held - (len(octets) if content.in_memory else 0)
        writer.abandon()
    assert budget.used == 0
    assert list(folder.iterdir()) == []


# -- stress


def crowd(stand: Stand, count: int) -> list[Wire]:
    return [stand.connect(f"192.0.2.{number}").hello() for number in range(1, count + 1)]


def is_under_stress(stand: Stand) -> bool:
    return stand.listener.is_stressed


def test_stress_begins_at_nine_tenths_and_ends_below_eight(make_stand: MakeStand) -> None:
    logged: list[LogEvent] = []
    observer: ILogObserver = logged.append  # type: ignore[assignment]  # zope's way
    globalLogPublisher.addObserver(observer)
    stand = make_stand({"max_connections": 20})
    wires = crowd(stand, 17)
    assert not is_under_stress(stand)
    wires += [stand.connect("198.51.100.1")]
    assert is_under_stress(stand)
    wires += [stand.connect("198.51.100.2")]
    globalLogPublisher.removeObserver(observer)
    assert len([event for event in logged if "is under stress" in str(event.get("log_format"))]) == 1
    for wire in wires[:3]:
        wire.lose()
    assert (stand.listener.session_count, is_under_stress(stand)) == (16, True)
    wires[3].lose()
    assert (stand.listener.session_count, is_under_stress(stand)) == (15, False)


def test_who_is_silent_makes_room_sooner(make_stand: MakeStand) -> None:
    stand = make_stand({"max_connections": 10, "stress_timeout": "10s"})
    idle, *_others = crowd(stand, 8)
    stand.clock.pump([1.0] * 60)
    assert idle.codes() == []
    late = stand.connect("198.51.100.1")  # the ninth
    assert late.codes() == [220]
    stand.clock.pump([1.0] * 9)
    assert idle.codes() == []
    assert late.codes() == []
    stand.clock.pump([1.0] * 2)
    assert idle.codes() == [421]
    assert late.codes() == [421]
    for wire in stand.wires:
        wire.lose()
    assert set(stand.causes) == {"timeout"}


def test_who_goes_on_stays(make_stand: MakeStand) -> None:
    stand = make_stand({"max_connections": 10, "stress_timeout": "10s"})
    busy, *_others = crowd(stand, 9)
    for _ in range(8):
        stand.clock.pump([1.0] * 9)
        assert busy.say("NOOP") == [250]
    stand.clock.pump([1.0] * 11)
    assert busy.codes() == [421]


def test_content_is_hurried_too(make_stand: MakeStand) -> None:
    stand = make_stand({"max_connections": 10, "stress_timeout": "10s"})
    sending = stand.connect("198.51.100.1").data()
    crowd(stand, 8)
    sending.send(LINE)
    stand.clock.pump([1.0] * 11)
    assert sending.codes() == [421]
    assert stand.refusals == [("content", "421")]


def test_who_waits_for_us_is_not_hurried(make_stand: MakeStand) -> None:
    stand = make_stand({"max_connections": 10, "stress_timeout": "10s"})
    waited = stand.pend("mail")
    waiting = stand.connect("198.51.100.1").hello()
    waiting.say("MAIL FROM:<>")
    crowd(stand, 8)
    stand.clock.pump([1.0] * 60)
    assert waiting.codes() == []
    waited.callback(Continue())
    assert waiting.codes() == [250]
    stand.clock.pump([1.0] * 21)
    assert waiting.codes() == [421]


def test_after_stress_there_is_time_again(make_stand: MakeStand) -> None:
    stand = make_stand({"max_connections": 10, "stress_timeout": "10s"})
    wire, *others = crowd(stand, 9)
    assert is_under_stress(stand)
    for other in others:
        other.lose()
    assert not is_under_stress(stand)
    assert wire.say("NOOP") == [250]
    stand.clock.pump([1.0] * 290)
    assert wire.codes() == []


def test_one_connection_too_many_under_stress(make_stand: MakeStand) -> None:
    stand = make_stand({"max_connections": 10})
    crowd(stand, 10)
    assert stand.connect("198.51.100.1").codes() == [421]


def stressed(make_stand: MakeStand, **settings: Any) -> tuple[Stand, Wire]:
    """A listener under stress, and a client within content."""
    stand = make_stand({"max_connections": 10, "stress_timeout": "10s", "data_timeout": "180s", **settings})
    wire = stand.connect("198.51.100.1").data()
    crowd(stand, 8)
    assert is_under_stress(stand)
    return stand, wire


@pytest.mark.parametrize("is_chunked", [False, True])
def test_content_that_drips_makes_room(make_stand: MakeStand, is_chunked: bool) -> None:
    stand, wire = stressed(make_stand)
    if is_chunked:
        wire.send(b".\r\n")
        wire = stand.connect("198.51.100.2").hello()
        wire.send(ENVELOPE)
    for _ in range(10):
        wire.send(b"BDAT 1\r\nx" if is_chunked else b"x")
        assert 421 not in wire.codes()
        stand.clock.advance(1)
    assert wire.codes() == [421]
    assert stand.refusals == [("content", "421")]


def test_content_that_comes_renews_its_time(make_stand: MakeStand) -> None:
    stand, wire = stressed(make_stand)
    for _ in range(100):
        assert wire.send(b"z" * 70 + b"\r\n" + b"z" * 439 + b"\r\n") == []
        stand.clock.advance(1)
    assert wire.send(b".\r\n") == [250]
    assert wire.say("NOOP") == [250]
    stand.clock.pump([1.0] * 11)
    assert wire.codes() == [421]


def test_content_has_its_end_under_stress(make_stand: MakeStand) -> None:
    stand, wire = stressed(make_stand)
    for _ in range(18):
        assert wire.send(LINE * 100) == []
        stand.clock.pump([1.0] * 9 + [0.99])
    assert wire.codes() == []
    wire.send(LINE * 100)
    stand.clock.pump([0.1] * 5)
    assert wire.codes() == [421]


def test_each_message_has_its_own_time(make_stand: MakeStand) -> None:
    stand, wire = stressed(make_stand)
    chunk = b"BDAT 7200\r\n" + LINE * 100
    end = b".\r\n"
    for _ in range(4):
        wire.send(end + ENVELOPE + chunk)  # a message begins in the same piece as the one before it ends
        for _step in range(10):
            wire.send(chunk)
            stand.clock.pump([1.0] * 9)
        assert 421 not in wire.codes()
        end = b"BDAT 0 LAST\r\n"
    assert len(stand.script.taken) == 4


def test_content_has_all_its_time_again_after_stress(make_stand: MakeStand) -> None:
    stand, wire = stressed(make_stand)
    for other in stand.wires[1:]:
        other.lose()
    assert not is_under_stress(stand)
    wire.send(b"x")
    stand.clock.pump([1.0] * 179)
    assert wire.codes() == []
    wire.send(b"x")
    stand.clock.pump([1.0] * 181)
    assert wire.codes() == [421]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_header_that_does_not_come_makes_room(make_stand: MakeStand, is_first: bool) -> None:
    stand = make_stand({"max_connections": 10, "proxy_protocol_from": ["10.0.0.0/8"]})
    crowd(stand, 8 if is_first else 9)
    proxied = stand.connect("10.0.0.1")
    if is_first:
        assert is_under_stress(stand)  # by this one
    for one in b"PROXY TCP4":
        proxied.transport.protocol.dataReceived(bytes([one]))
        assert not proxied.is_closed
        stand.clock.advance(1)
    assert proxied.is_closed
    stand.strangers += 1


@pytest.mark.parametrize("is_implicit", [True, False])
def test_a_handshake_that_does_not_go_on_makes_room(make_stand: MakeStand, tmp_path: Path, is_implicit: bool) -> None:
    stand = make_stand({"max_connections": 10, "tls": "implicit" if is_implicit else "optional"}, tls=server(tmp_path))
    wires = [stand.connect(f"192.0.2.{number}") for number in range(1, 9)]
    if not is_implicit:
        for wire in wires:
            assert wire.hello().say("STARTTLS") == [220]
    stand.clock.advance(5)
    late = stand.connect("198.51.100.1")
    assert is_under_stress(stand)
    stand.clock.pump([1.0] * 9)
    assert not any(wire.is_closed for wire in wires)
    stand.clock.advance(1)
    assert all(wire.transport.disconnected for wire in wires)
    assert late.is_closed


# -- ETRN (RFC 1985)


def trusted(make_stand: MakeStand, **services: Any) -> tuple[Stand, Wire]:
    stand = make_stand({"role": "outbound", "trusted_networks": ["192.0.2.0/24"]}, **services)
    return stand, stand.connect().hello()


@pytest.mark.parametrize("domain", ["example.com", "EXAMPLE.com"])
def test_what_waits_for_a_domain_is_tried_now(make_stand: MakeStand, domain: str) -> None:
    stand, wire = trusted(make_stand)
    wire.protocol.dataReceived(f"ETRN {domain}\r\n".encode())
    (reply,) = wire.replies()
    assert str(reply) == "253 2.0.0 OK, 2 pending messages for node example.com started"
    assert stand.turned == ["example.com"]


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        (lambda domain: _now(0), 251),
        (lambda domain: _now(7), 253),
        (lambda domain: fail(ZeroDivisionError("a bug")), 458),
    ],
)
def test_what_came_of_it(make_stand: MakeStand, turn: Callable[[str], Deferred[int]], code: int) -> None:
    stand, wire = trusted(make_stand, turn=turn)
    assert wire.say("ETRN example.com", "NOOP") == [code, 250]
    assert stand.failed() == (["a bug"] if code == 458 else [])


def _now(count: int) -> Deferred[int]:
    deferred: Deferred[int] = Deferred()
    deferred.callback(count)
    return deferred


def test_an_answer_that_takes_its_time(make_stand: MakeStand) -> None:
    count: Deferred[int] = Deferred()
    _stand, wire = trusted(make_stand, turn=lambda domain: count)
    assert wire.say("ETRN example.com", "NOOP") == []
    count.callback(1)
    assert wire.codes() == [253, 250]


@pytest.mark.parametrize("argument", ["", "@", "a b", "-", "example..com", "<example.com>", "#queue", "@example.com"])
def test_what_is_no_domain(make_stand: MakeStand, argument: str) -> None:
    stand, wire = trusted(make_stand)
    assert wire.say(f"ETRN {argument}", "NOOP") == [501, 250]
    assert stand.turned == []


def test_who_may_not(make_stand: MakeStand) -> None:
    stand = make_stand()
    assert stand.connect().hello().say("ETRN example.com") == [459]
    assert stand.refusals == [("etrn", "459")]
    assert stand.turned == []
    stand = make_stand({"role": "outbound", "trusted_networks": ["192.0.2.0/24"]})
    assert stand.connect().say("ETRN example.com") == [220, 503]
    assert stand.turned == []
    stand, wire = trusted(make_stand)
    assert wire.say("MAIL FROM:<>", "ETRN example.com", "RSET", "ETRN example.com") == [250, 503, 250, 253]
