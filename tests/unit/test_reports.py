"""Reports are read back with Python's own parser: what a program finds in them, and that nothing breaks them."""

from __future__ import annotations

import email
import email.policy
import quopri
import re
from collections.abc import Sequence
from email.message import Message
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import PLAIN_MAIL, Envelope, EnvelopeRecipient, MailParameters
from mailgate.interfaces import Handover, Outcome, OutcomeKind
from mailgate.message import Content
from mailgate.relay.reports.compose import compose_report
from mailgate.relay.reports.fields import Action, status_of
from mailgate.reply import Reply
from mailgate.wire.content import stuff

ORIGINAL = b"From: Ann <ann@client.test>\r\nSubject: three\r\nMessage-ID: <three@client.test>\r\n\r\nsecret body\r\n"
HOST = "mx1.example.org[192.0.2.1]:25"
ARRIVED, NOW = 1_700_000_000.0, 1_700_432_000.0


ANN = Address("ann", "client.test")


def envelope(*addresses: Address, sender: Address = ANN, orcpt: str = "", **parameters: Any) -> Envelope:
    recipients = tuple(EnvelopeRecipient(number, one, "mx", orcpt=orcpt) for number, one in enumerate(addresses))
    return Envelope(
        queue_id="0QOLD",
        sender=sender,
        recipients=recipients,
        received=ARRIVED,
        size=5,
        parameters=MailParameters(**parameters),
    )


def failures(one: Envelope, *replies: Reply, host: str = HOST) -> list[Outcome]:
    return [
        Outcome(recipient, OutcomeKind.FAILED, reply, host)
        for recipient, reply in zip(one.recipients, replies, strict=True)
    ]


def report(
    one: Envelope, outcomes: Sequence[Outcome], original: bytes | Content = ORIGINAL, until: float = 0.0
) -> tuple[Envelope, bytes]:
    content = original if isinstance(original, Content) else Content(original)
    made = compose_report(
        one, outcomes, content, hostname="gw.example", now=NOW, queue_id="0QNEW", route="back", retry_until=until
    )
    assert made is not None
    raw = made[1].read()
    assert made[0].size == len(raw)
    assert made[0].parameters.body == ("7BIT" if raw.isascii() else "8BITMIME")
    assert made[0].parameters.smtputf8 != one.sender.is_ascii
    header, _, body = raw.partition(b"\r\n\r\n")
    assert header.isascii() == one.sender.is_ascii
    assert (b"Content-Transfer-Encoding: 8bit" in header) != body.isascii()
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
    assert (made.queue_id, made.sender, made.received) == ("0QNEW", NULL_PATH, NOW)
    assert made.parameters == PLAIN_MAIL
    # Of a report nobody is to be told.
    assert made.recipients == (EnvelopeRecipient(0, ANN, "back", notify=("NEVER",)),)
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert message["To"] == "ann@client.test"
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@gw.example>"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Message-ID"] == "<0QNEW@gw.example>"
    assert message["In-Reply-To"] == message["References"] == "<three@client.test>"
    assert message["Date"].datetime.timestamp() == NOW
    assert message["MIME-Version"] == "1.0"


def test_what_an_application_has_said_is_no_reply_of_a_mail_server() -> None:
    one = envelope(BOB)
    reply = Reply.of(554, "5.6.0", "HTTP 422 Unprocessable Entity: closed since May")
    host = "app.test[192.0.2.9]:443"
    failed = [Outcome(one.recipients[0], OutcomeKind.FAILED, reply, host, answered_in="http")]
    text, (_, bob), _header = parts(report(one, failed)[1])
    assert (bob["Status"], bob["Remote-MTA"]) == ("5.6.0", "x-http; app.test")
    assert bob["Diagnostic-Code"] == "x-http; HTTP 422 Unprocessable Entity: closed since May"
    assert "said: HTTP 422 Unprocessable Entity: closed since May" in " ".join(text.split())


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
    one = envelope(*addresses, Address('a b"c', "example.org"), Address("jürgen+x", "xn--bcher-kva.example"))
    text, groups, _header = parts(report(one, failures(one, *[NO_SUCH_USER] * 200))[1])
    assert len(groups) == 201
    assert "and to 150 more" in text
    assert groups[199]["Final-Recipient"] == r'rfc822; "a b\"c"@example.org'
    assert groups[200]["Final-Recipient"] == r"utf-8; j\x{FC}rgen\x{2B}x@xn--bcher-kva.example"


def test_a_unix_socket_is_no_dns_name() -> None:
    one = envelope(BOB)
    groups = parts(report(one, failures(one, NO_SUCH_USER, host="/run/lmtp"))[1])[1]
    assert groups[1]["Remote-MTA"] == "x-unix; /run/lmtp"


# -- what was asked


def outcome(one: Envelope, number: int, action: Action, reply: Reply, host: str = HOST) -> Outcome:
    kinds = {Action.FAILED: OutcomeKind.FAILED, Action.DELAYED: OutcomeKind.DEFERRED}
    handover = Handover.RELAYED if action is Action.RELAYED else Handover.FINAL
    kind = kinds.get(action, OutcomeKind.DELIVERED)
    return Outcome(one.recipients[number], kind, reply, host, handover=handover)


TAKEN = Reply(250, "2.1.5", ("Ok",))


@pytest.mark.parametrize(
    ("action", "reply", "status", "subject", "words"),
    [
        (Action.DELIVERED, TAKEN, "2.1.5", "Your message was delivered", "was delivered to:"),
        (Action.DELIVERED, Reply(250, "", ("Ok",)), "2.0.0", "Your message was delivered", "you have asked for it"),
        (Action.RELAYED, TAKEN, "2.1.5", "Your message was passed on", "may not confirm that it has delivered it"),
        (Action.DELAYED, UNREACHABLE, "4.4.1", "Your message is delayed", "You need not send it again."),
        (Action.DELAYED, Reply(450, "", ("x",)), "4.2.0", "Your message is delayed", "has not been delivered yet to:"),
        (Action.DELAYED, NO_SUCH_USER, "4.0.0", "Your message is delayed", "the last answer: mx1.example.org"),
    ],
)
def test_each_kind_of_news(action: Action, reply: Reply, status: str, subject: str, words: str) -> None:
    one = envelope(BOB)
    raw = report(one, [outcome(one, 0, action, reply)], until=NOW + 86400)[1]
    text, groups, header = parts(raw)
    assert email.message_from_bytes(raw, policy=email.policy.default)["Subject"] == subject
    assert (groups[1]["Action"], groups[1]["Status"]) == (action.value, status)
    assert groups[1]["Remote-MTA"] == "dns; mx1.example.org"
    plain = " ".join(text.split())
    assert words in plain
    assert "<bob@example.org>" in plain
    assert "No more attempts" not in plain
    is_late = action is Action.DELAYED
    assert (groups[1]["Will-Retry-Until"] == "Mon, 20 Nov 2023 22:13:20 +0000") == is_late
    assert ("Delivery will be tried until Mon, 20 Nov 2023 22:13:20 +0000." in plain) == is_late
    assert header.startswith("From: Ann")


def test_news_of_several_kinds_the_worst_first() -> None:
    people = [Address(f"user{number}", "example.org") for number in range(4)]
    one = envelope(*people)
    news = [
        outcome(one, 0, Action.DELIVERED, TAKEN),
        outcome(one, 1, Action.RELAYED, TAKEN),
        outcome(one, 2, Action.DELAYED, UNREACHABLE),
        outcome(one, 3, Action.FAILED, NO_SUCH_USER),
    ]
    raw = report(one, news)[1]
    text, groups, _header = parts(raw)
    assert (
        email.message_from_bytes(raw, policy=email.policy.default)["Subject"] == "Your message could not be delivered"
    )
    assert [group["Action"] for group in groups[1:]] == ["delivered", "relayed", "delayed", "failed"]
    assert sorted(range(4), key=lambda number: text.index(f"user{number}@")) == [3, 2, 1, 0]
    assert "Will-Retry-Until" not in groups[3]


def test_what_the_sender_called_it_is_said_again() -> None:
    one = envelope(BOB, orcpt="rfc822;Bob+2BLists@Example.org", envid="QQ+2B314+20159+0D+0AX:+20y", deliver_by=NOW)
    about, bob = parts(report(one, failures(one, NO_SUCH_USER))[1])[1]
    assert about["Original-Envelope-Id"] == "QQ+314 159??X: y"
    assert about["Deliver-By-Date"] == "Sun, 19 Nov 2023 22:13:20 +0000"
    assert bob["Original-Recipient"] == "rfc822; Bob+Lists@Example.org"
    assert bob["Final-Recipient"] == "rfc822; bob@example.org"


@pytest.mark.parametrize(
    ("orcpt", "ascii_form", "utf8_form"),
    [
        (r"utf-8;j\x{FC}rgen\x{2B}x@d.test", r"utf-8; j\x{FC}rgen\x{2B}x@d.test", "utf-8; jürgen+x@d.test"),
        ("UTF-8;jürgen@d.test", r"utf-8; j\x{FC}rgen@d.test", "utf-8; jürgen@d.test"),
        (r"utf-8;a\x{0D}\x{0A}X:\x{D800}\x{110000}", r"utf-8; a??X:?\x{5C}x{110000}", r"utf-8; a??X:?\x{110000}"),
        ("rfc822;a+0D+0AX:+20y", "rfc822; a??X: y", "rfc822; a??X: y"),
        ("x400;no+xtext", "x400; no+xtext", "x400; no+xtext"),
        ("rfc822;" + "a" * 5000, None, None),
    ],
)
def test_whom_it_was_sent_to_first(orcpt: str, ascii_form: str | None, utf8_form: str | None) -> None:
    one = envelope(BOB, orcpt=orcpt)
    assert parts(report(one, failures(one, NO_SUCH_USER))[1])[1][1]["Original-Recipient"] == ascii_form
    one = envelope(BOB, orcpt=orcpt, sender=JUERGEN)
    _text, status, _third = utf8_parts(report(one, failures(one, NO_SUCH_USER))[1])
    assert (f"\r\nOriginal-Recipient: {utf8_form}\r\n" in status) == (utf8_form is not None)


NO_TIME = Reply.of(554, "5.4.7", "It cannot be delivered in the time that was set")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"by_mode": "R", "deliver_by": NOW + 600}, "Please send it again without such a time."),
        ({"by_mode": "R", "deliver_by": NOW + 0.5}, "The time in which it was to be delivered is over."),
        ({"by_mode": "R", "deliver_by": NOW - 5}, "The time in which it was to be delivered is over."),
        ({}, "The time in which it was to be delivered is over."),
    ],
)
def test_what_to_do_depends_on_whether_the_time_is_over(asked: dict[str, Any], words: str) -> None:
    one = envelope(BOB, **asked)
    text = " ".join(parts(report(one, failures(one, NO_TIME))[1])[0].split())
    assert words in text
    assert ("is over" in text) == ("is over" in words)


@pytest.mark.parametrize(("code", "asked"), [("5.7.10", True), ("5.7.30", True), ("5.7.30", False), ("5.7.1", True)])
def test_who_asked_for_tls_all_the_way_is_reminded_of_it(code: str, asked: bool) -> None:
    one = envelope(BOB, require_tls=asked)
    text = " ".join(parts(report(one, failures(one, Reply.of(550, code, "no")))[1])[0].split())
    assert ("You have asked that it travels by verified TLS only" in text) == (asked and code != "5.7.1")
    assert ("has a rule against this message" in text) != (asked and code != "5.7.1")


# -- what is returned


def third(raw: bytes) -> Message:
    message = email.message_from_bytes(raw, policy=email.policy.default)
    (_text, _status, found) = cast("list[Message]", message.get_payload())
    return found


def wanted(one: Envelope, original: bytes | Content = ORIGINAL, action: Action = Action.FAILED) -> Message:
    reply = NO_SUCH_USER if action is Action.FAILED else UNREACHABLE if action is Action.DELAYED else TAKEN
    return third(report(one, [outcome(one, 0, action, reply)], original)[1])


def test_a_message_is_returned_whole_where_that_was_asked() -> None:
    one = envelope(BOB, ret="FULL")
    found = wanted(one)
    assert found.get_content_type() == "message/rfc822"
    (inner,) = cast("list[Message]", found.get_payload())
    assert (inner["Subject"], inner.get_payload()) == ("three", "secret body\r\n")
    assert b"Your message is attached." in report(one, failures(one, NO_SUCH_USER))[1]


@pytest.mark.parametrize("action", [Action.DELIVERED, Action.RELAYED, Action.DELAYED])
def test_only_failures_return_messages(action: Action) -> None:
    """RFC 3461 section 4.3: the sender has the message, and loses nothing."""
    assert wanted(envelope(BOB, ret="FULL"), action=action).get_content_type() == "text/rfc822-headers"


@pytest.mark.parametrize(
    "original",
    [
        b"Subject: x\r\n\r\na\0b\r\n",
        b"Subject: x\r\n\r\na\nb\r\n",
        b"Subject: x\r\n\r\na\rb\r\n",
        b"Subject: x\r\n\r\n\n",
        b"Subject: x\r\n\r\n" + b"z" * 999 + b"\r\n",
        b"Subject: \xff\r\n\r\nx\r\n",
        b"Subject: x\r\n\r\n" + b"0123456789abcdef\r\n" * 60_000,
    ],
    ids=["NUL", "bare LF", "bare CR", "LF alone", "long line", "header of no charset", "more than a MiB"],
)
def test_what_cannot_be_returned_whole_is_told_by_its_header(original: bytes) -> None:
    found = wanted(envelope(BOB, ret="FULL", body="BINARYMIME"), original)
    assert found.get_content_type() == "text/rfc822-headers"


def test_what_was_to_go_by_tls_only_comes_back_by_tls_and_not_whole() -> None:
    one = envelope(BOB, ret="FULL", require_tls=True, priority=5)
    made, raw = report(one, failures(one, NO_SUCH_USER))
    assert (made.parameters.require_tls, made.parameters.priority) == (True, 5)
    assert third(raw).get_content_type() == "text/rfc822-headers"
    assert b"secret" not in raw


def test_content_that_cannot_be_read_is_not_returned(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(ORIGINAL)
    content = Content.in_file(path)
    content.discard()
    assert wanted(envelope(BOB, ret="FULL"), content).get_content_type() == "text/rfc822-headers"


def test_8_bit_text_comes_back_as_it_was() -> None:
    original = "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGrüße, no line end".encode()
    one = envelope(BOB, ret="FULL", body="8BITMIME")
    made, raw = report(one, failures(one, NO_SUCH_USER), original)
    assert (made.parameters.body, made.parameters.smtputf8) == ("8BITMIME", False)
    found = third(raw)
    assert (found.get_content_type(), found["Content-Transfer-Encoding"]) == ("message/rfc822", "8bit")
    assert original + b"\r\n" in raw


def test_a_utf8_header_comes_back_whole_by_any_way() -> None:
    original = "Subject: Grüße\r\n\r\nGrüße\r\n".encode()
    one = envelope(BOB, ret="FULL", smtputf8=True)
    made, raw = report(one, failures(one, NO_SUCH_USER), original)
    assert made.parameters == PLAIN_MAIL
    found = third(raw)
    assert (found.get_content_type(), found["Content-Transfer-Encoding"]) == ("message/global", "quoted-printable")
    (inner,) = cast("list[Message]", found.get_payload())
    assert quopri.decodestring(inner.as_bytes(policy=email.policy.SMTP)).strip() == original.strip()


# -- to a sender whose address is not ASCII


JUERGEN = Address("jürgen", "xn--bcher-kva.example")


def utf8_parts(raw: bytes) -> tuple[bytes, str, bytes]:
    """Each part as it stands, header and all."""
    (boundary,) = re.findall(rb'boundary="(.*)"', raw)
    _header, text, status, rest, _end = re.split(rb"--" + re.escape(boundary) + rb"(?:--)?\r\n", raw)
    return text, status.decode(), rest


def test_a_sender_with_an_address_in_utf8_reads_addresses_as_they_are_written() -> None:
    one = envelope(JUERGEN, sender=JUERGEN)
    made, raw = report(one, failures(one, NO_SUCH_USER), "Subject: Grüße\r\n\r\nx\r\n".encode())
    assert (made.parameters.smtputf8, made.parameters.body) == (True, "8BITMIME")
    assert str(made.recipients[0].address) == "jürgen@xn--bcher-kva.example"
    text, status, rest = utf8_parts(raw)
    assert text.isascii()
    assert status.startswith("Content-Type: message/global-delivery-status\r\n")
    assert "Content-Transfer-Encoding: 8bit" in status
    assert "\r\nFinal-Recipient: utf-8; jürgen@xn--bcher-kva.example\r\nAction: failed\r\n" in status
    assert rest.startswith(b"Content-Type: message/global-headers\r\n")
    assert rest.endswith("\r\n\r\nSubject: Grüße\r\n\r\n".encode())


def test_a_whole_message_in_utf8_to_such_a_sender() -> None:
    original = "Subject: Grüße\r\n\r\nGrüße\r\n".encode()
    one = envelope(BOB, sender=JUERGEN, ret="FULL", smtputf8=True)
    rest = utf8_parts(report(one, failures(one, NO_SUCH_USER), original)[1])[2]
    assert rest.startswith(b"Content-Type: message/global\r\n")
    assert b"Content-Transfer-Encoding: 8bit" in rest
    assert rest.endswith(b"\r\n\r\n" + original + b"\r\n")


def test_a_header_that_is_no_utf8_is_encoded_for_such_a_sender_too() -> None:
    one = envelope(BOB, sender=JUERGEN)
    rest = utf8_parts(report(one, failures(one, NO_SUCH_USER), b"Subject: \xff\xc3\xbc\r\n\r\nx\r\n")[1])[2]
    assert rest.startswith(b"Content-Type: text/rfc822-headers; charset=utf-8\r\n")
    assert b"Subject: =FF=C3=BC" in rest


@given(
    st.binary(max_size=300),
    st.text(max_size=200),
    st.sampled_from([250, 450, 550, 554]),
    st.sampled_from(["", "FULL"]),
    st.sampled_from([ANN, Address("jürgen", "d.test")]),
    st.text(max_size=50),
)
def test_nothing_breaks_a_report(header: bytes, text: str, code: int, ret: str, sender: Address, orcpt: str) -> None:
    one = envelope(BOB, ret=ret, sender=sender, orcpt=orcpt, envid=orcpt)
    kind = {2: Action.DELIVERED, 4: Action.DELAYED, 5: Action.FAILED}[code // 100]
    news = [outcome(one, 0, kind, Reply(code, "", (text,)))]
    raw = report(one, news, header + b"\r\n\r\nx\r\n")[1]
    if sender is ANN:
        message = email.message_from_bytes(raw, policy=email.policy.default)
        _text, status, _original = cast("list[Any]", message.get_payload())
        assert [group["Action"] for group in status.get_payload()] == [None, kind.value]
    else:
        assert f"\r\nAction: {kind.value}\r\n" in utf8_parts(raw)[1]
