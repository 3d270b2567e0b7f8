"""What the client makes of content: what it may not send, and what is too large for one write."""

from __future__ import annotations

from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import Address
from mailgate.envelope import EIGHT_BIT_MAIL, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import AddHeader, Content, HeaderEdit, RemoveHeader, RenameHeader, rendered
from mailgate.relay.attempt import Result, Target
from mailgate.relay.client.sending import UnsendableError, convert, prepare
from mailgate.wire.content import stuff
from tests.unit.peer import LMTP, MESSAGE, MX, Peer, kinds

DELIVERED, DEFERRED, FAILED = OutcomeKind.DELIVERED, OutcomeKind.DEFERRED, OutcomeKind.FAILED


# -- What is not sent at all


def test_a_message_that_is_larger_than_the_server_takes() -> None:
    peer = Peer()
    (result,) = peer.start(content=b"x" * 100_001)
    assert (result.kind, result.reply.code, result.reply.status) == (FAILED, 552, "5.3.4")
    assert peer.transport.value() == b""
    assert peer.session.is_usable
    assert kinds(peer.send(content=b"x" * 99_998 + b"\r\n")) == [DELIVERED]


def test_content_with_8_bit_goes_only_where_it_is_taken() -> None:
    peer = Peer(EHLO=[b"250 mx"])
    (result,) = peer.start(content="Subject: Grüße\r\n\r\n".encode(), parameters=EIGHT_BIT_MAIL)
    assert (result.kind, result.reply.status, result.next_host) == (FAILED, "5.6.7", True)
    assert peer.transport.value() == b""
    assert kinds(peer.send(content=b"plain after all\r\n", parameters=EIGHT_BIT_MAIL)) == [DELIVERED]
    assert peer.commands[1] == "MAIL FROM:<ann@client.test>"
    # What was never declared is passed on as it came.
    assert kinds(peer.send(content="Grüße\r\n".encode())) == [DELIVERED]


@pytest.mark.parametrize("times", [1, 20_000])
def test_the_type_that_a_filter_has_given_says_what_is_converted(times: int) -> None:
    part = b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + "Grüße aus Köln\r\n".encode() * times
    content = Content(b"Subject: x\r\n\r\n--b\r\n" + part + b"\r\n--b--\r\n")
    payload = convert(content, [AddHeader("Content-Type", "multipart/mixed; boundary=b", at_end=True)], "7BIT")
    octets = b"".join(payload.chunks) if payload.chunks is not None else payload.wire
    (_, text) = message_from_bytes(octets).walk()
    assert text.get_payload(decode=True) == "Grüße aus Köln\r\n".encode() * times


def test_addresses_that_cannot_be_written() -> None:
    peer = Peer()
    sneaky = EnvelopeRecipient(1, Address("x>\r\nRSET", "example.org"), "mx")
    foreign = EnvelopeRecipient(2, Address("jürgen", "example.org"), "mx")
    good = EnvelopeRecipient(0, Address("a b", "example.org"), "mx")
    results = peer.send((sneaky, good, foreign))
    assert [(result.kind, result.reply.status) for result in results] == [
        (FAILED, "5.1.3"),
        (DELIVERED, "2.0.0"),
        (FAILED, "5.6.7"),
    ]
    assert [command for command in peer.commands if command.startswith("RCPT")] == ['RCPT TO:<"a b"@example.org>']
    assert [(one.kind, one.reply.status) for one in peer.start(sender=Address("jürgen", "x.test"))] == [
        (FAILED, "5.6.7")
    ]


def test_content_that_would_smuggle_is_not_sent() -> None:
    peer = Peer()
    (result,) = peer.start(content=b"a\n.\nMAIL FROM:<x@y>\r\n")
    assert (result.kind, result.reply.status) == (FAILED, "5.6.0")
    assert peer.transport.value() == b""


# -- Content that is too large for one write


def large(folder: Path, data: bytes) -> Content:
    path = folder / "content"
    path.write_bytes(data)
    return Content.in_file(path)


def test_large_content_waits_for_the_peer(tmp_path: Path) -> None:
    data = MESSAGE + (b"." + b"y" * 70 + b"\r\n") * 20_000
    peer = Peer(EHLO=[b"250 PIPELINING"])
    results = peer.start(content=large(tmp_path, data), edits=(AddHeader("Received", "by gw"),))
    peer.serve()
    pieces: list[int] = []
    wire = b""
    while peer.is_pulling:
        peer.reactor.advance(299)
        pieces.append(-len(wire))
        wire = peer.pull()
        pieces[-1] += len(wire)
    assert max(pieces) < 300_000
    assert len(pieces) > 5
    assert wire == b"Received: by gw\r\n" + data.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    assert results == []
    peer.serve()
    assert kinds(results) == [DELIVERED]
    assert peer.session.is_usable


def start_large(peer: Peer, content: Content, **more: Any) -> list[Result]:
    results = peer.start(content=content, **more)
    peer.serve()
    peer.pull()
    return results


EARLY = [
    (b"552 5.3.4 too large\r\n", FAILED, False),
    (b"451 4.3.0 no room\r\n", DEFERRED, False),
    (b"421 closing\r\n", DEFERRED, True),
    (b"250 taken\r\n", DEFERRED, True),
    (b"noise\r\n", DEFERRED, True),
]


@pytest.mark.parametrize(("reply", "kind", "next_host"), EARLY)
@pytest.mark.parametrize("target", [MX, LMTP])
def test_an_answer_in_the_middle_of_the_content(
    tmp_path: Path, target: Target, reply: bytes, kind: OutcomeKind, next_host: bool
) -> None:
    peer = Peer(target, EHLO=[b"250 mx"], LHLO=[b"250 mx"])
    results = start_large(peer, large(tmp_path, MESSAGE * 10_000), recipients=2)
    peer.say(reply)
    assert [(one.kind, one.next_host) for one in results] == [(kind, next_host)] * 2
    assert peer.transport.disconnected
    sent = peer.transport.value()
    assert peer.pull() == sent
    assert not sent.endswith(b"\r\n.\r\n")


@pytest.mark.parametrize("end", ["lost", "timeout", "closed"])
def test_the_connection_breaks_in_the_middle_of_the_content(tmp_path: Path, end: str) -> None:
    peer = Peer(EHLO=[b"250 mx"])
    results = start_large(peer, large(tmp_path, MESSAGE * 10_000))
    if end == "lost":
        peer.lose()
    elif end == "timeout":
        peer.reactor.advance(300)
    else:
        peer.session.close()
    assert [(one.kind, one.next_host) for one in results] == [(DEFERRED, True)]
    sent = peer.transport.value()
    assert peer.pull() == sent


@pytest.mark.parametrize("tail", [b"bare\nline", b"half\r"])
def test_large_content_that_cannot_be_sent_never_ends(tmp_path: Path, tail: bytes) -> None:
    peer = Peer(EHLO=[b"250 mx"])
    results = start_large(peer, large(tmp_path, MESSAGE * 10_000 + tail))
    sent = peer.transport.value()
    while peer.is_pulling:
        sent = peer.pull()
    assert [(one.kind, one.reply.status, one.next_host) for one in results] == [(FAILED, "5.6.0", False)]
    assert peer.transport.disconnected
    assert not sent.endswith(b"\r\n.\r\n")


def test_content_whose_file_is_gone(tmp_path: Path) -> None:
    content = large(tmp_path, MESSAGE * 10_000)
    content.discard()
    peer = Peer(EHLO=[b"250 mx"])
    results = start_large(peer, content)
    assert [(one.kind, one.reply.status, one.next_host) for one in results] == [(DEFERRED, "4.3.0", False)]
    assert peer.transport.disconnected
    other = Peer()
    results = other.start(content=content, edits=(RemoveHeader("subject"),))
    assert [(one.kind, one.reply.status) for one in results] == [(DEFERRED, "4.3.0")]
    assert other.session.is_usable


# -- What is made ready


_EDITS = st.one_of(
    st.builds(AddHeader, st.sampled_from(["X-One", "Received"]), st.sampled_from(["a", "b\r\n c"]), st.booleans()),
    st.builds(RemoveHeader, st.sampled_from(["subject", "X-One"])),
    st.builds(RenameHeader, st.just("Subject"), st.just("X-Was")),
)


@given(st.lists(_EDITS, max_size=4), st.booleans(), st.booleans())
def test_small_content_is_what_the_edits_make_of_it(edits: list[HeaderEdit], by_chunks: bool, whole: bool) -> None:
    content = Content(b"Subject: x\r\nFrom: y\r\n\r\n.dot\r\nend\r\n")
    content.is_whole_lines = whole
    payload = prepare(content, edits, by_chunks=by_chunks)
    octets = b"".join(rendered(content, edits))
    assert payload.size == len(octets)
    if by_chunks:
        assert payload.wire == b"BDAT %d LAST\r\n%b" % (len(octets), octets)
    else:
        assert payload.wire == stuff(octets)


def test_only_what_is_known_to_be_whole_is_not_looked_at_again() -> None:
    content = Content(b"Subject: x\r\n\r\nbare\nend\r\n")
    with pytest.raises(UnsendableError):
        prepare(content, [AddHeader("Received", "x")])
    # whatever is known of the content, an edit that takes it apart may make something else of it
    content.is_whole_lines = True
    with pytest.raises(UnsendableError):
        prepare(content, [RenameHeader("Subject", "X-Was")])


def test_content_of_a_refused_message_is_not_sent_with_the_next_one() -> None:
    peer = Peer(RCPT=[b"550 5.1.1 no", b"250 ok"], DATA=[b"554 5.5.1 no", b"354 go on"])
    assert kinds(peer.send(content=b"first\r\n")) == [FAILED]
    assert kinds(peer.send(content=b"second\r\n")) == [DELIVERED]
    assert peer.contents == [b"second\r\n.\r\n"]
