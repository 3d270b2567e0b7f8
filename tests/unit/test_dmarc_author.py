"""The author's domain: every form of a From field, what is not beyond doubt, and bounds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.mailauth.dmarc.author import MAX_AUTHORS, MAX_FROM, MAX_MAILBOXES, Authors, author_domain, author_domains


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        ("ann@example.org", "example.org"),
        ("<ann@example.org>", "example.org"),
        ("Ann <ann@Example.ORG>", "example.org"),
        ("Ann<ann@example.org.>", "example.org"),
        ("ann@example.org (Ann (of us))", "example.org"),
        ("ann (comment @evil.example, <x@evil.example>) @ example . org", "example.org"),
        ('"Ann, of <us@evil.example>" <ann@example.org>', "example.org"),
        (r'"a \" b" <ann@example.org>', "example.org"),
        ('"ann@evil.example"@example.org', "example.org"),
        ('"very odd"@example.org', "example.org"),
        ("Doe, Ann <ann@example.org>", "example.org"),
        ("someone@else.example <ann@example.org>", "example.org"),
        ("[Jira] Ann :) <ann@example.org>", "example.org"),
        ("=?utf-8?q?ceo=40bank=2Eexample?= <ann@example.org>", "example.org"),
        ("=?utf-8?b?Q0VPQGJhbmsuZXhhbXBsZQ==?= <ann@example.org>", "example.org"),
        ("<@relay.example,@other.example:ann@example.org>", "example.org"),
        ("<@relay.example:ann@example.org>", "example.org"),
        ("< ann@example.org >", "example.org"),
        ("Ann\r\n <ann@example.org>", "example.org"),
        ("Ann\n\t<ann@example.org>", "example.org"),
        ("ann@example.org,", "example.org"),
        ("<ann@example.org>;", "example.org"),
        ("Staff: ann@example.org, Bob <bob@example.org>;", "example.org"),
        ("Ann <ann@example.org>, bob@example.org", "example.org"),
        ("ann..b@example.org", "example.org"),
        ("änn@example.org", "example.org"),
        ("Änn \ufffd <ann@example.org>", "example.org"),
        ("ann@bücher.example", "xn--bcher-kva.example"),
        ("ann@BÜCHER.example", "xn--bcher-kva.example"),
        ("ann@xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("ann@my-company.example", "my-company.example"),
        ("ann@localhost", "localhost"),
    ],
)
def test_one_author(value: str, domain: str) -> None:
    assert author_domains([value]) == Authors((domain,))


@pytest.mark.parametrize(
    ("value", "domains"),
    [
        ("a@one.example, B <b@two.example>", ("one.example", "two.example")),
        (
            "All: a@one.example, B <b@two.example>, c@one.example;, d@three.example",
            ("one.example", "two.example", "three.example"),
        ),
    ],
)
def test_several_authors(value: str, domains: tuple[str, ...]) -> None:
    assert author_domains([value]) == Authors(domains)


@pytest.mark.parametrize(
    ("value", "domains", "problem"),
    [
        ("<a@one.example> <b@two.example>", ("one.example", "two.example"), "several addresses in one"),
        ("<a@one.example <b@two.example>", ("one.example", "two.example"), "several addresses in one"),
        ("<a@one.example> b@two.example", ("one.example", "two.example"), "text behind an address"),
        ("a@one.example: b@two.example;", ("one.example", "two.example"), "group whose name"),
        ("<a@one.example>: b@two.example;", ("one.example", "two.example"), "group whose name"),
        ("a@one.example@two.example", ("two.example",), "malformed"),
        ("Ann a@one.example", ("one.example",), "malformed"),
        ("@one.example", ("one.example",), "malformed"),
        ("<ann@one.example", ("one.example",), "has no end"),
        ("ann@one.example>", ("one.example",), "closing bracket"),
        ("ann@one.example (<b@two.example>", ("one.example",), "has no end"),
        ('"Ann <ann@one.example>', (), "has no end"),
        ("ann@[192.0.2.1", (), "has no end"),
        ("ann@[192.0.2.1]", (), "no domain"),
        ("<ann@[IPv6:2001:db8::1]>", (), "no domain"),
        ("ceo@one.example <>, a@two.example", ("two.example",), "no domain"),
        ('a@"one.example"', (), "no domain"),
        ("a@one example", (), "no domain"),
        ("a@one..example", (), "no domain"),
        ("a@one.exa\ufffdmple", (), "no domain"),
        (f"a@{'x' * 64}.example", (), "no domain"),
        (f"a@{'x.' * 150}example", (), "no domain"),
        ("=?utf-8?b?Y2VvQGJhbmsuZXhhbXBsZQ==?=@one.example", ("one.example",), "encoded word"),
        ("Boss <=?utf-8?q?ceo=40bank.example?=@one.example>", ("one.example",), "encoded word"),
        ('Boss <"=?utf-8?q?ceo=40bank.example?="@one.example>', ("one.example",), "encoded word"),
        ("a@one.example\0.two.example", (), "control character"),
        ("a@one.example\nb@two.example", ("two.example",), "control character"),
        ("ann", (), "no address"),
        ("=?utf-8?q?ceo=40bank=2Eexample?=", (), "no address"),
        ("Undisclosed:;", (), "no address"),
        ("", (), "no address"),
    ],
)
def test_what_is_not_beyond_doubt(value: str, domains: tuple[str, ...], problem: str) -> None:
    authors = author_domains([value])
    assert authors.domains == domains
    assert problem in authors.problem


def test_no_field_and_several() -> None:
    assert author_domains([]) == Authors((), "there is no From field", is_nobody=True)
    assert author_domains(["a@one.example", "b@two.example"]) == Authors(
        ("one.example", "two.example"), "there are 2 From fields"
    )
    assert author_domains(["a@one.example"] * 2) == Authors(("one.example",), "there are 2 From fields")


@pytest.mark.parametrize(
    ("value", "is_nobody"),
    [
        ("MAILER-DAEMON", True),
        ("Mail Delivery System <>", True),
        ("<MAILER-DAEMON>", True),
        ("", True),
        ("ceo@bank.example <>", False),
        ("=?utf-8?q?ceo=40bank=2Eexample?=", False),
        ("ceo\uff20bank.example", False),
        ('"ceo@bank.example"', False),
        ("ann@example.org", False),
    ],
)
def test_whether_anything_could_be_taken_for_an_author(value: str, is_nobody: bool) -> None:
    assert author_domains([value]).is_nobody is is_nobody


def test_so_many_domains_are_looked_at() -> None:
    values = ", ".join(f"a@{number}.example" for number in range(MAX_AUTHORS))
    assert author_domains([values]).problem == ""
    authors = author_domains([f"{values}, a@more.example, a@most.example"])
    assert len(authors.domains) == MAX_AUTHORS
    assert authors.problem == f"the From field has more than {MAX_AUTHORS} domains"


@pytest.mark.parametrize("unit", ["a@one.example,", ",", "<", "a:"])
def test_so_many_mailboxes_are_read(unit: str) -> None:
    few, many = author_domains([unit * (MAX_MAILBOXES - 1)]), author_domains([unit * (MAX_MAILBOXES + 1)])
    assert "addresses" not in few.problem or unit == "<"
    assert many.problem
    assert unit == "<" or f"more than {MAX_MAILBOXES} addresses" in many.problem


def test_what_is_behind_the_bound_of_mailboxes_is_not_read() -> None:
    assert author_domains(["a@one.example," * MAX_MAILBOXES + "b@two.example"]).domains == ("one.example",)


def test_encoded_words_are_for_names() -> None:
    for name in ("=?utf-8?q?Ann?=", '"=?utf-8?q?ann=40bank.example?="', "(=?utf-8?q?Ann?=)"):
        assert author_domains([f"{name} <ann@one.example>"]) == Authors(("one.example",))


@pytest.mark.parametrize(
    "values", [["(" * 100_000], ["a@one.example" + " " * MAX_FROM], ["x" * MAX_FROM, "a@one.example"]]
)
def test_what_is_too_long_is_not_read(values: list[str]) -> None:
    authors = author_domains(values)
    assert authors.domains == ()
    assert authors.problem


def test_a_thousand_fields() -> None:
    authors = author_domains(["a@one.example"] * 1000)
    assert authors == Authors(("one.example",), "there are 1000 From fields")


@pytest.mark.parametrize(
    "unit",
    ["(", '"', "<", ":", "@", ",", "\\", "[", "(\\)", "a@b.example,", "a@b<c@d>:", "<@a:", " .", "a b@", "=?a?q?b?="],
)
def test_twice_the_length_is_twice_the_work(unit: str) -> None:
    steps = [_steps(unit * (size // len(unit))) for size in (4_000, 8_000)]
    assert steps[1] < 2.5 * steps[0] + 100


def test_a_long_route_is_no_more_work() -> None:
    first, second = (_steps(f"<{'a,' * size}@{':' * size}") for size in (1_000, 2_000))
    assert second < 2.5 * first + 100


def _steps(value: str) -> int:
    with _counted() as count:
        author_domains([value])
    return count[0]


@contextmanager
def _counted() -> Iterator[list[int]]:
    """How many functions are called, those in C too."""
    count = [0]

    def note(_frame: FrameType, _event: str, _argument: object) -> None:
        count[0] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield count
    finally:
        sys.setprofile(before)


_DOMAINS = st.sampled_from(["example.org", "Example.NET", "bücher.example", "a-b.c.example"])
_NAMES = st.sampled_from(["", "Ann ", '"Ann, B" ', "Doe, Ann ", "(x) ", "=?utf-8?q?a=40b?= ", "x@y.example "])


@given(st.lists(st.tuples(_NAMES, _DOMAINS, st.sampled_from(["", " (c)", " (a (b) \\( c)"])), min_size=1, max_size=4))
def test_well_formed_fields_are_read(mailboxes: list[tuple[str, str, str]]) -> None:
    value = ", ".join(f"{name}<a@{domain}>{comment}" for name, domain, comment in mailboxes)
    expected = tuple(dict.fromkeys(author_domain(domain) for _, domain, _ in mailboxes))
    assert author_domains([value]) == Authors(expected)


@given(st.lists(st.text(max_size=80) | st.text(alphabet='a@b.<>(),:;"\\[] \r\n\t=?', max_size=80), max_size=3))
def test_whatever_stands_there_is_read(values: list[str]) -> None:
    authors = author_domains(values)
    assert authors.domains or authors.problem
    for domain in authors.domains:
        assert author_domain(domain) == domain
