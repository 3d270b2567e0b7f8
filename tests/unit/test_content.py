"""Content on the wire: only CRLF.CRLF ends it, however it is cut into chunks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.wire.content import ChunkDecoder, ContentDecoder, ContentFault, ContentTooLongError, Inspector, stuff


def decode(chunks: list[bytes], max_size: int = 10_000) -> tuple[bytes, bytes | None, ContentFault | None]:
    decoder = ContentDecoder(Inspector(max_size))
    content, rest = b"", None
    for chunk in chunks:
        if rest is not None:
            rest += chunk
            continue
        settled, rest = decoder.feed(chunk)
        content += settled
    return content, rest, decoder.inspector.fault


def octets(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


@pytest.mark.parametrize("cut", [octets, lambda data: [data]], ids=["octet by octet", "at once"])
@pytest.mark.parametrize(
    ("wire", "content", "rest"),
    [
        (b".\r\n", b"", b""),
        (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", b"QUIT\r\n"),
        (b"..a\r\n..\r\n.\r\n", b".a\r\n.\r\n", b""),
        (b"\r\n\r\n.\r\n", b"\r\n\r\n", b""),
        (b"a\r\n.b\r\n.\r\n", b"a\r\nb\r\n", b""),
    ],
)
def test_the_end_and_the_dots(cut: Callable[[bytes], list[bytes]], wire: bytes, content: bytes, rest: bytes) -> None:
    assert decode(cut(wire)) == (content, rest, None)


@pytest.mark.parametrize(
    "ending",
    [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\n\n.\r\n", b"\r\n\0.\r\n"],
)
def test_nothing_else_ends_content_and_it_is_refused(ending: bytes) -> None:
    wire = b"a" + ending + b"MAIL FROM:<evil@example.net>\r\n.\r\nQUIT\r\n"
    for chunks in ([wire], octets(wire)):
        _content, rest, fault = decode(chunks)
        assert rest == b"QUIT\r\n"
        assert fault in (ContentFault.BARE_CR_OR_LF, ContentFault.NUL)


@pytest.mark.parametrize("size", [7, 500, 100_000])
def test_line_length_at_the_limit(size: int) -> None:
    for length, fault in ((998, None), (999, ContentFault.LINE_TOO_LONG)):
        wire = b"ok\r\n" + b"x" * length + b"\r\n" + b"y" * 998 + b"\r\n.\r\n"
        chunks = [wire[index : index + size] for index in range(0, len(wire), size)]
        assert decode(chunks)[2] is fault


def test_a_stuffed_dot_does_not_count_for_the_line_length() -> None:
    assert decode([b".." + b"x" * 997 + b"\r\n.\r\n"])[2] is None


def test_size_at_the_limit() -> None:
    assert decode([b"x" * 8 + b"\r\n.\r\n"], max_size=10)[2] is None
    assert decode([b"x" * 9 + b"\r\n.\r\nNOOP\r\n"], max_size=10)[1:] == (b"NOOP\r\n", ContentFault.TOO_LARGE)


def test_a_refused_message_cannot_go_on_for_ever() -> None:
    decoder = ContentDecoder(Inspector(10, slack=100))
    decoder.feed(b"x" * 100)
    with pytest.raises(ContentTooLongError):
        decoder.feed(b"x" * 10)


@given(
    st.lists(st.text("ab.", max_size=4).map(str.encode)),
    st.lists(st.integers(1, 9), min_size=1, max_size=50),
)
def test_stuffed_content_comes_back_through_any_chunks(lines: list[bytes], sizes: list[int]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    wire, index = stuff(content) + b"rest", 0
    chunks: list[bytes] = []
    while index < len(wire):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(wire[index : index + size])
        index += size
    assert decode(chunks) == (content, b"rest", None)


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\r\n.\r\n"])))
def test_the_end_is_found_where_one_search_of_the_whole_finds_it(parts: list[bytes]) -> None:
    wire = b"".join(parts)
    at = (b"\r\n" + wire).find(b"\r\n.\r\n")
    _content, rest, _fault = decode(octets(wire))
    assert rest == (wire[at + 3 :] if at >= 0 else None)


def test_content_without_a_last_line_end_is_given_one() -> None:
    assert stuff(b"a") == b"a\r\n.\r\n"
    assert stuff(b"") == b".\r\n"


@pytest.mark.parametrize("content", [b"a\nb", b"a\rb", b"a\r", b"\n", b"a\r\n.\n"])
def test_we_never_send_a_bare_cr_or_lf(content: bytes) -> None:
    with pytest.raises(ValueError, match="bare CR or LF"):
        stuff(content)


def through(inspector: Inspector, pieces: list[bytes]) -> bytes:
    return b"".join([inspector.feed(piece) for piece in pieces]) + inspector.finish()


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n"])), st.booleans())
def test_normalized_content_has_no_bare_cr_or_lf_however_it_is_cut(parts: list[bytes], at_once: bool) -> None:
    whole = b"".join(parts)
    inspector = Inspector(10_000, bare="normalize")
    content = through(inspector, [whole] if at_once else octets(whole))
    assert content.replace(b"\r\n", b"").isalpha() or not set(content.replace(b"\r\n", b"")) & set(b"\r\n")
    assert content.replace(b"\r\n", b"\n") == whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert inspector.fault is None


@given(st.binary(max_size=50))
def test_binary_content_passes_as_it_is(content: bytes) -> None:
    inspector = Inspector(10_000, bare="allow")
    assert through(inspector, octets(content)) == content
    assert inspector.fault is None


@pytest.mark.parametrize("piece", [b"a\r", b"a\rb", b"\n"])
def test_a_bare_cr_at_the_very_end_is_found(piece: bytes) -> None:
    inspector = Inspector(10_000)
    assert b"\r" not in through(inspector, [piece])
    assert inspector.fault is ContentFault.BARE_CR_OR_LF


def test_a_line_end_may_lie_across_two_chunks() -> None:
    decoder = ChunkDecoder(Inspector(10_000))
    decoder.expect(2)
    content, rest = decoder.feed(b"a\rBDAT")
    assert rest == b"BDAT"
    decoder.expect(3)
    more, rest = decoder.feed(b"\n.")
    assert rest is None
    last, rest = decoder.feed(b"\n")
    assert (content + more + last + decoder.inspector.finish(), rest) == (b"a\r\n.", b"")
    assert decoder.inspector.fault is ContentFault.BARE_CR_OR_LF
