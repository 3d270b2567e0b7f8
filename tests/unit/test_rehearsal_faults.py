"""Copies that a session of ours would refuse by itself: they are taken all the same, and what it would say is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.rehearsal.compare import Account
from mailgate.smtp.conversation import Conversation
from mailgate.testing.gateway import MemoryClient
from mailgate.wire.content import SLACK
from tests.unit.test_rehearsal_copies import CONFIG, OLD, XCLIENT, Stand, outcomes, stand

__all__ = ["stand"]

CONTENT = b"From: ann@far.test\r\nSubject: hello\r\n\r\ntext\r\n.\r\n"
LONG = "x" * 70


def raw(stand: Stand, peer: MemoryClient, line: bytes) -> str:
    peer.send(line + b"\r\n")
    return peer.said()[-1]


def bring(
    stand: Stand, *recipients: bytes, mail: bytes = b"<ann@far.test>", content: bytes = CONTENT, hello: str = "old"
) -> Account:
    """Bring a copy of which any part may be wrong: every answer is one that keeps nothing from being taken."""
    peer = stand.gateway.connect(OLD)
    assert raw(stand, peer, b"EHLO " + hello.encode()).startswith("250")
    for line in (b"MAIL FROM:" + mail, *(b"RCPT TO:" + one for one in recipients)):
        assert raw(stand, peer, line).startswith("250"), line
    assert raw(stand, peer, b"DATA").startswith("354")
    peer.send(content)
    assert peer.said()[-1] == "250 2.0.0 Copy judged"
    return stand.accounts()[-1]


def told(account: Account) -> list[tuple[str, str, str, str]]:
    return [(one.recipient, one.now.words, one.now.by, one.now.reply) for one in account.pairs]


@pytest.mark.parametrize(
    ("mail", "sender", "reply"),
    [
        (f"<{LONG}@far.test>".encode(), f"{LONG}@far.test", "501 5.1.7 Bad address: local part too long"),
        (b"<a..b@far.test>", "a..b@far.test", "501 5.1.7 Bad address: malformed local part"),
        (b"<ann>", "ann", "501 5.1.7 Bad address: an address has a domain"),
        (b"ann@far.test", "ann@far.test", "501 5.1.7 Bad address: a path is written in angle brackets"),
        (b"<m\xc3\xbcller@far.test>", "m\u00fcller@far.test", "553 5.6.7 An internationalized address needs SMTPUTF8"),
        (b"<m\xfcller@far.test>", "m\ufffdller@far.test", "500 5.5.2 Command is not UTF-8"),
        (b"<a\x07b@far.test>", "a\ufffdb@far.test", "500 5.5.2 Control characters are not allowed in commands"),
        (b"<ann@far.test> SIZE=x", "ann@far.test", "501 5.5.4"),
        (b"<ann@far.test> NEW=1", "ann@far.test", "555 5.5.4"),
        (b"<ann@far.test> =", "ann@far.test", "501 5.5.4 Malformed parameter"),
        (b"<" + b"y" * 3000 + b"@far.test>", "", "500 5.5.2 Command line too long"),
    ],
)
def test_a_sender_that_no_session_takes(stand: Stand, mail: bytes, sender: str, reply: str) -> None:
    account = bring(stand, b"<bob@box.test>", b"<cy@box.test>", mail=mail)
    assert account.sender == sender
    assert [one[:3] for one in told(account)] == [
        ("bob@box.test", "refused", "mailgate"),
        ("cy@box.test", "refused", "mailgate"),
    ]
    assert all(one[3].startswith(reply) for one in told(account))
    assert (account.subject, outcomes(account)[0][1]) == ("hello", "taken")


@pytest.mark.parametrize(
    ("recipient", "meant", "reply"),
    [
        (f"<{LONG}@box.test.rehearsal.invalid>".encode(), f"{LONG}@box.test", "501 5.1.3 Bad address: local part too"),
        (b"<a..b@box.test.rehearsal.invalid>", "a..b@box.test", "501 5.1.3 Bad address: malformed local part"),
        (b"<who>", "who", "501 5.1.3"),
        (b"<>", "", "501 5.1.3 Bad address: the null path is not allowed here"),
        (b"<b\xfcb@box.test.rehearsal.invalid>", "b\ufffdb@box.test", "500 5.5.2 Command is not UTF-8"),
        (b"<bob@box.test.rehearsal.invalid> NOTIFY=x", "bob@box.test", "501 5.5.4"),
        (b"<" + b"y" * 3000 + b"@box.test>", "", "500 5.5.2 Command line too long"),
    ],
)
def test_a_recipient_that_no_session_takes(stand: Stand, recipient: bytes, meant: str, reply: str) -> None:
    account = bring(stand, recipient, b"<cy@box.test.rehearsal.invalid>")
    first, second = told(account)
    assert first[:3] == (meant, "refused", "mailgate")
    assert first[3].startswith(reply)
    assert second == ("cy@box.test", "taken", "", "")
    # Alone it is told of, too; and no other recipient is guessed from the fields.
    alone = bring(stand, recipient)
    assert [one[:2] for one in told(alone)] == [(meant, "refused")]


def test_what_only_the_suffix_makes_too_long_is_judged(stand: Stand) -> None:
    domain = ".".join(["d" * 60] * 4)
    account = bring(stand, f"<bob@{domain}.rehearsal.invalid>".encode())
    assert outcomes(account) == [(f"bob@{domain}", "taken", "taken")]


@pytest.mark.parametrize("hello", ["a b", "??", "", "m\u00fcx", "x" * 400])
def test_the_other_gateway_may_greet_as_it_likes(stand: Stand, hello: str) -> None:
    assert outcomes(bring(stand, b"<bob@box.test>", hello=hello)) == [("bob@box.test", "taken", "taken")]


def test_a_greeting_that_ends_a_session_of_ours(stand: Stand) -> None:
    peer = stand.connect(XCLIENT)
    stand.say(peer, "XCLIENT NAME=y.test ADDR=198.51.100.8")
    assert stand.say(peer, "EHLO two words").startswith("250")
    stand.copy("bob@box.test", peer=peer)
    account = stand.only()
    assert account.helo == "two words"
    assert told(account) == [("bob@box.test", "refused", "mailgate", "501 5.5.2 That is no domain name")]


@pytest.mark.parametrize(
    ("field", "reply"),
    [
        (b"X-A: \0\r\n", "550 5.6.0 NUL octets are not allowed"),
        (b"X-A: \r\r\n", "550 5.5.2 Lines must end with CR LF"),
        (b"X-A: " + b"b" * 2000 + b"\r\n", "550 5.6.0 A line is longer than 998 octets"),
    ],
)
def test_content_that_no_session_takes_is_told(stand: Stand, field: bytes, reply: str) -> None:
    account = bring(stand, b"<bob@box.test>", b"<cy@box.test>", content=field + CONTENT)
    assert [one[:3] for one in told(account)] == [
        ("bob@box.test", "refused", "mailgate"),
        ("cy@box.test", "refused", "mailgate"),
    ]
    assert all(one[3].startswith(reply) for one in told(account))
    assert {type(one).__name__ for one in stand.gateway.events} <= {"SessionClosed"}
    assert list((stand.file.parent / "state" / "incoming").iterdir()) == []


def test_chunks_are_not_offered_for_copies(stand: Stand) -> None:
    peer = stand.gateway.connect(OLD)
    peer.send(b"EHLO old\r\n")
    offered = " ".join(peer.said())
    assert "PIPELINING" in offered
    assert "CHUNKING" not in offered
    assert "BINARYMIME" not in offered


def test_a_size_past_all_measure_is_no_reason_to_return_a_copy(stand: Stand) -> None:
    account = bring(stand, b"<bob@box.test>", mail=b"<ann@far.test> SIZE=99999999999")
    assert outcomes(account) == [("bob@box.test", "taken", "taken")]


def test_what_users_owe_is_not_asked_of_copies(tmp_path: Path) -> None:
    users = 'role = "outbound"\nauth = "users"\nauth_without_tls = true\n'
    text = CONFIG.replace('role = "hybrid"\n', users).replace(
        "[rehearsal]", '[auth.users]\nkind = "file"\npath = "users"\n\n[rehearsal]'
    )
    (tmp_path / "users").write_text("")
    (tmp_path / "users").chmod(0o600)
    stand = Stand(tmp_path, text)
    assert len(bring(stand, b"<bob@box.test>").pairs) == 1


def test_a_copy_in_clear_text_waits_where_tls_is_required(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conversation, "needs_tls", True)
    peer = stand.gateway.connect(OLD)
    assert raw(stand, peer, b"EHLO old").startswith("250")
    # For now only: its sender is not to hear of it.
    assert raw(stand, peer, b"MAIL FROM:<ann@far.test>") == "454 4.7.0 Copies come under TLS only here"


def test_other_listeners_refuse_as_ever(tmp_path: Path) -> None:
    real = '[[listeners]]\nname = "mx"\nendpoints = ["tcp:2526"]\npipeline = "inbound"\n\n[rehearsal]'
    stand = Stand(tmp_path, CONFIG.replace("[rehearsal]", real))
    peer = stand.gateway.connect("203.0.113.9", "mx")
    peer.said()
    assert raw(stand, peer, b"EHLO a b").startswith("501")
    assert raw(stand, peer, b"EHLO far.test").startswith("250")
    assert raw(stand, peer, b"MAIL FROM:<a..b@far.test>").startswith("501")
    assert raw(stand, peer, b"MAIL FROM:<\xfc@far.test>").startswith("500")
    assert raw(stand, peer, b"MAIL FROM:<ann@far.test>").startswith("250")
    assert raw(stand, peer, b"RCPT TO:<a..b@box.test>").startswith("501")
    assert raw(stand, peer, b"RCPT TO:<" + b"y" * 3000).startswith("500")
    assert raw(stand, peer, b"DATA").startswith("554")


def test_errors_of_the_dialogue_are_still_errors(stand: Stand) -> None:
    peer = stand.gateway.connect(OLD)
    peer.said()
    assert raw(stand, peer, b"RCPT TO:<\xfc@box.test>").startswith("503")
    assert raw(stand, peer, b"\xfc").startswith("500")
    assert raw(stand, peer, b"MAIL FROM:<\xfc@box.test>").startswith("503")


def test_a_copy_may_go_on_far_behind_a_fault(stand: Stand) -> None:
    peer = stand.gateway.connect(OLD)
    for line in (b"EHLO old", b"MAIL FROM:<ann@far.test>", b"RCPT TO:<bob@box.test>", b"DATA"):
        raw(stand, peer, line)
    peer.send(b"Subject: x\r\n\r\n" + b"y" * 1500 + b"\r\n")
    for _ in range(SLACK // 1024**2 + 2):
        peer.send((b"z" * 1022 + b"\r\n") * 1024)
    peer.send(b".\r\n")
    assert peer.said()[-1] == "250 2.0.0 Copy judged"
