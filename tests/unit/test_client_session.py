"""The life of a session: reused, disturbed, timed out, closed and cancelled."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from mailgate.interfaces import OutcomeKind
from tests.unit.peer import LOST, Peer, kinds

DELIVERED, DEFERRED, FAILED = OutcomeKind.DELIVERED, OutcomeKind.DEFERRED, OutcomeKind.FAILED


# -- A session that was used before


@pytest.mark.parametrize("answer", [LOST, b"421 4.4.2 idle for too long"])
def test_a_reused_session_that_was_dead_is_no_attempt(answer: bytes) -> None:
    peer = Peer(MAIL=[b"250 ok", answer])
    peer.send()
    (result,) = peer.send()
    assert (result.kind, result.again) == (DEFERRED, True)
    assert not peer.session.is_usable


def test_a_session_that_ends_after_an_answer_was_not_dead() -> None:
    peer = Peer(RCPT=[b"250 ok", LOST])
    peer.send()
    (result,) = peer.send()
    assert (result.next_host, result.again) == (True, False)


def test_a_reset_that_is_refused_is_no_attempt() -> None:
    peer = Peer(MAIL=[b"450 later", b"250 ok"], RSET=[b"500 what?"])
    peer.send()
    (result,) = peer.send()
    assert (result.kind, result.again) == (DEFERRED, True)


@pytest.mark.parametrize("noise", [b"250 hello again\r\n", b"4", b"421 closing\r\n", b"\0", b"x" * 5000])
def test_what_a_server_says_while_nobody_asks_ends_the_session(noise: bytes) -> None:
    peer = Peer()
    peer.send()
    peer.say(noise)
    assert not peer.session.is_usable
    assert peer.transport.disconnecting
    assert [(one.kind, one.again) for one in peer.start()] == [(DEFERRED, True)]
    assert peer.transport.value() == b""


def test_an_idle_session_that_the_server_closes() -> None:
    peer = Peer()
    peer.send()
    peer.lose()
    assert not peer.session.is_usable
    assert not peer.reactor.getDelayedCalls()


# -- Replies that come too early


@pytest.mark.parametrize(
    "said",
    [
        b"250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n",
        b"250 ok\r\n250 ok\r\n354 go\r\n552 too large\r\n",
        b"250 ok\r\n250 ok\r\n354 go\r\n2",
        b"250 ok\r\n250 ok\r\n354 go\r\nnoise\r\n",
        b"250 ok\r\n250 ok\r\n250 ok\r\n",
        b"250 ok\r\n354 go\r\n354 go\r\n",
        b"354 go\r\n250 ok\r\n354 go\r\n",
    ],
)
def test_content_is_not_given_to_a_server_that_answers_before_it_is_asked(said: bytes) -> None:
    peer = Peer()
    results = peer.start()
    peer.transport.clear()
    peer.say(said)
    assert [(one.kind, one.next_host) for one in results] == [(DEFERRED, True)]
    assert peer.transport.value() == b""
    assert peer.transport.disconnected


def test_what_follows_the_last_reply_does_not_undo_it() -> None:
    peer = Peer(END=[b"250 taken\r\n421 closing"])
    assert kinds(peer.send()) == [DELIVERED]
    assert not peer.session.is_usable


# -- Time


def test_waiting_for_a_slow_server_takes_as_long_as_it_may_for_each_reply() -> None:
    peer = Peer()
    results = peer.start()
    for reply in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
        peer.reactor.advance(299)
        peer.say(reply)
    peer.reactor.advance(599)
    peer.say(b"25")
    assert results == []
    peer.reactor.advance(1)
    assert [(one.kind, one.next_host, one.reply.status) for one in results] == [(DEFERRED, False, "4.4.2")]
    assert peer.transport.disconnected


def test_an_idle_session_has_no_timeout_and_one_delayed_call_serves_all() -> None:
    peer = Peer()
    for _ in range(5):
        peer.send()
        assert len(peer.reactor.getDelayedCalls()) == 1
    peer.reactor.advance(10_000)
    assert peer.session.is_usable
    assert peer.reactor.getDelayedCalls() == []
    results = peer.start()
    peer.reactor.advance(300)
    assert kinds(results) == [DEFERRED]


# -- The end


def test_close_says_quit_and_does_not_wait_long() -> None:
    peer = Peer()
    peer.session.close()
    assert peer.transport.value() == b"QUIT\r\n"
    assert peer.transport.disconnecting
    assert not peer.transport.disconnected
    assert not peer.session.is_usable
    peer.session.close()
    peer.reactor.advance(5)
    assert peer.transport.disconnected


def test_close_in_the_middle_drops_the_connection() -> None:
    peer = Peer()
    results = peer.start()
    peer.session.close()
    assert kinds(results) == [DEFERRED]
    assert peer.transport.disconnected


def test_cancelling_drops_the_connection() -> None:
    peer = Peer()
    found: list[object] = []
    delivery = peer.delivery()
    delivery.addBoth(found.append)
    delivery.cancel()
    (failure,) = found
    assert isinstance(failure, Failure)
    assert failure.check(CancelledError)
    assert peer.transport.disconnected
    assert not peer.session.is_usable
    peer.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
    peer.lose()
    assert not peer.reactor.getDelayedCalls()
