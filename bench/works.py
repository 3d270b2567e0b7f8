"""What is asked of each system, and what was measured of it."""

from __future__ import annotations

import resource
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from parts import Sink, memory_of, program, wait_until

from bench import client
from bench.systems import System

__all__ = ["Row", "Wanted", "Work", "chosen"]

#: Seconds that a round at a steady rate takes.
_STEADY = 3.0


@dataclass(frozen=True)
class Wanted:
    """What the options ask for: `sizes` in octets; `ways` are whether sessions are reused; `rate` as in Load."""

    messages: int
    sizes: Sequence[int]
    connections: int
    ways: Sequence[bool] = (False, True)
    rate: float = 0.0
    tls: bool = False


@dataclass(frozen=True)
class Work:
    """One kind of load: `count` messages of `size` octets; of 0 octets, sessions without messages.

    `rate` as in Load: then what is measured is how long a client waits, otherwise how much is done.
    """

    count: int
    size: int
    connections: int
    tls: bool = False
    reuse: bool = False
    rate: float = 0.0

    @property
    def title(self) -> str:
        """What is done, on one line."""
        start = "TLS 1.3, " if self.tls else ""
        if not self.size:
            return f"{start}{self.count} new sessions without a message, {self.connections} connections"
        sessions = "many messages a connection" if self.reuse else "one message a connection"
        if self.rate:
            return f"{start}the wait for the 250: {self.rate:g} messages a second of {self.size} octets, {sessions}"
        return f"{start}{self.count} messages of {self.size} octets, {self.connections} connections, {sessions}"

    @property
    def heading(self) -> str:
        """The same in few words."""
        start = "TLS, " if self.tls else ""
        if not self.size:
            return f"{start}sessions"
        return f"{start}{_size(self.size)}{', reused' if self.reuse else ''}"

    def suits(self, system: System) -> bool:
        """Whether the system can do it."""
        return system.has_tls if self.tls else system.has_clear

    def load(self, port: int) -> client.Run:
        """Do it. CalledProcessError or RuntimeError where one message was not accepted."""
        if self.tls or self.rate:
            load = client.Load(port, self.count, self.size, self.connections, self.reuse, self.tls, self.rate)
            return client.run(load)
        began = time.monotonic()
        command = [
            program("smtp-source"),
            *(["-d"] if self.reuse else []),
            *("-s", str(self.connections), "-m", str(self.count), "-l", str(self.size)),
            *("-f", "from@client.test", "-t", "to@bench.test", f"127.0.0.1:{port}"),
        ]
        subprocess.run(command, check=True, timeout=300)  # noqa: S603
        return client.Run(began, ())


def chosen(wanted: Wanted) -> Iterator[Work]:
    """The kinds of load, in the order in which they are done."""
    count, connections = wanted.messages, wanted.connections
    for reuse in wanted.ways:
        for size in wanted.sizes:
            yield Work(count, size, connections, reuse=reuse)
    if wanted.rate:
        for size in wanted.sizes:
            yield Work(round(wanted.rate * _STEADY), size, connections, rate=wanted.rate)
    if wanted.tls:
        size = wanted.sizes[0]
        yield Work(count, 0, connections, tls=True)
        yield Work(count, size, connections, tls=True)
        yield Work(count, size, connections, tls=True, reuse=True)


@dataclass
class Row:
    """What was measured of one system under one kind of load, a figure a round; `client` is the processor time of the
    client to the time it ran, `delays` the seconds from each end of data to its reply, where they were taken."""

    system: System
    rates: list[float] = field(default_factory=list)
    accept_rates: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    memory: int = 0

    def measure(self, work: Work, sink: Sink) -> None:
        """One round."""
        wanted = sink.messages + work.count
        used = _children_time()
        run = work.load(self.system.port)
        seconds = time.monotonic() - run.began
        self.client.append((_children_time() - used) / seconds)
        self.accept_rates.append(work.count / seconds)
        self.delays += run.delays
        if work.size and self.system.delivers:
            wait_until(lambda: sink.messages >= wanted, f"{self.system.name} delivers everything", 300)
            seconds = time.monotonic() - run.began
        self.rates.append(work.count / seconds)
        if self.system.part is not None:
            self.memory = max(self.memory, memory_of(self.system.part.pid))

    def forget(self) -> None:
        """Begin again, warm."""
        for figures in (self.rates, self.accept_rates, self.client, self.delays):
            figures.clear()

    @property
    def rate(self) -> float:
        """Messages, or sessions, a second: the median of the rounds."""
        return statistics.median(self.rates)

    def wait(self, share: int) -> float:
        """The milliseconds within which so many hundredths of the ends of data were answered."""
        return statistics.quantiles(self.delays, n=100, method="inclusive")[share - 1] * 1000


def _children_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _size(octets: int) -> str:
    return f"{octets / 1024:g} KiB"
