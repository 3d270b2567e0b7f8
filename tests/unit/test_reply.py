"""Replies: what we write, and what we read of peers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.reply import MAX_REPLY_LINE, Reply, ReplyError, parse_reply


def test_one_line() -> None:
    assert Reply.of(250, "2.1.0", "ok").to_bytes() == b"250 2.1.0 ok\r\n"
    assert Reply.of(220, "", "mx.example").to_bytes() == b"220 mx.example\r\n"


def test_every_line_carries_code_and_status() -> None:
    assert Reply.of(550, "5.1.1", "no\nsuch user").to_bytes() == b"550-5.1.1 no\r\n550 5.1.1 such user\r\n"


@pytest.mark.parametrize(("code", "status"), [(199, ""), (560, ""), (200, "5.0.0"), (250, "2.1"), (290, "")])
def test_impossible_replies_cannot_be_made(code: int, status: str) -> None:
    with pytest.raises(ValueError, match=r"reply code|enhanced status"):
        Reply.of(code, status, "x")


@pytest.mark.parametrize(
    ("lines", "reply"),
    [
        ([b"250 2.0.0 ok"], Reply(250, "2.0.0", ("ok",))),
        ([b"250"], Reply(250, "", ("",))),
        ([b"250-a", b"250 b"], Reply(250, "", ("a", "b"))),
        ([b"550-5.1.1 a", b"550 5.1.1 b"], Reply(550, "5.1.1", ("a", "b"))),
        ([b"550 4.1.1 odd"], Reply(550, "", ("4.1.1 odd",))),
    ],
)
def test_replies_of_peers(lines: list[bytes], reply: Reply) -> None:
    assert parse_reply(lines) == reply


@pytest.mark.parametrize(
    "lines", [[], [b""], [b"hello"], [b"250-a"], [b"250 a", b"250 b"], [b"250-a", b"450 b"], [b"199 x"]]
)
def test_what_is_no_reply_is_an_error(lines: list[bytes]) -> None:
    with pytest.raises(ReplyError):
        parse_reply(lines)


@pytest.mark.parametrize("status", ["", "2.0.0", "2.100.100"])
@pytest.mark.parametrize("letter", ["x", "\u00e9"])
def test_a_line_is_cut_where_it_does_not_fit(status: str, letter: str) -> None:
    prefix = f"{status} " if status else ""
    room = (MAX_REPLY_LINE - len("250 \r\n") - len(prefix)) // len(letter.encode())
    for length in (0, 1, *range(room - 30, room + 30)):
        said = letter * min(length, room)
        assert Reply(250, status, (letter * length,)).to_bytes() == f"250 {prefix}{said}\r\n".encode()


@given(st.text())
def test_no_text_can_carry_a_second_reply(text: str) -> None:
    raw = Reply(550, "5.7.1", (text,)).to_bytes()
    assert raw.count(b"\r") == raw.count(b"\n") == 1
    assert raw.endswith(b"\r\n")
    assert len(raw) <= MAX_REPLY_LINE


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_octets_are_a_reply_or_an_error(lines: list[bytes]) -> None:
    try:
        reply = parse_reply(lines)
    except ReplyError:
        return
    assert 200 <= reply.code <= 559


def test_a_lone_surrogate_does_no_harm() -> None:
    reply = Reply.of(550, "5.7.1", "caf\udce9")
    assert str(reply) == "550 5.7.1 caf?"
    assert reply.to_bytes() == b"550 5.7.1 caf?\r\n"


@pytest.mark.parametrize("one", ["\x00", "\x1b", "\x7f", "\x85", "\x9b", "\u202e", "\u2028", "\u200b", "\ufeff"])
def test_what_is_not_printable_is_not_repeated(one: str) -> None:
    reply = parse_reply([f"550 5.7.1 no{one}\u00fc".encode()])
    assert reply.text == "no?\u00fc"
    assert reply.to_bytes() == "550 5.7.1 no?\u00fc\r\n".encode()
