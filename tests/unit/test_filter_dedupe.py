"""The same message again: only what was taken counts, for each recipient alone; and messages that go in circles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.events import MessageAccepted
from mailgate.filters.dedupe import Dedupe, DuplicateResult, Options, build
from mailgate.message import Message
from mailgate.pipeline.registry import FilterMaker
from mailgate.stores.counters import MemoryCounters
from mailgate.testing import FilterContract, Occasion, Silent, message, services, session, transaction, wait_for
from mailgate.verdict import Continue, Discard, Reject, Verdict

FACTORY = FilterMaker("dedupe", "mailgate.filters.dedupe", "the same message again, and loops")
BOB, EVE = "bob@example.org", "eve@example.org"


def mail(body: str = "Hello", number: str = "1", received: int = 0) -> Message:
    ours = "Received: from x by MX.example.org (mailgate) with ESMTP; x\n" * received
    return message(f"{ours}From: a@client.example\nMessage-ID: <{number}@client.example>\nSubject: x\n\n{body}\n")


class Desk:
    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.counters: Any = MemoryCounters(self.clock, 100_000)
        built = build(Options.model_validate(options), services(clock=self.clock, counters=self.counters))
        assert isinstance(built, Dedupe)
        self.filter = built
        self._count = 0

    def send(
        self, what: Message, *recipients: str, taken: bool = True, sender: str = "a@client.example"
    ) -> Verdict | None:
        self._count += 1
        queue_id = f"01MESSAGE{self._count}"
        current = transaction(sender, recipients or (BOB,), id=queue_id)
        verdict = wait_for(self.filter.on_message(session(), current, what))
        if taken:
            self.filter.observe(accepted(queue_id))
        return verdict


def accepted(queue_id: str) -> MessageAccepted:
    fields: dict[str, Any] = dict.fromkeys(MessageAccepted.__struct_fields__, "")
    return MessageAccepted(**fields | {"at": 0.0, "queue_id": queue_id})


def found(verdict: Verdict | None) -> Sequence[Address]:
    return next((one.recipients for one in getattr(verdict, "evidence", ()) if isinstance(one, DuplicateResult)), ())


def test_the_same_message_is_discarded_the_second_time() -> None:
    desk = Desk(verdict="discard")
    assert desk.send(mail()) is None
    verdict = desk.send(mail())
    assert isinstance(verdict, Discard)
    assert verdict.recipients == ()
    assert "01MESSAGE1" in verdict.reason


def test_by_itself_it_is_evidence_only() -> None:
    desk = Desk()
    desk.send(mail())
    verdict = desk.send(mail())
    assert isinstance(verdict, Continue)
    assert verdict.evidence[0].facts() == ("dedupe.duplicate",)  # type: ignore[attr-defined]  # of the class above


def test_what_was_not_taken_may_come_again() -> None:
    desk = Desk(verdict="discard")
    for _ in range(5):
        assert desk.send(mail(), taken=False) is None
    assert desk.send(mail()) is None
    assert isinstance(desk.send(mail()), Discard)


def test_each_recipient_counts_alone() -> None:
    desk = Desk(verdict="discard")
    desk.send(mail(), BOB)
    verdict = desk.send(mail(), BOB, EVE)
    assert isinstance(verdict, Discard)
    assert list(map(str, verdict.recipients)) == [BOB]
    again = desk.send(mail(), "EVE@EXAMPLE.ORG", BOB)
    assert isinstance(again, Discard)
    assert again.recipients == ()


@pytest.mark.parametrize("what", [mail("Hello!"), mail(number="2"), mail("a" * 300_000)])
def test_other_messages_are_others(what: Message) -> None:
    desk = Desk(verdict="discard")
    desk.send(mail())
    assert desk.send(what) is None
    assert desk.send(mail(), sender="other@client.example") is None


def test_another_way_is_no_other_message() -> None:
    desk = Desk(verdict="discard")
    desk.send(mail())
    assert isinstance(desk.send(mail(received=2)), Discard)


def test_it_is_forgotten_after_its_window() -> None:
    desk = Desk(verdict="discard", window="10m")
    desk.send(mail())
    desk.clock.advance(601)
    assert desk.send(mail()) is None


def test_messages_without_an_id_are_not_compared() -> None:
    desk = Desk(verdict="discard")
    for what in (message("From: a@client.example\n\nx\n"), message("Message-ID: <1>\nMessage-ID: <2>\n\nx\n")):
        assert desk.send(what) is None
        assert desk.send(what) is None


def test_many_recipients_are_not_looked_up() -> None:
    desk = Desk(verdict="discard")
    many = [f"u{number}@example.org" for number in range(101)]
    desk.send(mail(), *many)
    assert desk.send(mail(), *many) is None


def test_what_waits_to_be_taken_is_bounded() -> None:
    desk = Desk()
    for number in range(10_050):
        desk.send(mail(number=str(number)), taken=False)
    assert len(desk.filter._pending) == 10_000


def test_circles_are_refused() -> None:
    assert Desk().send(mail(received=5)) is None
    verdict = Desk().send(mail(received=6))
    assert isinstance(verdict, Reject)
    assert (verdict.reply.code, verdict.reply.status) == (554, "5.4.6")
    other = message("Received: by mx.example.org.evil.example; x\n" * 20 + "From: a@client.example\n\n")
    assert Desk().send(other) is None


class Failing(Silent):
    def get(self, key: str) -> Any:
        return None

    def put(self, key: str, value: bytes, ttl: float) -> Deferred[None]:
        return fail(OSError("away"))


def test_a_store_that_fails_afterwards_disturbs_nobody() -> None:
    clock = Clock()
    built = build(Options(), services(clock=clock, counters=Failing()))
    assert isinstance(built, Dedupe)
    wait_for(built.on_message(session(), transaction(id="01X"), mail()))
    built.observe(accepted("01X"))


class TestContract(FilterContract):
    factory = FACTORY
    settings: Mapping[str, object] = {"verdict": "discard"}

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(message=mail(received=9))]
