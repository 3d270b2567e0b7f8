"""Header fields: Received as RFC 5321 section 4.4 has it, edits in their order, and loops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from email import message_from_bytes
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.envelope import Client, Identity, MailParameters, Session, Tls, Transaction
from mailgate.filters.headers import Headers, Options, build
from mailgate.message import AddHeader, Content, Edit, Message, RemoveHeader, rendered
from mailgate.plugins import builtin
from mailgate.testing import FilterContract, Occasion, message, recipient, services, session, transaction
from mailgate.verdict import Reject

NOW = 1_800_000_000


def made(**options: object) -> Headers:
    clock = Clock()
    clock.advance(NOW)
    built = build(Options.model_validate(options), services(clock=clock))
    assert isinstance(built, Headers)
    return built


def received(sess: Session | None = None, trans: Transaction | None = None, built: Headers | None = None) -> str:
    (edit,) = (built or made()).modify(sess or session(), trans or transaction(), message())
    assert isinstance(edit, AddHeader)
    assert edit.name == "Received"
    return edit.value


def changed(text: bytes, built: Headers, before: Iterable[Edit] = ()) -> list[tuple[str, str]]:
    """Names and values of the header fields as they are sent on; the Received field without its value."""
    content = Content(text)
    trans = transaction(edits=list(before))
    edits = [*trans.edits, *built.modify(session(), trans, Message(content))]
    fields = message_from_bytes(b"".join(rendered(content, edits))).items()
    assert fields[0][0] == "Received"
    return fields[1:]


def test_received_says_who_to_whom_how_and_when() -> None:
    assert received().rpartition("\t")[0] == (
        "from client.example (client.example [192.0.2.1])\r\n"
        "\tby mx.example.org (mailgate) with ESMTP id 01TESTMESSAGE000\r\n"
        "\tfor <bob@example.org>;\r\n"
    )
    date = parsedate_to_datetime(received().rpartition("\t")[2])
    assert date.timestamp() == NOW


def test_received_is_about_who_has_brought_the_message_and_not_whom_that_has_named() -> None:
    tls = Tls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384")
    carrier = session("192.0.2.25", helo="mx.example.org", protocol="ESMTPS", tls=tls)
    value = received(session("203.0.113.9", helo="far.test", protocol="SMTP", carrier=carrier))
    assert value.startswith("from mx.example.org (client.example [192.0.2.25])\r\n\t(using TLSv1.3 with cipher TLS_AES")
    assert " with ESMTPS id " in value
    assert "far.test" not in value


def test_received_tells_of_tls_and_of_internationalized_mail() -> None:
    sess = session(protocol="ESMTPSA", tls=Tls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384"))
    value = received(sess, transaction(parameters=MailParameters(smtputf8=True)))
    assert (
        "\r\n\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n\tby mx.example.org (mailgate) with UTF8SMTPSA id "
    ) in value


@pytest.mark.parametrize(("protocol", "utf8"), [("ESMTP", "UTF8SMTP"), ("LMTPS", "UTF8LMTPS")])
def test_the_words_of_rfc_6531(protocol: str, utf8: str) -> None:
    asked = transaction(parameters=MailParameters(smtputf8=True))
    assert f" with {utf8} id" in received(session(protocol=protocol), asked)


def test_several_recipients_do_not_learn_of_one_another() -> None:
    assert "for" not in received(trans=transaction(recipients=["bob@example.org", "eve@example.org"]))


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (session("2001:db8::1").client, "(client.example [IPv6:2001:db8::1])"),
        (session("fe80::1%eth0").client, "(client.example [IPv6:fe80::1])"),
        (Client(session("192.0.2.7").client.address), "(unknown [192.0.2.7])"),
        (Client(session("192.0.2.7").client.address, 0, "a\r\nX: y"), "(unknown [192.0.2.7])"),
        (Client(None), "(local)"),
    ],
)
def test_the_client(client: Client, expected: str) -> None:
    assert received(session(client)).startswith(f"from client.example {expected}\r\n")


@pytest.mark.parametrize("helo", ["a\r\nX-Evil: 1", "a\n", "", "a b", "(a)", "a\0", "x" * 256, "ä.example"])
def test_a_greeting_cannot_write_into_the_header(helo: str) -> None:
    assert received(session(helo=helo)).startswith("from invalid (client.example ")


@pytest.mark.parametrize("helo", ["[192.0.2.1]", "[IPv6:2001:db8::1]", "host_1.example"])
def test_greetings_of_the_usual_forms_stand_as_they_are(helo: str) -> None:
    assert received(session(helo=helo)).startswith(f"from {helo} (")


@given(st.text(), st.text(), st.text(min_size=1))
def test_whatever_a_peer_says_it_is_one_field(helo: str, name: str, local_part: str) -> None:
    sess = session(Client(session().client.address, 0, name), helo=helo)
    trans = transaction(recipients=[recipient(Address(local_part, "example.org"))])
    text = b"".join(rendered(Content(b"Subject: x\r\n\r\n"), made().modify(sess, trans, message())))
    assert message_from_bytes(text).keys() == ["Received", "Subject"]
    assert max(map(len, text.split(b"\r\n"))) < 998


def test_a_recipient_that_is_not_ascii_is_not_named() -> None:
    assert "for" not in received(trans=transaction(recipients=["bücher@example.org"]))


def test_the_date_moves_on() -> None:
    clock = Clock()
    built = build(Options(), services(clock=clock))
    assert isinstance(built, Headers)
    dates = []
    for step in (0, 0.5, 0.5, 86400):
        clock.advance(step)
        dates.append(parsedate_to_datetime(received(built=built).rpartition("\t")[2]).timestamp())
    assert dates == [0, 0, 1, 86401]


MAIL = (
    b"X-Spam-Flag: no\r\nSubject: Hi\r\nx-ms-exchange-organization-SCL: -1\r\n"
    b"X-MS-Has-Attach:\r\nx-spam-flag: 2\r\n\r\nx\r\n"
)


def test_strip_by_name_and_by_beginning_whatever_the_case() -> None:
    built = made(strip=["X-MS-Exchange-Organization-*", "X-SPAM-FLAG", "X-Not-There", "Sub"])
    assert changed(MAIL, built) == [("Subject", "Hi"), ("X-MS-Has-Attach", "")]


def test_rename_keeps_place_and_value() -> None:
    built = made(rename={"x-spam-flag": "X-Foreign-Spam-Flag", "X-Not-There": "X-Neither"})
    assert [name for name, _ in changed(MAIL, built)] == [
        *("X-Foreign-Spam-Flag", "Subject", "x-ms-exchange-organization-SCL", "X-MS-Has-Attach", "X-Foreign-Spam-Flag")
    ]


def test_add_below_received_in_the_given_order() -> None:
    built = made(add={"X-Gateway": "mx1", "X-Site": "north"})
    assert changed(b"Subject: Hi\r\n\r\n", built) == [("X-Gateway", "mx1"), ("X-Site", "north"), ("Subject", "Hi")]


def test_what_is_added_is_not_stripped() -> None:
    built = made(add={"X-Spam-Flag": "ours"}, strip=["X-*"], rename={"X-Spam-Flag": "X-Other"})
    assert changed(MAIL, built) == [("X-Spam-Flag", "ours"), ("Subject", "Hi")]


def test_missing_fields_are_added_and_others_left_alone() -> None:
    built = made(add_missing=["Date", "Message-ID"])
    fields = dict(changed(b"Subject: Hi\r\n\r\n", built))
    assert fields["Message-ID"] == "<01TESTMESSAGE000@mx.example.org>"
    assert parsedate_to_datetime(fields["Date"]).timestamp() == NOW
    complete = b"DATE: today\r\nmessage-id: <1@x>\r\n\r\n"
    assert changed(complete, built) == [("DATE", "today"), ("message-id", "<1@x>")]


def test_a_field_that_is_stripped_is_missing() -> None:
    built = made(strip=["Message-Id"], add_missing=["Message-ID"])
    assert changed(b"Message-ID: <bad@x>\r\n\r\n", built) == [("Message-ID", "<01TESTMESSAGE000@mx.example.org>")]


@pytest.mark.parametrize("options", [{"strip": ["X-Spam-*"]}, {"rename": {"X-Spam-Flag": "X-Theirs"}}])
@pytest.mark.parametrize("value", ["no", "yes"])
def test_a_sender_cannot_have_our_verdict_stripped(options: dict[str, Any], value: str) -> None:
    mail = b"X-Spam-Flag: " + value.encode() + b"\r\nSubject: Hi\r\n\r\n"
    fields = changed(mail, made(**options), [AddHeader("X-Spam-Flag", "yes")])
    assert [one for name, one in fields if name == "X-Spam-Flag"] == ["yes"]


def test_what_a_filter_before_took_back_does_not_return() -> None:
    before: list[Edit] = [AddHeader("X-Spam-Flag", "yes"), RemoveHeader("X-Spam-Flag")]
    assert changed(MAIL, made(strip=["X-*"]), before) == [("Subject", "Hi")]


def test_without_options_the_message_is_not_looked_into() -> None:
    unread = message()
    made().modify(session(), transaction(), unread)
    assert unread._fields is None  # the point of it


def looped(fields: int, line: bytes = b"Received: from a\r\n\tby received: b\r\n") -> Message:
    return message(line * fields + b"Subject: received: x\r\n\r\n" + b"Received: x\r\n" * 200)


@pytest.mark.parametrize(
    "line", [b"Received: x\r\n", b"RECEIVED:x\r\n", b"received \t: x\r\n", b"Received: received\r\n"]
)
def test_a_loop_is_refused(line: bytes) -> None:
    built = made()
    assert built.on_message(session(), transaction(), looped(100, line)) is None
    verdict = built.on_message(session(), transaction(), looped(101, line))
    assert isinstance(verdict, Reject)
    assert (verdict.reply.code, verdict.reply.status) == (554, "5.4.6")
    assert verdict.reason == "101 Received fields, more than 100"


@pytest.mark.parametrize("line", [b"X-Received: x\r\n", b"X: a\r\n received: b\r\n", b"Received-SPF: pass\r\n"])
def test_what_only_looks_like_received_does_not_count(line: bytes) -> None:
    assert made(max_received=10).on_message(session(), transaction(), looped(50, line)) is None


@pytest.mark.parametrize("text", [b"", b"\r\n", b"no header at all", b"Received: x"])
def test_odd_messages_get_their_received_field(text: bytes) -> None:
    built = made(strip=["X-*"], add_missing=["Date"])
    assert built.on_message(session(), transaction(), message(text)) is None
    assert changed(text, built)[0][0] == "Date"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"strip": ["X Y"]}, "no name of a header field"),
        ({"strip": ["*"]}, "no name of a header field"),
        ({"strip": ["X-*-Y"]}, "no name of a header field"),
        ({"rename": {"X-A": "X-B:"}}, "no name of a header field"),
        ({"add": {"X\r\nY": "1"}}, "no name of a header field"),
        ({"add_missing": ["From"]}, "add_missing"),
        ({"max_received": 5}, "max_received"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Options.model_validate(options)


def test_a_value_that_is_two_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="not one header field"):
        made(add={"X-A": "1\r\nX-B: 2"})


class TestContract(FilterContract):
    factory = builtin.headers

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(message=looped(101))]


class TestContractWithOptions(FilterContract):
    factory = builtin.headers
    settings: Mapping[str, object] = {
        "strip": ["X-*"],
        "rename": {"Subject": "X-Subject"},
        "add": {"X-Gateway": "mx1"},
        "add_missing": ["Date", "Message-ID"],
    }


def test_where_users_are_stays_untold_where_that_is_asked_for() -> None:
    user = session(identity=Identity("ann", "PLAIN"), protocol="ESMTPA")
    assert "192.0.2.1" in received(user)
    told = received(user, built=made(hide_users=True))
    assert told.startswith("from submission\r\n\tby mx.example.org (mailgate) with ESMTPA id ")
    assert received(built=made(hide_users=True)) == received()
