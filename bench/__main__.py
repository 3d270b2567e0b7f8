"""`make bench`: messages accepted, made durable and delivered, per second, side by side in one run.

Every system does the same work on this machine: a client sends messages over a number of connections, the system
makes each durable and delivers it to smtp-sink. The clock runs from the first connection until the sink has taken
the last message. The systems take turns, round by round; a figure is the median of the rounds, and only ratios
within one run mean anything. With --tls, new sessions and messages under TLS as well. See bench/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from parts import Sink, folder, memory_of, missing, program, wait_until

from bench import client
from bench.systems import System, start


@dataclass(frozen=True)
class Work:
    """One kind of load: `count` messages of `size` octets; of 0 octets, sessions without messages."""

    title: str
    count: int
    size: int
    connections: int
    tls: bool
    reuse: bool

    @classmethod
    def chosen(cls, options: argparse.Namespace) -> Iterator[Work]:
        """What the options ask for."""
        count, size, connections = options.messages, options.size, options.connections
        one, many = "one message a connection", "many messages a connection"
        messages = f"{count} messages of {size} octets, {connections} connections"
        yield cls(f"{messages}, {many if options.reuse else one}", count, size, connections, False, options.reuse)
        if options.tls:
            title = f"TLS 1.3, {count} new sessions without a message, {connections} connections"
            yield cls(title, count, 0, connections, True, False)
            yield cls(f"TLS 1.3, {messages}, {one}", count, size, connections, True, False)
            yield cls(f"TLS 1.3, {messages}, {many}", count, size, connections, True, True)

    def suits(self, system: System) -> bool:
        """Whether the system can do it."""
        return system.has_tls if self.tls else system.has_clear

    def load(self, port: int) -> float:
        """Do it; when it began. CalledProcessError or RuntimeError where one message was not accepted."""
        if self.tls:
            return client.run(client.Load(port, self.count, self.size, self.connections, self.reuse))
        began = time.monotonic()
        command = [
            program("smtp-source"),
            *(["-d"] if self.reuse else []),
            *("-s", str(self.connections), "-m", str(self.count), "-l", str(self.size)),
            *("-f", "from@client.test", "-t", "to@bench.test", f"127.0.0.1:{port}"),
        ]
        subprocess.run(command, check=True, timeout=300)  # noqa: S603
        return began


@dataclass
class Row:
    """What was measured of one system under one kind of load, a figure a round; `client` is the processor time of the
    client to the time it ran."""

    system: System
    rates: list[float] = field(default_factory=list)
    accept_rates: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    memory: int = 0

    def measure(self, work: Work, sink: Sink) -> None:
        """One round."""
        wanted = sink.messages + work.count
        used = _children_time()
        began = work.load(self.system.port)
        seconds = time.monotonic() - began
        self.client.append((_children_time() - used) / seconds)
        self.accept_rates.append(work.count / seconds)
        if work.size and self.system.delivers:
            wait_until(lambda: sink.messages >= wanted, f"{self.system.name} delivers everything", 300)
            seconds = time.monotonic() - began
        self.rates.append(work.count / seconds)
        if self.system.part is not None:
            self.memory = max(self.memory, memory_of(self.system.part.pid))

    def forget(self) -> None:
        """Begin again, warm."""
        for figures in (self.rates, self.accept_rates, self.client):
            figures.clear()


def _children_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(work: Work, rows: list[Row]) -> str:
    """The figures as text: ratios are mailgate's rate to the other's."""
    ours = statistics.median(next(row for row in rows if row.system.name == "mailgate").rates)
    names = ("delivered/s", "accepted/s") if work.size else ("sessions/s", "")
    lines = [f"{'':<12}{names[0]:>12}{names[1]:>12}{'memory':>10}{'client':>8}{'mailgate is':>13}"]
    for row in rows:
        rate = statistics.median(row.rates)
        delivered = f"{rate:.0f}" if row.system.delivers or not work.size else ""
        accepted = f"{statistics.median(row.accept_rates):.0f}" if work.size else ""
        held = f"{row.memory / 2**20:.0f} MiB" if row.memory else ""
        used = f"{statistics.median(row.client):.0%}"
        ratio = "" if row.system.name == "mailgate" else f"{ours / rate:.2f} x"
        lines.append(f"{row.system.name:<12}{delivered:>12}{accepted:>12}{held:>10}{used:>8}{ratio:>13}")
    return "\n".join(lines)


def main() -> int:
    """Run the bench; 2 where what it needs is not installed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--messages", type=int, default=3000, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=4096, help="octets of each message")
    parser.add_argument("--connections", type=int, default=20, help="of the client at one time")
    parser.add_argument("--reuse", action="store_true", help="in clear text, many messages a connection instead of one")
    parser.add_argument("--tls", action="store_true", help="the same under TLS too, for mailgate and Postfix")
    parser.add_argument("--only", action="append", help="mailgate, postfix, haraka or sink")
    options = parser.parse_args()
    absent = missing("smtp-source", "smtp-sink", "postfix")
    if absent:
        print(f"the bench needs {', '.join(absent)} (Debian: apt-get install postfix)")
        return 2
    with folder("bench") as base, contextlib.ExitStack() as stack:
        sink = Sink(base / "sink")
        stack.enter_context(sink)
        systems = start(base, sink, options.only, options.connections, options.tls, stack)
        for work in Work.chosen(options):
            rows = [Row(system) for system in systems if work.suits(system)]
            for number in range(options.rounds + 1):
                for row in rows:
                    row.measure(work, sink)
                    if number == 0:  # the first round warms up
                        row.forget()
            print(work.title)
            print(table(work, rows), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
