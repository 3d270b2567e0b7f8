"""A transaction ends with one result for each recipient, whatever the server says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailgate.interfaces import OutcomeKind
from mailgate.relay.client.transaction import Step, Transaction
from mailgate.reply import Reply
from mailgate.wire.extensions import Extensions
from tests.unit.peer import envelope

DELIVERED, DEFERRED, FAILED = OutcomeKind.DELIVERED, OutcomeKind.DEFERRED, OutcomeKind.FAILED


def test_whatever_is_said_to_the_content_is_said_to_all_of_its_recipients() -> None:
    """At DATA, to the end of it, before that end, and by LMTP to each of them."""
    refused, one = Reply(550, "5.1.10", ("x",)), envelope(2)

    def shared(*, lmtp: bool = False, goes: bool = True, ends: bool = True) -> set[bool]:
        transaction = Transaction(Extensions({"PIPELINING": ""}), one, one.recipients, 10, peer="mx", lmtp=lmtp)
        transaction.start()
        for code in (250, 250, 250):
            transaction.receive(Reply(code, "", ("x",)))
        if goes:
            assert transaction.receive(Reply(354, "", ("x",))) is Step.CONTENT
            if ends:
                transaction.announce(is_last=True)
        while transaction.receive(refused) not in (Step.DONE, Step.DROP):
            pass
        assert {result.kind for result in transaction.results} == {FAILED}
        return {result.is_shared for result in transaction.results}

    assert shared(goes=False) == shared() == shared(ends=False) == {True}
    assert shared(lmtp=True) == {False}


REPLIES = [Reply(code, "", ("x",)) for code in (220, 250, 251, 354, 421, 450, 452, 500, 503, 550, 552)]


@given(
    st.lists(st.sampled_from(REPLIES), min_size=30, max_size=30),
    st.integers(0, 4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_any_replies_end_in_one_result_for_each_recipient(
    replies: list[Reply], recipients: int, pipelining: bool, lmtp: bool, reset: bool, reused: bool
) -> None:
    one = envelope(recipients)
    extensions = Extensions({"PIPELINING": ""} if pipelining else {})
    transaction = Transaction(extensions, one, one.recipients, 10, peer="mx", lmtp=lmtp, reset=reset, reused=reused)
    step = Step.WAIT if transaction.start() else Step.DONE
    sent = False
    for reply in replies:
        if step in (Step.DONE, Step.DROP):
            break
        assert transaction.owed > 0
        step = transaction.receive(reply)
        if step is Step.CONTENT:
            sent = transaction.end_sent = True
    assert step in (Step.DONE, Step.DROP)
    results = transaction.results
    assert [result.recipient for result in results] == list(one.recipients)
    assert all(sent or result.kind is not DELIVERED for result in results)
    assert step is Step.DROP or transaction.owed == 0
