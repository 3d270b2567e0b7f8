"""The smtpd services of master.cf as listeners, each with its pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from mailgate.config.units import format_duration, format_size
from mailgate.moving.draft import Section, Value
from mailgate.moving.files import ReadingError, slug
from mailgate.moving.postfix.content import checked, content_filters, milters
from mailgate.moving.postfix.filters import Pipeline, Trusted, restricted
from mailgate.moving.postfix.reading import Parameters, Service
from mailgate.moving.postfix.restrictions import Permissions, permissions
from mailgate.moving.postfix.screening import screened
from mailgate.moving.postfix.site import Site

__all__ = ["read_listeners"]

_TLS = {"none": "off", "may": "optional", "encrypt": "required"}
_KEYWORDS = {
    "pipelining", "size", "8bitmime", "starttls", "auth", "chunking", "binarymime", "smtputf8", "dsn", "etrn",
}  # fmt: skip
#: Limits of anvil: what is counted.
_RATES = {"connection": "connections", "message": "messages", "recipient": "recipients"}
_SMALLEST_SIZE, _LARGEST_SIZE = 64 * 1024, 1024**3
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def read_listeners(site: Site) -> bool:
    """[[listeners]] and [pipelines] for every service; whether recipients are verified by asking the server behind."""
    chosen = [one for one in site.services if one.command in ("smtpd", "postscreen") and one.kind == "inet"]
    behind = next((one for one in site.services if one.command == "smtpd" and one.kind == "pass"), None)
    probes = False
    shared = _shared(site)
    for service in chosen:
        screens = service.command == "postscreen"
        parameters = site.parameters.of(behind if screens and behind is not None else service)
        try:
            place = _place(site, service.name)
        except ReadingError as error:
            site.draft.leave("decide", f"{service.origin}: {service.name}", str(error), "Add a listener by hand")
            continue
        if _is_reinjection(site, service, place[0]):
            text = "takes back what a scanner has looked at, and there is none of that kind any more"
            site.draft.leave("covered", f"{service.origin}: {service.name}", text)
            continue
        site.made |= {service.origin} | ({behind.origin} if screens and behind is not None else set())
        number = len(site.draft.entries("listeners"))
        name = "mx" if place[1] == 25 and not number else slug(service.name.replace(":", "-"))
        screen = screened(site, parameters) if screens else None
        probes = _listener(site, name, service, parameters, place, shared, screen) or probes
    if not chosen:
        site.draft.leave("decide", "master.cf", "no smtpd listens on the network", "Add a [[listeners]]")
    return probes


def _shared(site: Site) -> Pipeline:
    """What cleanup does, for all services alike."""
    pipeline = Pipeline()
    checked(site, pipeline)
    return pipeline


def _place(site: Site, name: str) -> tuple[str, int]:
    """The address ("" for all) and the port of an inet service."""
    host, colon, port = name.rpartition(":")
    if not colon:
        return "", site.port(name)
    return host.strip("[]"), site.port(port)


def _is_reinjection(site: Site, service: Service, host: str) -> bool:
    scans = any(site.parameters.get(one) for one in ("content_filter", "smtpd_proxy_filter"))
    scans = scans or any("content_filter" in one.own or "smtpd_proxy_filter" in one.own for one in site.services)
    unscanned = any(service.own.get(one) == "" for one in ("content_filter", "smtpd_proxy_filter"))
    return scans and unscanned and host in _LOOPBACK


def _endpoints(site: Site, parameters: Parameters, place: tuple[str, int]) -> list[str]:
    host, port = place
    protocols = {one.lower() for one in parameters.words("inet_protocols")}
    has_v4, has_v6 = bool(protocols & {"all", "ipv4"}), bool(protocols & {"all", "ipv6"})
    words = [host] if host else parameters.words("inet_interfaces")
    addresses: list[str] = []
    for word in words:
        text = word.strip("[]")
        if text == "all" and has_v6:
            return [f"tcp6:{port}"]  # which takes IPv4, too
        if text == "all":
            return [f"tcp:{port}"]
        if text in ("loopback-only", "localhost"):
            addresses += (["127.0.0.1"] if has_v4 else []) + (["::1"] if has_v6 else [])
            continue
        try:
            addresses.append(str(ip_address(text)))
        except ValueError:
            advice = "Until then it listens on this machine only"
            site.draft.leave("decide", f"{parameters.origin('inet_interfaces')}: {text}", "is no address", advice)
            addresses.append("127.0.0.1")
    if not addresses:
        text = "names no address"
        site.draft.leave("decide", parameters.origin("inet_interfaces"), text, "Until then it is this machine's own")
        addresses = ["127.0.0.1"]
    escaped = [one.replace(":", "\\:") for one in dict.fromkeys(addresses)]
    return [f"tcp:{port}:interface={one}" for one in escaped]


def _listener(
    site: Site,
    name: str,
    service: Service,
    parameters: Parameters,
    place: tuple[str, int],
    shared: Pipeline,
    screen: Pipeline | None,
) -> bool:
    section = site.draft.entry("listeners")
    section.comment(f"{service.name} {service.command} ({service.origin})")
    section.set("name", name)
    allowed = permissions(site, parameters)
    if allowed.is_open:
        text = "these restrictions let strangers relay, which the new file does not"
        site.draft.leave("differs", f"{service.origin}: {service.name}", text, "Who may: trusted_networks and auth")
    trusted = _trusted(site, section, parameters, allowed)
    has_auth = parameters.is_yes("smtpd_sasl_auth_enable") and allowed.logins_relay
    role = "hybrid" if trusted or has_auth else "inbound"
    if not allowed.strangers_enter:
        role = "outbound"
        if not (trusted or has_auth):
            text = "nobody may send here by these restrictions"
            site.draft.decide(section, f"{service.origin}: {service.name}", text, "Say who may")
            section.set("trusted_networks", ["127.0.0.1"])
    section.set("role", role)
    section.set("endpoints", list(_endpoints(site, parameters, place)), f"{service.origin}, inet_interfaces")
    wants_tls = _tls(site, section, parameters)
    if has_auth:
        _auth(site, section, parameters, wants_tls=wants_tls)
    _limits(site, section, parameters)
    _told(site, section, parameters, is_screened=screen is not None)
    return _pipelines(site, section, name, service, parameters, (shared, screen))


def _trusted(site: Site, section: Section, parameters: Parameters, allowed: Permissions) -> bool:
    if not allowed.networks_relay:
        return False
    if parameters.is_set("mynetworks"):
        networks = site.networks("mynetworks", parameters)
    else:
        networks = [("127.0.0.0/8", parameters.origin("mynetworks")), ("::1/128", "")]
        style = parameters.get("mynetworks_style")
        if style != "host":
            text = f"mynetworks_style = {style} trusts the networks that this machine is in, which are not guessed here"
            site.draft.leave("decide", "mynetworks (not set)", text, "Name them in trusted_networks")
    if networks:
        origins = ", ".join(dict.fromkeys(origin for _, origin in networks if origin))
        section.set("trusted_networks", [one for one, _ in networks], origins[:160])
    return bool(networks)


def _tls(site: Site, section: Section, parameters: Parameters) -> bool:
    """TLS of a listener; whether Postfix has it there, with or without a certificate that we can use."""
    level = parameters.get("smtpd_tls_security_level")
    origin = parameters.origin("smtpd_tls_security_level")
    if not level and parameters.is_yes("smtpd_enforce_tls"):
        level, origin = "encrypt", parameters.origin("smtpd_enforce_tls")
    if not level and parameters.is_yes("smtpd_use_tls"):
        level, origin = "may", parameters.origin("smtpd_use_tls")
    tls = _TLS.get(level.lower() or "none", "optional")
    if parameters.is_yes("smtpd_tls_wrappermode"):
        tls, origin = "implicit", parameters.origin("smtpd_tls_wrappermode")
    wants = tls != "off"
    if not site.draft.section("tls").values.get("certificate") and wants:
        if tls != "optional":
            text = f"TLS is {tls} here, and there is no certificate that can be read: it is off"
            written = ", ".join(f'"{one}"' for one in _texts(section, "endpoints"))
            advice = f'Give tls.certificate, and write tls = "{tls}" and endpoints = [{written}] here'
            site.draft.decide(section, origin, text, advice)
            # Nobody from elsewhere is to come to a port that wants TLS and has none.
            ports = dict.fromkeys(one.split(":")[1] for one in _texts(section, "endpoints"))
            section.set("endpoints", [f"tcp:{port}:interface=127.0.0.1" for port in ports])
        tls = "off"
    section.set("tls", tls, origin)
    if parameters.is_yes("smtpd_tls_ask_ccert") or parameters.is_yes("smtpd_tls_req_ccert"):
        text = "clients are asked for certificates only where it is said which ones are known"
        site.draft.leave("decide", parameters.origin("smtpd_tls_ask_ccert"), text, "See client_certificates")
    return wants


def _texts(section: Section, key: str) -> list[str]:
    value = section.values.get(key, ())
    return [one for one in value if isinstance(one, str)] if isinstance(value, Sequence) else []


def _auth(site: Site, section: Section, parameters: Parameters, *, wants_tls: bool) -> None:
    section.set("auth", "users", parameters.origin("smtpd_sasl_auth_enable"))
    if not wants_tls:
        if not parameters.is_yes("smtpd_tls_auth_only"):
            section.set("auth_without_tls", True, "passwords come in clear text, as with Postfix without TLS")
    elif not parameters.is_yes("smtpd_tls_auth_only"):
        origin = parameters.origin("smtpd_tls_auth_only")
        site.draft.leave("differs", origin, "AUTH is offered under TLS only", "See auth_without_tls of the listener")
    if site.draft.has("auth", "users"):
        return
    users = site.draft.section("auth", "users")
    path, origin = parameters.get("smtpd_sasl_path"), parameters.origin("smtpd_sasl_path")
    if parameters.get("smtpd_sasl_type") == "dovecot":
        users.set("kind", "dovecot", parameters.origin("smtpd_sasl_type"))
        place = path.removeprefix("inet:") if path.startswith("inet:") else f"unix:{site.path(path, parameters)}"
        users.set("socket", place, origin)
        text = "mailgate's user must be able to reach Dovecot's socket"
        site.draft.leave("differs", origin, text, "Look at mode, user and group of the unix_listener in Dovecot")
        return
    users.set("kind", "file")
    users.set("path", site.draft.file("users", ["# lines of: mailgate password USER"], is_secret=True))
    text = f"SASL of type {parameters.get('smtpd_sasl_type')} is not asked, and until then nobody can log in"
    advice = "ldap, sql, http, dovecot, or a file with lines of mailgate password"
    site.draft.decide(users, parameters.origin("smtpd_sasl_type"), text, advice)


def _limits(site: Site, section: Section, parameters: Parameters) -> None:
    size = parameters.number("message_size_limit")
    if size is not None:
        size = _LARGEST_SIZE if size == 0 else max(size, _SMALLEST_SIZE)
        section.set("max_message_size", format_size(size), parameters.origin("message_size_limit"))
    if parameters.is_set("smtpd_recipient_limit") and (limit := parameters.number("smtpd_recipient_limit")):
        section.set("max_recipients", max(limit, 100), parameters.origin("smtpd_recipient_limit"))
    limit = parameters.number("smtpd_client_connection_count_limit")
    if limit is not None and parameters.is_set("smtpd_client_connection_count_limit"):
        origin = parameters.origin("smtpd_client_connection_count_limit")
        section.set("max_connections_per_client", limit or 2000, origin)
    if parameters.is_set("smtpd_hard_error_limit") and (errors := parameters.number("smtpd_hard_error_limit")):
        section.set("max_errors", errors, parameters.origin("smtpd_hard_error_limit"))
    if parameters.is_set("smtpd_timeout") and (seconds := parameters.seconds("smtpd_timeout")):
        section.set("command_timeout", format_duration(seconds), parameters.origin("smtpd_timeout"))
    if parameters.is_set("smtpd_discard_ehlo_keywords"):
        words = [one.lower() for one in parameters.words("smtpd_discard_ehlo_keywords")]
        hidden = [one for one in words if one in _KEYWORDS]
        section.set("hide", list(hidden), parameters.origin("smtpd_discard_ehlo_keywords"))
        unknown = sorted(set(words) - {*hidden, "silent-discard"})
        if unknown:
            text = f"{', '.join(unknown)} cannot be hidden: it is offered as it fits, or never"
            site.draft.leave("differs", parameters.origin("smtpd_discard_ehlo_keywords"), text)
    if parameters.get("smtputf8_enable").lower() == "no":
        section.extend("hide", ["smtputf8"], parameters.origin("smtputf8_enable"))
    if parameters.get("smtpd_peername_lookup").lower() == "no":
        section.set("resolve_clients", False, parameters.origin("smtpd_peername_lookup"))


def _told(site: Site, section: Section, parameters: Parameters, *, is_screened: bool) -> None:
    """Whose word on the client is taken."""
    for setting, key in (("smtpd_authorized_xclient_hosts", "xclient_from"),
                         ("smtpd_authorized_xforward_hosts", "xforward_from")):  # fmt: skip
        networks = site.networks(setting, parameters) if parameters.get(setting) else []
        if networks:
            section.set(key, [one for one, _ in networks], parameters.origin(setting))
    setting = "postscreen_upstream_proxy_protocol" if is_screened else "smtpd_upstream_proxy_protocol"
    if parameters.get(setting):
        section.set("proxy_protocol_from", ["127.0.0.1"], parameters.origin(setting))
        text = "Postfix takes a PROXY header from everybody; here its senders are named"
        site.draft.decide(section, parameters.origin(setting), text, "Write their addresses into proxy_protocol_from")


def _pipelines(
    site: Site,
    section: Section,
    name: str,
    service: Service,
    parameters: Parameters,
    others: tuple[Pipeline, Pipeline | None],
) -> bool:
    shared, screen = others
    restricts = any(one.startswith("smtpd_") and one.endswith("_restrictions") for one in service.own)
    own_names = restricts or (bool(service.own) and site.draft.has("pipelines", "mx"))
    who = Trusted("trusted_networks" in section.values, "auth" in section.values)
    own = restricted(site, parameters, f"{name}-" if own_names else "", who)
    rates = _rates(site, parameters)
    scanners = Pipeline()
    milters(site, parameters, scanners)
    content_filters(site, parameters)
    role = section.values["role"]
    strangers = [*(screen.strangers if screen else []), *([rates] if rates else [])]
    ask = ["recipients", *own.strangers] if own.allows_recipients else [*own.strangers, "recipients"]
    strangers += [*ask, *scanners.strangers, *shared.strangers, "headers"]
    trusted = [*([rates] if rates else []), *own.trusted, "recipients", *scanners.trusted, *shared.trusted, "headers"]
    if role == "outbound":
        _pipeline(site, section, "pipeline", name, trusted)
    else:
        _pipeline(site, section, "pipeline", name, strangers)
        if role == "hybrid" and trusted != strangers:
            _pipeline(site, section, "trusted_pipeline", f"{name}-trusted", trusted)
    return own.probes


def _pipeline(site: Site, section: Section, key: str, name: str, filters: list[str]) -> None:
    for one in site.draft.below("pipelines"):
        if one.values["filters"] == filters:
            name = one.path[-1]
            break
    site.draft.section("pipelines", name).set("filters", list(filters))
    section.set(key, name)


def _rates(site: Site, parameters: Parameters) -> str:
    """The filter rate-limit for the limits of anvil; "" where there are none."""
    window = parameters.seconds("anvil_rate_time_unit") or 60
    rules: list[Value] = []
    origins = []
    for word, count in _RATES.items():
        setting = f"smtpd_client_{word}_rate_limit"
        if limit := parameters.number(setting):
            rules.append({"count": count, "limit": limit, "window": format_duration(window)})
            origins.append(parameters.origin(setting))
    if not rules:
        return ""
    section = site.draft.section("filters", "rate-limit")
    if section.values and section.values["rules"] != rules:
        section = site.draft.section("filters", f"rate-limit-{len(site.draft.below('filters'))}")
        section.set("kind", "rate-limit")
    section.set("rules", rules, ", ".join(origins))
    exempt = [one for one, _ in site.networks("smtpd_client_event_limit_exceptions", parameters)]
    section.set("exempt", list(exempt), parameters.origin("smtpd_client_event_limit_exceptions"))
    return section.path[-1]
