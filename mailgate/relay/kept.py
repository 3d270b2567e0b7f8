"""What is kept of the filters' findings with a message that goes into quarantine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from msgspec.structs import replace

from mailgate.address import Address
from mailgate.envelope import KEPT_STEPS, Evidence, Kept, Session, TraceStep, Transaction
from mailgate.findings import Finding
from mailgate.relay.parts import Part

__all__ = ["kept_of"]

#: Facts, and characters of a text that are kept: what a peer sends is not to fill the spool's rows.
_MOST_FACTS, _LONGEST = 500, 1000
#: Groups of recipients that have facts of their own.
_MOST_GROUPS = 100


def kept_of(session: Session, transaction: Transaction, part: Part, *, has_original: bool) -> Kept:
    """The trace, of which objections and the end count most, and the facts of the evidence, each once; of a part, which
    recipients they are about, and how the sender has named these."""
    steps = [*session.trace, *transaction.trace]
    weight = sorted(range(len(steps)), key=lambda at: (steps[at].verdict != "continue", at))
    steps = [steps[at] for at in sorted(weight[-KEPT_STEPS:])]
    about_client = (transaction.judged_as or session).evidence
    facts = dict.fromkeys(islice(_facts((*about_client, *transaction.evidence)), _MOST_FACTS))
    named = {one.number: part.named_by.get(one.number, one.address) for one in part.recipients}
    return Kept(
        steps=tuple(map(_cut, steps)),
        facts=tuple(facts),
        has_original=has_original,
        facts_for=tuple(_facts_for(named, facts, about_client, transaction.evidence)),
        named=tuple(
            (one.number, named[one.number].local_part, named[one.number].domain)
            for one in part.recipients
            if named[one.number] != one.address
        ),
    )


def _cut(step: TraceStep) -> TraceStep:
    if max(len(step.reason), len(step.found), len(step.recipient)) <= _LONGEST:
        return step
    return replace(
        step, reason=step.reason[:_LONGEST], found=step.found[:_LONGEST], recipient=step.recipient[:_LONGEST]
    )


def _facts(evidence: Iterable[object]) -> Iterator[str]:
    for one in evidence:
        if isinstance(one, Finding):
            yield from (str(fact)[:_LONGEST] for fact in one.facts())


def _facts_for(
    named: Mapping[int, Address], facts: Iterable[str], *evidence: Evidence
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """As in Kept. Beyond so many groups, all facts are about the rest."""
    if all(one.is_about_all for one in evidence):
        return
    places = {fact: place for place, fact in enumerate(facts)}
    numbers: dict[Address, list[int]] = {}
    for number, address in named.items():
        numbers.setdefault(address, []).append(number)
    about = {id(one): {places[fact] for fact in _facts([one]) if fact in places} for found in evidence for one in found}
    for addresses, found in islice(Evidence.shared(numbers, *evidence), _MOST_GROUPS):
        group = tuple(number for address in addresses for number in numbers[address])
        yield group, tuple(sorted(set().union(*(about[id(one)] for one in found))))
