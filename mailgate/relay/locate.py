"""The hosts for a destination (RFC 5321 section 5.1, RFC 7505), and their addresses."""

from __future__ import annotations

import random
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from cachetools import TTLCache

from mailgate.awaiting import answered
from mailgate.config.hosts import HostPort, parse_host
from mailgate.config.routes import ServerRoute, SiteRoute
from mailgate.interfaces import Answer, DnsStatus, IResolver, OutcomeKind
from mailgate.relay.attempt import Target
from mailgate.relay.security.demand import Wanted
from mailgate.relay.security.policies import Asked, TransportSecurity
from mailgate.reply import Reply

__all__ = ["Hosts", "Locator", "NoHosts", "OwnAddresses"]

Address = IPv4Address | IPv6Address

#: Addresses that one attempt goes to at most: a domain with a hundred MX records does not hold us up.
_MOST_TARGETS = 10
#: Characters of a site's label.
_LONGEST_LABEL = 250
#: Addresses of which it is remembered whether they are ours, and for how many seconds.
_KNOWN, _KNOWN_FOR = 10_000, 60.0


@dataclass(frozen=True, slots=True)
class Hosts:
    """A site: hosts in order of preference, those of one inner group sharing the load. `name` identifies the site.

    `is_implicit` tells that the one host is the domain itself, for want of an MX record; `is_vouched_for` as in Target.
    `is_fixed`: the configuration says so, whoever they are; those that DNS names must not be ourselves. `is_signed`:
    DNSSEC, or the configuration, vouches for their names. `wanted` is what is asked of TLS with them beyond the route,
    None where nobody has looked for that.
    """

    name: str
    groups: tuple[tuple[HostPort, ...], ...]
    is_implicit: bool = False
    is_vouched_for: bool = True
    is_fixed: bool = False
    is_signed: bool = False
    wanted: Wanted | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The hosts, without their ports."""
        return tuple(host.host for group in self.groups for host in group)

    @property
    def label(self) -> str:
        """What the site is called where people see it, and can look for any of its hosts."""
        label = _in_order(self.groups)
        return label if len(label) <= _LONGEST_LABEL else f"{label[:_LONGEST_LABEL]}..."

    @property
    def title(self) -> str:
        """The same in short."""
        first, *others = self.names
        return f"{first} and {len(others)} more" if others else first


class OwnAddresses:
    """Tells which addresses are of this machine: loopback, and those that a socket can be bound to."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._known: TTLCache[Address, bool] = TTLCache(_KNOWN, _KNOWN_FOR, seconds)

    def __call__(self, address: Address) -> bool:
        found = self._known.get(address)
        if found is None:
            found = self._known[address] = address.is_loopback or address.is_unspecified or _can_bind(address)
        return found


def _can_bind(address: Address) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.bind((str(address), 0))
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class NoHosts:
    """Why there is nobody to deliver to: 5yz where that is so for good."""

    reply: Reply
    reason: str

    @property
    def kind(self) -> OutcomeKind:
        """What becomes of the mail."""
        return OutcomeKind.FAILED if self.reply.is_permanent else OutcomeKind.DEFERRED


class Locator:
    """Finds hosts and addresses through DNS. Nothing raises but CancelledError.

    A host that DNS names and that is ourselves, by our name or by an address for which `is_ours` holds, would give the
    mail back to us: only hosts that are preferred to it are asked (RFC 5321 section 5.1).
    """

    def __init__(
        self,
        resolver: IResolver,
        hostname: str,
        chance: random.Random,
        is_ours: Callable[[Address], bool] = lambda address: address.is_loopback or address.is_unspecified,
    ) -> None:
        self._resolver = resolver
        self._hostname = hostname
        self._random = chance
        self._is_ours = is_ours
        self._security: TransportSecurity | None = None

    def use(self, security: TransportSecurity | None) -> None:
        """From now on sites are looked at for what is asked of TLS with them; None: for nothing."""
        self._security = security

    def hosts(
        self, name: str, route: SiteRoute, domain: str, *, relaxed: bool = False
    ) -> Hosts | NoHosts | Awaitable[Hosts | NoHosts]:
        """The site that takes mail for `domain` by the route of this name: at once where nobody need be asked.

        `relaxed`: the sender wants it there whatever the destination publishes about TLS (RFC 8689 section 4.1)."""
        security = self._security
        asked = None if security is None else security.asked(route, domain, relaxed=relaxed)
        if route.hosts:
            groups = (group if isinstance(group, list) else [group] for group in route.hosts)
            found = tuple(tuple(parse_host(host, route.port) for host in group) for group in groups)
            wanted = None if asked is None else Wanted(dane=asked.dane)
            return Hosts(name, found, is_fixed=True, is_signed=True, wanted=wanted)
        if domain.startswith("["):
            host = domain.strip("[]").removeprefix("ipv6:")
            return Hosts(f"{name}:{domain}", ((HostPort(host, route.port),),))
        answer = self._resolver.resolve(domain, "MX")
        if security is not None and asked is not None:
            return self._secured(security, asked, name, domain, route, answer)
        if isinstance(answer, Answer):
            return self._by_mx(name, domain, route, answer)
        return self._wait_for_mx(name, domain, route, answer)

    async def targets(self, hosts: Hosts, *, lmtp: bool, ipv6: bool, domain: str = "") -> Sequence[Target] | NoHosts:
        """The addresses to try, in order. `domain` is the one that the mail is for.

        A host without an address is a mistake of its domain that may be mended: 4yz, and 5yz only where the domain
        has neither MX nor address.
        """
        targets: list[Target] = []
        problems: list[str] = []
        is_temporary = False
        for group in hosts.groups:
            preferred = len(targets)
            for host in self._random.sample(group, len(group)):
                if len(targets) >= _MOST_TARGETS:
                    break
                if host.is_unix:
                    targets.append(Target(host.host, host.host, 0, lmtp))
                    continue
                addresses, problem, found = await self._addresses(host.host, ipv6)
                if not hosts.is_fixed and (ours := next((one for one in addresses if self._is_ours(one)), None)):
                    if preferred:
                        return targets[:preferred]
                    return _loop(host.host, f"{host.host} is {ours}, which is ourselves")
                vouched, demand = hosts.is_vouched_for, None
                if addresses and hosts.wanted is not None and self._security is not None:
                    demand = await self._security.demand(
                        hosts.wanted,
                        host.host,
                        host.port,
                        "" if hosts.is_fixed else domain,
                        signed=hosts.is_signed,
                        secure=found.secure,
                        alias=found.alias,
                    )
                    vouched = vouched or demand.vouches
                targets += [Target(host.host, str(address), host.port, lmtp, vouched, demand) for address in addresses]
                if not addresses:
                    problems.append(f"{host.host}: {problem or 'no address'}")
                    is_temporary = is_temporary or bool(problem)
        if targets:
            return targets[:_MOST_TARGETS]
        reason = "; ".join(problems)
        if hosts.is_implicit and not is_temporary:
            return NoHosts(Reply.of(550, "5.1.2", f"No mail host: {reason}, and no MX"), reason)
        return NoHosts(Reply.of(451, "4.4.4", f"No address is known for the next hop ({reason})"[:400]), reason)

    async def _wait_for_mx(
        self, name: str, domain: str, route: SiteRoute, answer: Awaitable[Answer]
    ) -> Hosts | NoHosts:
        return self._by_mx(name, domain, route, await answer)

    async def _secured(
        self,
        security: TransportSecurity,
        asked: Asked,
        name: str,
        domain: str,
        route: SiteRoute,
        answer: Answer | Awaitable[Answer],
    ) -> Hosts | NoHosts:
        found = self._by_mx(name, domain, route, await answered(answer))
        if isinstance(found, NoHosts):
            return found
        wanted = await security.wanted(asked, domain, found.names)
        return replace(found, name=found.name + wanted.label, wanted=wanted)

    def _by_mx(self, name: str, domain: str, route: SiteRoute, answer: Answer) -> Hosts | NoHosts:
        port = route.port
        # What the route itself asks of the certificate does not depend on DNS.
        vouched = answer.secure or (isinstance(route, ServerRoute) and bool(route.tls_name or route.tls_fingerprints))
        if answer.secure:
            # Hosts that one domain's signed records name are not the site of another whose records are not signed.
            name += " (signed)"
        match answer.status:
            case DnsStatus.FOUND:
                return self._by_records(name, domain, port, answer.records, vouched=vouched, signed=answer.secure)
            case DnsStatus.NODATA:
                # The domain is its own mail host (RFC 5321 section 5.1), if it has an address. No site of its own name,
                # because others may have it as their MX: its lack of an address is for good, theirs is not.
                groups = ((HostPort(domain, port),),)
                site = f"{name}:{domain} (no MX)"
                return Hosts(site, groups, is_implicit=True, is_vouched_for=vouched, is_signed=answer.secure)
            case DnsStatus.NXDOMAIN:
                return NoHosts(Reply.of(550, "5.1.2", f"The domain {domain} does not exist"), "MX: NXDOMAIN")
        reason = f"MX of {domain}: {answer.status.value}"
        return NoHosts(Reply.of(451, "4.4.3", f"DNS cannot say where mail for {domain} goes"), reason)

    def _by_records(
        self, name: str, domain: str, port: int, records: Iterable[object], *, vouched: bool, signed: bool
    ) -> Hosts | NoHosts:
        ranked: dict[int, set[str]] = {}
        for record in records:
            if isinstance(record, tuple):
                preference, host = record
                if host:  # beside others a null MX says nothing
                    ranked.setdefault(int(preference), set()).add(str(host))
        if not ranked:
            return NoHosts(Reply.of(556, "5.1.10", f"The domain {domain} takes no mail (null MX)"), "null MX")
        groups: list[tuple[HostPort, ...]] = []
        for preference in sorted(ranked):
            if self._hostname in ranked[preference]:
                break  # we are one of its hosts: only those before us may have it
            groups.append(tuple(HostPort(host, port) for host in sorted(ranked[preference])))
        if not groups:
            return _loop(domain, f"{self._hostname} is the best MX of {domain}")
        # Domains with the same hosts in the same order are one site, whatever the numbers of their preferences.
        return Hosts(f"{name}:{_in_order(groups)}", tuple(groups), is_vouched_for=vouched, is_signed=signed)

    async def _addresses(self, host: str, ipv6: bool) -> tuple[list[Address], str, _Answers]:
        try:
            return [ip_address(host)], "", _NO_ANSWERS
        except ValueError:
            pass
        found: list[Address] = []
        problem = ""
        secure, alias = True, ""
        for rdtype in ("A", "AAAA") if ipv6 else ("A",):
            answer = await answered(self._resolver.resolve(host, rdtype))
            found += [record for record in answer.records if isinstance(record, IPv4Address | IPv6Address)]
            if answer.is_temporary:
                problem = f"{rdtype} {answer.status.value}"
            elif answer.status is DnsStatus.FOUND:
                secure, alias = secure and answer.secure, answer.alias
        return found, problem, _Answers(secure and bool(found), alias)


class _Answers(NamedTuple):
    """Whether DNSSEC vouches for all addresses of a host, and the name that has them where CNAMEs lead there."""

    secure: bool = False
    alias: str = ""


_NO_ANSWERS = _Answers()


def _in_order(groups: Iterable[Iterable[HostPort]]) -> str:
    """The names of hosts: "mx1,mx2|backup"."""
    return "|".join(",".join(host.host for host in group) for group in groups)


def _loop(name: str, reason: str) -> NoHosts:
    return NoHosts(Reply.of(451, "4.4.6", f"Mail for {name} loops back to this host"), reason)
