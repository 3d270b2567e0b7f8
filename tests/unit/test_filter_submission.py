"""The filter submission: what mail of our own lacks, and what others need not know."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.envelope import Identity
from mailgate.filters.submission import Options, Submission, build
from mailgate.message import AddHeader, Content, Edit, Message, apply_edits
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction

NOW = 1_800_000_000
ANN = Identity("ann@example.org", "PLAIN")
WHOLE = "From: ann@example.org\nDate: Thu, 01 Jan 2026 12:00:00 +0000\nMessage-ID: <1@client.example>\n"
#: Options that look at nothing but what a test names.
BARE: dict[str, Any] = {"date": False, "message_id": False, "bcc": False, "remove": []}


def made(**options: Any) -> Submission:
    clock = Clock()
    clock.advance(NOW)
    built = build(Options.model_validate(options), services(clock=clock))
    assert isinstance(built, Submission)
    return built


def edited(found: Message, built: Submission, identity: Identity | None = ANN, *before: Edit) -> Message:
    mail = transaction(edits=list(before))
    edits = [*before, *built.modify(session(identity=identity), mail, found)]
    return Message(Content(apply_edits(found.content.header, edits) + b"\r\n"))


def header(text: str, identity: Identity | None = ANN, *before: Edit, **options: Any) -> list[str]:
    """The lines of the header as they are sent on."""
    result = edited(message(text + "\n\nbody\n"), made(**options), identity, *before)
    return result.content.header.decode().splitlines()


def test_what_is_whole_stays_as_it_is() -> None:
    assert header(WHOLE.strip()) == WHOLE.splitlines()


def test_what_is_missing_is_added() -> None:
    found = edited(message("From: ann@example.org\n\nbody\n"), made())
    assert found.values("Message-ID") == ["<01TESTMESSAGE000@mx.example.org>"]
    (date,) = found.values("Date")
    assert parsedate_to_datetime(date).timestamp() == NOW
    found = edited(message("From: ann@example.org\n\nbody\n"), made(message_id_domain="example.org"))
    assert found.values("Message-ID") == ["<01TESTMESSAGE000@example.org>"]


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 32 Jan 2026 12:00:00 +0000", "Thu, 01 Jan 99999999999"])
def test_a_date_that_nobody_can_read_is_replaced(date: str) -> None:
    (found,) = edited(message(f"Date: {date}\n\nbody\n"), made()).values("Date")
    assert parsedate_to_datetime(found).timestamp() == NOW


@pytest.mark.parametrize(
    "text", ["", "1@client.example", "<1>", "<a b@c>", "<a@b> <c@d>", "<a@b", "<" + "a" * 990 + "@b>"]
)
def test_a_message_id_that_is_none_is_replaced(text: str) -> None:
    assert edited(message(f"Message-ID: {text}\n\nbody\n"), made()).values("Message-ID") == [
        "<01TESTMESSAGE000@mx.example.org>"
    ]


def test_of_several_the_first_that_is_sound_stays() -> None:
    text = "Date: never\nDate: Thu, 01 Jan 2026 12:00:00 +0000\nMessage-ID: <1@a>\nMessage-ID: <2@b>"
    assert header(text, remove=[]) == ["Message-ID: <1@a>", "Date: Thu, 01 Jan 2026 12:00:00 +0000"]


def test_copies_stay_secret() -> None:
    text = WHOLE + "Bcc: eve@example.net\nResent-Bcc: x@example.net\nbcc: a@b.test,\n c@d.test\nX-Bcc-Not: x"
    assert header(text) == [*WHOLE.splitlines(), "X-Bcc-Not: x"]
    assert "Bcc: eve@example.net" in header(text, bcc=False)


def test_mail_from_outside_is_never_touched() -> None:
    text = "Bcc: eve@example.net\nX-Mailer: x\nReturn-Path: <a@b.test>"
    assert header(text, None, hide_client=True, sender="replace") == text.splitlines()
    relay = Identity("192.0.2.9", "network")
    assert header(text, relay, exempt=["192.0.2.0/24"]) == text.splitlines()
    assert header(text, Identity("connector-1", "certificate"), exempt=["connector-*"]) == text.splitlines()
    assert "Bcc: eve@example.net" not in header(text, relay, exempt=["ann"])


def test_what_tells_of_the_client_goes_where_that_is_asked_for() -> None:
    text = WHOLE + "User-Agent: Shoe/1.0\nX-Originating-IP: [10.0.0.1]\nX-Kept: yes"
    assert header(text, hide_client=True) == [*WHOLE.splitlines(), "X-Kept: yes"]
    assert header(text) == text.splitlines()


def test_received_fields_of_others_go_and_ours_stay() -> None:
    ours = (
        "Received: from a (b [10.0.0.2])\n by mx.example.org (mailgate) with ESMTP id 1; Thu, 1 Jan 2026 12:00:00 +0000"
    )
    theirs = "Received: from pc (pc.corp [10.0.0.1]) by exchange.corp; Thu, 1 Jan 2026 12:00:00 +0000"
    near = "Received: from mx.example.org by mx.example.org.evil; Thu, 1 Jan 2026 12:00:00 +0000"
    kept = header(f"{ours}\n{theirs}\n{near}\n{WHOLE.strip()}", hide_received=True)
    assert kept == [*ours.splitlines(), *WHOLE.splitlines()]


def test_fields_by_name_by_beginning_and_by_value() -> None:
    text = "X-Org-A: 1\nX-Org-B: 2\nX-Path: pc7.corp.example.org\nX-Path: outside\nX-[1]: corp"
    options: dict[str, Any] = {
        **BARE,
        "remove": ["X-Org-*"],
        "remove_if": {"X-P*": "*.CORP.example.org", "x-[1]": "?orp"},
    }
    assert header(text, **options) == ["X-Path: outside"]


def test_what_filters_before_have_added_stays() -> None:
    before = AddHeader("X-Org-Class", "internal")
    assert header("X-Org-Class: forged\nX-Org-Other: y", ANN, before, **{**BARE, "remove": ["X-Org-*"]}) == [
        "X-Org-Class: internal"
    ]


def test_sender_names_who_has_logged_in() -> None:
    other = "From: boss@example.org"
    assert header(other, **BARE, sender="add") == ["Sender: <ann@example.org>", other]
    assert header("From: Ann <ANN@example.org>", **BARE, sender="add") == ["From: Ann <ANN@example.org>"]
    said = f"{other}\nSender: eve@example.org"
    assert header(said, **BARE, sender="add") == said.splitlines()
    assert header(said, **BARE, sender="replace") == ["Sender: <ann@example.org>", other]
    assert header(f"{other}, ann@example.org", **BARE, sender="add")[0] == "Sender: <ann@example.org>"
    bob = Identity("bob", "PLAIN")
    assert header(other, bob, **BARE, sender="add") == [other]
    assert header(other, bob, **BARE, sender="add", domain="example.org")[0] == "Sender: <bob@example.org>"
    assert header(other, Identity("192.0.2.1", "network"), **BARE, sender="add", domain="example.org") == [other]


@pytest.mark.parametrize(
    "options", [{"remove": ["X*Y"]}, {"remove": [""]}, {"remove_if": {"a b": "x"}}, {"sender": "x"}]
)
def test_options_that_mean_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(options)


NAMES = st.sampled_from(["Date", "Message-ID", "Bcc", "Sender", "From", "Received", "Return-Path", "X-Mailer", "Other"])
VALUES = st.one_of(
    st.binary(max_size=40).map(lambda data: data.translate(None, b"\r\n")),
    st.sampled_from([b"<1@a>", b"Thu, 01 Jan 2026 12:00:00 +0000", b"a@b.test", b"x\r\n y"]),
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
@example([("Date", b"Thu, 01 Jan 2026 12:00:00 +0000\0"), ("Date", b"x")])
@example([("Message-ID", b"<\xff@a>"), ("Message-ID", b"<a@b>")])
def test_whatever_comes_is_sound_afterwards_and_then_stays(fields: list[tuple[str, bytes]]) -> None:
    found = Message(Content(b"".join(b"%b: %b\r\n" % (name.encode(), value) for name, value in fields) + b"\r\n"))
    built = made(hide_client=True, hide_received=True, sender="replace")
    once = edited(found, built)
    for name in ("Date", "Message-ID"):
        assert len(once.values(name)) == 1
    for name in ("Bcc", "Return-Path", "X-Mailer", "Received"):
        assert not once.values(name)
    assert len(once.values("Other")) == len(found.values("Other"))
    again = edited(once, built)
    assert sorted(again.content.header.splitlines()) == sorted(once.content.header.splitlines())


class TestContract(FilterContract):
    factory = FilterMaker("submission", "mailgate.filters.submission", "x")

    def occasions(self) -> list[Occasion]:
        return [Occasion(), Occasion(session=session(identity=ANN), message=message("Bcc: x@y.test\n\nbody\n"))]


@pytest.mark.parametrize("there", ["", "Date: yesterday\nMessage-ID: none\n"])
def test_what_a_filter_before_has_added_is_not_added_again(there: str) -> None:
    before = (AddHeader("Date", "Thu, 01 Jan 2026 12:00:00 +0000"), AddHeader("Message-ID", "<a@example.org>"))
    found = message(f"From: ann@example.org\n{there}\nbody\n")
    edits = made().modify(session(identity=ANN), transaction(edits=list(before)), found)
    assert not [edit for edit in edits if isinstance(edit, AddHeader)]
