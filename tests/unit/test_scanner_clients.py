"""What clamd, spamd, rspamd and services of one's own are asked, and how their answers are read: without a wire."""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.message import Content
from mailgate.scanners.clamd import Scan, Scanned
from mailgate.scanners.http_post import Posted
from mailgate.scanners.pool import ScannerError
from mailgate.scanners.rspamd import MOST_SYMBOLS, Added, Judged, Removed, Symbol, read_answer
from mailgate.scanners.spamd import Check, Checked, Command
from mailgate.scanners.verdict_service import NewField, ServiceAnswer, _pieces, read_service_answer

MAIL = b"Subject: Hello\r\n\r\nbody\r\n"


# -- clamd


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 700_000])
def test_clamd_gets_the_octets_in_pieces_and_each_with_its_length(size: int, tmp_path: Path) -> None:
    data = bytes(number % 251 for number in range(size))
    (tmp_path / "content").write_bytes(data)
    for content in (Content(data), Content.in_file(tmp_path / "content")):
        sent = b"".join(Scan(content).pieces())
        assert sent.startswith(b"zIDSESSION\0zINSTREAM\0")
        assert b"".join(Scan(content).pieces(2)) == sent[11:]
        at, found = 21, b""
        while True:
            (length,) = struct.unpack_from("!L", sent, at)
            at += 4
            if not length:
                break
            found += sent[at : at + length]
            at += length
        # clamd tells by the first octets that it is mail, whatever the sender has made of its own
        assert (found, at) == (b"Received: by mailgate\r\n" + data, len(sent))
    assert b"Received: by mailgate\r\n\r\nbody" in b"".join(Scan(Content(b"body"), as_body=True).pieces()).replace(
        struct.pack("!L", 4), b""
    )


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (b"1: stream: OK\0", Scanned()),
        (b"1: stream: Win.Test.EICAR_HDB-1 FOUND\0", Scanned("Win.Test.EICAR_HDB-1")),
        (b"1: stream: Test(0123456789abcdef:68) FOUND\0", Scanned("Test(0123456789abcdef:68)")),
        (b"1: stream: " + b"V" * 500 + b" FOUND\0", Scanned("V" * 200)),
        (b"1: INSTREAM size limit exceeded. ERROR\0", Scanned(is_too_large=True)),
    ],
)
def test_answers_of_clamd(answer: bytes, result: Scanned) -> None:
    assert Scan(Content(MAIL)).read(answer, True) == result


@pytest.mark.parametrize(
    "answer",
    [
        *(
            b"",
            b"1: stream: OK",
            b"1: stream: O",
            b"1: stream: OK\0stream: OK\0",
            b"1: stream: OK\0\0",
            b"stream: FOUND\0",
            b"OK\0",
        ),
        *(
            b"1: stream: Can't allocate memory ERROR\0",
            b"UNKNOWN COMMAND\0",
            b"1: stream: X FOUND\0stream: OK\0",
            b"\xff\0",
        ),
        b"COMMAND READ TIMED OUT\0",
        # of no session, or to another question
        *(b"stream: OK\0", b"2: stream: OK\0", b"0: stream: OK\0", b"01: stream: OK\0", b": stream: OK\0"),
    ],
)
def test_what_clamd_does_not_say_is_an_error(answer: bytes) -> None:
    with pytest.raises(ScannerError):
        Scan(Content(MAIL)).read(answer, True)


def test_each_answer_of_a_session_is_that_of_its_question() -> None:
    scan = Scan(Content(MAIL))
    for number in (1, 2, 30):
        list(scan.pieces(number))
        assert scan.read(b"%d: stream: OK\0" % number, True) == Scanned()
        with pytest.raises(ScannerError):
            scan.read(b"%d: stream: OK\0" % (number - 1), True)


def test_clamd_is_not_believed_before_it_has_everything() -> None:
    scan = Scan(Content(MAIL))
    for answer in (b"1: stream: OK\0", b"1: stream: Virus FOUND\0"):
        with pytest.raises(ScannerError):
            scan.read(answer, False)
    # this one it says as soon as it is so
    assert scan.read(b"1: INSTREAM size limit exceeded. ERROR\0", False).is_too_large


@given(st.binary(max_size=60), st.booleans())
def test_no_octets_of_clamd_are_clean_by_accident(answer: bytes, was_sent: bool) -> None:
    try:
        result = Scan(Content(MAIL)).read(answer, was_sent)
    except ScannerError:
        return
    assert answer.startswith((b"1: stream: ", b"1: INSTREAM"))
    assert result.virus or result.is_too_large or answer == b"1: stream: OK\0"


# -- spamd


def spamd_says(body: bytes = b"MG_MARK,GTUBE\r\n", spam: str = "True ; 7.5 / 5.0", length: int | None = None) -> bytes:
    count = len(body) if length is None else length
    return f"SPAMD/1.1 0 EX_OK\r\nContent-length: {count}\r\nSpam: {spam}\r\n\r\n".encode() + body


def test_what_spamd_is_asked() -> None:
    check = Check("SYMBOLS", Content(MAIL), user="bob@example.org", prefix=b"Received: x\r\n")
    head, _, body = b"".join(check.pieces()).partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"SYMBOLS SPAMC/1.5",
        b"User: bob@example.org",
        b"Content-length: %d" % (len(MAIL) + 13),
    ]
    assert body == b"Received: x\r\n" + MAIL
    for user in ("", "bob\r\nX: y", "../../etc", "a b", "é", "-x", "x" * 300):
        assert b"User:" not in b"".join(Check("SYMBOLS", Content(MAIL), user=user).pieces())


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (spamd_says(), Checked(True, 7.5, 5.0, ("MG_MARK", "GTUBE"))),
        (spamd_says(b"", "False ; -0.1 / 5.0"), Checked(False, -0.1, 5.0)),
        (spamd_says(b"A,\x00,b c,B", "yes ; 10 / 2"), Checked(True, 10.0, 2.0, ("A", "B"))),
    ],
)
def test_answers_of_spamd(answer: bytes, result: Checked) -> None:
    assert Check("SYMBOLS", Content(MAIL)).read(answer, True) == result


@pytest.mark.parametrize("command", ["HEADERS", "PROCESS"])
def test_what_spamd_rewrites(command: Command) -> None:
    assert Check(command, Content(MAIL)).read(spamd_says(b"X: y\r\n\r\n"), True) == Checked(
        True, 7.5, 5.0, message=b"X: y\r\n\r\n"
    )


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"SPAMD", b"SPAMD/1.1 0 EX_OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"SPAMD/1.0 76 Bad header line\r\n\r\n"),
        *(spamd_says()[:-1], spamd_says() + b"x", spamd_says() + spamd_says(), spamd_says(length=10**12)),
        *(
            spamd_says(spam=text)
            for text in ("", "True", "Maybe ; 1 / 2", "True ; nan / 5", "True ; 1e9 / 5", "True;1/2")
        ),
        spamd_says(spam="True ; 99999999999999999999 / 5.0"),
        b"SPAMD/1.1 0 EX_OK\r\nSpam: False ; 0 / 5\r\n\r\n",
        b"SPAMD/1.1 79 Timeout: (60 second timeout while trying to CHECK)\r\n\r\n",
    ],
)
def test_what_spamd_does_not_say_is_an_error(answer: bytes) -> None:
    with pytest.raises(ScannerError):
        Check("SYMBOLS", Content(MAIL)).read(answer, True)


def test_spamd_is_not_believed_before_it_has_everything() -> None:
    with pytest.raises(ScannerError):
        Check("SYMBOLS", Content(MAIL)).read(spamd_says(), False)


@given(st.binary(max_size=120), st.integers(0, 90))
def test_no_part_of_an_answer_of_spamd_is_one(octets: bytes, end: int) -> None:
    check = Check("SYMBOLS", Content(MAIL))
    for answer in (octets, spamd_says()[: min(end, len(spamd_says()) - 1)]):
        with pytest.raises(ScannerError):
            check.read(answer, True)


# -- rspamd

RSPAMD: dict[str, Any] = {"action": "no action", "score": 1.5, "required_score": 15.0}


def rspamd(**more: Any) -> Judged:
    return read_answer(Posted(200, json.dumps(RSPAMD | more).encode()))


def test_answers_of_rspamd() -> None:
    assert rspamd() == Judged("no action", 1.5, 15.0)
    found = rspamd(
        action="reject",
        symbols={"A": {"score": 1.0, "metric_score": 1.0, "options": ["x"]}, "B": {"score": -3}, "C": {"name": "C"}},
        messages={"smtp_message": "Go away"},
        subject="[spam] hello",
        is_skipped=False,
    )
    assert found.symbols == (Symbol("B", -3.0), Symbol("A", 1.0), Symbol("C", 0.0))
    assert (found.action, found.text, found.subject) == ("reject", "Go away", "[spam] hello")
    assert rspamd(messages={"smtp_message": {"a": 1}, "other": []}).text == ""


def test_header_fields_of_rspamd() -> None:
    found = rspamd(
        milter={
            "add_headers": {"X-A": "1", "X-B": {"value": "2", "order": 1}, "X-C": [{"value": "3", "order": -1}, "4"]},
            "remove_headers": {"X-A": 0, "X-D": [-1, 2]},
        },
        **{"dkim-signature": "v=1; a=b"},
    )
    assert found.added == (
        *(Added("DKIM-Signature", "v=1; a=b"), Added("X-A", "1"), Added("X-B", "2")),
        *(Added("X-C", "3", at_end=True), Added("X-C", "4")),
    )
    assert found.removed == (Removed("X-A", 0), Removed("X-D", -1), Removed("X-D", 2))
    assert rspamd(**{"dkim-signature": ["a", "b"]}).added == (
        Added("DKIM-Signature", "a"),
        Added("DKIM-Signature", "b"),
    )


def test_what_rspamd_says_too_much_is_left_out() -> None:
    symbols = {f"S{number}": {"score": 1.0} for number in range(3000)}
    fields = {f"X-{number}": "1" for number in range(3000)}
    found = rspamd(symbols=symbols, milter={"add_headers": fields, "remove_headers": dict.fromkeys(fields, 0)})
    assert len(found.symbols) == MOST_SYMBOLS
    assert (len(found.added), len(found.removed)) == (100, 100)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b"[]", b"null", b"<html>", b'{"action": "reject"}', b'{"action": "no action", "score": 1.5'),
        *(b'{"action": "", "score": 1}', b'{"action": "no action", "score": NaN}', b'{"score": 1.0, "action": 5}'),
        *(b'{"action": "no action", "score": 1.0, "symbols": []}', b"[" * 100_000, b'{"action":' * 5000),
        b'{"action": "no action", "score": 1.0, "milter": {"add_headers": {"A": 5}}}',
        b'{"action": "no action", "score": 1e999}',
        json.dumps(RSPAMD).encode() * 2,
        b'{"error": "cannot parse"}',
    ],
)
def test_what_rspamd_does_not_say_is_an_error(body: bytes) -> None:
    with pytest.raises(ScannerError):
        read_answer(Posted(200, body))


@pytest.mark.parametrize("status", [204, 302, 403, 404, 500])
def test_another_status_is_no_answer(status: int) -> None:
    with pytest.raises(ScannerError):
        read_answer(Posted(status, json.dumps(RSPAMD).encode()))
    with pytest.raises(ScannerError):
        read_service_answer(Posted(status, b'{"verdict": "continue"}'))


# -- a service of one's own


def service(**told: Any) -> ServiceAnswer:
    return read_service_answer(Posted(200, json.dumps(told).encode()))


def test_answers_of_a_service() -> None:
    assert service(verdict="continue") == ServiceAnswer(verdict="continue")
    found = service(
        verdict="reject",
        reason="on the list",
        text="No",
        points=1.5,
        facts=["Campaign.Summer"],
        add_headers=[{"name": "X-A", "value": "1\r\n\t2"}],
        recipients=["bob@example.org"],
    )
    assert found.facts == ["campaign.summer"]
    assert found.add_headers == [NewField(name="X-A", value="1\r\n\t2")]


@pytest.mark.parametrize(
    "told",
    [
        *({}, {"verdict": "spam"}, {"verdict": None}, {"verdict": "continue", "verdikt": "reject"}),
        *(
            {"verdict": "reject", "text": 5},
            {"verdict": "continue", "points": "1"},
            {"verdict": "continue", "points": 1e9},
        ),
        *({"verdict": "continue", "facts": ["a b"]}, {"verdict": "continue", "facts": ["x"] * 51}),
        {"verdict": "continue", "add_headers": [{"name": "X A", "value": "1"}]},
        {"verdict": "continue", "add_headers": [{"name": "X", "value": "1\r\nY: 2"}]},
        {"verdict": "continue", "add_headers": [{"name": "X", "value": "1", "more": 2}]},
        {"verdict": "continue", "add_headers": {"X": "1"}},
        {"verdict": "continue", "recipients": "bob@example.org"},
        {"verdict": "continue", "reason": "x" * 1001},
    ],
)
def test_every_mistake_of_a_service_is_an_error(told: dict[str, Any]) -> None:
    with pytest.raises(ScannerError):
        service(**told)


@pytest.mark.parametrize(
    "body", [b"", b"continue", b'"continue"', b"<html>", b'{"verdict": "continue"', b"\xff", b"[" * 9999]
)
def test_what_is_no_object_is_an_error(body: bytes) -> None:
    with pytest.raises(ScannerError):
        read_service_answer(Posted(200, body))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 192 * 1024, 192 * 1024 + 1, 500_000])
def test_a_service_gets_the_content_in_pieces_that_fit_together(size: int) -> None:
    data = bytes(number % 251 for number in range(size))
    pieces = list(_pieces(b'"', Content(data), b'"'))
    assert max(map(len, pieces)) <= 256 * 1024
    assert b64decode(json.loads(b"".join(pieces))) == data
