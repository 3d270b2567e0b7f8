"""`make bench`: messages accepted, made durable and delivered, per second, side by side in one run.

Every system does the same work on this machine: smtp-source sends messages over a number of connections, the system
makes each durable and delivers it to smtp-sink. The clock runs from the first connection until the sink has taken
the last message. The systems take turns, round by round; a figure is the median of the rounds, and only ratios
within one run mean anything.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from parts import Gateway, Part, Postfix, Sink, folder, free_port, memory_of, missing, program, wait_until

from bench.haraka import Haraka, install

_CONFIGURATION = """\
[gateway]
hostname = "mailgate.bench.test"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:{port}:interface=127.0.0.1"]
pipeline = "inbound"
max_connections_per_client = 1000

[domains."bench.test"]
route = "sink"
recipients = "bench"

[recipients.bench]
kind = "list"
addresses = ["to@bench.test"]

[routes.sink]
transport = "smtp"
hosts = ["127.0.0.1:{sink}"]

[pipelines.inbound]
filters = ["early-talker", "access", "rate-limit", "recipients", "headers"]

[filters.rate-limit]
rules = []
"""


@dataclass
class System:
    """One system under load: its parts, and what was measured."""

    name: str
    port: int
    parts: list[Part]
    rates: list[float] = field(default_factory=list)
    accept_rates: list[float] = field(default_factory=list)
    memory: int = 0


def load(port: int, messages: int, size: int, connections: int, *, reuse: bool) -> None:
    """Send the messages; CalledProcessError where one was not accepted."""
    command = [
        program("smtp-source"),
        *(["-d"] if reuse else []),
        *("-s", str(connections), "-m", str(messages), "-l", str(size)),
        *("-f", "from@client.test", "-t", "to@bench.test", f"127.0.0.1:{port}"),
    ]
    subprocess.run(command, check=True, timeout=300)  # noqa: S603


def measure(system: System, sink: Sink, options: argparse.Namespace) -> None:
    """One round of one system."""
    before = sink.messages
    wanted = before + options.messages
    start = time.monotonic()
    load(system.port, options.messages, options.size, options.connections, reuse=options.reuse)
    system.accept_rates.append(options.messages / (time.monotonic() - start))
    wait_until(lambda: sink.messages >= wanted, f"{system.name} delivers everything", 300)
    system.rates.append(options.messages / (time.monotonic() - start))
    system.memory = max(system.memory, sum(memory_of(part.pid) for part in system.parts))


def table(systems: list[System]) -> str:
    """The figures as text: ratios are mailgate's rate to the other's."""
    ours = statistics.median(next(one for one in systems if one.name == "mailgate").rates)
    lines = [f"{'':<12}{'delivered/s':>12}{'accepted/s':>12}{'memory':>10}{'mailgate is':>13}"]
    for system in systems:
        rate = statistics.median(system.rates)
        accepted = statistics.median(system.accept_rates)
        held = f"{system.memory / 2**20:.0f} MiB" if system.memory else ""
        ratio = "" if system.name == "mailgate" else f"{ours / rate:.2f} x"
        lines.append(f"{system.name:<12}{rate:>12.0f}{accepted:>12.0f}{held:>10}{ratio:>13}")
    return "\n".join(lines)


def main() -> int:
    """Run the bench; 2 where what it needs is not installed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--messages", type=int, default=3000, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=4096, help="octets of each message")
    parser.add_argument("--connections", type=int, default=20, help="of the client at one time")
    parser.add_argument("--reuse", action="store_true", help="many messages a connection instead of one")
    parser.add_argument("--only", action="append", help="mailgate, postfix, haraka or sink")
    options = parser.parse_args()
    absent = missing("smtp-source", "smtp-sink", "postfix")
    if absent:
        print(f"the bench needs {', '.join(absent)} (Debian: apt-get install postfix)")
        return 2

    def wants(name: str) -> bool:
        return not options.only or name in options.only or name == "mailgate"

    with folder("bench") as base, contextlib.ExitStack() as stack:
        enter: Callable[[Part], Part] = stack.enter_context
        sink = Sink(base / "sink")
        enter(sink)
        systems = []
        port = free_port()
        gateway = Gateway(base / "mailgate", _CONFIGURATION.format(port=port, sink=sink.port), [port])
        enter(gateway)
        systems.append(System("mailgate", port, [gateway]))
        if wants("postfix"):
            postfix = Postfix(base / "postfix", relay_port=sink.port)
            enter(postfix)
            systems.append(System("postfix", postfix.port, [postfix]))
        script = install(base / "npm") if wants("haraka") else None
        if script is not None:
            haraka = Haraka(base / "haraka", script, sink.port)
            enter(haraka)
            systems.append(System("haraka", haraka.port, [haraka]))
        elif wants("haraka"):
            print("Haraka is left out: npm is not here or could not install it")
        if wants("sink"):
            systems.append(System("bare sink", sink.port, []))
        for number in range(options.rounds + 1):
            for system in systems:
                measure(system, sink, options)
                if number == 0:  # the first round warms up
                    system.rates.clear()
                    system.accept_rates.clear()
        kind = "many messages a connection" if options.reuse else "one message a connection"
        print(f"{options.messages} messages of {options.size} octets, {options.connections} connections, {kind}")
        print(table(systems))
    return 0


if __name__ == "__main__":
    sys.exit(main())
