"""What the checks are made on: one configuration, and the parts that a gateway would work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from random import Random

from mailgate.assembly import Assembly
from mailgate.awaiting import InThread, answered
from mailgate.config.endpoints import listening
from mailgate.config.routes import SmtpRoute
from mailgate.config.schema import Config, FilterSection, ListenerSection
from mailgate.doctor.diagnosis import Notes
from mailgate.interfaces import Answer, IResolver
from mailgate.outside import IGatewayReactor
from mailgate.relay.locate import Locator
from mailgate.relay.security.sts_policy import StsPolicy
from mailgate.relay.transports import Transports

__all__ = [
    "MOST_DOMAINS",
    "IpAddress",
    "SentFrom",
    "Site",
    "UsedFilter",
    "addresses_of",
    "internet_routes",
    "is_answered",
    "sent_from",
]

IpAddress = IPv4Address | IPv6Address

#: Domains that are looked at: each costs dozens of questions.
MOST_DOMAINS = 500
#: Of networks of one's own, in front of which somebody translates addresses (RFC 1918, RFC 6598, RFC 4193).
_INSIDE: tuple[IPv4Network | IPv6Network, ...] = (
    *map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16")),
    *map(IPv6Network, ("fc00::/7", "fe80::/10")),
)


@dataclass(frozen=True, slots=True)
class UsedFilter:
    """A filter that a pipeline names: its kind, what its section says, and its options."""

    name: str
    kind: str
    section: FilterSection
    options: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One configuration, with what a gateway that runs on it works with.

    `assembly` is None where the configuration cannot be built. `fetch_policy` gets the MTA-STS policy of a domain; it
    fails with StsFetchError. `binds` says of each interface and port whether it could be listened on: 0, or the
    system's error. `is_deep`: next hops are asked for more than costs them nothing. `only_domains`, where there are
    any, are those that are looked at.
    """

    path: Path
    config: Config
    filters: Sequence[UsedFilter]
    reactor: IGatewayReactor
    resolver: IResolver
    locator: Locator
    transports: Transports
    chance: Random
    in_thread: InThread
    fetch_policy: Callable[[str], Awaitable[StsPolicy]]
    assembly: Assembly | None = None
    warnings: Sequence[str] = ()
    errors: Sequence[str] = ()
    binds: Mapping[tuple[str, int], int] = field(default_factory=dict)
    is_deep: bool = False
    only_domains: Collection[str] = ()

    @property
    def hostname(self) -> str:
        """Our name."""
        return self.config.gateway.hostname

    @property
    def own_hosts(self) -> tuple[str, ...]:
        """The names by which others send to us."""
        return tuple(dict.fromkeys((self.hostname, *self.config.mta_sts.mx)))

    @property
    def domains(self) -> tuple[str, ...]:
        """Our domains that have names of their own, as far as they are looked at."""
        return self.all_domains[:MOST_DOMAINS]

    @property
    def all_domains(self) -> tuple[str, ...]:
        """All that are wanted."""
        wanted = self.only_domains
        return tuple(one for one in self.config.domains if not one.startswith("*.") and (not wanted or one in wanted))

    @property
    def relays(self) -> bool:
        """Whether mail of our own goes out by us."""
        config = self.config
        return any(one.role != "inbound" for one in config.listeners) or config.http.injection is not None

    def of_kind(self, *kinds: str) -> Iterator[UsedFilter]:
        """The filters of these kinds that pipelines name."""
        return (one for one in self.filters if one.kind in kinds)

    def ports(self) -> Iterator[tuple[ListenerSection, str, int]]:
        """Each listener with the interface ("" for all) and the port that it listens at; those of TCP only."""
        for listener in self.config.listeners:
            for endpoint in listener.endpoints:
                place = listening(endpoint)
                if place is not None:
                    yield listener, place.interface, place.port


@dataclass(frozen=True, slots=True)
class SentFrom:
    """An address that mail to the Internet goes out from; `helo` is what EHLO says there. `is_inside`: others see
    another one, that of whoever translates addresses."""

    name: str
    address: IpAddress
    helo: str

    @property
    def is_inside(self) -> bool:
        """Whether the Internet does not see it."""
        return any(self.address.version == one.version and self.address in one for one in _INSIDE)


def internet_routes(config: Config) -> dict[str, SmtpRoute]:
    """The routes that go by MX."""
    return {name: one for name, one in config.routes.items() if isinstance(one, SmtpRoute) and not one.hosts}


async def sent_from(site: Site) -> list[SentFrom]:
    """Where mail to the Internet comes from: the sources of the routes that go by MX. Where the system chooses the
    address, that is taken to be what DNS says of our name."""
    config = site.config
    found: dict[SentFrom, None] = {}
    for route in internet_routes(config).values():
        if route.pool is None:
            for address in await addresses_of(site.resolver, site.hostname):
                if route.ipv6 or address.version == 4:
                    found[SentFrom("", address, site.hostname)] = None
            continue
        names = config.pools[route.pool].sources if route.pool in config.pools else (route.pool,)
        for name in names:
            source = config.sources[name]
            for own in (source.address, source.address6):
                if own is not None and (route.ipv6 or own.version == 4):
                    found[SentFrom(name, own, source.hostname or site.hostname)] = None
    return list(found)


async def addresses_of(resolver: IResolver, host: str) -> list[IpAddress]:
    """What A and AAAA say of a host; none where DNS cannot say now."""
    found: list[IpAddress] = []
    for rdtype in ("A", "AAAA"):
        answer = await answered(resolver.resolve(host, rdtype))
        found += [one for one in answer.records if isinstance(one, IPv4Address | IPv6Address)]
    return found


def is_answered(answer: Answer, what: str, notes: Notes) -> bool:
    """Whether DNS has said something; where it has not, that is noted."""
    if answer.is_temporary:
        notes.warn(
            f"not checked: {what} cannot be looked up now ({answer.status.value})", "see [dns], and the resolver"
        )
    return not answer.is_temporary
