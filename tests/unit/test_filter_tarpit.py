"""Who waits, for how long, and how many at one time."""

from __future__ import annotations

from collections.abc import Awaitable
from ipaddress import ip_address
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from mailgate.awaiting import as_deferred
from mailgate.envelope import Client, Identity, Session
from mailgate.events import Refused, SessionClosed
from mailgate.filters import tarpit
from mailgate.filters.dnsbl import ListedResult
from mailgate.filters.helo import HeloResult
from mailgate.filters.tarpit import DelayedResult, Options, Tarpit, build
from mailgate.interfaces import IConnectFilter, IEventObserver, IHeloFilter, IMailFilter, IRecipientFilter
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, recipient, services, session, transaction, wait_for
from mailgate.verdict import Continue

FACTORY = FilterMaker("tarpit", "mailgate.filters.tarpit", "lets those wait who have something against them")

LISTED = ListedResult("bl.example", "198.51.100.7", ("127.0.0.2",), 1.0)


class Pit:
    """The filter with its clock; `waits` tells for how long a session is held back."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        built = build(Options.model_validate(options), services(clock=self.clock))
        assert isinstance(built, Tarpit)
        self.filter = built

    def waits(self, one: Session, stage: str = "rcpt") -> float:
        started = self.clock.seconds()
        verdict = wait_for(self.ask(one, stage), self.clock)
        if isinstance(verdict, Continue):
            (found,) = verdict.evidence
            assert isinstance(found, DelayedResult)
        else:
            assert verdict is None
        return round(self.clock.seconds() - started, 3)

    def ask(self, one: Session, stage: str = "rcpt") -> Any:
        match stage:
            case "connect":
                return self.filter.on_connect(one)
            case "helo":
                return self.filter.on_helo(one)
            case "mail":
                return self.filter.on_mail(one, transaction())
            case _:
                return self.filter.on_rcpt(one, transaction(), recipient())

    def refuse(self, session_id: str, times: int = 1, reply: str = "550 no") -> None:
        for _ in range(times):
            self.filter.observe(
                Refused(
                    at=0.0, session=session_id, client="", listener="mx", helo="", stage="rcpt", filter="", reason="",
                    reply=reply,
                )
            )  # fmt: skip

    def close(self, session_id: str) -> None:
        self.filter.observe(
            SessionClosed(
                at=0.0, session=session_id, client="", listener="mx", helo="", messages=0, seconds=1.0, cause="quit"
            )
        )


def stranger(number: int = 0, *evidence: object, **changes: Any) -> Session:
    one = session("198.51.100.7", id=f"SESSION{number}", **changes)
    for value in evidence:
        one.evidence.add(value)
    return one


@pytest.mark.parametrize("stage", ["connect", "helo", "rcpt"])
def test_who_has_nothing_against_him_never_waits(stage: str) -> None:
    pit = Pit()
    assert pit.ask(stranger(), stage) is None
    assert pit.ask(stranger(0, HeloResult("client.example", "ok"), object()), stage) is None


@pytest.mark.parametrize("stage", ["connect", "helo", "rcpt"])
def test_a_fact_makes_each_answer_wait(stage: str) -> None:
    pit = Pit(delay="2s")
    listed = stranger(0, LISTED)
    assert 2 <= pit.waits(listed, stage) < 2.2
    assert 2 <= pit.waits(listed, stage) < 2.2


def test_facts_are_chosen_by_their_words() -> None:
    greeted = stranger(0, HeloResult("localhost", "single_label"))
    assert Pit().waits(greeted) == 0
    assert Pit(when=["helo.*"]).waits(greeted) >= 2
    assert Pit(when=["helo.*"]).waits(stranger(1, HeloResult("client.example", "ok"))) == 0
    assert Pit(when=["helo.literal", "helo.single_label"]).waits(greeted) >= 2
    assert Pit(when=["single_label", "helo"]).waits(greeted) == 0


def test_what_is_known_of_the_transaction_counts_at_rcpt() -> None:
    pit = Pit()
    mail = transaction()
    mail.evidence.add(LISTED)
    answer = pit.filter.on_rcpt(stranger(), mail, recipient())
    verdict = wait_for(answer, pit.clock)
    assert isinstance(verdict, Continue)
    (found,) = verdict.evidence
    assert isinstance(found, DelayedResult)
    assert found.why == "dnsbl.bl.example"
    assert "held back for 2 s because of dnsbl.bl.example" in found.summary()
    assert found.facts() == ("tarpit",)


def test_refusals_make_a_session_wait_longer_and_longer() -> None:
    pit = Pit(delay="2s")
    one, other = stranger(1), stranger(2)
    waits = []
    for _ in range(6):
        pit.refuse(one.id)
        waits.append(round(pit.waits(one)))
    assert waits == [4, 6, 8, 9, 9, 9]
    assert pit.waits(other) == 0


def test_who_may_come_again_has_been_refused_nothing() -> None:
    pit = Pit()
    for reply in ("451 4.7.1 Greylisted", "450 4.7.1 Too many messages", ""):
        pit.refuse("SESSION0", 5, reply)
    assert pit.ask(stranger()) is None
    pit.refuse("SESSION0")
    assert pit.waits(stranger()) >= 2


def test_refusals_make_nobody_wait_where_that_is_not_wanted() -> None:
    pit = Pit(when=["dnsbl.*"])
    one = stranger()
    pit.refuse(one.id, 5)
    assert pit.waits(one) == 0


def test_a_session_waits_no_longer_than_max_total() -> None:
    pit = Pit(delay="4s", max_total="10s")
    one = stranger(0, LISTED)
    assert [round(pit.waits(one)) for _ in range(5)] == [4, 4, 2, 0, 0]
    assert round(pit.waits(stranger(1, LISTED))) == 4
    assert round(Pit(max_total="0s").waits(one)) == 0


def test_what_was_known_of_a_session_is_forgotten_with_it() -> None:
    pit = Pit(delay="4s", max_total="4s")
    one = stranger(0, LISTED)
    assert pit.waits(one) >= 4
    assert pit.waits(one) == 0
    pit.close(one.id)
    assert pit.waits(one) >= 4
    pit.refuse("other")
    pit.close("other")
    assert pit.waits(session("198.51.100.7", id="other")) == 0


def test_sessions_without_end_are_remembered_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarpit, "_MOST_SESSIONS", 100)
    pit = Pit()
    for number in range(1000):
        pit.refuse(f"SESSION{number}")
    assert pit.waits(stranger(0)) == 0
    assert pit.waits(stranger(999)) > 0


def test_only_so_many_wait_at_one_time() -> None:
    pit = Pit(max_sessions=3)
    answers = [as_deferred(pit.ask(stranger(number, LISTED))) for number in range(5)]
    assert [answer.called for answer in answers] == [False, False, False, True, True]
    answers[0].addErrback(lambda _: None)
    answers[0].cancel()
    assert not as_deferred(pit.ask(stranger(5, LISTED))).called
    assert as_deferred(pit.ask(stranger(6, LISTED))).called
    pit.clock.advance(2)
    assert [answer.called for answer in answers] == [True] * 5
    assert not as_deferred(pit.ask(stranger(7, LISTED))).called


def test_who_hangs_up_leaves_no_timer_behind_and_what_he_waited_counts() -> None:
    pit = Pit(delay="4s", max_total="5s")
    one = stranger(0, LISTED)
    ends: list[object] = []
    answer = pit.ask(one)
    assert isinstance(answer, Awaitable)
    deferred: Deferred[object] = as_deferred(answer)
    deferred.addErrback(lambda failure: ends.append(failure.type))
    pit.clock.advance(3)
    deferred.cancel()
    assert (ends, pit.clock.getDelayedCalls()) == ([CancelledError], [])
    assert round(pit.waits(one)) == 2


def test_who_never_waits() -> None:
    pit = Pit()
    for one in (
        stranger(0, LISTED, identity=Identity("ann", "PLAIN")),
        session("127.0.0.1"),
        session("192.168.1.1"),
        session(Client(None)),
    ):
        one.evidence.add(LISTED)
        pit.refuse(one.id)
        assert pit.ask(one) is None
    pit = Pit(exempt=["198.51.100.0/24"])
    assert pit.ask(stranger(0, LISTED)) is None
    inside = session(Client(ip_address("10.0.0.1"), 1))
    inside.evidence.add(LISTED)
    assert pit.waits(inside) >= 2


def test_it_stands_at_the_stages_that_were_chosen() -> None:
    def stages(**options: Any) -> list[str]:
        every = (IConnectFilter, IHeloFilter, IMailFilter, IRecipientFilter, IEventObserver)
        return [one.__name__ for one in every if one.providedBy(Pit(**options).filter)]

    assert stages() == ["IConnectFilter", "IHeloFilter", "IRecipientFilter", "IEventObserver"]
    assert stages(stages=["mail", "mail"]) == ["IMailFilter", "IEventObserver"]
    assert Pit(stages=["mail"]).waits(stranger(0, LISTED), "mail") >= 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delay": "10s"}, "at most 9s"),
        ({"delay": "0s"}, "at least"),
        ({"when": ["no fact!"]}, "no fact like"),
        ({"stages": []}, "at least 1"),
        ({"stages": ["data"]}, "stages"),
        ({"max_sessions": 0}, "max_sessions"),
    ],
)
def test_mistakes(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Options.model_validate(options)


class TestContract(FilterContract):
    factory = FACTORY
    varies = "it counts how long the session has waited"

    def occasions(self) -> list[Occasion]:
        return [Occasion(), Occasion(session=stranger(0, LISTED)), Occasion(session=stranger(1, LISTED, helo=""))]
