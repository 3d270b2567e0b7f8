"""Text and links: as programs show them, with all disguises undone, within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publicsuffixlist import PublicSuffixList

from mailgate.content.examine import Examiner
from mailgate.content.links import MOST_LINKS, LinkReader, host_of, urls_in
from mailgate.content.models import Limits, Question, Rule
from mailgate.content.text import read_html

EXAMINER = Examiner()


def hosts(text: str) -> list[tuple[str, str]]:
    reader = LinkReader(PublicSuffixList())
    reader.add(urls_in(text))
    return [(one.host, one.via) for one in reader.links]


def links(body: str, kind: str = "text/html", *, bare: bool = False, charset: str = "utf-8") -> list[str]:
    message = f"Subject: x\r\nContent-Type: {kind}; charset={charset}\r\n\r\n{body}".encode(charset)
    found = EXAMINER.answer(Question(data=message, links=True, bare_hosts=bare))
    return [one.host for one in found.links]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Example.COM/x", "example.com"),
        ("https://example.com.", "example.com"),
        ("http://user:pass@evil.example/", "evil.example"),
        ("http://good.example@evil.example", "evil.example"),
        ("http://good.example\\@evil.example", "good.example"),
        ("http:\\\\evil.example\\x", "evil.example"),
        ("http:/evil.example", "evil.example"),
        ("http:evil.example", "evil.example"),
        ("//evil.example/x", "evil.example"),
        ("http://evil%2Eexample/", "evil.example"),
        ("http://ev\u00adil.exa\u200bmple", "evil.example"),
        ("h\nttp://evil.example", "evil.example"),
        ("http://evil\u3002example", "evil.example"),
        ("http://\u0435vil.example", "xn--vil-qdd.example"),
        ("http://b\u00fccher.example", "xn--bcher-kva.example"),
        ("http://evil.example:8080/x", "evil.example"),
        ("http://evil.example?x", "evil.example"),
        ("http://192.0.2.1/", "192.0.2.1"),
        ("http://3221225985/", "192.0.2.1"),
        ("http://0xC0000201/", "192.0.2.1"),
        ("http://0300.0.2.1/", "192.0.2.1"),
        ("http://192.0.513/", "192.0.2.1"),
        ("http://[2001:db8::1]/", "2001:db8::1"),
        ("http://[::ffff:192.0.2.1]/", "192.0.2.1"),
        ("hxxp://evil[.]example/", "evil.example"),
        ("mailto:a@evil.example", ""),
        ("data:text/html,http://x", ""),
        ("/relative", ""),
        ("http://", ""),
        ("http://nodots", ""),
        ("http://a..b.example", ""),
        ("", ""),
    ],
)
def test_where_a_link_leads(url: str, host: str) -> None:
    assert host_of(url) == host


@given(st.text(max_size=200))
def test_nothing_makes_it_fail(text: str) -> None:
    host_of(text)
    host_of(f"http://{text}")
    hosts(text)
    read_html(text)


def test_redirectors_are_followed_by_what_they_are_told() -> None:
    assert ("evil.example", "good.example") in hosts("https://good.example/r?u=https%3A%2F%2Fevil.example%2Fx&v=1")
    assert ("evil.example", "good.example") in hosts("https://good.example/r/http://evil.example/x")
    twice = "https://a.example/?u=https%3A%2F%2Fb.example%2F%3Fu%3Dhttps%253A%252F%252Fc.example"
    assert {"a.example", "b.example", "c.example"} <= {host for host, _ in hosts(twice)}


def test_nested_redirectors_are_bounded() -> None:
    assert len(hosts("http://a.example/" + "http://b.example/" * 100)) < 10


def test_links_are_bounded() -> None:
    reader = LinkReader(PublicSuffixList())
    reader.add(f"http://x{number}.example/" for number in range(5000))
    assert len(reader.links) == MOST_LINKS
    assert reader.is_full


def test_domains_are_those_that_were_registered() -> None:
    reader = LinkReader(PublicSuffixList())
    reader.add(["http://a.b.example.co.uk", "http://a.example.com", "http://192.0.2.1"])
    assert [one.domain for one in reader.links] == ["example.co.uk", "example.com", "192.0.2.1"]


@pytest.mark.parametrize(
    "body",
    [
        '<a href="http://evil.example">x</a>',
        "<A HREF=http://evil.example/x>x",
        "<a\nhref = 'http://evil.example'>x",
        '<a href="&#104;ttp://evil&#46;example">x</a>',
        '<a href="ht&Tab;tp://evil.example">x</a>',
        '<img src="//evil.example/x.png">',
        '<div style="background:url(http://evil.example/x)">',
        "<style>a { background: url('http://evil.example/x') }</style>",
        '<meta http-equiv=refresh content="0; url=http://evil.example/">',
        '<base href="http://evil.example/"><a href="x">',
        '<form action="http://evil.example/post">',
        '<img srcset="http://evil.example/1 1x, http://evil.example/2 2x">',
        '<a x="<" href="http://evil.example">',
        '<!-- x --><a href="http://evil.example">',
        '<a href="http://evil.example',
        "<p>See http://evil.example/x</p>",
        "<p>See http://ev<b>il.exa</b>mple/x</p>",
        "<p>Go to www.evil.example now</p>".replace("www.", "http://"),
    ],
)
def test_links_of_html(body: str) -> None:
    assert links(body) == ["evil.example"]


def test_what_nobody_sees_is_no_link() -> None:
    assert links("<script>x = 'http://a.example'</script><!-- http://b.example --><p>x") == []


def test_links_of_text() -> None:
    assert links("See <http://a.example/x>, (https://b.example.) or www.c.example!", "text/plain") == [
        "a.example",
        "b.example",
        "www.c.example",
    ]


def test_bare_names_count_where_that_is_wanted() -> None:
    text = "Go to example.com, not to readme.txt or a@mail.example.org"
    assert links(text, "text/plain") == []
    assert links(text, "text/plain", bare=True) == ["example.com"]


def test_links_in_other_charsets_and_the_subject() -> None:
    assert links("<a href='http://evil.example'>\u0416</a>", charset="koi8-r") == ["evil.example"]
    assert links("<a href='http://evil.example'>", charset="utf-16") == ["evil.example"]
    message = b"Subject: =?utf-8?Q?http://evil.example/?=\r\n\r\n"
    assert [one.host for one in EXAMINER.answer(Question(data=message, links=True)).links] == ["evil.example"]


def test_text_of_html() -> None:
    page = read_html("<p>One&nbsp;t<b>w</b>o</p><style>x</style><td>three<script>y</script> &lt;four")
    assert page.text.split() == ["One", "two", "three", "<four"]


@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "<a ",
        "<a b='",
        '<a b="',
        "<!--",
        "<!-- -->",
        "<style>",
        "<script>",
        "</",
        "<a href=x ",
        "<div>",
        "&",
        "<?",
        "<a/",
    ],
)
def test_hostile_html_takes_linear_steps(unit: str) -> None:
    # A quadratic reader would need minutes for this; pytest's own limit ends it.
    page = read_html(unit * (2_000_000 // len(unit)))
    assert len(page.links) <= 10_000


@pytest.mark.parametrize("unit", ["http://", "http:/", "www.", "a.", "http://a.b/http%3a%2f%2f", "h", "[.]", "%25"])
def test_hostile_text_takes_linear_steps(unit: str) -> None:
    reader = LinkReader(PublicSuffixList())
    text = unit * (1_000_000 // len(unit))
    reader.add(urls_in(text))
    reader.add_bare(text)
    assert len(reader.links) <= MOST_LINKS


def matches(message: bytes, *rules: Rule, limits: Limits | None = None) -> list[str]:
    return list(EXAMINER.answer(Question(data=message, rules=rules, limits=limits or Limits())).matches)


def test_rules_find_what_is_where_they_look() -> None:
    message = (
        b"Subject: =?utf-8?B?Q2hlYXAgcGlsbHM=?=\r\nX-A: one\r\n two\r\nContent-Type: text/html\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n<p>You have <b>w=6Fn</b> a lottery</p>\r\n"
    )
    assert matches(message, Rule("a", "cheap PILLS", "header:subject", is_plain=True)) == ["a"]
    assert matches(message, Rule("a", "^one +two$", "header:x-a")) == ["a"]
    assert matches(message, Rule("a", "won a lot+ery", "text")) == ["a"]
    assert matches(message, Rule("a", "w=6Fn", "raw", is_plain=True)) == ["a"]
    assert matches(message, Rule("a", "^Subject: =", "headers")) == ["a"]
    assert matches(message, Rule("a", "won", "header:subject")) == []
    assert matches(message, Rule("a", "WON", "text", ignore_case=False)) == []
    assert matches(message, Rule("a", "w.n", "text", is_plain=True)) == []


def test_rules_take_linear_time() -> None:
    # Backtracking would take longer than the world has been there.
    message = b"\r\n" + b"a" * 1_000_000
    assert matches(message, Rule("a", "(a*)*(a|aa)+b", "text")) == []
    assert matches(message, Rule("a", "(a+)+$", "raw")) == ["a"]


def test_text_is_searched_up_to_a_bound() -> None:
    message = b"\r\n" + b"a" * 1000 + b" needle"
    assert matches(message, Rule("a", "needle")) == ["a"]
    assert matches(message, Rule("a", "needle"), limits=Limits(text=500)) == []
