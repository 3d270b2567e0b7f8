"""What the doctor finds in DNS, of a site where all is well, and with each thing broken in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.doctor.diagnosis import Diagnosis
from mailgate.doctor.dkim import dkim_checks, key_files
from mailgate.doctor.dns_domains import domain_checks
from mailgate.doctor.dns_senders import sender_checks
from mailgate.doctor.dns_trust import trust_checks
from mailgate.doctor.site import SentFrom, Site, sent_from
from mailgate.mailauth import SigningKey
from mailgate.mailauth.dkim.make import new_key
from mailgate.relay.security.sts_policy import StsPolicy
from mailgate.testing import MemoryResolver
from mailgate.tls.dane import Tlsa
from tests.unit.certificates import Issued, issue
from tests.unit.doctor_stand import found, make_site, said, used
from tests.unit.remote_peer import outcome

POLICY = StsPolicy(mode="enforce", mx=("gw.example.org",), max_age=86400)


def look(site: Site) -> list[Diagnosis]:
    return found(site, [*domain_checks(site), *sender_checks(site), *trust_checks(site)])


def worst(diagnoses: list[Diagnosis]) -> dict[str, list[str]]:
    return {
        severity: [one.says for one in diagnoses if one.severity == severity] for severity in ("fail", "warn", "note")
    }


def test_a_good_site(tmp_path: Path) -> None:
    told = look(make_site(tmp_path, policy=POLICY))
    assert worst(told) == {"fail": [], "warn": [], "note": []}
    for words in ("MX gw.example.org", "DMARC: p=reject", "MTA-STS: enforce", "SPF: pass", "PTR, EHLO", "TLS reports"):
        assert said(told, words) == ["ok"], words


@pytest.mark.parametrize(
    ("zone", "severity", "words"),
    [
        ({("example.org", "MX"): [[0, ""]]}, "fail", "null MX"),
        ({("example.org", "MX"): "NODATA"}, "warn", "has no MX records"),
        ({("example.org", "MX"): [[10, "other.test"]]}, "warn", "goes to other.test, not to gw.example.org"),
        ({("example.org", "MX"): [[10, "gw.example.org"], [20, "b.test"]]}, "note", "goes to b.test as well"),
        ({("example.org", "MX"): "SERVFAIL"}, "warn", "not checked: MX cannot be looked up now (servfail)"),
        ({("gw.example.org", "A"): "NODATA"}, "fail", "its MX gw.example.org has no address"),
        ({("_dmarc.example.org", "TXT"): ["v=DMARC1; p=none"]}, "note", "p=none"),
        ({("_dmarc.example.org", "TXT"): "NXDOMAIN"}, "warn", "has no DMARC record"),
        ({("_dmarc.example.org", "TXT"): ["v=DMARC1; p=x"]}, "warn", "no valid p="),
        ({("_dmarc.example.org", "TXT"): ["v=DMARC1; p=reject"]}, "note", "without rua"),
        ({("_dmarc.example.org", "TXT"): "TIMEOUT"}, "warn", "DMARC: not checked"),
        ({("_mta-sts.example.org", "TXT"): "NXDOMAIN"}, "note", "has no MTA-STS policy"),
        ({("_mta-sts.example.org", "TXT"): ["v=STSv1; id=!"]}, "warn", "MTA-STS: the record"),
        ({("_smtp._tls.example.org", "TXT"): "NXDOMAIN"}, "note", "asks for no TLS reports"),
        ({("_smtp._tls.example.org", "TXT"): ["v=TLSRPTv1; rua=nothing"]}, "warn", "TLS reports: the record"),
        ({("example.org", "TXT"): ["v=spf1 -all"]}, "fail", "SPF: fail for 192.0.2.1"),
        ({("example.org", "TXT"): ["v=spf1 ~all"]}, "fail", "SPF: softfail"),
        ({("example.org", "TXT"): ["v=spf1 ?all"]}, "warn", "SPF: neutral"),
        ({("example.org", "TXT"): ["v=spf1 nonsense"]}, "fail", "SPF: permerror"),
        ({("example.org", "TXT"): "NODATA"}, "warn", "has no SPF record"),
        ({("example.org", "TXT"): "SERVFAIL"}, "warn", "not checked: SPF: temperror"),
        ({("gw.example.org", "TXT"): ["v=spf1 -all"]}, "fail", "SPF of gw.example.org: fail"),
        ({("gw.example.org", "TXT"): "NODATA"}, "note", "SPF of gw.example.org does not say"),
        ({("1.2.0.192.in-addr.arpa", "PTR"): "NXDOMAIN"}, "fail", "has no PTR record"),
        ({("1.2.0.192.in-addr.arpa", "PTR"): "TIMEOUT"}, "warn", "not checked: its PTR record"),
        ({("1.2.0.192.in-addr.arpa", "PTR"): ["other.test"]}, "fail", "which does not have this address"),
        (
            {("1.2.0.192.in-addr.arpa", "PTR"): ["b.test"], ("b.test", "A"): ["192.0.2.1"]},
            "warn",
            "EHLO says gw.example.org, and PTR b.test",
        ),
    ],
)
def test_each_thing_is_found(tmp_path: Path, zone: Mapping[Any, Any], severity: str, words: str) -> None:
    told = look(make_site(tmp_path, zone, policy=POLICY))
    assert severity in said(told, words), told
    mended = [one for one in told if words in one.says and one.severity in ("fail", "warn")]
    assert all(one.fix for one in mended if "not checked" not in one.says)


def test_an_alias_as_mx(tmp_path: Path) -> None:
    zone = {"example.org": {"MX": [[10, "mail.example.org"]]}, "mail.example.org": {"CNAME": ["gw.example.org"]}}
    assert said(look(make_site(tmp_path, zone, policy=POLICY)), "is an alias (CNAME) of gw.example.org") == ["warn"]


def test_a_policy_that_does_not_name_us(tmp_path: Path) -> None:
    other = StsPolicy(mode="enforce", mx=("old.example.org",), max_age=86400)
    assert said(look(make_site(tmp_path, policy=other)), "does not name gw.example.org") == ["fail"]
    tested = StsPolicy(mode="testing", mx=("old.example.org",), max_age=86400)
    assert said(look(make_site(tmp_path, policy=tested)), "does not name gw.example.org") == ["warn"]
    none = StsPolicy(mode="none", mx=(), max_age=86400)
    assert said(look(make_site(tmp_path, policy=none)), 'the policy says "none"') == ["note"]


def test_a_policy_that_cannot_be_had(tmp_path: Path) -> None:
    assert said(look(make_site(tmp_path)), "MTA-STS: nobody answers") == ["warn"]


# -- Where mail comes from


def test_sources_are_asked_about_one_by_one(tmp_path: Path) -> None:
    site = make_site(
        tmp_path,
        {"9.2.0.192.in-addr.arpa": {"PTR": ["out.example.org"]}, "out.example.org": {"A": ["192.0.2.9"]}},
        routes={"inside": {"transport": "discard"}, "internet": {"transport": "smtp", "pool": "both"}},
        sources={"a": {"address": "192.0.2.9", "hostname": "out.example.org"}, "b": {"address": "10.1.1.1"}},
        pools={"both": {"sources": {"a": 1, "b": 1}}},
        policy=POLICY,
    )
    told = look(site)
    by_subject = {one.subject: one.severity for one in told if "PTR" in one.says or "inside" in one.says}
    assert by_subject == {"192.0.2.9 (a)": "ok", "10.1.1.1 (b)": "note"}
    assert said(told, "SPF: fail for 192.0.2.9") == ["fail"]
    assert not said(told, "SPF: fail for 10.1.1.1")


def test_a_route_without_ipv6_sends_from_none(tmp_path: Path) -> None:
    zone = {("gw.example.org", "AAAA"): ["2001:db8::1"]}
    routes = {"inside": {"transport": "discard"}, "internet": {"transport": "smtp"}}
    assert said(look(make_site(tmp_path, zone, routes=routes, policy=POLICY)), "SPF: fail for 2001:db8::1") == ["fail"]
    routes["internet"]["ipv6"] = False  # type: ignore[assignment]  # as the file has it
    assert not said(look(make_site(tmp_path, zone, routes=routes, policy=POLICY)), "2001:db8::1")


def test_a_helo_without_the_address(tmp_path: Path) -> None:
    site = make_site(
        tmp_path,
        {"9.2.0.192.in-addr.arpa": {"PTR": ["out.example.org"]}, "out.example.org": {"A": ["192.0.2.9"]}},
        routes={"inside": {"transport": "discard"}, "internet": {"transport": "smtp", "pool": "a"}},
        sources={"a": {"address": "192.0.2.9"}},
    )
    assert said(look(site), "EHLO says gw.example.org, which does not have this address") == ["fail"]


def test_a_name_without_address_is_no_sender(tmp_path: Path) -> None:
    told = look(make_site(tmp_path, {("gw.example.org", "A"): "NODATA"}))
    assert said(told, "has no address in DNS, and a route by MX has no pool") == ["fail"]
    told = look(make_site(tmp_path, {("gw.example.org", "A"): "TIMEOUT"}))
    assert not said(told, "has no address in DNS")


def test_where_others_send_for_us(tmp_path: Path) -> None:
    routes = {"inside": {"transport": "smtp", "hosts": ["10.0.0.5"]}}
    told = look(make_site(tmp_path, routes=routes, routing={}, policy=POLICY))
    assert said(told, "no route goes by MX") == ["note"]
    assert not said(told, "SPF:")


def test_a_gateway_for_mail_from_outside_needs_no_spf_of_its_domains(tmp_path: Path) -> None:
    listeners = [{"name": "mx", "endpoints": ["tcp:25"], "pipeline": "in"}]
    zone = {("example.org", "TXT"): ["v=spf1 -all"]}
    told = look(make_site(tmp_path, zone, listeners=listeners, policy=POLICY))
    assert not said(told, "SPF: fail")


@pytest.mark.parametrize("address", ["10.0.0.1", "172.20.0.1", "192.168.3.4", "100.64.0.1"])
def test_addresses_behind_a_translator(address: str) -> None:
    assert SentFrom("", ip_address(address), "x").is_inside
    assert not SentFrom("", ip_address("192.0.2.1"), "x").is_inside


def test_lists_that_the_site_asks_itself(tmp_path: Path) -> None:
    filters = [used("dnsbl", zones=["bl.test", {"zone": "ok.test", "allow": True, "weight": -1.0}])]
    zone = {"1.2.0.192.bl.test": {"A": ["127.0.0.2"]}}
    told = look(make_site(tmp_path, zone, filters=filters, policy=POLICY))
    assert said(told, "192.0.2.1 is listed (127.0.0.2)") == ["fail"]
    assert said(look(make_site(tmp_path, filters=filters, policy=POLICY)), "192.0.2.1 is not listed") == ["ok"]
    refused = {"1.2.0.192.bl.test": {"A": ["127.255.255.254"]}}
    told = look(make_site(tmp_path, refused, filters=filters, policy=POLICY))
    assert said(told, "not checked: it refuses the question") == ["warn"]
    assert not any("ok.test" in one.subject for one in told)


# -- DNSSEC and TLSA


def with_certificate(tmp_path: Path, zone: Mapping[Any, Any], issued: Issued, **more: Any) -> Site:
    folder = tmp_path / "tls"
    folder.mkdir(exist_ok=True)
    issued.write(folder / "a.pem")
    return make_site(tmp_path, zone, tls={"certificate": "tls"}, policy=POLICY, now=1.0, **more)


def tlsa(*issued: Issued) -> dict[str, Any]:
    return {"_25._tcp.gw.example.org": {"TLSA": [str(Tlsa.of(one.certificate)) for one in issued]}}


def test_tlsa_of_our_certificate(tmp_path: Path) -> None:
    ours, other = issue(None, "gw.example.org"), issue(None, "gw.example.org")
    zone = tlsa(ours)
    assert said(look(with_certificate(tmp_path, zone, ours)), "its TLSA records match") == ["ok"]
    told = look(with_certificate(tmp_path, zone, other))
    assert said(told, "its TLSA records do not match") == ["fail"]
    assert any(str(Tlsa.of(other.certificate)) in one.fix for one in told)
    assert said(look(with_certificate(tmp_path, {}, ours)), "has no TLSA records") == ["note"]
    odd = {"_25._tcp.gw.example.org": {"TLSA": ["1 1 1 00ff"]}}
    assert said(look(with_certificate(tmp_path, odd, ours)), "of kinds that mail has no use for") == ["warn"]
    unsure = {("_25._tcp.gw.example.org", "TLSA"): "SERVFAIL"}
    assert said(look(with_certificate(tmp_path, unsure, ours)), "TLSA cannot be looked up") == ["warn"]


def test_tlsa_of_the_next_certificate(tmp_path: Path) -> None:
    now, following = issue(None, "gw.example.org", days=(-1, 60)), issue(None, "gw.example.org", days=(5, 90))
    (tmp_path / "tls").mkdir()
    following.write(tmp_path / "tls" / "b.pem")
    site = with_certificate(tmp_path, tlsa(now), now)
    site.reactor.advance(time.time())  # type: ignore[attr-defined]  # a Clock
    told = look(site)
    assert said(told, "do not match the next certificate") == ["warn"]
    assert any(str(Tlsa.of(following.certificate)) in one.fix for one in told)
    site = with_certificate(tmp_path, tlsa(now, following), now)
    site.reactor.advance(time.time())  # type: ignore[attr-defined]  # a Clock
    assert said(look(site), "its TLSA records match") == ["ok"]


def test_tlsa_in_a_zone_that_is_not_signed(tmp_path: Path) -> None:
    ours = issue(None, "gw.example.org")
    told = look(with_certificate(tmp_path, tlsa(ours), ours, dns={"dnssec": True}))
    assert said(told, "in a zone that is not signed") == ["warn"]


def test_dane_needs_a_resolver_that_validates(tmp_path: Path) -> None:
    routes = {"inside": {"transport": "discard"}, "internet": {"transport": "smtp", "security": "dane"}}
    assert said(look(make_site(tmp_path, routes=routes)), "dns.dnssec is false") == ["warn"]
    sets = {"org": {"SOA": ["a. b. 1 1 1 1 1"]}}
    site = make_site(tmp_path, sets, routes=routes, dns={"dnssec": True}, secure=True)
    assert said(look(site), "the resolver validates (org)") == ["ok"]
    site = make_site(tmp_path, sets, routes=routes, dns={"dnssec": True})
    assert said(look(site), "does not validate, although dns.dnssec says so") == ["warn"]
    dead = {("org", "SOA"): "TIMEOUT", ("net", "SOA"): "TIMEOUT"}
    site = make_site(tmp_path, dead, routes=routes, dns={"dnssec": True})
    assert said(look(site), "not checked: the resolver finds none") == ["warn"]


# -- Keys


def signing(tmp_path: Path, zone: Mapping[Any, Any], **key: Any) -> list[Diagnosis]:
    one = {"selector": "s1", "path": str(tmp_path / "key.pem")} | key
    filters = [used("dkim-sign", base=tmp_path, domains={"example.org": {"keys": [one]}})]
    site = make_site(tmp_path, zone, filters=filters, now=1_800_000_000.0)
    assert key_files(site) == [Path(one["path"])]
    return found(site, dkim_checks(site))


def test_a_key_and_its_record(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(new_key("ed25519", 0))
    key = SigningKey.load((tmp_path / "key.pem").read_bytes())
    other = SigningKey.load(new_key("ed25519", 0))
    name = "s1._domainkey.example.org"
    assert said(signing(tmp_path, {name: {"TXT": [key.record]}}), "is published") == ["ok"]
    told = signing(tmp_path, {})
    assert said(told, "there is no such record") == ["fail"]
    assert "--show prints the record" in told[0].fix
    assert said(signing(tmp_path, {name: {"TXT": [other.record]}}), "another key is published") == ["fail"]
    assert said(signing(tmp_path, {(name, "TXT"): "TIMEOUT"}), "not checked") == ["warn"]
    assert said(signing(tmp_path, {name: {"TXT": [f"{key.record}; t=y"]}}), "t=y") == ["fail"]


def test_keys_of_other_times(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(new_key("ed25519", 0))
    assert said(signing(tmp_path, {}, **{"from": "2027-01-17"}), "begins to sign before long") == ["warn"]
    assert said(signing(tmp_path, {}, **{"from": "2028-01-01"}), "begins to sign before long") == ["note"]
    assert said(signing(tmp_path, {}, until="2020-01-01"), "its time is over") == ["note"]


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    assert said(signing(tmp_path, {}), "No such file") == ["fail"]
    (tmp_path / "key.pem").write_bytes(b"nonsense")
    assert [one.severity for one in signing(tmp_path, {})] == ["fail"]


def test_a_domain_that_nobody_signs_for(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    assert said(found(site, dkim_checks(site)), "goes out without a signature") == ["warn"]


def test_the_key_that_seals(tmp_path: Path) -> None:
    (tmp_path / "seal.pem").write_bytes(new_key("ed25519", 0))
    seal = used("arc-seal", base=tmp_path, domain="example.org", selector="arc", key="seal.pem")
    site = make_site(tmp_path, filters=[seal])
    told = found(site, dkim_checks(site))
    assert [one.subject for one in told if one.severity == "fail"] == ["arc._domainkey.example.org"]


def test_the_senders_of_a_dead_dns(tmp_path: Path) -> None:
    site = make_site(tmp_path, more={"resolver": MemoryResolver({"gw.example.org": "TIMEOUT"})})
    assert outcome(Deferred.fromCoroutine(sent_from(site))) == []
