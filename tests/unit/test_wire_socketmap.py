"""Questions to a socketmap, and answers, as octets."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.wire.socketmap import MAX_ANSWER, NOTFOUND, Query, QueryError, QueryReader, found, not_now, refused
from tests.unit.pieces import pieces

TWO = b"13:recipients a ,8:domains ,"


def taken(reader: QueryReader) -> list[Query]:
    found = []
    while (one := reader.take()) is not None:
        found.append(one)
    return found


@given(cuts=st.lists(st.integers(0, len(TWO))))
def test_octets_may_come_in_any_pieces(cuts: list[int]) -> None:
    reader = QueryReader()
    queries = []
    for piece in pieces(TWO, cuts):
        reader.feed(piece)
        queries += taken(reader)
    assert queries == [Query("recipients", "a "), Query("domains", "")]
    assert reader.is_empty


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"x", "no netstring"),
        (b"01:a,", "no netstring"),
        (b"1234567890", "no netstring"),
        (b"3 :abc,", "no netstring"),
        (b"3:abcd", "without its comma"),
        (b"10001:", "10001 octets"),
        (b"999999999:", "999999999 octets"),
    ],
)
def test_what_is_no_request(octets: bytes, why: str) -> None:
    reader = QueryReader()
    reader.feed(octets)
    with pytest.raises(QueryError, match=why):
        reader.take()


@given(st.binary(max_size=100))
def test_any_octets_are_requests_or_none(octets: bytes) -> None:
    reader = QueryReader()
    reader.feed(octets)
    with contextlib.suppress(QueryError):
        taken(reader)


def test_answers() -> None:
    assert NOTFOUND == b"9:NOTFOUND ,"
    assert found("bob@example.org") == b"18:OK bob@example.org,"
    assert found("bücher") == b"10:OK b\xc3\xbccher,"
    assert not_now("gone\naway") == b"14:TEMP gone?away,"
    assert refused("é" * 1000) == b"505:PERM " + b"?" * 500 + b","


@pytest.mark.parametrize("value", ["x" * (MAX_ANSWER - 2), "two\nlines"])
def test_what_does_not_fit_an_answer_is_not_cut(value: str) -> None:
    assert found(value).partition(b":")[2].startswith(b"TEMP ")
    assert found("x" * (MAX_ANSWER - 3)).startswith(b"100000:OK xxx")
