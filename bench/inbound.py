"""`make bench ARGS="--inbound"`: what judging inbound mail costs, with answers of DNS that take their time.

Two gateways with the same route to the same sink: one asks no filter but `headers`, the other the whole inbound
pipeline. Each message comes from another domain, signed with DKIM, so that no answer of DNS is at hand. What a message
waits for is compared with the slowest filter of each concurrent group, and with the sum of all.
"""

from __future__ import annotations

import json
import smtplib
import socket
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from parts import Gateway, Sink, free_port

from bench.processor import processor_of
from bench.script import Script
from bench.tables import as_text
from mailgate.mailauth import SigningKey, sign_dkim

__all__ = ["measure"]

#: Concurrent groups stand in inner lists.
PIPELINE: Sequence[str | Sequence[str]] = (
    ["dnsbl", "fcrdns", "rate-limit"],
    "helo",
    ["spf", "resolvable"],
    "recipients",
    ["dkim", "arc"],
    "dmarc",
    "score",
    "authentication-results",
    "headers",
)

_CONFIGURATION = """\
[gateway]
hostname = "mx.gateway.test"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:{port}:interface=127.0.0.1"]
pipeline = "inbound"
max_connections_per_client = 1000
proxy_protocol_from = ["127.0.0.1"]

[[listeners]]
name = "ready"
endpoints = ["tcp:{ready}:interface=127.0.0.1"]
pipeline = "inbound"

[dns]
servers = ["127.0.0.1:{dns}"]

[domains."inside.test"]
route = "sink"
recipients = "people"

[recipients.people]
kind = "list"
addresses = ["@inside.test"]

[routes.sink]
transport = "smtp"
hosts = ["127.0.0.1:{sink}"]

[pipelines.inbound]
filters = {filters}

[filters.rate-limit]
rules = []

[filters.dnsbl]
zones = [
  {{ zone = "bl.one.test", self_test = false }},
  {{ zone = "bl.two.test", self_test = false }},
  {{ zone = "bl.three.test", self_test = false }},
]
"""


@dataclass
class _Measured:
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    processor: float = 0.0


class _Client(smtplib.SMTP):
    """Speaks through a proxy, which says that it comes from the Internet: local clients are not judged."""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connected = socket.create_connection((host, port), timeout)
        connected.sendall(b"PROXY TCP4 9.9.9.9 127.0.0.1 40000 25\r\n")
        return connected


class _SlowDns(Script):
    name = "slow_dns"

    def is_ready(self) -> bool:
        return b"ready" in self.log.read_bytes()


def measure(base: Path, sink: Sink, *, messages: int, connections: int, delay: float = 0.02) -> str:
    """The figures, as text."""
    key = SigningKey(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    with _SlowDns(base / "slow-dns", delay, key.record) as server:
        found: dict[str, _Measured] = {}
        steps: list[Mapping[str, Any]] = []
        for name, filters in (("headers only", ["headers"]), ("inbound", list(PIPELINE))):
            port, ready = free_port(), free_port()
            configuration = _CONFIGURATION.format(
                port=port, ready=ready, dns=server.port, sink=sink.port, filters=json.dumps(filters)
            )
            directory = base / f"inbound-{len(found)}"
            with Gateway(directory, configuration, [ready]) as gateway:
                before = processor_of(gateway.pid)
                found[name] = _send(port, key, name, messages, connections)
                found[name].processor = processor_of(gateway.pid) - before
                steps = _steps(directory / "state" / "mailgate.log")
    return _told(found, steps, messages, delay)


def _send(port: int, key: SigningKey, name: str, messages: int, connections: int) -> _Measured:
    label = name.replace(" ", "-")
    ready = [_message(f"s{number}.{label}.bench.test", key) for number in range(messages)]
    measured = _Measured()
    numbers = iter(range(messages))
    lock = threading.Lock()
    problems: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                domain, content = ready[number]
                began = time.monotonic()
                with _Client("127.0.0.1", port, f"client.{domain}", timeout=60) as client:
                    client.sendmail(f"ann@{domain}", ["bob@inside.test"], content)
                    waited = time.monotonic() - began
                with lock:
                    measured.waits.append(waited)
        except BaseException as error:  # told below
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    if problems:
        raise problems[0]
    measured.seconds = time.monotonic() - began
    return measured


def _message(domain: str, key: SigningKey) -> tuple[str, bytes]:
    """The sender's domain, and a message of about 4 KiB, signed by it."""
    line = b"0123456789abcdef" * 4 + b"\r\n"
    content = (
        f"From: Ann <ann@{domain}>\r\nTo: bob@inside.test\r\nSubject: bench\r\n"
        f"Date: Thu, 26 Nov 2026 06:00:00 +0000\r\nMessage-ID: <1@{domain}>\r\n\r\n"
    ).encode() + line * 60
    return domain, sign_dkim(content, key, domain=domain, selector="s") + content


def _steps(log: Path) -> list[Mapping[str, Any]]:
    """Every step of every message that was accepted."""
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return [step for line in lines if line["event"] == "message_accepted" for step in line["trace"]]


def _told(found: Mapping[str, _Measured], steps: Sequence[Mapping[str, Any]], messages: int, delay: float) -> str:
    rows = [
        (
            name,
            f"{messages / one.seconds:.0f}",
            f"{statistics.median(one.waits) * 1000:.0f}",
            f"{sorted(one.waits)[len(one.waits) * 99 // 100] * 1000:.0f}",
            f"{one.processor / messages * 1000:.2f}",
        )
        for name, one in found.items()
    ]
    text = as_text((("", "messages/s", "p50 ms", "p99 ms", "processor ms/message"), rows))
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for step in steps:
        times[step["filter"], step["stage"]].append(step.get("seconds", 0.0))
    mean = {place: sum(values) / messages * 1000 for place, values in times.items()}
    whole = sum(mean.values())
    shares = [
        (f"{name} at {stage}", f"{value:.2f}", f"{value / whole:.0%}")
        for (name, stage), value in sorted(mean.items(), key=lambda one: -one[1])
        if value >= 0.005
    ]
    added = (statistics.median(found["inbound"].waits) - statistics.median(found["headers only"].waits)) * 1000
    slowest = _slowest(mean)
    return (
        f"{messages} signed messages, each of another domain, DNS answers after {delay * 1000:.0f} ms\n{text}\n\n"
        f"time of each filter, a message\n{as_text((('', 'ms', 'share'), shares))}\n\n"
        f"added to a message: {added:.0f} ms; the slowest filter of each group at each stage: {slowest:.0f} ms; "
        f"the sum of all filters: {whole:.0f} ms"
    )


def _slowest(mean: Mapping[tuple[str, str], float]) -> float:
    stages = {stage for _, stage in mean}
    groups = [[group] if isinstance(group, str) else group for group in PIPELINE]
    return sum(
        max((mean.get((name, stage), 0.0) for name in group), default=0.0) for group in groups for stage in stages
    )
