"""Mail of the gateway's own."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.events import MessageAccepted
from mailgate.interfaces import Lease, SpoolError
from mailgate.relay.own_mail import OwnMail
from mailgate.testing import EventRecorder, MemorySpool, wait_for

SENDER, RECIPIENTS = Address.parse("reports@example.org"), [Address.parse(f"{one}@example.net") for one in "ab"]
OCTETS = b"From: <reports@example.org>\r\nMessage-ID: <1@example.org>\r\n\r\nhello\r\n"


def own_mail(spool: MemorySpool, delivered: list[Lease], events: EventRecorder, clock: Clock) -> OwnMail:
    return OwnMail(
        spool,
        route=lambda address, sender: f"to {address.domain} for {sender.domain}",
        deliver=delivered.append,
        events=events,
        clock=clock,
        hostname="mx.example.org",
    )


def test_it_is_in_the_spool_and_told_of_before_it_is_delivered() -> None:
    clock, events, delivered = Clock(), EventRecorder(), list[Lease]()
    spool = MemorySpool(clock)
    queue_id = wait_for(own_mail(spool, delivered, events, clock).send(SENDER, RECIPIENTS, OCTETS))
    (lease,) = delivered
    assert lease.envelope.queue_id == queue_id
    assert [one.address for one in lease.envelope.recipients] == RECIPIENTS
    assert {one.route for one in lease.envelope.recipients} == {"to example.net for example.org"}
    assert {one.notify for one in lease.envelope.recipients} == {("NEVER",)}
    (accepted,) = [event for event in events.events if isinstance(event, MessageAccepted)]
    assert (accepted.queue_id, accepted.message_id, accepted.sender) == (queue_id, "<1@example.org>", str(SENDER))


def test_where_the_spool_cannot_take_it_nothing_is_told() -> None:
    clock, events, delivered = Clock(), EventRecorder(), list[Lease]()
    spool = MemorySpool(clock)
    mail = own_mail(spool, delivered, events, clock)
    wait_for(spool.close())
    with pytest.raises(SpoolError):
        wait_for(mail.send(SENDER, RECIPIENTS, OCTETS))
    assert not delivered
    assert not events.events


def test_mail_to_addresses_that_are_not_ascii_asks_for_smtputf8() -> None:
    for recipients, is_utf8 in ((RECIPIENTS, False), ([*RECIPIENTS, Address("jörg", "b.test")], True)):
        delivered, clock = list[Lease](), Clock()
        wait_for(own_mail(MemorySpool(clock), delivered, EventRecorder(), clock).send(SENDER, recipients, OCTETS))
        assert [one.envelope.parameters.smtputf8 for one in delivered] == [is_utf8]
