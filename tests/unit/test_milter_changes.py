"""What milters change, as edits: places, folding, what is the same twice, and what is no change that can be made."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import NULL_PATH, Address
from mailgate.message import (
    AddRecipient,
    ChangeSender,
    HeaderField,
    RemoveRecipient,
    apply_edits,
    split_header,
)
from mailgate.scanners.milter.changes import envelope_edits, header_edits
from mailgate.scanners.milter.error import MilterError
from mailgate.wire.milter.codec import (
    Change,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Quarantined,
    RecipientAdded,
    RecipientRemoved,
    SenderChanged,
)

HEADER = b"Received: a\r\nReceived:  b\r\n\tb\r\nSubject:one\r\nX-Same: 1\r\nX-Same: 1\r\nX-Same: 2\r\n"
FIELDS = split_header(HEADER)


def changed(*changes: Change, keeps_space: bool = False) -> bytes:
    """The header after these."""
    return apply_edits(HEADER, header_edits(FIELDS, changes, keeps_space))


@pytest.mark.parametrize(
    ("change", "header"),
    [
        (HeaderAdded(b"X-A", b"1"), HEADER + b"X-A: 1\r\n"),
        (HeaderInserted(0, b"X-A", b"1"), b"X-A: 1\r\n" + HEADER),
        (HeaderInserted(1, b"X-A", b"1"), b"X-A: 1\r\n" + HEADER),
        (HeaderInserted(3, b"X-A", b"1"), b"X-A: 1\r\n" + HEADER),
        (HeaderInserted(99, b"X-A", b"1"), HEADER + b"X-A: 1\r\n"),
        (HeaderChanged(1, b"subject", b"two"), HEADER.replace(b"Subject:one\r\n", b"") + b"subject: two\r\n"),
        (HeaderChanged(1, b"Subject", b""), HEADER.replace(b"Subject:one\r\n", b"")),
        (HeaderChanged(0, b"Subject", b""), HEADER.replace(b"Subject:one\r\n", b"")),
        (HeaderChanged(2, b"received", b""), HEADER.replace(b"Received:  b\r\n\tb\r\n", b"")),
        (HeaderChanged(3, b"X-Same", b""), HEADER.replace(b"X-Same: 2\r\n", b"")),
        (HeaderChanged(4, b"X-Same", b""), HEADER),
        (HeaderChanged(9, b"X-New", b""), HEADER),
        (HeaderChanged(9, b"X-New", b"1"), HEADER + b"X-New: 1\r\n"),
        (Quarantined(b"x"), HEADER),
    ],
)
def test_one_change(change: Change, header: bytes) -> None:
    assert changed(change) == header


def test_a_field_that_says_the_same_as_one_that_goes_stays() -> None:
    header = changed(HeaderChanged(1, b"X-Same", b""))
    assert header.count(b"X-Same: 1\r\n") == 1
    assert header.count(b"X-Same: 2\r\n") == 1


def test_indexes_count_what_is_there_at_that_moment() -> None:
    downwards = changed(*(HeaderChanged(index, b"X-Same", b"") for index in (3, 2, 1)))
    first_always = changed(*(HeaderChanged(1, b"X-Same", b"") for _ in range(3)))
    assert downwards == first_always == HEADER.partition(b"X-Same")[0]
    assert changed(HeaderAdded(b"X-A", b"1"), HeaderChanged(1, b"X-A", b"2")) == HEADER + b"X-A: 2\r\n"
    assert changed(HeaderAdded(b"X-A", b"1"), HeaderChanged(1, b"X-A", b"")) == HEADER
    inserted = changed(HeaderInserted(0, b"X-A", b"1"), HeaderInserted(0, b"X-B", b"2"))
    assert inserted == b"X-B: 2\r\nX-A: 1\r\n" + HEADER


def one_by_one(changes: list[Change]) -> list[tuple[str, str]]:
    """What Sendmail makes of them."""
    now = [(field.name, field.value) for field in FIELDS]
    for change in changes:
        match change:
            case HeaderInserted(index, name, value):
                now.insert(index if index > 1 else 0, (name.decode(), value.decode()))
            case HeaderChanged(index, name, value):
                places = [at for at, (one, _) in enumerate(now) if one.lower() == name.decode().lower()]
                if index <= len(places):
                    now[places[index - 1] : places[index - 1] + 1] = [(name.decode(), value.decode())] if value else []
                elif value:
                    now.append((name.decode(), value.decode()))
    return now


_A_NAME = st.sampled_from([b"Subject", b"x-same", b"X-A", b"Received"])
_A_CHANGE = st.one_of(
    st.builds(HeaderInserted, st.integers(0, 8), _A_NAME, st.sampled_from([b"8", b"9"])),
    st.builds(HeaderChanged, st.integers(1, 4), _A_NAME, st.sampled_from([b"", b"7"])),
)


@given(st.lists(_A_CHANGE, max_size=12))
def test_any_changes_one_after_the_other(changes: list[Change]) -> None:
    found = [(field.name.lower(), field.value) for field in split_header(changed(*changes))]
    assert sorted(found) == sorted((name.lower(), value) for name, value in one_by_one(changes))


def test_twice_the_fields_and_changes_take_about_twice_the_steps() -> None:
    def steps(size: int) -> int:
        fields = split_header(b"".join(b"X-A: %d\r\n" % number for number in range(size)))
        changes = [HeaderChanged(number, b"X-A", b"") for number in range(size, 0, -1)]
        count = 0

        def counted(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(counted)
        try:
            edits = header_edits(fields, changes, False)
        finally:
            sys.setprofile(None)
        assert len(edits) == size
        return count

    assert steps(400) < 3 * steps(200)


@pytest.mark.parametrize(
    ("value", "keeps_space", "raw"),
    [
        (b" one", True, b"X-A: one\r\n"),
        (b"one", True, b"X-A: one\r\n"),
        (b"  one", True, b"X-A:  one\r\n"),
        (b"one", False, b"X-A: one\r\n"),
        (b"one\n\ttwo\n three", False, b"X-A: one\r\n\ttwo\r\n three\r\n"),
        (b"one\r\n\ttwo", False, b"X-A: one\r\n\ttwo\r\n"),
        (b"one\r\n\r\nBcc: eve", False, b"X-A: one\r\n\tBcc: eve\r\n"),
        (b"one\rtwo\n \n", False, b"X-A: one\r\n\ttwo\r\n"),
        (b"\n\ttwo", False, b"X-A: \r\n\ttwo\r\n"),
        ("Grüße \ud83d".encode("utf-8", "replace") + b"\xff", False, "X-A: Grüße ?\ufffd\r\n".encode()),
        (b"", False, b"X-A: \r\n"),
    ],
)
def test_values_stay_one_field(value: bytes, keeps_space: bool, raw: bytes) -> None:
    assert changed(HeaderAdded(b"X-A", value), keeps_space=keeps_space) == HEADER + raw


@given(st.binary(max_size=80), st.booleans())
def test_whatever_a_value_holds_no_other_field_comes_of_it(value: bytes, keeps_space: bool) -> None:
    value = value.replace(b"\0", b"")
    before, after = split_header(HEADER), split_header(changed(HeaderAdded(b"X-A", value), keeps_space=keeps_space))
    assert after[:-1] == before
    assert after[-1].name == "X-A"


@pytest.mark.parametrize("name", [b"", b"X A", b"X:A", b"X\r\nA", b"X\xff", b"\n"])
def test_names_that_are_none(name: bytes) -> None:
    with pytest.raises(MilterError, match="not one header field"):
        changed(HeaderAdded(name, b"1"))


fields = st.lists(
    st.tuples(st.sampled_from("ABC"), st.sampled_from("12")).map(lambda one: HeaderField.of(*one)), max_size=8
)
steps = st.lists(
    st.one_of(
        st.builds(HeaderAdded, st.sampled_from([b"A", b"D"]), st.sampled_from([b"1", b"3"])),
        st.builds(HeaderInserted, st.integers(0, 9), st.sampled_from([b"A", b"D"]), st.sampled_from([b"1", b"3"])),
        st.builds(HeaderChanged, st.integers(0, 5), st.sampled_from([b"a", b"B"]), st.sampled_from([b"", b"1", b"4"])),
    ),
    max_size=8,
)


@given(fields, steps)
def test_the_edits_come_to_the_fields_that_the_milter_wanted(start: list[HeaderField], changes: list[Change]) -> None:
    wanted = [(one.name.lower(), one.value) for one in start]
    for change in changes:
        match change:
            case HeaderAdded(name, value):
                wanted.append((name.decode().lower(), value.decode()))
            case HeaderInserted(index, name, value):
                wanted.insert(index if index > 1 else 0, (name.decode().lower(), value.decode()))
            case HeaderChanged(index, name, value):
                places = [place for place, one in enumerate(wanted) if one[0] == name.decode().lower()]
                new = [(name.decode().lower(), value.decode())] if value else []
                at = places[max(index, 1) - 1] if max(index, 1) <= len(places) else len(wanted)
                wanted[at : at + 1] = new
    header = apply_edits(b"".join(one.raw for one in start), header_edits(start, changes, False))
    assert sorted((one.name.lower(), one.value) for one in split_header(header)) == sorted(wanted)


def test_the_envelope() -> None:
    edits = envelope_edits(
        [
            SenderChanged(b"<>"),
            SenderChanged(b"eve@example.net", b"SIZE=1"),
            RecipientAdded(b"<Eve@Example.ORG>"),
            RecipientAdded(b"ann@example.org", b"NOTIFY=NEVER"),
            RecipientRemoved(b"<bob@example.org>"),
        ]
    )
    assert edits == [
        ChangeSender(NULL_PATH),
        ChangeSender(Address.parse("eve@example.net")),
        AddRecipient(Address.parse("Eve@example.org")),
        AddRecipient(Address.parse("ann@example.org")),
        RemoveRecipient(Address.parse("bob@example.org")),
    ]


@pytest.mark.parametrize(
    "address", [b"", b"<>", b"nobody", b"a@b@c", b"<a@b.example> X", b"a\r\n@b.example", b"\xff@x"]
)
def test_addresses_that_are_none(address: bytes) -> None:
    with pytest.raises(MilterError, match="no address"):
        envelope_edits([RecipientAdded(address)])
