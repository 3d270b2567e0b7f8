"""Lists of tags: what is one, and what is not (RFC 6376 section 3.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.mailauth.dkim.limits import MAX_TAGS
from mailgate.mailauth.dkim.tags import TagError, decode_list, parse_tags, without_space


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        (b"v=1", {b"v": b"1"}),
        (b"v=1;", {b"v": b"1"}),
        (b" v = 1 ;\r\n\ta=rsa-sha256 ; ", {b"v": b"1", b"a": b"rsa-sha256"}),
        (b"p=", {b"p": b""}),
        (b"b=ab\r\n cd=", {b"b": b"ab\r\n cd="}),
        (b"x_1=y=z", {b"x_1": b"y=z"}),
        (b"A=1; a=2", {b"A": b"1", b"a": b"2"}),
        (b"", {}),
        (b" ; ", None),
        ("d=bücher.example".encode(), {b"d": "bücher.example".encode()}),
    ],
)
def test_what_is_a_list(text: bytes, tags: dict[bytes, bytes] | None) -> None:
    if tags is None:
        with pytest.raises(TagError):
            parse_tags(text)
    else:
        assert parse_tags(text) == tags


@pytest.mark.parametrize(
    "text", [b"v=1; v=1", b"v=1;; a=2", b"v", b"=1", b"1v=1", b"v w=1", b"_v=1", b"v=1\0", b"v=\x7f", b"v\xc3\xa4=1"]
)
def test_what_is_none(text: bytes) -> None:
    with pytest.raises(TagError):
        parse_tags(text)


def test_tags_stay_in_their_order() -> None:
    assert list(parse_tags(b"k=rsa; v=DKIM1")) == [b"k", b"v"]


def test_a_list_is_bounded_in_octets_and_tags() -> None:
    assert len(parse_tags(b";".join(b"t%d=1" % number for number in range(MAX_TAGS)))) == MAX_TAGS
    with pytest.raises(TagError, match="tags"):
        parse_tags(b";".join(b"t%d=1" % number for number in range(MAX_TAGS + 1)))
    with pytest.raises(TagError, match="tags"):
        parse_tags(b";" * 16_000)
    assert parse_tags(b"v=" + b"1" * 98, 100)
    with pytest.raises(TagError, match="101 octets"):
        parse_tags(b"v=" + b"1" * 99, 100)


def test_an_error_does_not_repeat_what_it_is_about() -> None:
    with pytest.raises(TagError) as caught:
        parse_tags(b"secret")
    assert "secret" not in str(caught.value)


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_list_or_an_error(octets: bytes) -> None:
    try:
        tags = parse_tags(octets)
    except TagError:
        return
    assert all(name and value.strip(b" \t\r\n") == value for name, value in tags.items())


def test_lists_within_a_value() -> None:
    assert decode_list(b"sha1 : sha256:\r\n x") == [b"sha1", b"sha256", b"x"]
    assert without_space(b" a\r\n\tb c") == b"abc"
