"""Answers that have to be waited for: nothing overtakes them, and nothing of them stays when the client goes."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.events import Refused
from mailgate.message import Message
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Disconnect, Quarantine, Reject, Verdict
from tests.unit.smtp_stand import CONTENT, ENVELOPE, Call, Stand, Wire

MakeStand = Callable[..., Stand]

REJECT = Reject(Reply.of(550, "5.7.1", "No"), "because")
DISCONNECT = Disconnect(Reply.of(421, "4.7.0", "Go away"), "because")
LARGE = (b"z" * 70 + b"\r\n") * 30 + b".\r\n"  # goes to a file

#: By stage: what is sent to get there, and the codes that come first; then the code that it has when all is well.
STAGES: dict[str, tuple[bytes, list[int], int]] = {
    "connect": (b"", [], 220),
    "helo": (b"EHLO client.example\r\n", [220], 250),
    "mail": (b"EHLO client.example\r\nMAIL FROM:<>\r\n", [220, 250], 250),
    "rcpt": (b"EHLO client.example\r\n" + ENVELOPE, [220, 250, 250], 250),
    "data": (b"EHLO client.example\r\n" + ENVELOPE + b"DATA\r\n", [220, 250, 250, 250], 354),
    "message": (b"EHLO client.example\r\n" + ENVELOPE + b"DATA\r\n" + LARGE, [220, 250, 250, 250, 354], 250),
    "take": (b"EHLO client.example\r\n" + ENVELOPE + b"DATA\r\n" + LARGE, [220, 250, 250, 250, 354], 250),
}
JUDGED = [stage for stage in STAGES if stage not in ("message", "take")]


def answer_of(stage: str) -> object:
    """What a stage answers when all is well."""
    if stage == "message":
        return [Continue()]
    return [Reply.of(250, "2.0.0", "queued")] if stage == "take" else Continue()


def reach(stand: Stand, stage: str, more: bytes = b"") -> tuple[Wire, Deferred[Any]]:
    """A client whose stage waits for the Deferred, with more sent behind it."""
    octets, codes, _ = STAGES[stage]
    waited = stand.pend(stage)
    wire = stand.connect()
    assert wire.send(octets + more) == codes
    return wire, waited


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("is_sent_later", [True, False], ids=["sent later", "sent before"])
def test_nothing_overtakes_a_pending_answer(make_stand: MakeStand, stage: str, is_sent_later: bool) -> None:
    stand = make_stand()
    more = b"\r\n.\r\n" if stage == "data" else b""
    more += b"NOOP\r\nVRFY x\r\nHELP\r\n"
    wire, waited = reach(stand, stage, b"" if is_sent_later else more)
    if is_sent_later:
        for one in more:
            assert wire.send(bytes([one])) == []
    stand.script.answers.clear()
    waited.callback(answer_of(stage))
    assert wire.codes() == [STAGES[stage][2], *([250] if stage == "data" else []), 250, 252, 214]


@pytest.mark.parametrize("stage", STAGES)
def test_an_answer_at_hand_in_any_form_serves(make_stand: MakeStand, stage: str) -> None:
    async def coroutine() -> object:
        return answer_of(stage)

    class Future:
        def __await__(self) -> Generator[Any, Any, object]:
            return (yield from coroutine().__await__())

    octets, codes, code = STAGES[stage]
    forms: list[Callable[[], Awaitable[object]]] = [coroutine, Future]
    for form in forms:
        stand = make_stand()
        stand.script.answers[stage] = Call(lambda *_, form=form: form())
        assert stand.connect().send(octets) == [*codes, code]


@pytest.mark.parametrize("stage", JUDGED)
@pytest.mark.parametrize("verdict", [REJECT, DISCONNECT], ids=["reject", "disconnect"])
def test_a_refusal_that_comes_late(make_stand: MakeStand, stage: str, verdict: Verdict) -> None:
    stand = make_stand()
    wire, waited = reach(stand, stage)
    waited.callback(verdict)
    code = verdict.reply.code if isinstance(verdict, Reject | Disconnect) else 0
    assert wire.codes() == [554 if (stage, code) == ("connect", 550) else code]
    assert wire.is_closed is (stage == "connect" or verdict is DISCONNECT)
    assert [event.reason for event in stand.events.of(Refused)] == ["because"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("late", [True, False], ids=["late", "at once"])
def test_a_failure_is_temporary(make_stand: MakeStand, stage: str, late: bool) -> None:
    stand = make_stand()
    octets, codes, _ = STAGES[stage]
    waited = stand.pend(stage)
    if not late:
        waited.errback(ZeroDivisionError("a bug"))
    wire = stand.connect()
    said = wire.send(octets)
    if late:
        waited.errback(ZeroDivisionError("a bug"))
    assert said + wire.codes() == [*codes, 421 if stage == "connect" else 451]
    assert stand.failed() == ["a bug"]
    assert wire.is_closed is (stage == "connect")
    stand.script.answers.clear()
    if stage == "helo":
        assert wire.say("MAIL FROM:<>") == [503]
    elif stage in ("data", "message", "take"):
        assert wire.data_again() == [250]


@pytest.mark.parametrize("stage", STAGES)
def test_a_crash_ends_the_session_and_nothing_else(make_stand: MakeStand, stage: str) -> None:
    stand = make_stand()
    octets, codes, _ = STAGES[stage]
    stand.script.answers[stage] = ZeroDivisionError("a bug")
    wire = stand.connect()
    assert wire.send(octets + b"NOOP\r\n") == [*codes, 421]
    assert wire.is_closed
    assert stand.failed() == ["a bug"]
    wire.lose()
    assert stand.causes == ["crash"]
    stand.script.answers.clear()
    assert stand.connect().data().send(CONTENT) == [250]


def test_verdicts_that_cannot_be_acted_on_end_the_session(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire, waited = reach(stand, "message")
    waited.callback([REJECT, REJECT])  # two for one recipient
    assert wire.codes() == [421]
    assert wire.is_closed
    assert len(stand.failed()) == 1
    wire.lose()
    assert stand.files == []


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "take"])
def test_a_client_that_goes_cancels_what_it_waited_for(make_stand: MakeStand, stage: str) -> None:
    stand = make_stand()
    wire, waited = reach(stand, stage, b"NOOP\r\n")
    asked = list(stand.script.asked)
    wire.lose()
    assert waited.called
    assert stand.files == []
    assert stand.script.asked == asked
    assert wire.codes() == []
    assert stand.causes == ["lost"]
    assert stand.refusals == []


def test_a_filter_that_answers_a_cancelled_question_answers_nobody(make_stand: MakeStand) -> None:
    stand = make_stand()
    stubborn: Deferred[object] = Deferred(lambda deferred: deferred.callback([Quarantine("kept")]))
    stand.script.answers["message"] = stubborn
    wire = stand.connect()
    wire.send(STAGES["message"][0])
    wire.lose()
    assert stand.script.taken == []
    assert stand.files == []


def test_a_canceller_that_fails_leaves_the_listener_whole(make_stand: MakeStand) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("a bug")

    stand = make_stand()
    stand.script.answers["message"] = Deferred(fail)
    wire = stand.connect()
    wire.send(STAGES["message"][0])
    wire.lose()
    assert stand.failed() == ["a bug"]
    assert stand.listener.session_count == 0
    assert stand.files == []


def test_the_intake_is_not_disturbed_when_the_client_goes(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire, waited = reach(stand, "take")
    wire.lose()
    assert not waited.called
    assert len(stand.files) == 1  # it is the intake's
    waited.callback([Reply.of(250, "2.0.0", "queued")])
    assert wire.codes() == []


def test_an_intake_that_fails_when_the_client_has_gone(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire, waited = reach(stand, "take")
    wire.lose()
    waited.errback(ZeroDivisionError("a bug"))
    assert stand.failed() == ["a bug"]


def test_content_that_is_cut_off_is_thrown_away(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = stand.connect().data()
    wire.send(LARGE[:-3])
    assert len(stand.files) == 1
    wire.lose()
    assert stand.files == []
    (refused,) = stand.events.of(Refused)
    assert (refused.stage, refused.reply) == ("content", "")
    assert refused.reason == "the connection was lost within the content"


def test_filters_see_the_file_until_they_have_answered(make_stand: MakeStand) -> None:
    stand = make_stand()
    seen: list[bytes] = []

    def look(session: object, transaction: object, message: Message) -> list[Verdict]:
        seen.append(message.content.read())
        return [Defer(Reply.of(451, "4.7.1", "Later"), "later")]

    stand.script.answers["message"] = Call(look)
    assert stand.connect().data().send(LARGE) == [451]
    assert seen == [LARGE[:-3]]
    assert stand.files == []


# -- the client's name


def test_the_name_is_looked_up_before_anybody_is_asked(make_stand: MakeStand) -> None:
    name: Deferred[str] = Deferred()
    stand = make_stand({"resolve_clients": True}, client_name=lambda address: name)
    wire = stand.connect()
    assert wire.send(b"EHLO client.example\r\n") == []
    assert stand.script.asked == []
    name.callback("client.example")
    assert wire.codes() == [220, 250]
    assert str(wire.session.client) == "client.example[192.0.2.1]"
    assert wire.session.early_octets == 21


def test_a_name_that_cannot_be_found_is_none(make_stand: MakeStand) -> None:
    name: Deferred[str] = Deferred()
    stand = make_stand({"resolve_clients": True}, client_name=lambda address: name)
    wire = stand.connect()
    name.errback(ZeroDivisionError("a bug"))
    assert wire.codes() == [220]
    assert str(wire.session.client) == "unknown[192.0.2.1]"
    assert stand.failed() == ["a bug"]


def test_nobody_is_asked_about_a_client_that_has_gone(make_stand: MakeStand) -> None:
    name: Deferred[str] = Deferred()
    stand = make_stand({"resolve_clients": True}, client_name=lambda address: name)
    stand.connect().lose()
    assert name.called
    assert stand.script.asked == []


@pytest.mark.parametrize(
    ("resolve", "address"), [(True, "127.0.0.1"), (True, "::1"), (True, "/run/mail.sock"), (False, "192.0.2.1")]
)
def test_who_is_not_looked_up(make_stand: MakeStand, resolve: bool, address: str) -> None:
    def fail(address: object) -> str:
        raise AssertionError(f"{address} was looked up")

    assert make_stand({"resolve_clients": resolve}, client_name=fail).connect(address).codes() == [220]


# -- octets before the banner, and back-pressure


def test_octets_before_the_banner_are_counted(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire, waited = reach(stand, "connect", b"EHLO a")
    wire.send(b"\r\n")
    assert wire.session.early_octets == 8
    waited.callback(Continue())
    assert wire.codes() == [220, 250]
    wire.say("NOOP")
    assert wire.session.early_octets == 8


def test_octets_behind_the_banner_are_not_early(make_stand: MakeStand) -> None:
    wire = make_stand().connect()
    wire.say("EHLO client.example")
    assert wire.session.early_octets == 0


@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_floods_while_an_answer_is_pending_is_not_read(make_stand: MakeStand, stage: str) -> None:
    stand = make_stand({"max_message_size": "64KiB"})
    wire, waited = reach(stand, stage)
    for _ in range(70):
        wire.send(b"x" * 1022 + b"\r\n")
    assert not wire.is_read
    stand.script.answers.clear()
    waited.callback(answer_of(stage))
    assert wire.is_closed is (stage != "data")  # those were no commands, but they may be content
    assert wire.is_read or wire.is_closed


def test_a_client_that_takes_no_replies_is_not_read(make_stand: MakeStand) -> None:
    wire = make_stand().connect().hello()
    wire.protocol.pauseProducing()  # what a transport does whose send buffer is full
    assert not wire.is_read
    wire.protocol.resumeProducing()
    assert wire.is_read
    assert wire.say("NOOP") == [250]


def test_both_reasons_for_not_reading_must_go(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire, waited = reach(stand, "mail", b"NOOP\r\n" * 15_000)
    wire.send(b"NOOP\r\n")
    assert not wire.is_read
    wire.protocol.pauseProducing()
    wire.protocol.resumeProducing()
    assert not wire.is_read
    wire.protocol.pauseProducing()
    waited.callback(REJECT)
    assert not wire.is_read


def test_the_transport_does_not_wait_for_us_to_close(make_stand: MakeStand) -> None:
    wire = make_stand().connect().hello()
    assert wire.transport.producer is wire.protocol
    wire.protocol.pauseProducing()
    wire.say("QUIT")
    assert wire.transport.producer is None
    assert wire.is_closed


def test_a_cut_in_the_middle_of_an_answer(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire, waited = reach(stand, "rcpt")
    stand.listener.cut()
    assert wire.codes()[-1] == 421
    assert wire.is_closed
    assert waited.called
    wire.lose()
    assert stand.causes == ["shutdown"]


def test_a_session_that_is_over_leaves_no_cycle(make_stand: MakeStand) -> None:
    wire = make_stand().connect()
    assert wire.protocol._dialogue is not None
    talk = wire.protocol._dialogue.talk
    wire.lose()
    held = [getattr(one, "__self__", one) for one in gc.get_referents(talk.gate)]
    assert talk not in held
    assert wire.protocol not in held
