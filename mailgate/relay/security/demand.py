"""What is asked of TLS with a site, and with one of its hosts: values, and how they come together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from mailgate.config.security import TlsPolicySection
from mailgate.tls.dane import Tlsa
from mailgate.tls.failures import TlsFailure

__all__ = ["Demand", "Level", "PolicyType", "Wanted", "combined", "covers"]

#: "welcome": as the route has it; "clear": no TLS; "encrypted": TLS with anybody; "verified": with the host, by an
#: authority; "pinned": with a certificate that we know; "dane": by TLSA; "refused": no session with this host at all.
Level = Literal["welcome", "clear", "encrypted", "verified", "pinned", "dane", "refused"]

#: The policy that a session went by, as TLS reports name it (RFC 8460 section 4.4); "local": one of ours.
PolicyType = Literal["tlsa", "sts", "no-policy-found", "local"]


class Demand(Struct, frozen=True, kw_only=True):
    """What is asked of sessions with one host, beyond its route; `policy` says by whom.

    `tlsa` are usable records, and `names` those of which the host must prove one where they ask for that: first the one
    that has the records. `failure` and `reason` say why a host is refused; where it is not, what the policy, which is
    only tested, has against it. `is_unfetched`: the destination announces a policy of MTA-STS that could not be had.
    """

    level: Level = "welcome"
    policy: PolicyType = "no-policy-found"
    tlsa: tuple[Tlsa, ...] = ()
    names: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    failure: TlsFailure = ""
    reason: str = ""
    is_unfetched: bool = False

    @property
    def vouches(self) -> bool:
        """Whether a session that comes up to it is with a host that the destination has named."""
        return self.level in ("dane", "pinned") or (self.level == "verified" and self.policy == "sts")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of the hosts of a site.

    `dane`: by TLSA records, where DNSSEC vouches for the names of the hosts. `sts` is the mode of the destination's
    MTA-STS policy, "" for none, and `strangers` are hosts that it does not name. `local` is a policy of ours.
    `label` tells the site from another with the same hosts, of which something else is asked. `is_unfetched` as in
    Demand.
    """

    label: str = ""
    dane: bool = False
    sts: Literal["", "enforce", "testing"] = ""
    strangers: frozenset[str] = frozenset()
    local: TlsPolicySection | None = None
    is_unfetched: bool = False


def combined(wanted: Wanted, host: str, domain: str, found: Demand | None) -> Demand:
    """What is asked of a host. `found` is what DANE says of it, None where it says nothing.

    What DANE asks goes before MTA-STS, which cannot take it back (RFC 8461 section 2), but may ask for more than
    records that nobody can use. A policy of ours has the last word.
    """
    if wanted.local is not None and (ours := _ours(wanted.local, host, found)) is not None:
        return ours
    if found is not None and found.level != "encrypted":
        return found
    if wanted.sts:
        stranger = host in wanted.strangers
        reason = f"{host} is none of the hosts that MTA-STS names for {domain}" if stranger else ""
        if wanted.sts == "enforce":
            if stranger:
                return Demand(level="refused", policy="sts", failure="validation-failure", reason=reason)
            return Demand(level="verified", policy="sts")
        if found is None:
            return Demand(policy="sts", failure="validation-failure" if stranger else "", reason=reason)
    return Demand(is_unfetched=wanted.is_unfetched) if found is None else found


def covers(patterns: tuple[str, ...], host: str) -> bool:
    """Whether a host is one of those: a name, or "*." and a name for one label more (RFC 8461 section 4.1)."""
    return host in patterns or f"*.{host.partition('.')[2]}" in patterns


def _ours(section: TlsPolicySection, host: str, found: Demand | None) -> Demand | None:
    """None where it leaves the matter to what is published."""
    if section.mx and not covers(tuple(section.mx), host):
        reason = f"{host} is none of the hosts that our configuration allows for its domain"
        return Demand(level="refused", policy="local", failure="validation-failure", reason=reason)
    match section.level:
        case "published":
            return None
        case "dane":
            if found is not None and found.level in ("dane", "refused"):
                return found
            reason = f"{host} has no TLSA records that can be used, and our configuration asks for them"
            return Demand(level="refused", policy="local", failure="dane-required", reason=reason)
        case "clear":
            return Demand(level="clear", policy="local")
        case "opportunistic":
            return Demand(policy="local")
        case "required" if section.fingerprints:
            return Demand(level="pinned", policy="local", fingerprints=tuple(section.fingerprints))
        case "required":
            return Demand(level="encrypted", policy="local")
        case "verified":
            return Demand(level="verified", policy="local")
