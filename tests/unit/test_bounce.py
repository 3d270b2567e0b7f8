"""Reports are read back with Python's own parser: what a program finds in them, and that nothing breaks them."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Sequence
from email.message import Message
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import Outcome, OutcomeKind
from mailgate.message import Content
from mailgate.relay.bounce import compose_report, status_of
from mailgate.reply import Reply
from mailgate.wire.content import stuff

ORIGINAL = b"From: Ann <ann@client.test>\r\nSubject: three\r\nMessage-ID: <three@client.test>\r\n\r\nsecret body\r\n"
HOST = "mx1.example.org[192.0.2.1]:25"
ARRIVED, NOW = 1_700_000_000.0, 1_700_432_000.0


def envelope(*addresses: Address, sender: Address = Address("ann", "client.test")) -> Envelope:  # noqa: B008  frozen
    recipients = tuple(EnvelopeRecipient(number, one, "mx") for number, one in enumerate(addresses))
    return Envelope(queue_id="0QOLD", sender=sender, recipients=recipients, received=ARRIVED, size=5)


def failures(one: Envelope, *replies: Reply, host: str = HOST) -> list[Outcome]:
    return [
        Outcome(recipient, OutcomeKind.FAILED, reply, host)
        for recipient, reply in zip(one.recipients, replies, strict=True)
    ]


def report(one: Envelope, failed: Sequence[Outcome], original: bytes | Content = ORIGINAL) -> tuple[Envelope, bytes]:
    content = original if isinstance(original, Content) else Content(original)
    made = compose_report(one, failed, content, hostname="gw.example", now=NOW, queue_id="0QNEW", route="back")
    assert made is not None
    raw = made[1].read()
    assert made[0].size == len(raw)
    assert raw.isascii()
    assert b"\0" not in raw
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    stuff(raw)  # refuses a bare CR or LF
    return made[0], raw


def parts(raw: bytes) -> tuple[str, list[Message], str]:
    """The text, the groups of the delivery status, and the header of the original."""
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    text, status, header = cast("list[Any]", message.get_payload())
    assert text.get_content_type() == "text/plain"
    assert status.get_content_type() == "message/delivery-status"
    assert header.get_content_type() == "text/rfc822-headers"
    decoded = header.get_payload(decode=True).decode("utf-8", "surrogateescape")
    return text.get_content(), cast("list[Message]", status.get_payload()), decoded


BOB, CARL = Address("bob", "example.org"), Address("carl", "example.org")
NO_SUCH_USER = Reply(550, "5.1.1", ("No such user",))
UNREACHABLE = Reply(451, "4.4.1", ("The next hop cannot be reached",))


def test_the_report_goes_to_the_sender_with_a_null_sender() -> None:
    one = envelope(BOB)
    made, raw = report(one, failures(one, NO_SUCH_USER))
    assert (made.queue_id, made.sender, made.received, made.body) == ("0QNEW", NULL_PATH, NOW, "7BIT")
    assert made.recipients == (EnvelopeRecipient(0, Address("ann", "client.test"), "back"),)
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert message["To"] == "ann@client.test"
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@gw.example>"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Message-ID"] == "<0QNEW@gw.example>"
    assert message["In-Reply-To"] == message["References"] == "<three@client.test>"
    assert message["Date"].datetime.timestamp() == NOW
    assert message["MIME-Version"] == "1.0"


def test_what_programs_read() -> None:
    one = envelope(BOB, CARL)
    failed = failures(one, NO_SUCH_USER, UNREACHABLE)
    failed[1] = Outcome(one.recipients[1], OutcomeKind.FAILED, UNREACHABLE)
    _text, groups, header = parts(report(one, failed)[1])
    about, bob, carl = groups
    assert dict(about.items()) == {
        "Reporting-MTA": "dns; gw.example",
        "X-Mailgate-Queue-Id": "0QOLD",
        "Arrival-Date": "Tue, 14 Nov 2023 22:13:20 +0000",
    }
    assert dict(bob.items()) == {
        "Final-Recipient": "rfc822; bob@example.org",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx1.example.org",
        "Diagnostic-Code": "smtp; 550 5.1.1 No such user",
        "Last-Attempt-Date": "Sun, 19 Nov 2023 22:13:20 +0000",
    }
    # Nobody answered for Carl, and the time was over.
    assert (carl["Status"], carl["Remote-MTA"]) == ("4.4.7", None)
    assert carl["Diagnostic-Code"] == "x-mailgate; 451 4.4.1 The next hop cannot be reached"
    assert header == ORIGINAL.partition(b"\r\n\r\n")[0].decode() + "\r\n"


def test_what_people_read() -> None:
    one = envelope(BOB, CARL)
    text, _groups, _header = parts(report(one, failures(one, NO_SUCH_USER, UNREACHABLE))[1])
    assert "This is the mail system at gw.example." in text
    assert "<bob@example.org>" in text
    assert f"{HOST} said: 550 5.1.1 No such user" in text
    assert "Please check how the address is written" in text
    assert "given up after 5 days" in text
    assert "0QOLD" in text
    assert "secret body" not in text


def test_no_report_about_a_report() -> None:
    one = envelope(BOB, sender=NULL_PATH)
    failed = failures(one, NO_SUCH_USER)
    arguments: dict[str, Any] = {"hostname": "gw.example", "now": NOW, "queue_id": "0QNEW", "route": "back"}
    assert compose_report(one, failed, Content(ORIGINAL), **arguments) is None
    assert compose_report(envelope(BOB), [], Content(ORIGINAL), **arguments) is None


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(550, "5.7.1", ("x",)), "5.7.1"),
        (Reply(550, "", ("x",)), "5.0.0"),
        (Reply(554, "", ("x",)), "5.0.0"),
        (Reply(552, "", ("x",)), "5.2.2"),
        (Reply(553, "", ("x",)), "5.1.3"),
        (Reply(451, "", ("x",)), "4.0.0"),
        (Reply(452, "", ("x",)), "4.3.1"),
    ],
)
def test_a_status_for_every_reply(reply: Reply, status: str) -> None:
    assert status_of(reply) == status


@pytest.mark.parametrize(
    "message_id",
    [
        b"",
        b"<a@b>\r\nMessage-ID: <c@d>",
        b"no brackets",
        b"<a@b> <c@d>",
        b"<a@\r\n b>",
        b"<" + b"x" * 300 + b"@b>",
        b"<\xff@b>",
    ],
)
def test_a_message_id_that_is_none_is_not_referred_to(message_id: bytes) -> None:
    one = envelope(BOB)
    raw = report(one, failures(one, NO_SUCH_USER), b"Message-ID: " + message_id + b"\r\n\r\nx\r\n")[1]
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert message["In-Reply-To"] is None
    assert message["References"] is None


HOSTILE = "x\r\n.\r\nBcc: all@example.org\r\n\r\n--=_0QNEW--\u2028\x85\x0b\x00" + "y" * 3000


def test_a_hostile_reply_stays_one_field() -> None:
    one = envelope(BOB, CARL)
    failed = failures(one, Reply(550, "", (HOSTILE,)), Reply(550, "", ("é" * 50,)), host="mx\r\nX: y[192.0.2.1]:25")
    text, groups, _header = parts(report(one, failed)[1])
    assert len(groups) == 3
    for group in groups[1:]:
        assert group["Action"] == "failed"
        assert set(group.keys()) <= {
            *("Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date")
        }
    assert groups[1]["Diagnostic-Code"].startswith("smtp; 550 x")
    assert "é" in text


def test_an_original_that_has_the_boundary_in_it() -> None:
    one = envelope(BOB)
    original = b"X-Odd: a\r\n--=_0QNEW--\r\n--=_0QNEW\r\nSubject: last\r\n\r\nx\r\n"
    _text, groups, header = parts(report(one, failures(one, NO_SUCH_USER), original)[1])
    assert len(groups) == 2
    assert header.endswith("Subject: last\r\n")


def test_an_original_with_octets_of_any_kind() -> None:
    one = envelope(BOB)
    original = b"Subject: Gr\xc3\xbc\xc3\x9fe \xff\0\r\nX-Bare: a\nb\rc\r\nX-Long: " + b"z" * 5000 + b"\r\n\r\nx\r\n"
    _text, _groups, header = parts(report(one, failures(one, NO_SUCH_USER), original)[1])
    assert "Subject: Grüße \udcff\0\r\n" in header
    assert "z" * 5000 in header


def test_a_large_header_is_cut_between_lines() -> None:
    one = envelope(BOB)
    original = b"Subject: first\r\n" + b"X-Many: 0123456789\r\n" * 10_000 + b"\r\nx\r\n"
    raw = report(one, failures(one, NO_SUCH_USER), original)[1]
    assert len(raw) < 40_000
    assert parts(raw)[2].endswith("X-Many: 0123456789\r\n")


def test_a_report_is_owed_where_the_content_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(ORIGINAL)
    content = Content.in_file(path)
    content.discard()
    one = envelope(BOB)
    assert parts(report(one, failures(one, NO_SUCH_USER), content)[1])[2] == ""


def test_many_recipients_and_odd_addresses() -> None:
    addresses = [Address(f"user{number}", "example.org") for number in range(198)]
    one = envelope(*addresses, Address('a b"c', "example.org"), Address("jürgen", "bücher.example"))
    text, groups, _header = parts(report(one, failures(one, *[NO_SUCH_USER] * 200))[1])
    assert len(groups) == 201
    assert "and to 150 more" in text
    assert groups[199]["Final-Recipient"] == r'rfc822; "a b\"c"@example.org'
    assert groups[200]["Final-Recipient"] == r"utf-8; j\x{FC}rgen@b\x{FC}cher.example"


def test_a_unix_socket_is_no_dns_name() -> None:
    one = envelope(BOB)
    groups = parts(report(one, failures(one, NO_SUCH_USER, host="/run/lmtp"))[1])[1]
    assert groups[1]["Remote-MTA"] == "x-unix; /run/lmtp"


@given(st.binary(max_size=300), st.text(max_size=200), st.sampled_from([450, 550, 554]))
def test_nothing_breaks_a_report(header: bytes, text: str, code: int) -> None:
    one = envelope(BOB)
    raw = report(one, failures(one, Reply(code, "", (text,))), header + b"\r\n\r\nx\r\n")[1]
    _text, groups, _header = parts(raw)
    assert [group["Action"] for group in groups] == [None, "failed"]
