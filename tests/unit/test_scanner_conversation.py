"""What is sent to scanners, and how an answer is waited for: back-pressure, bounds, and connections that end."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.testing import StringTransport

from mailgate.config.hosts import parse_host
from mailgate.message import Content
from mailgate.scanners.conversation import Line
from mailgate.scanners.pool import ScannerError, endpoint_of
from mailgate.scanners.sending import Pieces, Sending
from tests.unit.scanner_stand import HOSTILE, Scanners, Script, Wire, silent


class Echo:
    """A question of these pieces; the answer is what came, and whether everything had been sent."""

    largest = 1000
    ends_with_stream = False
    is_small = False
    keeps = False

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces = pieces
        self._error = error

    def pieces(self, number: int = 1) -> Pieces:
        yield from self._pieces
        if self._error is not None:
            raise self._error

    def is_whole(self, answer: bytearray) -> bool:
        return False

    def read(self, answer: bytes, was_sent: bool) -> tuple[bytes, bool]:
        if not answer:
            raise ScannerError("nothing")
        return answer, was_sent


def asking(scanners: Scanners, question: Echo, where: str = "192.0.2.1:3310") -> Deferred[tuple[bytes, bool]]:
    host = parse_host(where, 1)
    line = Line(lambda: endpoint_of(host, scanners, 2.0), scanners)  # type: ignore[arg-type]  # it stands in for a reactor
    return Deferred.fromCoroutine(line.ask(question))


def outcome(asked: Deferred[tuple[bytes, bool]]) -> object:
    results: list[object] = []
    asked.addBoth(results.append)
    return getattr(results[0], "value", results[0]) if results else None


@pytest.mark.parametrize("where", ["192.0.2.1:3310", "[2001:db8::1]:3310", "scanner.example:3310", "unix:/run/scan"])
def test_the_answer_is_what_comes_until_the_end(where: str) -> None:
    def script(wire: Wire, octets: bytes) -> None:
        if octets == b"onetwo":
            wire.say(b"an ")
            wire.later(1, lambda: wire.say(b"answer"))
            wire.later(2, wire.close)

    scanners = Scanners(script)
    results: list[object] = []
    asking(scanners, Echo(b"one", b"two"), where).addBoth(results.append)
    for _ in range(3):
        assert results == []
        scanners.clock.advance(1)
    assert results == [(b"an answer", True)]
    assert not scanners.clock.getDelayedCalls()


def test_an_answer_to_a_part_is_told_from_one_to_all() -> None:
    def script(wire: Wire, octets: bytes) -> None:
        if not octets:
            return
        wire.say(b"early")
        wire.close()

    for is_slow in (True, False):
        scanners = Scanners(script, room=1 if is_slow else None)
        asked = asking(scanners, Echo(b"one", b"two"))
        scanners.clock.advance(0)
        assert outcome(asked) == (b"early", not is_slow)


@pytest.mark.parametrize("count", [1, 7, 50])
def test_no_more_is_read_than_the_other_end_takes(tmp_path: Path, count: int) -> None:
    path = tmp_path / "content"
    path.write_bytes(bytes(1000 * count))
    read = 0

    def pieces() -> Pieces:
        nonlocal read
        for chunk in Content.in_file(path).chunks(1000):
            read += 1
            yield chunk

    class Narrow(StringTransport):
        def write(self, data: bytes) -> None:
            super().write(data)  # type: ignore[no-untyped-call]  # Twisted's
            sending.pauseProducing()

    done: list[None] = []
    sending, narrow = Sending(pieces()), Narrow()  # type: ignore[no-untyped-call]  # Twisted's
    sending.startProducing(narrow).addCallback(done.append)
    for number in range(1, count + 1):
        assert (read, sending.is_over) == (number, False)
        sending.resumeProducing()
    assert sending.is_over
    assert done == [None]
    assert len(narrow.value()) == 1000 * count  # type: ignore[no-untyped-call]  # Twisted's


def test_a_consumer_that_resumes_from_within_is_not_written_to_twice() -> None:
    class Eager(StringTransport):
        def write(self, data: bytes) -> None:
            super().write(data)  # type: ignore[no-untyped-call]  # Twisted's
            sending.pauseProducing()
            sending.resumeProducing()

    sending, eager = Sending(Echo(*[b"%d" % number for number in range(10)]).pieces()), Eager()  # type: ignore[no-untyped-call]  # Twisted's
    sending.startProducing(eager)
    assert (eager.value(), sending.is_over) == (b"0123456789", True)  # type: ignore[no-untyped-call]  # Twisted's


def test_a_file_that_cannot_be_read_is_no_fault_of_the_scanner() -> None:
    scanners = Scanners(silent)
    asked = asking(scanners, Echo(b"one", error=OSError("the disk is gone")))
    error = outcome(asked)
    assert isinstance(error, OSError)
    assert str(error) == "the disk is gone"
    assert scanners.open == 0


def test_what_stops_closes_its_file() -> None:
    closed = []

    def pieces() -> Pieces:
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    class Full(StringTransport):
        def write(self, data: bytes) -> None:
            sending.stopProducing()

    sending = Sending(pieces())
    sending.startProducing(Full())  # type: ignore[no-untyped-call]  # Twisted's
    assert closed == [True]
    assert not sending.is_over


def test_giving_up_closes_the_connection() -> None:
    scanners = Scanners(silent)
    asked = asking(scanners, Echo(b"one"))
    scanners.clock.advance(1)
    assert scanners.open == 1
    asked.cancel()
    assert isinstance(outcome(asked), CancelledError)
    assert scanners.open == 0
    assert not scanners.clock.getDelayedCalls()


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"is silent", "drips", "talks nonsense"}))
def test_what_is_no_answer_is_an_error(name: str) -> None:
    scanners = Scanners(HOSTILE[name])
    asked = asking(scanners, Echo(b"one"))
    scanners.clock.advance(1)
    assert isinstance(outcome(asked), ScannerError)
    assert scanners.open == 0


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False)])
def test_an_answer_is_bounded(size: int, fits: bool) -> None:
    def script(wire: Wire, octets: bytes) -> None:
        if octets:
            for _ in range(size):  # by the octet
                wire.say(b"y")
            wire.close()

    script_: Script = script
    scanners = Scanners(script_)
    asked = asking(scanners, Echo(b"one"))
    scanners.clock.advance(1)
    found = outcome(asked)
    assert found == (b"y" * size, True) if fits else isinstance(found, ScannerError)
    assert scanners.open == 0
