"""What a sender asked for with the envelope, in words."""

from __future__ import annotations

from mailgate.address import Address
from mailgate.envelope import EnvelopeRecipient, MailParameters
from mailgate.observe.asked import asked_for
from tests.unit.relaying import envelope


def test_most_mail_asks_for_nothing() -> None:
    assert asked_for(envelope("bob@d.test")) == ()
    assert asked_for(envelope("bob@d.test", parameters=MailParameters(body="8BITMIME"))) == ()


def test_a_recipient_has_wishes_of_its_own() -> None:
    bob = EnvelopeRecipient(0, Address("bob", "d.test"), "box", notify=("NEVER",), orcpt="rfc822;b@d.test")
    told = asked_for(envelope(bob, "carol@d.test"))
    assert told == ("reports about bob@d.test: NOTIFY=NEVER ORCPT=rfc822;b@d.test (DSN)",)


def test_many_recipients_are_told_in_few_words() -> None:
    many = [EnvelopeRecipient(one, Address(f"u{one}", "d.test"), "box", notify=("NEVER",)) for one in range(1000)]
    told = asked_for(envelope(*many))
    assert len(told) == 51
    assert told[-1] == "reports about 950 more (DSN)"
