"""What is asked of TLS with a destination: from the configuration, DNS and HTTPS to a demand for each host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailgate.config.routes import SiteRoute, SmtpRoute
from mailgate.config.schema import Config
from mailgate.config.security import TlsPolicySection
from mailgate.interfaces import IResolver
from mailgate.relay.security.demand import Demand, Wanted, combined, covers
from mailgate.relay.security.sts import MtaSts, StsFound
from mailgate.relay.security.tlsa import dane_of
from mailgate.stores.domains import DomainTable, canonical

__all__ = ["Asked", "TransportSecurity"]

_TLS = ("opportunistic", "required")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be looked at for a destination."""

    dane: bool
    sts: bool
    local: TlsPolicySection | None


class TransportSecurity:
    """One configuration's word on it. `sts` is None where no policy is ever fetched."""

    def __init__(self, config: Config, resolver: IResolver, sts: MtaSts | None) -> None:
        self._resolver = resolver
        self._sts = sts
        self._dnssec = config.dns.dnssec
        self._policies: DomainTable[TlsPolicySection] = DomainTable(config.tls_policies)
        self._has_policies = bool(config.tls_policies)

    @staticmethod
    def is_wanted(config: Config) -> bool:
        """Whether any route, or policy of ours, asks for it."""
        return bool(config.tls_policies) or any(_security(route) != "none" for route in config.routes.values())

    @staticmethod
    def fetches(config: Config) -> bool:
        """Whether any route asks for MTA-STS."""
        return any(_security(route) in ("auto", "mta-sts") for route in config.routes.values())

    def asked(self, route: SiteRoute, domain: str, *, relaxed: bool = False) -> Asked | None:
        """What is asked of mail to a domain ("" for fixed hosts) by a route; None for what the route has, no more.

        `relaxed`: the sender wants it delivered whatever is published (TLS-Required: no, RFC 8689 section 4.1), which
        our own policies, and routes with hosts, do not hear.
        """
        if not isinstance(route, SmtpRoute) or route.tls not in _TLS:
            return None
        by_mx = bool(domain) and not route.hosts
        local = self._policies.match(domain) if by_mx and self._has_policies else None
        security = "none" if relaxed and by_mx else route.security
        if local is None and security == "none":
            return None
        is_open = local is None or local.level == "published"
        dane = (is_open and security in ("auto", "dane")) or (local is not None and local.level == "dane")
        return Asked(self._dnssec and dane, is_open and by_mx and security in ("auto", "mta-sts"), local)

    async def wanted(self, asked: Asked, domain: str, hosts: Sequence[str]) -> Wanted:
        """What is asked of these hosts, which MX names for the domain. Nothing raises but CancelledError."""
        domain = canonical(domain)
        found = StsFound()
        if asked.sts and self._sts is not None:
            found = await self._sts.find(domain)
        policy = found.policy
        if policy is None or policy.mode == "none":
            label = f" (tls_policies for {domain})" if asked.local is not None else ""
            missing = "; mta-sts not fetched" if found.failure else ""
            label = label or f" ({'dane' if asked.dane else 'published'}{missing})"
            return Wanted(label, asked.dane, local=asked.local, is_unfetched=bool(found.failure))
        strangers = frozenset(one for one in hosts if not covers(policy.mx, one))
        # Domains with the same hosts are one site where the same is asked of these. A policy that comes to name others
        # makes another.
        differs = f", {domain} without {','.join(sorted(strangers))}" if strangers or asked.local else ""
        label = f" (mta-sts {policy.mode}{differs})"
        return Wanted(label, asked.dane, policy.mode, strangers, asked.local)

    async def published(self, domain: str) -> StsFound:
        """The MTA-STS policy that holds for a domain, and what is wrong with it."""
        return StsFound() if self._sts is None else await self._sts.find(canonical(domain))

    async def demand(
        self, wanted: Wanted, host: str, port: int, domain: str, *, signed: bool, secure: bool, alias: str
    ) -> Demand:
        """What is asked of a host. `signed`: DNSSEC vouches for its name, or the configuration names it; `secure` and
        `alias` as in `dane_of`. Nothing raises but CancelledError."""
        found, domain = None, canonical(domain)
        if wanted.dane and signed:
            found = await dane_of(self._resolver, host, port, domain, secure=secure, alias=alias)
        return combined(wanted, host, domain, found)


def _security(route: object) -> str:
    return route.security if isinstance(route, SmtpRoute) else "none"
