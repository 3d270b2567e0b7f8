"""Warnings about well-known ports that are used otherwise than the other side expects (RFC 8314)."""

from __future__ import annotations

from mailgate.config.endpoints import listening
from mailgate.config.hosts import parse_host
from mailgate.config.locate import Path
from mailgate.config.problems import Problems
from mailgate.config.schema import Config, ListenerSection, SmtpRoute

__all__ = ["advise_on_ports"]

#: Where TLS begins with the first octet, and where it begins by STARTTLS.
_IMPLICIT, _STARTTLS = 465, (25, 587)


def advise_on_ports(config: Config, problems: Problems) -> None:
    """Warn about a file without errors."""
    for number, listener in enumerate(config.listeners):
        _listener(listener, ("listeners", number, "endpoints"), problems)
    for name, route in config.routes.items():
        if isinstance(route, SmtpRoute):
            _route(route, ("routes", name), problems)


def _listener(listener: ListenerSection, path: Path, problems: Problems) -> None:
    for index, endpoint in enumerate(listener.endpoints):
        place = listening(endpoint)
        # a balancer that speaks to us may have ended TLS, and says so in its header
        if place is None or listener.proxy_protocol_from:
            continue
        if place.port == _IMPLICIT and listener.tls != "implicit":
            text = 'clients begin with TLS at port 465: it needs tls = "implicit"'
            problems.warn((*path, index), text)
        if place.port in _STARTTLS and listener.tls == "implicit":
            text = f'clients begin in clear text at port {place.port}: tls = "implicit" is for port 465'
            problems.warn((*path, index), text)


def _route(route: SmtpRoute, path: Path, problems: Problems) -> None:
    for index, entry in enumerate(route.hosts):
        for host in entry if isinstance(entry, list) else [entry]:
            port = parse_host(host, route.port).port
            if port == _IMPLICIT and route.tls != "implicit":
                text = f'{host}: servers begin with TLS at port 465: it needs tls = "implicit"'
                problems.warn((*path, "hosts", index), text)
            if port in _STARTTLS and route.tls == "implicit":
                text = f'{host}: servers begin in clear text at port {port}: tls = "implicit" is for port 465'
                problems.warn((*path, "hosts", index), text)
    if not route.hosts and route.tls == "implicit":
        problems.warn((*path, "tls"), "mail hosts that MX records name begin in clear text: give the route hosts")
