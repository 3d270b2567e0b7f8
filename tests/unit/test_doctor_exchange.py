"""Exchange: what is looked at, and the PowerShell that is printed for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.config.schema import Config
from mailgate.doctor.diagnosis import Diagnosis, Notes
from mailgate.doctor.exchange import exchange_checks, judge_offer, unguarded
from mailgate.doctor.exchange_shell import RouteError, exchange_routes, print_shell, quoted
from mailgate.wire.extensions import Extensions
from tests.unit.certificates import issue
from tests.unit.doctor_stand import Host, Network, found, make_site, said, used

OURS = "250-gw\r\n250-STARTTLS\r\n" + "\r\n".join(
    f"250-{one}"
    for one in ("PIPELINING", "8BITMIME", "BINARYMIME", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES", "SMTPUTF8")
)
THEIRS = "250-ex1\r\n250-X-ANONYMOUSTLS\r\n250-X-EXPS GSSAPI NTLM\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n"
THEIRS += "250-PIPELINING\r\n250-XRDST\r\n250 SIZE 104857600"
STRIP = [
    "X-MS-Exchange-Organization-*", "X-MS-Exchange-Forest-*", "X-MS-Exchange-CrossTenant-*",
    "X-MS-Exchange-CrossPremises-*", "X-MS-Exchange-SkipListedInternetSender",
    "X-MS-Exchange-ExternalOriginalInternetSender", "X-Forefront-Antispam-Report*", "X-Microsoft-Antispam*",
]  # fmt: skip


def look(tmp_path: Path, exchange: Host | None = None, ours: Host | None = None, **more: Any) -> list[Diagnosis]:
    route = more.pop("route", {})
    filters = more.pop("filters", [used("headers", strip=STRIP), used("submission", remove=STRIP[:2])])
    own = {
        "transport": "smtp",
        "hosts": [["10.0.0.5", "10.0.0.6"]],
        "tls": "off",
        "connections": 2,
        "preset": "exchange",
    }
    routes = {"inside": own | route, "internet": {"transport": "smtp"}}
    site = make_site(tmp_path, routes=routes, filters=filters, **more)
    hosts: dict[Any, Host] = {("127.0.0.1", port): ours or Host(EHLO=f"{OURS}\r\n250 SIZE 1") for port in (25, 587)}
    behind: dict[Any, Host] = {(f"10.0.0.{number}", 25): exchange or Host(EHLO=THEIRS) for number in (5, 6)}
    return found(site, exchange_checks(site, ["inside"]), Network({**hosts, **behind}))


def test_a_good_site(tmp_path: Path) -> None:
    told = look(tmp_path, route={"tls": "opportunistic", "tls_fingerprints": []})
    assert {one.severity for one in told if one.area == "exchange"} == {"ok"}, told
    assert said(told, "is an Exchange server; it takes messages of 100 MiB") == ["ok", "ok"]
    assert said(told, "takes 2 connections at one time") == ["ok", "ok"]
    assert said(told, "offers all that Exchange makes use of") == ["ok", "ok"]


@pytest.mark.parametrize(
    ("more", "severity", "words"),
    [
        ({"exchange": Host()}, "note", "does not look like an Exchange server"),
        ({"exchange": Host(EHLO=THEIRS.replace("XRDST", "XOORG"))}, "warn", "offers XOORG"),
        (
            {"exchange": Host(EHLO=THEIRS, most=1), "route": {"hosts": ["10.0.0.5"]}},
            "warn",
            "took 1 of 2 connections at one time",
        ),
        ({"ours": Host(EHLO="250 gw")}, "warn", "does not offer PIPELINING, SIZE"),
        ({"ours": Host(EHLO=f"{OURS}\r\n250-XSHADOW\r\n250 SIZE 1")}, "fail", "offers XSHADOW"),
        ({"filters": [used("headers")]}, "warn", "lets strangers bring X-MS-Exchange-Organization-*"),
        ({"filters": [used("headers", strip=STRIP, mode="shadow")]}, "warn", "lets strangers bring"),
        ({"route": {"preset": None}}, "warn", "has no preset"),
        ({"route": {"hosts": ["10.0.0.5"]}}, "note", "is the only host"),
        ({"route": {"data_timeout": "60s"}}, "warn", "data_timeout is below 10 minutes"),
        ({"route": {"connections": 25}}, "note", "opens 25 connections, of which a connector"),
        ({"route": {"tls": "off"}}, "warn", "mail goes there in clear text"),
        ({"domains": {"example.org": {"route": "inside"}}}, "warn", "takes any recipient, and Exchange refuses"),
        ({"recipients": {"people": {"kind": "callout", "route": "inside"}}}, "warn", "says yes to everything"),
    ],
)
def test_each_thing_is_found(tmp_path: Path, more: dict[str, Any], severity: str, words: str) -> None:
    assert severity in said(look(tmp_path, **more), words)


def test_what_keeps_fields_out_is_the_filter_that_is_made_for_it(tmp_path: Path) -> None:
    told = {one.severity: one.fix for one in look(tmp_path, filters=[used("headers")]) if " X-MS-" in one.says}
    assert told["warn"] == '"header-firewall" among the filters of pipelines.in, and enforced for all mail there'
    assert 'kind = "header-firewall" with direction = "outbound" among those of pipelines.in' in told["note"]
    firewalls = [used("header-firewall"), used("out", kind="header-firewall", direction="outbound")]
    assert not said(look(tmp_path, filters=firewalls), " lets ")
    assert said(look(tmp_path, filters=firewalls), "keeps out, and in, the fields") == ["ok", "ok"]


def test_without_a_gateway_that_runs_its_offer_cannot_be_seen(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    told = found(site, exchange_checks(site, ["inside"]), Network())
    assert said(told, "what it offers could not be seen") == ["note", "note"]


def test_exchange_online(tmp_path: Path) -> None:
    online = {"hosts": ["tenant.mail.protection.outlook.com"], "tls": "required"}
    zone = {"tenant.mail.protection.outlook.com": {"A": ["10.0.0.5"]}}
    told = look(tmp_path, route=online, zone=zone)
    assert said(told, "nobody insists on them") == ["warn"]
    assert said(told, "shows no certificate") == ["note"]


def test_starttls_is_expected_where_there_is_no_tls_yet() -> None:
    offered = dict.fromkeys(
        ["PIPELINING", "SIZE", "8BITMIME", "BINARYMIME", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES", "SMTPUTF8"], ""
    )
    notes = Notes("exchange", "x")
    judge_offer(Extensions(offered), notes, is_secured=False)
    judge_offer(Extensions(offered), notes, is_secured=True)
    offered["REQUIRETLS"] = ""
    judge_offer(Extensions(offered), notes, is_secured=True)
    assert [(one.severity, one.says.partition(",")[0]) for one in notes.found] == [
        ("warn", "does not offer STARTTLS"),
        ("warn", "does not offer REQUIRETLS"),
        ("ok", "offers all that Exchange makes use of"),
    ]


def test_which_filters_keep_fields_out() -> None:
    fields = ["X-MS-Exchange-Organization-*", "X-One"]
    assert unguarded([used("headers", strip=["x-ms-exchange-*", "x-one"])], fields) == []
    assert unguarded([used("headers", strip=["X-MS-Exchange-Organization-SCL"])], fields) == fields
    assert unguarded([used("edit-headers", rules=[{"remove": ["X-One"]}])], fields) == fields[:1]
    assert unguarded([used("edit-headers", rules=[{"remove": ["X-One"], "facts": ["spf.fail"]}])], fields) == fields
    assert unguarded([used("headers", strip=["X-One"], only_for=["example.org"])], fields) == fields


# -- PowerShell


def config(tmp_path: Path, **sections: Any) -> Config:
    return make_site(tmp_path, **sections).config


def test_the_routes_that_are_meant(tmp_path: Path) -> None:
    plain = config(tmp_path)
    assert exchange_routes(plain, "") == ["inside"]
    assert exchange_routes(plain, "inside") == ["inside"]
    with pytest.raises(RouteError, match="internet is no route"):
        exchange_routes(plain, "internet")
    routes = {"inside": {"transport": "discard"}}
    with pytest.raises(RouteError, match="which one leads to Exchange"):
        exchange_routes(config(tmp_path, routes=routes, routing={}), "")


def test_routes_that_say_so_themselves_come_alone(tmp_path: Path) -> None:
    routes = {
        "inside": {"transport": "smtp", "hosts": ["10.0.0.5"]},
        "ex": {"transport": "smtp", "hosts": ["10.0.0.6"], "preset": "exchange"},
        "cloud": {"transport": "smtp", "hosts": ["10.0.0.7"], "preset": "exchange-online"},
    }
    made = config(tmp_path, routes=routes, routing={})
    assert exchange_routes(made, "") == ["ex", "cloud"]
    text = print_shell(made, ["ex", "cloud"])
    assert ("New-ReceiveConnector" in text, "New-InboundConnector" in text) == (True, True)


def test_on_premises(tmp_path: Path) -> None:
    issue(None, "gw.example.org").write(tmp_path / "a.pem")
    routes = {"inside": {"transport": "smtp", "hosts": ["10.0.0.5"], "pool": "one", "connections": 40}}
    text = print_shell(
        config(
            tmp_path, routes=routes, routing={}, sources={"one": {"address": "192.0.2.7"}}, tls={"certificate": "a.pem"}
        ),
        ["inside"],
    )
    for wanted in (
        "$GatewayAddresses = @('192.0.2.7')",
        "$GatewayDomains = @('example.org')",
        "New-ReceiveConnector -Name 'From gw.example.org' -Server $env:COMPUTERNAME `",
        "-PermissionGroups AnonymousUsers -AuthMechanism Tls\n",
        "the route opens up to 40.",
        "-MaxMessageSize '51200KB'",
        "-SmartHosts 'gw.example.org' `\n    -Port 587 -DNSRoutingEnabled $false",
        "-RequireTLS $true -TlsAuthLevel DomainValidation -TlsDomain 'gw.example.org' `",
    ):
        assert wanted in text, wanted
    assert "{{" not in text
    assert text.endswith("\n")


def test_without_outbound_there_is_no_send_connector(tmp_path: Path) -> None:
    listeners = [{"name": "mx", "endpoints": ["tcp:25"], "pipeline": "in"}]
    text = print_shell(config(tmp_path, listeners=listeners), ["inside"])
    assert "New-SendConnector" not in text


def test_online(tmp_path: Path) -> None:
    issue(None, "gw.example.org").write(tmp_path / "client.pem")
    route = {"transport": "smtp", "hosts": ["t.mail.protection.outlook.com"], "tls": "verified"}
    seal = {"filters": {"arc-seal": {"domain": "example.org", "selector": "a", "key": "k.pem"}}}
    by_name = config(tmp_path, routes={"inside": route | {"certificate": "client.pem"}}, routing={}, file=seal)
    text = print_shell(by_name, ["inside"], "t.onmicrosoft.com")
    assert "-RestrictDomainsToCertificate $true -TlsSenderCertificateName 'gw.example.org'\n" in text
    assert "-ArcTrustedSealers 'example.org'" in text
    assert "Get-AcceptedDomain -Identity 't.onmicrosoft.com'" in text
    assert "fill them in" in text  # nobody was asked for addresses
    by_address = print_shell(config(tmp_path, routes={"inside": route}, routing={}), ["inside"])
    assert "-RestrictDomainsToIPAddresses $true -SenderIPAddresses $GatewayAddresses" in by_address
    assert "ArcTrustedSealers" not in by_address


def test_an_address_that_the_system_would_send_from(tmp_path: Path) -> None:
    routes = {"inside": {"transport": "smtp", "hosts": ["127.0.0.1"]}}
    assert "@('127.0.0.1')" in print_shell(config(tmp_path, routes=routes, routing={}), ["inside"])


@pytest.mark.parametrize(
    "hostile", ["'; Remove-Mailbox x; '", "a\u2019; calc; \u2018b", "$(calc)", "`n", '"x"', "${x}", "#"]
)
def test_hostile_names_stay_names(tmp_path: Path, hostile: str) -> None:
    text = print_shell(config(tmp_path, routes={"inside": {"transport": "smtp", "hosts": [
        "t.mail.protection.outlook.com"]}}, routing={}), ["inside"], hostile)  # fmt: skip
    (line,) = [one for one in text.splitlines() if one.startswith("Get-AcceptedDomain")]
    assert read_strings(line) == [hostile]
    assert strings_removed(line) == "Get-AcceptedDomain -Identity  | Format-List"


@pytest.mark.parametrize("name", ["a\nRemove-Mailbox x", "a\r", "a\0b", "a\u2028b", "a\x1b[2J"])
def test_names_with_other_characters_are_refused(tmp_path: Path, name: str) -> None:
    routes = {"inside": {"transport": "smtp", "hosts": ["t.mail.protection.outlook.com"]}}
    with pytest.raises(RouteError, match="cannot be printed"):
        print_shell(config(tmp_path, routes=routes, routing={}), ["inside"], name)


#: A string in single quotes, by the rules of the language: any of these begins and ends it, two of them are one.
_STRING = re.compile("['‘’‚‛]((?:[^'‘’‚‛]|['‘’‚‛]{2})*)['‘’‚‛](?!['‘’‚‛])")  # noqa: RUF001  meant so


def read_strings(line: str) -> list[str]:
    return [re.sub("(['‘’‚‛])\\1", r"\1", one) for one in _STRING.findall(line)]  # noqa: RUF001  meant so


def strings_removed(line: str) -> str:
    return _STRING.sub("", line)


@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from("'‘’‚‛$`\"; ")))  # noqa: RUF001
def test_whatever_is_quoted_is_one_string(text: str) -> None:
    assert read_strings(quoted(text)) == [text]
    assert strings_removed(quoted(text)) == ""


def test_other_values() -> None:
    assert quoted(["a", "b'c"]) == "@('a', 'b''c')"
    assert (quoted(True), quoted(25), quoted([])) == ("$true", "25", "@()")
    with pytest.raises(ValueError, match="no form"):
        quoted(1.5)
