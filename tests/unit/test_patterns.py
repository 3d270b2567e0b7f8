"""What people write down of replies, found in replies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.relay.replies.patterns import Pattern, Said
from mailgate.reply import Reply, parse_reply


def is_in(pattern: str, text: str) -> bool:
    return Pattern(pattern).is_in(Said.by(parse_reply([line.encode() for line in text.split("\n")])))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("421", "421 busy"),
        ("4xx", "451 busy"),
        ("45x", "452 4.3.1 full"),
        ("4.7.28", "421 4.7.28 slow"),
        ("x.7.28", "550 5.7.28 slow"),
        ("4.7.x", "450 4.7.650 slow"),
        ("4.7.6xx", "450 4.7.650 slow"),
        ("451 4.7.x", "451 4.7.1 slow"),
        ("421 too many", "421 Too Many connections"),
        ("too many connections", "421-4.7.0 too many\n421 4.7.0 connections"),
        ("rate limit", "450 you are rate-limited"),
        ("over quota", "552 mailbox over_quota"),
        ("over-quota", "552 mailbox over  quota"),
        ("user * unknown", "550 user <ann@example.org> is unknown"),
        ("user*unknown", "550 user unknown"),
        ("p=nosuchuser", "550 see https://support.example/?p=NoSuchUser x"),
        ("[ts01]", "421 4.7.0 [TS01] wait"),
        ("#4.4.5 too", "421 #4.4.5 Too many"),
        ("rate-limit.example", "421 see rate-limit.example.org"),
        ("ÜBERLASTET", "450 überlastet"),
    ],
)
def test_what_is_said(pattern: str, text: str) -> None:
    assert is_in(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("421", "450 421"),
        ("4xx", "550 busy"),
        ("4.7.x", "550 5.7.1 no"),
        ("4.7.6xx", "450 4.7.65 slow"),
        ("4.7.1", "450 4.7.10 slow"),
        ("4.7.x", "450 slow"),
        ("451 4.7.x", "450 4.7.1 slow"),
        ("421 too many", "450 too many"),
        ("full", "550 be careful"),
        ("spf", "550 dspf"),
        ("user * unknown", "550 unknown user"),
        ("user * user", "550 one user"),
        ("too many connections", "450 mail of too-many-connections.evil.test is refused"),
        ("rate limit", "450 mail of x.rate_limit.evil.test is refused"),
        ("quota", "550 <quota@example.org> refused"),
        ("too many", "421 tooxmany"),
    ],
)
def test_what_is_not_said(pattern: str, text: str) -> None:
    assert not is_in(pattern, text)


def test_what_stands_behind_is_not_looked_at() -> None:
    assert not Pattern("quota").is_in(Said.by(Reply.of(552, "", "x " * 2000 + "quota")))
    assert Pattern("quota").is_in(Said.by(Reply.of(552, "", "x " * 900 + "quota")))


@given(st.text(max_size=60), st.text(max_size=200))
def test_nothing_that_is_written_or_said_fails(pattern: str, text: str) -> None:
    Pattern(pattern).is_in(Said.by(Reply.of(450, "", text)))


@given(st.lists(st.from_regex(r"[a-z0-9.=#]{1,8}", fullmatch=True), min_size=1, max_size=6))
def test_a_reply_says_what_it_says(words: list[str]) -> None:
    text = " ".join(words)
    assert Pattern(f"* {text}").is_in(Said.by(Reply.of(550, "", f"well, {text}!")))
