"""What we know of addresses and domains, by the keys that Postfix looks up.

It looks for a whole address first, then for parts of it ("user", "@example.org", ".example.org"). We have said all
about an address when we are asked for the whole: under such parts there is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.awaiting import answered
from mailgate.config.hosts import HostPort, parse_host
from mailgate.config.routes import DiscardRoute, LmtpRoute, Route, SmtpRoute
from mailgate.interfaces import Expand, IRecipientDirectory, RecipientStatus
from mailgate.stores.domains import canonical
from mailgate.verdict import Defer, Reject
from mailgate.wire.socketmap import NOTFOUND, found, not_now, refused

__all__ = ["Tables", "address_of", "domain_of", "hosts_of", "next_hop_of"]

_MAX_KEY, _SMTP = 500, 25


def address_of(key: str) -> Address | None:
    """The address that a key is, quoted or not; None where it is none, or a part of one."""
    try:
        return Address.parse(key)
    except AddressError:
        local_part, _, domain = key.rpartition("@")
    try:
        if local_part and local_part.isprintable() and len(key) <= _MAX_KEY:
            return Address(local_part, Address.parse(f"postmaster@{domain}").domain)
    except AddressError:
        pass
    return None


def domain_of(key: str) -> str:
    """The domain that a key is; "" where it is none."""
    try:
        domain = Address.parse(f"postmaster@{key}").domain
    except AddressError:
        return ""
    return "" if domain.startswith("[") else domain


class Tables:
    """By one configuration. `next_hop` gives the route of an address; None where there is none."""

    def __init__(
        self,
        *,
        directory: IRecipientDirectory,
        is_local: Callable[[str], bool],
        expand: Expand,
        next_hop: Callable[[Address, Address], str | None],
        routes: Mapping[str, Route],
    ) -> None:
        self._directory = directory
        self._is_local = is_local
        self._expand = expand
        self._next_hop = next_hop
        self._routes = routes

    async def recipients(self, key: str) -> bytes:
        """Whether an address exists, for mail from anybody."""
        return await self._exists(key, (RecipientStatus.KNOWN,))

    async def all_recipients(self, key: str) -> bytes:
        """Whether an address exists, for mail from inside."""
        return await self._exists(key, (RecipientStatus.KNOWN, RecipientStatus.RESTRICTED))

    def domains(self, key: str) -> bytes:
        """Whether a domain is ours."""
        domain = domain_of(key)
        return found(canonical(domain)) if domain and self._is_local(domain) else NOTFOUND

    async def aliases(self, key: str) -> bytes:
        """Whom an address stands for, in the form of virtual(5)."""
        address = address_of(key)
        if address is None:
            return NOTFOUND
        expanded = await answered(self._expand(address))
        if isinstance(expanded, Defer):
            return not_now(expanded.reason)
        if expanded is None or isinstance(expanded, Reject):
            return NOTFOUND  # the table of recipients says whether it exists
        return found(", ".join(map(str, expanded)))

    def transport(self, key: str) -> bytes:
        """Where mail for an address or a domain goes, in the form of transport(5): by the sender it is not told."""
        address = address_of(key)
        if address is None:
            domain = domain_of(key)
            if not domain:
                return NOTFOUND
            address = Address("", domain)
        name = self._next_hop(address, NULL_PATH)
        return NOTFOUND if name is None else _transport(name, self._routes[name])

    async def _exists(self, key: str, those: Collection[RecipientStatus]) -> bytes:
        address = address_of(key)
        if address is None or not self._is_local(address.domain):
            return NOTFOUND
        expanded = await answered(self._expand(address))
        if isinstance(expanded, Defer):
            return not_now(expanded.reason)
        if isinstance(expanded, Reject):
            return NOTFOUND
        asked = (address,) if expanded is None else tuple(one for one in expanded if self._is_local(one.domain))
        if expanded is not None and len(asked) < len(expanded):
            return found(str(address))  # what it stands for elsewhere is not ours to know
        is_away = False
        for one in asked:
            status = await answered(self._directory.lookup(one))
            if status in those:
                return found(str(address))
            is_away = is_away or status is RecipientStatus.UNAVAILABLE
        return not_now(f"the directory of {address.domain} cannot be asked") if is_away else NOTFOUND


def _transport(name: str, route: Route) -> bytes:
    match route:
        case DiscardRoute():
            return found(f"discard:{' '.join(route.reason.split())}")
        case SmtpRoute() | LmtpRoute() if route.tls == "implicit" or route.auth is not None or route.proxy_protocol:
            return refused(f"route {name} logs in, or begins with TLS or a PROXY header, which no transport can say")
        case SmtpRoute() if not route.hosts and route.port != _SMTP:
            return refused(f"route {name} goes to port {route.port} of MX hosts, which no transport can say")
        case SmtpRoute() if not route.hosts:
            return found("smtp:")
        case SmtpRoute() | LmtpRoute():
            return found(f"{route.transport}:{', '.join(map(next_hop_of, hosts_of(route)))}")
    return refused(f"route {name} is not one of SMTP or LMTP")


def hosts_of(route: SmtpRoute | LmtpRoute) -> Sequence[HostPort]:
    """The fixed hosts of a route, in their order."""
    groups = (group if isinstance(group, list) else [group] for group in route.hosts)
    return [parse_host(one, route.port) for group in groups for one in group]


def next_hop_of(host: HostPort) -> str:
    """A host as Postfix writes it where it is not to ask for MX records."""
    return str(host) if host.is_unix else f"[{host.host}]:{host.port}"
