"""What is asked of TLS with a destination, from DNS, its policy and ours, to each of its hosts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from mailgate.config.schema import Config, SmtpRoute
from mailgate.envelope import Tls
from mailgate.interfaces import Answer
from mailgate.relay.attempt import Target
from mailgate.relay.client.handshake import told_for_people
from mailgate.relay.locate import Hosts, Locator, NoHosts
from mailgate.relay.replies.classify import Classifier
from mailgate.relay.security.demand import Demand, Wanted, combined, covers
from mailgate.relay.security.policies import TransportSecurity
from mailgate.relay.security.sts import StsFound
from mailgate.relay.security.sts_policy import StsPolicy
from mailgate.reply import Reply
from mailgate.testing import MemoryResolver, wait_for
from mailgate.tls.failures import TlsFailure

GOOD = "3 1 1 " + "ab" * 32
PKIX = "1 1 1 " + "ab" * 32
ZONE: dict[str, Any] = {
    "example.org": {"MX": [[10, "mx1.example.org"], [20, "mx2.example.org"]]},
    "mx1.example.org": {"A": ["192.0.2.1"]},
    "mx2.example.org": {"A": ["192.0.2.2"]},
    "other.test": {"MX": [[10, "mx1.example.org"], [20, "mx2.example.org"]]},
}
TLSA1, TLSA2 = "_25._tcp.mx1.example.org", "_25._tcp.mx2.example.org"


class Signed(MemoryResolver):
    """DNS that DNSSEC vouches for, but for what is `unsigned`: names."""

    def __init__(self, zone: Mapping[str, Any], unsigned: Sequence[str] = ()) -> None:
        super().__init__(zone, secure=True)
        self.unsigned = set(unsigned)

    def resolve(self, name: str, rdtype: str) -> Answer:
        answer = super().resolve(name, rdtype)
        is_signed = answer.secure and not {name, answer.alias} & self.unsigned
        return Answer(answer.status, answer.records, answer.ttl, is_signed, answer.alias)


class Published:
    """MTA-STS policies by domain."""

    def __init__(self, **policies: StsPolicy) -> None:
        self.policies = {name.replace("_", "."): policy for name, policy in policies.items()}
        self.asked: list[str] = []
        self.failure: TlsFailure = ""

    async def find(self, domain: str) -> StsFound:
        self.asked.append(domain)
        return StsFound(self.policies.get(domain), self.failure)


def sts(mode: Any, *mx: str) -> StsPolicy:
    return StsPolicy(mode=mode, mx=mx, max_age=86400)


def policies(**sections: Any) -> dict[str, Any]:
    return {name.replace("_", "."): section for name, section in sections.items()}


class Bench:
    def __init__(
        self,
        zone: Mapping[str, Any] | None = None,
        *,
        security: str = "auto",
        unsigned: Sequence[str] = (),
        published: Published | None = None,
        local: Mapping[str, Any] | None = None,
        dnssec: bool = True,
        **route: Any,
    ) -> None:
        self.route = SmtpRoute(transport="smtp", security=security, **route)  # type: ignore[arg-type]
        config = Config.model_validate(
            {
                "gateway": {"hostname": "gw.example", "state_dir": "/nowhere"},
                "listeners": [{"name": "in", "endpoints": ["tcp:25"], "role": "inbound", "pipeline": "p"}],
                "pipelines": {"p": {"filters": []}},
                "dns": {"dnssec": dnssec},
                "tls_policies": dict(local or {}),
            }
        )
        self.resolver = Signed(ZONE if zone is None else zone, unsigned)
        self.published = published or Published()
        self.locator = Locator(self.resolver, "gw.example", random.Random(1))
        self.locator.use(TransportSecurity(config, self.resolver, self.published))  # type: ignore[arg-type]

    def hosts(self, domain: str = "example.org", *, relaxed: bool = False) -> Hosts:
        found = wait_for(self.locator.hosts("out", self.route, domain, relaxed=relaxed))
        assert isinstance(found, Hosts)
        return found

    def targets(self, domain: str = "example.org", *, relaxed: bool = False) -> Sequence[Target]:
        hosts = self.hosts(domain, relaxed=relaxed)
        found = wait_for(self.locator.targets(hosts, lmtp=False, ipv6=False, domain=domain))
        assert not isinstance(found, NoHosts)
        return found

    def levels(self, domain: str = "example.org", *, relaxed: bool = False) -> list[str]:
        demands = [one.demand for one in self.targets(domain, relaxed=relaxed)]
        return [f"{one.level} {one.policy}" if one else "" for one in demands]


NONE = "welcome no-policy-found"


# -- DANE


def test_hosts_with_records_are_asked_for_them_and_the_others_are_not() -> None:
    bench = Bench({**ZONE, TLSA1: {"TLSA": [GOOD]}})
    first, second = bench.targets()
    assert first.demand is not None
    assert (first.demand.level, first.demand.names) == ("dane", ("mx1.example.org", "example.org"))
    assert [str(one) for one in first.demand.tlsa] == [GOOD]
    assert second.demand == Demand()


@pytest.mark.parametrize(
    "unsigned", ["example.org", "mx1.example.org", TLSA1], ids=["MX", "address of the host", "TLSA"]
)
def test_what_nobody_vouches_for_counts_as_absent(unsigned: str) -> None:
    bench = Bench({**ZONE, TLSA1: {"TLSA": [GOOD]}}, unsigned=[unsigned])
    assert bench.levels() == [NONE, NONE]


def test_a_zone_that_is_not_signed_is_not_asked_for_records() -> None:
    """Servers that do not know TLSA answer with errors, and then there would be no mail (RFC 7672 section 2.2.2)."""
    bench = Bench({**ZONE, TLSA1: "SERVFAIL"}, unsigned=["mx1.example.org"])
    assert bench.levels() == [NONE, NONE]
    assert (TLSA1, "TLSA") not in bench.resolver.asked


@pytest.mark.parametrize("trouble", ["SERVFAIL", "TIMEOUT"])
def test_a_host_of_which_nobody_can_say_is_not_used(trouble: str) -> None:
    bench = Bench({**ZONE, TLSA1: trouble, TLSA2: {"TLSA": [GOOD]}})
    assert bench.levels() == ["refused tlsa", "dane tlsa"]
    demand = bench.targets()[0].demand
    assert demand is not None
    assert demand.failure == "dnssec-invalid"
    assert demand.reason == f"DANE: the TLSA records of mx1.example.org cannot be looked up ({trouble.lower()})"


def test_records_that_cannot_be_used_ask_for_tls_all_the_same() -> None:
    bench = Bench({**ZONE, TLSA1: {"TLSA": [PKIX]}, TLSA2: {"TLSA": [PKIX, GOOD]}})
    assert bench.levels() == ["encrypted tlsa", "dane tlsa"]


def test_a_host_that_is_an_alias() -> None:
    zone = {
        "example.org": {"MX": [[10, "mx.example.org"]]},
        "mx.example.org": {"CNAME": ["real.example.net"]},
        "real.example.net": {"A": ["192.0.2.1"]},
    }
    at_end, at_start = {"_25._tcp.real.example.net": {"TLSA": [GOOD]}}, {"_25._tcp.mx.example.org": {"TLSA": [GOOD]}}

    def names(zone: Mapping[str, Any], *unsigned: str) -> tuple[str, ...]:
        (target,) = Bench(zone, unsigned=unsigned).targets()
        assert target.demand is not None
        return target.demand.names

    assert names(zone) == ()
    assert names({**zone, **at_end}) == ("real.example.net", "example.org")
    assert names({**zone, **at_start}) == ("mx.example.org", "example.org")
    assert names({**zone, **at_end, **at_start}) == ("real.example.net", "example.org")
    # the alias leads to a zone that is not signed
    assert names({**zone, **at_end, **at_start}, "real.example.net") == ("mx.example.org", "example.org")
    assert names({**zone, **at_end}, "real.example.net") == ()


def test_the_port_of_the_route_counts() -> None:
    bench = Bench({**ZONE, "_2525._tcp.mx1.example.org": {"TLSA": [GOOD]}}, port=2525)
    assert bench.levels() == ["dane tlsa", NONE]


def test_a_resolver_that_is_not_to_be_believed_has_no_dane() -> None:
    assert Bench({**ZONE, TLSA1: {"TLSA": [GOOD]}}, dnssec=False).levels() == [NONE, NONE]


def test_hosts_of_the_configuration_have_dane_too() -> None:
    for security in ("auto", "dane"):
        bench = Bench({**ZONE, TLSA1: {"TLSA": [GOOD]}}, security=security, hosts=["mx1.example.org", "192.0.2.9"])
        assert bench.levels() == ["dane tlsa", NONE]
        first = bench.targets()[0].demand
        assert first is not None
        assert first.names == ("mx1.example.org",)
        assert bench.published.asked == []
        # whoever names the host himself is not talked out of it
        assert bench.levels(relaxed=True) == ["dane tlsa", NONE]


# -- MTA-STS


def test_only_hosts_of_the_policy_get_mail() -> None:
    bench = Bench(published=Published(example_org=sts("enforce", "mx2.example.org")), unsigned=["example.org"])
    assert bench.levels() == ["refused sts", "verified sts"]
    first, second = bench.targets()
    assert first.demand is not None
    assert first.demand.reason == ("mx1.example.org is none of the hosts that MTA-STS names for example.org")
    assert (first.is_vouched_for, second.is_vouched_for) == (False, True)  # for REQUIRETLS


@pytest.mark.parametrize(("mode", "level"), [("enforce", "verified sts"), ("testing", "welcome sts"), ("none", NONE)])
def test_modes(mode: str, level: str) -> None:
    bench = Bench(published=Published(example_org=sts(mode, "*.example.org")))
    assert bench.levels() == [level, level]


def test_a_policy_that_cannot_be_had_is_told_of_with_the_session() -> None:
    published = Published()
    published.failure = "sts-policy-fetch-error"
    bench, tls = Bench(published=published), Tls(version="TLSv1.3", cipher="AES")
    assert bench.levels() == [NONE, NONE]
    first, _ = bench.targets()
    assert told_for_people(tls, first.demand) == "TLSv1.3 AES (MTA-STS not fetched)"
    assert bench.hosts().name != Bench(published=Published()).hosts().name  # else they would share the session
    published.policies["example.org"] = sts("enforce", "*.example.org")
    assert "fetched" not in told_for_people(tls, Bench(published=published).targets()[0].demand)


def test_a_policy_in_test_only_tells() -> None:
    bench = Bench(published=Published(example_org=sts("testing", "mx2.example.org")))
    assert [one.demand.failure for one in bench.targets() if one.demand] == ["validation-failure", ""]


def test_domains_of_one_site_share_it_where_the_same_is_asked() -> None:
    same, less = sts("enforce", "*.example.org"), sts("enforce", "mx1.example.org")
    bench = Bench(published=Published(example_org=same, other_test=same))
    assert bench.hosts().name == bench.hosts("other.test").name
    names = {
        Bench(published=Published(example_org=policy)).hosts().name
        for policy in (same, less, sts("testing", "*.example.org"), sts("none", "*.example.org"))
    }
    assert len(names) == 4
    assert bench.hosts(relaxed=True).name not in names


def test_dane_goes_before_mta_sts() -> None:
    zone = {**ZONE, TLSA1: {"TLSA": [GOOD]}, TLSA2: {"TLSA": [PKIX]}}
    published = Published(example_org=sts("enforce", "mx2.example.org"))
    assert Bench(zone, published=published).levels() == ["dane tlsa", "verified sts"]
    assert Bench({**zone, TLSA2: "SERVFAIL"}, published=published).levels() == ["dane tlsa", "refused tlsa"]
    assert Bench(zone, security="mta-sts", published=published).levels() == ["refused sts", "verified sts"]
    assert Bench(zone, security="dane", published=published).levels() == ["dane tlsa", "encrypted tlsa"]


def test_a_route_that_asks_for_nothing_looks_at_nothing() -> None:
    bench = Bench({**ZONE, TLSA1: {"TLSA": [GOOD]}}, security="none")
    assert bench.levels() == ["", ""]
    assert bench.published.asked == []
    assert {rdtype for _, rdtype in bench.resolver.asked} == {"MX", "A"}


def test_the_sender_may_want_it_there_whatever_is_published() -> None:
    zone = {**ZONE, TLSA1: {"TLSA": [GOOD]}}
    published = Published(example_org=sts("enforce", "mx9.example.org"))
    assert Bench(zone, published=published).levels(relaxed=True) == ["", ""]
    local = policies(example_org={"level": "verified"})
    assert Bench(zone, published=published, local=local).levels(relaxed=True) == ["verified local"] * 2


# -- policies of our own


@pytest.mark.parametrize(
    ("section", "levels"),
    [
        ({"level": "clear"}, ["clear local"] * 2),
        ({"level": "opportunistic"}, ["welcome local"] * 2),
        ({"level": "required"}, ["encrypted local"] * 2),
        ({"level": "verified"}, ["verified local"] * 2),
        ({"level": "verified", "mx": ["mx2.example.org"]}, ["refused local", "verified local"]),
        ({"level": "required", "fingerprints": ["ab" * 32]}, ["pinned local"] * 2),
        ({"level": "dane"}, ["dane tlsa", "refused local"]),
        ({"mx": ["*.example.org"]}, ["dane tlsa", "verified sts"]),
        ({"mx": ["mx1.example.org"]}, ["dane tlsa", "refused local"]),
    ],
)
def test_our_own_word_is_the_last(section: dict[str, Any], levels: list[str]) -> None:
    bench = Bench(
        {**ZONE, TLSA1: {"TLSA": [GOOD]}},
        published=Published(example_org=sts("enforce", "*.example.org")),
        local=policies(example_org=section),
    )
    assert bench.levels() == levels


def test_our_own_word_holds_on_routes_that_look_at_nothing_else() -> None:
    bench = Bench(security="none", local={"*.org": {"level": "verified"}})
    assert bench.levels() == ["verified local"] * 2
    assert bench.levels("other.test") == ["", ""]
    assert bench.published.asked == []


def test_dane_that_we_ask_for_fails_as_it_does_elsewhere() -> None:
    bench = Bench({**ZONE, TLSA1: "TIMEOUT", TLSA2: {"TLSA": [PKIX]}}, local=policies(example_org={"level": "dane"}))
    first, second = (one.demand for one in bench.targets())
    assert first is not None
    assert second is not None
    assert (first.level, first.failure) == ("refused", "dnssec-invalid")
    assert (second.level, second.failure) == ("refused", "dane-required")
    for one in (first, second):
        assert Classifier().category(Reply.of(451, "4.7.5", one.reason)) == "tls"


# -- small things


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("mx.example.org", "mx.example.org", True),
        ("*.example.org", "mx.example.org", True),
        ("*.example.org", "a.mx.example.org", False),
        ("*.example.org", "example.org", False),
        ("mx.example.org", "xmx.example.org", False),
    ],
)
def test_patterns(pattern: str, host: str, *, expected: bool) -> None:
    assert covers((pattern,), host) is expected


def test_what_dns_does_not_know_has_no_hosts() -> None:
    bench = Bench({"example.org": "NXDOMAIN", "other.test": {"MX": [[0, ""]]}})
    for domain in ("example.org", "other.test"):
        assert isinstance(wait_for(bench.locator.hosts("out", bench.route, domain)), NoHosts)
    assert bench.published.asked == []


def test_a_failing_dane_is_never_overridden() -> None:
    failed = Demand(level="refused", policy="tlsa", failure="dnssec-invalid")
    for mode in ("enforce", "testing", ""):
        assert combined(Wanted(sts=mode), "mx.example.org", "example.org", failed) == failed
