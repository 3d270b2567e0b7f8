"""Files of lines: what is read, what is wrong with them, and when they are read again."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs

from mailgate.stores.lists import FileError, LineError, LinesError, WatchedFile

Lines = list[tuple[int, str]]


def words(lines: Iterable[tuple[int, str]]) -> Lines:
    """Takes every line, but for those that say "bad"; a file with "worse" is wrong as a whole."""
    found = list(lines)
    for number, line in found:
        if line == "bad":
            raise LineError(number, f'"{line}" is no word')
    if any(line == "worse" for _, line in found):
        raise ValueError("this list is wrong")
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "list"


@pytest.fixture
def logged() -> Iterator[Sequence[LogEvent]]:
    with capturedLogs() as events:
        yield events


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"# comment\n\n  one  \n\ttwo # comment\n   # comment\nthree#3\n", [(3, "one"), (4, "two"), (6, "three#3")]),
        (b"one\r\ntwo\r\n", [(1, "one"), (2, "two")]),
        (b"\xef\xbb\xbfone\n", [(1, "one")]),
        ("jörg\u2028x\nlast".encode(), [(1, "jörg\u2028x"), (2, "last")]),
    ],
)
def test_lines_are_numbered_without_comments_and_blanks(path: Path, content: bytes, lines: Lines) -> None:
    path.write_bytes(content)
    assert WatchedFile(path, words, Clock()).value == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# comment\ngood\nbad\n", ':3: "bad" is no word'),
        (b"good\nb\xffd\n", ":2: not UTF-8"),
        (b"worse\n", ": this list is wrong"),
        (None, ": cannot be read: No such file or directory"),
    ],
)
def test_what_is_wrong_at_first_is_an_error(path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}{message}')}$"):
        WatchedFile(path, words, Clock())


class Writer:
    """Gives the octets of a file, and writes a line behind them right afterwards, `left` times."""

    def __init__(self, path: Path, left: int) -> None:
        self.path = path
        self.left = left

    def octets(self) -> bytes:
        content = self.path.read_bytes()
        if self.left:
            self.left -= 1
            self.path.write_bytes(content + b"more\n")
        return content


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_file_that_is_written_while_it_is_read_is_read_again(path: Path, writes: int) -> None:
    path.write_text("one\n")
    file = WatchedFile(path, words, Clock(), octets=Writer(path, writes).octets)
    assert len(file.value) == 1 + writes


def test_at_the_start_the_last_reading_stands_for_a_second(path: Path) -> None:
    path.write_text("one\n")
    clock, writer = Clock(), Writer(path, 3)
    file = WatchedFile(path, words, clock, octets=writer.octets)
    assert (len(file.value), writer.left) == (3, 0)
    others = set(threading.enumerate())
    clock.advance(1)
    assert len(file.value) == 3
    for thread in set(threading.enumerate()) - others:
        thread.join(60)
    clock.advance(1)
    assert len(file.value) == 4


def test_half_of_a_file_is_not_taken_for_the_whole(path: Path, logged: Sequence[LogEvent]) -> None:
    path.write_text("one\n")
    clock, writer = Clock(), Writer(path, 0)
    file = WatchedFile(path, words, clock, octets=writer.octets)
    before = len(file.value)

    def look() -> int:
        others = set(threading.enumerate())
        clock.advance(1)
        assert file.value
        for thread in set(threading.enumerate()) - others:
            thread.join(60)
        return len(file.value)

    path.write_text("one\n")
    writer.left = 3
    assert look() == before  # a thread has found out that it is not whole
    assert look() == before  # that is told, and another reads it again
    assert [str(one["error"]) for one in logged] == [f"{path}: is written while it is read"]
    look()
    assert len(file.value) == 4


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        WatchedFile(tmp_path, words, Clock())


def test_a_change_is_seen_within_a_second(path: Path) -> None:
    path.write_text("one")
    clock = Clock()
    watched = WatchedFile(path, words, clock)
    path.write_text("changed")
    clock.advance(0.9)
    assert watched.value == [(1, "one")]
    clock.advance(0.1)
    assert watched.value == [(1, "changed")]


def test_what_has_not_changed_is_not_read_again(path: Path) -> None:
    path.write_text("one")
    clock = Clock()
    watched = WatchedFile(path, words, clock)
    before = watched.value
    clock.advance(10)
    assert watched.value is before


def test_a_file_that_is_put_in_its_place_is_seen(path: Path) -> None:
    path.write_text("one")
    clock = Clock()
    watched = WatchedFile(path, words, clock)
    other = path.with_name("new")
    other.write_text("two")
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    clock.advance(1)
    assert watched.value == [(1, "two")]


def test_a_file_that_becomes_wrong_leaves_the_old_content_and_is_reported_once(
    path: Path, logged: Sequence[LogEvent]
) -> None:
    path.write_text("one")
    clock = Clock()
    watched = WatchedFile(path, words, clock)
    path.write_text("good {word}\nbad\n")
    for _ in range(5):
        clock.advance(1)
        assert watched.value == [(1, "one")]
    assert [event["error"] for event in logged] == [f'{path}:2: "bad" is no word']
    path.unlink()
    for _ in range(5):
        clock.advance(1)
        assert watched.value == [(1, "one")]
    assert len(logged) == 2
    path.write_text("well again")
    clock.advance(1)
    assert watched.value == [(1, "well again")]
    assert len(logged) == 2


@pytest.mark.parametrize("keep_filled", [True, False])
def test_a_file_that_becomes_empty_may_keep_its_old_content(
    path: Path, logged: Sequence[LogEvent], keep_filled: bool
) -> None:
    path.write_text("")
    clock = Clock()
    watched = WatchedFile(path, words, clock, keep_filled=keep_filled)
    assert watched.value == []
    path.write_text("one")
    clock.advance(1)
    assert watched.value == [(1, "one")]
    path.write_text("# the export failed\n\n")
    for _ in range(5):
        clock.advance(1)
        assert watched.value == ([(1, "one")] if keep_filled else [])
    assert [event["error"] for event in logged] == [f"{path}: holds nothing any more"] * keep_filled
    path.write_text("two")
    clock.advance(1)
    assert watched.value == [(1, "two")]


def test_several_wrong_lines(path: Path) -> None:
    def parse(lines: Iterable[tuple[int, str]]) -> None:
        raise LinesError([LineError(number, f"no {line}") for number, line in lines], more=True)

    path.write_text("a\n\nb\n")
    with pytest.raises(FileError) as caught:
        WatchedFile(path, parse, Clock())
    assert caught.value.errors == (f"{path}:1: no a", f"{path}:3: no b", f"{path}: more lines are wrong")
    assert str(caught.value) == "; ".join(caught.value.errors)


def test_a_large_file_is_read_in_a_thread_while_the_old_content_serves(path: Path, logged: Sequence[LogEvent]) -> None:
    path.write_text("one")
    clock = Clock()
    may_go_on = threading.Event()
    threads: list[int] = []

    def parse(lines: Iterable[tuple[int, str]]) -> int:
        if threads:
            may_go_on.wait(60)
        threads.append(threading.get_ident())
        return len(words(lines))

    watched = WatchedFile(path, parse, clock)
    path.write_text("word\n" * 20_000)
    for _ in range(3):
        clock.advance(1)
        assert watched.value == 1
    may_go_on.set()
    while watched.value == 1:
        clock.advance(1)
    assert watched.value == 20_000
    assert len(threads) == 2
    assert threads[0] == threading.get_ident() != threads[1]
    path.write_text("bad\n" * 20_000)
    while not logged:
        clock.advance(1)
        assert watched.value == 20_000
    assert logged[0]["error"] == f'{path}:1: "bad" is no word'
