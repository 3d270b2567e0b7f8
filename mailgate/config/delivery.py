"""Whether sources, pools and shapings make sense, and know one another: errors and warnings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address

from mailgate.config.document import Document, Table
from mailgate.config.inline import advise_on_inline
from mailgate.config.locate import Path
from mailgate.config.machine import is_here
from mailgate.config.problems import Problems
from mailgate.config.replies import doubt
from mailgate.config.routes import HopRoute, SmtpRoute
from mailgate.config.schema import Config, LmtpRoute, ShapingSection, SourceSection

__all__ = ["advise_on_delivery", "check_delivery"]

#: What a shaping may give.
_GIVEN = (
    "connections",
    "messages_per_connection",
    "recipients_per_message",
    "message_rate",
    "connection_rate",
    "slow_down",
    "retry",
)


def check_delivery(document: Document, problems: Problems) -> None:
    """References to what does not exist, and what cannot work: in the document, as `check` does."""
    sources, pools = document.names("sources"), document.names("pools")
    for name, route in document.tables("routes").items():
        problems.known(("routes", name, "pool"), route.get("pool"), "pool or source", [*pools, *sources])
    for name, pool in document.tables("pools").items():
        if name in sources:
            problems.error(("pools", name), "a source has this name too: a route could mean either")
        members = pool.get("sources")
        if isinstance(members, dict):
            for member in members:
                problems.known(("pools", name, "sources", member), member, "source", sources)
            if members and all(weight == 0 for weight in members.values()):
                problems.error(("pools", name, "sources"), "all weights are 0: no message would go out")
    for name, section in document.tables("sources").items():
        if not section.keys() & {"address", "address6", "hostname"}:
            problems.error(("sources", name), "says nothing: it needs address, address6 or hostname")
    for name, section in document.tables("shaping").items():
        for path, named in _entries(("shaping", name, "routes"), section):
            problems.known(path, named, "route", document.names("routes"))
        for path, named in _entries(("shaping", name, "sources"), section):
            problems.known(path, named, "source", sources)


def advise_on_delivery(config: Config, problems: Problems, today: date | None = None) -> None:
    """Warn about a file without errors; `today` (UTC) is the machine's, if it is not given."""
    used = {route.pool for route in config.routes.values() if isinstance(route, HopRoute)}
    for name, pool in config.pools.items():
        if name not in used:
            problems.warn(("pools", name), "no route names this pool")
        used |= pool.sources.keys()
    for name, source in config.sources.items():
        if name not in used:
            problems.warn(("sources", name), "no pool and no route names this source")
        _source(("sources", name), source, today or datetime.now(UTC).date(), problems)
        plan = source.warm_up
        if plan is not None and plan.first < config.gateway.workers:
            text = f"is less than gateway.workers ({config.gateway.workers}): on that day some of them send nothing"
            problems.warn(("sources", name, "warm_up", "first"), text)
    for name, route in config.routes.items():
        if isinstance(route, HopRoute) and route.pool is not None:
            _route(("routes", name, "pool"), route, route.pool, config, problems)
    for name, shaping in config.shaping.items():
        _shaping(("shaping", name), shaping, config, problems)
    _overridden(config, problems)
    advise_on_inline(config, problems)


def _route(path: Path, route: HopRoute, pool: str, config: Config, problems: Problems) -> None:
    hosts = route.hosts if isinstance(route, SmtpRoute | LmtpRoute) else []
    for entry in hosts:
        for host in entry if isinstance(entry, list) else [entry]:
            if host.startswith("unix:"):
                problems.warn(path, f"has no effect on {host}, which is reached without an address")
    for name in config.pools[pool].sources if pool in config.pools else [pool]:
        source = config.sources[name]
        if source.address is None and source.address6 is not None and not route.ipv6:
            problems.warn(path, f"source {name} has an IPv6 address only, and the route has ipv6 = false")


def _source(path: Path, source: SourceSection, today: date, problems: Problems) -> None:
    for key, address in (("address", source.address), ("address6", source.address6)):
        if address is not None and (text := _unfit(address)):
            problems.warn((*path, key), f"{address} {text}")
    plan = source.warm_up
    if plan is None:
        return
    if source.address is None and source.address6 is None:
        problems.warn((*path, "warm_up"), "there is no address to warm up: the system chooses one")
    if today < plan.start:
        problems.warn((*path, "warm_up", "start"), f"nothing goes out from this source before {plan.start}")
    elif today >= (end := plan.start + timedelta(days=min(plan.days, (date.max - plan.start).days))):
        problems.warn((*path, "warm_up"), f"is over since {end}, and can go")


def _unfit(address: IPv4Address | IPv6Address) -> str:
    """Why an address is none that mail can go out from; "" where it can."""
    if address.is_unspecified:
        return "is no address: without it the system chooses one"
    if address.is_multicast:
        return "is a multicast address: nothing can go out from it"
    return "" if is_here(address) else "is not an address of this machine: nothing can go out from it"


def _shaping(path: Path, shaping: ShapingSection, config: Config, problems: Problems) -> None:
    if not shaping.model_fields_set & set(_GIVEN):
        problems.warn(path, "gives nothing")
    for number, name in enumerate(shaping.routes):
        route = config.routes[name]
        if not isinstance(route, HopRoute):
            problems.warn((*path, "routes", number), f"has no effect: {name} goes to no server")
        elif shaping.domains and not shaping.mx and (not isinstance(route, SmtpRoute) or route.hosts):
            text = f"has no effect on {name}, whose hosts are the same for every domain"
            problems.warn((*path, "domains"), text)
    for number, rule in enumerate(shaping.slow_down):
        if rule.action != "rest" and "rest" in rule.model_fields_set:
            problems.warn((*path, "slow_down", number, "rest"), 'has no effect without action = "rest"')
        for index, pattern in enumerate(rule.replies):
            if text := doubt(pattern):
                problems.warn((*path, "slow_down", number, "replies", index), text)


def _overridden(config: Config, problems: Problems) -> None:
    """Options that never count, since a section further down is for all that theirs is for, and gives them too."""
    sections = list(config.shaping.items())
    for number, (name, section) in enumerate(sections):
        for later, other in sections[number + 1 :]:
            given = section.model_fields_set & other.model_fields_set & set(_GIVEN) - {"slow_down"}
            if _is_for_all_of(other, section):
                for key in sorted(given):
                    text = f"has no effect: {later} below is for all of this too; put what is general first"
                    problems.warn(("shaping", name, key), text)


def _is_for_all_of(one: ShapingSection, other: ShapingSection) -> bool:
    """Whether a section is for every destination, route and source that the other one is for."""
    if one.domains or one.mx:
        if not (other.domains or other.mx):
            return False
        if not (set(other.domains) <= set(one.domains) and set(other.mx) <= set(one.mx)):
            return False
    return all(
        not mine or (theirs and set(theirs) <= set(mine))
        for mine, theirs in ((one.routes, other.routes), (one.sources, other.sources))
    )


def _entries(path: Path, section: Table) -> Iterator[tuple[Path, object]]:
    entries = section.get(str(path[-1]))
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        yield (*path, number), entry
