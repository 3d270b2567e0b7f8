"""Real DNS servers with zones of the test's own, and the resolver asked in a process that runs its reactor."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dns.exception
import dns.message
import dns.query
import dns.rdatatype
from parts import Part, free_port, listens, program

from mailgate.interfaces import DnsStatus

__all__ = ["Asked", "Checked", "Knot", "Unbound", "ask", "check"]


class Knot(Part):
    """knotd, serving `zones`: the lines of each by its name; it signs those in `signed`. It is authoritative only."""

    name = "knotd"

    def __init__(self, directory: Path, zones: Mapping[str, str], signed: Sequence[str] = ()) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.zones = zones
        self.signed = signed

    @property
    def server(self) -> str:
        """Where it listens, as "address:port"."""
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> Sequence[str]:
        for zone, lines in self.zones.items():
            (self.directory / f"{zone}.zone").write_text(_ZONE.replace("@ZONE@", zone) + lines)
        configuration = self.directory / "knot.conf"
        zones = "".join(
            f"  - domain: {zone}\n" + ("    dnssec-signing: on\n    dnssec-policy: p\n" if zone in self.signed else "")
            for zone in self.zones
        )
        configuration.write_text(
            _KNOT.replace("@DIR@", str(self.directory)).replace("@PORT@", str(self.port)).replace("@ZONES@", zones)
        )
        return [program("knotd"), "-c", str(configuration)]

    def is_ready(self) -> bool:
        return all(_serves(self.port, zone, is_signed=zone in self.signed) for zone in self.zones)

    def trust_anchor(self, zone: str) -> str:
        """The DS record of a signed zone, on a line."""
        done = subprocess.run(  # noqa: S603  a program of the same package
            [program("keymgr"), "-c", str(self.directory / "knot.conf"), zone, "ds"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        # One line for each kind of digest, of which any will do.
        return done.stdout.splitlines()[0]


class Unbound(Part):
    """unbound, resolving the zones of a knotd and nothing else, and validating those with a trust anchor."""

    name = "unbound"

    def __init__(self, directory: Path, knot: Knot, anchors: Sequence[str] = ()) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.knot = knot
        self.anchors = anchors

    @property
    def server(self) -> str:
        """Where it listens, as "address:port"."""
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> Sequence[str]:
        anchored = {anchor.split()[0].rstrip(".") for anchor in self.anchors}
        lines = [f'trust-anchor: "{anchor}"' for anchor in self.anchors]
        for zone in self.knot.zones:
            lines.append(f'local-zone: "{zone}." transparent')
            if zone not in anchored:
                lines.append(f'domain-insecure: "{zone}."')
        stubs = [
            f'stub-zone:\n  name: "{zone}."\n  stub-addr: 127.0.0.1@{self.knot.port}\n' for zone in self.knot.zones
        ]
        configuration = self.directory / "unbound.conf"
        configuration.write_text(
            _UNBOUND.replace("@DIR@", str(self.directory)).replace("@PORT@", str(self.port))
            + "".join(f"  {line}\n" for line in lines)
            + "remote-control:\n  control-enable: no\n"
            + "".join(stubs)
        )
        return [program("unbound"), "-d", "-c", str(configuration)]

    def is_ready(self) -> bool:
        return listens(self.port)


def _serves(port: int, zone: str, *, is_signed: bool) -> bool:
    """Whether the zone is there, with its signatures: a server listens before it has read and signed its zones."""
    query = dns.message.make_query(zone, "SOA", want_dnssec=True)
    try:
        answer = dns.query.udp(query, "127.0.0.1", timeout=2, port=port).answer
    except (OSError, dns.exception.DNSException):
        return False
    return bool(answer) and (not is_signed or any(one.rdtype == dns.rdatatype.RRSIG for one in answer))


_KNOT = """\
server:
    rundir: "@DIR@"
    listen: 127.0.0.1@@PORT@
log:
  - target: stderr
    any: warning
database:
    storage: "@DIR@"
policy:
  - id: p
    algorithm: ecdsap256sha256
    single-type-signing: on
    nsec3: on
template:
  - id: default
    storage: "@DIR@"
    file: "%s.zone"
    zonefile-sync: -1
    zonefile-load: difference
    journal-content: all
zone:
@ZONES@"""

_ZONE = """\
$ORIGIN @ZONE@.
$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 30
@ NS ns
ns A 127.0.0.1
"""


# Names are resolved at the servers above and nowhere else; nothing is kept, so that every answer is a new one.
_UNBOUND = """\
server:
  use-syslog: no
  logfile: ""
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "@DIR@"
  pidfile: "@DIR@/unbound.pid"
  interface: 127.0.0.1
  port: @PORT@
  do-ip6: no
  num-threads: 1
  do-not-query-localhost: no
  module-config: "validator iterator"
  cache-max-ttl: 0
  cache-min-ttl: 0
  cache-max-negative-ttl: 0
  root-hints: ""
  qname-minimisation: no
  access-control: 127.0.0.0/8 allow
  local-zone: "." static
"""


class Asked(NamedTuple):
    """An answer; its records as JSON has them."""

    status: DnsStatus
    records: list[object]
    ttl: float
    secure: bool


class Checked(NamedTuple):
    """What came of a check of SPF."""

    result: str
    mechanism: str
    explanation: str
    reason: str


def ask(servers: Sequence[str], *questions: tuple[str, str], timeout: float = 5.0) -> list[Asked]:
    """The answer to each question, all asked of one resolver at the same time."""
    answers = _run("dns_ask.py", {"servers": servers, "timeout": timeout, "questions": questions})
    return [Asked(DnsStatus(status), *rest) for status, *rest in answers]


def check(servers: Sequence[str], *checks: Mapping[str, str], timeout: float = 5.0) -> list[Checked]:
    """What comes of each check of SPF, given as arguments by their names; all with one resolver at the same time."""
    found = _run("spf_ask.py", {"servers": servers, "timeout": timeout, "checks": checks})
    return [Checked(*one) for one in found]


def _run(script: str, task: Mapping[str, object]) -> list[list[Any]]:
    done = subprocess.run(  # noqa: S603  a script of our own
        [sys.executable, str(Path(__file__).with_name(script)), json.dumps(task)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[Any]] = json.loads(done.stdout)
    return found
