"""Edits of the body and the envelope: what fits, what is refused, and that all other octets stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import NULL_PATH, Address
from mailgate.message import (
    MAX_HEADER,
    MAX_SPLICES,
    AddHeader,
    AddRecipient,
    ChangeSender,
    Content,
    ContentWriter,
    Edit,
    MemoryBudget,
    ReplaceBody,
    Splice,
    body_at,
    check_body_edits,
    edited_body,
    materialised,
    release,
    rendered,
)
from mailgate.message.words import described

HEADER = b"Subject: x\r\n\r\n"
AT = len(HEADER)
BODY = b"one\r\ntwo\r\nthree\r\n"
CONTENT = Content(HEADER + BODY)


def made(edits: list[Edit], content: Content = CONTENT, directory: Path = Path()) -> bytes:
    check_body_edits(content, [], edits)
    return materialised(content, edits, ContentWriter(directory, 1 << 20)).read()


def in_file(directory: Path, data: bytes) -> Content:
    path = directory / "content"
    path.write_bytes(data)
    return Content.in_file(path)


def test_splices_in_any_order_use_the_offsets_of_what_came() -> None:
    edits: list[Edit] = [
        Splice(AT + 5, AT + 8, b"2"),
        AddHeader("X", "y"),
        Splice(AT, AT, b"a\r\n"),
        Splice(AT, AT, b"b\r\n"),
        Splice(AT + len(BODY), AT + len(BODY), b"end\r\n"),
    ]
    assert made(edits) == HEADER + b"a\r\nb\r\none\r\n2\r\nthree\r\nend\r\n"


def test_a_new_body() -> None:
    new = ReplaceBody(Content(b"new\r\n"))
    assert made([AddHeader("X", "y"), new]) == HEADER + b"new\r\n"
    assert new.is_ascii
    assert not ReplaceBody(Content("ä\r\n".encode())).is_ascii


def test_a_new_body_follows_the_edits_that_it_takes_in() -> None:
    splice = Splice(AT, AT, b"a\r\n")
    body = b"".join(edited_body(CONTENT, [splice]))
    assert body == b"a\r\n" + BODY
    new = ReplaceBody(Content(body + b"z\r\n"), follows=1)
    assert made([splice, new]) == HEADER + body + b"z\r\n"
    wrong: list[list[Edit]] = [[new], [splice, splice, new]]
    for edits in wrong:
        with pytest.raises(ValueError, match="follows 1 edits"):
            check_body_edits(CONTENT, [], edits)


def test_what_others_have_done_is_known() -> None:
    taken = Splice(AT, AT + 3, b"1")
    with pytest.raises(ValueError, match="replaced already"):
        check_body_edits(CONTENT, [taken], [Splice(AT + 1, AT + 2, b"")])
    with pytest.raises(ValueError, match="replaced already"):
        check_body_edits(CONTENT, [taken], [Splice(AT + 1, AT + 1, b"x")])
    check_body_edits(CONTENT, [taken], [Splice(AT + 3, AT + 3, b"x")])
    with pytest.raises(ValueError, match="has been replaced"):
        check_body_edits(CONTENT, [ReplaceBody(Content(b"new\r\n"))], [Splice(AT, AT, b"x")])


@pytest.mark.parametrize(("start", "end"), [(0, 0), (AT - 1, AT), (AT, AT + len(BODY) + 1)])
def test_only_the_body(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not all of the body"):
        check_body_edits(CONTENT, [], [Splice(start, end, b"")])


@pytest.mark.parametrize(("start", "end"), [(AT + 4, AT + 4), (AT + 1, AT + 4), (AT + 4, AT + 6)])
def test_no_crlf_is_cut(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="cut a CRLF"):
        check_body_edits(CONTENT, [], [Splice(start, end, b"")])


@pytest.mark.parametrize("data", [b"a\rb", b"a\nb", b"\n", b"\r", b"\0", b"a" * 999, b"x\r\n" + b"a" * 999 + b"\r\n"])
def test_what_is_no_lines_of_mail_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"NUL|CR|line of more"):
        Splice(AT, AT, data)
    with pytest.raises(ValueError, match=r"NUL|CR|line of more"):
        ReplaceBody(Content(data))


def test_lines_of_many_chunks(tmp_path: Path) -> None:
    lines = (b"a" * 998 + b"\r\n") * 600  # CRLFs on both sides of the chunks' ends
    ReplaceBody(in_file(tmp_path, lines))
    with pytest.raises(ValueError, match="line of more"):
        ReplaceBody(in_file(tmp_path, lines + b"a" * 999))
    with pytest.raises(ValueError, match="no CRLF"):
        ReplaceBody(in_file(tmp_path, b"a" * 500 + b"\r\n" + b"\r"))


def test_no_line_becomes_too_long() -> None:
    content = Content(HEADER + b"a" * 900 + b"\r\n")
    for at in (AT, AT + 450, AT + 900):
        check_body_edits(content, [], [Splice(at, at, b"b" * 98)])
        with pytest.raises(ValueError, match="would come into being"):
            check_body_edits(content, [], [Splice(at, at, b"b" * 99)])
        with pytest.raises(ValueError, match="would come into being"):
            check_body_edits(content, [Splice(at, at, b"b" * 60)], [Splice(at, at, b"b" * 60)])
    check_body_edits(content, [], [Splice(AT + 450, AT + 450, b"b" * 500 + b"\r\n" + b"b" * 500)])
    joined = Content(HEADER + b"a" * 600 + b"\r\n" + b"b" * 600 + b"\r\n")
    with pytest.raises(ValueError, match="would come into being"):
        check_body_edits(joined, [], [Splice(AT + 600, AT + 602, b"")])
    long = Content(HEADER + b"a" * 5000 + b"\r\n")  # it came so, and may be broken and made shorter
    check_body_edits(long, [], [Splice(AT + 2500, AT + 2500, b"\r\nx\r\n"), Splice(AT + 10, AT + 20, b"b")])


def test_there_is_an_end_to_splices() -> None:
    edits = [Splice(AT, AT, b"x\r\n") for _ in range(MAX_SPLICES)]
    check_body_edits(CONTENT, [], edits)
    with pytest.raises(ValueError, match="more than"):
        check_body_edits(CONTENT, edits, edits[:1])


@pytest.mark.parametrize("data", [b"", b"Subject: x\r\n", b"Subject: x"])
def test_a_message_without_a_body_gets_the_line_before_it(data: bytes) -> None:
    header = data if data.endswith(b"\r\n") or not data else data + b"\r\n"
    assert made([ReplaceBody(Content(b"new\r\n"))], Content(data)) == header + b"\r\nnew\r\n"
    assert made([Splice(len(data), len(data), b"new\r\n")], Content(data)) == header + b"\r\nnew\r\n"


def test_a_header_that_nobody_sees_the_end_of() -> None:
    content = Content(b"X: y\r\n" * (MAX_HEADER // 6 + 1) + b"\r\nbody\r\n")
    with pytest.raises(ValueError, match="too large"):
        body_at(content)
    with pytest.raises(ValueError, match="too large"):
        check_body_edits(content, [], [ReplaceBody(Content(b"new\r\n"))])
    check_body_edits(content, [], [AddHeader("X", "y")])


def test_edits_that_were_not_carried_out_are_not_lost_in_silence() -> None:
    with pytest.raises(ValueError, match="not been carried out"):
        list(rendered(CONTENT, [Splice(AT, AT, b"x\r\n")]))


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    gone = in_file(tmp_path, HEADER + BODY * 100)
    edits = [Splice(AT, AT, b"x\r\n")]
    check_body_edits(gone, [], edits)
    gone.discard()
    budget = MemoryBudget(1 << 20)
    with pytest.raises(OSError, match="No such file"):
        materialised(gone, edits, ContentWriter(tmp_path, 0, budget))
    assert (list(tmp_path.iterdir()), budget.used) == ([], 0)


def test_release(tmp_path: Path) -> None:
    budget = MemoryBudget(1 << 20)
    writer = ContentWriter(tmp_path, 1 << 20, budget)
    writer.write(b"new\r\n")
    edits = [ReplaceBody(writer.finish()), AddHeader("X", "y"), ReplaceBody(in_file(tmp_path, b"new\r\n"))]
    for _ in range(2):
        release([*edits, "anything"])
        assert (list(tmp_path.iterdir()), budget.used) == ([], 0)


def test_only_known_lines_are_called_so() -> None:
    whole = Content(HEADER + BODY)
    whole.is_whole_lines = True
    for content in (whole, CONTENT):
        found = materialised(content, [Splice(AT, AT, b"x\r\n")], ContentWriter(Path(), 1 << 20))
        assert found.is_whole_lines is content.is_whole_lines


def test_envelope_edits_are_checked() -> None:
    with pytest.raises(ValueError, match="no recipient"):
        AddRecipient(NULL_PATH)
    assert described(ChangeSender(NULL_PATH)) == "change the sender to <>"


def test_words() -> None:
    assert described(Splice(20, 20, b"abc", "banner")) == "insert 3 octets at 20 of the content: banner"
    assert described(Splice(20, 30, b"abc")) == "put 3 octets for 10 at 20 of the content"
    assert described(ReplaceBody(Content(b"abc\r\n"))) == "replace the body by one of 5 octets"
    assert described(AddRecipient(Address("a", "d.test"))) == "add the recipient a@d.test"


@st.composite
def contents_and_splices(draw: st.DrawFn) -> tuple[bytes, list[Splice]]:
    lines = draw(st.lists(st.text("abc", max_size=20), min_size=1, max_size=40))
    data = HEADER + b"".join(line.encode() + b"\r\n" for line in lines)
    cuts = sorted(draw(st.lists(st.integers(AT, len(data)), max_size=12)))
    cuts = [cut for cut in cuts if data[cut - 1 : cut + 1] != b"\r\n"]
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    new = st.sampled_from([b"", b"x", b"x\r\ny", b"\r\n"])
    return data, draw(st.permutations([Splice(start, end, draw(new)) for start, end in pairs]))


@given(contents_and_splices(), st.booleans(), st.integers(1, 64))
def test_the_octets_that_no_splice_is_about_stay(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[bytes, list[Splice]], is_file: bool, size: int
) -> None:
    data, splices = case
    content = in_file(tmp_path_factory.getbasetemp(), data) if is_file else Content(data)
    check_body_edits(content, [], splices)
    expected, at = b"", 0
    for splice in sorted(splices, key=lambda one: (one.start, one.end)):
        expected += data[at : splice.start] + splice.data
        at = splice.end
    expected += data[at:]

    class InPieces(Content):
        __slots__ = ()

        def chunks(self, _: int = 0) -> object:  # type: ignore[override]  # pieces of another size
            return (data[start : start + size] for start in range(0, len(data), size))

    assert made(list(splices), content) == expected
    assert b"".join(edited_body(InPieces(data), splices)) == expected[AT:]
