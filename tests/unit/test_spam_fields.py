"""Header fields of scanners, made into edits."""

from __future__ import annotations

import re
from collections import Counter
from email.header import decode_header, make_header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.filters.spam_fields import edits_between, field_value, folded_list, new_field, subject_value, whole_lines
from mailgate.message import AddHeader, apply_edits, split_header

_NAMES = st.sampled_from(["A", "B", "C"])
_FIELDS = st.lists(st.tuples(_NAMES, st.sampled_from(["1", "2", "3\r\n\t4"])), max_size=8)


def section(fields: list[tuple[str, str]]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode()


@given(st.text(st.sampled_from("a\r\n")).map(str.encode))
def test_every_end_of_a_line_becomes_a_whole_one(octets: bytes) -> None:
    assert whole_lines(octets) == re.sub(rb"\r\n|\r|\n", b"\r\n", octets)


@given(st.text(st.sampled_from("a \t\u00fc\U0001f600"), min_size=500, max_size=3000))
def test_no_line_is_longer_than_mail_may_have(text: str) -> None:
    for repeated in (text, text * 3, "x" * 8000, "word " * 1500):
        for value in (field_value(repeated), subject_value(repeated)):
            field = AddHeader("N" * 70, value or "x")
            assert max(map(len, field.raw.split(b"\r\n"))) <= 998
            assert "".join(field.value.split()) == "".join(value.split())
        assert "".join(field_value(repeated).split()) == "".join(repeated[:8000].split())


@given(_FIELDS, _FIELDS, st.booleans())
def test_the_edits_make_one_header_of_the_other(
    before: list[tuple[str, str]], after: list[tuple[str, str]], is_unix: bool
) -> None:
    ours = b"Received: from here\r\n\tby us\r\n"
    told = section(after) + ours if len(after) % 2 else ours + section(after)
    edits = edits_between(section(before), told.replace(b"\r\n", b"\n") if is_unix else told, ours)
    made = apply_edits(section(before), edits)
    # A removal takes every field that is equal: of those that SpamAssassin leaves fewer of, none may stay.
    left, wanted = (Counter(field.raw for field in split_header(one)) for one in (made, section(after)))
    fewer = {raw for raw, count in Counter(f.raw for f in split_header(section(before))).items() if wanted[raw] < count}
    assert {raw: count for raw, count in left.items() if raw not in fewer} == {
        raw: count for raw, count in wanted.items() if raw not in fewer
    }
    assert all(count <= wanted[raw] for raw, count in left.items())


@given(st.text(max_size=200))
def test_any_text_makes_one_field_or_none(text: str) -> None:
    edit = new_field("X-A", text)
    if edit is not None:
        assert edit.raw.count(b"X-A:") >= 1
        assert len(split_header(edit.raw)) == 1
    else:
        assert not field_value(text)


@pytest.mark.parametrize("name", ["", "X A", "X:A", "X\r\nA", "é", "x" * 71])
def test_names_that_no_field_has(name: str) -> None:
    assert new_field(name, "text") is None


@given(st.text(max_size=100))
def test_a_subject_is_told_as_it_is(text: str) -> None:
    value = subject_value(text.encode("utf-8", "replace").decode())
    if value:
        assert len(split_header(AddHeader("Subject", value).raw)) == 1
    if "é" in text and text.isprintable() and text == " ".join(text.split()) and "?" not in text:
        assert str(make_header(decode_header(value))) == text


def test_a_list_is_folded_between_its_items() -> None:
    folded = folded_list("tests=", [f"NAME_{number}" for number in range(50)])
    assert max(map(len, folded.split("\r\n"))) <= 80
    assert folded.replace("\r\n\t", "") == "tests=" + ",".join(f"NAME_{number}" for number in range(50))
