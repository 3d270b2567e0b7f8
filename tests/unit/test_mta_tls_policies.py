"""What Postfix is told of TLS with a destination: what our own deliveries would go by, or stricter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mailgate.address import Address
from mailgate.config.routes import LmtpRoute, Route, SmtpRoute
from mailgate.mta.socketmap.tls_policies import TlsPolicies
from mailgate.relay.security.sts import StsFound
from mailgate.testing import wait_for
from tests.unit.test_security import GOOD, PKIX, TLSA1, TLSA2, ZONE, Bench, Published, policies, sts

PIN = "ab" * 32
HUB: dict[str, Any] = {
    "hub.example": {"A": ["192.0.2.7"]},
    "hub2.example": {"A": ["192.0.2.8"]},
    "_25._tcp.hub.example": {"TLSA": [GOOD]},
}


def hub(*hosts: str, **more: Any) -> SmtpRoute:
    return SmtpRoute(transport="smtp", hosts=list(hosts or ("hub.example",)), **more)


def asked(
    zone: Any = None,
    key: str = "example.org",
    *,
    fixed: Route | Sequence[Route] = (),
    **how: Any,
) -> str:
    """The policy for a destination."""
    bench = Bench(zone, **how)
    others = fixed if isinstance(fixed, Sequence) else (fixed,)
    routes: dict[str, Route] = {"out": bench.route} | {f"fixed{number}": one for number, one in enumerate(others)}

    def next_hop(address: Address, _sender: Address) -> str | None:
        return {"nowhere.test": None, "inner.test": "fixed0"}.get(address.domain, "out")

    found = TlsPolicies(routes, next_hop, bench.locator, lambda: bench.locator._security).look_up(key)
    return wait_for(found).partition(b":")[2].removesuffix(b",").decode()


@pytest.mark.parametrize(
    ("section", "answer"),
    [
        ({"level": "clear"}, "OK none"),
        ({"level": "opportunistic"}, "OK may"),
        ({"level": "required"}, "OK encrypt"),
        ({"level": "required", "fingerprints": [PIN]}, f"OK fingerprint match={':'.join(['ab'] * 32)}"),
        ({"level": "required", "fingerprints": [PIN], "mx": ["mx1.example.org"]}, "OK fingerprint match=ab:"),
        ({"level": "verified"}, "OK verify"),
        (
            {"level": "verified", "mx": ["mx.example.net", "*.example.org"]},
            "OK secure match=mx.example.net:.example.org servername=hostname",
        ),
        ({"level": "dane"}, "OK dane-only"),
        ({"level": "required", "mx": ["mx.example.net"]}, 'TEMP tls_policies."example.org": Postfix cannot keep to mx'),
        ({"level": "dane", "mx": ["mx.example.net"]}, 'TEMP tls_policies."example.org": Postfix cannot keep to mx'),
    ],
)
@pytest.mark.parametrize("zone", [{}, {**ZONE, TLSA1: {"TLSA": [GOOD]}}], ids=["no DNS", "DANE"])
def test_policies_of_our_own_hold_whatever_is_published(section: dict[str, Any], answer: str, zone: Any) -> None:
    assert asked(zone, local=policies(example_org=section)).startswith(answer)


@pytest.mark.parametrize(
    ("section", "route", "answer"),
    [
        ({"level": "opportunistic"}, {"tls": "required"}, "OK encrypt"),
        ({"level": "opportunistic"}, {"tls_fingerprints": [PIN]}, "OK fingerprint match=ab:"),
        ({"level": "required"}, {"tls_fingerprints": [PIN]}, "OK fingerprint match=ab:"),
        ({"level": "verified"}, {"tls_name": "mail.example"}, "OK secure match=mail.example servername"),
        ({"level": "clear"}, {"tls": "required"}, "OK none"),
    ],
)
def test_policies_of_our_own_take_nothing_back_that_the_route_asks_for(
    section: dict[str, Any], route: dict[str, Any], answer: str
) -> None:
    assert asked(local=policies(example_org=section), security="none", **route).startswith(answer)


@pytest.mark.parametrize(
    ("tls", "security", "answer"),
    [
        ("opportunistic", "none", "NOTFOUND "),
        ("off", "none", "NOTFOUND "),
        ("required", "none", "OK encrypt"),
        ("verified", "none", "OK verify"),
        ("opportunistic", "auto", "OK dane"),
        ("opportunistic", "mta-sts", "NOTFOUND "),
        ("required", "mta-sts", "OK encrypt"),
        ("required", "auto", "OK encrypt"),
    ],
)
def test_what_the_route_says(tls: str, security: str, answer: str) -> None:
    assert asked(tls=tls, security=security) == answer


def test_what_the_route_asks_of_the_certificate() -> None:
    assert asked(tls="verified", security="none", tls_name="mail.example") == (
        "OK secure match=mail.example servername=mail.example"
    )
    assert asked(tls="required", security="none", tls_fingerprints=[PIN]).startswith("OK fingerprint match=ab:")


def test_dane_is_left_to_postfix_where_nothing_else_is_asked() -> None:
    for zone in (ZONE, {**ZONE, TLSA1: {"TLSA": [GOOD]}}, {**ZONE, TLSA1: "SERVFAIL"}):
        assert asked(zone) == "OK dane"
    assert asked(dnssec=False) == "NOTFOUND "


@pytest.mark.parametrize(
    ("more", "answer"),
    [
        ({TLSA1: {"TLSA": [GOOD]}}, "OK dane-only"),
        ({TLSA1: {"TLSA": [PKIX]}}, "OK encrypt"),
        ({TLSA1: "SERVFAIL"}, "TEMP not all hosts of example.org may get its mail"),
        ({TLSA1: "SERVFAIL", TLSA2: "SERVFAIL"}, "TEMP none of the hosts of example.org may get its mail: DANE: "),
        ({TLSA1: "SERVFAIL", TLSA2: {"TLSA": [GOOD]}}, "OK dane-only"),
    ],
)
def test_a_route_that_requires_tls_is_not_weakened_by_dane(more: dict[str, Any], answer: str) -> None:
    assert asked({**ZONE, **more}, tls="required").startswith(answer)


@pytest.mark.parametrize(
    ("mode", "mx", "zone", "answer"),
    [
        (
            "enforce",
            ["mx1.example.org", "*.example.org"],
            {},
            "OK secure match=mx1.example.org:.example.org serv",
        ),
        ("enforce", ["mx1.example.org"], {}, "OK secure match=mx1.example.org servername=hostname"),
        ("enforce", ["mx.other.test"], {}, "TEMP none of the hosts of example.org may get its mail: mx"),
        ("enforce", ["*.example.org"], {TLSA1: {"TLSA": [GOOD]}}, "OK dane-only"),
        ("testing", ["mx.other.test"], {}, "OK dane"),
        ("none", ["mx.other.test"], {}, "OK dane"),
    ],
)
def test_mta_sts(mode: str, mx: list[str], zone: dict[str, Any], answer: str) -> None:
    published = Published(example_org=sts(mode, *mx))
    assert asked({**ZONE, **zone}, published=published).startswith(answer)


def test_hosts_of_our_configuration_go_before_those_of_mta_sts() -> None:
    published = Published(example_org=sts("enforce", "*.example.org"))
    local = policies(example_org={"level": "published", "mx": ["mx1.example.org"]})
    assert asked(published=published, local=local) == "OK secure match=mx1.example.org servername=hostname"
    assert asked(local=local).startswith('TEMP tls_policies."example.org": Postfix cannot keep to mx')


def test_hosts_that_only_one_of_both_allows_are_not_told() -> None:
    published = Published(example_org=sts("enforce", "mx1.example.org"))
    local = policies(example_org={"level": "published", "mx": ["*.example.org"]})
    assert asked(published=published, local=local) == "OK secure match=mx1.example.org servername=hostname"


def test_a_policy_that_is_forgotten_meanwhile_is_not_told_without_hosts() -> None:
    class Forgetful(Published):
        async def find(self, domain: str) -> StsFound:
            found = await super().find(domain)
            self.policies.clear()
            return found

    assert asked(published=Forgetful(example_org=sts("enforce", "*.example.org"))).startswith("TEMP the policy of")


@pytest.mark.parametrize("trouble", ["SERVFAIL", "TIMEOUT"])
def test_where_dns_cannot_say_the_mail_waits(trouble: str) -> None:
    assert asked({"example.org": trouble}).startswith("TEMP ")


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("Example.Org", "OK dane"),
        ("example.org:25", "OK dane"),
        (".example.org", "NOTFOUND "),
        ("gone.test", "NOTFOUND "),
        ("nowhere.test", "NOTFOUND "),
        ("[192.0.2.1]", "NOTFOUND "),
        ("", "NOTFOUND "),
        ("x" * 5000, "NOTFOUND "),
    ],
)
def test_keys(key: str, answer: str) -> None:
    assert asked(key=key) == answer


@pytest.mark.parametrize(
    ("fixed", "key", "answer"),
    [
        (SmtpRoute(transport="smtp", hosts=["hub.example"], tls="required"), "[Hub.example]:25", "OK encrypt"),
        (hub(tls="required"), "[Hub.example]", "OK encrypt"),
        (hub(tls="required"), "inner.test", "OK encrypt"),
        (
            hub(tls="verified", tls_name="mail.example"),
            "inner.test",
            "OK secure match=mail.example servername=mail.example",
        ),
        (
            SmtpRoute(transport="smtp", hosts=["hub.example:26"], tls="verified"),
            "[hub.example]:26",
            "OK secure match=nexthop",
        ),
        (SmtpRoute(transport="smtp", hosts=["hub.example"]), "[hub.example]:25", "NOTFOUND "),
        (LmtpRoute(transport="lmtp", hosts=["hub.example:24"], tls="required"), "[hub.example]:24", "OK encrypt"),
    ],
)
def test_hosts_of_routes_by_the_name_that_the_transport_has(fixed: Route, key: str, answer: str) -> None:
    assert asked(key=key, fixed=fixed) == answer


@pytest.mark.parametrize(
    ("route", "answer"),
    [
        (hub(security="dane"), "OK dane"),
        (hub("hub.example", "hub2.example", security="dane", tls="required"), "OK dane-only"),
        (hub("hub.example:26", security="dane", tls="required"), "NOTFOUND "),
        (hub("hub.example", security="none", tls="required"), "OK encrypt"),
    ],
)
def test_dane_of_hosts_of_routes(route: SmtpRoute, answer: str) -> None:
    assert asked(HUB, "[hub.example]:25", fixed=route) == answer


def test_dane_of_a_host_without_records_and_of_one_that_cannot_be_told() -> None:
    route = hub("hub2.example", security="auto", tls="required")
    key = "[hub2.example]:25"
    assert asked(HUB, key, fixed=route) == "OK encrypt"
    assert asked(HUB, key, fixed=route, dnssec=False) == "OK encrypt"
    assert asked({**HUB, "hub2.example": "SERVFAIL"}, key, fixed=route).startswith("TEMP ")
    assert asked({**HUB, "_25._tcp.hub2.example": "SERVFAIL"}, key, fixed=route).startswith("TEMP none of the hosts")


@pytest.mark.parametrize(
    ("routes", "answer"),
    [
        ((hub(tls="verified"), hub()), "OK secure match=nexthop"),
        ((hub(), hub(tls="required")), "OK encrypt"),
        ((hub(tls="required"), hub(tls_fingerprints=[PIN])), "OK fingerprint match=" + ":".join(["ab"] * 32)),
        ((hub(tls="required"), hub(tls="required")), "OK encrypt"),
        ((hub(tls="verified"), hub(tls_fingerprints=[PIN])), "TEMP the routes fixed0, fixed1 ask for different things"),
        ((hub(tls="required"), hub(security="dane")), "TEMP the routes fixed0, fixed1 ask for different things"),
    ],
)
def test_a_host_of_several_routes_has_the_strictest_of_what_they_ask(routes: Sequence[Route], answer: str) -> None:
    assert asked(HUB, "[hub.example]:25", fixed=routes).startswith(answer)
