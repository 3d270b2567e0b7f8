"""Authentication-Results: what others write is read, what we write is one field, hostile values are bounded."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.mailauth.authentication_results import (
    MAX_DEPTH,
    MAX_PROPERTIES,
    MAX_RESULTS,
    MAX_SIZE,
    AuthenticationResults,
    AuthenticationResultsError,
    MethodResult,
    authserv_id_of,
    is_by,
)
from mailgate.message import AddHeader, HeaderField

NAME = "Authentication-Results"


def parse(value: str) -> AuthenticationResults:
    return AuthenticationResults.parse(value)


def results(value: str) -> list[tuple[str, str, dict[str, str]]]:
    return [
        (one.method, one.result, {".".join(filter(None, (kind, name))): text for kind, name, text in one.properties})
        for one in parse(value).results
    ]


# -- reading


def test_the_examples_of_the_rfc() -> None:
    assert parse("example.org 1; none") == AuthenticationResults("example.org")
    assert parse("example.com;\r\n          spf=pass smtp.mailfrom=example.net").results == (
        MethodResult("spf", "pass", "", (("smtp", "mailfrom", "example.net"),)),
    )
    found = parse(
        "foo.example.net (foobar) 1 (baz);\r\n    dkim (Because I like it) / 1 (One yay) = (wait for it) fail\r\n"
        "      policy (A dot can go here) . (like that) expired\r\n"
        "      (this surprised me) = (as I wasn't expecting it) 1362471462"
    )
    assert found == AuthenticationResults(
        "foo.example.net", (MethodResult("dkim", "fail", "", (("policy", "expired", "1362471462"),)),)
    )
    assert results(
        'example.com;\r\n   dkim=pass reason="good signature"\r\n     header.i=@mail-router.example.net;\r\n'
        '   dkim=fail reason="bad signature" header.i=@newyork.example.com'
    ) == [
        ("dkim", "pass", {"header.i": "@mail-router.example.net"}),
        ("dkim", "fail", {"header.i": "@newyork.example.com"}),
    ]
    assert parse("example.com; auth=pass (cram-md5) smtp.auth=sender@example.net").of("auth")[0].get(
        "smtp", "auth"
    ) == ("sender@example.net")


def test_what_gmail_writes() -> None:
    assert results(
        'mx.google.com;\r\n       dkim=pass header.i=@example.org header.s=s1 header.b="Ab/+3dEf";\r\n'
        "       arc=pass (i=1 spf=pass spfdomain=example.org dkim=pass dkdomain=example.org);\r\n"
        "       spf=pass (google.com: domain of a(b)@example.org designates 192.0.2.1 as permitted sender)"
        ' smtp.mailfrom="SRS0=x/y=Z=example.net=ann@example.org";\r\n'
        "       dmarc=pass (p=NONE sp=NONE dis=NONE) header.from=example.org"
    ) == [
        ("dkim", "pass", {"header.i": "@example.org", "header.s": "s1", "header.b": "Ab/+3dEf"}),
        ("arc", "pass", {}),
        ("spf", "pass", {"smtp.mailfrom": "SRS0=x/y=Z=example.net=ann@example.org"}),
        ("dmarc", "pass", {"header.from": "example.org"}),
    ]


def test_what_outlook_writes() -> None:
    found = parse(
        "spf=pass (sender IP is 192.0.2.1) smtp.mailfrom=example.org; hotmail.com;\r\n dkim=pass (signature was"
        " verified) header.d=example.org;hotmail.com;\r\n dmarc=pass action=none"
        " header.from=example.org;compauth=pass reason=100"
    )
    assert found.authserv_id == ""
    assert [(one.method, one.result, one.reason) for one in found.results] == [
        ("spf", "pass", ""),
        ("dkim", "pass", ""),
        ("dmarc", "pass", ""),
        ("compauth", "pass", "100"),
    ]
    assert found.of("dmarc")[0].get("", "action") == "none"
    sealed = parse(
        "mx.microsoft.com 1; spf=pass smtp.mailfrom=example.org; dmarc=pass action=none header.from=example.org;"
        " dkim=pass header.d=example.org; arc=pass (0 oda=1 ltdi=1 spf=[1,1,smtp.mailfrom=example.org])"
    )
    assert sealed.authserv_id == "mx.microsoft.com"
    assert [one.method for one in sealed.results] == ["spf", "dmarc", "dkim", "arc"]


def test_what_others_write() -> None:
    assert results(
        "mx1.example; dkim=pass (2048-bit rsa key sha256) header.d=a.example header.b=x/+= header.s=s x-bits=2048;"
        " x-vs=clean score=-100 state=0; iprev=pass smtp.remote-ip=2001:db8::1; spf=none smtp.mailfrom=;"
        ' x_y=pass smtp.mailfrom="a b"@example.org;'
    ) == [
        ("dkim", "pass", {"header.d": "a.example", "header.b": "x/+=", "header.s": "s", "x-bits": "2048"}),
        ("x-vs", "clean", {"score": "-100", "state": "0"}),
        ("iprev", "pass", {"smtp.remote-ip": "2001:db8::1"}),
        ("spf", "none", {"smtp.mailfrom": ""}),
        ("x_y", "pass", {"smtp.mailfrom": '"a b"@example.org'}),
    ]


def test_words_are_lower_case_and_values_are_not() -> None:
    found = parse("MX.Example; SPF=Pass SMTP.MailFrom=Ann@Example.org")
    assert found == AuthenticationResults(
        "MX.Example", (MethodResult("spf", "pass", "", (("smtp", "mailfrom", "Ann@Example.org"),)),)
    )


def test_folding_and_quoted_pairs_within_a_quoted_string() -> None:
    assert parse('"a \\"b\\" \\\\c"; spf=fail reason="one\r\n two\tthree"') == AuthenticationResults(
        'a "b" \\c', (MethodResult("spf", "fail", "one two three"),)
    )


def test_letters_beyond_ascii() -> None:
    found = parse('bücher.example; spf=pass smtp.mailfrom="jürgen@bücher.example"; dkim=pass header.i=ü@ö')
    assert found.authserv_id == "bücher.example"
    assert [one.properties[0][2] for one in found.results] == ["jürgen@bücher.example", "ü@ö"]


@pytest.mark.parametrize(
    ("value", "reason", "position"),
    [
        ("", "nothing is there", 0),
        ("  (only a comment)", "nothing is there", 18),
        ("; spf=pass", "authserv-id is missing", 0),
        ("mx spf=pass", "a semicolon is missing", 3),
        ("mx; =pass", "a method is missing", 4),
        ("mx; spf=", "a result is missing", 8),
        ("mx; spf pass", '"=" is missing', 8),
        ("mx; spf/x=pass", "the version of the method is missing", 8),
        ("mx; spf/1234567890=pass", "the version of the method is missing", 8),
        ("mx; spf=pass smtp.=x", "the name of a property is missing", 18),
        ("mx; spf=pass smtp.mailfrom x", '"=" is missing', 27),
        ("mx; spf=pass smtp", '"=" is missing', 17),
        ('mx; spf=pass reason="x', "a quoted string without an end", 20),
        ('mx; spf=pass reason="\0"', "a quoted string without an end, or with a control in it", 20),
        ("mx; spf=pass reason=a reason=b", "a second reason", 22),
        ("mx; spf=pass (x", "a comment without an end", 13),
        ("mx; spf=pass )", "a property is missing", 13),
        ("mx; spf=pass smtp.mailfrom=a\0b", "a property is missing", 28),
        ('mx; spf=pass smtp.mailfrom=a"b"', "a property is missing", 28),
    ],
)
def test_what_cannot_be_read_says_where(value: str, reason: str, position: int) -> None:
    with pytest.raises(AuthenticationResultsError, match=re.escape(reason)) as caught:
        parse(value)
    assert caught.value.position == position
    assert isinstance(caught.value, ValueError)


def test_semicolons_too_many_and_bare_words_are_no_results() -> None:
    assert parse("mx;; none; ;spf=pass;").results == (MethodResult("spf", "pass"),)
    assert parse("mx").results == ()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("mx; spf=pass " + "(" * (MAX_DEPTH + 1) + ")" * (MAX_DEPTH + 1), "comments within comments"),
        ("mx" + "; spf=pass" * (MAX_RESULTS + 1), "results"),
        ("mx" + ("; spf=pass" + " a.b=c" * (MAX_PROPERTIES // 2 + 1)) * 2, "properties"),
        ("x" * (MAX_SIZE + 1), "characters"),
    ],
)
def test_the_bounds(value: str, reason: str) -> None:
    with pytest.raises(AuthenticationResultsError, match=f"more than [0-9]+ {reason}"):
        parse(value)


def test_at_the_bounds_it_is_read() -> None:
    assert len(parse("mx" + "; spf=pass" * MAX_RESULTS).results) == MAX_RESULTS
    assert len(parse("mx; spf=pass" + " a.b=c" * MAX_PROPERTIES).results[0].properties) == MAX_PROPERTIES
    assert parse("mx; spf=pass " + "(" * MAX_DEPTH + ")" * MAX_DEPTH).results == (MethodResult("spf", "pass"),)


class Counted(str):
    """Text that counts how much of it is looked at by the parts of reading that are written in Python."""

    __slots__ = ("looks",)
    looks: int

    def startswith(self, *arguments: object) -> bool:
        self.looks += 1
        return super().startswith(*arguments)  # type: ignore[arg-type]  # as they came


HOSTILE: list[Callable[[int], str]] = [
    lambda n: "mx" + " (x)" * n,
    lambda n: "mx; spf=pass" + " a.b=c" * n,
    lambda n: 'mx; spf=pass reason="' + "\\x" * n + '"',
    lambda n: 'mx; spf=pass reason="' + "\\x" * n,
    lambda n: "(" * n + "mx",
    lambda n: "(x)" * n + "mx",
    lambda n: "((x)) " * n + "mx; spf=pass",
    lambda n: "(x" * n + "\\)" * n,
    lambda n: "mx; spf=pass " + "(x)" * n + "(",
    lambda n: '"' + "\\x" * n,
    lambda n: "(a" * n + ")" * n,
    lambda n: "mx;" + " " * n + "!",
    lambda n: "mx" + ";" * n,
    lambda n: "mx; " + "a" * n,
    lambda n: "mx; spf=pass " + '"' * n,
]


@pytest.mark.parametrize("made", HOSTILE)
def test_steps_grow_no_faster_than_the_value(made: Callable[[int], str]) -> None:
    def looks(size: int) -> int:
        text = Counted(made(size))
        text.looks = 0
        is_by(text, {"mx.example"})
        authserv_id_of(text)
        with contextlib.suppress(AuthenticationResultsError):
            parse(text)
        return text.looks

    assert looks(8000) <= 2 * looks(4000) + 20


@given(st.text(alphabet=st.sampled_from('ab1.;=/()"\\ \t\r\n@-_é\0'), max_size=60) | st.text(max_size=60))
def test_whatever_comes_is_read_or_refused(value: str) -> None:
    with contextlib.suppress(AuthenticationResultsError):
        found = parse(value)
        assert parse(found.text()) == found
    authserv_id_of(value)


# -- writing

KEYWORDS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"), max_size=100)
RESULTS = st.builds(
    MethodResult,
    KEYWORDS,
    KEYWORDS,
    VALUES,
    st.lists(st.tuples(KEYWORDS | st.just(""), KEYWORDS.filter(lambda word: word != "reason"), VALUES), max_size=4).map(
        tuple
    ),
    st.integers(1, 999_999_999),
)
FIELDS = st.builds(AuthenticationResults, VALUES, st.lists(RESULTS, max_size=4).map(tuple), st.integers(1, 999_999_999))
WILD = st.builds(
    AuthenticationResults,
    st.text(),
    st.lists(
        st.builds(
            MethodResult,
            st.text(),
            st.text(),
            st.text(),
            st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=3).map(tuple),
            st.integers(),
        ),
        max_size=3,
    ).map(tuple),
    st.integers(),
)


@given(FIELDS)
def test_what_is_written_is_read_again(field: AuthenticationResults) -> None:
    assert parse(field.text()) == field
    # As a message holds it: the unfolded value.
    assert parse(HeaderField.of(NAME, field.text()).value) == field


@given(WILD)
def test_whatever_values_hold_it_is_one_field(field: AuthenticationResults) -> None:
    text = field.text()
    raw = AddHeader(NAME, text).raw
    lines = raw.removesuffix(b"\r\n").split(b"\r\n")
    assert all(line[:1] in b" \t" and line.strip() for line in lines[1:])
    assert max(map(len, lines)) < 998
    assert not re.search(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)|(?<!\r)\n", text)
    again = parse(text)
    assert parse(again.text()) == again
    assert len(again.results) == len(field.results)


def test_an_injection_stays_a_value() -> None:
    field = AuthenticationResults(
        "mx", (MethodResult("spf", "fail", properties=(("smtp", "mailfrom", 'a b"\r\nX: evil; dkim=pass@b'),)),)
    )
    assert field.text() == 'mx;\r\n\tspf=fail smtp.mailfrom="a b\\"??X: evil; dkim=pass@b"'


def test_keywords_stay_keywords() -> None:
    result = MethodResult("none; dkim=pass", "", "", (("a b", "c=d", "x"), ("", "Reason", "y")))
    assert AuthenticationResults("mx", (result,)).text() == "mx;\r\n\tnone-dkim-pass=x a-b.c-d=x x-reason=y"


def test_it_is_folded_at_78() -> None:
    field = AuthenticationResults(
        "mx.example.org",
        tuple(
            MethodResult(
                "dkim",
                "fail",
                "the body is not the one that was signed, or a list has added to it " * 2,
                (
                    ("header", "d", "newsletter.example.org"),
                    ("header", "b", "Ab/+3dEf"),
                ),
            )
            for _ in range(2)
        ),
    )
    lines = f"{NAME}: {field.text()}".split("\r\n")
    assert len(lines) > 5
    assert max(len(line.replace("\t", " " * 8)) for line in lines) <= 78
    assert parse(field.text()) == field


def test_none() -> None:
    assert AuthenticationResults("mx.example.org").text() == "mx.example.org; none"
    assert AuthenticationResults("").text() == '""; none'


def test_what_is_very_long_is_cut() -> None:
    field = AuthenticationResults("ü" * 5000, (MethodResult("x" * 500, "y", "z" * 5000),))
    found = parse(field.text())
    assert found.authserv_id == "ü" * 200
    assert (len(found.results[0].method), len(found.results[0].reason)) == (60, 400)


# -- whose it is


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("mx.example.org; spf=pass", "mx.example.org"),
        (" (c (d)) MX.Example.ORG. (e) 1; x", "mx.example.org"),
        ('"mx.example\\.org"; x', "mx.example.org"),
        ("\r\n\tmx.example.org", "mx.example.org"),
        ("; ,mx.example.org spf pass", "mx.example.org"),
        ("\uff2d\uff38.example\u3002org; none", "mx.example.org"),
        ("bücher.example; none", "xn--bcher-kva.example"),
        ("spf=pass smtp.mailfrom=x", ""),
        ("spf (c) = pass", ""),
        ("(mx.example.org", ""),
        ('"mx.example.org', ""),
        ("", ""),
        (";;;", ""),
    ],
)
def test_whose_it_is(value: str, expected: str) -> None:
    assert authserv_id_of(value) == expected


@given(FIELDS)
def test_both_ways_of_reading_agree(field: AuthenticationResults) -> None:
    name = re.fullmatch(r"[a-z][a-z0-9.-]*[a-z0-9]", field.authserv_id)
    if name:
        assert authserv_id_of(field.text()) == field.authserv_id
        assert is_by(field.text(), {field.authserv_id})


@pytest.mark.parametrize(
    "value",
    [
        "mx.example.org; spf=pass",
        "MX.EXAMPLE.ORG.;spf=pass",
        "(c)mx.example.org(c);spf=pass",
        '"mx.example.org"; spf=pass',
        "mx.example.org",
        "mx.example.org spf=pass",
        "mx.example.org=pass",
        "mx.example.org:25; spf=pass",
        "mx.example.org/1; spf=pass",
        "mx.example.org\ufffd; spf=pass",
        "mx.exam\u00adple.org; spf=pass",
        "<mx.example.org>; spf=pass",
        "(a(b) mx.example.org; spf=pass",
        '"mx.example.org; spf=pass',
    ],
)
def test_what_is_ours_or_pretends_to_be(value: str) -> None:
    assert is_by(value, {"mx.example.org"})


@pytest.mark.parametrize(
    "value",
    [
        "mx.example.org.evil.example; spf=pass",
        "mx.example.organization; spf=pass",
        "mx.example.org-2; spf=pass",
        "amx.example.org; spf=pass",
        "a.mx.example.org; spf=pass",
        "other.example; spf=pass smtp.helo=mx.example.org",
        "other.example; spf=pass (mx.example.org)",
        "spf=pass smtp.helo=mx.example.org",
        "(a",
        "",
    ],
)
def test_what_is_not(value: str) -> None:
    assert not is_by(value, {"mx.example.org"})
