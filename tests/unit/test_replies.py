"""Replies and extensions of servers: read in any chunks, within limits, and nothing passes for a reply that is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.reply import Reply
from mailgate.wire.extensions import NO_LIMITS, Extensions, parse_extensions
from mailgate.wire.replies import MAX_LINES, MAX_REPLY, MAX_REPLY_TEXT, ReplyReader


def read(chunks: list[bytes]) -> tuple[list[Reply], str]:
    reader, replies = ReplyReader(), []
    for chunk in chunks:
        replies += reader.feed(chunk)
    return replies, str(reader.fault or "")


def test_several_replies_in_one_chunk_and_one_in_several() -> None:
    wire = b"250 2.1.0 Ok\r\n250-a\r\n250-b\r\n250 c\r\n354 go\r\n"
    expected = [Reply(250, "2.1.0", ("Ok",)), Reply(250, "", ("a", "b", "c")), Reply(354, "", ("go",))]
    assert read([wire]) == (expected, "")
    assert read([wire[index : index + 1] for index in range(len(wire))]) == (expected, "")


def test_it_says_whether_it_is_between_replies() -> None:
    reader = ReplyReader()
    for data, is_empty in ((b"250-a\r\n", False), (b"250 b\r", False), (b"\n", True), (b"250 c\r\n", True)):
        reader.feed(data)
        assert reader.is_empty is is_empty


@pytest.mark.parametrize(
    ("wire", "fault"),
    [
        (b"hello\r\n", "malformed"),
        (b"\r\n", "malformed"),
        (b"600 x\r\n", "malformed"),
        (b"199 x\r\n", "malformed"),
        (b"250_x\r\n", "malformed"),
        (b"250-a\r\n550 b\r\n", "different codes"),
        (b"250-a\r\nb\r\n", "malformed"),
        (b"SSH-2.0-x\r\n", "malformed"),
        (b"250-a\r\n251-b\r\n", "malformed"),
        (b"220 x\n", "bare CR or LF"),
        (b"550 <a\n250 ok>\r\n", "bare CR or LF"),
        (b"250 a\rb\r\n", "bare CR or LF"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 300, "more than"),
        (b"220 " + b"x" * MAX_REPLY_TEXT, "more than"),
        (b"250-x\r\n" * (MAX_LINES + 1), "more than"),
        (b"250-" + b"x" * 1900 + b"\r\n", ""),
        ((b"250-" + b"x" * 1900 + b"\r\n") * (MAX_REPLY // 1900 + 1), "more than"),
    ],
)
def test_what_is_no_reply_ends_the_reading(wire: bytes, fault: str) -> None:
    for chunks in ([b"250 ok\r\n" + wire, b"250 ok\r\n"], [b"250 ok\r\n", wire, b"250 ok\r\n"]):
        replies, found = read(chunks)
        if fault:
            assert replies == [Reply(250, "", ("ok",))]
        assert fault in found


def test_limits_are_met_exactly() -> None:
    text = b"x" * (MAX_REPLY_TEXT - 4)
    assert read([b"250 " + text + b"\r", b"\n"])[1] == ""
    assert len(read([b"250-x\r\n" * (MAX_LINES - 1) + b"250 x\r\n"])[0][0].lines) == MAX_LINES


def test_a_phrase_that_comes_again_is_the_same_reply_even_inside_another() -> None:
    wire = b"250 ok\r\n250 ok\r\n250-a\r\n250 ok\r\n250 ok\r\n"
    ok, two = Reply(250, "", ("ok",)), Reply(250, "", ("a", "ok"))
    assert read([wire]) == ([ok, ok, two, ok], "")


@given(
    st.lists(st.sampled_from([b"250 ok\r\n", b"250-a\r\n", b"4", b"\r", b"\n", b"\r\n", b"450 4.2.0 no\r\n", b"\0"])),
    st.lists(st.integers(1, 9), min_size=1, max_size=50),
)
def test_the_cut_does_not_matter(parts: list[bytes], sizes: list[int]) -> None:
    wire, index = b"".join(parts), 0
    chunks: list[bytes] = []
    while index < len(wire):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(wire[index : index + size])
        index += size
    replies, fault = read(chunks)
    whole_replies, whole_fault = read([wire])
    assert (replies, bool(fault)) == (whole_replies, bool(whole_fault))


def test_extensions() -> None:
    lines = ("mx greets you", "PIPELINING", "size 1000", "8bitMIME", "X-Odd  a b", "")
    offered = parse_extensions(Reply(250, "", lines))
    assert (offered.pipelining, offered.eight_bit, offered.size, offered.max_size) == (True, True, True, 1000)
    assert offered.offered["X-ODD"] == "a b"
    for limit in ("", "0", "many", "-5", "9" * 30):
        assert parse_extensions(Reply(250, "", ("mx", f"SIZE {limit}"))).max_size == 0
    assert not parse_extensions(Reply(250, "", ("PIPELINING",))).pipelining


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("RCPTMAX=20 MAILMAX=5", (20, 5, 0)),
        ("rcptdomainmax=1  RcptMax=999999", (999999, 0, 1)),
        ("RCPTMAX=0 MAILMAX=-1 RCPTDOMAINMAX=1000000", (0, 0, 0)),
        ("RCPTMAX MAILMAX= X=Y =3 RCPTMAX=²", (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_limits(text: str, limits: tuple[int, int, int]) -> None:
    assert parse_extensions(Reply(250, "", ("mx", f"LIMITS {text}"))).limits == limits


def test_extensions_that_need_others() -> None:
    def offered(*keywords: str) -> Extensions:
        return parse_extensions(Reply(250, "", ("mx", *keywords)))

    assert offered().limits is NO_LIMITS
    assert offered("BINARYMIME", "CHUNKING").binary
    assert not offered("BINARYMIME").binary
    assert offered("SMTPUTF8", "8BITMIME").utf8
    assert not offered("SMTPUTF8").utf8
    times = [offered(one).least_by_time for one in ("DELIVERBY 60", "DELIVERBY", "DELIVERBY soon", "DSN")]
    assert times == [60, 0, 0, None]
    assert "XFORWARD" in offered("xforward NAME")
