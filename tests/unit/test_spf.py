"""SPF beyond the suite of RFC 7208: limits, hostile records, names that are none, and failures of DNS."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import spf  # type: ignore[import-untyped]  # it has no types
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from mailgate.mailauth import spf_evaluation
from mailgate.mailauth.results import SpfResult
from mailgate.mailauth.spf import check_spf
from mailgate.testing import MemoryResolver, wait_for

Zone = Mapping[str, Any]
CLIENT = "192.0.2.1"


def check(
    zone: Zone | MemoryResolver, mail_from: str = "ann@example.org", *, ip: Any = CLIENT, helo: str = "mx.example.net"
) -> SpfResult:
    resolver = zone if isinstance(zone, MemoryResolver) else MemoryResolver(zone)
    return wait_for(
        check_spf(resolver, ip=ip, helo=helo, mail_from=mail_from, receiver="mx.example.com", now=1_000_000_000.5)
    )


def record(text: str, **more: Any) -> dict[str, Any]:
    """A zone in which example.org has this record; `more` are names, with _ for a dot."""
    return {"example.org": {"TXT": [text]}} | {name.replace("_", "."): sets for name, sets in more.items()}


def outcome(text: str, **more: Any) -> str:
    return check(record(text, **more)).result


# --- Whose mail it is


def test_the_result_says_what_was_checked_and_what_matched() -> None:
    found = check(
        record("v=spf1 a:nothing.example.org include:ok.example.org -all", ok_example_org={"TXT": ["v=spf1 +all"]})
    )
    assert found == SpfResult("pass", "example.org", "mailfrom", "include:ok.example.org")
    assert found.summary() == "spf=pass smtp.mailfrom=example.org by include:ok.example.org"
    assert found.facts() == ("spf.pass",)
    assert check(record("v=spf1 a:nothing.example.org")) == SpfResult("neutral", "example.org")
    assert check({}) == SpfResult("none", "example.org")


def test_the_null_sender_is_postmaster_at_helo() -> None:
    zone = {
        "mx.example.net": {"TXT": ["v=spf1 exists:%{l}.at.%{o} -all"]},
        "postmaster.at.mx.example.net": {"A": ["127.0.0.2"]},
    }
    assert check(zone, "") == SpfResult("pass", "mx.example.net", "helo", "exists:%{l}.at.%{o}")
    assert check(zone, "", helo="MX.Example.NET.").result == "pass"
    assert check(zone, "@mx.example.net").result == "pass"


@pytest.mark.parametrize(
    "name",
    [
        *("", "localhost", "[192.0.2.1]", "[IPv6:2001:db8::1]", "192.0.2.1", "a b.example.net", "x" * 64 + ".net"),
        *(
            "a..net",
            ".example.net",
            "ann@example.net",
            "%{d}.example.net",
            "a\r\nb.net",
            "\udcff.net",
            "ü" * 300 + ".net",
        ),
        *("x." * 130 + "net", "a\0b.net"),
    ],
)
def test_what_is_no_domain_is_none_unasked(name: str) -> None:
    resolver = MemoryResolver({"example.net": {"TXT": ["v=spf1 +all"]}})
    found = check(resolver, "", helo=name)
    assert (found.result, found.domain, found.identity) == ("none", "", "helo")
    assert found.reason.isprintable()
    assert "@" in name or check(resolver, f"ann@{name}").result == "none"
    assert not resolver.asked


def test_other_letters_in_domains_are_a_labels() -> None:
    zone = {"xn--bcher-kva.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]}}
    assert check(zone, "ann@Bücher.example") == SpfResult("pass", "xn--bcher-kva.example", "mailfrom", "ip4:192.0.2.1")
    assert check(zone, "", helo="bücher.example").result == "pass"
    assert check(zone, "ann@xn--bcher-kva.example").result == "pass"


@pytest.mark.parametrize(
    "term", ["exists:%{l}.example.org", "include:%{s}.example.org", "a:%{l1r}.x.org", "mx:%{l}.x.org"]
)
def test_a_local_part_beyond_ascii_matches_nothing(term: str) -> None:
    resolver = MemoryResolver(record(f"v=spf1 {term} -all"))
    assert check(resolver, "bücher@example.org").result == "fail"
    assert [name for name, _ in resolver.asked] == ["example.org"]


def test_a_quoted_local_part_may_hold_an_at_sign() -> None:
    zone = record("v=spf1 -all exp=why.example.org", why_example_org={"TXT": ["%{l} at %{o}"]})
    assert check(zone, '"a@b"@example.org').explanation == '"a@b" at example.org'


@pytest.mark.parametrize("ip", ["::ffff:192.0.2.1", "192.0.2.1", ipaddress.ip_address("::ffff:192.0.2.1")])
def test_ipv4_in_ipv6_is_ipv4(ip: object) -> None:
    assert check(record("v=spf1 ip6:::/0 ip4:192.0.2.0/24 -all"), ip=ip).mechanism == "ip4:192.0.2.0/24"


def test_ipv6_and_its_zone() -> None:
    zone = record("v=spf1 ip4:0.0.0.0/0 ip6:fe80::/16 -all exp=why.example.org", why_example_org={"TXT": ["%{c}"]})
    assert check(zone, ip="fe80::1%eth0").mechanism == "ip6:fe80::/16"
    assert check(zone, ip="2001:db8::1").explanation == "2001:db8::1"
    with pytest.raises(ValueError, match="address"):
        check(zone, ip="example.org")


# --- DNS that fails


@pytest.mark.parametrize("how", ["SERVFAIL", "TIMEOUT"])
def test_failures_of_dns_are_temporary_errors(how: str) -> None:
    assert check({"example.org": how}).result == "temperror"
    for term in ("a:x.org", "mx:x.org", "exists:x.org", "include:x.org", "redirect=x.org"):
        found = check(record(f"v=spf1 {term} -all".removesuffix(" -all" if "=" in term else ""), x_org=how))
        assert (found.result, how.lower() in found.reason) == ("temperror", True), term
    found = check(
        record("v=spf1 mx -all") | {"example.org": {"TXT": ["v=spf1 mx"], "MX": [[1, "x.org"]]}, "x.org": how}
    )
    assert found.reason == f"A of x.org: {how.lower()}"


def test_no_and_nothing_are_no_record() -> None:
    for zone in ({"example.org": "NXDOMAIN"}, {"example.org": "NODATA"}, {"example.org": {"TXT": ["other"]}}):
        assert check(zone).result == "none"


def test_an_error_after_the_match_is_not_met() -> None:
    assert outcome("v=spf1 ip4:192.0.2.1 a:x.org", x_org="TIMEOUT") == "pass"


@pytest.mark.parametrize("how", ["SERVFAIL", "TIMEOUT", "NXDOMAIN"])
def test_the_clients_own_names_are_no_error_of_the_sender(how: str) -> None:
    pointer = "1.2.0.192.in-addr.arpa"
    assert check(record("v=spf1 ptr -all") | {pointer: how}).result == "fail"
    zone = record("v=spf1 ptr -all") | {
        pointer: {"PTR": ["bad.example.org", "good.example.org"]},
        "bad.example.org": how,
        "good.example.org": {"A": [CLIENT]},
    }
    assert check(zone).result == "pass"
    assert check(record("v=spf1 exists:%{p}.org") | {pointer: how, "unknown.org": {"A": [CLIENT]}}).result == "pass"


def test_the_name_of_the_client_depends_on_the_domain() -> None:
    names = ("other.com", "a.example.org", "a.x.net")
    zone = record(
        # The record is its own explanation, which is there at once when it is wanted.
        "v=spf1 include:x.net -all exp=example.org client=%{p}",
        x_net={"TXT": ["v=spf1 -ptr:%{p} -all"]},
    ) | {"1.2.0.192.in-addr.arpa": {"PTR": names}, **{name: {"A": [CLIENT]} for name in names}}
    assert check(zone).explanation.endswith("client=a.example.org")
    zone["example.org"]["TXT"] = ["v=spf1 exists:%{p}.is-not include:x.net -all"]
    zone["x.net"]["TXT"] = ["v=spf1 exists:%{p}.is -all"]
    assert check(zone | {"a.x.net.is": {"A": [CLIENT]}}).result == "pass"


# --- Limits of RFC 7208 section 4.6.4


@pytest.mark.parametrize(("count", "expected"), [(10, "pass"), (11, "permerror")])
@pytest.mark.parametrize("term", ["a:", "mx:"])
@pytest.mark.parametrize("last", ["a:last.org", "mx:last.org", "exists:last.org", "include:last.org", "ptr:mx.net"])
def test_ten_terms_ask(term: str, last: str, count: int, expected: str) -> None:
    names = [f"x{number}.org" for number in range(count - 1)]
    zone: dict[str, Any] = {name: {"A": ["192.0.2.9"], "MX": [[1, name]]} for name in names}
    zone["last.org"] = {"A": [CLIENT], "MX": [[1, "last.org"]], "TXT": ["v=spf1 +all"]}
    zone |= {"1.2.0.192.in-addr.arpa": {"PTR": ["mx.net"]}, "mx.net": {"A": [CLIENT]}}
    terms = " ".join(f"{term}{name}" for name in names)
    assert check(record(f"v=spf1 {terms} {last} -all") | zone).result == expected


@pytest.mark.parametrize(("count", "expected"), [(10, "pass"), (11, "permerror"), (100, "permerror")])
@pytest.mark.parametrize("term", ["include:", "redirect="])
def test_a_chain_of_records(term: str, count: int, expected: str) -> None:
    zone = {f"x{number}.org": {"TXT": [f"v=spf1 {term}x{number + 1}.org"]} for number in range(count)}
    resolver = MemoryResolver(zone | {f"x{count}.org": {"TXT": ["v=spf1 +all"]}})
    assert check(resolver, "ann@x0.org").result == expected
    assert len(resolver.asked) <= 11


@pytest.mark.parametrize("term", ["include:", "redirect="])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_circle_of_records(term: str, length: int) -> None:
    zone = {f"x{number}.org": {"TXT": [f"v=spf1 {term}x{(number + 1) % length}.org"]} for number in range(length)}
    resolver = MemoryResolver(zone)
    assert check(resolver, "ann@x0.org").result == "permerror"
    assert len(resolver.asked) == length


def test_a_hundred_includes_in_one_record() -> None:
    terms = " ".join(f"include:x{number}.org" for number in range(100))
    zone = {f"x{number}.org": {"TXT": ["v=spf1 -all"]} for number in range(100)}
    resolver = MemoryResolver(record(f"v=spf1 {terms} -all") | zone)
    assert check(resolver).result == "permerror"
    assert len(resolver.asked) == 11


def test_a_redirect_counts_when_it_is_followed() -> None:
    terms = " ".join(f"a:x{number}.org" for number in range(10))
    zone = {f"x{number}.org": {"A": ["192.0.2.9"]} for number in range(10)} | {"x9.org": {"A": [CLIENT]}}
    assert check(record(f"v=spf1 redirect=y.org {terms}") | zone).result == "pass"
    assert check(record(f"v=spf1 redirect=y.org {terms}") | zone, ip="192.0.2.77").result == "permerror"


@pytest.mark.parametrize(("count", "expected"), [(2, "fail"), (3, "permerror")])
@pytest.mark.parametrize("term", ["a:no{}.org", "exists:no{}.org", "mx:no{}.org"])
def test_two_void_terms(term: str, count: int, expected: str) -> None:
    assert outcome(f"v=spf1 {' '.join(term.format(number) for number in range(count))} -all") == expected


def test_hosts_without_an_address_of_the_clients_family_are_one_void_term() -> None:
    hosts = {f"h{number}.org": {"A": ["192.0.2.9"]} for number in range(10)}
    zone = {"example.org": {"TXT": ["v=spf1 mx a:h0.org -all"], "MX": [[1, name] for name in hosts]}} | hosts
    assert check(zone, ip="2001:db8::1").result == "fail"
    zone["example.org"]["TXT"] = ["v=spf1 mx a:h0.org a:h1.org -all"]
    assert check(zone, ip="2001:db8::1").result == "permerror"


@pytest.mark.parametrize(("count", "expected"), [(10, "pass"), (11, "permerror")])
def test_ten_hosts_of_a_domain(count: int, expected: str) -> None:
    hosts = [f"h{number}.org" for number in range(count)]
    zone = {"example.org": {"TXT": ["v=spf1 mx -all"], "MX": [[number, host] for number, host in enumerate(hosts)]}}
    addresses = {host: {"A": ["192.0.2.9"]} for host in hosts} | {hosts[-1]: {"A": [CLIENT]}}
    assert check(zone | addresses).result == expected


@pytest.mark.parametrize(("count", "expected"), [(10, "pass"), (11, "fail"), (1000, "fail")])
def test_ten_names_of_a_client_are_looked_at(count: int, expected: str) -> None:
    names = [f"h{number}.example.org" for number in range(count)]
    zone = record("v=spf1 ptr -all") | {"1.2.0.192.in-addr.arpa": {"PTR": names}}
    zone |= {name: {"A": ["192.0.2.9"]} for name in names} | {names[-1]: {"A": [CLIENT]}}
    resolver = MemoryResolver(zone)
    assert check(resolver, ip=CLIENT).result == expected
    assert len(resolver.asked) == 12


def test_a_null_mx_is_no_host() -> None:
    assert check({"example.org": {"TXT": ["v=spf1 mx -all"], "MX": [[0, ""]]}}).result == "fail"


# --- Records


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v=spf1 REDIRECT=x.org", "pass"),
        ("v=spf1 moo=1 moo=2 m.o-o_0=%{d} -all", "fail"),
        ("v=spf1 moo=%{x} -all", "permerror"),
        ("v=spf1 moo=% -all", "permerror"),
        ("v=spf1 redirect=x.org redirect=x.org", "permerror"),
        ("v=spf1 redirect=x.org REDIRECT=x.org", "permerror"),
        ("v=spf1 -all exp=x.org Exp=x.org", "permerror"),
        ("v=spf1 -all exp=", "permerror"),
        ("v=spf1 redirect=", "permerror"),
        ("v=spf1 redirect=test", "permerror"),
        ("v=spf1 include:test -all", "permerror"),
        ("v=spf1 A:x.org -ALL", "pass"),
        ("V=SPF1 -all", "fail"),
        ("v=spf10 -all", "none"),
        ("v=spf1", "neutral"),
        ("v=spf1\t-all", "none"),
        ("v=spf1\n", "none"),
        ("v=spf1 a:x\t.org -all", "permerror"),
        ("v=spf1 a:192.0.2.1 -all", "permerror"),
        ("v=spf1 ip4:192.0.2.1/33 -all", "permerror"),
        ("v=spf1 ip4:192.0.2.999 -all", "permerror"),
        ("v=spf1 ip6:2001:db8::/129 -all", "permerror"),
        ("v=spf1 ip4:192.0.2.0/0 -all", "pass"),
        ("v=spf1 a:x.org/0 -all", "pass"),
        ("v=spf1 exists:%{dx}.org -all", "permerror"),
        ("v=spf1 exists:%{d0}.org -all", "permerror"),
        ("v=spf1 exists:%{t}.org -all", "permerror"),
        ("v=spf1 +all ip4:bogus", "permerror"),
        ("v=spf1 /24 -all", "permerror"),
        ("v=spf1 : -all", "permerror"),
        ("v=spf1 = -all", "permerror"),
        ("v=spf1 ++all", "permerror"),
    ],
)
def test_records(text: str, expected: str) -> None:
    assert outcome(text, x_org={"TXT": ["v=spf1 +all"], "A": [CLIENT]}) == expected


def test_two_records_are_an_error_and_one_in_many_strings_is_not() -> None:
    assert check({"example.org": {"TXT": ["v=spf1 +all", "v=spf1 -all"]}}).result == "permerror"
    assert check({"example.org": {"TXT": [["v=sp", "f1 ", "+a", "ll"], "other"]}}).result == "pass"
    assert check({"example.org": {"TXT": [b"v=spf1 +all \xff"]}}).result == "permerror"
    assert check({"example.org": {"TXT": ["v=spf1 +all", b"\xff" * 5000]}}).result == "pass"


@pytest.mark.parametrize("length", [4096, 4097, 65000])
def test_a_record_has_a_length(length: int) -> None:
    start = "v=spf1 ip4:192.0.2.1 "
    found = check(record(start + "x" * (length - len(start) - 1) + "="))
    assert found.result == ("pass" if length == 4096 else "permerror")
    assert (
        found.result == "pass" or found.reason == f"the SPF record of example.org has {length} octets, more than 4096"
    )


@pytest.mark.parametrize(("count", "expected"), [(500, "pass"), (501, "permerror")])
def test_an_answer_has_a_number_of_records(count: int, expected: str) -> None:
    addresses = [f"10.0.{number // 250}.{number % 250}" for number in range(count - 1)] + [CLIENT]
    assert outcome("v=spf1 a -all", example_org={"TXT": ["v=spf1 a -all"], "A": addresses}) == expected
    others = [f"text {number}" for number in range(count - 1)]
    assert check({"example.org": {"TXT": ["v=spf1 +all", *others]}}).result == expected


@pytest.mark.parametrize(("count", "expected"), [(4, "fail"), (5, "permerror")])
def test_all_answers_have_a_number_of_records(count: int, expected: str) -> None:
    addresses = [f"10.0.{number // 250}.{number % 250}" for number in range(499)]
    terms = " ".join(f"a:x{number}.org" for number in range(count))
    hosts = {f"x{number}.org": {"A": addresses} for number in range(count)}
    resolver = MemoryResolver(record(f"v=spf1 {terms} mx:x0.org -all") | hosts)
    assert check(resolver).result == expected
    assert len(resolver.asked) <= 6


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[list[int]]:
    """Counts the calls of a method of the evaluation."""
    method, calls = getattr(spf_evaluation.Evaluation, name), [0]

    def call(self: object, *arguments: object) -> object:
        calls[0] += 1
        return method(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(spf_evaluation.Evaluation, name, call)
        yield calls


def test_a_record_is_read_once_however_often_the_work_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = " ".join(f"mx:x{number}.org" for number in range(10)) + " ip4:192.0.2.9" * 200
    zone: dict[str, Any] = {f"x{number}.org": {"MX": [[1, f"y{number}.org"]]} for number in range(10)}
    zone |= {f"y{number}.org": {"A": ["192.0.2.9"]} for number in range(10)}
    with counted(monkeypatch, "validate_mechanism") as calls, counted(monkeypatch, "outcome") as rounds:
        assert check(record(f"v=spf1 {terms} -all") | zone).result == "fail"
    assert calls == [11]  # networks are read without
    assert rounds == [22]


@pytest.mark.parametrize(
    ("term", "result"),
    [
        ("ip4:192.0.2.0/24", "pass"),
        ("IP4:192.0.2.9", "pass"),
        ("+ip4:192.0.2.9/32", "pass"),
        ("-ip4:0.0.0.0/0", "fail"),
        ("~ip4:192.0.2.8/31", "softfail"),
        ("?ip4:192.0.2.8/30", "neutral"),
        ("ip4:192.0.2.10/32", "none of these"),
        ("ip6:::/0", "none of these"),
        ("ip6:::ffff:192.0.2.9", "none of these"),
        ("ip4:192.0.2.9/33", "permerror"),
        ("ip4:192.0.2.9/024", "permerror"),
        ("ip4:192.0.02.9", "permerror"),
        ("ip4:2001:db8::1", "permerror"),
        ("ip6:192.0.2.9", "permerror"),
        ("ip6:2001:db8::1/129", "permerror"),
        ("ip6:2001:db8::1%eth0", "permerror"),
        ("ip6:2001:db8:::1", "permerror"),
        ("ip4:", "permerror"),
        ("!ip4:192.0.2.9", "permerror"),
    ],
)
def test_networks(term: str, result: str) -> None:
    found = check(record(f"v=spf1 {term}"), ip="192.0.2.9")
    assert (found.result, found.mechanism) == (
        ("neutral", "") if result == "none of these" else (result, found.mechanism)
    )


def test_the_hosts_of_a_domain_are_asked_for_in_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = [f"h{number}.org" for number in range(10)]
    zone = {"example.org": {"TXT": ["v=spf1 mx -all"], "MX": [[1, host] for host in hosts]}}
    with counted(monkeypatch, "outcome") as rounds:
        assert check(zone | {host: {"A": ["192.0.2.9"]} for host in hosts}).result == "fail"
    assert rounds == [4]


def test_the_longest_work_that_the_limits_allow() -> None:
    terms = " ".join(f"mx:x{number}.org" for number in range(9)) + " ptr -all exp=why.example.org"
    zone: dict[str, Any] = record(f"v=spf1 {terms}", why_example_org={"TXT": ["Because."]})
    for number in range(9):
        hosts = [f"h{host}.x{number}.org" for host in range(10)]
        zone[f"x{number}.org"] = {"MX": [[1, host] for host in hosts]}
        zone |= {host: {"A": ["192.0.2.9"]} for host in hosts}
    names = [f"n{number}.net" for number in range(10)]
    zone |= {"1.2.0.192.in-addr.arpa": {"PTR": names}} | {name: {"A": [CLIENT]} for name in names}
    resolver = MemoryResolver(zone)
    assert check(resolver).explanation == "Because."
    assert len(resolver.asked) == 1 + 9 * 11 + 11 + 1


# --- Macros and explanations


@pytest.mark.parametrize(
    "text",
    [
        "include:x." + "a" * 4000 + "_",
        "exists:" + "%{d}" * 1000 + ".com",
        "exists:" + "%{sr-.+,/_=}" * 300 + ".com",
        "exists:" + "%{d" * 1000,
        "a:" + "%" * 4000,
        "moo=" + "%{p}" * 1000,
        "exists:%{d" + "1" * 4000 + "}.com",
        "exists:" + "." * 4000 + "com",
        "a/" + "1" * 4000,
        "a:" + "/1" * 2000,
        "ip6:" + ":" * 4000,
        "ip4:" + "1." * 2000,
    ],
)
def test_hostile_terms_have_a_result(text: str) -> None:
    resolver = MemoryResolver(record(f"v=spf1 {text} -all"))
    assert check(resolver, "a.b-c@example.org").result in ("fail", "permerror")
    assert len(resolver.asked) <= 3


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        (
            {"TXT": ["See %{s} from %{c} at %{t} with %{r}"]},
            "See ann@example.org from 192.0.2.1 at 1000000000 with mx.example.com",
        ),
        ({"TXT": ["one", "two"]}, ""),
        ({"TXT": ["bad %{x}"]}, ""),
        ({"TXT": ["two\r\nlines"]}, ""),
        ({"TXT": [b"\xfc"]}, ""),
        ({"TXT": ["x" * 4096]}, "x" * 500),
        ({"TXT": ["x" * 4097]}, ""),
        ({"TXT": ["%{d}" * 1000]}, ""),
        ({"TXT": [""]}, ""),
        ("NXDOMAIN", ""),
        ("SERVFAIL", ""),
        ("TIMEOUT", ""),
    ],
)
def test_explanations(why: Any, expected: str) -> None:
    found = check(record("v=spf1 -all exp=why.%{d}", why_example_org=why))
    assert (found.result, found.explanation) == ("fail", expected)


@pytest.mark.parametrize("text", ["v=spf1 +all exp=why.org", "v=spf1 ?all exp=why.org", "v=spf1 bogus exp=why.org"])
def test_an_explanation_is_looked_up_for_a_fail_only(text: str) -> None:
    resolver = MemoryResolver(record(text, why_org={"TXT": ["Why."]}))
    assert check(resolver).explanation == ""
    assert [name for name, _ in resolver.asked] == ["example.org"]


def test_whose_explanation_it_is() -> None:
    others = {"x_org": {"TXT": ["v=spf1 exp=x.why.org -all"]}, "x_why_org": {"TXT": ["X for %{d}"]}}
    others |= {"why_org": {"TXT": ["Why for %{d}"]}}
    assert check(record("v=spf1 exp=why.org redirect=x.org", **others)).explanation == "X for x.org"
    assert check(record("v=spf1 include:x.org exp=why.org -all", **others)).explanation == "Why for example.org"


# --- pyspf


def test_the_ways_of_pyspf_to_dns_are_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("pyspf asks by itself")

    for name in ("DNSLookup", "DNSLookup_dnspython", "DNSLookup_pydns"):
        monkeypatch.setattr(spf, name, never)
    assert spf_evaluation.Evaluation.dns is not spf.query.dns
    assert outcome("v=spf1 mx ptr exists:%{p}.org a include:x.org -all exp=x.org", x_org={"TXT": ["v=spf1 -all"]}) in (
        "fail",
        "permerror",
    )


@implementer(ILogObserver)
class Log:
    def __init__(self) -> None:
        self.failures: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        if "log_failure" in event:
            self.failures.append(event)


def test_an_exception_within_is_a_permanent_error_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(spf, "parse_mechanism", broken)
    log = Log()
    globalLogPublisher.addObserver(log)
    try:
        found = check(record("v=spf1 a -all"))
    finally:
        globalLogPublisher.removeObserver(log)
    assert found == SpfResult("permerror", "example.org", reason="it cannot be evaluated: RuntimeError")
    assert [event["domain"] for event in log.failures] == ["example.org"]


WORDS = ["a", "mx", "ptr", "all", "exists:", "include:", "ip4:", "ip6:", "redirect=", "exp=", "moo=", "-", "~", "?"]
PIECES = [
    *WORDS,
    *"%{}/:.=",
    "%{d}",
    "%{p}",
    "%{ir}",
    "x.org",
    "example.org",
    "192.0.2.1",
    "2001:db8::1",
    "/24",
    "//64",
    " ",
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=25), st.sampled_from([CLIENT, "2001:db8::1"]), st.text(max_size=20))
def test_any_record_has_a_result(pieces: list[str], ip: str, helo: str) -> None:
    text = f"v=spf1 {''.join(pieces)}"
    found = check(record(text, x_org={"TXT": [text, "other"], "A": [CLIENT], "MX": [[1, "x.org"]]}), ip=ip, helo=helo)
    assert found.result in ("pass", "fail", "softfail", "neutral", "none", "permerror", "temperror")
    assert "cannot be evaluated" not in found.reason, text


@given(st.text(max_size=300), st.text(max_size=100))
def test_any_sender_and_helo_have_a_result(mail_from: str, helo: str) -> None:
    found = check(record("v=spf1 exists:%{s}.%{h}.org -all"), mail_from, helo=helo)
    assert "cannot be evaluated" not in found.reason
    assert check(record("v=spf1 exists:%{L}.%{H}.org -all"), f"{mail_from}@example.org", helo=helo).result in (
        "fail",
        "permerror",
    )
