"""TLS and logins of the client of Postfix: what a route demands, and shows."""

from __future__ import annotations

import re

from mailgate.config.hosts import parse_domain_pattern, parse_hostname
from mailgate.moving.draft import Section
from mailgate.moving.files import slug
from mailgate.moving.postfix.reading import Parameters
from mailgate.moving.postfix.site import Site
from mailgate.moving.postfix.tables import Entry, Question, Unreadable

__all__ = ["read_tls_policies", "route_security"]

#: Levels of smtp_tls_security_level: `tls` of the route, and `security` of one that goes by MX.
_LEVELS = {
    "none": ("off", ""),
    "may": ("opportunistic", ""),
    "encrypt": ("required", ""),
    "dane": ("opportunistic", "dane"),
    "dane-only": ("required", "dane"),
    "half-dane": ("opportunistic", "dane"),
    "verify": ("verified", ""),
    "secure": ("verified", ""),
    "fingerprint": ("required", ""),
}
#: The same, of [tls_policies].
_POLICIES = {
    "none": "clear",
    "may": "opportunistic",
    "encrypt": "required",
    "dane": "published",
    "dane-only": "dane",
    "half-dane": "published",
    "verify": "verified",
    "secure": "verified",
    "fingerprint": "required",
}
_FINGERPRINT = re.compile(r"(?:[0-9A-Fa-f]{2}:?){32}")


def route_security(
    site: Site, section: Section, parameters: Parameters, hop: str, sender: str, *, is_by_mx: bool
) -> None:
    """Fill in TLS and the login of a route to `hop`, as Postfix writes it."""
    if section.values["transport"] == "lmtp":
        _lmtp(site, section, parameters)
        return
    origin = parameters.origin("smtp_tls_security_level")
    level = parameters.get("smtp_tls_security_level")
    if not level and parameters.is_yes("smtp_enforce_tls"):
        level, origin = "encrypt", parameters.origin("smtp_enforce_tls")
    if not level:
        level = "may" if parameters.is_yes("smtp_use_tls") else "none"
    policy = None if is_by_mx else _policy_of(site, parameters, hop)
    if policy is not None:
        level, origin = (policy.value.split() or ["none"])[0], policy.origin
    level = level.lower()
    _level(site, section, level, origin, is_by_mx=is_by_mx)
    if parameters.is_yes("smtp_tls_wrappermode"):
        section.set("tls", "implicit", parameters.origin("smtp_tls_wrappermode"))
    if level in ("secure", "verify") and policy is not None:
        _names(site, section, policy)
    if level == "fingerprint" and not is_by_mx:
        _fingerprints(site, section, policy, parameters)
    if parameters.get("smtp_tls_CAfile") and section.values["tls"] in ("verified", "implicit"):
        path = site.tables.find(parameters.get("smtp_tls_CAfile"))
        if path.is_file():
            section.set("tls_ca", str(path), parameters.origin("smtp_tls_CAfile"))
    for setting in ("smtp_tls_cert_file", "smtp_tls_key_file"):
        if parameters.get(setting):
            text = "the certificate that we show is one file with its key"
            site.draft.leave("decide", parameters.origin(setting), text, "See certificate of the route")
    _login(site, section, parameters, hop, sender)


def _lmtp(site: Site, section: Section, parameters: Parameters) -> None:
    """The client of LMTP has settings of its own, with other names."""
    level = parameters.get("lmtp_tls_security_level") or "none"
    _level(site, section, level, parameters.origin("lmtp_tls_security_level"), is_by_mx=False)
    if parameters.is_yes("lmtp_sasl_auth_enable"):
        text = "a login by LMTP is not taken over"
        site.draft.leave("decide", parameters.origin("lmtp_sasl_auth_enable"), text, "See auth of the route")


def _level(site: Site, section: Section, level: str, origin: str, *, is_by_mx: bool) -> None:
    if level not in _LEVELS:
        text = f"{level} is no level that we know, and until then TLS is demanded"
        site.draft.leave("decide", origin, text, "See tls of the route")
    tls, security = _LEVELS.get(level, ("required", ""))
    if is_by_mx and tls == "verified":
        text = (
            f"{level} for all destinations holds up most mail, as in Postfix: MX hosts rarely have such a certificate"
        )
        site.draft.leave("differs", origin, text, 'See security = "mta-sts" of the route, and [tls_policies]')
    if security and not is_by_mx:
        tls, security = "verified" if level == "dane-only" else "required", ""
        asked = "a certificate for their names" if level == "dane-only" else "TLS"
        text = f"DANE is for hosts by MX; this route has fixed ones, and demands {asked}"
        site.draft.leave("differs", origin, text, "Better pin the certificate: tls_fingerprints")
    section.set("tls", tls, origin)
    if security:
        section.set("security", security, origin)
    if security == "dane":
        _needs_dnssec(site, origin)


def _needs_dnssec(site: Site, origin: str) -> None:
    site.draft.section("dns").set("dnssec", True, f"{origin}: it must validate")
    text = "DANE needs a resolver that validates, and a safe way to it"
    site.draft.leave("differs", origin, text, "dns.dnssec says that yours does: see to it")


def _names(site: Site, section: Section, policy: Entry) -> None:
    """The name that the certificate must have, where the policy says another than the host's."""
    words = [one for word in policy.value.split() if word.startswith("match=") for one in word[6:].split(":")]
    names = [one for one in words if one not in ("nexthop", "hostname", "dot-nexthop", "")]
    if not names:
        return
    try:
        if len(words) != 1:
            raise ValueError("several names")
        section.set("tls_name", parse_hostname(names[0]), policy.origin)
    except ValueError:
        text = f"of {', '.join(words)} one name can be asked for, and until then it is that of the host"
        site.draft.decide(section, policy.origin, text, "See tls_name")


def _fingerprints(site: Site, section: Section, policy: Entry | None, parameters: Parameters) -> None:
    text = policy.value if policy is not None else ""
    texts = [*re.findall(r"match=(\S+)", text), *parameters.words("smtp_tls_fingerprint_cert_match")]
    found = [one for text in texts for one in text.split("|") if _FINGERPRINT.fullmatch(one)]
    origin = policy.origin if policy is not None else parameters.origin("smtp_tls_fingerprint_cert_match")
    if found:
        section.set("tls_fingerprints", list(found), origin)
    else:
        advice = "Give their SHA-256 as tls_fingerprints"
        site.draft.decide(section, origin, "fingerprints that are no SHA-256 cannot be used", advice)
        section.set("tls", "verified", origin)


def _policy_of(site: Site, parameters: Parameters, hop: str) -> Entry | None:
    for table in site.listed("smtp_tls_policy_maps", parameters):
        for entry in table.entries:
            if entry.key.lower() == hop.lower():
                return entry
    return None


def read_tls_policies(site: Site) -> None:
    """[tls_policies]: what smtp_tls_policy_maps says of domains."""
    parameters = site.parameters
    site.use(parameters, "smtp_tls_policy_maps")
    for table in site.listed("smtp_tls_policy_maps", parameters):
        if not table.entries:
            where = f"{parameters.origin('smtp_tls_policy_maps')}: {table.name}"
            site.draft.leave("decide", where, "only lists can be taken over", "Write them as [tls_policies] by hand")
        for entry in table.entries:
            if entry.key.startswith("[") or ":" in entry.key:
                continue  # a next hop: it stands at its route
            key = f"*{entry.key}" if entry.key.startswith(".") else entry.key
            level, *others = entry.value.split() or [""]
            words = [level.lower(), *others]
            try:
                key = parse_domain_pattern(key)
            except ValueError:
                words = []
            if not words or words[0] not in _POLICIES:
                site.draft.leave("missing", f"{entry.origin}: {entry.key}", "is no policy that we know")
                continue
            _policy(site, key, words, entry)


def _policy(site: Site, key: str, words: list[str], entry: Entry) -> None:
    matches = [one for word in words for one in word.removeprefix("match=").split(":") if word.startswith("match=")]
    section = site.draft.section("tls_policies", key)
    section.set("level", _POLICIES[words[0]], entry.origin)
    if words[0] == "dane-only":
        _needs_dnssec(site, entry.origin)
    if words[0] == "fingerprint":
        texts = [one for word in words if word.startswith("match=") for one in word[6:].split("|")]
        found = [one for one in texts if _FINGERPRINT.fullmatch(one)]
        if found:
            section.set("fingerprints", list(found), entry.origin)
        else:
            section.set("level", "verified", entry.origin)
            advice = "until then a certificate for the host is asked for; give SHA-256"
            site.draft.decide(section, entry.origin, "fingerprints that are no SHA-256 cannot be used", advice)
    elif words[0] in ("secure", "verify"):
        names = [one for one in matches if one not in ("nexthop", "dot-nexthop", "hostname")]
        hosts = [f"*{one}" if one.startswith(".") else one for one in names]
        if words[0] == "secure" and not hosts:
            hosts = [key, f"*.{key}"] if not key.startswith("*") else [key]
        if hosts:
            section.set("mx", list(hosts), entry.origin)


def _login(site: Site, section: Section, parameters: Parameters, hop: str, sender: str) -> None:
    """The name and password for a next hop, or for a sender."""
    if not parameters.is_yes("smtp_sasl_auth_enable") or not hop:
        return
    wanted = {one.lower() for one in (sender, hop, re.sub(r"[\[\]]|:\w+$", "", hop)) if one}
    for table in site.listed("smtp_sasl_password_maps", parameters):
        if isinstance(table.content, Unreadable | Question) or table.rules:
            where = f"{parameters.origin('smtp_sasl_password_maps')}: {table.name}"
            why = table.content.why if isinstance(table.content, Unreadable) else "only lists can be taken over"
            site.draft.leave("decide", where, f"{why}; mail goes out without its logins", "See auth of the route")
        for entry in sorted(table.entries, key=lambda one: one.key.lower() != sender.lower()):
            name, colon, password = entry.value.partition(":")
            if entry.key.lower() not in (*wanted, "*") or not colon or not name:
                continue
            if not password.strip() or "\ufffd" in entry.value:
                text = "the name or the password is no UTF-8" if password.strip() else "the password is empty"
                site.draft.leave("decide", f"{entry.origin}: {entry.key}", text, "See auth of the route")
                return
            site.use(parameters, "smtp_sasl_auth_enable")
            file = site.draft.file(f"secrets/{slug(section.path[-1])}.password", [password], is_secret=True)
            where = f"{parameters.origin('smtp_sasl_password_maps')}, {entry.origin}"
            section.set("auth", {"username": name, "password_file": file}, where)
            if section.values.get("tls") in ("off", "opportunistic"):
                # Postfix sends a password in clear text where it must (smtp_sasl_security_options); we do not.
                text = "the password goes out under TLS only"
                site.draft.leave("differs", where, text, "See without_tls of the login")
            return
