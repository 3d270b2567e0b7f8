"""The filter null-sender: who may send with it, to whom, and what is a loop."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.envelope import Evidence, Identity
from mailgate.filters.null_sender import NullSender, NullSenderResult, Options, build
from mailgate.findings import Remembered
from mailgate.message import Content, Message
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, recipient, services, session, transaction, wait_for
from mailgate.verdict import Continue, Quarantine, Reject, Verdict

ANN = Identity("ann@example.org", "PLAIN")
REPORT = (
    "From: postmaster@client.example\nContent-Type: multipart/report; report-type=delivery-status; boundary=x\n\nx\n"
)
REPLY = "From: bob@client.example\nAuto-Submitted: auto-replied (vacation)\n\naway\n"
PLAIN = "From: bob@client.example\nSubject: hi\n\nhello\n"


class Desk:
    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        built = build(Options.model_validate(options), services(clock=self.clock))
        assert isinstance(built, NullSender)
        self.filter = built

    def rcpt(self, to: str, *before: str, sender: str = "", identity: Identity | None = None) -> Verdict | None:
        mail = transaction(sender, before)
        return self.filter.on_rcpt(session(identity=identity), mail, recipient(to))

    def message(
        self,
        text: str,
        *to: str,
        sender: str = "",
        identity: Identity | None = None,
        facts: tuple[str, ...] = (),
    ) -> Verdict | None:
        mail = transaction(sender, to or ("bob@example.org",), evidence=Evidence([Remembered(facts)]))
        return wait_for(self.filter.on_message(session(identity=identity), mail, message(text)), self.clock)


def test_a_report_has_one_recipient() -> None:
    desk = Desk()
    assert desk.rcpt("ann@example.org") is None
    verdict = desk.rcpt("bob@example.org", "ann@example.org")
    assert isinstance(verdict, Reject)
    assert str(verdict.reply) == "550 5.7.1 A message with the null sender has one recipient"
    assert desk.rcpt("bob@example.org", "ann@example.org", sender="x@client.example") is None
    assert Desk(max_recipients=0).rcpt("bob@example.org", *["ann@example.org"] * 50) is None
    assert Desk(max_recipients=2).rcpt("bob@example.org", "ann@example.org") is None


def test_users_send_receipts_and_replies_to_others_and_nothing_else() -> None:
    desk = Desk()
    outside = "eve@client.example"
    assert desk.rcpt(outside, identity=ANN) is None
    verdict = desk.message(PLAIN, outside, identity=ANN)
    assert isinstance(verdict, Reject)
    assert verdict.reason == "ann@example.org writes to eve@client.example as <>, and it is no report"
    assert isinstance(desk.message(PLAIN, "bob@example.org", identity=ANN), Continue)
    assert isinstance(desk.message(REPORT, outside, identity=ANN), Continue)
    assert isinstance(desk.message(REPLY, outside, identity=ANN), Continue)
    assert isinstance(Desk(outward="any").message(PLAIN, outside, identity=ANN), Continue)


def test_users_send_nothing_to_others_where_that_is_refused() -> None:
    desk = Desk(outward="refuse", relays=["192.0.2.0/24"])
    assert isinstance(desk.rcpt("eve@client.example", identity=ANN), Reject)
    assert desk.rcpt("bob@example.org", identity=ANN) is None
    relay = Identity("192.0.2.9", "network")
    assert desk.rcpt("eve@client.example", identity=relay) is None
    assert isinstance(Desk(relays=["192.0.2.0/24"]).message(PLAIN, "eve@client.example", identity=relay), Continue)


def test_addresses_that_never_send_get_no_answers() -> None:
    desk = Desk(never_send=["news-*@example.org", "old.example.org"])
    assert isinstance(desk.rcpt("news-1@example.org"), Reject)
    assert isinstance(desk.rcpt("any@old.example.org"), Reject)
    assert desk.rcpt("ann@example.org") is None
    assert desk.rcpt("news-1@example.org", sender="x@client.example") is None


def test_findings_of_others_refuse_it() -> None:
    desk = Desk()
    verdict = desk.message(REPORT, facts=("spf.pass", "batv.invalid"))
    assert isinstance(verdict, Reject)
    assert verdict.reason == "the fact batv.invalid is there"
    assert isinstance(desk.message(REPORT, facts=("batv.valid",)), Continue)
    assert isinstance(desk.message(REPORT, facts=("batv.invalid",), identity=ANN), Continue)
    assert isinstance(Desk(facts=["x.y"]).message(REPORT, facts=("x.y",)), Reject)


@pytest.mark.parametrize(("unlike", "kind"), [("continue", Continue), ("quarantine", Quarantine), ("reject", Reject)])
def test_what_is_no_report(unlike: str, kind: type[Verdict]) -> None:
    desk = Desk(unlike=unlike)
    assert isinstance(desk.message(PLAIN), kind)
    assert isinstance(desk.message(REPORT), Continue)
    assert desk.message(PLAIN, sender="x@client.example") is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (REPORT, "report"),
        (REPLY, "automatic"),
        ("Precedence: bulk\n\nx\n", "automatic"),
        ("Auto-Submitted: no\n\nx\n", "other"),
        ("Content-Type: multipart/reporting\n\nx\n", "other"),
        (PLAIN, "other"),
    ],
)
def test_what_it_is(text: str, kind: str) -> None:
    verdict = Desk().message(text)
    assert isinstance(verdict, Continue)
    assert verdict.evidence == (NullSenderResult(kind),)  # type: ignore[arg-type]  # one of them
    assert verdict.evidence[0].facts() == (f"null-sender.{kind}",)


def test_automatic_messages_that_do_not_end_are_a_loop() -> None:
    desk = Desk(loop_limit=3, loop_window="10m")
    said = [desk.message(REPLY) for _ in range(4)]
    assert all(isinstance(one, Continue) for one in said[:3])
    assert isinstance(said[3], Reject)
    assert str(said[3].reply).startswith("554 5.4.6 ")
    assert said[3].reason == "bob@client.example has sent 4 automatic messages to bob@example.org in 10m"
    assert isinstance(desk.message(REPLY.replace("bob@client", "eve@client")), Continue)
    desk.clock.advance(1200)
    assert isinstance(desk.message(REPLY), Continue)
    # with a sender, too; and only for those to whom it came too often
    desk = Desk(loop_limit=1)
    assert desk.message(REPLY, "ann@example.org", sender="robot@client.example") is None
    verdict = desk.message(REPLY, "ann@example.org", "bob@example.org", sender="robot@client.example")
    assert isinstance(verdict, Reject)
    assert [str(one) for one in verdict.recipients] == ["ann@example.org"]
    assert desk.message(PLAIN, "ann@example.org", sender="robot@client.example") is None
    desk = Desk(loop_limit=0)
    assert all(isinstance(desk.message(REPLY), Continue) for _ in range(50))


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("Auto-Submitted: auto-generated\nPrecedence: bulk", False),
        ("Auto-Submitted: auto-notified; owner-email=x@client.example", False),
        ("Precedence: bulk\nList-Id: <news.client.example>", False),
        ("Auto-Submitted: no\nPrecedence: bulk\nList-Unsubscribe: <mailto:x@client.example>", False),
        ("Precedence: junk", True),
        ("Auto-Submitted: something-new", True),
        ("Auto-Submitted: auto-replied\nList-Id: <news.client.example>", True),
        ("Auto-Submitted: auto-generated\nContent-Type: multipart/report; boundary=x", True),
    ],
)
def test_alarms_and_lists_are_no_loops(text: str, loops: bool) -> None:
    desk = Desk(loop_limit=1)
    said = [desk.message(f"From: robot@client.example\n{text}\n\nx\n", sender="robot@client.example") for _ in range(3)]
    assert isinstance(said[-1], Reject) is loops


@pytest.mark.parametrize("options", [{"never_send": ["a b"]}, {"max_recipients": -1}, {"outward": "some"}])
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(options)


@given(st.binary(max_size=200), st.sampled_from(["", "x@client.example"]))
def test_whatever_the_header_says_there_is_an_answer(data: bytes, sender: str) -> None:
    desk = Desk(loop_limit=1)
    found = Message(Content(b"Auto-Submitted: " + data + b"\r\nFrom: " + data + b"\r\n\r\n"))
    for _ in range(2):
        verdict = wait_for(desk.filter.on_message(session(), transaction(sender), found), desk.clock)
        assert verdict is None or isinstance(verdict, Continue | Reject)


class TestContract(FilterContract):
    factory = FilterMaker("null-sender", "mailgate.filters.null_sender", "x")
    settings = {"loop_limit": 1, "unlike": "reject"}  # noqa: RUF012
    varies = "it counts"

    def occasions(self) -> list[Occasion]:
        texts = (REPORT, REPLY, REPLY, PLAIN)
        return [Occasion(transaction=transaction(""), message=message(text)) for text in texts]
