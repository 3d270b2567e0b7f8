"""What is kept of the filters' findings with a message that goes into quarantine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from msgspec.structs import replace

from mailgate.envelope import KEPT_STEPS, Kept, Session, TraceStep, Transaction
from mailgate.findings import Finding

__all__ = ["kept_of"]

#: Facts, and characters of a text that are kept: what a peer sends is not to fill the spool's rows.
_MOST_FACTS, _LONGEST = 500, 1000


def kept_of(session: Session, transaction: Transaction, *, has_original: bool) -> Kept:
    """The trace, of which objections and the end count most, and the facts of the evidence; each fact once."""
    steps = [*session.trace, *transaction.trace]
    weight = sorted(range(len(steps)), key=lambda at: (steps[at].verdict != "continue", at))
    steps = [steps[at] for at in sorted(weight[-KEPT_STEPS:])]
    facts = dict.fromkeys(islice(_facts(session, transaction), _MOST_FACTS))
    return Kept(steps=tuple(map(_cut, steps)), facts=tuple(facts), has_original=has_original)


def _cut(step: TraceStep) -> TraceStep:
    if max(len(step.reason), len(step.found), len(step.recipient)) <= _LONGEST:
        return step
    return replace(
        step, reason=step.reason[:_LONGEST], found=step.found[:_LONGEST], recipient=step.recipient[:_LONGEST]
    )


def _facts(session: Session, transaction: Transaction) -> Iterator[str]:
    for one in (*session.evidence, *transaction.evidence):
        if isinstance(one, Finding):
            yield from (str(fact)[:_LONGEST] for fact in one.facts())
