"""Giving up what an operator has chosen, in portions, with reports."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import fail
from twisted.internet.task import Clock

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.events import Bounced
from mailgate.interfaces import Return, Selector, SpoolError
from mailgate.message import Content
from mailgate.relay import outcomes
from mailgate.relay.giving_up import give_up, given_up
from mailgate.testing import EventRecorder, MemorySpool, wait_for
from tests.unit.relaying import make_writer


class Stand:
    """A spool, and what gives up."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.spool = MemorySpool(self.clock)
        self.events = EventRecorder()
        self.writer = make_writer(self.spool, self.events, self.clock)

    def add(self, queue_id: str, *recipients: str, **more: Any) -> None:
        envelope = Envelope(
            **{
                "queue_id": queue_id,
                "sender": Address("ann", "client.test"),
                "recipients": tuple(
                    EnvelopeRecipient(number, Address.parse(one), f"route{number % 2}")
                    for number, one in enumerate(recipients)
                ),
                "received": self.clock.seconds(),
                "size": 12,
                **more,
            }
        )
        lease = wait_for(self.spool.accept(envelope, Content(b"A: b\r\n\r\nx\r\n"), self.clock.seconds() + 60))
        if lease.recipients:
            wait_for(self.spool.release_leases([Return(lease)]))
        self.clock.advance(1)

    def give_up(self, reason: str = "", **selector: Any) -> int:
        return wait_for(give_up(self.spool, self.writer, Selector(**selector), reason=reason, clock=self.clock))

    def left(self) -> list[tuple[str, str]]:
        views = wait_for(self.spool.view(Selector(), 100_000))
        return [(view.recipient, view.state) for view in views]


def test_everything_chosen_is_given_up_and_reported_once() -> None:
    stand = Stand()
    stand.add("A", "bob@x.test", "eve@y.test")
    stand.add("B", "bob@x.test")
    assert stand.give_up("closed", domain="x.test") == 2
    assert sorted(stand.left()) == [
        ("ann@client.test", "queued"),
        ("ann@client.test", "queued"),
        ("eve@y.test", "queued"),
    ]
    assert [(one.queue_id, one.recipient, one.route, one.reply) for one in stand.events.of(Bounced)] == [
        ("A", "bob@x.test", "route0", "550 5.0.0 Returned by the administrator: closed"),
        ("B", "bob@x.test", "route0", "550 5.0.0 Returned by the administrator: closed"),
    ]
    # What has just been reported is no longer there.
    assert stand.give_up(domain="x.test") == 0


def test_recipients_of_several_routes_are_told_of_by_their_routes() -> None:
    stand = Stand()
    stand.add("A", "a@x.test", "b@x.test", "c@x.test")
    assert stand.give_up(queue_id="A") == 3
    assert sorted((one.recipient, one.route) for one in stand.events.of(Bounced)) == [
        ("a@x.test", "route0"),
        ("b@x.test", "route1"),
        ("c@x.test", "route0"),
    ]


def test_held_ones_and_later_ones_too_but_not_what_is_under_delivery() -> None:
    stand = Stand()
    stand.add("A", "held@x.test")
    wait_for(stand.spool.hold(Selector(queue_id="A")))
    stand.add("B", "leased@x.test")
    wait_for(stand.spool.lease_selected(Selector(queue_id="B"), 10, stand.clock.seconds() + 600))
    stand.add("C", "queued@x.test")
    assert stand.give_up() == 2
    assert sorted(stand.left()) == [("ann@client.test", "queued")] * 2 + [("leased@x.test", "leased")]


def test_reports_of_others_are_given_up_too() -> None:
    stand = Stand()
    stand.add("A", "bob@x.test", sender=NULL_PATH)
    stand.add("B", "bob@x.test")
    assert stand.give_up() == 2
    assert stand.left() == [("ann@client.test", "queued")]


def test_more_than_one_portion() -> None:
    stand = Stand()
    stand.add("A", *(f"u{number}@x.test" for number in range(1203)), sender=NULL_PATH)
    assert stand.give_up(queue_id="A") == 1203
    assert stand.left() == []
    assert len({one.recipient for one in stand.events.of(Bounced)}) == 1203


def test_a_spool_that_does_not_write_gives_up_later() -> None:
    stand = Stand()
    stand.add("A", "bob@x.test")
    record = stand.spool.record
    stand.spool.record = lambda *_: fail(SpoolError("the disk is full"))  # type: ignore[method-assign]
    with pytest.raises(SpoolError, match="cannot be written now"):
        stand.give_up()
    assert stand.events.of(Bounced) == []
    stand.spool.record = record  # type: ignore[method-assign]
    stand.clock.advance(1)
    assert [one.recipient for one in stand.events.of(Bounced)] == ["bob@x.test"]


def test_a_spool_that_does_not_lease_gives_up_nothing() -> None:
    stand = Stand()
    stand.add("A", "bob@x.test")
    stand.spool.error = "no disk"
    with pytest.raises(SpoolError, match="no disk"):
        stand.give_up()


def test_without_a_report_nobody_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("no report")

    monkeypatch.setattr(outcomes, "compose_report", fails)
    stand = Stand()
    stand.add("A", "bob@x.test")
    assert stand.give_up() == 0
    assert stand.left() == [("bob@x.test", "queued")]
    assert stand.events.of(Bounced) == []


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("", "550 5.0.0 Returned by the administrator"),
        (" two\r\n.\r\nlines\x1b ", "550 5.0.0 Returned by the administrator: two . lines?"),
    ],
)
def test_the_reply(reason: str, told: str) -> None:
    assert str(given_up(reason)) == told
    assert given_up(reason).to_bytes().count(b"\r\n") == 1


def test_a_long_reason_is_cut() -> None:
    assert len(str(given_up("x" * 10_000))) < 400
