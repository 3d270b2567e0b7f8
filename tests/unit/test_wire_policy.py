"""Requests to a policy service, and answers, as octets."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.wire.policy import MAX_ATTRIBUTES, MAX_REQUEST, RequestError, RequestReader, encode_action
from tests.unit.pieces import pieces

TWO = b"request=smtpd_access_policy\nsender=\nsize=a=b\n\nrequest=other\n\n"


def taken(reader: RequestReader) -> list[Mapping[str, str]]:
    found = []
    while (one := reader.take()) is not None:
        found.append(one)
    return found


@given(cuts=st.lists(st.integers(0, len(TWO))))
def test_octets_may_come_in_any_pieces(cuts: list[int]) -> None:
    reader = RequestReader()
    found = []
    for piece in pieces(TWO, cuts):
        reader.feed(piece)
        found += taken(reader)
    assert found == [{"request": "smtpd_access_policy", "sender": "", "size": "a=b"}, {"request": "other"}]
    assert reader.is_empty


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"\n", "without attributes"),
        (b"a=b\nno attribute\n\n", "no attribute"),
        (b"=b\n\n", "no attribute"),
        (b"a=b\nc=d\na=b\n\n", "told twice: 'a'"),
        (b"a=" + b"x" * MAX_REQUEST, "more than 65536 octets"),
        (b"a=" + b"x" * MAX_REQUEST + b"\n\n", "more than 65536 octets"),
        (b"a=b\n" * (MAX_ATTRIBUTES + 1) + b"\n", "more than 200 attributes"),
    ],
)
def test_what_is_no_request(octets: bytes, why: str) -> None:
    reader = RequestReader()
    reader.feed(octets)
    with pytest.raises(RequestError, match=why):
        reader.take()


@given(st.binary(max_size=300))
def test_any_octets_are_requests_or_none(octets: bytes) -> None:
    reader = RequestReader()
    reader.feed(octets)
    with contextlib.suppress(RequestError):
        taken(reader)


@given(st.text())
def test_no_action_is_more_than_one_answer(text: str) -> None:
    octets = encode_action(text)
    assert octets.startswith(b"action=")
    assert octets.count(b"\n") == 2
    assert octets.endswith(b"\n\n")
    assert len(octets) < 2048
