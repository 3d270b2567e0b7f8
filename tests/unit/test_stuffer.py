"""Content that is sent in chunks has the same octets as content that is sent at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.wire.content import Stuffer, stuff


def in_chunks(chunks: list[bytes]) -> bytes:
    stuffer = Stuffer()
    return b"".join([stuffer.feed(chunk) for chunk in chunks]) + stuffer.finish()


def outcome(chunks: list[bytes]) -> bytes | None:
    try:
        return in_chunks(chunks)
    except ValueError:
        return None


@given(
    st.lists(st.sampled_from([b".", b"a", b"\r\n", b"..", b"\r", b"\n", b"\r\n.\r\n", b""])),
    st.lists(st.integers(1, 5), min_size=1, max_size=50),
)
def test_any_cut_gives_what_the_whole_gives(parts: list[bytes], sizes: list[int]) -> None:
    content, index = b"".join(parts), 0
    chunks: list[bytes] = []
    while index < len(content):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(content[index : index + size])
        index += size
    try:
        whole: bytes | None = stuff(content)
    except ValueError:
        whole = None
    assert outcome(chunks) == whole
    if whole is not None:
        assert stuff(content, is_whole_lines=True) == whole
    # The rule said in another way, as a judge of both.
    rest = content.replace(b"\r\n", b"")
    assert (whole is None) == (b"\r" in rest or b"\n" in rest)


@pytest.mark.parametrize(
    "chunks",
    [
        [b"a\r", b"\n.b\r\n"],
        [b"a\r\n", b".b\r\n"],
        [b"a", b"\r\n.b\r\n"],
        [b"a\r\n.", b"b\r\n"],
        [b"a\r", b"", b"\n.b\r\n"],
    ],
)
def test_a_dot_at_the_start_of_a_line_is_doubled_wherever_the_cut_is(chunks: list[bytes]) -> None:
    assert in_chunks(chunks) == b"a\r\n..b\r\n.\r\n"


@pytest.mark.parametrize("chunks", [[b"a\r", b"b"], [b"a", b"\nb"], [b"a\r"], [b"a\r", b"\r\n"], [b"\r", b"\r"]])
def test_a_bare_cr_or_lf_is_refused_wherever_the_cut_is(chunks: list[bytes]) -> None:
    with pytest.raises(ValueError, match="bare CR or LF"):
        in_chunks(chunks)


def test_the_end_of_data_is_on_a_line_of_its_own() -> None:
    assert in_chunks([]) == b".\r\n"
    assert in_chunks([b"", b""]) == b".\r\n"
    assert in_chunks([b"a\r\n", b"b"]) == b"a\r\nb\r\n.\r\n"
    assert in_chunks([b"a\r", b"\n"]) == b"a\r\n.\r\n"
