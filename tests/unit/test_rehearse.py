"""What `mailgate try` tells of recipients of whom filters think differently: what one answer of SMTP makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import Address
from mailgate.cli.rehearse import Rehearsal, rehearse
from mailgate.envelope import Session, Transaction
from mailgate.interfaces import IMessageFilter
from mailgate.message import Content, Message
from mailgate.pipeline.member import Member
from mailgate.pipeline.runner import Pipeline
from mailgate.reply import Reply
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


@pytest.mark.parametrize(("may_report", "fate"), [(False, "quarantined"), (True, "refused")])
def test_what_is_refused_for_some(may_report: bool, fate: str) -> None:
    found = played(Reject(NO, "bad", (EVE,)), Quarantine("odd", (BOB,)), may_report=may_report)
    assert outcomes(found) == ["taken", "quarantined", fate]
