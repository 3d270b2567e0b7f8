"""Events as lines, the thread that writes them, and the file that they are in."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate import events
from mailgate.envelope import TraceStep
from mailgate.events import (
    ConfigRefused,
    Deferred,
    Event,
    MessageAccepted,
    Refused,
    SessionClosed,
    SiteSlowed,
    Stopped,
    Stopping,
    SuspensionChanged,
)
from mailgate.observe.log import JsonLog
from mailgate.observe.recorder import Recorder, Written
from mailgate.observe.render import Renderer, event_name, from_stamp, to_stamp

AT = 1_772_357_400.123

REFUSED = Refused(
    at=AT,
    session="S",
    client="unknown[192.0.2.1]",
    listener="mx",
    helo="client.test",
    stage="rcpt",
    filter="access",
    reason="listed",
    reply="550 5.7.1 no",
    trace=(TraceStep("rcpt", "access", "reject", "listed", 0.002), TraceStep("rcpt", "x", "reject", enforced=False)),
)


def line_of(event: Event) -> dict[str, Any]:
    line = Renderer().render(event)
    assert line.isascii()
    assert b"\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def closed(helo: str = "h", at: float = AT) -> SessionClosed:
    return SessionClosed(
        at=at, session="S", client="c", listener="mx", helo=helo, messages=1, seconds=0.5, cause="quit"
    )


def test_a_line() -> None:
    assert Renderer().render(Stopped(at=AT)) == b'{"at":"2026-03-01T09:30:00.123Z","event":"stopped"}'
    assert line_of(REFUSED) == {
        "at": "2026-03-01T09:30:00.123Z",
        "event": "refused",
        "session": "S",
        "client": "unknown[192.0.2.1]",
        "listener": "mx",
        "helo": "client.test",
        "stage": "rcpt",
        "filter": "access",
        "reason": "listed",
        "reply": "550 5.7.1 no",
        "trace": [
            {"stage": "rcpt", "filter": "access", "verdict": "reject", "reason": "listed", "seconds": 0.002},
            {"stage": "rcpt", "filter": "x", "verdict": "reject", "enforced": False},
        ],
    }


def test_what_is_not_ascii_is_escaped() -> None:
    line = Renderer().render(msgspec.structs.replace(REFUSED, helo="grüße.test\u2028\u202e", reason="\x1b[2J\r\n"))
    assert line.isascii()
    assert not re.search(rb"[\x00-\x1f]", line)
    assert (json.loads(line)["helo"], json.loads(line)["reason"]) == ("grüße.test\u2028\u202e", "\x1b[2J\r\n")


def test_what_most_filters_say_goes_without_saying() -> None:
    trace = (TraceStep("rcpt", "access"), TraceStep("rcpt", "x", "continue", "why"))
    assert line_of(msgspec.structs.replace(REFUSED, trace=trace))["trace"] == [
        {"stage": "rcpt", "filter": "access"},
        {"stage": "rcpt", "filter": "x", "reason": "why"},
    ]


def test_a_moment_that_is_not_set_is_left_out() -> None:
    slowed = SiteSlowed(at=AT, site="mx", source="", factor=0.5, rests_until=0.0, reason="421")
    assert line_of(slowed) == {
        "at": "2026-03-01T09:30:00.123Z",
        "event": "site_slowed",
        "site": "mx",
        "source": "",
        "factor": 0.5,
        "reason": "421",
    }
    resting = msgspec.structs.replace(slowed, rests_until=AT + 60)
    assert line_of(resting)["rests_until"] == "2026-03-01T09:31:00.123Z"
    # so it is where the line is made with care
    assert "rests_until" not in line_of(msgspec.structs.replace(slowed, reason="x" * 100_000))


def test_moments_are_stamps_and_durations_numbers() -> None:
    found = line_of(
        Deferred(
            at=AT,
            queue_id="Q",
            sender="",
            recipient="b@c.test",
            route="r",
            host="",
            reply="451 later",
            attempt=1,
            seconds=1.5,
            next_attempt=AT + 300,
        )
    )
    assert (found["next_attempt"], found["seconds"]) == ("2026-03-01T09:35:00.123Z", 1.5)


@pytest.mark.parametrize("name", [name for name in events.__all__ if name != "Event"])
def test_every_event_has_a_line(name: str) -> None:
    kind = getattr(events, name)
    values = dict.fromkeys(kind.__struct_fields__, 1.0)
    assert line_of(kind(**values))["event"] == event_name(kind)


def test_names() -> None:
    assert event_name(ConfigRefused) == "config_refused"
    assert event_name(MessageAccepted) == "message_accepted"


@given(st.floats(0, 4e9))
def test_stamps_keep_the_moment_and_its_order(moment: float) -> None:
    assert abs(from_stamp(to_stamp(moment)) - moment) <= 0.0006
    assert to_stamp(moment) <= to_stamp(moment + 0.002)


@given(st.text(st.characters(), max_size=50))
def test_what_a_peer_sent_cannot_forge_a_line(text: str) -> None:
    found = line_of(closed(text))
    assert found["helo"] == text.encode("utf-8", "backslashreplace").decode()
    assert found["event"] == "session_closed"


@pytest.mark.parametrize("at", [float("nan"), float("inf"), 1e20, -1e20])
def test_a_moment_that_is_none_costs_no_line(at: float) -> None:
    assert line_of(closed(at=at))["helo"] == "h"
    renderer = Renderer()
    renderer.render(closed(at=at))
    assert b'"at":"2026-03-01T09:30:00.123Z"' in renderer.render(closed())


def test_long_texts_are_cut() -> None:
    found = line_of(msgspec.structs.replace(REFUSED, reason="x" * 100_000))
    assert found["reason"] == "x" * 1000 + "..."
    assert len(found["trace"]) == 2


class Foreign(Event, frozen=True, kw_only=True):
    """A third party's event, with what JSON has no form for."""

    thing: threading.Event
    ratio: float = 0.0


def test_a_foreign_event_has_a_line_too() -> None:
    found = line_of(Foreign(at=AT, thing=threading.Event(), ratio=float("inf")))
    assert found["event"] == "foreign"
    assert found["ratio"] == "inf"
    assert "Event" in found["thing"]


# -- the recorder


class Shelf:
    """A sink that keeps what it is given, and stops at a gate."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.calls: list[str] = []
        self.lost = 0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def write(self, batch: Sequence[Written]) -> None:
        self.entered.set()
        self.gate.wait(60)
        self.lines += [one.line for one in batch]

    def missed(self, count: int) -> None:
        self.lost += count

    def tidy(self) -> None:
        self.calls.append("tidy")

    def close(self) -> None:
        self.calls.append("close")


class BrokenShelf(Shelf):
    def write(self, batch: Sequence[Written]) -> None:
        raise RuntimeError("a bug")


def test_events_come_to_every_sink_in_order_even_beside_a_broken_one() -> None:
    shelf = Shelf()
    recorder = Recorder([BrokenShelf(), shelf])
    for number in range(3000):
        recorder.observe(Stopping(at=float(number)))
    assert recorder.flush()
    assert [from_stamp(json.loads(line)["at"]) for line in shelf.lines] == [float(number) for number in range(3000)]
    recorder.observe(Stopping(at=1.0))
    recorder.close()
    assert len(shelf.lines) == 3001
    assert shelf.calls[-1] == "close"


def test_what_is_too_much_is_dropped_and_counted() -> None:
    shelf = Shelf()
    shelf.gate.clear()
    recorder = Recorder([shelf], delay=0.0, limit=10)
    recorder.observe(Stopping(at=1.0))
    assert shelf.entered.wait(60)
    for _ in range(25):
        recorder.observe(Stopping(at=2.0))
    shelf.gate.set()
    recorder.close()
    assert (len(shelf.lines), shelf.lost) == (11, 15)


def test_a_sink_that_hangs_holds_nobody_up_for_ever() -> None:
    shelf = Shelf()
    shelf.gate.clear()
    recorder = Recorder([shelf], delay=0.0)
    recorder.observe(Stopping(at=1.0))
    assert shelf.entered.wait(60)
    assert not recorder.flush(timeout=0.0)
    recorder.close(timeout=0.0)
    assert "close" not in shelf.calls
    shelf.gate.set()


# -- the file


def written(*numbers: int) -> list[Written]:
    return [Written(Stopping(at=float(number)), b"line %d" % number) for number in numbers]


def test_lines_are_appended_to_a_private_file(tmp_path: Path) -> None:
    for numbers in ((1, 2), (3,)):
        log = JsonLog("m.log", tmp_path)
        log.write(written(*numbers))
        log.close()
    path = tmp_path / "m.log"
    assert path.read_bytes() == b"line 1\nline 2\nline 3\n"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["box", "box lone \udcff surrogate"])
def test_moments_that_are_none_are_left_out(name: str) -> None:
    told = SuspensionChanged(at=AT, kind="route", name=name, is_suspended=True, until=AT + 60)
    assert line_of(told)["until"] == "2026-03-01T09:31:00.123Z"
    assert "until" not in line_of(msgspec.structs.replace(told, until=0.0))


def test_no_log(tmp_path: Path) -> None:
    log = JsonLog("", tmp_path)
    log.write(written(1))
    log.reopen()
    log.write(written(2))
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_standard_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = JsonLog("-", tmp_path)
    log.write(written(1))
    log.reopen()
    log.write(written(2))
    log.close()
    os.write(1, b"still open\n")
    assert capfd.readouterr().out == "line 1\nline 2\nstill open\n"


def test_reopen_after_the_file_was_renamed(tmp_path: Path) -> None:
    log = JsonLog("m.log", tmp_path)
    log.write(written(1))
    (tmp_path / "m.log").rename(tmp_path / "m.log.1")
    log.write(written(2))
    log.reopen()
    log.write(written(3))
    log.close()
    assert (tmp_path / "m.log.1").read_bytes() == b"line 1\nline 2\n"
    assert (tmp_path / "m.log").read_bytes() == b"line 3\n"


def test_a_log_that_cannot_be_opened_anew_goes_on_in_the_old_file(tmp_path: Path) -> None:
    log = JsonLog("m.log", tmp_path)
    (tmp_path / "m.log").rename(tmp_path / "m.log.1")
    (tmp_path / "m.log").mkdir()
    log.reopen()
    log.write(written(1))
    log.close()
    assert (tmp_path / "m.log.1").read_bytes() == b"line 1\n"


def test_a_full_disk_costs_lines_and_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "m.log"
    path.symlink_to("/dev/full")
    log = JsonLog("m.log", tmp_path)
    log.write(written(1, 2))
    log.tidy()
    log.missed(3)
    log.write(written(3))
    assert log.lost == 6
    path.unlink()
    log.reopen()
    log.write(written(4))
    log.write(written(5))
    assert log.lost == 0
    log.close()
    note, *lines = path.read_text().splitlines()
    assert lines == ["line 4", "line 5"]
    told = json.loads(note)
    assert (told["event"], told["count"], told["error"]) == ("log_lines_lost", 6, os.strerror(28))


def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes some octets, then no more, then all: a short write, as a disk that fills up makes it."""
    room = [10]
    write = os.write

    def short(descriptor: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = write(descriptor, data[: room[0]])
        room[0] -= taken
        return taken

    log = JsonLog("m.log", tmp_path)
    monkeypatch.setattr("mailgate.observe.log.os.write", short)
    log.write(written(1, 2))
    assert log.lost == 1
    room[0] = 10_000
    log.write(written(3))
    log.close()
    monkeypatch.undo()
    lines = (tmp_path / "m.log").read_text().splitlines()
    assert lines[:2] == ["line 1", "lin"]
    assert json.loads(lines[2])["count"] == 1
    assert lines[3:] == ["line 3"]
    assert log.lost == 0
