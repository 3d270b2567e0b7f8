"""Signing: the field that comes out, and who takes it."""

from __future__ import annotations

import re
import time

import dkim  # type: ignore[import-untyped]  # it has no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailgate.mailauth.dkim.keys import SigningKey
from mailgate.mailauth.dkim.sign import OVERSIGNED, SIGNED, fold, sign_dkim
from mailgate.mailauth.dkim.tags import parse_tags, without_space
from tests.unit.dkim_parts import CANONS, DOMAIN, MESSAGE, NOW, SELECTOR, ed25519, rsa, verified, zone


def sign(message: bytes = MESSAGE, key: SigningKey | None = None, **options: object) -> bytes:
    given = {"domain": DOMAIN, "selector": SELECTOR, "now": NOW} | options
    return sign_dkim(message, key or rsa(), **given)  # type: ignore[arg-type]  # each test gives what it is about


def tags_of(field: bytes) -> dict[bytes, bytes]:
    return {name: without_space(value) for name, value in parse_tags(field.partition(b":")[2]).items()}


@pytest.mark.parametrize("canons", CANONS)
@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_what_is_signed_here_passes_here(kind: str, canons: str) -> None:
    key = rsa(2048) if kind == "rsa" else ed25519()
    field = sign(key=key, canonicalization=canons)
    (result,) = verified(field + MESSAGE, zone(key.record))
    assert (result.result, result.algorithm, result.domain) == ("pass", f"{kind}-sha256", DOMAIN)


@pytest.mark.parametrize("canons", CANONS)
def test_what_is_signed_here_passes_elsewhere(canons: str) -> None:
    signed = sign(canonicalization=canons, now=None, identity="ann@mail.example.org") + MESSAGE
    record = rsa().record.encode()
    assert dkim.verify(signed, dnsfunc=lambda name, timeout: record)
    assert not dkim.verify(signed.replace(b"Hello", b"Hullo"), dnsfunc=lambda name, timeout: record)
    assert not dkim.verify(b"From: Eve <eve@example.com>\r\n" + signed, dnsfunc=lambda name, timeout: record)


def test_the_field_as_it_stands() -> None:
    field = sign(key=ed25519(), identity="ann@mail.example.org", expire_after=3600)
    tags = tags_of(field)
    assert list(tags) == [b"v", b"a", b"c", b"d", b"s", b"i", b"t", b"x", b"h", b"bh", b"b"]
    assert field.startswith(b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.org;")
    assert field.endswith(b"\r\n")
    assert (tags[b"t"], tags[b"x"], tags[b"i"]) == (b"1800000000", b"1800003600", b"ann@mail.example.org")
    assert tags[b"h"] == (
        b"From:From:Subject:Subject:Date:Date:To:To:Cc:Reply-To:Message-ID:Message-ID"  # each once more than there is
    )


def test_without_a_time_it_is_now() -> None:
    before = int(time.time())
    assert before <= int(tags_of(sign(now=None))[b"t"]) <= time.time()


def test_what_readers_show_cannot_be_added() -> None:
    signed = sign() + MESSAGE
    for name in OVERSIGNED:
        (result,) = verified(f"{name}: other\r\n".encode() + signed)
        assert result.result == "fail", name


def test_other_fields_are_signed_where_they_are() -> None:
    message = b"MIME-Version: 1.0\r\nList-Id: <x>\r\nReceived: x\r\nContent-Type: text/plain\r\n" + MESSAGE
    names = tags_of(sign(message))[b"h"].lower().split(b":")
    assert [names.count(name) for name in (b"mime-version", b"content-type", b"list-id", b"received")] == [1, 1, 1, 0]
    signed = sign(message) + message
    assert [one.result for one in verified(signed.replace(b"text/plain", b"text/html"))] == ["fail"]
    assert [one.result for one in verified(b"List-Post: x\r\n" + signed)] == ["pass"]
    assert not set(OVERSIGNED) & set(SIGNED)


def test_the_names_may_be_chosen() -> None:
    field = sign(headers=["Subject", "from", "X-Ours", "From"])
    assert tags_of(field)[b"h"] == b"Subject:from:X-Ours:From"
    assert [one.result for one in verified(field + MESSAGE)] == ["pass"]
    assert [one.result for one in verified(b"X-Ours: 1\r\n" + field + MESSAGE)] == ["fail"]
    assert tags_of(sign(headers=["From"]))[b"h"] == b"From"


def test_a_name_that_repeats_without_end_is_signed_a_few_times() -> None:
    message = b"Resent-To: x@example.net\r\n" * 500 + MESSAGE
    field = sign(message)
    assert tags_of(field)[b"h"].count(b"Resent-To") == 20
    assert [one.result for one in verified(field + message)] == ["pass"]


def test_line_ends_of_any_kind_are_signed_as_those_of_mail() -> None:
    assert sign(MESSAGE.replace(b"\r\n", b"\n"), canonicalization="simple/simple") == sign(
        canonicalization="simple/simple"
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"domain": "org"}, "no domain"),
        ({"domain": "exa mple.org"}, "no domain"),
        ({"domain": "example.org; l=0"}, "no domain"),
        ({"selector": ""}, "no selector"),
        ({"selector": "a;b"}, "no selector"),
        ({"identity": "ann"}, "no address in example.org"),
        ({"identity": "ann@example.com"}, "no address in example.org"),
        ({"headers": ["To"]}, "From must be signed"),
        ({"headers": []}, "From must be signed"),
        ({"headers": ["From", "To:Cc"]}, "no name"),
        ({"headers": ["From", "To; l=0"]}, "no name"),
        ({"headers": ["From", ""]}, "no name"),
        ({"canonicalization": "nofws"}, "no known form"),
        ({"expire_after": 0}, "expire"),
        ({"message": b"To: x\r\n\r\n"}, "without From"),
    ],
)
def test_what_cannot_be_signed(options: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        sign(**options)  # type: ignore[arg-type]  # as above


def test_an_identity_of_odd_letters_is_written_so_that_it_stays() -> None:
    identity = "a;b=c ü@example.org"
    field = sign(identity=identity)
    assert b"i=a=3Bb=3Dc=20=C3=BC@example.org" in field.replace(b"\r\n ", b"")
    assert [(one.result, one.identity) for one in verified(field + MESSAGE)] == [("pass", identity)]


def test_a_domain_in_its_own_letters_is_written_in_those_of_dns() -> None:
    assert tags_of(sign(domain="Bücher.example"))[b"d"] == b"xn--bcher-kva.example"


LABELS = st.text("abcxyz0123456789", min_size=1, max_size=20)


@settings(max_examples=50)
@given(LABELS, st.lists(LABELS, min_size=2, max_size=3), st.lists(st.from_regex(r"[A-Za-z-]{1,30}", fullmatch=True)))
def test_no_line_is_long_and_no_fold_breaks_anything(selector: str, labels: list[str], names: list[str]) -> None:
    domain = ".".join(labels)
    for key in (rsa(2048), ed25519()):
        field = sign(key=key, domain=domain, selector=selector, headers=["From", *names], canonicalization="simple")
        assert all(len(line) <= 78 for line in field.split(b"\r\n"))
        assert not re.search(rb"\r\n(?![ \t])", field.removesuffix(b"\r\n"))
        assert not re.search(rb"[ \t]\r\n", field)
        records = {f"{selector}._domainkey.{domain}": {"TXT": [key.record]}}
        assert [one.result for one in verified(field + MESSAGE, records)] == ["pass"]


def test_a_word_longer_than_a_line_stands_alone() -> None:
    assert fold("X", [" a;", " " + "b" * 100, " c"]) == b"X: a;\r\n " + b"b" * 100 + b"\r\n c"
