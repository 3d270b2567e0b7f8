"""What tests of sources of recipients share: tools, a prober that answers as it is told, and what a source says."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import NULL_PATH, Address
from mailgate.backends.questions import IBackendReactor
from mailgate.events import RecipientsChanged
from mailgate.interfaces import ICounters, IProber, ProbeResult, RecipientStatus
from mailgate.recipients.source import ISource, SourceTools
from mailgate.stores.counters import MemoryCounters
from mailgate.testing import EventRecorder

__all__ = ["KNOWN", "RESTRICTED", "UNAVAILABLE", "UNKNOWN", "FakeProber", "changes", "lookup", "source_tools"]

KNOWN, UNKNOWN = RecipientStatus.KNOWN, RecipientStatus.UNKNOWN
UNAVAILABLE, RESTRICTED = RecipientStatus.UNAVAILABLE, RecipientStatus.RESTRICTED


@implementer(IProber)
class FakeProber:
    """Keeps questions in `asked` until the test answers them."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, str]] = []
        self.waiting: list[Deferred[ProbeResult]] = []

    def probe(self, route: str, address: Address, *, stage: str, sender: Address = NULL_PATH) -> Deferred[ProbeResult]:
        self.asked.append((route, str(address), stage, str(sender)))
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def answer(self, status: RecipientStatus, reply: str = "", reason: str = "") -> None:
        """Answer the oldest question."""
        self.waiting.pop(0).callback(ProbeResult(status, reply, reason))


def source_tools(
    clock: Clock | IBackendReactor | None = None,
    *,
    prober: IProber | None = None,
    state_dir: Path = Path("nowhere"),
    counters: ICounters | None = None,
    leads: bool = True,
) -> SourceTools:
    clock = clock or Clock()
    return SourceTools(
        reactor=cast(IBackendReactor, clock),
        events=EventRecorder(),
        counters=counters or MemoryCounters(cast(Clock, clock), 1000),
        prober=prober or FakeProber(),
        state_dir=state_dir,
        leads=leads,
    )


def changes(tools: SourceTools) -> list[tuple[str, str]]:
    """What has been told of states, with whatever came with it."""
    recorder = cast(EventRecorder, tools.events)
    return [(event.state, event.reason) for event in recorder.of(RecipientsChanged)]


def lookup(source: ISource, address: str) -> RecipientStatus | Deferred[RecipientStatus]:
    """What is at hand, or else the question."""
    local_part, _, domain = address.rpartition("@")
    found = source.at_hand(local_part, domain)
    return found if found is not None else cast(Deferred[RecipientStatus], source.ask(local_part, domain))
