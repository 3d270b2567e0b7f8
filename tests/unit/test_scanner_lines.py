"""Connections that serve one question after another: which are kept and for how long, and what a lost one means."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from mailgate.config.hosts import parse_host
from mailgate.scanners.conversation import IDLE, Line
from mailgate.scanners.http_post import Post, Posted
from mailgate.scanners.pool import ScannerError, endpoint_of
from mailgate.scanners.sending import Pieces
from tests.unit.scanner_stand import Scanners, Script, Wire, nobody, silent, split_request


class Ask:
    """A line of text; the answer is a line."""

    largest = 100
    ends_with_stream = False

    def __init__(self, text: str = "hello", *, is_small: bool = True, keeps: bool = True) -> None:
        self.text = text
        self.is_small = is_small
        self.keeps = keeps

    def pieces(self, number: int) -> Pieces:
        yield f"{number} ".encode()
        yield f"{self.text}\n".encode()

    def is_whole(self, answer: bytearray) -> bool:
        return answer.endswith(b"\n")

    def read(self, answer: bytes, was_sent: bool) -> str:
        if not answer.endswith(b"\n") or not was_sent:
            raise ScannerError(f"not that: {answer!r}")
        return answer.decode().strip()


def answers(wire: Wire, octets: bytes) -> None:
    """Says each line again."""
    if octets.endswith(b"\n"):
        wire.say(octets.splitlines(keepends=True)[-1])


def line_to(scanners: Scanners) -> Line:
    host = parse_host("192.0.2.1:3310", 1)
    return Line(lambda: endpoint_of(host, scanners, 2.0), scanners)  # type: ignore[arg-type]  # it stands in for a reactor


def start(line: Line, question: Ask | None = None) -> list[object]:
    results: list[object] = []
    asked: Deferred[str] = Deferred.fromCoroutine(line.ask(question or Ask()))
    asked.addErrback(lambda failure: failure.value).addCallback(results.append)
    return results


def ask(line: Line, scanners: Scanners, question: Ask | None = None) -> object:
    results = start(line, question)
    for _ in range(3):
        scanners.clock.advance(0)
    return results[0] if results else None


@pytest.mark.parametrize("is_small", [True, False])
def test_a_connection_serves_one_question_after_another(is_small: bool) -> None:
    scanners = Scanners(answers)
    line = line_to(scanners)
    for number in range(1, 6):
        assert ask(line, scanners, Ask(f"question {number}", is_small=is_small)) == f"{number} question {number}"
    assert len(scanners.wires) == 1


def test_questions_at_one_time_have_connections_of_their_own() -> None:
    scanners = Scanners(answers)
    line = line_to(scanners)
    results = [start(line, Ask(name)) for name in ("a", "b", "c")]
    scanners.clock.advance(0)
    assert results == [["1 a"], ["1 b"], ["1 c"]]
    assert ask(line, scanners) == "2 hello"
    assert len(scanners.wires) == 3


def test_a_connection_without_a_question_is_closed_in_time() -> None:
    scanners = Scanners(answers)
    line = line_to(scanners)
    first, second = start(line), start(line)
    scanners.clock.advance(0)
    assert (first, second) == (["1 hello"], ["1 hello"])
    scanners.clock.advance(IDLE / 2)
    ask(line, scanners)  # takes one of them
    scanners.clock.advance(IDLE / 2)
    assert scanners.open == 1
    scanners.clock.advance(IDLE / 2)
    assert scanners.open == 0
    assert not scanners.clock.getDelayedCalls()
    assert ask(line, scanners) == "1 hello"


def test_what_says_that_it_is_not_kept_is_closed() -> None:
    scanners = Scanners(answers)
    line = line_to(scanners)
    for _ in range(2):
        assert ask(line, scanners, Ask(keeps=False)) == "1 hello"
        assert scanners.open == 0
    assert not scanners.clock.getDelayedCalls()


def test_one_that_the_other_end_has_closed_is_not_used_again() -> None:
    scanners = Scanners(answers)
    line = line_to(scanners)
    ask(line, scanners)
    scanners.wires[0].lose()
    assert not scanners.clock.getDelayedCalls()
    assert ask(line, scanners) == "1 hello"


def test_what_is_lost_with_a_kept_connection_is_asked_once_more() -> None:
    def closing(wire: Wire, octets: bytes) -> None:
        if octets.count(b"\n") > 1:
            wire.close()
        else:
            answers(wire, octets)

    scanners = Scanners(closing)
    line = line_to(scanners)
    assert ask(line, scanners, Ask("first")) == "1 first"
    assert ask(line, scanners, Ask("second")) == "1 second"
    assert len(scanners.wires) == 2
    scanners.script = nobody
    assert isinstance(ask(line, scanners, Ask("third")), ScannerError)


@pytest.mark.parametrize("said", [b"h", b"half an answer"])
def test_what_was_answered_in_part_is_not_asked_again(said: bytes) -> None:
    def breaking(wire: Wire, octets: bytes) -> None:
        if octets.count(b"\n") > 1:
            wire.say(said)
            wire.lose()
        else:
            answers(wire, octets)

    scanners = Scanners(breaking)
    line = line_to(scanners)
    ask(line, scanners)
    assert isinstance(ask(line, scanners), ScannerError)
    assert len(scanners.wires) == 1


def test_a_new_connection_that_ends_is_not_tried_again() -> None:
    scanners = Scanners(lambda wire, octets: wire.close() if octets else None)
    assert isinstance(ask(line_to(scanners), scanners), ScannerError)
    assert len(scanners.wires) == 1


@pytest.mark.parametrize("more", [b"x", b"another answer\n", b"y" * 1000])
def test_one_that_speaks_without_being_asked_answers_nothing_more(more: bytes) -> None:
    scanners = Scanners(answers)
    line = line_to(scanners)
    ask(line, scanners)
    scanners.wires[0].say(more)
    assert scanners.open == 0
    assert ask(line, scanners, Ask("own")) == "1 own"


def test_giving_up_or_an_answer_that_is_none_ends_the_connection() -> None:
    scanners = Scanners(answers)
    line = line_to(scanners)
    ask(line, scanners)
    scanners.wires[0]._script = silent  # it hangs from now on
    asked: Deferred[str] = Deferred.fromCoroutine(line.ask(Ask()))
    scanners.clock.advance(0)
    asked.addErrback(lambda _: None).cancel()
    assert scanners.open == 0
    scanners.script = lambda wire, octets: wire.say(b"x" * 200)
    assert isinstance(ask(line, scanners), ScannerError)
    assert scanners.open == 0
    assert not scanners.clock.getDelayedCalls()


def test_an_answer_before_everything_was_sent_ends_the_connection() -> None:
    scanners = Scanners(lambda wire, octets: wire.say(b"early\n") if octets else None, room=1)
    assert isinstance(ask(line_to(scanners), scanners, Ask(is_small=False)), ScannerError)
    assert scanners.open == 0


# -- HTTP


def serves(*heads: bytes, body: bytes = b"ok") -> Script:
    """Answers each request with the next of these; the connection stays open."""

    def script(wire: Wire, octets: bytes) -> None:
        if octets.endswith(b"body"):
            wire.say(heads[octets.count(b"POST ") - 1] + body)

    return script


def posting(url: str = "http://scan.test/a?b=c", *fields: tuple[str, str]) -> Post:
    return Post(url, fields, lambda: iter([b"body"]), 4, is_small=True)


def post(line: Line, scanners: Scanners) -> object:
    results: list[object] = []
    Deferred.fromCoroutine(line.ask(posting())).addErrback(lambda failure: failure.value).addCallback(results.append)
    for _ in range(3):
        scanners.clock.advance(0)
    return results[0] if results else None


def test_a_request() -> None:
    sent = b"".join(posting("https://ann@scan.test:8443/a?b=c", ("X-A", "1"), ("X-B", "")).pieces())
    line, fields, body = split_request(sent)
    assert line == "POST /a?b=c HTTP/1.1"
    assert fields == [("host", "scan.test:8443"), ("content-length", "4"), ("x-a", "1"), ("x-b", "")]
    assert body == b"body"
    assert b"".join(posting("http://scan.test").pieces()).startswith(b"POST / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "field", [("X", "1\r\nY: 2"), ("X\r\nY", "1"), ("", "1"), ("X Y", "1"), ("X", "\0"), ("X", "é"), ("X", "1\n")]
)
def test_no_field_of_ours_becomes_two(field: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        posting("http://scan.test/", field)


@pytest.mark.parametrize(
    ("head", "count"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 1),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n", 3),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", 3),
    ],
)
def test_a_server_that_keeps_its_connections_has_one(head: bytes, count: int) -> None:
    scanners = Scanners(serves(head, head, head))
    line = line_to(scanners)
    for _ in range(3):
        assert post(line, scanners) == Posted(200, b"ok")
    assert len(scanners.wires) == count


def test_pieces_of_a_body() -> None:
    scanners = Scanners(
        serves(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", body=b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n")
    )
    assert post(line_to(scanners), scanners) == Posted(200, b"ok")
    assert scanners.open == 1


def test_what_follows_a_response_ends_the_connection() -> None:
    scanners = Scanners(serves(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", body=b"okHTTP/1.1 500 X\r\n\r\n"))
    assert post(line_to(scanners), scanners) == Posted(200, b"ok")
    assert scanners.open == 0


@pytest.mark.parametrize(
    ("octets", "result"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nok", Posted(200, b"ok")),
        (b"HTTP/1.1 500 No\r\n\r\n", Posted(500, b"")),
        (b"HTTP/1.1 204 No\r\n\r\n", Posted(204, b"")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk", None),
        (b"HTTP/1.1 200 OK\r\nContent-Le", None),
        (b"HTTP/1.1 100 Continue\r\n\r\n", None),
        (b"HTTP/1.1 101 Other\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok", None),
        (b"SPAMD/1.1 0 EX_OK\r\n\r\n", None),
        (b"", None),
    ],
)
@pytest.mark.parametrize("by_octet", [True, False])
def test_responses_that_end_with_their_connection(octets: bytes, result: Posted | None, by_octet: bool) -> None:
    def script(wire: Wire, heard: bytes) -> None:
        if heard:
            for at in range(len(octets)) if by_octet else [0]:
                wire.say(octets[at : at + 1] if by_octet else octets)
            wire.close()

    scanners = Scanners(script)
    found = post(line_to(scanners), scanners)
    assert found == result if result is not None else isinstance(found, ScannerError)
    assert scanners.open == 0


def test_what_was_said_before_the_question_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    scanners = Scanners(answers)
    line = line_to(scanners)
    assert ask(line, scanners, Ask("one")) == "1 one"
    unasked = {scanners.wires[0]}  # the reactor has not read it yet
    monkeypatch.setattr("mailgate.scanners.conversation.has_unread", lambda transport: transport in unasked)
    assert ask(line, scanners, Ask("two")) == "1 two"
    assert [wire.is_open for wire in scanners.wires] == [False, True]
    assert ask(line, scanners, Ask("three")) == "2 three"
