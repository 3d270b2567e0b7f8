"""What is measured: each system started with a configuration that does the same work, its mail going to one sink."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from parts import Gateway, Part, Postfix, Sink, free_port, greets

from bench.haraka import Haraka, install
from bench.script import Script
from tests.unit.certificates import issue

__all__ = ["System", "configuration", "start"]

_CONFIGURATION = """\
[gateway]
hostname = "mailgate.bench.test"
state_dir = "state"
workers = {workers}

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
filters = {filters}

[filters.rate-limit]
rules = []
"""


def configuration(port: int, sink: Sink, *, workers: int = 1, scanners: Sequence[str] = ()) -> str:
    """mailgate's, which takes mail at this port; the `scanners` are filters that are asked at the same time."""
    filters = ["early-talker", "access", "rate-limit", "recipients", *([list(scanners)] if scanners else []), "headers"]
    return _CONFIGURATION.format(port=port, sink=sink.port, workers=workers, filters=json.dumps(filters))


@dataclass(frozen=True)
class System:
    """One system under load. Whether it `has_clear`, `has_tls`, and `delivers` what it accepts, says which loads it is
    for; `part` is None where its memory is of no interest."""

    name: str
    port: int
    part: Part | None
    has_clear: bool = True
    has_tls: bool = True
    delivers: bool = True


class _Bare(Script):
    name = "bare"

    def is_ready(self) -> bool:
        return greets(self.port)


def start(
    base: Path,
    sink: Sink,
    names: Sequence[str] | None,
    stack: ExitStack,
    *,
    connections: int,
    tls: bool = False,
    workers: int = 1,
) -> list[System]:
    """Start those that are wanted (None: all) below `base`, until `stack` is closed; mailgate always, and first; once
    more with so many `workers`."""

    def wants(name: str) -> bool:
        return not names or name in names

    certificate = issue(None, "mx.bench.test").write(base / "certificate.pem")

    def gateway(name: str, workers: int) -> System:
        port = free_port()
        text = configuration(port, sink, workers=workers)
        if tls:
            text += f'\n[tls]\ncertificate = "{certificate}"\n'
        part = Gateway(base / name.replace(" ", "-"), text, [port])
        stack.enter_context(part)
        return System(name, port, part)

    systems = [gateway("mailgate", 1)]
    if workers > 1 and wants("workers"):
        systems.append(gateway(f"{workers} workers", workers))
    if wants("postfix"):
        # without more, Postfix keeps no TLS sessions
        settings = {"smtpd_tls_security_level": "may", "smtpd_tls_eccert_file": certificate} if tls else {}
        postfix = Postfix(base / "postfix", relay_port=sink.port, settings=settings)
        stack.enter_context(postfix)
        systems.append(System("postfix", postfix.port, postfix))
    script = install(base / "npm") if wants("haraka") else None
    if script is not None:
        haraka = Haraka(base / "haraka", script, sink.port)
        stack.enter_context(haraka)
        systems.append(System("haraka", haraka.port, haraka, has_tls=False))
    elif wants("haraka"):
        print("Haraka is left out: npm is not here or could not install it")
    if wants("sink"):
        systems.append(System("bare sink", sink.port, None, has_tls=False))
        if tls:
            bare = _Bare(base / "bare", certificate, connections)
            stack.enter_context(bare)
            systems.append(System("bare server", bare.port, None, has_clear=False, delivers=False))
    return systems
