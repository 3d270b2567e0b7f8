"""Whether `[aliases.NAME]`, `[forwarding]` and `[reports]` make sense: errors and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mailgate.config.aliases import HttpAliases, MapAliases
from mailgate.config.document import Document
from mailgate.config.hosts import parse_mailbox
from mailgate.config.identities import warn_of_clear_text, warn_of_secrets
from mailgate.config.locate import Path
from mailgate.config.machine import exposed
from mailgate.config.problems import Problems
from mailgate.config.schema import Config

__all__ = ["advise_on_aliases", "check_aliases"]


def check_aliases(document: Document, problems: Problems) -> None:
    """What cannot work, in the document."""
    names = document.names("aliases")
    for name, section in document.tables("aliases").items():
        entries = section.get("entries")
        if section.get("kind") == "map" and not entries and "path" not in section:
            problems.error(("aliases", name), "knows no alias: it needs entries or a path")
        if isinstance(entries, Mapping):
            _twice(("aliases", name, "entries"), entries, problems)
    for domain, section in document.tables("domains").items():
        named = section.get("aliases")
        for number, one in enumerate(named if isinstance(named, list) else ()):
            place: Path = ("domains", domain, "aliases", number)
            problems.known(place, one, "aliases section", names)
    forwarding = document.table("forwarding")
    if ("srs_domain" in forwarding) != ("srs_secrets" in forwarding):
        problems.error(("forwarding",), "srs_domain and srs_secrets go together")


def advise_on_aliases(config: Config, document: Document, problems: Problems) -> None:
    """Warn about a file without errors."""
    has_route = _Routes(config)
    for name, section in config.aliases.items():
        path: Path = ("aliases", name)
        warn_of_secrets(path, section, problems)
        if isinstance(section, HttpAliases):
            warn_of_clear_text((*path, "url"), section.url, problems)
        elif isinstance(section, MapAliases):
            for key, target in _targets(section):
                if not has_route.to(target):
                    text = f"no [domains] or [routing] entry is for {target}: such mail is deferred"
                    problems.warn((*path, "entries", key), text)
    for domain, of_domain in config.domains.items():
        catch_all = of_domain.catch_all
        if catch_all is not None and not has_route.to(catch_all):
            text = f"no [domains] or [routing] entry is for {catch_all}: such mail is deferred"
            problems.warn(("domains", domain, "catch_all"), text)
    _forwarding(config, problems)
    _reports(config, document, problems)


def _forwarding(config: Config, problems: Problems) -> None:
    forwarding = config.forwarding
    if forwarding.srs_domain is None or forwarding.srs_secrets is None:
        return
    if text := exposed(forwarding.srs_secrets):
        problems.warn(("forwarding", "srs_secrets"), f"{forwarding.srs_secrets} {text}: who knows it can relay by us")
    if not config.routing.default:
        text = "reports to rewritten senders cannot be sent on: [routing] has no default route"
        problems.warn(("forwarding", "srs_domain"), text)
    if forwarding.srs_domain not in config.domains:
        text = "is none of [domains]: its postmaster gets no mail (RFC 5321 section 4.5.1)"
        problems.warn(("forwarding", "srs_domain"), text)


def _reports(config: Config, document: Document, problems: Problems) -> None:
    reports = config.reports
    if not reports.enabled:
        return
    if not any(document.kind_of(name) == "dmarc" for name, _ in document.pipeline_filters()):
        problems.warn(("reports", "enabled"), "there is nothing to report: no pipeline has a filter of kind dmarc")
    if reports.dkim is None:
        problems.warn(("reports",), "are not signed: without [reports.dkim] they may be refused as forged")
    elif text := exposed(reports.dkim.key):
        problems.warn(("reports", "dkim", "key"), f"{reports.dkim.key} {text}")


def _twice(path: Path, entries: Mapping[str, object], problems: Problems) -> None:
    seen: dict[str, str] = {}
    for key in entries:
        try:
            meant = parse_mailbox(key).lower()
        except ValueError:
            continue  # reported where the section was validated
        if meant in seen:
            problems.error((*path, key), f"is the same as {seen[meant]}")
        seen.setdefault(meant, key)


def _targets(section: MapAliases) -> Iterator[tuple[str, str]]:
    for key, targets in section.entries.items():
        for target in [targets] if isinstance(targets, str) else targets:
            yield key, target


class _Routes:
    """Whether mail has a route, whoever sends it."""

    def __init__(self, config: Config) -> None:
        self._has_default = bool(config.routing.default)
        self._keys = {*config.domains, *config.routing.recipients}

    def to(self, target: str) -> bool:
        """Whether that to an address, or "@domain", has one."""
        domain = target.rpartition("@")[2]
        if self._has_default or target.lower() in self._keys:
            return True
        return any(domain == key or (key.startswith("*.") and domain.endswith(key[1:])) for key in self._keys)
