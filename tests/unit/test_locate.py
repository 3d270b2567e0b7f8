"""Whom a destination's mail is taken to: MX records, addresses, fixed hosts."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.config.schema import LmtpRoute, SmtpRoute
from mailgate.interfaces import Answer, DnsStatus
from mailgate.relay.attempt import Target
from mailgate.relay.locate import Hosts, Locator, NoHosts, OwnAddresses
from mailgate.testing import MemoryResolver, Silent, wait_for
from mailgate.testing.answers import as_deferred

MX = SmtpRoute(transport="smtp")
Zone = Mapping[tuple[str, str], Any]


def a(*addresses: str) -> list[object]:
    return [ip_address(one) for one in addresses]


class Bench:
    def __init__(self, zone: Zone | None = None, seed: int = 1) -> None:
        self.resolver = MemoryResolver(zone or {})
        self.locator = Locator(self.resolver, "gw.example.org", random.Random(seed))

    def hosts(self, domain: str, route: SmtpRoute | LmtpRoute = MX) -> Hosts:
        found = self.find(domain, route)
        assert isinstance(found, Hosts), found
        return found

    def find(self, domain: str, route: SmtpRoute | LmtpRoute = MX) -> Hosts | NoHosts:
        return wait_for(self.locator.hosts("out", route, domain))

    def targets(self, domain: str, *, ipv6: bool = True) -> list[str]:
        return self.addresses(self.hosts(domain), ipv6=ipv6)

    def addresses(self, hosts: Hosts, *, ipv6: bool = True) -> list[str]:
        found = wait_for(self.locator.targets(hosts, lmtp=False, ipv6=ipv6))
        assert not isinstance(found, NoHosts), found
        return [one.address for one in found]

    def nowhere(self, domain: str, *, ipv6: bool = True) -> NoHosts:
        hosts = self.find(domain)
        found = hosts if isinstance(hosts, NoHosts) else wait_for(self.locator.targets(hosts, lmtp=False, ipv6=ipv6))
        assert isinstance(found, NoHosts), found
        return found


# -- MX


def test_hosts_are_tried_by_preference() -> None:
    zone = {
        ("d.test", "MX"): [(5, "one.test"), (10, "two.test"), (30, "three.test")],
        ("one.test", "A"): a("192.0.2.1"),
        ("two.test", "A"): a("192.0.2.2"),
        ("three.test", "A"): a("192.0.2.3"),
    }
    assert Bench(zone).targets("d.test") == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    backwards = {**zone, ("d.test", "MX"): [(30, "three.test"), (10, "two.test"), (5, "one.test")]}
    assert Bench(backwards).targets("d.test") == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


def test_hosts_of_one_preference_share_the_load() -> None:
    names = ["a.test", "b.test", "c.test"]
    zone: dict[tuple[str, str], Any] = {("d.test", "MX"): [(10, one) for one in names] + [(20, "z.test")]}
    for number, name in enumerate([*names, "z.test"]):
        zone[name, "A"] = a(f"192.0.2.{number}")
    bench = Bench(zone)
    orders = [tuple(bench.targets("d.test")) for _ in range(60)]
    assert {order[-1] for order in orders} == {"192.0.2.3"}
    firsts = {one: sum(order[0] == one for order in orders) for one in ("192.0.2.0", "192.0.2.1", "192.0.2.2")}
    assert all(count > 8 for count in firsts.values()), firsts
    again = Bench(zone)
    assert [tuple(again.targets("d.test")) for _ in range(60)] == orders


def test_the_null_mx_takes_no_mail_for_good() -> None:
    for records in ([(0, "")], [(0, ""), (10, "")], [(0, ""), (0, "")]):
        nowhere = Bench({("d.test", "MX"): records}).nowhere("d.test")
        assert (nowhere.reply.code, nowhere.reply.status) == (556, "5.1.10")


def test_a_null_mx_beside_others_says_nothing() -> None:
    bench = Bench({("d.test", "MX"): [(0, ""), (10, "one.test")], ("one.test", "A"): a("192.0.2.1")})
    assert bench.targets("d.test") == ["192.0.2.1"]


def test_a_domain_without_mx_is_its_own_host() -> None:
    zone = {("d.test", "A"): a("192.0.2.1"), ("d.test", "AAAA"): a("2001:db8::1")}
    bench = Bench(zone)
    assert bench.hosts("d.test").is_implicit
    assert bench.targets("d.test") == ["192.0.2.1", "2001:db8::1"]


@pytest.mark.parametrize(
    ("zone", "code", "status"),
    [
        ({}, 550, "5.1.2"),
        ({("d.test", "TXT"): [b"x"]}, 550, "5.1.2"),
        ({("d.test", "MX"): DnsStatus.SERVFAIL}, 451, "4.4.3"),
        ({("d.test", "MX"): DnsStatus.TIMEOUT}, 451, "4.4.3"),
        ({("d.test", "A"): DnsStatus.SERVFAIL}, 451, "4.4.4"),
        ({("d.test", "A"): DnsStatus.TIMEOUT, ("d.test", "AAAA"): DnsStatus.NODATA}, 451, "4.4.4"),
        ({("d.test", "A"): DnsStatus.NODATA, ("d.test", "AAAA"): DnsStatus.SERVFAIL}, 451, "4.4.4"),
    ],
    ids=["nxdomain", "nodata", "servfail", "timeout", "A servfail", "A timeout", "AAAA servfail"],
)
def test_what_dns_says_decides_between_never_and_later(zone: Zone, code: int, status: str) -> None:
    nowhere = Bench(zone).nowhere("d.test")
    assert (nowhere.reply.code, nowhere.reply.status) == (code, status)


def test_the_four_answers_have_four_reasons() -> None:
    reasons = {
        Bench(zone).nowhere("d.test").reason
        for zone in (
            {},
            {("d.test", "TXT"): [b"x"]},
            {("d.test", "MX"): DnsStatus.SERVFAIL},
            {("d.test", "MX"): DnsStatus.TIMEOUT},
        )
    }
    assert len(reasons) == 4


def test_an_mx_host_without_an_address_may_get_one() -> None:
    for zone in ({}, {("one.test", "A"): DnsStatus.SERVFAIL}, {("one.test", "TXT"): [b"x"]}):
        nowhere = Bench({("d.test", "MX"): [(10, "one.test")], **zone}).nowhere("d.test")
        assert (nowhere.reply.code, nowhere.reply.status) == (451, "4.4.4")
        assert "one.test" in nowhere.reason


def test_a_host_without_an_address_does_not_stand_in_the_way() -> None:
    zone = {("d.test", "MX"): [(5, "gone.test"), (10, "one.test")], ("one.test", "A"): a("192.0.2.1")}
    assert Bench(zone).targets("d.test") == ["192.0.2.1"]


def test_half_an_answer_is_enough() -> None:
    zone = {
        ("d.test", "MX"): [(10, "one.test")],
        ("one.test", "A"): a("192.0.2.1"),
        ("one.test", "AAAA"): DnsStatus.TIMEOUT,
    }
    assert Bench(zone).targets("d.test") == ["192.0.2.1"]


# -- ourselves among them


def test_hosts_behind_ourselves_are_left_out() -> None:
    zone: dict[tuple[str, str], Any] = {
        ("d.test", "MX"): [(5, "one.test"), (10, "gw.example.org"), (10, "equal.test"), (20, "backup.test")],
    }
    for name in ("one.test", "gw.example.org", "equal.test", "backup.test"):
        zone[name, "A"] = a("192.0.2.1")
    assert [host.host for group in Bench(zone).hosts("d.test").groups for host in group] == ["one.test"]


def test_mail_for_which_we_are_the_best_host_is_not_sent_in_a_circle() -> None:
    bench = Bench({("d.test", "MX"): [(5, "gw.example.org"), (10, "backup.test")]})
    nowhere = bench.nowhere("d.test")
    assert (nowhere.reply.code, nowhere.reply.status) == (451, "4.4.6")
    assert "loop" in nowhere.reply.text


# -- sites


def test_domains_with_the_same_hosts_in_the_same_order_are_one_site() -> None:
    bench = Bench(
        {
            ("a.test", "MX"): [(5, "one.test"), (5, "two.test"), (10, "three.test")],
            ("b.test", "MX"): [(10, "two.test"), (10, "one.test"), (70, "three.test")],
            ("back.test", "MX"): [(5, "three.test"), (10, "one.test"), (10, "two.test")],
            ("more.test", "MX"): [(5, "one.test"), (5, "two.test")],
        }
    )
    assert bench.hosts("a.test") == bench.hosts("b.test")
    names = {bench.hosts(domain).name for domain in ("a.test", "back.test", "more.test")}
    assert len(names) == 3


def test_a_host_without_mx_is_not_the_site_of_those_that_name_it() -> None:
    """Its own lack of an address is for good, that of a domain's MX host is not."""
    bench = Bench({("d.test", "MX"): [(10, "host.test")], ("host.test", "TXT"): [b"x"]})
    assert bench.hosts("d.test").name != bench.hosts("host.test").name
    assert bench.nowhere("host.test").reply.is_permanent
    assert bench.nowhere("d.test").reply.is_transient


def test_sites_of_two_routes_are_two() -> None:
    bench = Bench({("d.test", "MX"): [(10, "one.test")]})
    other = wait_for(bench.locator.hosts("slow", MX, "d.test"))
    assert isinstance(other, Hosts)
    assert other.name != bench.hosts("d.test").name


# -- whom DNS names, and who vouches for that


class SecureResolver(MemoryResolver):
    """Says of the domains in `signed` that DNSSEC vouches for what it tells of them."""

    signed = ("signed.test", "alone.test")

    def resolve(self, name: str, rdtype: str) -> Answer:
        return replace(super().resolve(name, rdtype), secure=name in self.signed)


def signed_bench() -> Bench:
    bench = Bench()
    zone: dict[tuple[str, str], Any] = {
        ("signed.test", "MX"): [(10, "one.test")],
        ("open.test", "MX"): [(10, "one.test")],
        ("alone.test", "A"): a("192.0.2.2"),
        ("lonely.test", "A"): a("192.0.2.3"),
        ("one.test", "A"): a("192.0.2.1"),
    }
    bench.resolver = SecureResolver(zone)
    bench.locator = Locator(bench.resolver, "gw.example.org", random.Random(1))
    return bench


def is_vouched_for(bench: Bench, domain: str, route: SmtpRoute = MX) -> bool:
    found = wait_for(bench.locator.targets(bench.hosts(domain, route), lmtp=False, ipv6=True))
    assert not isinstance(found, NoHosts)
    (target,) = found
    return target.is_vouched_for


@pytest.mark.parametrize(
    ("domain", "vouched"),
    [("signed.test", True), ("open.test", False), ("alone.test", True), ("lonely.test", False), ("[192.0.2.7]", True)],
)
def test_a_host_that_dns_names_is_known_where_dnssec_vouches_for_it(domain: str, vouched: bool) -> None:
    assert is_vouched_for(signed_bench(), domain) == vouched


def test_a_host_that_the_configuration_names_is_known() -> None:
    assert is_vouched_for(signed_bench(), "open.test", SmtpRoute(transport="smtp", hosts=["one.test"]))
    named = SmtpRoute(transport="smtp", tls="verified", tls_name="mail.test")
    pinned = SmtpRoute(transport="smtp", tls="required", tls_fingerprints=["ab" * 32])
    assert is_vouched_for(signed_bench(), "open.test", named)
    assert is_vouched_for(signed_bench(), "open.test", pinned)


def test_a_signed_domain_and_another_are_two_sites() -> None:
    """A connection, once open, serves a whole site."""
    bench = signed_bench()
    assert bench.hosts("signed.test").groups == bench.hosts("open.test").groups
    assert bench.hosts("signed.test").name != bench.hosts("open.test").name


# -- literals and fixed hosts


@pytest.mark.parametrize(("domain", "address"), [("[192.0.2.7]", "192.0.2.7"), ("[ipv6:2001:db8::7]", "2001:db8::7")])
def test_an_address_literal_is_its_own_host(domain: str, address: str) -> None:
    bench = Bench()
    assert bench.targets(domain) == [address]
    assert bench.resolver.asked == []


def test_fixed_hosts_need_no_mx() -> None:
    route = SmtpRoute(transport="smtp", hosts=["one.test:2525", "192.0.2.9", "[2001:db8::9]:26"], port=587)
    bench = Bench({("one.test", "A"): a("192.0.2.1")})
    hosts = bench.hosts("whatever.test", route)
    found = wait_for(bench.locator.targets(hosts, lmtp=False, ipv6=True))
    assert found == [
        Target("one.test", "192.0.2.1", 2525),
        Target("192.0.2.9", "192.0.2.9", 587),
        Target("2001:db8::9", "2001:db8::9", 26),
    ]
    assert bench.resolver.asked == [("one.test", "A"), ("one.test", "AAAA")]
    assert bench.hosts("another.test", route).name == hosts.name


def test_an_inner_list_shares_the_load() -> None:
    route = SmtpRoute(transport="smtp", hosts=[["192.0.2.1", "192.0.2.2"], "192.0.2.3"])
    bench = Bench()
    orders = {tuple(bench.addresses(bench.hosts("x", route))) for _ in range(40)}
    assert orders == {("192.0.2.1", "192.0.2.2", "192.0.2.3"), ("192.0.2.2", "192.0.2.1", "192.0.2.3")}


def test_a_unix_socket_is_not_asked_for_in_dns() -> None:
    route = LmtpRoute(transport="lmtp", hosts=["unix:/run/lmtp"])
    bench = Bench()
    found = wait_for(bench.locator.targets(bench.hosts("x", route), lmtp=True, ipv6=True))
    assert found == [Target("/run/lmtp", "/run/lmtp", 0, lmtp=True)]
    assert bench.resolver.asked == []


def test_fixed_hosts_without_an_address_are_a_matter_of_time() -> None:
    route = SmtpRoute(transport="smtp", hosts=["one.test"])
    bench = Bench()
    found = wait_for(bench.locator.targets(bench.hosts("x", route), lmtp=False, ipv6=True))
    assert isinstance(found, NoHosts)
    assert found.reply.is_transient


# -- addresses


def test_ipv6_can_be_left_alone() -> None:
    zone = {("d.test", "A"): a("192.0.2.1"), ("d.test", "AAAA"): a("2001:db8::1")}
    bench = Bench(zone)
    assert bench.targets("d.test", ipv6=False) == ["192.0.2.1"]
    assert ("d.test", "AAAA") not in bench.resolver.asked


def test_every_address_of_a_host_is_tried() -> None:
    zone = {("d.test", "MX"): [(10, "one.test")], ("one.test", "A"): a("192.0.2.1", "192.0.2.2")}
    assert Bench(zone).targets("d.test") == ["192.0.2.1", "192.0.2.2"]


def test_a_domain_with_a_hundred_hosts_does_not_hold_us_up() -> None:
    zone: dict[tuple[str, str], Any] = {("d.test", "MX"): [(10, f"h{number}.test") for number in range(100)]}
    for number in range(100):
        zone[f"h{number}.test", "A"] = a(f"192.0.2.{number}")
    bench = Bench(zone)
    assert len(bench.targets("d.test")) == 10
    assert len(bench.resolver.asked) <= 1 + 2 * 10
    many = Bench({("d.test", "A"): a(*(f"192.0.2.{number}" for number in range(200)))})
    assert len(many.targets("d.test")) == 10


class MixedResolver(MemoryResolver):
    """Puts a name among the records of each answer."""

    def resolve(self, name: str, rdtype: str) -> Answer:
        answer = super().resolve(name, rdtype)
        return replace(answer, records=("one.test", *answer.records))


def test_records_of_another_kind_are_no_addresses() -> None:
    zone = {("d.test", "MX"): [(10, "two.test")], ("two.test", "A"): a("192.0.2.2")}
    bench = Bench()
    bench.locator = Locator(MixedResolver(zone), "gw.example.org", random.Random(1))
    assert bench.targets("d.test") == ["192.0.2.2"]


# -- answers that come later


class LateResolver(MemoryResolver):
    """Keeps its answers until `tell`."""

    def __init__(self, zone: Zone) -> None:
        super().__init__(zone)
        self._late: list[tuple[Deferred[Answer], Answer]] = []

    def resolve(self, name: str, rdtype: str) -> Deferred[Answer]:  # type: ignore[override]  # later, as IResolver may
        late: Deferred[Answer] = Deferred()
        self._late.append((late, super().resolve(name, rdtype)))
        return late

    def tell(self) -> None:
        while self._late:
            late, answer = self._late.pop()
            late.callback(answer)


def test_answers_may_come_later() -> None:
    resolver = LateResolver({("d.test", "MX"): [(10, "one.test")], ("one.test", "A"): a("192.0.2.1")})
    locator = Locator(resolver, "gw.example.org", random.Random(1))
    answer = locator.hosts("out", MX, "d.test")
    assert not isinstance(answer, Hosts | NoHosts)
    waited = as_deferred(answer)
    assert not waited.called
    resolver.tell()
    hosts = wait_for(waited)
    assert isinstance(hosts, Hosts)
    targets = Deferred.fromCoroutine(locator.targets(hosts, lmtp=False, ipv6=True))
    assert not targets.called
    resolver.tell()
    assert wait_for(targets) == [Target("one.test", "192.0.2.1", 25, is_vouched_for=False)]


def test_giving_up_takes_the_question_back() -> None:
    silent = Silent()
    locator = Locator(silent, "gw.example.org", random.Random(1))
    hosts = Hosts("out", Bench().hosts("x", SmtpRoute(transport="smtp", hosts=["one.test"])).groups)
    waited = Deferred.fromCoroutine(locator.targets(hosts, lmtp=False, ipv6=True))
    assert silent.open == 1
    waited.addErrback(lambda failure: None)
    waited.cancel()
    assert silent.open == 0


# -- ourselves


def ours(zone: Zone, *own: str) -> Bench:
    """With a gateway at these addresses."""
    bench = Bench(zone)
    addresses = {ip_address(one) for one in own}
    bench.locator = Locator(bench.resolver, "gw.example.org", random.Random(1), addresses.__contains__)
    return bench


def test_a_host_that_has_our_address_would_give_the_mail_back() -> None:
    zone = {
        ("d.test", "MX"): [(10, "alias.test"), (20, "other.test")],
        ("alias.test", "A"): a("192.0.2.1"),
        ("other.test", "A"): a("192.0.2.2"),
        ("e.test", "MX"): [(10, "other.test"), (20, "alias.test"), (30, "third.test")],
        ("third.test", "A"): a("192.0.2.3"),
        ("f.test", "A"): a("192.0.2.1"),
    }
    bench = ours(zone, "192.0.2.1")
    for domain in ("d.test", "f.test", "[192.0.2.1]"):
        nowhere = bench.nowhere(domain)
        assert (nowhere.reply.code, nowhere.reply.status) == (451, "4.4.6")
    assert "alias.test is 192.0.2.1" in bench.nowhere("d.test").reason
    # Who is preferred to us may have it, and nobody else.
    assert bench.targets("e.test") == ["192.0.2.2"]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "0.0.0.0", "::"])  # noqa: S104  nothing is bound
def test_a_host_on_loopback_is_ourselves(address: str) -> None:
    rdtype = "AAAA" if ":" in address else "A"
    nowhere = Bench({("d.test", "MX"): [(10, "mx.test")], ("mx.test", rdtype): a(address)}).nowhere("d.test")
    assert nowhere.reply.status == "4.4.6"


def test_hosts_that_the_configuration_names_may_be_on_this_machine() -> None:
    bench = ours({("inside.test", "A"): a("127.0.0.1")}, "127.0.0.1")
    route = SmtpRoute(transport="smtp", hosts=["inside.test:2525", "127.0.0.1:2526"])
    assert bench.addresses(bench.hosts("d.test", route)) == ["127.0.0.1", "127.0.0.1"]


def test_own_addresses_are_those_of_this_machine() -> None:
    now = [0.0]
    own = OwnAddresses(lambda: now[0])
    assert all(own(ip_address(one)) for one in ("127.0.0.1", "127.0.0.2", "::1", "::"))
    assert not any(own(ip_address(one)) for one in ("192.0.2.1", "2001:db8::1"))


def test_a_site_is_called_by_its_hosts() -> None:
    zone = {("d.test", "MX"): [(10, "b.test"), (10, "a.test"), (20, "c.test")]}
    hosts = Bench(zone).hosts("d.test")
    assert (hosts.label, hosts.title, hosts.names) == (
        "a.test,b.test|c.test",
        "a.test and 2 more",
        ("a.test", "b.test", "c.test"),
    )
    many = Bench({("d.test", "MX"): [(10, f"mx{number}.test") for number in range(200)]}).hosts("d.test")
    assert len(many.label) < 260
