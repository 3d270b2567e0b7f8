"""Routes to back ends of a known kind, and listeners that depend on them: what has no effect, and what is a trap."""

from __future__ import annotations

from collections.abc import Iterator

from mailgate.config.document import Document
from mailgate.config.hosts import parse_host
from mailgate.config.problems import Problems
from mailgate.config.routes import ServerRoute, SmtpRoute
from mailgate.config.schema import Config, FilterSection, ListenerSection

__all__ = ["advise_on_back_ends", "check_sizes", "knows_tenants"]

#: What a receive connector takes from one address, if nobody has raised it.
_CONNECTIONS = 20
#: Seconds that an Exchange may take for its copies of a message, with some to spare.
_PATIENCE = 120.0
#: Below this Microsoft's own hosts are.
_ONLINE = ".mail.protection.outlook.com"


def check_sizes(document: Document, problems: Problems) -> None:
    """No listener goes by the sizes of a route by MX: strangers would say how large our mail may be."""
    routes = document.tables("routes")
    for number, listener in document.listeners():
        named = listener.get("size_of")
        for index, name in enumerate(named if isinstance(named, list) else ()):
            route = routes.get(name, {}) if isinstance(name, str) else {}
            if route.get("transport") == "smtp" and not route.get("hosts"):
                text = f"is for fixed hosts, and {name} goes by MX: any host of the Internet would set the size"
                problems.error(("listeners", number, "size_of", index), text)


def advise_on_back_ends(config: Config, problems: Problems) -> None:
    """Warn about a file without errors."""
    for number, listener in enumerate(config.listeners):
        for index, name in enumerate(listener.size_of):
            if not isinstance(config.routes[name], ServerRoute):
                path = ("listeners", number, "size_of", index)
                problems.warn(path, f"has no effect: {name} goes to no server that could tell a size")
        for name, section in _judges(config, listener):
            is_asked = listener.role == "inbound" or listener.client_certificates != "none"
            if not is_asked and section.own.get("certificates", True):
                text = f"is asked of nobody at the listener {listener.name}: all that comes there is deferred"
                fix = 'give that client_certificates = "request", or this filter certificates = []'
                problems.warn(("filters", name, "certificates"), f"{text}; {fix}")
    for name, route in config.routes.items():
        if isinstance(route, SmtpRoute) and route.preset is not None:
            _route(name, route, problems)


def _route(name: str, route: SmtpRoute, problems: Problems) -> None:
    path = ("routes", name)
    if route.preset == "exchange" and route.connections > _CONNECTIONS:
        text = f"a receive connector takes {_CONNECTIONS} from one address, unless it has been raised"
        problems.warn((*path, "connections"), f"{text} (MaxInboundConnectionPerSource)")
    if route.data_timeout < _PATIENCE:
        text = "an Exchange may take a minute for the copies that it makes first; giving up sooner makes duplicates"
        problems.warn((*path, "data_timeout"), text)
    hosts = [one for group in route.hosts for one in (group if isinstance(group, list) else [group])]
    is_online = any(parse_host(one, route.port).host.endswith(_ONLINE) for one in hosts)
    if is_online and route.preset != "exchange-online":
        problems.warn((*path, "preset"), 'these hosts are Exchange Online: write "exchange-online"')


def knows_tenants(config: Config, listener: ListenerSection) -> bool:
    """Whether a filter of kind exchange-online judges all mail of the listener's trusted_networks, addresses that many
    tenants share, and is acted on."""
    return any(
        section.on_failure != "continue" and not (section.only_for or section.except_for or section.own.get("networks"))
        for _, section in _judges(config, listener)
    )


def _judges(config: Config, listener: ListenerSection) -> Iterator[tuple[str, FilterSection]]:
    """The filters of kind exchange-online that are acted on for the listener's trusted_networks."""
    for entry in config.pipelines[listener.trusted_pipeline or listener.pipeline].filters:
        for name in [entry] if isinstance(entry, str) else entry:
            section = config.filter(name)
            if (section.kind or name) == "exchange-online" and section.mode == "enforce":
                yield name, section
