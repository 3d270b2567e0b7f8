"""A quarantine for tests: filters that say what the test wants when they are asked again."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.load import load
from mailgate.config.places import Places
from mailgate.config.schema import Config
from mailgate.envelope import Envelope, EnvelopeRecipient, Kept, Origin, Session, TraceStep, Transaction
from mailgate.interfaces import Again, IRescan, Return, Selector
from mailgate.message import Content, Message
from mailgate.pipeline.registry import Registry
from mailgate.quarantine.office import QuarantineOffice
from mailgate.quarantine.originals import Originals
from mailgate.testing import EventRecorder, wait_for
from mailgate.testing.simulated import SimulatedSpool
from mailgate.web.operations import QueueOperations
from mailgate.web.quarantine import QuarantineOperations
from tests.unit.told_relay import ToldRelay

__all__ = [
    "CONFIG",
    "DATA",
    "DAY",
    "GATEWAY",
    "NO",
    "PASS",
    "START",
    "UNKNOWN",
    "QuarantineStand",
    "SaysRescan",
    "config_of",
]

START, DAY = 1_800_000_000.0, 86400.0
DATA = b"Subject: =?utf-8?q?caf=C3=A9?=\r\nFrom: Ann <ann@client.test>\r\n\r\nthe text\r\n"

PASS = Again("pass")
NO = Again("objects", "av", "has found Eicar")
UNKNOWN = Again("unknown", "av", "no answer within 10 s")

#: A gateway with one listener, "mx".
GATEWAY = """
[gateway]
hostname = "gate.test"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:2525:interface=127.0.0.1"]
pipeline = "mx"

[pipelines.mx]
filters = []

[routes.box]
transport = "discard"

[routing]
default = "box"
"""
CONFIG = f"{GATEWAY}\n[quarantine]\n"


@implementer(IRescan)
class SaysRescan:
    """Says of each recipient what `says` has for its address, "pass" where it has nothing; `asked` is what it saw."""

    names = frozenset({"av"})

    def __init__(self) -> None:
        self.says: dict[str, Again] = {}
        self.asked: list[tuple[Session, Transaction, bytes, Sequence[str] | None]] = []

    async def ask(
        self,
        session: Session,
        transaction: Transaction,
        message: Message,
        facts: Sequence[str] | None,
        of: Container[str] | None = None,
    ) -> Sequence[Again]:
        self.asked.append((session, transaction, message.content.read(), facts))
        return [self.says.get(str(one.address), PASS) for one in transaction.recipients]


def config_of(directory: Path, quarantine: str = "") -> Config:
    """A configuration with one listener, "mx"; `quarantine` are lines of that section."""
    path = directory / "quarantine.toml"
    path.write_text(CONFIG + quarantine)
    return load(path, Registry().find).config


class QuarantineStand:
    """A real spool on a clock, the quarantine's office and operations, and mail for them."""

    def __init__(self, directory: Path, quarantine: str = "") -> None:
        self.directory = directory
        self.clock = Clock()
        self.clock.advance(START)
        self.events = EventRecorder()
        self.spool = SimulatedSpool(directory / "spool", self.clock, events=self.events, min_free=0)
        self.relay = ToldRelay(self.spool, self.events, self.clock)
        self.originals = Originals(
            directory / "quarantine", now=self.clock.seconds, set_aside=Places(directory).set_aside
        )
        self.rescan = SaysRescan()
        self.office = QuarantineOffice(
            self.spool,
            self.events,
            self.relay,
            clock=self.clock,
            originals=self.originals,
            route_of=lambda recipient, sender: "box",
            incoming=self.spool.incoming,
        )
        self.use(quarantine)
        now = self.clock.seconds
        queue = QueueOperations(self.spool, self.events, self.relay, lambda: ("box",), now=now)
        self.operations = QuarantineOperations(
            self.spool,
            self.events,
            queue=queue,
            originals=self.originals,
            review=self.office.review,
            sending=self.office.sending,
            retention=self.office.retention,
            now=now,
        )

    def use(self, quarantine: str) -> None:
        """Go by these lines of [quarantine]."""
        self.office.use(config_of(self.directory, quarantine), {"mx": self.rescan})

    def add(
        self,
        queue_id: str,
        *recipients: str,
        reason: str = NO.reason,
        original: bytes = b"",
        dmarc: str = "eve@box.test",
        **more: Any,
    ) -> None:
        """A message, in quarantine for all of them whose reason is not ""; with `original`, as it came. `dmarc`: to
        whose mail another filter has objected as well, "" for all."""
        addresses = [Address.parse(one) for one in recipients or ("bob@box.test",)]
        kept = Kept(
            steps=(
                TraceStep("message", "av", "quarantine", NO.reason),
                TraceStep("message", "dmarc", "quarantine", "p=quarantine", recipient=dmarc),
            ),
            facts=("clamav.found", "spf.fail"),
            has_original=bool(original),
        )
        envelope = Envelope(
            **{
                "queue_id": queue_id,
                "sender": Address("ann", "client.test"),
                "recipients": tuple(EnvelopeRecipient(at, one, "box", reason) for at, one in enumerate(addresses)),
                "received": self.clock.seconds(),
                "size": len(DATA),
                "client": "client.test[192.0.2.1]",
                "origin": Origin(address="192.0.2.1", port=7, name="client.test", helo="client.test", protocol="ESMTP"),
                "listener": "mx",
                "kept": kept if reason else None,
                **more,
            }
        )
        if original:
            wait_for(self.originals.keep(queue_id, Content(original)))
        lease = wait_for(self.spool.accept(envelope, Content(DATA), self.clock.seconds() + 600))
        if lease.recipients:
            wait_for(self.spool.release_leases([Return(lease)]))

    def damage(self, queue_id: str) -> None:
        """Have the disk change an octet of its content."""
        database = self.spool._store.database
        database.execute("UPDATE messages SET content = replace(content, 'x', 'y') WHERE queue_id = ?", (queue_id,))
        database.commit()

    def states(self) -> dict[str, str]:
        """By recipient; several of one in the order of their messages."""
        return {one.recipient: one.state for one in wait_for(self.spool.view(Selector(), 1000))}

    def content(self, queue_id: str) -> tuple[Envelope, bytes]:
        """A message of the spool."""
        found = wait_for(self.spool.content(queue_id))
        assert found is not None
        return found[0], found[1].read()

    def ids(self) -> list[str]:
        """The messages of the spool."""
        return list(dict.fromkeys(one.queue_id for one in wait_for(self.spool.view(Selector(), 1000))))
