"""What is said to a next hop step by step: which replies are owed, and what they come to."""

from __future__ import annotations

import pytest

from mailgate.relay.client.exchange import BrokenOffError, Octets, Words
from mailgate.relay.client.transaction import Step
from mailgate.reply import Reply

OK, GO, NO, LATER = (Reply.of(code, "", "x") for code in (250, 354, 550, 451))
CLOSING = Reply.of(421, "4.3.2", "closing")
PEER = "hop.test[192.0.2.1]:25"


def test_commands_go_in_one_write_where_the_host_pipelines() -> None:
    words = Words(PEER, [b"MAIL\r\n", b"RCPT\r\n"], pipelining=True)
    assert words.start() == b"MAIL\r\nRCPT\r\n"
    assert words.owed == 2
    assert [words.receive(one) for one in (NO, LATER)] == [Step.WAIT, Step.DONE]
    assert words.outcome() == [NO, LATER]
    assert words.needs_reset


def test_one_after_another_where_it_does_not() -> None:
    words = Words(PEER, [b"RSET\r\n", b"MAIL\r\n", b"RCPT\r\n"], pipelining=False, vital=1)
    assert words.start() == b"RSET\r\n"
    assert (words.receive(NO), words.output) == (Step.SEND, b"MAIL\r\n")
    assert words.receive(NO) is Step.DONE
    assert words.outcome() == [NO, NO]
    assert words.owed == 0


def test_rset_leaves_nothing_to_reset() -> None:
    for reply, needed in ((OK, False), (NO, True)):
        words = Words(PEER, [b"RSET\r\n"], pipelining=False)
        words.start()
        words.receive(reply)
        assert words.needs_reset is needed


@pytest.mark.parametrize(("command", "reply"), [(b"RCPT\r\n", GO), (b"DATA\r\n", OK)])
def test_a_reply_that_does_not_fit_ends_the_session(command: bytes, reply: Reply) -> None:
    words = Words(PEER, [command], pipelining=False)
    words.start()
    assert words.receive(reply) is Step.DROP
    with pytest.raises(BrokenOffError, match="does not fit") as caught:
        words.outcome()
    assert (caught.value.reply.code, caught.value.host) == (451, "")


def test_421_is_the_end_of_the_session_and_the_hosts_word() -> None:
    words = Words(PEER, [b"MAIL\r\n", b"RCPT\r\n"], pipelining=True)
    words.start()
    words.receive(OK)
    assert words.receive(CLOSING) is Step.DROP
    with pytest.raises(BrokenOffError) as caught:
        words.outcome()
    assert (caught.value.reply, caught.value.host, caught.value.replies) == (CLOSING, PEER, (OK,))
    assert not caught.value.end_sent


@pytest.mark.parametrize("by_chunks", [False, True])
def test_421_to_the_end_of_content_is_its_answer_and_leaves_open_who_has_none(by_chunks: bool) -> None:
    octets = Octets(PEER, recipients=3, lmtp=False, by_chunks=by_chunks)
    octets.announce(is_last=True)
    assert octets.receive(CLOSING) is Step.DROP
    assert octets.outcome() == [CLOSING]
    octets = Octets(PEER, recipients=3, lmtp=True, by_chunks=by_chunks)
    octets.announce(is_last=True)
    assert [octets.receive(one) for one in (OK, CLOSING)] == [Step.WAIT, Step.DROP]
    with pytest.raises(BrokenOffError) as caught:
        octets.outcome()
    assert (caught.value.replies, caught.value.end_sent) == ((OK, CLOSING), True)


def test_421_within_the_content_has_not_had_its_end() -> None:
    octets = Octets(PEER, recipients=1, lmtp=False, by_chunks=False)
    octets.announce(is_last=False)
    assert octets.receive(CLOSING) is Step.DROP
    with pytest.raises(BrokenOffError) as caught:
        octets.outcome()
    assert (caught.value.reply, caught.value.host, caught.value.end_sent) == (CLOSING, PEER, False)


def test_content_has_one_reply_and_by_lmtp_one_for_each() -> None:
    for lmtp, owed in ((False, 1), (True, 3)):
        octets = Octets(PEER, recipients=3, lmtp=lmtp, by_chunks=False)
        octets.announce(is_last=False)
        octets.announce(is_last=True)
        assert octets.owed == owed
        assert [octets.receive(OK) for _ in range(owed)] == [Step.WAIT] * (owed - 1) + [Step.DONE]
        assert octets.outcome() == [OK] * owed
        assert not octets.needs_reset


def test_a_refusal_before_the_end_counts_and_ends_the_session() -> None:
    octets = Octets(PEER, recipients=1, lmtp=False, by_chunks=False)
    octets.announce(is_last=False)
    assert octets.receive(NO) is Step.DROP
    assert octets.outcome() == [NO]
    assert octets.needs_reset


def test_chunks_have_a_reply_each_of_which_refusals_are_kept() -> None:
    octets = Octets(PEER, recipients=2, lmtp=True, by_chunks=True)
    octets.announce(is_last=False)
    assert (octets.owed, octets.receive(OK)) == (1, Step.CONTENT)
    octets.announce(is_last=True)
    assert [octets.receive(one) for one in (OK, LATER)] == [Step.WAIT, Step.DONE]
    assert octets.outcome() == [OK, LATER]
    assert octets.needs_reset  # RFC 3030 section 4.2
    octets = Octets(PEER, recipients=2, lmtp=True, by_chunks=True)
    octets.announce(is_last=False)
    assert octets.receive(NO) is Step.DONE
    assert octets.outcome() == [NO]


def test_what_is_lost_after_the_end_may_have_arrived() -> None:
    octets = Octets(PEER, recipients=2, lmtp=True, by_chunks=False)
    octets.announce(is_last=True)
    octets.receive(OK)
    octets.abandon(LATER, "lost")
    with pytest.raises(BrokenOffError) as caught:
        octets.outcome()
    assert (caught.value.end_sent, caught.value.replies) == (True, (OK,))
