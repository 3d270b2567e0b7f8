"""A whole Haraka: its folder to a draft."""

from __future__ import annotations

import re
from pathlib import Path

from mailgate.auth.file import check_name
from mailgate.auth.secrets import make_forms
from mailgate.config.hosts import parse_hostname
from mailgate.config.units import format_duration, format_size
from mailgate.moving.certificates import certificate
from mailgate.moving.draft import Draft, Section
from mailgate.moving.haraka.delivery import read_delivery, trusted
from mailgate.moving.haraka.filters import MISSING, read_filters
from mailgate.moving.haraka.reading import Haraka, open_haraka
from mailgate.moving.haraka.rest import tell_rest

__all__ = ["read_haraka"]

_SMALLEST_SIZE = 64 * 1024


def read_haraka(folder: Path) -> Draft:
    """The draft for the Haraka in a folder; ReadingError where there is none, or it cannot be read."""
    haraka = open_haraka(folder)
    plugins = [line.split("#")[0].strip() for line in haraka.lines("plugins")]
    plugins = [one.removeprefix("haraka-plugin-") for one in plugins]
    _gateway(haraka)
    _certificates(haraka, plugins)
    has_auth = _auth(haraka, plugins)
    _listeners(haraka, plugins, has_auth=has_auth)
    read_delivery(haraka, plugins)
    strangers, others = read_filters(haraka, plugins)
    _pipelines(haraka, strangers, others)
    tell_rest(haraka, plugins)
    return haraka.draft


def _gateway(haraka: Haraka) -> None:
    section = haraka.draft.section("gateway")
    name = haraka.value("me")
    try:
        section.set("hostname", parse_hostname(name), "me")
    except ValueError:
        section.set("hostname", "mail.invalid", "me")
        advice = "write the one that the PTR record of your address has"
        haraka.draft.decide(section, "me", f'"{name}" is no full name', advice)
    section.set("state_dir", "/var/lib/mailgate")
    nodes = haraka.ini("smtp.ini").get("nodes")
    if nodes not in ("", "0", "1"):
        text = "several processes are set up after the first days, if one is not enough"
        haraka.draft.leave("differs", "smtp.ini nodes", text, "See workers of [gateway]")


def _certificates(haraka: Haraka, plugins: list[str]) -> None:
    ini = haraka.ini("tls.ini")
    if "tls" not in plugins and not any(one.startswith("auth/") for one in plugins):
        return
    keys = ini.all("key") or ("tls_key.pem",)
    certs = ini.all("cert") or ("tls_cert.pem",)
    origin = ini.origin("cert") if ini.all("cert") else "tls_cert.pem"
    pairs = [(haraka.folder / cert, haraka.folder / key, origin) for cert, key in zip(certs, keys, strict=False)]
    pairs += [(one, one, f"tls/{one.name}") for one in sorted(haraka.folder.glob("tls/*.pem"))]
    certificate(haraka.draft, pairs)
    if ini.is_true("requestCert") and ini.is_true("rejectUnauthorized"):
        text = "clients are asked for certificates only where it is said which ones are known"
        haraka.draft.leave("decide", ini.origin("rejectUnauthorized"), text, "See client_certificates")
    if "no_tls_hosts" in ini.sections:
        text = "STARTTLS is offered to everybody"
        haraka.draft.leave(
            "missing", ini.origin(section="no_tls_hosts"), text, "A listener of their own can have it off"
        )


def _auth(haraka: Haraka, plugins: list[str]) -> bool:
    others = [one for one in plugins if one.startswith(("auth/", "auth-")) and one != "auth/auth_base"]
    if not others:
        return False
    users = haraka.draft.section("auth", "users")
    users.set("kind", "file", ", ".join(others))
    lines = ["# lines of: mailgate password USER"]
    ini = haraka.ini("auth_flat_file.ini")
    if "auth/flat_file" in others:
        for name, values in ini.items("users"):
            try:
                lines.append(f"{check_name(name)}:{make_forms(values[-1], scram=True)}")
            except ValueError as error:
                haraka.draft.leave("decide", ini.origin(name, "users"), str(error), "Make a line by mailgate password")
        text = "passwords are hashed now, so CRAM-MD5 is not offered: Haraka's file had them in clear text"
        haraka.draft.leave("differs", ini.origin(section="users"), text, "Remove that file when all is well")
    for one in others:
        if one != "auth/flat_file":
            advice = MISSING.get(one, "ldap, sql, http, dovecot, or a file with lines of mailgate password")
            haraka.draft.decide(users, one, "who knows the users is not known here", advice)
    users.set("path", haraka.draft.file("users", lines, is_secret=True))
    return True


def _listeners(haraka: Haraka, plugins: list[str], *, has_auth: bool) -> None:
    ini = haraka.ini("smtp.ini")
    networks = trusted(haraka)
    if "relay" in plugins and not haraka.ini("relay.ini").is_true("acl", "relay", default=True):
        networks = []
    if "relay" in plugins and haraka.ini("relay.ini").is_true("all", "relay"):
        text = "everybody may relay there, which the new file does not do"
        haraka.draft.leave("differs", "relay.ini [relay] all", text, "Name trusted_networks")
    listen = ini.get("listen") or f"[::0]:{ini.get('port', '25')}"
    has_tls = "certificate" in haraka.draft.section("tls").values
    for number, place in enumerate(re.split(r"[,\s]+", listen)):
        host, _, port = place.rpartition(":")
        host = host.strip("[]")
        section = haraka.draft.entry("listeners")
        section.set("name", "mx" if not number else f"port-{port}")
        _place(haraka, section, host, port, ini.origin("listen"))
        wants_login = port in ("587", "465") and has_auth
        section.set("role", "outbound" if wants_login else "hybrid" if networks or has_auth else "inbound")
        if networks and "relay" in plugins:
            section.set("trusted_networks", list(networks), "relay_acl_allow")
        elif not has_auth:
            section.set("role", "inbound")
        implicit = port == ini.get("smtps_port", "465")
        if implicit and not has_tls:
            text = "TLS from the first octet needs a certificate, and there is none that can be read"
            haraka.draft.decide(section, f"smtp.ini {place}", text, 'Give tls.certificate, and write tls = "implicit"')
            section.set("endpoints", [f"tcp:{port}:interface=127.0.0.1"])
        section.set("tls", "off" if not has_tls else "implicit" if implicit else "optional", "tls")
        if has_auth:
            section.set("auth", "users")
        _limits(haraka, section)


def _place(haraka: Haraka, section: Section, host: str, port: str, origin: str) -> None:
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        haraka.draft.decide(section, origin, f'"{port}" is no port', "Write endpoints")
        port = "25"
    if host in ("::0", "::", ""):
        endpoint = f"tcp6:{port}"
    elif host == "0.0.0.0":  # noqa: S104  read, not listened on
        endpoint = f"tcp:{port}"
    else:
        escaped = host.replace(":", "\\:")
        endpoint = f"tcp:{port}:interface={escaped}"
    section.set("endpoints", [endpoint], origin)


def _limits(haraka: Haraka, section: Section) -> None:
    octets = haraka.value("databytes") or haraka.ini("connection.ini").get("bytes", section="max")
    if octets.isascii() and octets.isdigit() and len(octets) < 13 and int(octets):
        section.set("max_message_size", format_size(max(int(octets), _SMALLEST_SIZE)), "databytes")
    seconds = haraka.ini("smtp.ini").number("inactivity_timeout")
    if seconds:
        section.set("command_timeout", format_duration(seconds), "smtp.ini inactivity_timeout")
    for name, key in (("xclient.hosts", "xclient_from"), ("haproxy_hosts", "proxy_protocol_from")):
        hosts = haraka.lines(name)
        if key == "proxy_protocol_from":
            hosts = [*hosts, *haraka.ini("connection.ini").all("hosts", "haproxy")]
        if hosts:
            section.set(key, list(dict.fromkeys(hosts)), name)


def _pipelines(haraka: Haraka, strangers: list[str], others: list[str]) -> None:
    draft = haraka.draft
    signs = ["dkim-sign"] if draft.has("filters", "dkim-sign") else []
    # What an allow rule about a recipient lets through must exist all the same.
    rules = [line for name, side in draft.files.items() if name.startswith("access-") for line in side.lines]
    is_first = any(one.startswith("allow recipient") for one in rules)
    strangers = ["recipients", *strangers] if is_first else [*strangers, "recipients"]
    draft.section("pipelines", "inbound").set("filters", [*strangers, "headers"], "plugins")
    trusted_filters = [*others, "recipients", "headers", *signs]
    for section in draft.entries("listeners"):
        section.set("pipeline", "outbound" if section.values["role"] == "outbound" else "inbound")
        if section.values["role"] == "hybrid":
            section.set("trusted_pipeline", "outbound")
        if section.values["role"] != "inbound":
            draft.section("pipelines", "outbound").set("filters", trusted_filters, "plugins")
