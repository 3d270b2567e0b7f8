"""ETRN: what waits for a domain is tried, and not too often."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient, MailParameters
from mailgate.interfaces import Outcome, OutcomeKind, Return, Selector, SpoolError
from mailgate.message import Content
from mailgate.relay.turn import Turns
from mailgate.reply import Reply
from mailgate.testing.spool import MemorySpool
from tests.unit.auth_stand import failure_of, outcome_of


class Stand:
    def __init__(self) -> None:
        self.clock = Clock()
        self.spool = MemorySpool(self.clock)
        self.kicks: list[Selector] = []
        self._turns = Turns(self.spool, self.kicks.append, self.clock)

    def add(self, queue_id: str, domain: str, **parameters: Any) -> None:
        """A message that has been tried, and is due in an hour."""
        envelope = Envelope(
            queue_id=queue_id,
            sender=Address("ann", "client.test"),
            recipients=(EnvelopeRecipient(0, Address("bob", domain), "out"),),
            received=self.clock.seconds(),
            size=5,
            parameters=MailParameters(**parameters),
        )
        lease = outcome_of(self.spool.accept(envelope, Content(b"hello"), self.clock.seconds() + 60))
        later = Reply.of(451, "4.3.0", "later")
        outcomes = [
            Outcome(one, OutcomeKind.DEFERRED, later, next_attempt=self.clock.seconds() + 3600)
            for one in lease.recipients
        ]
        outcome_of(self.spool.record(lease, outcomes, []))

    def turn(self, domain: str) -> Deferred[int]:
        return Deferred.fromCoroutine(self._turns.turn(domain))

    def due(self) -> set[str]:
        """The messages that are due now."""
        leases = outcome_of(self.spool.lease(100, self.clock.seconds() + 60))
        outcome_of(self.spool.release_leases([Return(one) for one in leases]))
        return {lease.envelope.queue_id for lease in leases}


@pytest.fixture
def stand() -> Stand:
    made = Stand()
    made.add("A", "one.test")
    made.add("B", "one.test")
    made.add("C", "two.test")
    return made


def test_the_mail_of_a_domain_is_due_and_no_others(stand: Stand) -> None:
    assert outcome_of(stand.turn("one.test")) == 2
    assert stand.due() == {"A", "B"}
    assert outcome_of(stand.turn("two.test")) == 1
    assert stand.kicks == [Selector(domain="one.test"), Selector(domain="two.test")]
    assert outcome_of(stand.turn("nobody.test")) == 0
    assert len(stand.kicks) == 2


def test_a_domain_has_a_turn_every_five_minutes(stand: Stand) -> None:
    assert outcome_of(stand.turn("one.test")) == 2
    stand.clock.advance(299)
    stand.add("D", "one.test")
    assert outcome_of(stand.turn("one.test")) == 0
    assert len(stand.kicks) == 1
    assert "D" not in stand.due()
    stand.clock.advance(1)
    assert outcome_of(stand.turn("one.test")) == 3
    assert len(stand.kicks) == 2


def test_what_is_to_wait_waits_and_is_not_counted(stand: Stand) -> None:
    stand.add("H", "one.test", release_at=5000.0)
    stand.add("K", "late.test", release_at=5000.0)
    outcome_of(stand.spool.hold(Selector(queue_id="B")))
    assert outcome_of(stand.turn("one.test")) == 1
    assert outcome_of(stand.turn("late.test")) == 0
    assert stand.due() == {"A"}


def test_a_spool_that_fails_has_given_no_turn(stand: Stand) -> None:
    stand.spool.error = "the disk is full"
    assert isinstance(failure_of(stand.turn("one.test")), SpoolError)
    stand.spool.error = ""
    assert outcome_of(stand.turn("one.test")) == 2
