"""What is asked of TLS with a destination, in the form of smtp_tls_policy_maps.

What our own deliveries would go by, as near as Postfix can come: where it cannot keep to something as strictly, the
answer is stricter, or the mail waits. Where nothing beyond the route is asked, Postfix goes by its own settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mailgate.address import NULL_PATH, Address
from mailgate.awaiting import answered
from mailgate.config.hosts import HostPort
from mailgate.config.routes import LmtpRoute, Route, SmtpRoute
from mailgate.config.security import TlsPolicySection
from mailgate.mta.socketmap.tables import domain_of, hosts_of, next_hop_of
from mailgate.relay.locate import Hosts, Locator, NoHosts
from mailgate.relay.security.demand import Demand, Level
from mailgate.relay.security.policies import TransportSecurity
from mailgate.wire.socketmap import NOTFOUND, found, not_now

__all__ = ["TlsPolicies"]

#: Of answers about one host, by their levels: more than those that name certificates, or less. The two that are equal
#: ask for different things.
_CERTAIN = 4
_STRICTNESS = {b"NOTFOUND": 0, b"dane": 2, b"encrypt": 2, b"verify": 3, b"TEMP": 5}


class TlsPolicies:
    """By one configuration. `next_hop` gives the route of an address; `security` what holds now."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        next_hop: Callable[[Address, Address], str | None],
        locator: Locator,
        security: Callable[[], TransportSecurity | None],
    ) -> None:
        self._routes = routes
        self._next_hop = next_hop
        self._locator = locator
        self._security = security
        self._fixed: dict[str, list[tuple[str, SmtpRoute | LmtpRoute, HostPort]]] = {}
        for name, route in routes.items():
            if isinstance(route, SmtpRoute | LmtpRoute):
                for host in hosts_of(route):
                    self._fixed.setdefault(next_hop_of(host), []).append((name, route, host))

    async def look_up(self, key: str) -> bytes:
        """The policy for a next hop as Postfix names it: a domain whose MX records it asks for, or "[host]:port"."""
        if key.startswith("["):
            return await self._of_host(f"{key}:25" if key.endswith("]") else key)
        domain = domain_of(key.partition(":")[0])
        if not domain:
            return NOTFOUND
        name = self._next_hop(Address("", domain), NULL_PATH)
        route = self._routes.get(name or "")
        if name is None or not isinstance(route, SmtpRoute):
            return NOTFOUND
        security = self._security()
        asked = None if security is None or route.hosts else security.asked(route, domain)
        if security is None or asked is None:
            return _of_route(route)
        if asked.local is not None and (answer := _of_local(route, domain, asked.local)):
            return answer
        hosts: Hosts | NoHosts = await answered(self._locator.hosts(name, route, domain))
        if isinstance(hosts, NoHosts):
            return NOTFOUND if hosts.reply.is_permanent else not_now(hosts.reason)
        wanted = hosts.wanted
        if wanted is None:
            return _of_route(route)
        if wanted.local is None and wanted.dane and wanted.sts != "enforce" and route.tls == "opportunistic":
            return found("dane")  # Postfix looks for the records by itself, at each host
        targets = await self._locator.targets(hosts, lmtp=False, ipv6=route.ipv6, domain=domain)
        if isinstance(targets, NoHosts):
            return not_now(targets.reason)
        demands = [one.demand for one in targets if one.demand is not None]
        names: Sequence[str] = ()
        is_limited = wanted.local is not None and bool(wanted.local.mx)
        if is_limited:
            # Both our configuration and the policy of the destination allow these.
            names = list(dict.fromkeys(one.host for one in targets if one.demand and one.demand.level == "verified"))
        elif wanted.sts == "enforce":
            policy = (await security.published(domain)).policy
            names = () if policy is None else policy.mx
        return _of_published(route, domain, demands, names, is_limited=is_limited)

    async def _of_host(self, key: str) -> bytes:
        """What is asked of a host that routes name: where they ask for different things, the strictest."""
        named = self._fixed.get(key.lower(), [])
        answers = {await self._of_fixed(*one) for one in named}
        ranked = sorted(answers, key=_strictness, reverse=True)
        if len(ranked) > 1 and _strictness(ranked[0]) == _strictness(ranked[1]):
            names = ", ".join(name for name, _, _ in named)
            return not_now(f"the routes {names} ask for different things of TLS with {key}")
        return ranked[0] if ranked else NOTFOUND

    async def _of_fixed(self, name: str, route: SmtpRoute | LmtpRoute, host: HostPort) -> bytes:
        security = self._security()
        asked = None if security is None else security.asked(route, "")
        if asked is None or not asked.dane or not isinstance(route, SmtpRoute):
            return _of_route(route)
        if route.tls == "opportunistic":
            return found("dane")
        hosts: Hosts | NoHosts = await answered(self._locator.hosts(name, route, ""))
        if isinstance(hosts, NoHosts):
            return not_now(hosts.reason)
        targets = await self._locator.targets(
            replace(hosts, groups=((host,),)), lmtp=False, ipv6=route.ipv6, domain=host.host
        )
        if isinstance(targets, NoHosts):
            return not_now(targets.reason)
        return _of_published(route, host.host, [one.demand for one in targets if one.demand is not None], ())


def _strictness(answer: bytes) -> int:
    """How much an answer asks for, where two are different."""
    kind, _, rest = answer.partition(b":")[2].removesuffix(b",").partition(b" ")
    return _STRICTNESS.get(rest.partition(b" ")[0] if kind == b"OK" else kind, _CERTAIN)


def _of_local(route: SmtpRoute, domain: str, section: TlsPolicySection) -> bytes:
    """What our configuration says of a domain, whatever that publishes; b"" where it leaves the matter to that. What
    the route asks for holds beside it."""
    if section.fingerprints:
        return _pinned(section.fingerprints)
    match section.level:
        case "published":
            return b""
        case "verified" if section.mx:
            return _secure(section.mx)
        case _ if section.mx:
            return not_now(f'tls_policies."{domain}": Postfix cannot keep to mx but with level = "verified"')
        case "verified" | "required":
            return _of_route(route.model_copy(update={"tls": section.level}))
        case "dane":
            return found("dane-only")
        case "clear":
            return found("none")
        case "opportunistic":
            answer = _of_route(route)
            return found("may") if answer == NOTFOUND else answer


def _of_published(
    route: SmtpRoute, domain: str, demands: Sequence[Demand], names: Sequence[str], *, is_limited: bool = False
) -> bytes:
    """What is asked of the hosts of a domain. `names` are those that certificates may be for where they are verified;
    `is_limited`: our configuration allows some hosts only."""
    levels: set[Level] = {one.level for one in demands}
    usable = levels - {"refused"}
    if not usable:
        reason = next((one.reason for one in demands if one.reason), "")
        return not_now(f"none of the hosts of {domain} may get its mail: {reason}")
    if usable != {"verified"}:
        if is_limited:
            return not_now(f'tls_policies."{domain}": Postfix cannot keep to mx but with level = "verified"')
        if "dane" in usable:
            return found("dane-only")
        if "refused" in levels:
            return not_now(f"not all hosts of {domain} may get its mail, and Postfix cannot be told which")
    if "verified" in usable:
        return _secure(names) if names else not_now(f"the policy of {domain} is not known any more")
    return found("encrypt") if "encrypted" in usable else _of_route(route)


def _of_route(route: SmtpRoute | LmtpRoute) -> bytes:
    """What the route says by itself; of what it leaves open Postfix's own settings tell."""
    if route.tls_fingerprints and route.tls != "off":
        return _pinned(sorted(route.tls_fingerprints))
    if route.tls not in ("required", "verified"):
        return NOTFOUND
    if route.tls == "required":
        return found("encrypt")
    if route.tls_name:
        return _secure([route.tls_name], route.tls_name)
    return found("secure match=nexthop") if route.hosts else found("verify")


def _secure(names: Sequence[str], asked_for: str = "hostname") -> bytes:
    """With a certificate for one of these, by SNI for `asked_for`; "*." stands for one label more, which Postfix takes
    for any number."""
    return found(f"secure match={':'.join(one.removeprefix('*') for one in names)} servername={asked_for}")


def _pinned(fingerprints: Sequence[str]) -> bytes:
    pairs = (":".join(one[at : at + 2] for at in range(0, len(one), 2)) for one in fingerprints)
    return found(f"fingerprint {' '.join(f'match={one}' for one in pairs)}")
