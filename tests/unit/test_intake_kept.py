"""What goes into quarantine is kept with what its filters found and, where they changed it, as it came."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from mailgate.envelope import Kept, Transaction
from mailgate.envelope import TraceStep as Step
from mailgate.findings import Finding
from mailgate.message import Splice
from mailgate.relay.kept import kept_of
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
    kept = kept_of(session(), found, has_original=False)
    assert len(kept.steps) <= 300
    assert kept.steps[-1].filter == "f1999"
    assert max(len(step.reason) for step in kept.steps) == 1000
    assert len(kept.facts) <= 500
    assert max(map(len, kept.facts)) <= 1000
