"""Addresses as the envelope carries them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import NULL_PATH, Address, AddressError, parse_path


@pytest.mark.parametrize(
    ("text", "local_part", "domain"),
    [
        ("Bob@Example.ORG", "Bob", "example.org"),
        ("a.b+c@example.org.", "a.b+c", "example.org"),
        ('"a b"@example.org', "a b", "example.org"),
        (r'"a\"b"@example.org', 'a"b', "example.org"),
        ('"x@y"@example.org', "x@y", "example.org"),
        ("u@[192.0.2.1]", "u", "[192.0.2.1]"),
        ("u@[IPv6:2001:DB8::1]", "u", "[ipv6:2001:db8::1]"),
        ("jörg@bücher.example", "jörg", "xn--bcher-kva.example"),
    ],
)
def test_valid_addresses(text: str, local_part: str, domain: str) -> None:
    assert Address.parse(text) == Address(local_part, domain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bob",
        "@example.org",
        "a..b@example.org",
        ".a@example.org",
        "a b@example.org",
        "a@b@c",
        "a@-example.org",
        "a@example..org",
        "a@[300.0.0.1]",
        "a@[192.0.2.1",
        'a"b@example.org',
        '"a@example.org',
        "a@exa\rmple.org",
        "a\n@example.org",
        '"a\0"@example.org',
        "x" * 65 + "@example.org",
        "a@" + "x" * 64 + ".org",
        "a@" + "x.y" * 90,
    ],
)
def test_malformed_addresses_are_refused(text: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(text)


def test_path_with_parameters() -> None:
    assert parse_path("<a@b.example> SIZE=1") == (Address("a", "b.example"), " SIZE=1")
    assert parse_path('<"a>b"@c.example>') == (Address("a>b", "c.example"), "")


def test_a_source_route_is_dropped() -> None:
    assert parse_path("<@one.example,@two.example:a@b.example>")[0] == Address("a", "b.example")


def test_the_null_path_only_where_it_is_allowed() -> None:
    assert parse_path("<>", allow_null=True) == (NULL_PATH, "")
    assert not NULL_PATH
    with pytest.raises(AddressError):
        parse_path("<>")


@pytest.mark.parametrize("text", ["a@b.example", "<a@b.example", "<a@b.example>x", "<<a@b.example>>", "< a@b.example>"])
def test_malformed_paths_are_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse_path(text)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30))
def test_what_is_written_reads_back(local_part: str) -> None:
    address = Address(local_part, "example.org")
    assert Address.parse(str(address)) == address


@given(st.text(max_size=300))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        address, _rest = parse_path(text)
    except AddressError:
        return
    assert not set("\r\n\0") & set(str(address))


@pytest.mark.parametrize(
    "path",
    [
        '<x@[IPv6:fe80::1%"> AUTH=boss@example.com FOO"]>',
        '<x@[IPv6:::1%">, "Bank" <third@party.org>, "]>',
        "<x@[IPv6:fe80::1%eth0]>",
        '<x@["> SIZE="]>',
        '<x"> FOO="@b.example>',
    ],
)
def test_nothing_hides_behind_a_literal_or_a_quote(path: str) -> None:
    try:
        address, rest = parse_path(path)
    except AddressError:
        return
    assert str(address).isalnum(), (address, rest)


@pytest.mark.parametrize("text", ["\x9b", "\u202e", "\u2028", "\u200b", "\ufeff"])
@pytest.mark.parametrize("form", ["a{}@b.example", '"a{}"@b.example', "a@b{}.example"])
def test_what_cannot_be_printed_is_in_no_address(form: str, text: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(form.format(text))
