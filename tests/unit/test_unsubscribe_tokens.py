"""Tokens of links to unsubscribe."""

from __future__ import annotations

import re

import pytest
from itsdangerous import URLSafeSerializer

from mailgate.address import Address
from mailgate.rewriting.unsubscribe import UnsubscribeError, UnsubscribeTokens, Unsubscription

OLD, NEW = b"an old secret of ours", b"a new secret of ours"
ABOUT = Unsubscription(Address("news", "example.org"), Address("bob", "example.net"))


def tokens(*secrets: bytes) -> UnsubscribeTokens:
    return UnsubscribeTokens(lambda: secrets)


@pytest.mark.parametrize(
    "about",
    [
        ABOUT,
        Unsubscription(ABOUT.sender, None),
        Unsubscription(Address("grüße", "example.org"), Address("a b", "example.net")),
        Unsubscription(Address("n" * 64, "e" * 60 + ".org"), Address("ü" * 32, ".".join(["d" * 60] * 3))),
    ],
)
def test_there_and_back(about: Unsubscription) -> None:
    token = tokens(OLD).make(about)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", token)
    assert len(token) < 760
    assert tokens(OLD).read(token) == about
    assert tokens(NEW, OLD).read(token) == about


def test_what_is_not_ours() -> None:
    token = tokens(OLD).make(ABOUT)
    for wrong in ("", "x", token[:-1], token[1:], f"{token}x", token.upper(), "." * 3000, "ü", f"{token}\r\n"):
        with pytest.raises(UnsubscribeError):
            tokens(OLD).read(wrong)
    with pytest.raises(UnsubscribeError):
        tokens(NEW).read(token)


@pytest.mark.parametrize("value", ["x", 5, [], ["a@b.example"], ["a@b.example", 5], ["x", ""], {"a": 1}])
def test_what_was_signed_for_something_else(value: object) -> None:
    token = URLSafeSerializer([OLD], salt=b"mailgate list-unsubscribe").dumps(value)
    with pytest.raises(UnsubscribeError):
        tokens(OLD).read(str(token))
    other = URLSafeSerializer([OLD], salt=b"other").dumps(["news@example.org", "bob@example.net"])
    with pytest.raises(UnsubscribeError):
        tokens(OLD).read(str(other))
