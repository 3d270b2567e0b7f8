"""Our policy service and peers that are hostile, slow or many; filters that are late or broken; reloads and the end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed

from mailgate.events import Refused
from mailgate.mta.policy import desk
from mailgate.reply import Reply
from mailgate.verdict import Continue, Reject
from mailgate.wire.policy import MAX_REQUEST
from tests.unit.milter_stand import Judge
from tests.unit.policy_stand import LOCAL, Asking, request

NO = Reject(Reply.of(550, "5.7.1", "No"), "private")


@pytest.fixture
def asking() -> Asking:
    return Asking()


def late(asking: Asking, stage: str = "rcpt") -> Deferred[Any]:
    """A stage that answers when it is told to."""
    answer: Deferred[Any] = Deferred()
    asking.judge.says[stage] = lambda *_: answer
    return answer


# -- time


@pytest.mark.parametrize("stage", ["connect", "mail", "rcpt"])
def test_filters_that_are_late_defer_it_before_postfix_gives_up(asking: Asking, stage: str) -> None:
    late(asking, stage)
    assert asking.ask() == ""
    asking.clock.advance(89)
    assert asking.said() == b""
    asking.clock.advance(2)
    assert asking.action(asking.said()) == "DEFER_IF_PERMIT 4.3.0 Local error, try again later"
    (told,) = asking.events.of(Refused)
    assert "not answered in time" in told.reason
    # and it is asked again
    asking.judge.says[stage] = lambda *_: Continue()
    assert asking.ask() == "DUNNO"


def test_an_answer_later_is_an_answer(asking: Asking) -> None:
    answer = late(asking)
    assert asking.ask() == ""
    assert asking.transport.is_paused
    answer.callback(NO)
    assert asking.action(asking.said()) == "550 5.7.1 No"
    assert not asking.transport.is_paused


def test_a_pipeline_that_fails_defers_it(asking: Asking) -> None:
    asking.judge.says["mail"] = lambda *_: 1 / 0
    assert asking.ask() == "DEFER_IF_PERMIT 4.3.0 Local error, try again later"
    assert asking.transport.is_open


def test_a_peer_that_goes_away_ends_what_is_worked_out(asking: Asking) -> None:
    gone: list[object] = []
    answer: Deferred[Any] = Deferred(gone.append)
    asking.judge.says["rcpt"] = lambda *_: answer
    asking.ask()
    asking.server.connectionLost()
    assert gone
    assert asking.office.doors["front"].count == 0
    assert not asking.clock.getDelayedCalls()
    assert len(asking.events.of(Refused)) == 1


def test_a_connection_in_which_nothing_is_asked_is_closed(asking: Asking) -> None:
    asking.ask()
    asking.clock.advance(3599)
    asking.ask()
    asking.clock.advance(3599)
    assert asking.transport.is_open
    asking.clock.advance(2)
    assert not asking.transport.is_open


# -- hostile peers


@pytest.mark.parametrize("octets", [b"\n", b"x\n\n", b"a=" + b"x" * (MAX_REQUEST + 1)])
def test_what_is_no_request_is_cut(asking: Asking, octets: bytes) -> None:
    assert asking.say(octets) == b""
    assert not asking.transport.is_open
    assert asking.office.doors["front"].count == 0
    assert asking.say(request()) == b""


def test_a_request_that_does_not_end_is_cut_however_steadily_it_comes(asking: Asking) -> None:
    asking.ask()
    timers = len(asking.clock.getDelayedCalls())
    asking.say(request()[:-1])
    asking.clock.advance(59)
    assert asking.action(asking.say(b"\n")) == "DUNNO"
    assert len(asking.clock.getDelayedCalls()) == timers
    for number in range(7):
        assert asking.transport.is_open
        asking.say(b"a%d=x\n" % number)
        asking.clock.advance(9)
    assert not asking.transport.is_open
    assert not asking.clock.getDelayedCalls()


def test_a_client_that_greets_again_and_again_is_sent_away(asking: Asking) -> None:
    actions = [asking.ask("EHLO", helo_name=f"mx{number}.test", instance="") for number in range(110)]
    assert actions[:100] == ["DUNNO"] * 100
    assert set(actions[100:]) == {"421 4.7.0 Too many greetings"}
    assert asking.judge.asked.count("helo") == 100
    assert len(asking.events.of(Refused)) == 1


@pytest.mark.parametrize(
    "octets", [b"request=junk_mail\nprotocol_state=RCPT\n\n", b"a=b\n\n", b"request=smtpd_access_policy\n\n"]
)
def test_a_request_of_another_kind_is_deferred(asking: Asking, octets: bytes) -> None:
    assert asking.action(asking.say(octets)).startswith("DEFER_IF_PERMIT")
    assert asking.judge.asked == []


def test_requests_without_patience_are_looked_at_one_in_each_turn(asking: Asking) -> None:
    count = 5
    octets = b"".join(request(instance=f"1.2.3.{number}") for number in range(count))
    said = asking.say(octets)
    assert said.count(b"action=") == 1
    assert asking.transport.is_paused
    asking.clock.advance(0)
    said += asking.said()
    assert said.count(b"action=") == count
    assert not asking.transport.is_paused


def test_a_peer_that_takes_no_answers_is_not_read(asking: Asking) -> None:
    asking.server.pauseProducing()
    assert asking.transport.is_paused
    assert asking.say(request()) == b""
    asking.server.resumeProducing()
    assert asking.said().startswith(b"action=")


@given(
    st.lists(st.tuples(st.sampled_from(["client_address", "sender", "recipient", "instance", "size", "x"]), st.text()))
)
@settings(max_examples=60)
def test_whatever_is_told_there_is_one_answer(pairs: list[tuple[str, str]]) -> None:
    asking = Asking()
    clean = {name: value.replace("\n", " ") for name, value in pairs}
    octets = request(**clean).decode("utf-8", "replace").encode()
    said = asking.say(octets)
    assert said.startswith(b"action=")
    assert said.count(b"\n") == 2


def test_two_that_ask_about_one_message_at_once_do_not_share_it(asking: Asking) -> None:
    late(asking)
    asking.ask()
    first = asking.judge.transaction
    asking.connect()
    asking.ask()
    assert asking.judge.transaction is not first


def test_what_is_remembered_is_bounded(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_MOST", 100)
    asking = Asking()
    for number in range(50):
        assert asking.ask(instance=f"1.2.{number}") == "DUNNO"
    kept = asking.office._cases["front"]
    assert len(kept) == 9
    # one with many recipients counts for more
    for number in range(85):
        assert asking.ask(instance="many", recipient=f"user{number}@here.example") == "DUNNO"
    assert len(kept) == 1


def test_recipients_of_one_message_are_bounded(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.mta.policy.case._MOST_RECIPIENTS", 3)
    said = [asking.ask(recipient=f"user{number}@here.example") for number in range(4)]
    assert said == ["DUNNO"] * 3 + ["452 4.5.3 Too many recipients"]


# -- who may come


def test_strangers_and_too_many_are_cut() -> None:
    asking = Asking(peer=IPv4Address("TCP", "198.51.100.1", 1))
    assert not asking.transport.is_open
    asking = Asking(max_connections=1)
    assert asking.ask() == "DUNNO"
    asking.connect()
    assert not asking.transport.is_open


def test_the_permissions_of_a_socket_say_who_may_come() -> None:
    asking = Asking(peer=LOCAL)
    assert asking.ask() == "DUNNO"


# -- reloads, and the end


def test_a_reload_holds_for_the_next_message() -> None:
    asking = Asking()
    asking.ask()
    before = asking.judge
    asking.judge = asking.trusted = Judge()
    asking.judge.says["rcpt"] = lambda *_: NO
    asking.serve(asking.section())
    assert asking.ask(recipient="eve@here.example") == "DUNNO"  # the same message
    assert before.asked == ["connect", "helo", "mail", "rcpt", "rcpt"]
    assert asking.ask(instance="1.2.3.1") == "550 5.7.1 No"
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt"]


def test_the_end_waits_for_an_answer(asking: Asking) -> None:
    answer = late(asking)
    asking.ask()
    drained = asking.office.doors["front"].drain()
    assert asking.transport.is_open
    assert not drained.called
    answer.callback(Continue())
    assert asking.action(asking.said()) == "DUNNO"
    assert not asking.transport.is_open
    assert drained.called
    assert not asking.clock.getDelayedCalls()
    asking.connect()
    assert not asking.transport.is_open


def test_who_waits_for_nothing_is_let_go_at_once(asking: Asking) -> None:
    asking.ask()
    assert asking.office.doors["front"].drain().called
    assert not asking.transport.is_open


def test_a_pipeline_that_answers_at_once_by_a_deferred(asking: Asking) -> None:
    asking.judge.says["rcpt"] = lambda *_: succeed(NO)
    assert asking.ask() == "550 5.7.1 No"
