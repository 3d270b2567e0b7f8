"""What a client is told of a next hop's answers, and what it is not told."""

from __future__ import annotations

import pytest

from mailgate.address import Address
from mailgate.envelope import EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import Result
from mailgate.relay.client.exchange import BrokenOffError
from mailgate.relay.client.session import LOST
from mailgate.relay.inline.answers import public, with_id
from mailgate.relay.inline.results import broken, is_unreached
from mailgate.reply import Reply

BOB, ANN = (EnvelopeRecipient(number, Address.parse(f"{name}@b.test"), "r") for number, name in enumerate("ab"))
PEER = "hop.test[10.0.0.5]:25"


def refused(reply: Reply, host: str = PEER, reason: str = "") -> Result:
    kind = OutcomeKind.FAILED if reply.is_permanent and reply.code != 503 else OutcomeKind.DEFERRED
    return Result(BOB, kind, reply, host, reason=reason)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (Reply.of(550, "5.1.1", "no such user"), "550 5.1.1 no such user"),
        (Reply.of(450, "", "greylisted\nfor 5 minutes"), "450 greylisted for 5 minutes"),
        (Reply.of(421, "4.3.2", "closing"), "451 4.3.2 closing"),
        (Reply.of(421, "", "closing"), "451 4.4.2 closing"),
        (Reply.of(503, "5.5.1", "out of order"), "451 4.5.1 out of order"),
    ],
)
def test_its_words_are_the_clients_unless_they_would_mean_something_else(said: Reply, told: str) -> None:
    assert str(public(refused(said))) == told


def test_what_we_find_out_is_for_our_log() -> None:
    found = public(refused(Reply.of(451, "4.7.5", "no TLS with hop.test"), host="", reason="no TLS with hop.test: ..."))
    assert (found.code, found.status, "hop.test" in found.text) == (451, "4.7.5", False)


def test_our_id_stands_behind_the_last_line() -> None:
    assert str(with_id(Reply.of(250, "2.0.0", "Ok: queued as X"), "ID")) == "250 2.0.0 Ok: queued as X (ID)"
    assert with_id(Reply.of(250, "", "one\ntwo"), "ID").lines == ("one", "two (ID)")
    assert len(with_id(Reply.of(250, "", "x" * 2000), "ID").to_bytes()) < 512
    assert with_id(Reply.of(250, "", ""), "ID").lines == ("(ID)",)


def test_a_session_that_ends_before_the_content_is_no_answer_and_after_it_may_be_one() -> None:
    error = BrokenOffError(LOST, "lost")
    assert all(map(is_unreached, broken([BOB, ANN], error, PEER)))
    error.end_sent, error.replies = True, (Reply.of(250, "2.0.0", "kept"),)
    first, second = broken([BOB, ANN], error, PEER)
    assert (first.kind, first.host) == (OutcomeKind.DELIVERED, PEER)
    assert (second.kind, is_unreached(second)) == (OutcomeKind.DEFERRED, False)
    assert second.reason.endswith("it may have been delivered")
