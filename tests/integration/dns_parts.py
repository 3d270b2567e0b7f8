"""A real DNS server with zones of the test's own, and the resolver asked in a process that runs its reactor."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from parts import Part, free_port, program

from mailgate.interfaces import DnsStatus

__all__ = ["Knot", "ask"]


class Knot(Part):
    """knotd, serving `zones`: the lines of each by its name. It is authoritative only."""

    name = "knotd"

    def __init__(self, directory: Path, zones: Mapping[str, str]) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.zones = zones

    @property
    def server(self) -> str:
        """Where it listens, as "address:port"."""
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> Sequence[str]:
        for zone, lines in self.zones.items():
            (self.directory / f"{zone}.zone").write_text(_ZONE.replace("@ZONE@", zone) + lines)
        configuration = self.directory / "knot.conf"
        zones = "".join(f"  - domain: {zone}\n" for zone in self.zones)
        configuration.write_text(
            _KNOT.replace("@DIR@", str(self.directory)).replace("@PORT@", str(self.port)).replace("@ZONES@", zones)
        )
        return [program("knotd"), "-c", str(configuration)]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2):
                return True
        except OSError:
            return False


_KNOT = """\
server:
    rundir: "@DIR@"
    listen: 127.0.0.1@@PORT@
log:
  - target: stderr
    any: warning
database:
    storage: "@DIR@"
template:
  - id: default
    storage: "@DIR@"
    file: "%s.zone"
zone:
@ZONES@"""

_ZONE = """\
$ORIGIN @ZONE@.
$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 30
@ NS ns
ns A 127.0.0.1
"""


def ask(
    servers: Sequence[str], *questions: tuple[str, str], timeout: float = 5.0
) -> list[tuple[DnsStatus, list[object], float]]:
    """Status, records (as JSON has them) and ttl of each question, all asked of one resolver at the same time."""
    task = {"servers": servers, "timeout": timeout, "questions": questions}
    done = subprocess.run(  # noqa: S603  a script of our own
        [sys.executable, str(Path(__file__).with_name("dns_ask.py")), json.dumps(task)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(DnsStatus(status), records, ttl) for status, records, ttl in json.loads(done.stdout)]
