"""What goes into quarantine is kept with what its filters found and, where they changed it, as it came."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from mailgate.address import Address
from mailgate.envelope import EnvelopeRecipient, Kept, Target, Transaction
from mailgate.envelope import TraceStep as Step
from mailgate.findings import Finding
from mailgate.message import Splice
from mailgate.relay.kept import kept_of
from mailgate.relay.parts import parts_of
from mailgate.testing import MemoryOriginals, session, transaction, wait_for
from mailgate.verdict import Continue, Quarantine
from tests.unit.test_intake import DATA, Bench
from tests.unit.test_intake_edits import TOP

BAD = Quarantine("has found Eicar")


@dataclass(frozen=True)
class Found(Finding):
    words: tuple[str, ...]

    def facts(self) -> Sequence[str]:
        return self.words


class KeptBench(Bench):
    """Its transactions have a trace, evidence, and perhaps an edit of the body."""

    def __init__(self) -> None:
        super().__init__()
        self.originals = MemoryOriginals()
        self.intake._originals = self.originals
        self.splices: tuple[Splice, ...] = ()

    def transaction(self, recipients: int) -> Transaction:
        found = super().transaction(recipients)
        found.edits += self.splices
        found.trace.append(Step("message", "av", "quarantine", "has found Eicar"))
        found.evidence.extend([Found(("clamav.found", "clamav.found.eicar")), object(), Found(("spf.pass",))])
        return found

    def kept(self) -> tuple[str, Kept | None]:
        (lease,) = self.delivered
        return lease.envelope.listener, lease.envelope.kept


def test_what_was_found_is_kept_with_what_goes_into_quarantine() -> None:
    bench = KeptBench()
    bench.take(BAD, Continue())
    listener, kept = bench.kept()
    assert listener == session().listener
    assert kept is not None
    assert kept.steps == (Step("message", "av", "quarantine", "has found Eicar"),)
    assert kept.facts == ("clamav.found", "clamav.found.eicar", "spf.pass")
    assert not kept.has_original
    assert bench.originals.kept == {}


@pytest.mark.parametrize("splices", [(), (TOP,)])
def test_nothing_is_kept_with_what_goes_on(splices: tuple[Splice, ...]) -> None:
    bench = KeptBench()
    bench.splices = splices
    bench.take(Continue())
    assert bench.kept() == (session().listener, None)
    assert bench.originals.kept == {}


def test_what_came_is_kept_beside_what_is_made_of_it() -> None:
    bench = KeptBench()
    bench.splices = (TOP,)
    bench.take(BAD)
    _, kept = bench.kept()
    assert kept is not None
    assert kept.has_original
    assert bench.originals.kept == {"0Q": DATA}
    assert bench.delivered[0].content.read() != DATA


def test_what_cannot_be_kept_as_it_came_is_not_taken() -> None:
    bench = KeptBench()
    bench.splices = (TOP,)
    bench.originals.error = OSError(errno.ENOSPC, "full")
    (reply,) = bench.take(BAD)
    assert reply.code == 452
    assert bench.delivered == []
    assert wait_for(bench.spool.content("0Q")) is None


def test_what_is_kept_has_bounds() -> None:
    found = transaction()
    found.trace += [Step("rcpt", f"f{number}", reason="x" * 5000) for number in range(2000)]
    found.evidence.extend(Found((f"kind.{number}", "y" * 5000)) for number in range(2000))
    kept = kept_of(session(), found, parts_of(found)[0], has_original=False)
    assert len(kept.steps) <= 300
    assert kept.steps[-1].filter == "f1999"
    assert max(len(step.reason) for step in kept.steps) == 1000
    assert len(kept.facts) <= 500
    assert max(map(len, kept.facts)) <= 1000


def test_what_is_known_of_the_client_is_kept_of_the_one_that_filters_have_judged() -> None:
    peer, client, found = session(), session(), transaction()
    peer.evidence.add(Found(("fcrdns.pass",)))
    client.evidence.add(Found(("fcrdns.fail", "helo.unknown")))
    found.evidence.add(Found(("spf.fail",)))
    assert kept_of(peer, found, parts_of(found)[0], has_original=False).facts == ("fcrdns.pass", "spf.fail")
    found.judged_as = client
    kept = kept_of(peer, found, parts_of(found)[0], has_original=False)
    assert kept.facts == ("fcrdns.fail", "helo.unknown", "spf.fail")


class SplitBench(KeptBench):
    """What was found for its second recipient only; its third is an alias of two."""

    def transaction(self, recipients: int) -> Transaction:
        found = super().transaction(recipients)
        second = found.recipients[1].address
        found.evidence.add_for(Found(("rspamd.reject",)), lambda address: address == second)
        targets = (Target(Address("x", "b.test"), "box"), Target(Address("y", "b.test"), "box"))
        found.recipients[2] = replace(found.recipients[2], targets=targets, route="")
        return found


def test_it_is_kept_of_whom_it_was_found_and_how_they_were_named() -> None:
    bench = SplitBench()
    bench.take(BAD, BAD, BAD)
    _, kept = bench.kept()
    assert kept is not None
    (lease,) = bench.delivered
    assert kept.facts == ("clamav.found", "clamav.found.eicar", "spf.pass", "rspamd.reject")
    first, second, *others = lease.envelope.recipients
    assert kept.facts_of(second.number) == list(kept.facts)
    assert [str(one.address) for one in others] == ["x@b.test", "y@b.test"]
    named = bench.transaction(3).recipients
    for one, by in zip((first, *others), (named[0], named[2], named[2]), strict=True):
        assert kept.facts_of(one.number) == ["clamav.found", "clamav.found.eicar", "spf.pass"]
        assert kept.address_of(one) == by.address
    assert [number for number, _, _ in kept.named] == [one.number for one in others]


def test_what_was_found_for_all_is_kept_once() -> None:
    bench = KeptBench()
    bench.take(BAD, BAD)
    _, kept = bench.kept()
    assert kept is not None
    assert (kept.facts_for, kept.named) == ((), ())


def test_facts_of_recipients_have_bounds() -> None:
    found = transaction(recipients=[f"r{number}@b.test" for number in range(300)])
    for one in found.recipients:
        found.evidence.add_for(Found((str(one.address),)), lambda address, own=one.address: address == own)  # type: ignore[misc]
    part = parts_of(found)[0]
    part.recipients = [EnvelopeRecipient(n, one.address, "") for n, one in enumerate(found.recipients)]
    kept = kept_of(session(), found, part, has_original=False)
    assert len(kept.facts_for) == 100
    assert kept.facts_of(7) == ["r7@b.test"]
    assert kept.facts_of(299) == kept.facts


def test_what_was_found_for_all_is_asked_for_its_facts_once_however_many_groups_there_are() -> None:
    asked: list[None] = []

    class Asked(Finding):
        def facts(self) -> Sequence[str]:
            asked.append(None)
            return "spf.pass", "dkim.pass"

    found = transaction(recipients=[f"r{number}@b.test" for number in range(50)])
    found.evidence.add(Asked())
    for one in found.recipients:
        found.evidence.add_for(Found((str(one.address),)), lambda address, own=one.address: address == own)  # type: ignore[misc]
    part = parts_of(found)[0]
    part.recipients = [EnvelopeRecipient(n, one.address, "") for n, one in enumerate(found.recipients)]
    kept = kept_of(session(), found, part, has_original=False)
    assert len(kept.facts_for) == 50
    assert all(kept.facts_of(number) == ["spf.pass", "dkim.pass", f"r{number}@b.test"] for number in range(50))
    assert len(asked) <= 2
