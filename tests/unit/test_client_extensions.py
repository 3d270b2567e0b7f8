"""Sessions with servers that offer more than most: BDAT, conversions, limits, XFORWARD, parameters passed on."""

from __future__ import annotations

import email
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import EIGHT_BIT_MAIL, EnvelopeRecipient, MailParameters, Origin
from mailgate.interfaces import Handover, OutcomeKind
from mailgate.message import AddHeader, Content
from mailgate.relay.attempt import Result, Target
from mailgate.relay.client.terms import Terms
from tests.unit.peer import LMTP, LOST, MESSAGE, MX, SILENT, Peer, kinds

DELIVERED, DEFERRED, FAILED = OutcomeKind.DELIVERED, OutcomeKind.DEFERRED, OutcomeKind.FAILED
BINARY = b"Content-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\na\0\nb\r\n.\r\n\xff"
BINARY_MAIL = MailParameters(body="BINARYMIME")
TEXT = "Subject: one\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGrüße\r\n".encode()


def ehlo(*keywords: str) -> list[bytes]:
    return ["\r\n".join(["250-mx", *(f"250-{one}" for one in keywords), "250 ENHANCEDSTATUSCODES"]).encode()]


def peer_with(*keywords: str, target: Target = MX, kind: type[Peer] | None = None, **script: Any) -> Peer:
    offer = ehlo(*keywords)
    return (kind or Peer)(target, EHLO=offer, LHLO=offer, **script)


def binary_peer(target: Target = MX, **script: Any) -> Peer:
    return peer_with("PIPELINING", "CHUNKING", "BINARYMIME", "SIZE", target=target, **script)


def in_file(folder: Path, data: bytes) -> Content:
    path = folder / "content"
    path.write_bytes(data)
    return Content.in_file(path)


def recipients(*names: str, **more: Any) -> tuple[EnvelopeRecipient, ...]:
    addresses = (Address(*name.split("@")) if "@" in name else Address(name, "example.org") for name in names)
    return tuple(EnvelopeRecipient(number, one, "mx", **more) for number, one in enumerate(addresses))


# -- BDAT


def test_binary_content_goes_by_bdat_when_a_recipient_has_been_taken() -> None:
    peer = binary_peer()
    assert kinds(peer.send(2, BINARY, parameters=BINARY_MAIL)) == [DELIVERED, DELIVERED]
    size = len(BINARY)
    assert peer.writes[1:] == [
        f"MAIL FROM:<ann@client.test> SIZE={size} BODY=BINARYMIME\r\n".encode()
        + b"RCPT TO:<user0@example.org>\r\nRCPT TO:<user1@example.org>\r\n",
        b"BDAT %d LAST\r\n" % size + BINARY,
    ]
    assert kinds(peer.send(1, BINARY, parameters=BINARY_MAIL)) == [DELIVERED]
    assert "RSET" not in peer.commands
    assert peer.session.is_usable


def test_bdat_one_by_one_without_pipelining() -> None:
    peer = peer_with("CHUNKING", "BINARYMIME")
    assert kinds(peer.send(2, BINARY, parameters=BINARY_MAIL)) == [DELIVERED, DELIVERED]
    assert [line[:4] for line in peer.commands] == ["EHLO", "MAIL", "RCPT", "RCPT", "BDAT"]


@pytest.mark.parametrize("pipelining", [True, False])
def test_nobody_was_taken_and_nothing_is_sent(pipelining: bool) -> None:
    offer = ["CHUNKING", "BINARYMIME", *(["PIPELINING"] if pipelining else [])]
    peer = peer_with(*offer, RCPT=[b"550 5.1.1 no", b"452 4.2.2 full", b"250 ok"])
    assert kinds(peer.send(2, BINARY, parameters=BINARY_MAIL)) == [FAILED, DEFERRED]
    assert peer.contents == []
    assert kinds(peer.send(1, BINARY, parameters=BINARY_MAIL)) == [DELIVERED]
    assert peer.commands.count("RSET") == 1


def test_lmtp_answers_for_each_after_the_last_chunk() -> None:
    peer = binary_peer(LMTP, RCPT=[b"250 ok", b"550 no", b"250 ok"], END=[b"452 4.2.2 full", b"250 ok"])
    results = peer.send(3, BINARY, parameters=BINARY_MAIL)
    assert kinds(results) == [DEFERRED, FAILED, DELIVERED]
    assert results[0].reply.status == "4.2.2"


def large_binary(size: int = 700_000) -> bytes:
    return b"Subject: x\r\n\r\n" + bytes(range(256)) * (size // 256)


@pytest.mark.parametrize("target", [MX, LMTP])
def test_large_content_goes_chunk_by_chunk(tmp_path: Path, target: Target) -> None:
    peer = binary_peer(target)
    data = large_binary()
    edits = (AddHeader("Received", "by gw"),)
    results = peer.send(2, in_file(tmp_path, data), parameters=BINARY_MAIL, edits=edits)
    assert kinds(results) == [DELIVERED, DELIVERED]
    assert b"".join(peer.contents) == b"Received: by gw\r\n" + data
    chunks = [line for line in peer.commands if line.startswith("BDAT")]
    assert [line.endswith(" LAST") for line in chunks] == [False, False, True]
    assert max(len(one) for one in peer.contents) < 300_000
    assert f"SIZE={len(data) + 17} " in peer.commands[1]


def test_empty_content_is_a_last_chunk() -> None:
    peer = binary_peer()
    assert kinds(peer.send(1, b"", parameters=BINARY_MAIL)) == [DELIVERED]
    assert peer.commands[-1] == "BDAT 0 LAST"


ANSWERS: list[tuple[bytes, OutcomeKind, bool]] = [
    (b"450 4.3.1 no room", DEFERRED, True),
    (b"552 5.3.4 too large", FAILED, True),
    (b"503 5.5.1 what?", DEFERRED, True),
    (b"354 go on", DEFERRED, False),
    (b"421 closing", DEFERRED, False),
    (b"\0noise", DEFERRED, False),
    (b"250 ok\r\n250 ok", DEFERRED, False),
    (LOST, DEFERRED, False),
    (SILENT, DEFERRED, False),
]


@pytest.mark.parametrize(("answer", "kind", "is_usable"), ANSWERS)
@pytest.mark.parametrize("target", [MX, LMTP])
def test_the_first_chunk_with_every_answer(
    tmp_path: Path, target: Target, answer: bytes, kind: OutcomeKind, is_usable: bool
) -> None:
    peer = binary_peer(target, BDAT=[answer])
    results = peer.send(2, in_file(tmp_path, large_binary()), parameters=BINARY_MAIL)
    if answer == SILENT:
        peer.reactor.advance(299)
        assert results == []
        peer.reactor.advance(1)
    assert kinds(results) == [kind, kind]
    assert len(peer.contents) == 1
    assert [one.next_host for one in results] == [not is_usable] * 2
    assert "may have been delivered" not in results[0].reason
    assert peer.session.is_usable is is_usable
    if is_usable:
        peer.script["BDAT"] = [b"250 ok"]
        assert kinds(peer.send(1, BINARY, parameters=BINARY_MAIL)) == [DELIVERED]
        assert peer.commands.count("RSET") == 1


@pytest.mark.parametrize(("answer", "kind", "is_usable"), [one for one in ANSWERS if b"250" not in one[0]])
def test_the_last_chunk_with_every_answer(answer: bytes, kind: OutcomeKind, is_usable: bool) -> None:
    peer = binary_peer(END=[answer, b"250 ok"])
    results = peer.send(2, BINARY, parameters=BINARY_MAIL)
    if answer == SILENT:
        peer.reactor.advance(599)
        assert results == []
        peer.reactor.advance(1)
    assert kinds(results) == [kind, kind]
    # The end was out: nobody else is asked, and where nothing was said its fate is not known.
    assert [(one.next_host, one.again) for one in results] == [(False, False)] * 2
    assert ("may have been delivered" in results[0].reason) is not (is_usable or answer.startswith(b"421"))
    assert peer.session.is_usable is is_usable
    if is_usable:
        assert kinds(peer.send()) == [DELIVERED]
        assert peer.commands.count("RSET") == 1


def test_a_dead_session_has_not_had_the_content() -> None:
    peer = binary_peer(MAIL=[b"250 ok", LOST])
    peer.send(1, BINARY, parameters=BINARY_MAIL)
    (result,) = peer.send(1, BINARY, parameters=BINARY_MAIL)
    assert (result.kind, result.again, result.next_host) == (DEFERRED, True, True)
    assert len(peer.contents) == 1


def test_a_file_that_fails_between_chunks(tmp_path: Path) -> None:
    content = in_file(tmp_path, large_binary())
    peer = binary_peer()
    results = peer.start(1, content, parameters=BINARY_MAIL)
    content.discard()
    peer.serve()
    assert [(one.kind, one.reply.status, one.next_host) for one in results] == [(DEFERRED, "4.3.0", False)]
    assert peer.transport.disconnected
    assert peer.contents == []


# -- Conversions


@pytest.mark.parametrize("offer", [["SIZE"], ["SIZE", "BINARYMIME"], ["SIZE", "CHUNKING"]])
@pytest.mark.parametrize("content", [TEXT, BINARY])
def test_small_content_is_converted_for_a_server_without_8bitmime(offer: list[str], content: bytes) -> None:
    peer = peer_with(*offer)
    body = "8BITMIME" if content is TEXT else "BINARYMIME"
    assert kinds(peer.send(1, content, parameters=MailParameters(body=body))) == [DELIVERED]
    (sent,) = peer.contents
    assert sent.isascii()
    assert "BODY" not in peer.commands[1]
    message = email.message_from_bytes(sent.removesuffix(b".\r\n"))
    payload = message.get_payload(decode=True)
    assert payload == content.partition(b"\r\n\r\n")[2]
    assert f"SIZE={len(sent) - 3}" in peer.commands[1]


def test_the_route_may_forbid_bdat() -> None:
    class Unchunked(Peer):
        terms = Terms(chunking=False)

    peer = peer_with("8BITMIME", "CHUNKING", "BINARYMIME", kind=Unchunked)
    assert kinds(peer.send(1, BINARY, parameters=BINARY_MAIL)) == [DELIVERED]
    assert peer.commands[1:] == [
        "MAIL FROM:<ann@client.test> BODY=8BITMIME",
        "RCPT TO:<user0@example.org>",
        "DATA",
    ]


def test_binary_mail_that_is_8_bit_after_all_goes_as_it_is() -> None:
    peer = peer_with("8BITMIME")
    assert kinds(peer.send(1, TEXT, parameters=BINARY_MAIL)) == [DELIVERED]
    assert peer.contents == [TEXT + b".\r\n"]


SIGNED = TEXT.replace(b"text/plain; charset=utf-8", b'multipart/signed; boundary="x"').replace(
    b"Gr\xc3\xbc\xc3\x9fe\r\n", b"--x\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n--x--\r\n"
)


def test_signed_mail_is_not_converted() -> None:
    peer = peer_with("SIZE")
    (result,) = peer.start(1, SIGNED, parameters=EIGHT_BIT_MAIL)
    assert (result.kind, result.reply.code, result.reply.status, result.next_host) == (FAILED, 554, "5.6.3", True)
    assert peer.transport.value() == b""
    assert peer.session.is_usable


class Later(Peer):
    """A peer whose client's long work is done when the test says so."""

    def __init__(self, *offer: str, **script: Any) -> None:
        self.works: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        works = self.works

        def work(compute: Callable[[], Any], /) -> Deferred[Any]:
            done: Deferred[Any] = Deferred()
            works.append((compute, done))
            return done

        self.work = (work,)  # type: ignore[misc]  # of this one alone
        super().__init__(EHLO=ehlo(*offer), **script)

    def do(self) -> None:
        compute, done = self.works.pop()
        try:
            result = compute()
        except Exception as error:
            done.errback(error)
        else:
            done.callback(result)


LARGE_TEXT = TEXT + ("Grüße aus Köln\r\n" * 40_000).encode()


def pulled(peer: Peer) -> bytes:
    peer.serve()
    wire = b""
    while peer.is_pulling:
        wire = peer.pull()
    return wire


@pytest.mark.parametrize("body", ["8BITMIME", "BINARYMIME"])
def test_large_content_is_converted_by_somebody_else(tmp_path: Path, body: str) -> None:
    peer = Later("SIZE", "PIPELINING")
    content = in_file(tmp_path, LARGE_TEXT)
    results = peer.start(1, content, parameters=MailParameters(body=body), edits=(AddHeader("X-New", "1"),))
    assert (peer.session.is_usable, results, peer.transport.value()) == (False, [], b"")
    peer.do()
    wire = pulled(peer)
    assert wire.isascii()
    assert f"SIZE={len(wire) - 3}" in peer.commands[1]
    message = email.message_from_bytes(wire.removesuffix(b".\r\n"))
    assert message["X-New"] == "1"
    assert message.get_payload(decode=True) == LARGE_TEXT.partition(b"\r\n\r\n")[2]
    peer.serve()
    assert kinds(results) == [DELIVERED]
    assert peer.session.is_usable


def test_large_content_that_is_plain_after_all(tmp_path: Path) -> None:
    peer = Later("PIPELINING")
    data = MESSAGE * 20_000
    results = peer.start(1, in_file(tmp_path, data), parameters=EIGHT_BIT_MAIL)
    peer.do()
    assert pulled(peer) == data.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    peer.serve()
    assert kinds(results) == [DELIVERED]


def test_large_content_that_cannot_be_converted(tmp_path: Path) -> None:
    peer = Later("PIPELINING")
    results = peer.start(1, in_file(tmp_path, SIGNED + b"\r\n" * 300_000), parameters=EIGHT_BIT_MAIL)
    peer.do()
    assert [(one.kind, one.reply.status, one.next_host) for one in results] == [(FAILED, "5.6.3", True)]
    assert peer.session.is_usable
    assert peer.transport.value() == b""
    assert kinds(peer.send()) == [DELIVERED]


def test_large_content_that_is_too_large_when_converted(tmp_path: Path) -> None:
    peer = Later("SIZE 700000")
    results = peer.start(1, in_file(tmp_path, LARGE_TEXT[:690_000]), parameters=EIGHT_BIT_MAIL)
    peer.do()
    assert [(one.kind, one.reply.status) for one in results] == [(FAILED, "5.3.4")]
    assert peer.session.is_usable


def test_large_content_whose_file_is_gone(tmp_path: Path) -> None:
    peer = Later("SIZE")
    content = in_file(tmp_path, LARGE_TEXT)
    results = peer.start(1, content, parameters=EIGHT_BIT_MAIL)
    content.discard()
    peer.do()
    assert [(one.kind, one.reply.status, one.next_host) for one in results] == [(DEFERRED, "4.3.0", False)]
    assert peer.session.is_usable


def test_small_content_is_converted_elsewhere_too() -> None:
    """What it takes goes by the parts, and not by the octets."""
    parts = b"--x\r\n\r\n\xe9\r\n" * 2000
    dense = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n" + parts + b"--x--\r\n"
    peer = Later("SIZE", "PIPELINING")
    results = peer.start(1, dense, parameters=EIGHT_BIT_MAIL)
    assert peer.transport.value() == b""
    peer.do()
    peer.serve()
    assert kinds(results) == [DELIVERED]
    assert peer.contents[0].count(b"\r\n6Q==\r\n") == 2000
    assert f" SIZE={len(peer.contents[0]) - 3}" in peer.commands[1]


def test_a_bug_in_converting_is_told() -> None:
    class Broken(Peer):
        work = (lambda _compute: fail(ZeroDivisionError()),)

    peer = peer_with("SIZE", kind=Broken)
    found: list[Any] = []
    content = Content(LARGE_TEXT)
    peer.delivery(1, content, parameters=EIGHT_BIT_MAIL).addErrback(found.append)
    assert found[0].check(ZeroDivisionError)
    assert peer.session.is_usable


@pytest.mark.parametrize("end", ["lost", "closed", "said", "half", "cancelled"])
def test_what_happens_while_content_is_converted(tmp_path: Path, end: str) -> None:
    peer = Later("SIZE", "PIPELINING")
    peer.send()
    results: list[Result] = []
    delivery = peer.delivery(1, in_file(tmp_path, LARGE_TEXT), parameters=EIGHT_BIT_MAIL)
    delivery.addCallbacks(results.extend, lambda _failure: None)
    if end == "lost":
        peer.lose()
    elif end == "closed":
        peer.session.close()
    elif end == "cancelled":
        delivery.cancel()
    else:
        peer.say(b"421 4.3.2 idle\r\n" if end == "said" else b"42")
    if end != "cancelled":
        assert [(one.kind, one.again) for one in results] == [(DEFERRED, True)]
    assert not peer.session.is_usable
    peer.do()
    assert peer.transport.value() == b""


# -- SMTPUTF8


def test_an_address_in_utf8_where_it_is_taken() -> None:
    peer = peer_with("PIPELINING", "SMTPUTF8", "8BITMIME")
    assert kinds(peer.send(recipients("user", "jürgen"))) == [DELIVERED, DELIVERED]
    assert peer.commands[1:4] == [
        "MAIL FROM:<ann@client.test> SMTPUTF8",
        "RCPT TO:<user@example.org>",
        "RCPT TO:<jürgen@example.org>",
    ]
    assert kinds(peer.send(sender=Address("jürgen", "client.test"))) == [DELIVERED]
    assert "MAIL FROM:<jürgen@client.test> SMTPUTF8" in peer.commands
    assert kinds(peer.send(parameters=MailParameters(smtputf8=True))) == [DELIVERED]
    assert "MAIL FROM:<ann@client.test> SMTPUTF8" in peer.commands


def test_an_address_in_utf8_where_it_is_not_taken() -> None:
    peer = peer_with("PIPELINING", "8BITMIME")
    results = peer.send(recipients("user", "jürgen"), parameters=MailParameters(smtputf8=True))
    assert [(one.kind, one.reply.code, one.next_host) for one in results] == [
        (DELIVERED, 250, False),
        (FAILED, 550, True),
    ]
    assert results[1].reply.status == "5.6.7"
    assert peer.commands[1] == "MAIL FROM:<ann@client.test>"
    (result,) = peer.start(sender=Address("jürgen", "client.test"))
    assert (result.kind, result.reply.status, result.next_host) == (FAILED, "5.6.7", True)


# -- DSN


def test_dsn_is_passed_on_with_the_duty_to_report() -> None:
    peer = peer_with("DSN", "PIPELINING")
    asked = recipients("a", notify=("SUCCESS",), orcpt="rfc822;x@example.org") + recipients("b")
    results = peer.send(asked, parameters=MailParameters(ret="FULL", envid="1"))
    assert [one.handover for one in results] == [Handover.PASSED_ON] * 2
    assert peer.commands[1:4] == [
        "MAIL FROM:<ann@client.test> RET=FULL ENVID=1",
        "RCPT TO:<a@example.org> NOTIFY=SUCCESS ORCPT=rfc822;x@example.org",
        "RCPT TO:<b@example.org>",
    ]


@pytest.mark.parametrize(("target", "handover"), [(MX, Handover.RELAYED), (LMTP, Handover.FINAL)])
def test_dsn_stays_here_where_it_is_not_offered(target: Target, handover: Handover) -> None:
    peer = peer_with("PIPELINING", target=target)
    (result,) = peer.send(recipients("a", notify=("NEVER",)), parameters=MailParameters(envid="1"))
    assert (result.kind, result.handover) == (DELIVERED, handover)
    assert peer.commands[1:3] == ["MAIL FROM:<ann@client.test>", "RCPT TO:<a@example.org>"]


def test_time_is_told_or_reported() -> None:
    asked = MailParameters(deliver_by=100.0, by_mode="N")
    peer = peer_with("DELIVERBY", "DSN")
    peer.reactor.advance(40)
    assert [one.handover for one in peer.send(parameters=asked)] == [Handover.PASSED_ON]
    assert peer.commands[1] == "MAIL FROM:<ann@client.test> BY=60;N"
    other = peer_with("DSN")
    assert [one.handover for one in other.send(parameters=asked)] == [Handover.RELAYED]
    (result,) = other.start(parameters=MailParameters(deliver_by=100.0, by_mode="R"))
    assert (result.kind, result.reply.status, result.next_host) == (FAILED, "5.4.7", True)


def test_tls_that_is_required_is_not_to_be_had() -> None:
    peer = peer_with("REQUIRETLS")
    (result,) = peer.start(parameters=MailParameters(require_tls=True))
    assert (result.kind, str(result.reply)) == (FAILED, "550 5.7.10 Encryption needed")
    assert peer.session.is_usable
    (result,) = peer.send(sender=NULL_PATH, parameters=MailParameters(require_tls=True))
    assert result.kind is DELIVERED
    assert "MAIL FROM:<>" in peer.commands


# -- LIMITS


def test_no_more_recipients_than_the_server_takes() -> None:
    peer = peer_with("PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=0 RCPTDOMAINMAX=x FOO")
    results = peer.send(5)
    assert [(one.kind, one.again) for one in results] == [(DELIVERED, False)] * 2 + [(DEFERRED, True)] * 3
    assert peer.session.is_usable
    rest = tuple(one.recipient for one in results if one.again)
    assert kinds(peer.send(rest)) == [DELIVERED, DELIVERED, DEFERRED]


@pytest.mark.parametrize(
    ("script", "kind", "again"),
    [
        ({"MAIL": [b"550 5.7.1 no"], "RCPT": [b"503 no"], "DATA": [b"503 no"]}, FAILED, False),
        ({"RCPT": [LOST]}, DEFERRED, False),
        ({"RCPT": [b"550 5.1.1 no"], "DATA": [b"503 no"]}, DEFERRED, True),
        ({"END": [b"554 5.7.1 spam"]}, DEFERRED, True),
        ({"END": [b"421 closing"]}, DEFERRED, False),
    ],
)
def test_those_over_the_limit_when_the_others_are_refused(script: Any, kind: OutcomeKind, again: bool) -> None:
    peer = peer_with("PIPELINING", "LIMITS RCPTMAX=1", **script)
    results = peer.send(2)
    assert (results[1].kind, results[1].again) == (kind, again)
    assert not results[0].again


def test_no_more_messages_than_the_server_takes() -> None:
    peer = peer_with("PIPELINING", "LIMITS MAILMAX=2")
    assert kinds(peer.send()) == [DELIVERED]
    assert peer.session.is_usable
    assert kinds(peer.send()) == [DELIVERED]
    assert not peer.session.is_usable
    assert [(one.kind, one.again) for one in peer.start()] == [(DEFERRED, True)]
    peer.session.close()
    assert peer.transport.value() == b"QUIT\r\n"


def test_no_more_domains_than_the_server_takes_in_a_session() -> None:
    peer = peer_with("PIPELINING", "LIMITS RCPTDOMAINMAX=2")
    assert kinds(peer.send(recipients("a@one.test"))) == [DELIVERED]
    results = peer.send(recipients("a@two.test", "b@one.test", "a@three.test", "b@two.test"))
    assert [one.again for one in results] == [False, False, True, False]
    assert not peer.session.is_usable
    full = peer_with("PIPELINING", "LIMITS RCPTDOMAINMAX=1")
    full.send(recipients("a@one.test"))
    assert full.session.is_usable
    assert [one.again for one in full.start(recipients("a@two.test"))] == [True]
    assert full.transport.value() == b""
    assert not full.session.is_usable


# -- XFORWARD


class Telling(Peer):
    terms = Terms(xforward=True)


ORIGIN = Origin(address="192.0.2.9", name="client.test", helo="laptop", protocol="ESMTP", source="REMOTE")
XFORWARD = "XFORWARD NAME=client.test ADDR=192.0.2.9 PROTO=ESMTP HELO=laptop IDENT=0Q SOURCE=REMOTE"


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("answer", [b"250 ok", b"550 5.7.0 not you", b"501 what?", b"451 later"])
def test_xforward_goes_before_each_message(pipelining: bool, answer: bytes) -> None:
    offer = ["XFORWARD NAME ADDR PROTO HELO IDENT SOURCE", *(["PIPELINING"] if pipelining else [])]
    peer = peer_with(*offer, kind=Telling, XFOR=[answer], RCPT=[b"550 no", b"250 ok"])
    if pipelining:
        peer.script["DATA"] = [b"554 nobody", b"354 go on"]
    assert kinds(peer.send(origin=ORIGIN)) == [FAILED]
    assert kinds(peer.send(origin=ORIGIN)) == [DELIVERED]
    first = ["MAIL FROM:<ann@client.test>", "RCPT TO:<user0@example.org>", *(["DATA"] if pipelining else [])]
    assert peer.commands[1:] == [XFORWARD, *first, "RSET", XFORWARD, *first[:2], "DATA"]
    if pipelining:
        assert peer.writes[2].startswith(b"RSET\r\nXFORWARD ")


@pytest.mark.parametrize(("answer", "reason"), [(b"354 go", "does not fit"), (b"421 bye", "closes the session")])
def test_xforward_that_ends_the_session(answer: bytes, reason: str) -> None:
    peer = peer_with("XFORWARD NAME", kind=Telling, XFOR=[answer])
    (result,) = peer.send(origin=ORIGIN)
    assert (result.kind, result.next_host) == (DEFERRED, True)
    assert reason in result.reason


def test_xforward_only_where_it_is_wanted_and_offered() -> None:
    for peer in (peer_with("XFORWARD NAME"), peer_with("SIZE", kind=Telling), peer_with("XFORWARD X", kind=Telling)):
        assert kinds(peer.send(origin=ORIGIN)) == [DELIVERED]
        assert not [line for line in peer.commands if line.startswith("XFORWARD")]


# -- Anything at all


@given(
    st.lists(st.sampled_from([b"250 ok", b"354 go", b"450 no", b"550 no", b"503 no", b"421 no", LOST]), max_size=12),
    st.booleans(),
    st.sampled_from([MX, LMTP]),
    st.sampled_from(["", "LIMITS RCPTMAX=1", "LIMITS RCPTDOMAINMAX=1"]),
    st.booleans(),
)
def test_a_result_for_each_whatever_is_said_to_chunks(
    replies: Sequence[bytes], pipelining: bool, target: Target, limit: str, large: bool
) -> None:
    offer = ["CHUNKING", "BINARYMIME", "XFORWARD NAME", *(["PIPELINING"] if pipelining else []), limit]
    peer = peer_with(*(one for one in offer if one), target=target, kind=Telling)
    rest = [*replies, LOST]
    peer.script |= dict.fromkeys(("XFOR", "MAIL", "RCPT", "BDAT", "END"), rest)
    asked = recipients("a@one.test", "b@two.test", "c@one.test")
    content = large_binary() if large else BINARY
    results = peer.send(asked, content, parameters=BINARY_MAIL, origin=ORIGIN)
    assert [one.recipient for one in results] == list(asked)
    if not peer.contents or b" LAST" not in peer.writes[-1]:
        assert DELIVERED not in kinds(results)
