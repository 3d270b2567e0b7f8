"""Macros of SPF: the examples of RFC 7208 section 7.4, the grammar, and bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.mailauth.macros import MacroError, expand, expand_name, is_domain_spec

VALUES = {
    "s": "strong-bad@email.example.com",
    "l": "strong-bad",
    "o": "email.example.com",
    "d": "email.example.com",
    "i": "192.0.2.3",
    "v": "in-addr",
    "h": "mx.example.org",
    "p": "mx.example.org",
    "c": "192.0.2.3",
    "r": "mx.example.com",
    "t": "1000000000",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l-}", "strong.bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
        ("%{DR}", "com.example.email"),
        ("%{d02}", "example.com"),
        ("%{d999999999999}", "email.example.com"),
        ("%{d-}", "email.example.com"),
        ("%{s+-}", "strong.bad@email.example.com"),
        ("%{S}", "strong-bad%40email.example.com"),
        ("%%%_%-", "% %20"),
        ("see http://%{r}/%{t}", "see http://mx.example.com/1000000000"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, VALUES.__getitem__) == expected


@pytest.mark.parametrize(
    "text",
    ["%", "%%%", "%a", "%{", "%{d", "%{}", "%{a}", "%{d0}", "%{d00r}", "%{dx}", "%{d2x}", "%{rd}", "%{d!}", "%{d.r}"],
)
def test_what_is_no_macro(text: str) -> None:
    with pytest.raises(MacroError):
        expand(text, VALUES.__getitem__)
    with pytest.raises(MacroError):
        is_domain_spec(f"{text}.example.com")


@pytest.mark.parametrize("letter", "crtCRT")
def test_some_macros_are_for_explanations_only(letter: str) -> None:
    assert expand(f"%{{{letter}}}", VALUES.__getitem__) == VALUES[letter.lower()]
    with pytest.raises(MacroError, match="explanations only"):
        expand_name(f"%{{{letter}}}.example.com", VALUES.__getitem__)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("example.com", True),
        ("example.com.", True),
        ("%{d}", True),
        ("a.%{d2}", True),
        ("a%{d}%%", True),
        ("%{d}.com", True),
        ("%{d.}.com", True),
        ("a.x-y", True),
        ("a.1-y", True),
        ("", False),
        (".", False),
        ("test", False),
        ("a..", False),
        ("%{d}com", False),
        ("%{d.}com", False),
        ("%{d}.", False),
        ("192.0.2.1", False),
        ("a.-y", False),
        ("a.y-", False),
        ("a.x_y", False),
        ("example.com:8080", False),
    ],
)
def test_how_a_domain_spec_ends(text: str, expected: bool) -> None:
    assert is_domain_spec(text) is expected


@pytest.mark.parametrize("text", ["a b.com", "a\t.com", "a\r\n.com", "ü.com", "a\0.com"])
def test_what_is_in_no_domain_spec(text: str) -> None:
    with pytest.raises(MacroError):
        is_domain_spec(text)


def test_a_long_name_loses_labels_on_its_left() -> None:
    labels = [f"{number:02}{'x' * 48}" for number in range(10)]
    assert expand_name(".".join(labels) + ".com", VALUES.__getitem__) == ".".join(labels[6:]) + ".com"
    assert expand_name(f"{'x' * 300}.com.", VALUES.__getitem__) == "com"
    exact = "x." * 126 + "y"
    assert len(exact) == 253
    assert expand_name(exact, VALUES.__getitem__) == exact
    assert expand_name(f"a.{exact}", VALUES.__getitem__) == exact


def test_a_text_does_not_grow_for_ever() -> None:
    asked: list[str] = []

    def value(letter: str) -> str:
        asked.append(letter)
        return "x" * 255

    with pytest.raises(MacroError, match="4096"):
        expand("%{d}" * 100_000, value)
    assert len(asked) == 17


@given(st.text(alphabet="%{}drsl.2-_0 abX", max_size=60))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    try:
        name = expand_name(text, VALUES.__getitem__)
        ends_well = is_domain_spec(text)
    except MacroError:
        return
    assert len(name) <= 253 or "." not in name
    assert isinstance(ends_well, bool)
