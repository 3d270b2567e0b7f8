"""Haraka's plugins as filters of ours, in the order of the stages."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mailgate.config.hosts import parse_domain, parse_network
from mailgate.config.units import format_duration
from mailgate.filters.access_rules import RuleTable, parse_rule
from mailgate.moving.draft import Section, Value
from mailgate.moving.files import ReadingError, read_text, slug
from mailgate.moving.haraka.reading import Haraka, is_true
from mailgate.moving.haraka.scanners import clamd, rspamd, spamassassin

__all__ = ["MISSING", "PLUGINS", "read_filters"]

_LIMITS = {
    "rate_conn": ("connections", "client"),
    "rate_rcpt_host": ("recipients", "client"),
    "rate_rcpt_sender": ("recipients", "sender"),
    "rate_rcpt": ("recipients", "recipient"),
}
_LIMIT = re.compile(r"(\d+)(?:/(\d+)\s*([smhd]?))?", re.IGNORECASE)


def _access(haraka: Haraka, plugin: str) -> Sequence[Section]:
    """A filter for each phase: what one allows, another may refuse."""
    made = []
    lists = {
        "connect.rdns_access": "name", "mail_from.access": "sender", "rcpt_to.access": "recipient",
    }  # fmt: skip
    for stem, subject in lists.items():
        rules = []
        for kind, action in (("whitelist", "allow"), ("blacklist", "deny")):
            for line in haraka.lines(f"{stem}.{kind}"):
                rules += _rule(haraka, action, subject, line, f"{stem}.{kind}")
            for line in haraka.lines(f"{stem}.{kind}_regex"):
                text = "rules have names and networks, and no expressions"
                haraka.draft.leave("missing", f"{stem}.{kind}_regex: {line[:80]}", text)
        made.append((f"access-{subject}", rules, stem))
    rules = []
    for line in haraka.lines("access.domains") if plugin == "access" else ():
        for subject in ("name", "helo", "sender", "recipient"):
            if line.startswith("!"):
                rules += _rule(haraka, "allow", subject, line[1:], "access.domains")
            else:
                rules += _rule(haraka, "deny", subject, line, "access.domains", below=True)
    made.append(("access-domains", rules, "access.domains"))
    haraka.ini("access.ini")
    return [_listed(haraka, *one) for one in made if one[1]]


def _listed(haraka: Haraka, name: str, rules: Sequence[str], origin: str) -> Section:
    section = haraka.draft.section("filters", name)
    section.set("kind", "access")
    section.set("files", [haraka.draft.file(name, dict.fromkeys(rules))], origin)
    return section


def _rule(haraka: Haraka, action: str, subject: str, line: str, where: str, *, below: bool = False) -> list[str]:
    words = line.split() or [line]
    pattern = words[0].lower()
    if subject == "name":
        try:
            parse_network(pattern)
            subject = "client"
        except ValueError:
            pass
    patterns = [pattern]
    if below and "@" not in pattern:
        patterns.append(f"*.{pattern}")
    if subject in ("name", "helo", "client") and "@" in pattern:
        return []
    found = []
    for one in patterns:
        rule = f"{action} {subject} {one}"
        try:
            RuleTable([parse_rule(rule, where, 0)])
        except ValueError as error:
            haraka.draft.leave("missing", f"{where}: {line[:80]}", str(error))
        else:
            found.append(rule)
    return found


def _dnsbl(haraka: Haraka, plugin: str) -> Section | None:
    ini = haraka.ini("dns-list.ini", "dnsbl.ini")
    names = [part for one in ini.all("zones") for part in re.split(r"[,;\s]+", one) if part]
    names += haraka.lines("dnsbl.zones")
    zones: list[Value] = []
    for name in dict.fromkeys(names):
        try:
            zone: dict[str, Value] = {"zone": parse_domain(name)}
            if "." not in name:
                raise ValueError("is no zone of a list")
        except ValueError as error:
            haraka.draft.leave("missing", f"{ini.name}: {name}", str(error))
            continue
        kind = ini.get("type", "block", name)
        if kind == "karma" or (kind == "block" and not ini.is_true("reject", name, default=True)):
            zone["weight"] = 0.0
        if kind == "allow":
            zone["allow"] = True
        zones.append(zone)
    if not zones:
        haraka.draft.leave("decide", plugin, "no list is named", "Write zones of [filters.dnsbl]")
        return None
    section = haraka.draft.section("filters", "dnsbl")
    section.set("zones", zones, ini.origin("zones"))
    return section


def _spf(haraka: Haraka, plugin: str) -> Section:
    ini = haraka.ini("spf.ini")
    section = haraka.draft.section("filters", "spf")
    for key in ("fail", "softfail", "none", "permerror"):
        if ini.is_true(f"mfrom_{key}", "deny") or ini.is_true(f"deny.mfrom_{key}", "deny"):
            section.set(key, "reject", ini.origin(f"mfrom_{key}", "deny"))
    if ini.is_true("mfrom_temperror", "defer"):
        section.set("temperror", "defer", ini.origin("mfrom_temperror", "defer"))
    section.comment(plugin)
    return section


def _fcrdns(haraka: Haraka, plugin: str) -> Section:
    ini = haraka.ini("fcrdns.ini", "connect.fcrdns.ini")
    section = haraka.draft.section("filters", "fcrdns")
    for key, option in (("no_rdns", "no_name"), ("no_fcrdns", "unconfirmed"), ("generic_rdns", "dynamic")):
        if ini.is_true(key, "reject"):
            section.set(option, "reject", ini.origin(key, "reject"))
    section.comment(plugin)
    return section


def _helo(haraka: Haraka, plugin: str) -> Section:
    ini = haraka.ini("helo.checks.ini")
    section = haraka.draft.section("filters", "helo")
    section.comment(plugin)
    section.set("own_name", "continue", "so that nothing else is refused than before")
    section.set("own_address", "continue")
    options = {
        "bare_ip": "bare_ip", "valid_hostname": "invalid", "forward_dns": "unresolvable", "rdns_match": "other_name",
        "literal_mismatch": "mismatch",
    }  # fmt: skip
    for key, option in options.items():
        if ini.is_true(key, "reject"):
            section.set(option, "reject", ini.origin(key, "reject"))
    for key in ("dynamic", "big_company", "host_mismatch", "proto_mismatch", "match_re"):
        if ini.is_true(key, "reject", default=key in ("big_company", "host_mismatch")):
            text = "no filter looks at that"
            haraka.draft.leave("missing", ini.origin(key, "reject"), text, "See helo, fcrdns, spf and dmarc")
    return section


def _resolvable(haraka: Haraka, plugin: str) -> Section:
    ini = haraka.ini("mail_from.is_resolvable.ini")
    section = haraka.draft.section("filters", "resolvable")
    section.comment(plugin)
    for key in ("null_mx", "dead_mx", "bogus_mx"):
        section.set(key, "continue", "so that nothing else is refused than before")
    if "reject" in ini.sections and not ini.is_true("no_mx", "reject", default=True):
        section.set("unknown", "continue", ini.origin("no_mx", "reject"))
        section.set("no_host", "continue")
    return section


def _early_talker(haraka: Haraka, plugin: str) -> Section:
    ini = haraka.ini("early_talker.ini")
    section = haraka.draft.section("filters", "early-talker")
    wait = min(ini.number("pause") or 5, 9)
    section.set("wait", format_duration(wait), ini.origin("pause") or plugin)
    return section


def _greylist(haraka: Haraka, plugin: str) -> Section:
    haraka.ini("greylist.ini")
    section = haraka.draft.section("filters", "greylist")
    section.comment(f"{plugin}: it begins to learn anew, with the times of mailgate")
    return section


def _headers_check(haraka: Haraka, plugin: str) -> Section:
    ini = haraka.ini("headers.ini", "data.headers.ini")
    section = haraka.draft.section("filters", "headers-check")
    section.comment(plugin)
    for key, option in (
        ("missing_required", "missing"),
        ("duplicate_singular", "duplicate"),
        ("invalid_date", "date"),
    ):
        if ini.is_true(key, "reject"):
            section.set(option, "reject", ini.origin(key, "reject"))
    required = [one.strip() for one in ini.get("required").split(",") if re.fullmatch(r"[!-9;-~]{1,80}", one.strip())]
    if required:
        section.set("required", list(required), ini.origin("required"))
    section.set("protected", "continue", "so that nothing else is refused than before")
    section.set("lookalike", "continue")
    return section


def _limit(haraka: Haraka, plugin: str) -> Section | None:
    ini = haraka.ini("limit.ini")
    rules: list[Value] = []
    for name, (count, per) in _LIMITS.items():
        if not ini.is_true("enabled", name):
            continue
        for key, values in ini.items(name):
            match = _LIMIT.fullmatch(values[-1])
            if key == "enabled" or not match or int(match[1]) == 0:
                continue
            if key != "default":
                text = "a limit for some only names their networks"
                haraka.draft.leave("decide", ini.origin(key, name), text, "See only and exempt of rate-limit")
                continue
            unit = {"m": 60, "h": 3600, "d": 86400}.get((match[3] or "s").lower(), 1)
            window = int(match[2]) * unit if match[2] else 60
            rules.append({"count": count, "per": per, "limit": int(match[1]), "window": format_duration(window)})
    for name in ("rate_rcpt_null", "outbound", "rate_outbound"):
        if ini.is_true("enabled", name):
            haraka.draft.leave("decide", ini.origin(section=name), "it has another place", "See null-sender, shaping")
    for listener in haraka.draft.entries("listeners"):
        for name, option in (("concurrency", "max_connections_per_client"), ("errors", "max_errors")):
            most = ini.number("max", name)
            if ini.is_true("enabled", name, default=bool(most)) and most and most >= 1:
                listener.set(option, int(most), ini.origin("max", name))
    if not rules:
        return None
    section = haraka.draft.section("filters", "rate-limit")
    section.set("rules", rules, plugin)
    return section


def _dkim(haraka: Haraka, plugin: str) -> Section:
    section = haraka.draft.section("filters", "dkim")
    section.comment(f"{plugin}: it verifies; dkim-sign signs")
    ini = haraka.ini("dkim.ini", "dkim_sign.ini")
    haraka.ini("dkim_verify.ini")
    if not (ini.is_true("enabled", "sign") or is_true(ini.get("disabled", "true")) is False):
        return section
    keys = [(one.name, one / "private", _first(one / "selector")) for one in sorted(haraka.folder.glob("dkim/*"))]
    single = ini.get("domain", ini.get("domain"), "sign")
    if single:
        key = haraka.folder / "dkim.private.key"
        keys.append((single, key, ini.get("selector", ini.get("selector"), "sign")))
        haraka.read.add("dkim.private.key")
    good = [(domain.lower(), path, selector) for domain, path, selector in keys if path.is_file() and selector]
    if not good:
        text = "signing is switched on, and no key with its selector can be read"
        haraka.draft.leave("decide", ini.origin("enabled", "sign"), text, "See the filter dkim-sign")
        return section
    signer = haraka.draft.section("filters", "dkim-sign")
    signer.comment("Links to the keys as they are: mailgate's user, and nobody else, must be able to read them.")
    for domain, path, selector in good:
        section_of = haraka.draft.section("filters", "dkim-sign", "domains", domain)
        file = haraka.draft.link(f"keys/{slug(domain)}.{slug(selector)}.pem", str(path.absolute()))
        section_of.set("keys", [{"selector": selector, "path": file}], f"dkim/{domain}")
    return section


def _first(path: Path) -> str:
    try:
        return read_text(path).strip()[:63]
    except ReadingError:
        return ""


#: Plugins that are a filter: what makes its section.
PLUGINS: dict[str, Callable[[Haraka, str], Section | Sequence[Section] | None]] = {
    "early_talker": _early_talker,
    "access": _access,
    "connect.rdns_access": _access,
    "mail_from.access": _access,
    "rcpt_to.access": _access,
    "dns-list": _dnsbl,
    "dnsbl": _dnsbl,
    "fcrdns": _fcrdns,
    "connect.fcrdns": _fcrdns,
    "limit": _limit,
    "helo.checks": _helo,
    "spf": _spf,
    "mail_from.is_resolvable": _resolvable,
    "greylist": _greylist,
    "dkim": _dkim,
    "dkim_sign": _dkim,
    "dkim_verify": _dkim,
    "headers": _headers_check,
    "data.headers": _headers_check,
    "clamd": clamd,
    "spamassassin": spamassassin,
    "rspamd": rspamd,
}
#: Plugins that none of our parts is, and what may stand in their place.
MISSING: dict[str, str] = {
    "karma": "See the filters reputation and score",
    "uribl": "See the filter uribl, with the zones of data.uribl.ini",
    "data.uribl": "See the filter uribl, with the zones of data.uribl.ini",
    "attachment": "See the filter attachments, whose defaults block what is dangerous",
    "data.signatures": "See the filter signatures",
    "bounce": "See the filters null-sender, batv and feedback",
    "geoip": "See the filter geo",
    "asn": "See the filter geo",
    "tarpit": "See the filter tarpit",
    "messagesniffer": "It can be asked by the filter command or milter",
    "avg": "See the filters clamav and command",
    "esets": "See the filters clamav and command",
    "known-senders": "See the filter reputation",
    "record_envelope_addresses": "See the filters headers and edit-headers",
    "queue/quarantine": "See the quarantine: filters can keep mail back",
    "elasticsearch": "The log has a JSON object a line, and webhooks tell events",
    "milter": "See the filter milter",
    "auth/auth_proxy": "See [auth.NAME]: ldap, sql, http, dovecot, oauth",
    "auth/auth_ldap": "See [auth.NAME] of kind ldap",
    "auth-ldap": "See [auth.NAME] of kind ldap",
    "auth-imap": "See [auth.NAME]: dovecot or http",
    "auth/auth_vpopmaild": "See [auth.NAME] of kind http",
    "prevent_credential_leaks": "See the filter signatures",
    "block_me": "See the filter access, whose files may change at any time",
}


def read_filters(haraka: Haraka, plugins: list[str]) -> tuple[list[str], list[str]]:
    """The pipelines for strangers and for those who may relay, without what every pipeline has at its end."""
    strangers, trusted = [], []
    for plugin, make in PLUGINS.items():
        if plugin not in plugins:
            continue
        made = make(haraka, plugin)
        for section in [made] if isinstance(made, Section) else made or ():
            name = section.path[1]
            if name in strangers:
                continue
            strangers.append(name)
            relays = name == "rspamd" and haraka.ini("rspamd.ini").is_true("relay", "check")
            if name in ("clamav", "spamassassin", "rate-limit") or relays:
                trusted.append(name)
    return strangers, trusted
