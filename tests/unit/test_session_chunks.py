"""BDAT (RFC 3030): chunks in any pieces, refused, broken off; and that nothing within one is ever a command."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from mailgate.events import Refused
from mailgate.message import Message
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict
from mailgate.wire.content import ChunkDecoder, Inspector
from tests.unit.smtp_stand import ENVELOPE, Call, Stand, Wire

MakeStand = Callable[..., Stand]

#: A command that shows when content was taken for one: nothing else is answered with 214.
MARKER = b"HELP\r\n"
EVIL = b"\r\n.\r\nRSET\r\nMAIL FROM:<evil@client.example>\r\nHELP\r\nBDAT 0 LAST\r\nQUIT\r\n"
REJECT = Reject(Reply.of(550, "5.7.1", "No"), "because")
DEFER = Defer(Reply.of(451, "4.7.1", "Later"), "because")
DISCONNECT = Disconnect(Reply.of(421, "4.7.0", "Go away"), "because")


def chunk(octets: bytes, *, is_last: bool = False) -> bytes:
    return b"BDAT %d%b\r\n" % (len(octets), b" LAST" if is_last else b"") + octets


def last(octets: bytes) -> bytes:
    return chunk(octets, is_last=True)


def begin(stand: Stand, envelope: bytes = ENVELOPE) -> Wire:
    """A client whose transaction waits for content."""
    wire = stand.connect().hello()
    assert set(wire.send(envelope)) == {250}
    return wire


def feed(wire: Wire, octets: bytes, size: int) -> list[int]:
    return [code for at in range(0, len(octets), size) for code in wire.send(octets[at : at + size])]


# -- what is taken


@pytest.mark.parametrize(
    ("chunks", "codes", "content"),
    [
        ([last(b"one\r\n")], [250], b"one\r\n"),
        ([chunk(b"one\r\n"), last(b"two\r\n")], [250, 250], b"one\r\ntwo\r\n"),
        ([chunk(b"one\r\n"), chunk(b""), last(b"")], [250, 250, 250], b"one\r\n"),
        ([chunk(b"one"), chunk(b"two\r"), chunk(b"\n"), last(b".\r\n")], [250] * 4, b"onetwo\r\n.\r\n"),
        ([last(b"")], [250], b""),
        ([last(b"no line end")], [250], b"no line end"),
        ([last(b"..\r\n.\r\n.a\r\n")], [250], b"..\r\n.\r\n.a\r\n"),
        ([chunk(b"a\r\n" * 500), last(EVIL)], [250, 250], b"a\r\n" * 500 + EVIL),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 7, 100_000])
def test_chunks(make_stand: MakeStand, chunks: list[bytes], codes: list[int], content: bytes, size: int) -> None:
    stand = make_stand()
    wire = begin(stand)
    assert feed(wire, b"".join(chunks) + b"NOOP\r\n", size) == [*codes, 250]
    assert stand.script.messages == [content]
    assert stand.script.asked.count("data") == 1


def test_what_each_chunk_is_told(make_stand: MakeStand) -> None:
    wire = begin(make_stand())
    wire.send(chunk(b"12345") + last(b"6\r\n"))
    assert wire.octets.endswith(b"250 2.0.0 5 octets received\r\n250 2.0.0 queued\r\n")


@pytest.mark.parametrize(
    "line", [b"BDAT 4 LAST\r\n", b"bdat 4 last\r\n", b"BDAT  4   Last  \r\n", b"BDAT 0000000000000000004 LAST\r\n"]
)
def test_forms_of_the_command(make_stand: MakeStand, line: bytes) -> None:
    stand = make_stand()
    assert begin(stand).send(line + b"ab\r\n") == [250]
    assert stand.script.messages == [b"ab\r\n"]


def test_a_whole_session_in_one_segment(make_stand: MakeStand) -> None:
    stand = make_stand()
    one = ENVELOPE + chunk(b"Subject: x\r\n\r\n") + last(MARKER)
    assert stand.connect().send(b"EHLO client.example\r\n" + one * 3 + b"QUIT\r\n") == [
        *[220, 250],
        *[250, 250, 250, 250] * 3,
        221,
    ]
    assert stand.script.messages == [b"Subject: x\r\n\r\n" + MARKER] * 3


def test_data_and_chunks_in_turns(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = begin(stand)
    assert wire.send(last(b"a\r\n")) == [250]
    assert wire.data_again() == [250]
    assert wire.send(ENVELOPE + last(b"b\r\n")) == [250, 250, 250]
    assert [message[:1] for message in stand.script.messages] == [b"a", b"S", b"b"]


def test_large_content_goes_to_a_file(make_stand: MakeStand) -> None:
    stand = make_stand()  # with a limit of 1000 octets
    wire = begin(stand)
    line = b"z" * 70 + b"\r\n"
    wire.send(chunk(line * 10))
    assert stand.files == []
    wire.send(chunk(line * 10))
    assert len(stand.files) == 1
    assert wire.send(last(line)) == [250]
    assert stand.script.messages == [line * 21]


def test_binary_content_has_any_octets(make_stand: MakeStand) -> None:
    stand = make_stand()
    octets = b"Subject: x\r\n\r\n" + bytes(range(256)) * 8 + b"\n\r\0" + b"x" * 2000
    wire = begin(stand, ENVELOPE.replace(b"example>\r\nRCPT", b"example> BODY=BINARYMIME\r\nRCPT"))
    assert wire.say("DATA") == [503]
    assert wire.send(chunk(octets[:1000]) + last(octets[1000:])) == [250, 250]
    assert stand.script.messages == [octets]
    assert stand.script.taken[0][1].parameters.body == "BINARYMIME"


@pytest.mark.parametrize(
    "header",
    [b"X: 1\nFrom: <a@b.example>\r\n", b"X: 1\rFrom: <a@b.example>\r\n", b"X: \0\r\n", b" \nFrom: <a@b.example>\r\n"],
)
def test_the_header_of_binary_content_has_lines_all_the_same(make_stand: MakeStand, header: bytes) -> None:
    """Others would find fields there that no filter has seen."""
    stand = make_stand()
    wire = begin(stand, ENVELOPE.replace(b"example>\r\nRCPT", b"example> BODY=BINARYMIME\r\nRCPT"))
    assert wire.send(last(header + b"\r\nbody\n")) == [550]
    assert stand.script.taken == []


# -- what is refused

FAULTS = {
    "bare LF": b"one\ntwo\r\n",
    "bare CR": b"one\rtwo\r\n",
    "CR at the end": b"one\r",
    "NUL": b"a\0b\r\n",
    "a long line": b"x" * 999 + b"\r\n",
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("size", [1, 100_000])
def test_content_that_is_refused(make_stand: MakeStand, name: str, size: int) -> None:
    stand = make_stand()
    wire = begin(stand)
    assert feed(wire, last(FAULTS[name] + EVIL) + b"NOOP\r\n", size) == [550, 250]
    assert stand.refusals == [("content", "550")]
    assert wire.data_again() == [250]
    assert len(stand.script.taken) == 1


def test_line_ends_are_made_whole_over_chunks(make_stand: MakeStand) -> None:
    stand = make_stand({"bare_newlines": "normalize"})
    wire = begin(stand)
    assert wire.send(chunk(b"a\r") + chunk(b"\nb\n") + chunk(b"c\r") + last(b"d\r")) == [250] * 4
    assert stand.script.messages == [b"a\r\nb\r\nc\r\nd\r\n"]


def test_a_chunk_that_is_refused_in_the_middle(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = begin(stand)
    assert wire.send(chunk(b"ok\r\n") + chunk(b"a\nb" + EVIL) + chunk(EVIL) + last(EVIL) + b"NOOP\r\n") == [
        *[250, 550, 503, 503],
        250,
    ]
    assert stand.script.taken == []
    assert wire.say("RCPT TO:<bob@example.org>") == [503]
    assert wire.send(ENVELOPE + last(b"a\r\n")) == [250, 250, 250]


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("is_last", [True, False])
def test_chunks_out_of_order_are_read_before_they_are_refused(make_stand: MakeStand, size: int, is_last: bool) -> None:
    stand = make_stand()
    wire = stand.connect().hello()
    octets = chunk(EVIL, is_last=is_last) + b"NOOP\r\n"
    assert feed(wire, octets, size) == [503, 250]
    assert wire.send(b"MAIL FROM:<>\r\n") == [250]
    assert feed(wire, octets, size) == [554, 250]
    assert wire.say("MAIL FROM:<>", "RCPT TO:<eve@elsewhere.example>") == [250, 550]
    assert feed(wire, octets, size) == [554, 250]
    assert stand.script.taken == []


def test_before_the_answer_to_a_chunk_all_of_it_has_come(make_stand: MakeStand) -> None:
    wire = make_stand().connect().hello()
    assert wire.send(b"BDAT 10\r\n123456789") == []
    assert wire.send(b"0") == [503]


@pytest.mark.parametrize("verdict", [REJECT, DEFER])
@pytest.mark.parametrize("is_late", [True, False])
@pytest.mark.parametrize("is_last", [True, False])
def test_a_filter_refuses_content(make_stand: MakeStand, verdict: Reject | Defer, is_late: bool, is_last: bool) -> None:
    stand = make_stand()
    waited = stand.pend("data")
    if not is_late:
        waited.callback(verdict)
    wire = begin(stand)
    said = wire.send(chunk(EVIL, is_last=is_last) + b"NOOP\r\n")
    if is_late:
        assert said == []
        waited.callback(verdict)
    assert said + wire.codes() == [verdict.reply.code, 250]
    (refused,) = stand.events.of(Refused)
    assert (refused.stage, refused.reason) == ("data", "because")
    assert wire.say("RCPT TO:<bob@example.org>") == [503]


def test_a_filter_hangs_up(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.script.answers["data"] = DISCONNECT
    wire = begin(stand)
    assert wire.send(last(EVIL)) == [421]
    assert wire.is_closed


def test_a_pipeline_that_fails(make_stand: MakeStand) -> None:
    stand = make_stand()
    waited = stand.pend("data")
    wire = begin(stand)
    wire.send(last(EVIL))
    waited.errback(ZeroDivisionError("a bug"))
    assert wire.codes() == [451]
    assert stand.failed() == ["a bug"]
    assert wire.say("NOOP") == [250]


@pytest.mark.parametrize("stage", ["data", "message", "take"])
def test_nothing_overtakes_the_answer(make_stand: MakeStand, stage: str) -> None:
    stand = make_stand()
    waited: Deferred[object] = stand.pend(stage)
    wire = begin(stand)
    assert wire.send(last(MARKER) + ENVELOPE) == []
    answer: object = Continue()
    if stage == "message":
        answer = [Continue()]
    elif stage == "take":
        answer = [Reply.of(250, "2.0.0", "queued")]
    waited.callback(answer)
    assert wire.codes() == [250, 250, 250]
    assert stand.script.messages == [MARKER]


def test_a_chunk_too_large(make_stand: MakeStand) -> None:
    stand = make_stand({"max_message_size": "64KiB"})
    wire = begin(stand)
    evil = MARKER * 12_000
    assert feed(wire, last(evil) + b"NOOP\r\n", 9999) == [552, 250]
    assert stand.refusals == [("content", "552")]
    assert wire.say("DATA") == [503]


def test_chunks_too_large_in_all(make_stand: MakeStand) -> None:
    stand = make_stand({"max_message_size": "64KiB"})
    wire = begin(stand)
    line = b"x" * 62 + b"\r\n"
    assert wire.send(chunk(line * 1000)) == [250]
    assert wire.send(chunk(line * 24)) == [250]  # exactly as much as there may be
    assert wire.send(last(MARKER) + b"NOOP\r\n") == [552, 250]
    assert stand.files == []
    assert stand.script.taken == []


@pytest.mark.parametrize("size", [64 * 1024 * 1024 + 1, 10**19])
def test_a_chunk_that_nobody_reads_to_its_end(make_stand: MakeStand, size: int) -> None:
    stand = make_stand()
    wire = begin(stand)
    assert wire.send(b"BDAT %d LAST\r\n" % size + EVIL) == [552]
    assert wire.is_closed
    wire.lose()
    assert stand.causes == ["errors"]


def test_content_without_end(make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.smtp.transaction.SLACK", 100_000)
    stand = make_stand({"max_message_size": "1MiB"})
    wire = begin(stand)
    said = feed(wire, last(b"bare\n" + MARKER * 50_000), 10_000)
    assert said == [421]
    assert wire.is_closed


@pytest.mark.parametrize(
    "argument",
    ["", "LAST", "-1", "+1", "1.0", "0x10", "1 LAST LAST", "1 FIRST", "1LAST", "\u0661", "9" * 21, "1 \u017flast"],
)
def test_after_a_malformed_one_nobody_knows_where_commands_begin(make_stand: MakeStand, argument: str) -> None:
    stand = make_stand()
    wire = begin(stand)
    assert wire.send(f"BDAT {argument}\r\n".encode() + MARKER) == [501]
    assert wire.is_closed
    wire.lose()
    assert stand.causes == ["errors"]


def test_errors_are_counted(make_stand: MakeStand) -> None:
    wire = make_stand({"max_errors": 3}).connect().hello()
    assert wire.send(last(MARKER) * 3 + MARKER) == [503, 503, 503, 421]
    assert wire.is_closed


def test_chunks_of_nothing_are_commands(make_stand: MakeStand) -> None:
    wire = make_stand({"max_commands": 10}).connect().hello()
    assert wire.send(ENVELOPE + b"BDAT 0\r\n" * 50) == [250, 250] + [250] * 8 + [421]
    assert wire.is_closed


def test_chunks_of_something_are_none(make_stand: MakeStand) -> None:
    stand = make_stand({"max_commands": 10})
    assert set(begin(stand).send(chunk(b"x") * 100 + last(b""))) == {250}
    assert stand.script.messages == [b"x" * 100]


# -- in between


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        (["NOOP", "VRFY x", "HELP"], [250, 252, 214]),
        (["RCPT TO:<eve@example.org>"], [503]),
        (["MAIL FROM:<>"], [503]),
        (["AUTH PLAIN", "FROB", "RSET now", "EHLO"], [503, 500, 501, 501]),
        (["ETRN example.org"], [503]),
    ],
)
def test_what_changes_nothing_between_chunks(make_stand: MakeStand, lines: list[str], codes: list[int]) -> None:
    stand = make_stand()
    wire = begin(stand)
    assert wire.send(chunk(b"one\r\n")) == [250]
    assert wire.say(*lines) == codes
    assert wire.send(last(b"two\r\n")) == [250]
    assert stand.script.messages == [b"one\r\ntwo\r\n"]
    assert len(stand.script.taken[0][1].recipients) == 1


def test_data_behind_a_chunk(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = begin(stand)
    assert wire.send(chunk(b"one\r\n")) == [250]
    assert wire.say("DATA") == [503]
    assert wire.send(last(b"two\r\n")) == [250]
    wire = begin(stand)
    wire.send(chunk(b"one\r\n"))
    assert wire.send(b"DATA\r\n" + MARKER + b".\r\n") == [503, 421]
    assert wire.is_closed


@pytest.mark.parametrize("line", ["RSET", "EHLO client.example", "HELO client.example"])
def test_what_ends_the_transaction_between_chunks(make_stand: MakeStand, line: str) -> None:
    stand = make_stand()
    wire = begin(stand)
    wire.send(chunk(b"z" * 70 + b"\r\n") * 20)
    assert len(stand.files) == 1
    assert wire.say(line) == [250]
    assert stand.files == []
    assert stand.listener.services.budget.used == 0
    assert wire.send(last(MARKER)) == [502 if line[0] == "H" else 503]
    assert wire.send(ENVELOPE) == [250, 250]
    assert stand.script.taken == []


def test_the_client_quits_between_chunks(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = begin(stand)
    wire.send(chunk(b"z" * 70 + b"\r\n") * 20)
    assert wire.say("QUIT") == [221]
    wire.lose()
    assert stand.causes == ["quit"]
    assert stand.files == []


@pytest.mark.parametrize("within", [True, False])
def test_the_connection_is_lost(make_stand: MakeStand, within: bool) -> None:
    stand = make_stand()
    wire = begin(stand)
    wire.send(chunk(b"one\r\n"))
    if within:
        wire.send(b"BDAT 10 LAST\r\n12345")
    wire.lose()
    (refused,) = stand.events.of(Refused)
    assert (refused.stage, refused.reply) == ("content", "")
    assert refused.reason == "the connection was lost within the content"
    assert stand.script.taken == []
    assert stand.causes == ["lost"]


def test_the_connection_is_lost_within_a_refused_chunk(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = stand.connect().hello()
    wire.send(b"BDAT 10 LAST\r\n12345")
    wire.lose()
    assert stand.events.of(Refused) == []


def test_silence(make_stand: MakeStand) -> None:
    stand = make_stand({"command_timeout": "300s", "data_timeout": "180s"})
    within, between = begin(stand), begin(stand)
    assert within.send(chunk(b"one\r\n") + b"BDAT 10\r\n1") == [250]
    assert between.send(chunk(b"one\r\n")) == [250]
    stand.clock.pump([1.0] * 181)
    assert within.codes() == [421]
    assert between.codes() == []
    stand.clock.pump([1.0] * 120)
    assert between.codes() == [421]
    assert stand.refusals == [("content", "421")] * 2


def test_a_drain_waits_for_the_last_chunk(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = begin(stand)
    wire.send(chunk(b"one\r\n"))
    stand.listener.drain()
    assert wire.send(chunk(b"two\r\n")) == [250]
    assert wire.send(last(b"three\r\n") + b"NOOP\r\n") == [250, 421]
    assert stand.script.messages == [b"one\r\ntwo\r\nthree\r\n"]


def test_a_cut_within_a_chunk(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = begin(stand)
    wire.send(b"BDAT 2000 LAST\r\n" + b"z" * 70)
    stand.listener.cut()
    assert wire.codes() == [421]
    assert stand.refusals == [("content", "421")]


def test_a_client_that_floods_behind_its_chunk_is_not_read(make_stand: MakeStand) -> None:
    stand = make_stand()
    waited = stand.pend("message")
    wire = begin(stand)
    assert wire.send(last(b"a\r\n") + b"NOOP\r\n" * 12_000) == []
    assert wire.send(b"NOOP\r\n") == []
    assert not wire.is_read
    waited.callback([Continue()])
    assert wire.codes()[0] == 250


# -- LMTP


def lmtp(stand: Stand) -> Wire:
    return begin(stand, b"MAIL FROM:<>\r\n" + b"RCPT TO:<bob@example.org>\r\n" * 2 + b"RCPT TO:<eve@example.org>\r\n")


def test_lmtp_answers_the_last_chunk_for_each(make_stand: MakeStand) -> None:
    stand = make_stand({"protocol": "lmtp"})
    stand.script.answers["take"] = Call(
        lambda *_: _fired([Reply.of(250, "2.0.0", "bob"), Reply.of(452, "4.2.2", "eve")])
    )
    wire = lmtp(stand)
    assert wire.send(chunk(b"one\r\n") + last(b"two\r\n") + b"NOOP\r\n") == [250, 250, 250, 452, 250]


def _fired(replies: list[Reply]) -> Deferred[list[Reply]]:
    deferred: Deferred[list[Reply]] = Deferred()
    deferred.callback(replies)
    return deferred


@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize("why", ["content", "filter", "size"])
def test_lmtp_has_as_many_refusals(make_stand: MakeStand, is_last: bool, why: str) -> None:
    stand = make_stand({"protocol": "lmtp", "max_message_size": "64KiB"})
    if why == "filter":
        stand.script.answers["data"] = REJECT
    octets = b"a\nb" + MARKER if why == "content" else MARKER * (20_000 if why == "size" else 1)
    code = 552 if why == "size" else 550
    said = feed(lmtp(stand), chunk(octets, is_last=is_last) + b"NOOP\r\n", 10_000)
    assert said == [*[code] * (3 if is_last else 1), 250]


def test_lmtp_without_recipients(make_stand: MakeStand) -> None:
    wire = make_stand({"protocol": "lmtp"}).connect().hello()
    assert wire.send(b"MAIL FROM:<>\r\n") == [250]
    assert wire.say("DATA") == [503]  # RFC 2033 section 4.2
    assert wire.send(last(MARKER) + b"NOOP\r\n") == [503, 250]


@pytest.mark.parametrize("verdicts", [[REJECT, DEFER], [DISCONNECT, DISCONNECT]])
def test_lmtp_is_told_the_verdicts(make_stand: MakeStand, verdicts: list[Verdict]) -> None:
    stand = make_stand({"protocol": "lmtp"})
    stand.script.answers["message"] = verdicts
    wire = lmtp(stand)
    codes = [verdict.reply.code for verdict in verdicts if isinstance(verdict, Reject | Defer | Disconnect)]
    assert wire.send(last(b"a\r\n")) == [codes[0], codes[0], codes[1]]
    assert wire.is_closed is (verdicts[0] is DISCONNECT)


# -- any content, any chunks


def test_filters_see_the_whole_message(make_stand: MakeStand) -> None:
    stand = make_stand()
    seen: list[bytes] = []

    def look(session: object, transaction: object, message: Message) -> list[Verdict]:
        seen.append(message.content.read())
        return [Continue()]

    stand.script.answers["message"] = Call(look)
    begin(stand).send(chunk(b"Subject: x\r\n") + chunk(b"\r\n") + last(b"body\r\n"))
    assert seen == [b"Subject: x\r\n\r\nbody\r\n"]


def cut(octets: bytes, sizes: Iterator[int]) -> list[bytes]:
    found = []
    while octets:
        size = next(sizes)
        found.append(octets[:size])
        octets = octets[size:]
    return found


@given(st.lists(st.binary(max_size=30), max_size=8), st.integers(1, 50), st.binary(max_size=10))
def test_what_a_chunk_is_does_not_depend_on_its_pieces(chunks: list[bytes], size: int, behind: bytes) -> None:
    inspector = Inspector(10_000, bare="allow")
    decoder = ChunkDecoder(inspector)
    content = b""
    for number, octets in enumerate(chunks):
        decoder.expect(len(octets))
        rest: bytes | None = None
        for piece in cut(octets + (behind if number == len(chunks) - 1 else b""), iter(lambda: size, 0)) or [b""]:
            if rest is not None:
                rest += piece
                continue
            settled, rest = decoder.feed(piece)
            content += settled
        assert rest == (behind if number == len(chunks) - 1 else b"")
    assert content + inspector.finish() == b"".join(chunks)
