"""What one section says about another, and whether it makes sense: errors that no section shows by itself.

These look at the document, not at validated sections: a mistake in a section must not hide what else is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path as FilePath

from pydantic import TypeAdapter, ValidationError

from mailgate.config.aliases_check import check_aliases
from mailgate.config.back_ends import check_sizes
from mailgate.config.delivery import check_delivery
from mailgate.config.document import Document
from mailgate.config.hosts import parse_domain_pattern, parse_routing_pattern
from mailgate.config.http_check import check_http
from mailgate.config.inline import check_inline
from mailgate.config.locate import Path
from mailgate.config.mta_check import check_mta
from mailgate.config.problems import Problems, choices
from mailgate.config.recipients_check import check_recipients, check_sources
from mailgate.config.schema import FilterCommon
from mailgate.config.security_check import check_security
from mailgate.config.wording import field_types, reworded
from mailgate.interfaces import IFilterFactory

__all__ = ["check", "filter_options"]


def check(document: Document, problems: Problems) -> None:
    """References to what does not exist, what stands twice, and what cannot work."""
    _references(document, problems)
    check_delivery(document, problems)
    check_inline(document, problems)
    check_sizes(document, problems)
    _listeners(document, problems)
    for path, normal in (
        (("domains",), parse_domain_pattern),
        (("tls_policies",), parse_domain_pattern),
        (("routing", "recipients"), parse_routing_pattern),
        (("routing", "senders"), parse_routing_pattern),
    ):
        _twice(path, document.table(*path), normal, problems)
    check_aliases(document, problems)
    check_recipients(document, problems)
    check_security(document, problems)
    check_http(document, problems)
    check_mta(document, problems)
    seen: set[tuple[object, str]] = set()
    for name, place in document.pipeline_filters():
        if (place[1], name) in seen:
            problems.error(place, f'"{name}" stands twice in this pipeline')
        seen.add((place[1], name))


def filter_options(
    document: Document, base: FilePath, find: Callable[[str], IFilterFactory], problems: Problems
) -> dict[str, object]:
    """The validated options of each filter that a pipeline names or that has a section."""
    options: dict[str, object] = {}
    sections = document.tables("filters")
    for name, path in document.pipeline_filters():
        if name not in document.names("filters"):
            problems.origins.setdefault(("filters", name), path)
    for name in dict.fromkeys([*sections, *(name for name, _ in document.pipeline_filters())]):
        section = sections.get(name, {})
        kind = document.kind_of(name)
        try:
            model = find(kind).options
        except LookupError as error:
            path = ("filters", name, "kind") if "kind" in section else ("filters", name)
            problems.error(path, str(error.args[0]) if error.args else f"there is no filter of kind {kind}")
            continue
        own = {key: value for key, value in section.items() if key not in FilterCommon.model_fields}
        try:
            options[name] = TypeAdapter(model).validate_python(own, context={"base": base})
        except ValidationError as error:
            for inner, text in reworded(model, own, error):
                if text.startswith("unknown key") and len(inner) == 1:
                    text = choices("unknown key", inner[0], sorted({*field_types(model), *FilterCommon.model_fields}))
                problems.error(("filters", name, *inner), text)
    return options


def _references(document: Document, problems: Problems) -> None:
    routes, pipelines = document.names("routes"), document.names("pipelines")
    for number, listener in document.listeners():
        for key in ("pipeline", "trusted_pipeline"):
            problems.known(("listeners", number, key), listener.get(key), "pipeline", pipelines)
        problems.known(("listeners", number, "auth"), listener.get("auth"), "auth section", document.names("auth"))
        sized = listener.get("size_of")
        for index, route in enumerate(sized if isinstance(sized, list) else ()):
            problems.known(("listeners", number, "size_of", index), route, "route", routes)
    for domain, section in document.tables("domains").items():
        problems.known(("domains", domain, "route"), section.get("route"), "route", routes)
        check_sources(document, domain, section.get("recipients"), problems)
    for name, section in document.tables("routes").items():
        fallback = section.get("fallback")
        problems.known(("routes", name, "fallback"), fallback, "route", routes)
        if fallback == name:
            problems.error(("routes", name, "fallback"), "a route is no fallback of its own")
    problems.known(("routing", "default"), document.table("routing").get("default"), "route", routes)
    for key in ("recipients", "senders"):
        for pattern, route in document.table("routing", key).items():
            problems.known(("routing", key, pattern), route, "route", routes)


def _listeners(document: Document, problems: Problems) -> None:
    names: dict[str, int] = {}
    endpoints: dict[str, Path] = {}
    for number, listener in document.listeners():
        path: Path = ("listeners", number)
        name, role, entries = listener.get("name"), listener.get("role"), listener.get("endpoints")
        if isinstance(name, str):
            if name in names:
                line = problems.line(("listeners", names[name], "name"))
                problems.error((*path, "name"), f'"{name}" is the name of the listener in line {line} too')
            names.setdefault(name, number)
        for index, endpoint in enumerate(entries if isinstance(entries, list) else ()):
            place = (*path, "endpoints", index)
            if isinstance(endpoint, str):
                if endpoint in endpoints:
                    problems.error(place, f'"{endpoint}" stands in line {problems.line(endpoints[endpoint])} already')
                endpoints.setdefault(endpoint, place)
        tls = document.table("tls")
        ways = [listener.get(key) for key in ("trusted_networks", "auth", "xclient_from")]
        if role in ("outbound", "hybrid") and not any([*ways, tls.get("client_fingerprints")]):
            text = f"nobody may relay here: role {role} needs trusted_networks or auth"
            problems.error((*path, "role"), f"{text} (or xclient_from, or tls.client_fingerprints)")
        if listener.get("tls") in ("optional", "required", "implicit") and "certificate" not in tls:
            problems.error((*path, "tls"), "there is no certificate: tls.certificate is not given")
        if listener.get("client_certificates") in ("request", "require"):
            _client_certificates(listener, tls, path, problems)


def _client_certificates(
    listener: Mapping[str, object], tls: Mapping[str, object], path: Path, problems: Problems
) -> None:
    place = (*path, "client_certificates")
    if "certificate" not in tls or listener.get("tls") == "off":
        problems.error(place, "clients show certificates under TLS only")
    elif "client_ca" not in tls and not tls.get("client_fingerprints"):
        problems.error(place, "none would be known: it needs tls.client_ca or tls.client_fingerprints")


def _twice(path: Path, keys: Mapping[str, object], normal: Callable[[str], str], problems: Problems) -> None:
    """Keys that TOML takes for different and that mean the same."""
    seen: dict[str, str] = {}
    for key in keys:
        try:
            meant = normal(key)
        except ValueError:
            continue  # reported where the section was validated
        if meant in seen:
            problems.error((*path, key), f"is the same as {seen[meant]} in line {problems.line((*path, seen[meant]))}")
        seen.setdefault(meant, key)
