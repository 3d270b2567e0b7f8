"""What is signed is what arrives: content beyond US-ASCII is converted before dkim-sign and arc-seal sign."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient, MailParameters, Transaction
from mailgate.filters.dkim_sign import DkimSign
from mailgate.filters.signing_keys import NoKeyError
from mailgate.interfaces import Outcome, OutcomeKind
from mailgate.mailauth import verify_arc
from mailgate.message import AddHeader, Content, Edit, Message, ReplaceBody, Splice, body_edits, is_of_header
from mailgate.mime.recode import classify, recoded
from mailgate.relay.editing import ContentEditor
from mailgate.relay.reports.compose import compose_report
from mailgate.reply import Reply
from mailgate.testing import session, transaction, wait_for
from tests.unit import arc_mail
from tests.unit.dkim_parts import NOW
from tests.unit.test_filter_arc_seal import SPF, mail_of
from tests.unit.test_filter_arc_seal import edits_of as sealed_by
from tests.unit.test_filter_arc_seal import filter_of as sealer
from tests.unit.test_filter_dkim import Threads
from tests.unit.test_filter_dkim_sign import edits_of, filter_of, keys_in, ours, results, sent

FIELDS = b"From: ann@example.org\r\nSubject: Hello\r\nMIME-Version: 1.0\r\n"
TEXT = "Grüße aus Köln\r\n \r\n.\r\n".encode()
PLAIN = FIELDS + b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + TEXT
BARE = b"From: ann@example.org\r\nSubject: Hello\r\n\r\n" + TEXT
PARTS = (
    FIELDS
    + b'Content-Type: multipart/mixed; boundary="b"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n--b\r\n'
    + b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n<p>"
    + TEXT
    + b"</p>\r\n--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + b"AAAA\r\n--b--\r\n"
)
SEALED = (
    FIELDS
    + b'Content-Type: multipart/signed; protocol="application/pkcs7-signature"; boundary="b"\r\n\r\n--b\r\n\r\n'
    + TEXT
    + b"--b\r\nContent-Type: application/pkcs7-signature\r\n\r\nAAAA\r\n--b--\r\n"
)
BINARY = (
    FIELDS
    + b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    + bytes(range(256)) * 8
    + b"\n\r"
    + b"x" * 2000
)


def delivered(folder: Path, octets: bytes, edits: Sequence[Edit]) -> bytes:
    """What arrives at a next hop that offers nothing, by way of what the intake and the relay do."""
    content = Content(octets)
    made = wait_for(ContentEditor(folder, Clock()).edit(content, edits)) if body_edits(edits) else content
    header_edits = [edit for edit in edits if is_of_header(edit)]
    return b"".join(recoded(made, header_edits, "7BIT"))


def passes(message: bytes) -> bool:
    return [one.result for one in results(message)] == ["pass", "pass"]


def text_of(octets: bytes) -> list[tuple[str, bytes]]:
    parts = email.message_from_bytes(octets, policy=email.policy.SMTP).walk()
    found = [(one.get_content_type(), one.get_payload(decode=True)) for one in parts if not one.is_multipart()]
    return [(kind, payload) for kind, payload in found if isinstance(payload, bytes)]


def asking(body: str) -> Transaction:
    return transaction("ann@example.org", parameters=MailParameters(body=body))


@pytest.mark.parametrize(
    ("octets", "asked"), [(PLAIN, "8BITMIME"), (BARE, "7BIT"), (PARTS, "8BITMIME"), (BINARY, "BINARYMIME")]
)
def test_what_is_signed_arrives(tmp_path: Path, octets: bytes, asked: str) -> None:
    edits = edits_of(filter_of(tmp_path), octets, mail=asking(asked))
    message = sent(octets, edits)
    assert classify([message]) == "7BIT"
    assert passes(message)
    assert delivered(tmp_path, octets, edits) == message
    assert text_of(message) == text_of(octets)
    assert len(Message(Content(message)).values("Content-Transfer-Encoding")) <= 1


@given(st.lists(st.sampled_from([b"a", b" ", b"\t", b"=", b".", b"\r\n", b"--b", b"\xc3\xbc", b"\xff", b"x" * 90])))
def test_any_text_is_the_same_to_its_reader(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    folder = tmp_path_factory.getbasetemp()
    octets = PLAIN + b"".join(pieces) + b"\r\n"
    edits = edits_of(filter_of(folder), octets)
    message = sent(octets, edits)
    assert passes(delivered(folder, octets, edits))
    assert text_of(message) == text_of(octets)


@pytest.mark.parametrize(
    ("octets", "asked"),
    [
        (FIELDS + b"\r\nHello\r\n", "8BITMIME"),
        (FIELDS + b"\r\nHello\r\n", "BINARYMIME"),
        (SEALED, "8BITMIME"),
        (b"DKIM-Signature: v=1; d=app.example.org\r\n" + PLAIN, "8BITMIME"),
        (b"ARC-Message-Signature: i=1\r\n" + PLAIN, "8BITMIME"),
        (b"Comments: Gr\xc3\xbc\xc3\x9fe\r\n" + PLAIN, "8BITMIME"),
        (b"no field at all\r\n" + PLAIN, "8BITMIME"),
    ],
)
def test_what_is_fit_or_must_stay_keeps_its_octets(tmp_path: Path, octets: bytes, asked: str) -> None:
    edits = edits_of(filter_of(tmp_path), octets, mail=asking(asked))
    assert all(is_of_header(edit) for edit in edits)
    assert sent(octets, edits).endswith(octets)
    assert len(edits) == 2


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    edits = edits_of(filter_of(tmp_path, convert=False), PLAIN)
    assert sent(PLAIN, edits).endswith(PLAIN)
    assert not passes(delivered(tmp_path, PLAIN, edits))


@pytest.mark.parametrize("octets", [PLAIN, FIELDS + b"\r\nHello\r\n"])
def test_what_filters_before_have_put_in_is_converted_too(tmp_path: Path, octets: bytes) -> None:
    banner = "-- \r\nBeispiel GmbH, Köln\r\n".encode()
    for changes in (
        [Splice(len(octets), len(octets), banner)],
        [Splice(len(octets), len(octets), banner), ReplaceBody(Content(TEXT + banner), 1)],
    ):
        mail = transaction("ann@example.org", edits=list(changes))
        edits = [*changes, *edits_of(filter_of(tmp_path), octets, mail=mail)]
        message = delivered(tmp_path, octets, edits)
        assert passes(message)
        assert message == sent(octets, edits)
        assert "Beispiel GmbH, Köln".encode() in text_of(message)[0][1]


def test_the_type_that_a_filter_before_has_given_says_what_is_converted(tmp_path: Path) -> None:
    octets = FIELDS + b"\r\nHello\r\n"
    wrapped = PARTS.partition(b"\r\n\r\n")
    mail = transaction("ann@example.org")
    changes: list[Edit] = [
        AddHeader("Content-Type", 'multipart/mixed; boundary="b"', at_end=True),
        ReplaceBody(Content(wrapped[2])),
    ]
    mail.edits += changes
    edits = [*changes, *edits_of(filter_of(tmp_path), octets, mail=mail)]
    message = sent(octets, edits)
    assert passes(message)
    assert text_of(message) == text_of(PARTS)
    unsigned = delivered(tmp_path, octets, changes)
    assert text_of(unsigned) == text_of(PARTS)


# -- files, threads, failures


def large(folder: Path) -> Content:
    path = folder / "content"
    path.write_bytes(PLAIN + TEXT * 40_000)
    return Content.in_file(path)


def stand(folder: Path, **options: object) -> tuple[Threads, DkimSign, Path]:
    incoming = folder / "no-state-directory" / "incoming"
    threads = Threads()
    threads.advance(NOW)
    built = filter_of(folder, clock=threads, **options)
    incoming.mkdir(parents=True, exist_ok=True)
    built._incoming = incoming
    return threads, built, incoming


def test_large_content_lies_in_a_file_that_belongs_to_the_edit(tmp_path: Path) -> None:
    threads, built, incoming = stand(tmp_path)
    content = large(tmp_path)
    answer = built.modify(ours(), transaction("ann@example.org"), Message(content))
    threads.pool.work()
    edits = wait_for(answer)
    (replaced,) = body_edits(edits)
    assert isinstance(replaced, ReplaceBody)
    assert [replaced.content.path] == list(incoming.iterdir())
    assert passes(sent(content.read(), edits))


def test_nothing_stays_where_nobody_waits_any_more(tmp_path: Path) -> None:
    threads, built, incoming = stand(tmp_path)
    answer = built.modify(ours(), transaction("ann@example.org"), Message(large(tmp_path)))
    assert isinstance(answer, Deferred)
    answer.addErrback(lambda failure: failure.trap(CancelledError))
    answer.cancel()
    threads.pool.work()
    assert list(incoming.iterdir()) == []


def test_nothing_stays_where_there_is_no_key(tmp_path: Path) -> None:
    keys_in(tmp_path, "r.pem")
    keys = [{"selector": "r", "path": "r.pem", "until": "2000-01-01"}, {"selector": "s", "path": "r.pem"}]
    threads, built, incoming = stand(tmp_path, domains={"example.org": {"keys": keys[:1]}})
    answer = built.modify(ours(), transaction("ann@example.org"), Message(large(tmp_path)))
    threads.pool.work()
    with pytest.raises(NoKeyError):
        wait_for(answer)
    assert list(incoming.iterdir()) == []


def test_what_is_to_be_converted_is_for_a_thread_however_small(tmp_path: Path) -> None:
    threads, built, _ = stand(tmp_path)
    assert isinstance(built.modify(ours(), transaction("ann@example.org"), Message(Content(FIELDS))), list)
    assert threads.pool.given == 0
    answer = built.modify(ours(), transaction("ann@example.org"), Message(Content(PLAIN)))
    assert threads.pool.given == 1
    threads.pool.work()
    assert passes(sent(PLAIN, wait_for(answer)))


# -- seals, and our own mail


@pytest.mark.parametrize("convert", [True, False])
def test_seals(tmp_path: Path, convert: bool) -> None:
    octets = PLAIN.replace(b"ann@example.org", b"ann@client.example")
    edits = sealed_by(sealer(tmp_path, convert=convert), mail_of(SPF), octets, session())
    message = delivered(tmp_path, octets, edits)
    chain = wait_for(verify_arc(arc_mail.resolver(), message, now=NOW))
    assert chain.result == ("pass" if convert else "fail")


def test_content_that_somebody_has_signed_is_not_converted_to_be_sealed(tmp_path: Path) -> None:
    octets = b"DKIM-Signature: v=1; d=client.example\r\n" + PLAIN
    edits = sealed_by(sealer(tmp_path), mail_of(SPF), octets, session())
    assert len(edits) == 3
    assert sent(octets, edits).endswith(octets)


@pytest.mark.parametrize("octets", [PLAIN, PARTS, BARE])
def test_reports_of_ours(tmp_path: Path, octets: bytes) -> None:
    built = filter_of(tmp_path)
    recipient = EnvelopeRecipient(0, Address("eve", "far.example"), "out")
    outcome = Outcome(recipient, OutcomeKind.FAILED, Reply.of(550, "5.1.1", "Gibt es nicht: Müller"))
    envelope = Envelope(
        queue_id="Q",
        sender=Address("bob", "example.net"),
        recipients=(recipient,),
        received=NOW - 60,
        size=len(octets),
        parameters=MailParameters(body="8BITMIME", ret="FULL"),
    )
    found = []
    for sign in (None, built.signed):
        made = compose_report(
            envelope,
            [outcome],
            Content(octets),
            hostname="mx.example.org",
            now=NOW,
            queue_id="R",
            route="out",
            sign=sign,
        )
        assert made is not None
        found.append((made[0].parameters.body, made[1].read()))
    (before, plain), (body, signed) = found
    assert (before, body) == ("8BITMIME", "7BIT")
    assert passes(signed)
    assert text_of(signed) == text_of(plain)


@pytest.mark.parametrize(
    "octets", [PLAIN + TEXT * 5000, PARTS.partition(b"--b\r\n")[0] + b"--b\r\n\r\n\xff\r\n" * 101 + b"--b--\r\n"]
)
def test_a_report_of_ours_that_takes_long_is_not_converted_while_others_wait(tmp_path: Path, octets: bytes) -> None:
    signed = filter_of(tmp_path).signed(octets)
    assert signed.endswith(octets)
    assert passes(signed)
