"""Whether `[recipients.NAME]` make sense, and whether domains name what is there: errors and warnings."""

from __future__ import annotations

from mailgate.config.document import Document
from mailgate.config.identities import warn_of_clear_text, warn_of_secrets
from mailgate.config.locate import Path
from mailgate.config.problems import Problems, choices
from mailgate.config.recipients import CalloutRecipients, HttpRecipients, LdapRecipients
from mailgate.config.schema import Config
from mailgate.config.units import format_duration

__all__ = ["advise_on_recipients", "check_recipients", "check_sources"]

#: What counts for one way of asking a directory only.
_FOR_SNAPSHOTS = ("refresh", "full_refresh", "page_size", "max_entries", "max_change")
_FOR_SINGLE = ("cache", "cache_unknown", "cache_size", "connections")
#: Of a route, the value of `transport` with which a server can be asked.
_SERVERS = ("smtp", "lmtp")


def check_recipients(document: Document, problems: Problems) -> None:
    """What cannot work, in the document."""
    routes = document.tables("routes")
    for name, section in document.tables("recipients").items():
        kind = section.get("kind")
        if name == "any":
            problems.error(("recipients", name), 'no section can have this name: "any" stands for every recipient')
        if kind == "list" and not section.get("addresses") and "path" not in section:
            problems.error(("recipients", name), "knows no address: it needs addresses or a path")
        route = section.get("route")
        if kind != "callout" or not isinstance(route, str):
            continue
        if route not in document.names("routes"):
            text = choices(f'there is no route "{route}"', route, document.names("routes"))
            problems.error(("recipients", name, "route"), text)
        elif routes.get(route, {}).get("transport", "smtp") not in _SERVERS:
            problems.error(("recipients", name, "route"), f"{route} goes to no server that could be asked")


def check_sources(document: Document, domain: str, value: object, problems: Problems) -> None:
    """What `recipients` of a domain names: sections that are there, each once, and "any" by itself."""
    path: Path = ("domains", domain, "recipients")
    valid = ["any", *document.names("recipients")]
    names = value if isinstance(value, list) else [value]
    for number, name in enumerate(names):
        place = (*path, number) if isinstance(value, list) else path
        if not isinstance(name, str):
            continue
        if name not in valid:
            problems.error(place, choices(f'there is no recipients section "{name}"', name, valid))
        elif name in names[:number]:
            problems.error(place, f'"{name}" stands twice')
        elif name == "any" and len(names) > 1:
            problems.error(place, '"any" takes every address: it stands alone')


def advise_on_recipients(config: Config, problems: Problems) -> None:
    """Warn about a file without errors."""
    used = {name for domain in config.domains.values() for name in domain.recipients}
    for name, section in config.recipients.items():
        path: Path = ("recipients", name)
        if name not in used:
            problems.warn(path, "no domain names this section")
        warn_of_secrets(path, section, problems)
        if isinstance(section, HttpRecipients):
            warn_of_clear_text((*path, "url"), section.url, problems)
        elif isinstance(section, LdapRecipients):
            for key in _FOR_SINGLE if section.snapshot else _FOR_SNAPSHOTS:
                if key in section.model_fields_set:
                    problems.warn((*path, key), f"has no effect with snapshot = {str(section.snapshot).lower()}")
        elif isinstance(section, CalloutRecipients):
            for which in ("known", "unknown"):
                refresh, kept = getattr(section, f"{which}_refresh"), getattr(section, f"{which}_for")
                if refresh >= kept:
                    text = f"is not less than {which}_for ({format_duration(kept)}): mail waits for each answer again"
                    problems.warn((*path, f"{which}_refresh"), text)
