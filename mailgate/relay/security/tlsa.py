"""The TLSA records of a mail host (RFC 7672 section 2): what DANE asks of it."""

from __future__ import annotations

from mailgate.awaiting import answered
from mailgate.interfaces import DnsStatus, IResolver
from mailgate.relay.security.demand import Demand
from mailgate.tls.dane import usable

__all__ = ["dane_of"]


async def dane_of(resolver: IResolver, host: str, port: int, domain: str, *, secure: bool, alias: str) -> Demand | None:
    """What DANE asks of sessions with a host; None where it has nothing to say.

    `secure`: DNSSEC vouches for the host's address, which was found under `alias` where CNAMEs led there; whoever asks
    has seen that it vouches for the name of the host. Where it cannot be said whether there are records, which an
    attacker can bring about, the host is not to be used now. `domain` is a name that an authority's certificate may
    be for, too ("": none).
    """
    bases = [alias, host] if alias and secure else [host] if secure else []
    if alias and not secure:
        # The alias may lead from a signed zone to one that is not (RFC 7672 section 2.2.2).
        answer = await answered(resolver.resolve(host, "CNAME"))
        if answer.is_temporary:
            return _unknown(host, f"the CNAME of {host} cannot be looked up ({answer.status.value})")
        bases = [host] if answer.secure and answer.status is DnsStatus.FOUND else []
    for base in bases:
        answer = await answered(resolver.resolve(f"_{port}._tcp.{base}", "TLSA"))
        if answer.is_temporary:
            return _unknown(base, f"the TLSA records of {base} cannot be looked up ({answer.status.value})")
        if answer.status is not DnsStatus.FOUND or not answer.secure:
            continue
        records = usable(answer.records)
        if not records:
            # There are some, so there is TLS, and nobody says with whom (RFC 7672 section 2.2).
            reason = f"{base}: no usable TLSA"
            return Demand(level="encrypted", policy="tlsa", names=(base,), failure="tlsa-invalid", reason=reason)
        names = (base, domain) if domain and domain != base else (base,)
        return Demand(level="dane", policy="tlsa", tlsa=records, names=names)
    return None


def _unknown(base: str, reason: str) -> Demand:
    return Demand(level="refused", policy="tlsa", names=(base,), failure="dnssec-invalid", reason=f"DANE: {reason}")
