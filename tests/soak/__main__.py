"""Hours in minutes: the real daemon at a steady rate, with mail that is put off, refused and large; is anything left?

    python -m tests.soak --minutes 10 --rate half

First it is asked for all it can, for a moment; then it gets a part of that ("half", or messages a second), and memory,
descriptors, threads and files are looked at all the while. It is an error where memory grows once the caches have
filled, and where at the end, when all mail has gone, anything is left that was not there at the beginning.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from configurations import configuration
from ledger import DOMAIN, HOME, Hop, Ledger, Load, leftovers, queued
from parts import Gateway, Sink, children_of, folder, free_port, missing, program, wait_until

ROUTES = """
[routes.sink]
transport = "smtp"
hosts = ["127.0.0.1:{sink}"]

[routes.hop]
transport = "smtp"
hosts = ["127.0.0.1:{hop}"]
retry = {{ first = "2s", longest = "10s" }}
"""
SINK = "sink.test"

#: Seconds in which caches fill, a quarter of the time at least.
_WARM_UP = 30.0
#: Memory may grow by so many octets, or by this share of what it was, after that.
_MOST_GROWTH, _GROWTH_SHARE = 8 * 2**20, 0.08
#: Descriptors and threads that may be there at the end and not at the beginning: what is made when first needed.
_MORE_DESCRIPTORS, _MORE_THREADS = 6, 2


@dataclass(frozen=True)
class Sample:
    """What there is at one moment: memory in octets, and numbers of things."""

    at: float
    memory: int
    descriptors: int
    threads: int
    files: int

    @classmethod
    def of(cls, gateway: Gateway, begin: float) -> Sample:
        """Of all its processes together."""
        pids = [gateway.pid, *children_of(gateway.pid)]
        state = gateway.directory / "state"
        return cls(
            time.monotonic() - begin,
            sum(_memory(pid) for pid in pids),
            sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
            sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
            sum(1 for path in state.rglob("*") if path.is_file()),
        )

    def __str__(self) -> str:
        megabytes = self.memory / 2**20
        return (
            f"{self.at:6.0f} s  {megabytes:7.1f} MiB  {self.descriptors:4} descriptors  {self.threads:3} threads"
            f"  {self.files:5} files"
        )


def _memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


class Source:
    """smtp-source at a steady rate: each second's messages at once, as a burst."""

    def __init__(self, port: int) -> None:
        self.sent = 0
        self._command = [program("smtp-source"), "-s", "10", "-l", "4096", "-f", f"ann@{HOME}", "-t", f"bob@{SINK}"]
        self._port = port

    def send(self, messages: int) -> None:
        """So many, as fast as they are taken."""
        command = [*self._command, "-m", str(messages), f"127.0.0.1:{self._port}"]
        subprocess.run(command, check=True, capture_output=True, timeout=600)  # noqa: S603
        self.sent += messages


def calibrate(source: Source, sink: Sink) -> float:
    """Messages a second, from the first connection to the last arrival."""
    best = 0.0
    for _ in range(3):
        begin = time.monotonic()
        source.send(1500)
        wait_until(lambda: sink.messages >= source.sent, "all has arrived", 120)
        best = max(best, 1500 / (time.monotonic() - begin))
    return best


def run(source: Source, gateway: Gateway, rate: float, seconds: float) -> list[Sample]:
    """Send at that rate for so long."""
    begin = time.monotonic()
    samples: list[Sample] = []
    sent = 0
    while (now := time.monotonic() - begin) < seconds:
        due = int(now * rate) - sent
        if due >= min(rate, 50):
            source.send(due)
            sent += due
        if now >= len(samples) * max(seconds / 60, 1.0):
            samples.append(Sample.of(gateway, begin))
            print(samples[-1], f" {sent} sent", flush=True)
        time.sleep(0.1)
    return samples


def faults_of(samples: list[Sample]) -> Iterator[str]:
    """What the samples complain of: after the warm-up, the first half is compared with the second."""
    begin, end = samples[0].at, samples[-1].at
    warm = begin + max(_WARM_UP, (end - begin) / 4)
    middle = (warm + end) / 2
    before = [one for one in samples if warm <= one.at < middle] or samples[-2:-1]
    after = [one for one in samples if one.at >= middle] or samples[-1:]
    parts = (before, after)
    memory = [statistics.median(one.memory for one in part) for part in parts]
    growth = memory[1] - memory[0]
    print(f"memory: {memory[0] / 2**20:.1f} MiB when warm, {memory[1] / 2**20:.1f} MiB at the end")
    if growth > max(_MOST_GROWTH, _GROWTH_SHARE * memory[0]):
        yield f"memory has grown by {growth / 2**20:.1f} MiB"


def left_of(begin: Sample, end: Sample, gateway: Gateway) -> Iterator[str]:
    """What is there at the end, and was not at the beginning."""
    print("first", begin, "last", end, sep="\n")
    for field, more in zip(fields(Sample)[2:], (_MORE_DESCRIPTORS, _MORE_THREADS), strict=False):
        had, has = getattr(begin, field.name), getattr(end, field.name)
        if has > had + more:
            yield f"{has - had} {field.name} more than at the beginning"
    yield from (f"left behind: spool/{name}" for name in leftovers(gateway.directory / "state" / "spool"))


def soak(base: Path, minutes: float, rate: str, workers: int) -> list[str]:
    """All of it; the faults."""
    ledger = Ledger()
    port = free_port()
    with Sink(base / "sink") as sink, Hop(ledger, slowness=0.2) as hop:
        routes = ROUTES.format(sink=sink.port, hop=hop.port)
        domains = {SINK: "sink", DOMAIN: "hop", HOME: "hop"}
        more = f"workers = {workers}" if workers > 1 else ""
        text = configuration(port, routes, domains=domains, listener="max_messages = 10000000", gateway=more)
        with Gateway(base / "gateway", text, [port]) as gateway:
            source = Source(port)
            most = calibrate(source, sink)
            chosen = most / 2 if rate == "half" else float(rate)
            print(f"at most {most:.0f} messages a second; {chosen:.0f} for {minutes:g} minutes")
            begin = _at_rest(gateway, hop)
            load = Load(
                port,
                ledger,
                clients=2,
                size=lambda number: (2000, 400_000, 900, 100_000)[number % 4],
                words=lambda number: (("ok",), ("later",), ("slow", "no"), ("later", "no", "ok"))[number % 4],
                pause=max(2 / (chosen * 0.03), 0.02),
            )
            try:
                samples = run(source, gateway, chosen, minutes * 60)
            finally:
                load.stop()
            wait_until(lambda: sink.messages >= source.sent, "all has arrived", 120)
            wait_until(lambda: not ledger.missing(), "everything else is delivered or reported", 120)
            wait_until(lambda: not queued(gateway), "the queue is empty", 120)
            end = _at_rest(gateway, hop)
            faults = [*faults_of(samples), *left_of(begin, end, gateway)]
            faults += [f"delivered twice: {one}" for one in ledger.again()[1]]
            faults += [f"damaged: {one.recipient}" for one in ledger.damaged()]
            if sink.messages != source.sent:
                faults.append(f"{sink.messages} of {source.sent} messages at the sink")
            if load.failures:
                faults.append(f"{load.failures} clients were cut off or refused: {sorted(load.refusals)}")
            print(f"{source.sent + len(ledger.acknowledged)} messages, {len(ledger.acknowledged)} of them with a fate")
        left = sorted(path.name for path in (base / "gateway" / "state" / "spool").iterdir() if path.is_file())
        faults += [f"left behind by the stop: {name}" for name in left if name.startswith("spool.db-")]
    return faults


def _at_rest(gateway: Gateway, hop: Hop) -> Sample:
    """When its connections are closed, and its threads have nothing to do."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: hop.connections == 0, "connections are closed", 30)
    time.sleep(12)
    return Sample.of(gateway, time.monotonic())


def main() -> int:
    """Run it; 1 where there is a fault, 2 where what it needs is not installed."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", default="half", help="half, or messages a second")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    absent = missing("smtp-source", "smtp-sink")
    if absent:
        print(f"the soak needs {', '.join(absent)} (Debian: apt-get install postfix)")
        return 2
    with folder("soak") as base:
        faults = soak(base, options.minutes, options.rate, options.workers)
    print("\n".join(f"FAULT: {fault}" for fault in faults) or "nothing has grown, nothing is left")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
