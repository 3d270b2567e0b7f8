"""The PowerShell that makes an Exchange server, or Exchange Online, fit to a route: with the site's own names."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from mailgate.config.endpoints import listening
from mailgate.config.hosts import HostPort, parse_host
from mailgate.config.routes import SmtpRoute
from mailgate.config.schema import Config
from mailgate.doctor.certificates import read_pairs
from mailgate.tls.check import is_of
from mailgate.tls.pem import Source, TlsError, read_key_pair

__all__ = ["RouteError", "exchange_routes", "hosts_of", "is_online", "print_shell", "quoted"]

#: Where the hosts of tenants are.
_ONLINE = (".mail.protection.outlook.com", ".mx.microsoft")
#: What ends a string in single quotes: PowerShell takes typographic ones for it, too.
_QUOTES = "'‘’‚‛"  # noqa: RUF001  meant so
_SPAM_FIELD, _SPAM_WORDS = "X-Spam-Flag", ["YES"]


class RouteError(ValueError):
    """There is no such route, or none to print for."""


@dataclass(frozen=True, slots=True)
class _Outbound:
    """The listener that takes mail of Exchange."""

    name: str
    port: int


def quoted(value: object) -> str:
    """A value as it stands in PowerShell: a text in single quotes, in which nothing but a quote means anything, and
    that is written twice; a list of texts as an array. ValueError for a text with characters that cannot be printed."""
    if isinstance(value, bool):
        return "$true" if value else "$false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        if not value.isprintable():
            raise ValueError(f"{value!r} has characters that cannot be printed")
        return "'" + "".join(one * 2 if one in _QUOTES else one for one in value) + "'"
    if isinstance(value, list | tuple):
        return f"@({', '.join(map(quoted, value))})"
    raise ValueError(f"{type(value).__name__} has no form in PowerShell")


def hosts_of(route: SmtpRoute) -> list[HostPort]:
    """The hosts that the route names."""
    groups = [group if isinstance(group, list) else [group] for group in route.hosts]
    return [parse_host(host, route.port) for group in groups for host in group]


def is_online(route: SmtpRoute) -> bool:
    """Whether it leads to Exchange Online."""
    return route.preset == "exchange-online" or any(one.host.endswith(_ONLINE) for one in hosts_of(route))


def exchange_routes(config: Config, name: str) -> list[str]:
    """The route of this name; without one, those with a `preset` or to Exchange Online, or else all by which mail of
    our domains goes to named hosts. RouteError where there is none."""
    routes = {one: route for one, route in config.routes.items() if isinstance(route, SmtpRoute) and route.hosts}
    if name:
        if name not in routes:
            known = ", ".join(routes) or "none"
            raise RouteError(f"{name} is no route with transport smtp and hosts (there are: {known})")
        return [name]
    known_to = [one for one, route in routes.items() if route.preset is not None or is_online(route)]
    inward = [one for one in routes if any(section.route == one for section in config.domains.values())]
    if not (known_to or inward):
        raise RouteError("no route with transport smtp and hosts is for a domain of ours: which one leads to Exchange?")
    return known_to or inward


def print_shell(config: Config, routes: Sequence[str], tenant_domain: str = "") -> str:
    """What is to be run, for each of these routes. Reads our certificates, and asks nobody. RouteError where a name
    cannot be written."""
    environment = Environment(
        loader=PackageLoader("mailgate.doctor"),
        finalize=quoted,  # of every value, so that no template can forget it
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  not for a browser
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    parts = []
    for name in routes:
        route = config.routes[name]
        if not isinstance(route, SmtpRoute):
            raise RouteError(f"{name} is no route with transport smtp")
        template = environment.get_template("online.ps1" if is_online(route) else "onprem.ps1")
        try:
            parts.append(template.render(_values(config, name, route, tenant_domain)))
        except ValueError as error:
            raise RouteError(f"routes.{name}: {error}") from None
    return "\n".join(parts)


def _values(config: Config, name: str, route: SmtpRoute, tenant_domain: str) -> dict[str, object]:
    hostname = config.gateway.hostname
    inbound = [one for one in config.listeners if one.role != "outbound"] or config.listeners
    client = _names_in(route.certificate)
    return {
        "hostname": hostname,
        "addresses": _addresses(config, route),
        "domains": [domain for domain, section in config.domains.items() if section.route == name],
        "port": hosts_of(route)[0].port,
        "connections": route.connections,
        "max_message_size": f"{max(one.max_message_size for one in inbound) // 1024 or 1}KB",
        "outbound": _outbound(config),
        "certificate": _certificate(config),
        "client_certificate": client[0] if client else "",
        "arc": _sealer(config),
        "spam_field": _SPAM_FIELD,
        "spam_words": _SPAM_WORDS,
        "tenant_domain": tenant_domain,
    }


def _addresses(config: Config, route: SmtpRoute) -> list[str]:
    """Those that the route's mail goes out from; none where nobody can tell without asking."""
    if route.pool is not None:
        names = config.pools[route.pool].sources if route.pool in config.pools else (route.pool,)
        sources = [config.sources[one] for one in names]
        return [str(own) for one in sources for own in (one.address, one.address6) if own is not None]
    found = dict.fromkeys(_way_to(one.host) for one in hosts_of(route) if one.port)
    return [one for one in found if one]


def _way_to(host: str) -> str:
    """The address that the system would send from, "" where it does not say. Nothing is sent."""
    try:
        address = ip_address(host)
    except ValueError:
        return ""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.connect((str(address), 25))
            return str(one.getsockname()[0])
    except OSError:
        return ""


def _outbound(config: Config) -> _Outbound | None:
    for listener in config.listeners:
        if listener.role == "inbound":
            continue
        for endpoint in listener.endpoints:
            place = listening(endpoint)
            if place is not None and listener.tls != "implicit":
                return _Outbound(listener.name, place.port)
    return None


def _certificate(config: Config) -> str:
    """The name by which clients can verify us; "" where there is none."""
    if config.tls.certificate is None:
        return ""
    pairs, _ = read_pairs(config.tls.certificate)
    hostname = config.gateway.hostname
    if any(is_of(one.certificate, hostname) for one in pairs):
        return hostname
    return next((name for one in pairs for name in one.names), "")


def _names_in(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        return read_key_pair(Source(path, path)).names
    except TlsError:
        return ()


def _sealer(config: Config) -> str:
    """The domain that seals, where a filter of kind arc-seal does."""
    for name, section in config.filters.items():
        domain = section.own.get("domain")
        if (section.kind or name) == "arc-seal" and isinstance(domain, str):
            return domain
    return ""
