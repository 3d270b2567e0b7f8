"""Content: where it ends, what is refused, where it is kept, and that none of it is ever taken for a command."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from mailgate.events import Refused
from mailgate.message import ContentWriter, MemoryBudget
from mailgate.reply import Reply
from mailgate.smtp.receiving import ContentReceiver
from mailgate.verdict import Reject
from tests.unit.smtp_stand import CONTENT, ENVELOPE, Stand

MakeStand = Callable[..., Stand]

#: A command that shows when content was taken for one: nothing else is answered with 214.
MARKER = b"HELP\r\n"

REFUSED = {
    "bare LF": (b"one\ntwo\r\n", 550),
    "bare CR": (b"one\rtwo\r\n", 550),
    "CR before CRLF": (b"one\r\r\n", 550),
    "LF.LF": (b"one\n.\n" + MARKER, 550),
    "LF.CRLF": (b"one\n.\r\n" + MARKER, 550),
    "CRLF.LF": (b"one\r\n.\n" + MARKER, 550),
    "CRLF.CR": (b"one\r\n.\r" + MARKER, 550),
    "NUL": (b"a\0b\r\n", 550),
    "a long line": (b"x" * 999 + b"\r\n", 550),
    "a line of 16 KiB with commands behind it": (b"x" * 20000 + b"\r\n" + MARKER, 550),
    "too large": ((b"y" * 70 + b"\r\n") * 2000, 552),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "in octets"])
def test_bad_content_is_refused_at_its_end(make_stand: MakeStand, name: str, is_whole: bool) -> None:
    octets, code = REFUSED[name]
    stand = make_stand({"max_message_size": "64KiB"})
    wire = stand.connect().data()
    data = b"Subject: x\r\n\r\n" + octets + MARKER + b"\r\n.\r\nNOOP\r\n"
    codes = wire.send(data) if is_whole else [code for one in data for code in wire.send(bytes([one]))]
    assert codes == [code, 250]
    assert stand.script.taken == []
    assert "message" not in stand.script.asked
    assert stand.refusals == [("content", str(code))]
    assert wire.data_again() == [250]


@pytest.mark.parametrize("length", [998, 997])
def test_the_longest_line_passes(make_stand: MakeStand, length: int) -> None:
    stand = make_stand()
    body = b"." + b"x" * (length - 1) + b"\r\n"
    assert stand.connect().data().send(b"\r\n." + body + b".\r\n") == [250]
    assert stand.script.messages == [b"\r\n" + body]


def test_content_may_be_empty(make_stand: MakeStand) -> None:
    stand = make_stand()
    assert stand.connect().data().send(b".\r\n") == [250]
    assert stand.script.messages == [b""]


def test_small_content_stays_in_memory_and_large_content_goes_to_a_file(make_stand: MakeStand) -> None:
    stand = make_stand()  # with a limit of 1000 octets
    wire = stand.connect()
    wire.data().send(b"small\r\n.\r\n")
    assert stand.files == []
    large = b"z" * 70 + b"\r\n"
    assert wire.send(ENVELOPE + b"DATA\r\n") == [250, 250, 354]
    assert wire.send(large * 30 + b".\r\n") == [250]
    small, kept = [content for _, _, content, _ in stand.script.taken]
    assert small.in_memory
    assert stand.files == [kept.path]
    assert kept.read() == large * 30


def test_content_that_goes_on_for_ever_is_cut(make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.smtp.transaction.SLACK", 100_000)
    stand = make_stand({"max_message_size": "64KiB"})
    wire = stand.connect().data()
    said = [code for _ in range(30) for code in wire.send(b"y" * 70 + b"\r\n" + b"w" * 10_000 + b"\r\n" + MARKER)]
    assert said == [421]
    assert wire.is_closed
    assert stand.refusals == [("content", "421")]


class FullDisk(ContentWriter):
    """A disk that fills up at the write, or only when what was buffered is written."""

    at_end = False

    def write(self, data: bytes) -> None:
        super().write(data)
        if not self.at_end and self.size > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")

    def finish(self):  # type: ignore[no-untyped-def]  # as its base
        raise OSError(errno.ENOSPC, "No space left on device")


class FullDiskAtEnd(FullDisk):
    at_end = True


@pytest.mark.parametrize("writer", [FullDisk, FullDiskAtEnd])
def test_a_full_disk_is_452(
    make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch, writer: type[ContentWriter]
) -> None:
    monkeypatch.setattr("mailgate.smtp.receiving.ContentWriter", writer)
    stand = make_stand()
    wire = stand.connect().data()
    assert wire.send(b"z" * 900 + b"\r\n" + b"z" * 900 + b"\r\n") == []
    assert wire.send(MARKER + b".\r\nNOOP\r\n") == [452, 250]
    assert stand.files == []
    assert stand.events.of(Refused)[0].reason.startswith("the content cannot be written: [Errno 28]")


def test_a_disk_that_is_read_only_now_is_452(make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    stand = make_stand()
    wire = stand.connect().data()
    assert wire.send((b"z" * 70 + b"\r\n") * 5000) == []
    assert len(stand.files) == 1
    with monkeypatch.context() as patch:
        patch.setattr(ContentWriter, "finish", refuse)
        patch.setattr(Path, "unlink", refuse)
        assert wire.send(b".\r\nNOOP\r\n") == [452, 250]
    assert stand.events.of(Refused)[0].reason.startswith("the content cannot be written: [Errno 30]")
    (left,) = stand.files
    left.unlink()


def test_a_folder_that_is_gone_is_452(make_stand: MakeStand, tmp_path: Path) -> None:
    stand = make_stand(incoming=tmp_path / "nowhere")
    assert stand.connect().data().send((b"z" * 70 + b"\r\n") * 30 + b".\r\n") == [452]


@pytest.mark.parametrize(
    ("envelope", "stage", "codes"),
    [
        (b"DATA\r\n", "", [503, 421]),
        (b"MAIL FROM:<>\r\nDATA\r\n", "", [250, 554, 421]),
        (b"MAIL FROM:<>\r\nRCPT TO:<eve@elsewhere.example>\r\nDATA\r\n", "", [250, 550, 554, 421]),
        (ENVELOPE + b"DATA now\r\n", "", [250, 250, 501, 421]),
        (ENVELOPE + b"DATA\r\n", "data", [250, 250, 550, 421]),
    ],
)
def test_content_behind_a_refused_data_is_not_executed(
    make_stand: MakeStand, envelope: bytes, stage: str, codes: list[int]
) -> None:
    stand = make_stand()
    if stage:
        stand.script.answers[stage] = Reject(Reply.of(550, "5.7.1", "No"), "no")
    wire = stand.connect().hello()
    assert wire.send(envelope + MARKER + b".\r\n") == codes
    assert wire.is_closed


def test_content_that_comes_while_data_is_judged_is_not_executed(make_stand: MakeStand) -> None:
    stand = make_stand()
    verdict = stand.pend("data")
    wire = stand.connect().hello()
    assert wire.send(ENVELOPE + b"DATA\r\n") == [250, 250]
    assert wire.send(MARKER + b".\r\n") == []
    verdict.callback(Reject(Reply.of(550, "5.7.1", "No"), "no"))
    assert wire.codes() == [550, 421]
    assert wire.is_closed


def test_content_that_comes_while_data_fails_is_not_executed(make_stand: MakeStand) -> None:
    stand = make_stand()
    verdict = stand.pend("data")
    wire = stand.connect().hello()
    wire.send(ENVELOPE + b"DATA\r\n" + MARKER)
    verdict.errback(ZeroDivisionError("a bug"))
    assert wire.codes() == [451, 421]
    assert stand.failed() == ["a bug"]


def test_a_client_that_waits_goes_on_after_a_refused_data(make_stand: MakeStand) -> None:
    wire = make_stand().connect().hello()
    assert wire.say("MAIL FROM:<>", "RCPT TO:<eve@elsewhere.example>", "DATA") == [250, 550, 554]
    assert wire.say("RSET") == [250]
    assert wire.data_again() == [250]


SESSION = b"".join(
    [
        b"EHLO client.example\r\nNOOP\r\nFROB\r\n" + ENVELOPE + b"RCPT TO:<eve@elsewhere.example>\r\nDATA\r\n",
        b"Subject: one\r\n\r\n..dot\r\n. \r\n.HELP\r\n\r\n.\r\n",
        b"NOOP " + b"x" * 2100 + b"\r\n" + ENVELOPE + b"RSET\r\n" + ENVELOPE + b"DATA\r\n",
        b"Subject: two\r\n\r\none\n.\nHELP\r\n.\r\n",
        ENVELOPE + b"DATA\r\n.\r\nVRFY bob\r\nEHLO a\rb\r\nQUIT\r\nHELP\r\n",
    ]
)
#: What the session above is told, however its octets are cut.
SAID = [220, 250, 250, 500, 250, 250, 550, 354, 250, 500, 250, 250, 250, 250, 250, 354, 550, 250, 250, 354, 250, 252]
SAID += [500, 221]


def cut(octets: bytes, places: Sequence[int]) -> list[bytes]:
    """The octets in pieces."""
    ends = sorted({place % (len(octets) + 1) for place in places} | {len(octets)})
    return [octets[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def codes_of(pieces: Sequence[bytes]) -> tuple[list[int], list[bytes]]:
    """What a new session says to these pieces, and the content that it takes."""
    with tempfile.TemporaryDirectory() as folder, Stand(Path(folder)).watched() as stand:
        wire = stand.connect()
        codes = [code for piece in pieces for code in wire.send(piece)]
        return codes, stand.script.messages


@given(st.lists(st.integers(0, len(SESSION)), max_size=40))
def test_replies_do_not_depend_on_how_the_octets_are_cut(places: list[int]) -> None:
    codes, contents = codes_of(cut(SESSION, places))
    assert codes == SAID
    assert contents == [b"Subject: one\r\n\r\n.dot\r\n \r\nHELP\r\n\r\n", b""]


def test_replies_are_the_same_octet_by_octet() -> None:
    assert codes_of([bytes([one]) for one in SESSION])[0] == SAID


#: What may decide about the end of a line, or of what is too long for one.
PIECES = [b"\r", b"\n", b"\r\n", b"NOOP", b" ", b"x" * 2040, b"x" * 2048, b"EHLO a", b"RSET\r\n", b"\0"]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=20), st.lists(st.integers(0, 10_000), max_size=10))
def test_bad_lines_do_not_depend_on_how_the_octets_are_cut(pieces: list[bytes], places: list[int]) -> None:
    octets = b"".join(pieces) + b"\r\nNOOP\r\n"
    assert codes_of(cut(octets, places)) == codes_of([octets])


def test_a_batch_of_replies_leaves_in_one_write(make_stand: MakeStand) -> None:
    wire = make_stand().connect().hello()
    before = wire.transport.writes
    assert len(wire.send(ENVELOPE + b"NOOP\r\nRSET\r\n" + ENVELOPE + b"DATA\r\n")) == 7
    assert wire.transport.writes == before + 1


def test_the_receiver_keeps_to_one_outcome(tmp_path: Path) -> None:
    receiver = ContentReceiver(tmp_path, 10, 100, MemoryBudget(1000))
    assert receiver.feed(b"a" * 20) is None
    assert receiver.feed(b"\r\n.\r\nrest") == b"rest"
    assert receiver.content is not None
    assert receiver.content.read() == b"a" * 20 + b"\r\n"
    assert receiver.refusal is None
    receiver.content.discard()


def test_the_next_message_waits_for_the_answer_to_this_one(make_stand: MakeStand) -> None:
    stand = make_stand()
    answer: Deferred[object] = stand.pend("take")
    wire = stand.connect().data()
    assert wire.send(CONTENT + ENVELOPE + b"DATA\r\n" + CONTENT + b"QUIT\r\n") == []
    del stand.script.answers["take"]
    answer.callback([Reply.of(250, "2.0.0", "queued as one")])
    assert wire.codes() == [250, 250, 250, 354, 250, 221]
    assert len(stand.script.taken) == 2


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"."]), max_size=12).map(b"".join),
    st.integers(0, 24),
    st.sampled_from(["reject", "normalize", "allow"]),
    st.booleans(),
)
def test_content_that_is_said_to_have_whole_lines_has(octets: bytes, cut: int, bare: str, chunked: bool) -> None:
    receiver = ContentReceiver(Path(), 1000, 1000, MemoryBudget(1000), bare=bare, chunked=chunked)
    if chunked:
        receiver.expect(len(octets[:cut]), is_last=False)
        receiver.feed(octets[:cut])
        receiver.expect(len(octets[cut:]), is_last=True)
        receiver.feed(octets[cut:])
    else:
        octets += b"\r\n.\r\n"
        receiver.feed(octets[:cut])
        receiver.feed(octets[cut:])
    if receiver.content is not None:
        rest = receiver.content.read().replace(b"\r\n", b"")
        assert receiver.content.is_whole_lines is (bare != "allow")
        assert bare == "allow" or not (b"\r" in rest or b"\n" in rest)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"Subject: x\r\n" + b"X-Pad: " + b"p" * 900 + b"\r\n", ""),
        ((b"X-Pad: " + b"p" * 900 + b"\r\n") * 300 + b"From: <behind@bank.example>\r\n", "more than 262144 octets"),
        (b"a:\r\n" * 5001, "more than 5000 lines"),
        (b"a:\r\n" * 5000, ""),
    ],
)
def test_a_header_that_is_not_looked_at_as_a_whole_is_refused(
    make_stand: MakeStand, header: bytes, reason: str
) -> None:
    """What stands behind the part that filters look at would be header to everybody else."""
    stand = make_stand()
    codes = stand.connect().data().send(header + b"\r\nbody\r\n.\r\n")
    assert codes == [550 if reason else 250]
    assert [reason in one.reason for one in stand.events.of(Refused)] == ([True] if reason else [])
