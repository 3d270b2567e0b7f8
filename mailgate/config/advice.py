"""Warnings: what a sound file allows and its administrator may not mean. First of all: open relays."""

from __future__ import annotations

from ipaddress import ip_address
from string import Formatter

from mailgate.config.aliases_check import advise_on_aliases
from mailgate.config.back_ends import advise_on_back_ends, knows_tenants
from mailgate.config.delivery import advise_on_delivery
from mailgate.config.document import Document
from mailgate.config.endpoints import listening
from mailgate.config.hosts import parse_domain_pattern, parse_host
from mailgate.config.http_check import advise_on_http
from mailgate.config.identities import advise_on_identities
from mailgate.config.locate import Path
from mailgate.config.machine import holds_a_line
from mailgate.config.mta_check import advise_on_mta
from mailgate.config.order import advise_on_order
from mailgate.config.ports import advise_on_ports
from mailgate.config.problems import Problems
from mailgate.config.public import public_space
from mailgate.config.recipients_check import advise_on_recipients
from mailgate.config.schema import (
    Config,
    DiscardRoute,
    ListenerSection,
    ListRecipients,
    LmtpRoute,
    MaildirRoute,
    RetrySection,
    SmtpRoute,
)
from mailgate.config.security_check import advise_on_security
from mailgate.config.units import format_duration

__all__ = ["advise"]

#: Top level domains for private networks (RFC 6761, RFC 6762, RFC 8375, ICANN's "internal").
_PRIVATE_TLDS = {"alt", "arpa", "corp", "example", "home", "internal", "intranet", "invalid", "lan", "local"} | {
    "localdomain",
    "localhost",
    "private",
    "test",
}
#: Second levels below which a country registers the names of others: co.uk, com.au.
_REGISTRIES = {"ac", "co", "com", "edu", "gob", "gov", "gouv", "ne", "net", "nom", "or", "org"}

_LISTENER_LEAST = {"command_timeout": 300.0, "data_timeout": 180.0}
_DATA_LEAST, _EXPIRE_LEAST = 600.0, 86400.0


def advise(config: Config, document: Document, problems: Problems) -> None:
    """Warn about a file without errors."""
    _relays(config, problems)
    _domains(config, document, problems)
    _directories(config, document, problems)
    _durations(config, problems)
    _lists(config, problems)
    _filters(config, document, problems)
    _loops(config, problems)
    _unused(config, document, problems)
    advise_on_identities(config, problems)
    advise_on_mta(config, document, problems)
    advise_on_recipients(config, problems)
    advise_on_aliases(config, document, problems)
    advise_on_order(config, document, problems)
    advise_on_ports(config, problems)
    advise_on_delivery(config, problems)
    advise_on_back_ends(config, problems)
    advise_on_security(config, problems)
    advise_on_http(config, document, problems)


def _relays(config: Config, problems: Problems) -> None:
    routing = config.routing
    for number, listener in enumerate(config.listeners):
        path: Path = ("listeners", number)
        if listener.role == "inbound":
            if listener.trusted_networks:
                problems.warn((*path, "trusted_networks"), "has no effect: role inbound never relays")
            if not config.domains:
                problems.warn((*path, "role"), "refuses every recipient: there are no [domains]")
        else:
            if (text := public_space(listener.trusted_networks)) and not knows_tenants(config, listener):
                problems.warn(
                    (*path, "trusted_networks"), f"{text} may relay to anyone: this is an open relay for them"
                )
            if not (routing.default or routing.recipients or routing.senders):
                problems.warn((*path, "role"), "relays nowhere: [routing] has no default route, nor any other")
        if listener.judge_origin and not listener.xforward_from:
            problems.warn((*path, "judge_origin"), "has no effect without xforward_from: nobody may name a client")
        if listener.role != "hybrid" and listener.trusted_pipeline and not listener.judge_origin:
            problems.warn((*path, "trusted_pipeline"), f"has no effect: role {listener.role} has one pipeline")


def _domains(config: Config, document: Document, problems: Problems) -> None:
    for key in document.names("domains"):
        path: Path = ("domains", key)
        domain = parse_domain_pattern(key)
        section = config.domains[domain]
        route = config.routes[section.route]
        if _is_registry(domain):
            problems.warn(path, "takes mail for the domains of others, from anyone: nearly an open relay")
        if isinstance(route, SmtpRoute) and not route.hosts:
            text = f"{section.route} delivers by MX, which may lead back here, in a loop: give the route hosts"
            problems.warn((*path, "route"), text)
        if section.recipients == ["any"] and isinstance(route, SmtpRoute | LmtpRoute) and route.queue:
            problems.warn(
                (*path, "recipients"),
                "any: what the next hop refuses has to be bounced, mostly to forged senders (backscatter); "
                "name a [recipients.NAME]",
            )
        if section.catch_all is not None and "any" in section.recipients:
            text = "has no effect: with recipients = any, every address exists"
            problems.warn((*path, "catch_all"), text)
        if isinstance(route, DiscardRoute):
            problems.warn((*path, "route"), f"{section.route} throws the mail of this domain away")
        if isinstance(route, MaildirRoute) and not _has_local_part(route) and _has_many(config, domain):
            text = f"{section.route} puts all recipients' mail into one Maildir: its path has no {{local_part}}"
            problems.warn((*path, "route"), text)


def _directories(config: Config, document: Document, problems: Problems) -> None:
    if all(section.recipients == ["any"] for section in config.domains.values()):
        return
    kinds: dict[str, set[str]] = {name: set() for name in config.pipelines}
    for name, path in document.pipeline_filters():
        kinds[str(path[1])].add(document.kind_of(name))
    for pipeline in {listener.pipeline for listener in config.listeners if listener.role != "outbound"}:
        if "recipients" not in kinds[pipeline]:
            text = "has no filter of kind recipients: nobody asks [recipients] whether an address exists"
            problems.warn(("pipelines", pipeline, "filters"), text)


def _durations(config: Config, problems: Problems) -> None:
    for number, listener in enumerate(config.listeners):
        for key, least in _LISTENER_LEAST.items():
            _at_least(("listeners", number, key), getattr(listener, key), least, "RFC 5321 section 4.5.3.2", problems)
    for name, route in config.routes.items():
        path: Path = ("routes", name)
        if isinstance(route, SmtpRoute | LmtpRoute):
            section = "RFC 5321 section 4.5.3.2; less makes duplicates"
            _at_least((*path, "data_timeout"), route.data_timeout, _DATA_LEAST, section, problems)
        _retry((*path, "retry"), route.retry, problems)
    for name, shaping in config.shaping.items():
        if shaping.retry is not None:
            _retry(("shaping", name, "retry"), shaping.retry, problems)


def _retry(path: Path, retry: RetrySection, problems: Problems) -> None:
    if retry.first >= retry.expire:
        text = f"is not less than expire ({format_duration(retry.expire)}): never tried a second time"
        problems.warn((*path, "first"), text)
    elif retry.first > retry.longest:
        text = f"is more than longest ({format_duration(retry.longest)}), which every wait is then"
        problems.warn((*path, "first"), text)
    if retry.longest > retry.expire and "longest" in retry.model_fields_set:
        text = f"has no effect: it is more than expire ({format_duration(retry.expire)})"
        problems.warn((*path, "longest"), text)
    section = "RFC 5321 section 4.5.4.1 asks for days"
    _at_least((*path, "expire"), retry.expire, _EXPIRE_LEAST, section, problems)


def _at_least(path: Path, value: float, least: float, why: str, problems: Problems) -> None:
    if value < least:
        problems.warn(path, f"is less than {format_duration(least)} ({why})")


def _lists(config: Config, problems: Problems) -> None:
    for name, section in config.recipients.items():
        if not isinstance(section, ListRecipients) or section.path is None:
            continue
        if not section.addresses and not holds_a_line(section.path):
            problems.warn(("recipients", name, "path"), f"{section.path} has no address: every recipient is refused")


def _filters(config: Config, document: Document, problems: Problems) -> None:
    used: dict[str, list[ListenerSection]] = {}
    """by the names of filters, the listeners through whose pipelines they run"""
    for name, path in document.pipeline_filters():
        used.setdefault(name, []).extend(
            listener for listener in config.listeners if path[1] in (listener.pipeline, listener.trusted_pipeline)
        )
    for name, section in config.filters.items():
        kind = document.kind_of(name)
        if kind == "headers" and section.mode == "shadow" and name in used:
            text = "shadow: mail goes on without a Received field, which ends loops (RFC 5321 section 4.4)"
            problems.warn(("filters", name, "mode"), text)
        limit = section.own.get("max_unknown")
        if kind == "recipients" and isinstance(limit, int):
            for listener in used.get(name, ()):
                if limit > listener.max_errors:
                    problems.warn(
                        ("filters", name, "max_unknown"),
                        f"has no effect at listener {listener.name}, whose max_errors is {listener.max_errors}",
                    )


def _loops(config: Config, problems: Problems) -> None:
    ours = [
        (listener.name, place)
        for listener in config.listeners
        for place in map(listening, listener.endpoints)
        if place is not None
    ]
    for name, route in config.routes.items():
        if not isinstance(route, SmtpRoute):
            continue
        for number, entry in enumerate(route.hosts):
            for host in entry if isinstance(entry, list) else [entry]:
                next_hop = parse_host(host, route.port)
                for listener, place in ours:
                    if next_hop.port == place.port and _reaches(next_hop.host, place.interface, config):
                        text = f"{host} is our own listener {listener}: mail would go round in a loop"
                        problems.warn(("routes", name, "hosts", number), text)


def _reaches(host: str, interface: str, config: Config) -> bool:
    """Whether a connection to `host` is known to come to a socket that listens there."""
    if host == config.gateway.hostname:
        return True
    try:
        address = ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return False
    if interface in ("", "0.0.0.0"):  # noqa: S104  compared, not listened on
        return address.version == 4 and address.is_loopback
    if interface == "::":
        return address.is_loopback
    try:
        return address == ip_address(interface) or (host == "localhost" and ip_address(interface).is_loopback)
    except ValueError:
        return host == interface


def _has_local_part(route: MaildirRoute) -> bool:
    return any(field == "local_part" for _, field, _, _ in Formatter().parse(route.path))


def _has_many(config: Config, domain: str) -> bool:
    """Whether more than one recipient of the domain may exist: certain but for a list of its own addresses."""
    names = config.domains[domain].recipients
    section = config.recipients.get(names[0])
    if len(names) > 1 or not isinstance(section, ListRecipients) or section.path is not None:
        return True
    if domain.startswith("*."):
        return True
    ours = [address for address in section.addresses if address.rpartition("@")[2] == domain]
    return len(ours) > 1 or f"@{domain}" in ours


def _unused(config: Config, document: Document, problems: Problems) -> None:
    used = {section.route for section in config.domains.values()} | {config.routing.default}
    used |= {*config.routing.recipients.values(), *config.routing.senders.values()}
    used |= {getattr(route, "fallback", None) for route in config.routes.values()}
    used |= {milter.route for milter in config.milters.values()}
    for name in config.routes:
        if name not in used:
            problems.warn(("routes", name), "no entry of [domains] or [routing] names this route")
    asked = {name for domain in config.domains.values() for name in domain.aliases}
    for name in config.aliases:
        if name not in asked:
            problems.warn(("aliases", name), "no entry of [domains] names these aliases")
    named = {name for name, _ in document.pipeline_filters()}
    for name in config.filters:
        if name not in named:
            problems.warn(("filters", name), "no pipeline names this filter")


def _is_registry(pattern: str) -> bool:
    """Whether below it lie the domains of everyone: `*.org`, `*.co.uk`."""
    if not pattern.startswith("*."):
        return False
    labels = pattern[2:].split(".")
    if len(labels) == 1:
        return labels[0] not in _PRIVATE_TLDS
    return len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _REGISTRIES
