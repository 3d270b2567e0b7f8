"""Canonical forms against a plain reading of RFC 6376 section 3.4, and digests of bodies however they come."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

import pytest
from dkim.canonicalization import CanonicalizationPolicy  # type: ignore[import-untyped]  # it has no types
from hypothesis import given
from hypothesis import strategies as st

from mailgate.mailauth.dkim.canonical import (
    Bodies,
    BodyHasher,
    Canon,
    canonical_fields,
    split_header,
    split_message,
    whole_lines,
)
from tests.unit.pieces import pieces
from tests.unit.proportion import is_linear

BODIES = st.text(alphabet=" \t\r\nab", max_size=60).map(str.encode)
CANONS = st.sampled_from(["simple", "relaxed"])


def form(canon: Canon, body: bytes) -> bytes:
    """The canonical body, line by line."""
    lines = re.sub(rb"(?<!\r)\n", b"\r\n", body).split(b"\r\n")
    if canon == "relaxed":
        lines = [re.sub(rb"[ \t]+", b" ", line) for line in lines]
        lines = [line.removesuffix(b" ") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    whole = b"".join(line + b"\r\n" for line in lines)
    return whole or (b"\r\n" if canon == "simple" else b"")


def digest(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()


@pytest.mark.parametrize(
    ("body", "simple", "relaxed"),
    [
        (b"", b"\r\n", b""),
        (b"\r\n\r\n", b"\r\n", b""),
        (b" \t\r\n\r\n", b" \t\r\n", b""),
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C \r\nD \t E\r\n", b" C\r\nD E\r\n"),
        (b"no end", b"no end\r\n", b"no end\r\n"),
        (b"a\r\n \r\n\r\nb\r\n", b"a\r\n \r\n\r\nb\r\n", b"a\r\n\r\n\r\nb\r\n"),
        (b"a\nb\n\n", b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a\rb\r\r\n", b"a\rb\r\r\n", b"a\rb\r\r\n"),
    ],
)
def test_forms_of_a_body(body: bytes, simple: bytes, relaxed: bytes) -> None:
    bodies = Bodies(body)
    assert bodies.digest("simple") == digest(simple)
    assert bodies.digest("relaxed") == digest(relaxed)
    assert (bodies.size("simple"), bodies.size("relaxed")) == (len(simple), len(relaxed))


@given(BODIES, CANONS, st.lists(st.integers(0, 60), max_size=6), st.sets(st.integers(0, 70), max_size=4))
def test_digests_of_a_body_do_not_depend_on_how_it_is_cut(
    body: bytes, canon: Canon, cuts: Sequence[int], lengths: set[int]
) -> None:
    hasher = BodyHasher([(canon, None), *((canon, length) for length in lengths)])
    for piece in pieces(body, cuts):
        hasher.feed(piece)
    bodies, expected = Bodies.found(hasher), form(canon, body)
    assert bodies.digest(canon) == digest(expected)
    assert all(bodies.digest(canon, length) == digest(expected[:length]) for length in lengths)
    assert bodies.size(canon) == len(expected)


@given(BODIES, CANONS)
def test_bodies_of_whole_lines_are_as_another_library_has_them(body: bytes, canon: Canon) -> None:
    lines = whole_lines(body.replace(b"\r", b"")) + b"x\r\n"
    other = CanonicalizationPolicy.from_c_value(f"{canon}/{canon}".encode()).canonicalize_body(lines)
    assert Bodies(lines).digest(canon) == digest(other)


def test_a_body_is_read_once_for_all_that_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    feed = BodyHasher.feed

    def counting(self: BodyHasher, data: bytes) -> None:
        fed.append(len(data))
        feed(self, data)

    monkeypatch.setattr(BodyHasher, "feed", counting)
    bodies = Bodies(b"x" * 1000)
    bodies.prepare([("relaxed", None), ("simple", None), ("relaxed", 10), ("relaxed", None)])
    for _ in range(3):
        bodies.digest("relaxed")
        bodies.digest("simple")
        bodies.digest("relaxed", 10)
        bodies.size("simple")
    assert fed == [1000]


def test_what_was_not_hashed_is_not_known() -> None:
    bodies = Bodies.found(BodyHasher([("simple", None)]))
    with pytest.raises(KeyError):
        bodies.digest("relaxed")
    with pytest.raises(KeyError):
        bodies.size("relaxed")


@pytest.mark.parametrize(
    "piece", [b" ", b"\t", b" \t", b" \r\n", b"\r\n", b"\r", b"\n", b"a ", b"a  ", b" " * 999 + b"\n", b"a\n"]
)
@pytest.mark.parametrize("canon", ["simple", "relaxed"])
def test_hashing_is_linear_in_the_body(canon: Canon, piece: bytes) -> None:
    def work(size: int) -> Callable[[], object]:
        body = piece * (size // len(piece)) + b"x"
        return lambda: Bodies(body).digest(canon)

    assert is_linear(work, 400_000)


@pytest.mark.parametrize(
    ("octets", "relaxed"),
    [
        (b"A: X", b"a:X"),
        (b"B : Y\t\r\n\tZ  ", b"b:Y Z"),
        (b"SUBJect:  a \t b ", b"subject:a b"),
        (b"Cc:", b"cc:"),
        (b"Cc: \r\n ", b"cc:"),
        (b"X:\r\n y", b"x:y"),
        (b"X: \r\n \r\n\ty: z;", b"x:y: z;"),
        ("Subject: Grüße  x".encode(), "subject:Grüße x".encode()),
        (b"X: \ra", b"x:\ra"),
    ],
)
def test_forms_of_a_field(octets: bytes, relaxed: bytes) -> None:
    fields = split_header(octets + b"\r\n")
    assert canonical_fields(fields, "relaxed") == relaxed
    assert canonical_fields(fields, "simple") == octets


VALUES = st.lists(st.sampled_from([b" ", b"\t", b"\r\n ", b"\r\n\t", b"a", b":", b";"]), max_size=8).map(b"".join)


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_fields_are_as_another_library_has_them(values: list[bytes]) -> None:
    fields = [(b"x-name", b"X-Name" + b":" + value) for value in values]
    other = CanonicalizationPolicy.from_c_value(b"relaxed/relaxed").canonicalize_headers(
        [(b"X-Name", value + b"\r\n") for value in values]
    )
    assert canonical_fields(fields, "relaxed") + b"\r\n" == b"".join(name + b":" + value for name, value in other)


def test_a_header_of_white_space_is_linear() -> None:
    def work(size: int) -> Callable[[], object]:
        fields = [(b"x", b"X:" + b" " * size + b"!"), (b"y", b"Y:" + b"\r\n " * (size // 3) + b"!")]
        return lambda: canonical_fields(fields, "relaxed")

    assert is_linear(work, 200_000)


@pytest.mark.parametrize(
    ("message", "names", "body"),
    [
        (b"A: 1\r\nB: 2\r\n 3\r\n\r\nbody", [b"a", b"b"], b"body"),
        (b"A: 1\nB: 2\n\n\nbody\n", [b"a", b"b"], b"\nbody\n"),
        (b"A: 1\r\nB: 2\r\n", [b"a", b"b"], b""),
        (b"A: 1", [b"a"], b""),
        (b"\r\nA: 1\r\n\r\nbody", [], b"A: 1\r\n\r\nbody"),
        (b"\nbody", [], b"body"),
        (b"", [], b""),
        (b" A: 1\r\nB: 2\r\n\r\n", [b" a", b"b"], b""),
        (b"From ann Thu 12:00\r\nto : x\r\nnothing\r\n\r\n", [b"from ann thu 12", b"to", b""], b""),
        (b"A\xe4: 1\r\nB: 2\r\n\r\n", [b"a\xe4", b"b"], b""),
    ],
)
def test_where_fields_and_body_are(message: bytes, names: list[bytes], body: bytes) -> None:
    fields, rest = split_message(message)
    assert [name for name, _ in fields] == names
    assert rest == body
    assert all(octets == octets.rstrip(b"\r\n") for _, octets in fields)
