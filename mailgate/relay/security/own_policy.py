"""What we publish ourselves: the MTA-STS policy of our domains, and the records beside it. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mailgate.config.schema import Config
from mailgate.stores.domains import canonical
from mailgate.tls.dane import Tlsa

__all__ = ["Published", "own_domains", "own_policy", "own_records", "served_policies"]


@dataclass(frozen=True, slots=True)
class Published:
    """One record: its name without the final dot, its type, and its data as in a zone file."""

    name: str
    rdtype: str
    data: str

    def __str__(self) -> str:
        return f"{self.name}. {self.rdtype} {self.data}"


def own_policy(config: Config) -> str:
    """The policy file, for https://mta-sts.DOMAIN/.well-known/mta-sts.txt of each of our domains; lines end with CRLF
    (RFC 8461 section 3.2)."""
    section = config.mta_sts
    lines = ["version: STSv1", f"mode: {section.mode}", *(f"mx: {one}" for one in _own_hosts(config))]
    return "".join(f"{line}\r\n" for line in [*lines, f"max_age: {int(section.max_age)}"])


def _own_hosts(config: Config) -> Sequence[str]:
    """The hosts that our mail comes to."""
    return config.mta_sts.mx or [config.gateway.hostname]


def own_domains(config: Config) -> list[str]:
    """Our domains that have names of their own."""
    return [one for one in config.domains if not one.startswith("*.")]


def served_policies(config: Config) -> Mapping[str, bytes]:
    """What [http] serves as /.well-known/mta-sts.txt, by the host that it is asked for (A-labels, lower case)."""
    if not config.mta_sts.serve:
        return {}
    policy = own_policy(config).encode("ascii")
    return {f"mta-sts.{canonical(domain)}": policy for domain in own_domains(config)}


def own_records(config: Config, domain: str, keys: Sequence[Tlsa], reports_to: str = "") -> list[Published]:
    """The records of a domain: what announces the policy, and where reports on TLS go to; and TLSA records of our
    `keys` for each of our hosts, whichever zone that is in."""
    # It must change with the policy, and with nothing else.
    identity = hashlib.sha256(own_policy(config).encode()).hexdigest()[:20]
    found = [Published(f"_mta-sts.{domain}", "TXT", f'"v=STSv1; id={identity};"')]
    if reports_to:
        found.append(Published(f"_smtp._tls.{domain}", "TXT", f'"v=TLSRPTv1; rua=mailto:{reports_to}"'))
    found += [Published(f"_25._tcp.{host}", "TLSA", str(key)) for host in _own_hosts(config) for key in keys]
    return found
