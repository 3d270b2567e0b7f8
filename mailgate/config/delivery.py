"""Whether sources, pools and shapings make sense, and know one another: errors and warnings."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, timedelta

from mailgate.config.document import Document, Table
from mailgate.config.locate import Path
from mailgate.config.machine import is_here
from mailgate.config.problems import Problems, choices
from mailgate.config.routes import ServerRoute, SmtpRoute
from mailgate.config.schema import Config, ShapingSection, SourceSection

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
        _known(("routes", name, "pool"), route.get("pool"), "pool or source", [*pools, *sources], problems)
    for name, pool in document.tables("pools").items():
        if name in sources:
            problems.error(("pools", name), "a source has this name too: a route could mean either")
        members = pool.get("sources")
        if isinstance(members, dict):
            for member in members:
                _known(("pools", name, "sources", member), member, "source", sources, problems)
            if members and all(weight == 0 for weight in members.values()):
                problems.error(("pools", name, "sources"), "all weights are 0: no message would go out")
    for name, section in document.tables("sources").items():
        if not section.keys() & {"address", "address6", "hostname"}:
            problems.error(("sources", name), "says nothing: it needs address, address6 or hostname")
    for name, section in document.tables("shaping").items():
        for path, named in _entries(("shaping", name, "routes"), section):
            _known(path, named, "route", document.names("routes"), problems)
        for path, named in _entries(("shaping", name, "sources"), section):
            _known(path, named, "source", sources, problems)


def advise_on_delivery(config: Config, problems: Problems, today: date | None = None) -> None:
    """Warn about a file without errors; `today` (UTC) is the machine's, if it is not given."""
    used = {route.pool for route in config.routes.values() if isinstance(route, ServerRoute)}
    for name, pool in config.pools.items():
        if name not in used:
            problems.warn(("pools", name), "no route names this pool")
        used |= pool.sources.keys()
    for name, source in config.sources.items():
        if name not in used:
            problems.warn(("sources", name), "no pool and no route names this source")
        _source(("sources", name), source, today or datetime.now(UTC).date(), problems)
    for name, shaping in config.shaping.items():
        _shaping(("shaping", name), shaping, config, problems)


def _source(path: Path, source: SourceSection, today: date, problems: Problems) -> None:
    for key, address in (("address", source.address), ("address6", source.address6)):
        if address is not None and not is_here(address):
            problems.warn((*path, key), f"{address} is not an address of this machine: nothing can go out from it")
    plan = source.warm_up
    if plan is None:
        return
    if source.address is None and source.address6 is None:
        problems.warn((*path, "warm_up"), "there is no address to warm up: the system chooses one")
    if today < plan.start:
        problems.warn((*path, "warm_up", "start"), f"nothing goes out from this source before {plan.start}")
    elif today >= (end := plan.start + timedelta(days=min(plan.days, (date.max - plan.start).days))):
        problems.warn((*path, "warm_up"), f"is over since {end}, and can go")


def _shaping(path: Path, shaping: ShapingSection, config: Config, problems: Problems) -> None:
    if not shaping.model_fields_set & set(_GIVEN):
        problems.warn(path, "gives nothing")
    for number, name in enumerate(shaping.routes):
        route = config.routes[name]
        if not isinstance(route, ServerRoute):
            problems.warn((*path, "routes", number), f"has no effect: {name} goes to no server")
        elif shaping.domains and not shaping.mx and (not isinstance(route, SmtpRoute) or route.hosts):
            text = f"has no effect on {name}, whose hosts are the same for every domain"
            problems.warn((*path, "domains"), text)
    for number, rule in enumerate(shaping.slow_down):
        if rule.action != "rest" and "rest" in rule.model_fields_set:
            problems.warn((*path, "slow_down", number, "rest"), 'has no effect without action = "rest"')


def _entries(path: Path, section: Table) -> Iterator[tuple[Path, object]]:
    entries = section.get(str(path[-1]))
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        yield (*path, number), entry


def _known(path: Path, name: object, what: str, valid: Collection[str], problems: Problems) -> None:
    if isinstance(name, str) and name not in valid:
        problems.error(path, choices(f'there is no {what} "{name}"', name, valid))
