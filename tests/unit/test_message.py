"""Content in memory and in files, header fields, and recorded edits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.message import (
    AddHeader,
    Content,
    ContentWriter,
    Edit,
    HeaderField,
    RemoveHeader,
    RenameHeader,
    apply_edits,
    rendered,
    split_header,
)

MESSAGE = b"From: a@example.org\r\nSubject: one\r\n two\r\nX-Spam: yes\r\nx-spam:no\r\n\r\nbody\r\n"


def test_header_fields_keep_their_octets() -> None:
    fields = split_header(Content(MESSAGE).header)
    assert [field.name for field in fields] == ["From", "Subject", "X-Spam", "x-spam"]
    assert fields[1].value == "one two"
    assert b"".join(field.raw for field in fields) == MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n"


@pytest.mark.parametrize("data", [b"", b"\r\nbody\r\n", b"From: a\r\n", b"no field here", b"A: b\r\n\r\n"])
def test_odd_messages_go_through_unchanged(data: bytes) -> None:
    assert b"".join(rendered(Content(data), [RemoveHeader("X-None")])) in (data, data + b"\r\n")


def test_edits_in_their_order() -> None:
    edits: list[Edit] = [
        RemoveHeader("X-SPAM", "yes"),
        RenameHeader("x-spam", "X-Old"),
        AddHeader("X-Last", "z", at_end=True),
        AddHeader("Received", "from a\r\n\tby b"),
    ]
    assert b"".join(rendered(Content(MESSAGE), edits)) == (
        b"Received: from a\r\n\tby b\r\n"
        b"From: a@example.org\r\nSubject: one\r\n two\r\nX-Old:no\r\nX-Last: z\r\n\r\nbody\r\n"
    )


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\nb", "a\rb", "a\0", "a\r\n", "a\r\n \r\nb", "a\r\n\r\n b"])
def test_a_value_cannot_become_two_fields(value: str) -> None:
    with pytest.raises(ValueError, match="not one header field"):
        HeaderField.of("X-Test", value)


@pytest.mark.parametrize("limit", [5, 10_000])
def test_content_spills_to_a_file_and_reads_the_same(tmp_path: Path, limit: int) -> None:
    writer = ContentWriter(tmp_path, limit)
    for octet in MESSAGE:
        writer.write(bytes([octet]))
    content = writer.finish()
    assert content.in_memory == (limit > len(MESSAGE))
    assert (content.size, content.read(), b"".join(content.chunks(7))) == (len(MESSAGE), MESSAGE, MESSAGE)
    assert b"".join(rendered(content, [RemoveHeader("from")])) == MESSAGE.partition(b"\r\n")[2]
    content.discard()
    assert list(tmp_path.iterdir()) == []


def test_abandoned_content_leaves_no_file(tmp_path: Path) -> None:
    writer = ContentWriter(tmp_path, 1)
    writer.write(b"abc")
    assert len(list(tmp_path.iterdir())) == 1
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.sampled_from(["A: b\r\n", " c\r\n", "\tc\r\n", "nothing\r\n", ":\r\n", "X y: z\r\n"])))
def test_splitting_a_header_loses_nothing(lines: list[str]) -> None:
    header = "".join(lines).encode()
    assert b"".join(field.raw for field in split_header(header)) == header
    assert apply_edits(header, [RemoveHeader("X-None")]) == header


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "one\r\nBcc: two@example.org"),
        ("X", "\ud800"),
        ("not a name", "y"),
        ("X", "long\r\n" * 1000),
        ("X:", "y"),
        ("", "y"),
    ],
)
def test_a_field_that_is_not_one_cannot_be_added(name: str, value: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the text is for the author of a filter
        AddHeader(name, value)


@given(
    st.lists(st.sampled_from(["A: 1\r\n", "a : 1\r\n", "A: 2\r\n", "B: 1\r\n", "B:\r\n", "no field\r\n"])),
    st.lists(st.builds(RemoveHeader, st.sampled_from("aABc"), st.sampled_from([None, "1", "2", ""])), max_size=4),
)
def test_removals_together_are_the_removals_one_by_one(lines: list[str], edits: list[RemoveHeader]) -> None:
    header = "".join(lines).encode()
    one_by_one = header
    for edit in edits:
        one_by_one = apply_edits(one_by_one, [edit])
    assert apply_edits(header, edits) == one_by_one


def test_many_removals_look_at_each_field_once() -> None:
    looks = 0

    class Value(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal looks
            looks += 1
            return super().__eq__(other)

        __hash__ = str.__hash__

    header = b"".join(b"A: %d\r\n" % number for number in range(1000))
    edits = [RemoveHeader("A", Value(number)) for number in range(1, 1000)]
    assert apply_edits(header, edits) == b"A: 0\r\n"
    assert looks <= 4000
