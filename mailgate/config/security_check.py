"""What routes and policies ask of TLS on the way out, and cannot have."""

from __future__ import annotations

from ipaddress import ip_address

from mailgate.config.document import Document
from mailgate.config.hosts import parse_server
from mailgate.config.problems import Problems
from mailgate.config.schema import Config, SmtpRoute

__all__ = ["advise_on_security", "check_security"]

#: Seconds that others should keep our policy at least.
_LEAST_AGE = 86_400.0

_OF_ITS_OWN = ("tls_name", "tls_fingerprints")


def check_security(document: Document, problems: Problems) -> None:
    """DANE without DNSSEC, and routes whose options contradict each other."""
    has_dnssec = document.table("dns").get("dnssec") is True
    no_dnssec = "DANE needs a resolver that validates by DNSSEC and that we can believe: see dns.dnssec"
    for name, route in document.tables("routes").items():
        security, tls = route.get("security", "none"), route.get("tls", "opportunistic")
        if security == "none" or route.get("transport") != "smtp":
            continue
        path = ("routes", name, "security")
        if security == "dane" and not has_dnssec:
            problems.error(path, no_dnssec)
        if security == "mta-sts" and route.get("hosts"):
            problems.error(path, "a route with hosts has no MTA-STS: that is for mail that goes by MX")
        if tls not in ("opportunistic", "required"):
            problems.error(path, f'goes with tls = "opportunistic" or "required", not with "{tls}"')
        for key in _OF_ITS_OWN:
            if route.get(key):
                problems.error(path, f"goes not with {key}, which says itself who is to be believed")
    if document.table("mta_sts").get("serve") is True and not document.table("http").get("endpoints"):
        problems.error(("mta_sts", "serve"), "[http] serves it, which has no endpoints")
    for domain, policy in document.tables("tls_policies").items():
        if policy.get("level") == "dane" and not has_dnssec:
            problems.error(("tls_policies", domain, "level"), no_dnssec)


def advise_on_security(config: Config, problems: Problems) -> None:
    """Warn about a resolver far away that is believed, policies that nothing goes by, and reports without contents."""
    if config.dns.dnssec:
        far = [one for one in config.dns.servers if not ip_address(parse_server(one)[0]).is_loopback]
        if far:
            text = f"whoever is between us and {far[0]} can say what DNSSEC is said to have proved"
            problems.warn(("dns", "dnssec"), f"{text}: ask one on this machine")
    by_mx = [one for one in config.routes.values() if isinstance(one, SmtpRoute) and not one.hosts]
    if config.tls_policies and not any(one.tls in ("opportunistic", "required") for one in by_mx):
        problems.warn(("tls_policies",), 'has no effect: no route by MX has tls = "opportunistic" or "required"')
    for domain, policy in config.tls_policies.items():
        if policy.level == "clear":
            problems.warn(("tls_policies", domain, "level"), "everybody on the way can read the mail for this domain")
    _advise_on_own_policy(config, problems)
    if config.tls_reports.enabled and not any(isinstance(one, SmtpRoute) and one.security != "none" for one in by_mx):
        problems.warn(("tls_reports", "enabled"), "there is nothing to report: no route by MX has `security`")


def _advise_on_own_policy(config: Config, problems: Problems) -> None:
    section = config.mta_sts
    if section.max_age < _LEAST_AGE:
        text = "others forget our policy within a day: whoever hides it for so long can have our mail in clear text"
        problems.warn(("mta_sts", "max_age"), text)
    if section.serve and not any(not one.startswith("*.") for one in config.domains):
        problems.warn(("mta_sts", "serve"), "has no effect: it is for [domains] with names of their own, and none is")
    if section.serve and config.http.tls is False and not config.http.forwarded_from:
        problems.warn(
            ("mta_sts", "serve"), "others ask for it over HTTPS, and [http] has no TLS, nor a proxy before it"
        )
