"""SASLprep: the examples of RFC 4013 section 3, and what may not pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.wire.saslprep import saslprep


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("", ""),
        ("\u00ad", ""),
        ("a\u00a0b\u2003c\u1680d", "a b c d"),
        ("e\u0301", "\u00e9"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("\u06271\u0628", "\u06271\u0628"),
    ],
)
def test_prepared(text: str, prepared: str) -> None:
    assert saslprep(text, stored=True) == saslprep(text, stored=False) == prepared


@pytest.mark.parametrize(
    "text",
    [
        "\u0007",
        "a\x7f",
        "a\nb",
        "\u06271",
        "\u0627a\u0628",
        "1\u0627",
        "\ue000",
        "\ufffd",
        chr(0xD800),
        "\u200e",
        "\u2ff0",
    ],
)
def test_refused(text: str) -> None:
    for stored in (True, False):
        with pytest.raises(ValueError, match=r"prohibited|direction|left") as caught:
            saslprep(text, stored=stored)
        assert text not in str(caught.value)


def test_only_a_query_may_hold_code_points_that_unicode_3_2_did_not_know() -> None:
    assert saslprep("x\U0001f600", stored=False) == "x\U0001f600"
    with pytest.raises(ValueError, match="unassigned"):
        saslprep("x\U0001f600", stored=True)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_ascii_stays_as_it_is(text: str) -> None:
    assert saslprep(text, stored=True) == text
