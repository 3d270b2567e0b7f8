"""What `mailgate try` tells of recipients of whom filters think differently: what one answer of SMTP makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import ListenerSection
from mailgate.envelope import Identity, Session, Transaction
from mailgate.interfaces import IHeloFilter, IMailFilter, IMessageFilter
from mailgate.message import Content, Message
from mailgate.pipeline.member import Member
from mailgate.pipeline.runner import Pipeline
from mailgate.rehearsal.play import GoOn, Rehearsal, rehearse
from mailgate.reply import Reply
from mailgate.smtp.answers import may_report
from mailgate.testing import EventRecorder, session, transaction, wait_for
from mailgate.verdict import Defer, Quarantine, Reject, Verdict

ANN, BOB, EVE = (Address(name, "example.org") for name in ("ann", "bob", "eve"))
LATER, NO = Reply.of(451, "4.7.1", "Later"), Reply.of(550, "5.7.1", "No")


@implementer(IMessageFilter)
class Says:
    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = verdicts

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Verdict]:
        return self.verdicts


class Everywhere:
    def route(self, *_: Any) -> str:
        return "box"


def played(*verdicts: Verdict, protocol: str = "ESMTP", may_report: bool = False) -> Rehearsal:
    clock = Clock()
    pipeline = Pipeline([[Member("says", Says(*verdicts))]], clock, EventRecorder())
    found: Deferred[Rehearsal] = Deferred.fromCoroutine(
        rehearse(
            pipeline,
            Everywhere(),  # type: ignore[arg-type]  # all that is asked of it
            session(protocol=protocol),
            transaction(recipients=[]),
            "client.example",
            [ANN, BOB, EVE],
            Content(b"Subject: x\r\n\r\nhello\r\n"),
            may_report=may_report,
        )
    )
    return wait_for(found, clock)


def outcomes(rehearsal: Rehearsal) -> list[str]:
    return [one.outcome for one in rehearsal.recipients]


def test_one_that_is_deferred_defers_all() -> None:
    found = played(Defer(LATER, "busy", (BOB,)), Reject(NO, "bad", (EVE,)))
    assert outcomes(found) == ["deferred"] * 3
    ann, bob, eve = found.recipients
    assert ann.then is not None
    assert eve.then is not None
    assert (ann.reply, ann.then.outcome, ann.then.route) == (str(LATER), "taken", "box")
    assert "another recipient" in ann.reason
    assert (bob.reason, bob.then) == ("busy", None)
    assert (eve.reply, eve.then.outcome, eve.then.reply) == (str(LATER), "refused", str(NO))
    assert not found.all_taken


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"protocol": "LMTP"}, ["taken", "deferred", "refused"]),
        ({"protocol": "LMTP", "may_report": True}, ["taken", "deferred", "refused"]),
    ],
)
def test_lmtp_has_an_answer_for_each(how: dict[str, Any], expected: list[str]) -> None:
    assert outcomes(played(Defer(LATER, "busy", (BOB,)), Reject(NO, "bad", (EVE,)), **how)) == expected


@pytest.mark.parametrize(
    ("refused_for_some", "identity", "expected"),
    [("report", None, True), ("quarantine", None, False), ("quarantine", Identity("ann", "PLAIN"), True)],
)
def test_who_may_get_a_report(refused_for_some: str, identity: Identity | None, expected: bool) -> None:
    listener = ListenerSection.model_validate(
        {"name": "mx", "endpoints": ["tcp:0"], "pipeline": "mx", "refused_for_some": refused_for_some}
    )
    assert may_report(listener, session(identity=identity)) is expected


@pytest.mark.parametrize(("may_report", "fate"), [(False, "quarantined"), (True, "refused")])
def test_what_is_refused_for_some(may_report: bool, fate: str) -> None:
    found = played(Reject(NO, "bad", (EVE,)), Quarantine("odd", (BOB,)), may_report=may_report)
    assert outcomes(found) == ["taken", "quarantined", fate]


@implementer(IHeloFilter, IMailFilter, IMessageFilter)
class AtStages:
    """Says at each stage what is given for it; `asked` are the stages at which it was."""

    def __init__(self, **verdicts: Verdict) -> None:
        self.verdicts = verdicts
        self.asked: list[str] = []

    def say(self, stage: str) -> Verdict | None:
        self.asked.append(stage)
        return self.verdicts.get(stage)

    def on_helo(self, session: Session) -> Verdict | None:
        return self.say("helo")

    def on_mail(self, session: Session, transaction: Transaction) -> Verdict | None:
        return self.say("mail")

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict | None:
        return self.say("message")


def staged(says: AtStages, go_on: GoOn, text: bytes | None = b"Subject: x\r\n\r\n") -> Rehearsal:
    clock = Clock()
    pipeline = Pipeline([[Member("says", says)]], clock, EventRecorder())
    found: Deferred[Rehearsal] = Deferred.fromCoroutine(
        rehearse(
            pipeline,
            Everywhere(),  # type: ignore[arg-type]  # all that is asked of it
            session(),
            transaction(recipients=[]),
            "client.example",
            [ANN],
            None if text is None else Content(text),
            go_on=go_on,
        )
    )
    return wait_for(found, clock)


def chain(rehearsal: Rehearsal) -> list[str]:
    (fate,) = rehearsal.recipients
    outcomes = [fate.outcome]
    while fate.then is not None:
        fate = fate.then
        outcomes.append(fate.outcome)
    return outcomes


@pytest.mark.parametrize(
    ("go_on", "expected", "asked"),
    [
        ("never", ["deferred"], ["helo"]),
        ("deferred", ["deferred", "refused"], ["helo", "mail"]),
        ("always", ["deferred", "taken"], ["helo", "mail", "message"]),
    ],
)
def test_behind_which_answers_it_goes_on(go_on: GoOn, expected: list[str], asked: list[str]) -> None:
    says = AtStages(helo=Defer(LATER, "busy"), mail=Reject(NO, "bad"))
    assert chain(staged(says, go_on)) == expected
    assert says.asked == asked


def test_without_content_it_ends_before_it() -> None:
    says = AtStages()
    assert chain(staged(says, "never", None)) == ["open"]
    assert chain(staged(AtStages(mail=Defer(LATER, "busy")), "deferred", None)) == ["deferred", "open"]
    assert says.asked == ["helo", "mail"]
