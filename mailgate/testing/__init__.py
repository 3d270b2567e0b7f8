"""For tests of filters, others' and ours: fakes made of values, builders with sensible defaults, and FilterContract.

Nothing here touches the network or the reactor; time is a `twisted.internet.task.Clock` that the test advances.
"""

from __future__ import annotations

from mailgate.testing.answers import verdict_of, wait_for
from mailgate.testing.builders import message, recipient, services, session, transaction
from mailgate.testing.contract import FilterContract, Occasion
from mailgate.testing.fakes import EventRecorder, FakeDirectory, MemoryOriginals, Silent
from mailgate.testing.spool import MemorySpool
from mailgate.testing.zone import MemoryResolver

__all__ = [
    "EventRecorder",
    "FakeDirectory",
    "FilterContract",
    "MemoryOriginals",
    "MemoryResolver",
    "MemorySpool",
    "Occasion",
    "Silent",
    "message",
    "recipient",
    "services",
    "session",
    "transaction",
    "verdict_of",
    "wait_for",
]
