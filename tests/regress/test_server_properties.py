"""Properties of the server's session and of what it sends that must never be lost again: one test each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from mailgate.message import Content, ContentWriter
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Reject
from mailgate.wire.content import Stuffer
from tests.unit.peer import Peer
from tests.unit.session_security import client, server
from tests.unit.smtp_stand import CONTENT, ENVELOPE, Call, Stand

MakeStand = Callable[..., Stand]


@pytest.mark.parametrize("length", [999, 16_384, 16_385, 100_000, 1_000_000])
def test_a_line_of_content_of_any_length_stays_content(make_stand: MakeStand, length: int) -> None:
    stand = make_stand()
    wire = stand.connect().data()
    evil = b"\r\nRSET\r\nMAIL FROM:<evil@client.example>\r\nRCPT TO:<bob@example.org>\r\nHELP\r\n.\r\n"
    octets = b"x" * length + evil
    codes = [code for at in range(0, len(octets), 4096) for code in wire.send(octets[at : at + 4096])]
    assert codes == [550]
    assert stand.script.asked.count("mail") == 1
    assert wire.say("NOOP") == [250]


def test_nothing_that_is_said_in_the_clear_is_carried_into_tls(make_stand: MakeStand, tmp_path: Path) -> None:
    stand = make_stand(tls=server(tmp_path))
    wire = stand.connect().hello()
    assert wire.send(ENVELOPE) == [250, 250]
    wire.starttls(client())
    assert wire.session.helo == ""
    assert wire.say("MAIL FROM:<>", "RCPT TO:<bob@example.org>", "DATA") == [503, 503, 503]
    # Where TLS is not offered it is refused, and what stands behind it is answered in the clear where it was said.
    wire = make_stand().connect().hello()
    assert b"STARTTLS" not in wire.octets
    assert wire.say("STARTTLS", "MAIL FROM:<ann@client.example>") == [502, 250]


@pytest.mark.parametrize("cut", [10, 11, 20, None])
def test_no_command_from_the_clear_is_executed_under_tls(
    make_stand: MakeStand, tmp_path: Path, cut: int | None
) -> None:
    stand = make_stand(tls=server(tmp_path))
    wire = stand.connect().hello()
    octets = b"STARTTLS\r\nRSET\r\n" + ENVELOPE
    codes = wire.send(octets[:cut])
    if codes == [220]:  # nothing was there when it was answered: what comes now must be the handshake
        wire.secure(client(), before=octets[10:])
    assert wire.is_closed
    assert stand.script.asked == ["connect", "helo"]


@pytest.mark.parametrize("stage", ["message", "take"])
@pytest.mark.parametrize("code", [421, 450, 451, 452, 550, 552, 554])
def test_the_answer_to_content_is_the_one_that_was_decided_on(make_stand: MakeStand, stage: str, code: int) -> None:
    stand = make_stand()
    reply = Reply.of(code, f"{code // 100}.3.0", "as decided")
    if stage == "take":
        answered: Deferred[list[Reply]] = stand.pend("take")
        answered.callback([reply])
    elif reply.is_transient:
        stand.script.answers["message"] = [Defer(reply, "later")]
    else:
        stand.script.answers["message"] = [Reject(reply, "never")]
    wire = stand.connect().data()
    wire.protocol.dataReceived(CONTENT)
    assert wire.replies() == [reply]


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_nothing_is_answered_before_what_was_asked_earlier(make_stand: MakeStand, stage: str) -> None:
    stand = make_stand()
    waiting: list[Deferred[object]] = []

    def wait(*_: object) -> Deferred[object]:
        waiting.append(Deferred())
        return waiting[-1]

    stand.script.answers[stage] = Call(wait)
    wire = stand.connect().hello()
    codes = wire.send(ENVELOPE + b"RCPT TO:<eve@example.org>\r\nRCPT TO:<x@elsewhere.example>\r\nDATA\r\n")
    while waiting:
        assert len(waiting) == 1  # one question at a time
        waiting.pop().callback(Continue())
        codes += wire.codes()
    assert codes == [250, 250, 250, 550, 354]


@pytest.mark.parametrize(
    "line", [b"AUTH", b"AUTH ", b"AUTH PLAIN", b"\xc3\xa9HLO x", b"\xff\xfe", b"", b" ", b"EHLO \xff"]
)
def test_no_line_raises(make_stand: MakeStand, line: bytes) -> None:
    wire = make_stand().connect().hello()
    assert wire.send(line + b"\r\nNOOP\r\n") in ([500, 250], [501, 250], [502, 250])


def test_the_order_of_commands_is_kept(make_stand: MakeStand) -> None:
    wire = make_stand().connect()
    assert wire.say("MAIL FROM:<>", "RCPT TO:<bob@example.org>", "DATA") == [220, 503, 503, 503]


def test_what_is_offered_is_honoured_and_nothing_else_is_taken(make_stand: MakeStand) -> None:
    stand = make_stand({"max_message_size": "64KiB", "max_errors": 30})
    wire = stand.connect()
    wire.say("EHLO client.example")
    offered = {line[4:].split(b" ")[0].decode() for line in wire.octets.split(b"\r\n")[2:-1]}
    assert offered == {
        *("PIPELINING", "SIZE", "8BITMIME", "CHUNKING", "BINARYMIME", "SMTPUTF8", "DSN", "LIMITS", "MT-PRIORITY"),
        *("DELIVERBY", "ETRN", "ENHANCEDSTATUSCODES"),
    }
    parameters = {
        "SIZE=100000": 552,
        "SIZE=x": 501,
        "BODY=8BITMIME": 250,
        "BODY=BINARYMIME": 250,
        "BODY=9BIT": 501,
        "SMTPUTF8": 250,
        "SMTPUTF8=1": 501,
        "RET=FULL": 250,
        "RET=ALL": 501,
        "ENVID=x": 250,
        "ENVID=+": 501,
        "MT-PRIORITY=1": 250,
        "MT-PRIORITY=10": 501,
        **dict.fromkeys(["AUTH=<>", "REQUIRETLS", "HOLDFOR=1", "HOLDUNTIL=2030-01-31T12:00:00Z", "FOO"], 555),
        **dict.fromkeys(["BY=1;R", "BY=1;NT"], 250),
    }
    for parameter, code in parameters.items():
        assert wire.say(f"MAIL FROM:<ann@client.example> {parameter}", "RSET") == [code, 250]
    wire.say("MAIL FROM:<ann@client.example>")
    for parameter, code in {
        "NOTIFY=NEVER": 250,
        "ORCPT=rfc822;bob@example.org": 250,
        "NOTIFY=X": 501,
        "FOO": 555,
    }.items():
        assert wire.say(f"RCPT TO:<bob@example.org> {parameter}") == [code]
    assert wire.send(b"BDAT 3 LAST\r\na\r\n") == [250]
    refused = {"STARTTLS": 502, "AUTH PLAIN": 502, "XCLIENT ADDR=10.0.0.1": 502, "XFORWARD IDENT=1": 502}
    assert [wire.say(line) for line in refused] == [[code] for code in refused.values()]


@pytest.mark.parametrize("size", [1, 3, 4096])
@pytest.mark.parametrize("refusal", ["order", "filter", "content", "size", "parameter"])
def test_a_chunk_stays_content_whatever_is_said_to_it(make_stand: MakeStand, size: int, refusal: str) -> None:
    stand = make_stand({"max_message_size": "64KiB"})
    evil = b"a\nb\r\n.\r\nRSET\r\nMAIL FROM:<evil@client.example>\r\nHELP\r\nBDAT 0 LAST\r\n"
    if refusal == "size":
        evil *= 2000
    if refusal == "filter":
        stand.script.answers["data"] = Reject(Reply.of(550, "5.7.1", "No"), "never")
    wire = stand.connect().hello()
    if refusal == "parameter":
        assert wire.say("HELO client.example") == [250]
    if refusal != "order":
        wire.send(ENVELOPE)
    code = {"order": 503, "size": 552, "parameter": 502}.get(refusal, 550)
    octets = b"BDAT %d LAST\r\n" % len(evil) + evil + b"NOOP\r\n"
    size = size if refusal != "size" else size + 4096
    assert [code for at in range(0, len(octets), size) for code in wire.send(octets[at : at + size])] == [code, 250]
    assert stand.script.asked.count("mail") == (refusal != "order")
    assert stand.script.taken == []


def test_one_message_is_taken_in_the_pieces_in_which_it_comes(
    make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    class Counting(ContentWriter):
        def write(self, data: bytes) -> None:
            written.append(len(data))
            super().write(data)

    monkeypatch.setattr("mailgate.smtp.receiving.ContentWriter", Counting)
    stand = make_stand()
    names = b"".join(b"RCPT TO:<user%d@example.org>\r\n" % number for number in range(50))
    wire = stand.connect().data(b"MAIL FROM:<>\r\n" + names)
    pieces = [b"a line of text\r\n" * 4000, b"another\r\n" * 4000, b".\r\n"]
    assert [code for piece in pieces for code in wire.send(piece)] == [250]
    assert len(written) <= len(pieces)
    assert len(stand.script.taken) == 1
    assert len(stand.script.taken[0][1].recipients) == 50


def test_no_chunk_border_changes_what_is_sent() -> None:
    text = b".a\r\n..b\r\n\r\n.\r\nc.\r\n"
    whole = Stuffer()
    wanted = whole.feed(text) + whole.finish()
    for cut in range(len(text) + 1):
        stuffer = Stuffer()
        assert stuffer.feed(text[:cut]) + stuffer.feed(text[cut:]) + stuffer.finish() == wanted


@pytest.mark.parametrize("border", [2**14, 2**15, 2**16, 2**17, 2**18])
@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_no_next_hop_is_sent_an_end_within_content(border: int, before: int) -> None:
    head = b"x" * 62 + b"\r\n"
    content = head * (border // 64) + b"y" * 60 + b"\r\n"
    at = border - before
    content = content[:at] + b"\r\n.\r\nRSET\r\n" + content[at:]
    content = content.replace(b"\r\r", b"\r").replace(b"\n\n", b"\n")
    peer = Peer(EHLO=[b"250-mx.example.org\r\n250 PIPELINING"])
    found = peer.start(1, Content(content))
    peer.serve()
    while peer.is_pulling:
        peer.pull()
        peer.serve()
    assert b"".join(peer.contents).count(b"\r\n.\r\n") == 1
    assert len(found) == 1


@pytest.mark.parametrize("is_tls", [True, False])
def test_a_listener_that_closes_down_waits_for_nobody_who_stays(
    make_stand: MakeStand, tmp_path: Path, is_tls: bool
) -> None:
    stand = make_stand(tls=server(tmp_path))
    resting, leaving, busy = (stand.connect().hello() for _ in range(3))
    if is_tls:
        for wire in (resting, leaving, busy):
            wire.starttls(client()).say("EHLO client.example")
    # From here on nobody looks at what the server says, or closes the connection.
    busy.protocol.dataReceived(ENVELOPE)
    leaving.protocol.dataReceived(b"QUIT\r\n")
    drained = stand.listener.drain()
    busy.protocol.dataReceived(b"RSET\r\n")
    assert not drained.called
    stand.clock.pump([1.0] * 5)
    for wire in (resting, leaving, busy):
        assert wire.transport.disconnected
        wire.lose()
    assert drained.called
