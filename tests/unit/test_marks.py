"""Fields in the name of a filter that is out of order: whoever has sent them, they do not go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import Address
from mailgate.envelope import Session, Transaction
from mailgate.filters import attachments, authentication_results, clamav, rspamd, score, spamassassin
from mailgate.interfaces import IMarkingModifier, IMessageFilter, IMessageModifier
from mailgate.message import AddHeader, Content, Edit, For, Message, RemoveHeader, apply_edits
from mailgate.pipeline.breaker import FAILURES
from mailgate.pipeline.member import Member
from mailgate.pipeline.runner import Pipeline
from mailgate.pipeline.scope import Scope
from mailgate.testing import EventRecorder, message, services, session, transaction, wait_for
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict

MAIL = b"X-Mark: good\r\nSubject: x\r\n\r\nbody\r\n"
GONE = RemoveHeader("X-Mark")
ANN, BOB = Address("ann", "example.org"), Address("bob", "example.org")


@implementer(IMessageFilter, IMarkingModifier)
class Marks:
    """A scanner with a field of its own; `fault` is what it does instead of answering."""

    def __init__(self, fault: Any = None, *, forged: Any = (GONE,)) -> None:
        self.fault = fault
        self.answer = forged

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Any:
        return self._fail()

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Any:
        failed = self._fail()
        return [*self.forged(message), AddHeader("X-Mark", "bad")] if failed is None else failed

    def forged(self, message: Message) -> Sequence[Edit]:
        if isinstance(self.answer, Exception):
            raise self.answer
        found: Sequence[Edit] = self.answer if message.values("X-Mark") else ()
        return found

    def _fail(self) -> Any:
        if isinstance(self.fault, Exception):
            raise self.fault
        return self.fault() if callable(self.fault) else self.fault


@implementer(IMessageModifier)
class ForBob:
    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Any]:
        return [For((BOB,), (AddHeader("X-Bob", "his"),))]


OnFailure = Literal["defer", "continue", "reject", "quarantine"]


class Bench:
    def __init__(self, *members: Member) -> None:
        self.clock = Clock()
        self.pipeline = Pipeline([[member] for member in members], self.clock, EventRecorder())

    def send(self, data: bytes = MAIL) -> list[Verdict]:
        self.mail = transaction(recipients=[ANN, BOB])
        judged = self.pipeline.message(session(), self.mail, Message(Content(data)))
        return list(wait_for(judged, self.clock))


@pytest.mark.parametrize("fault", [ValueError("boom"), Deferred, 5], ids=["fails", "is late", "talks nonsense"])
@pytest.mark.parametrize(
    ("on_failure", "kind"), [("continue", Continue), ("quarantine", Quarantine), ("defer", Defer), ("reject", Reject)]
)
def test_a_filter_that_is_out_of_order_lets_nothing_through_in_its_name(
    fault: Any, on_failure: OnFailure, kind: type
) -> None:
    scanner = Marks(fault)
    bench = Bench(Member("scan", scanner, on_failure=on_failure, deadline=1.0))
    for _ in range(FAILURES + 2):
        assert list(map(type, bench.send())) == [kind, kind]
        assert bench.mail.edits == ([GONE] if on_failure in ("continue", "quarantine") else [])
    assert "not asked" in bench.mail.trace[0].reason  # its breaker is open
    bench.send(b"Subject: x\r\n\r\nbody\r\n")
    assert bench.mail.edits == []


def test_the_trace_says_what_is_removed() -> None:
    bench = Bench(Member("scan", Marks(ValueError("boom")), on_failure="continue"))
    bench.send()
    assert [(one.stage, one.verdict, one.reason) for one in bench.mail.trace][-1:] == [
        ("modify", "edit", "remove X-Mark")
    ]


def test_for_some_it_is_so_for_those() -> None:
    scanner = Marks(ValueError("boom"))
    member = Member("scan", scanner, on_failure="continue", scope=Scope(["bob@example.org"], [], Clock()))
    bench = Bench(member)
    bench.send()
    assert (bench.mail.edits, bench.mail.edits_for) == ([], (For((BOB,), (GONE,)),))
    bench = Bench(Member("split", ForBob()), Member("scan", scanner, on_failure="continue"))
    bench.send()
    assert bench.mail.edits_for == (For((ANN,), (GONE,)), For((BOB,), (AddHeader("X-Bob", "his"), GONE)))


def test_in_shadow_mode_it_changes_nothing() -> None:
    bench = Bench(Member("scan", Marks(ValueError("boom")), mode="shadow"))
    bench.send()
    assert bench.mail.edits == []


@pytest.mark.parametrize("forged", [ValueError("boom"), 7, ("X-Mark",)])
def test_one_that_cannot_even_tell_that_does_no_harm(forged: Any) -> None:
    bench = Bench(Member("scan", Marks(ValueError("boom"), forged=forged), on_failure="continue"))
    assert [type(one) for one in bench.send()] == [Continue, Continue]
    assert bench.mail.edits == []


@pytest.mark.parametrize(
    ("module", "options", "fields"),
    [
        (clamav, {}, ["X-Virus-Status"]),
        (rspamd, {}, ["X-Spam"]),
        (rspamd, {"spam_field": ""}, []),
        (spamassassin, {}, ["X-Spam-Flag", "X-Spam-Level", "X-Spam-Status"]),
        (spamassassin, {"fields": False}, []),
        (score, {}, ["X-Spam-Flag", "X-Spam-Score", "X-Spam-Status"]),
        (attachments, {}, ["X-Mailgate-Attachments"]),
        (authentication_results, {}, ["Authentication-Results"]),
    ],
)
def test_the_fields_of_the_scanners(module: Any, options: dict[str, Any], fields: list[str], tmp_path: Path) -> None:
    built = module.build(module.Options.model_validate(options), services(clock=Clock()))
    assert IMarkingModifier.providedBy(built)
    hostname = services().hostname
    came = "".join(
        f"{name}: {value}\r\n"
        for name, value in (
            ("X-Virus-Status", "Clean"),
            ("x-spam", "No"),
            ("X-SPAM-FLAG", "NO"),
            ("X-Spam-Level", "*"),
            ("X-Spam-Score", "0"),
            ("X-Spam-Status", "No"),
            ("X-Mailgate-Attachments", "none"),
            ("Authentication-Results", f"{hostname}; spf=pass"),
            ("Subject", "x"),
        )
    ).encode()
    mail = message(came + b"\r\nbody\r\n")
    left = apply_edits(mail.content.header, built.forged(mail)).decode().lower()
    gone = [line for line in came.decode().lower().splitlines() if line not in left.splitlines()]
    assert sorted(line.partition(":")[0] for line in gone) == sorted(name.lower() for name in fields)
    assert built.forged(message(b"Subject: x\r\n\r\nbody\r\n")) == []
