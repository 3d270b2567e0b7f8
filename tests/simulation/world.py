"""One run: who sends what to whom, and what is measured of it."""

from __future__ import annotations

import random
from bisect import bisect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from zope.interface import implementer

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.events import Deferred as DeferredEvent
from mailgate.events import Delivered, Event
from mailgate.interfaces import IEvents
from mailgate.message import Content
from mailgate.relay.locate import Locator
from mailgate.relay.ready.jobs import LEASE_TIME
from mailgate.testing.simulated import SimulatedSpool
from tests.simulation.clock import VirtualClock
from tests.simulation.sites import KINDS, Internet, Kind, Site
from tests.unit.relaying import configuration, make_relay

__all__ = ["START", "Measured", "Plan", "World"]

START = 1_800_000_000.0
CONNECTIONS = 20
#: The twins: both take a transaction every two seconds over each connection; one of them has a list's recipients.
BUSY, CALM = "busy.test", "calm.test"
TWIN = Kind("busy", service=2.0)
#: Recipients of the list that go in one transaction.
TOGETHER = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`messages` to `sites` arrive evenly in `sending` seconds; the run ends after `seconds`.

    A message for `list_size` recipients at the busy twin comes after a minute, and then a single one for each twin
    every `single_every` seconds.
    """

    messages: int = 1_000_000
    sites: int = 10_000
    sending: float = 3600.0
    seconds: float = 5400.0
    list_size: int = 50_000
    single_every: float = 3.0
    max_active: int = 10_000
    seed: int = 1


@dataclass(slots=True)
class Measured:
    """What came of it, by minute where it is a list; delays in seconds."""

    delivered: Counter[str] = field(default_factory=Counter)  # by kind
    deferred: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    by_minute: list[int] = field(default_factory=list)
    ideal: list[float] = field(default_factory=list)
    jobs: list[int] = field(default_factory=list)
    queues: list[int] = field(default_factory=list)
    single_busy: list[float] = field(default_factory=list)  # delays
    single_calm: list[float] = field(default_factory=list)
    fast: list[float] = field(default_factory=list)
    list_done: list[int] = field(default_factory=list)
    ideal_by_kind: Counter[str] = field(default_factory=Counter)
    too_many_sessions: int = 0


@implementer(IEvents)
class World:
    """A gateway with its spool in `folder`, and the sites."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.clock = VirtualClock(START)
        self.random = random.Random(plan.seed)
        self.measured = Measured()
        self.sites = self._make_sites()
        internet = Internet(self.sites, self.clock)
        self.spool = SimulatedSpool(folder, self.clock, events=self)
        config = configuration(
            routes={"out": {"transport": "smtp", "connections": CONNECTIONS}},
            spool={"max_active": plan.max_active},
            shaping={"busy": {"domains": [BUSY, CALM], "recipients_per_message": TOGETHER}},
        )
        self.relay = make_relay(
            self.spool,
            config,
            transports=internet,
            locator=Locator(internet, "gw.example.org", self.random),
            events=self,
            clock=self.clock,
            random=self.random,
        )
        self._ids = 0
        self._domains = list(self.sites)[2:]
        # A few sites get much of the mail, most of them little.
        self._weights = list(accumulate(1 / (number + 5) ** 0.9 for number in range(len(self._domains))))
        self._arrivals: list[Counter[str]] = []

    def _make_sites(self) -> dict[str, Site]:
        kinds, shares = list(KINDS), list(KINDS.values())
        sites = {BUSY: Site(TWIN), CALM: Site(TWIN)}
        for number in range(self.plan.sites):
            (kind,) = self.random.choices(kinds, shares)
            sites[f"d{number}.test"] = Site(kind)
        return sites

    def run(self, progress: Callable[[int, int], None] = lambda minute, minutes: None) -> Measured:
        """All of it; `progress` is told of each minute."""
        self.spool.sweep()
        self.relay.start()
        self.clock.callLater(60.0, self._send_list)
        self.clock.callLater(61.0, self._send_single)
        minutes = int(self.plan.seconds // 60)
        for minute in range(minutes):
            self._arrivals.append(Counter())
            self.measured.by_minute.append(0)
            self.measured.list_done.append(0)
            if minute * 60 < self.plan.sending:
                for second in range(60):
                    self.clock.callLater(second, self._send_second)
            self.clock.run(START + minute * 60 + 60)
            self._sample()
            progress(minute + 1, minutes)
        self._find_ideal()
        return self.measured

    # -- sending

    def _send_second(self) -> None:
        amount = self.plan.messages / self.plan.sending
        for _ in range(int(amount) + (self.random.random() < amount % 1)):
            self.clock.callLater(self.random.random(), self._send_one)

    def _send_one(self) -> None:
        place = bisect(self._weights, self.random.random() * self._weights[-1])
        domain = self._domains[min(place, len(self._domains) - 1)]
        self._accept(f"s{self.random.randrange(2000)}", [f"u{self._ids}"], domain)

    def _send_list(self) -> None:
        if self.plan.list_size:
            self._accept("list", [f"l{number}" for number in range(self.plan.list_size)], BUSY)

    def _send_single(self) -> None:
        for domain in (BUSY, CALM):
            self._accept(f"single{self._ids}", [f"single{self._ids}"], domain)
        if self.clock.seconds() < START + self.plan.sending:
            self.clock.callLater(self.plan.single_every, self._send_single)

    def _accept(self, sender: str, names: list[str], domain: str) -> None:
        self._ids += 1
        now = self.clock.seconds()
        recipients = tuple(EnvelopeRecipient(number, Address(name, domain), "out") for number, name in enumerate(names))
        envelope = Envelope(
            queue_id=f"{self._ids:016}",
            sender=Address(sender, "client.test"),
            recipients=recipients,
            received=now,
            size=5,
            client="client.test[192.0.2.9]",
        )
        if len(names) == 1:
            self._arrivals[-1][domain] += 1
        self.measured.sent[self.sites[domain].kind.name] += len(names)
        accepted = self.spool.accept(envelope, Content(b"hello"), now + LEASE_TIME)
        accepted.addCallback(self.relay.deliver)

    # -- measuring

    def publish(self, event: Event) -> None:
        """As IEvents: what happened."""
        if isinstance(event, Delivered):
            name, _, domain = event.recipient.partition("@")
            kind = self.sites[domain].kind.name
            self.measured.delivered[kind] += 1
            self.measured.by_minute[-1] += 1
            if name.startswith("single"):
                singles = self.measured.single_busy if domain == BUSY else self.measured.single_calm
                singles.append(event.delay)
            elif domain == BUSY:
                self.measured.list_done[-1] += 1
            elif kind == "fast":
                self.measured.fast.append(event.delay)
        elif isinstance(event, DeferredEvent):
            self.measured.deferred[self.sites[event.recipient.partition("@")[2]].kind.name] += 1

    def _sample(self) -> None:
        self.measured.jobs.append(self.relay.room.taken)
        self.measured.queues.append(len(self.relay.sites()))

    def _find_ideal(self) -> None:
        """What would have been delivered, had every site always had as much as it takes, and no more. The list has
        what the single messages to its site leave."""
        waiting: Counter[str] = Counter()
        total, on_the_list = 0, 0
        for minute, arrivals in enumerate(self._arrivals):
            waiting.update(arrivals)
            if minute == 1:  # when it comes
                on_the_list = self.plan.list_size
            for domain, count in list(waiting.items()):
                kind = self.sites[domain].kind
                capacity = int(kind.capacity(CONNECTIONS) * 60)
                done = min(count, capacity)
                waiting[domain] -= done
                if not waiting[domain]:
                    del waiting[domain]
                if domain == BUSY:
                    of_list = min((capacity - done) * TOGETHER, on_the_list)
                    on_the_list -= of_list
                    done += of_list
                total += done
                self.measured.ideal_by_kind[kind.name] += done
            self.measured.ideal.append(total)
        self.measured.too_many_sessions = sum(
            site.most_sessions > min(site.kind.sessions, CONNECTIONS) for site in self.sites.values()
        )
