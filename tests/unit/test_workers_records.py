"""The log and the history that several processes write."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs
from twisted.python.failure import Failure

from mailgate.config.schema import Config
from mailgate.events import Event, OperatorActed, Started, WorkerEnded
from mailgate.observe.log import JsonLog
from mailgate.observe.recorder import Sink, Written
from mailgate.observe.render import Renderer
from mailgate.observe.search import directories, read_history
from mailgate.stores.counters import MemoryCounters
from mailgate.workers.logs import LogReader, LogWriter
from mailgate.workers.records import make_sinks
from mailgate.workers.team import Team, alone

NOW = 1_772_357_400.0


def config(tmp_path: Path, log: str = "mailgate.log", keep: str = "14d") -> Config:
    document = {
        "gateway": {"hostname": "gw.example.org", "state_dir": str(tmp_path)},
        "listeners": [{"name": "mx", "endpoints": ["tcp:25"], "pipeline": "in"}],
        "pipelines": {"in": {"filters": ["headers"]}},
        "log": {"path": log},
        "history": {"keep": keep},
        "spool": {"min_free": "1KiB"},
    }
    return Config.model_validate(document, context={"base": tmp_path})


def sinks(tmp_path: Path, worker: int, workers: int, **more: str) -> Sequence[Sink]:
    clock = Clock()
    whole = alone(clock, MemoryCounters(clock, 10))
    team = Team(slots=whole.slots, tally=whole.tally, counters=whole.counters, worker=worker, workers=workers)
    settings = config(tmp_path, **more)
    return make_sinks(team, settings, JsonLog(settings.log.path, tmp_path), tmp_path / "history")


def write(found: Sequence[Sink], *events: Event) -> None:
    renderer = Renderer()
    for sink in found:
        sink.write([Written(event, renderer.render(event)) for event in events])
        sink.tidy()


def held(at: float, queue_id: str = "ID", action: str = "hold") -> OperatorActed:
    return OperatorActed(at=at, action=action, queue_id=queue_id, recipients=("bob@box.test",))


def logged(tmp_path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (tmp_path / "mailgate.log").read_text().splitlines()]


def test_the_story_of_a_mail_is_told_whole_whoever_wrote_it(tmp_path: Path) -> None:
    first, second = sinks(tmp_path, 0, 2), sinks(tmp_path, 1, 2)
    write(second, held(NOW, action="hold"), held(NOW + 2, action="retry"))
    write(first, held(NOW + 1, action="release"), held(NOW + 3, action="delete"), held(NOW + 9, queue_id="OTHER"))
    (story,) = read_history(tmp_path / "history", "ID").stories
    assert [entry["action"] for entry in story.entries] == ["hold", "release", "retry", "delete"]
    found = read_history(tmp_path / "history", "bob@box.test")
    assert [story.id for story in found.stories] == ["OTHER", "ID"]
    assert read_history(tmp_path / "history", "bob@box.test", limit=1).more
    for sink in (*first, *second):
        sink.close()
    assert len(read_history(tmp_path / "history", "bob@box.test").stories) == 2


def test_a_file_that_cannot_be_read_is_named_as_it_lies(tmp_path: Path) -> None:
    second = sinks(tmp_path, 1, 2)
    write(second, held(NOW))
    (part,) = (tmp_path / "history" / "1").glob("*.db")
    for sink in second:
        sink.close()
    part.write_bytes(b"x" * 5000)
    assert read_history(tmp_path / "history", "ID").unreadable == (f"1/{part.name}",)


def test_what_happens_to_all_is_told_once(tmp_path: Path) -> None:
    started, ended = Started(at=NOW, listeners=("mx",)), WorkerEnded(at=NOW, worker=1, status="exit code 1")
    write(sinks(tmp_path, 0, 2), started)
    write(sinks(tmp_path, 1, 2), started, ended)
    assert logged(tmp_path) == ["started", "worker_ended"]


def test_one_process_writes_where_it_always_has(tmp_path: Path) -> None:
    write(sinks(tmp_path, 0, 1), Started(at=NOW, listeners=("mx",)), held(NOW))
    assert logged(tmp_path) == ["started", "operator_acted"]
    assert directories(tmp_path / "history") == [tmp_path / "history"]
    assert len(list((tmp_path / "history").glob("*.db"))) == 1


def test_what_workers_have_left_that_there_are_no_more_goes_in_time(tmp_path: Path) -> None:
    for worker in (1, 2):
        found = sinks(tmp_path, worker, 3)
        write(found, held(NOW))
        for sink in found:
            sink.close()
    old, newer = (next((tmp_path / "history" / name).glob("*.db")) for name in "12")
    os.utime(old, (NOW, NOW))
    write(sinks(tmp_path, 0, 1), held(NOW))
    assert not old.parent.exists()
    assert newer.exists()
    os.utime(newer, (NOW, NOW))
    write(sinks(tmp_path, 0, 3), held(NOW))
    assert newer.exists()  # its worker is there, and keeps house itself


def test_lines_of_several_processes_on_one_pipe_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, written = os.pipe()
    stdout = os.dup(1)
    os.dup2(written, 1)
    try:
        found = [sinks(tmp_path, number, 2, log="-") for number in range(2)]
        octets = bytearray()

        def drain() -> None:
            while piece := os.read(read, 1 << 16):
                octets.extend(piece)

        reader = threading.Thread(target=drain)
        reader.start()
        renderer = Renderer()
        batch = [Written(event, renderer.render(event)) for event in [held(NOW, queue_id="X" * 900)] * 200]
        writers = [threading.Thread(target=one[0].write, args=(batch,)) for one in found]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(written)
    reader.join()
    os.close(read)
    lines = bytes(octets).splitlines()
    assert len(lines) == 400
    assert all(json.loads(line)["queue_id"] == "X" * 900 for line in lines)


# -- the log of the process


def told(events: Sequence[LogEvent]) -> list[tuple[str, str, str]]:
    """What has got into the log."""
    return [
        (one["log_level"].name, one["log_namespace"], one["log_format"].format(**one))
        for one in events
        if one["log_namespace"] != "mailgate.workers.logs"
    ]


def written_by(*events: LogEvent) -> bytes:
    read, write_to = os.pipe()
    writer = LogWriter(write_to)
    for event in events:
        writer(event)
    os.close(write_to)
    with os.fdopen(read, "rb") as file:
        return file.read()


def event(level: LogLevel, text: str, **more: object) -> LogEvent:
    return {"log_level": level, "log_namespace": "mailgate.service", "log_format": "{text}", "text": text, **more}


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_a_workers_log_goes_into_ours(piece: int) -> None:
    octets = written_by(event(LogLevel.warn, "{mind} the gap"), event(LogLevel.info, "two\nlines"))
    with capturedLogs() as events:
        reader = LogReader(3)
        for start in range(0, len(octets), piece):
            reader.feed(octets[start : start + piece])
        reader.end()
    assert told(events) == [
        ("warn", "mailgate.service", "worker 3: {mind} the gap"),
        ("info", "mailgate.service", "worker 3: two"),
        ("info", "mailgate.service", "worker 3: lines"),
    ]


def test_a_failure_is_told_with_its_traceback() -> None:
    try:
        raise ValueError("the cause")
    except ValueError:
        failed = event(LogLevel.critical, "it failed", log_failure=Failure())
    with capturedLogs() as events:
        LogReader(0).feed(written_by(failed))
    texts = [text for _, _, text in told(events)]
    assert texts[0] == "worker 0: it failed"
    assert texts[-1].endswith("ValueError: the cause")


@pytest.mark.parametrize("line", [b"Fatal Python error: \xff", b"[1, 2, 3]", b'["loud", "x", "y"]', b"{"])
def test_what_is_no_entry_is_told_as_it_stands(line: bytes) -> None:
    with capturedLogs() as events:
        reader = LogReader(1)
        reader.feed(line)
        reader.end()
    assert told(events) == [("error", "stderr", f"worker 1: {line.decode(errors='replace')}")]


def test_a_line_without_end_is_cut_and_a_reader_that_is_gone_is_no_matter() -> None:
    with capturedLogs() as events:
        reader = LogReader(1)
        for _ in range(30):
            reader.feed(b"x" * 10_000)
        assert len(reader._rest) <= 64 * 1024
    assert told(events)
    assert len(written_by(event(LogLevel.info, "x" * 10_000_000))) < 64 * 1024
    read, write_to = os.pipe()
    os.close(read)
    LogWriter(write_to)(event(LogLevel.info, "to nobody"))
    os.close(write_to)
