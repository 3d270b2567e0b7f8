"""What the doctor finds out from next hops, from our own listeners, and from the servers that filters ask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mailgate.doctor.diagnosis import Diagnosis
from mailgate.doctor.hops import hop_checks
from mailgate.doctor.open_relay import relay_checks
from mailgate.doctor.servers import server_checks
from mailgate.doctor.site import Site
from tests.unit.doctor_stand import Host, Network, found, make_site, said, used

OFFER = Host.OFFER


def look(site: Site, *hosts: Host, port: int = 25) -> list[Diagnosis]:
    """The next hops 10.0.0.5, 10.0.0.6... are these hosts."""
    network = Network({(f"10.0.0.{5 + number}", port): host for number, host in enumerate(hosts)})
    return found(site, hop_checks(site), network)


def inside(tmp_path: Path, *, deep: bool = False, **route: Any) -> Site:
    own = {"transport": "smtp", "hosts": ["10.0.0.5"], "tls": "off", "connections": 3}
    more = {key: route.pop(key) for key in ("domains", "recipients", "listeners") if key in route}
    return make_site(tmp_path, routes={"inside": own | route}, routing={}, more={"is_deep": deep}, **more)


def test_a_good_next_hop(tmp_path: Path) -> None:
    host = Host(RCPT="550 5.1.1 no such user")
    told = look(inside(tmp_path), host)
    assert {one.severity for one in told} == {"ok"}
    assert said(told, "is reached in clear text") == ["ok"]
    assert said(told, "refuses unknown recipients of example.org at RCPT: 550 5.1.1") == ["ok"]
    assert [one[:4] for one in host.commands] == ["EHLO", "MAIL", "RCPT", "RSET"]
    assert host.sessions[0].transport.value() == b"QUIT\r\n"
    assert host.contents == []


@pytest.mark.parametrize(
    ("host", "severity", "words"),
    [
        (None, "fail", "cannot connect"),
        (Host(banner="421 4.3.2 busy"), "fail", "greeting refused: 421 4.3.2 busy"),
        (Host(banner="554 5.7.1 go away"), "fail", "greeting refused: 554 5.7.1 go away"),
        (Host(banner=""), "fail", "does not answer within 25 s"),
        (Host(EHLO="501 who", HELO="501 who"), "fail", "hello refused: 501 who"),
        (Host(EHLO="250-h\r\n250 SIZE 1000000"), "fail", "takes messages of 1000000 octets at most"),
        (Host(EHLO="250 h"), "note", "does not offer 8BITMIME"),
        (Host(MAIL="550 5.7.1 no bounces"), "fail", "refuses reports (the null sender)"),
        (Host(RCPT="554 5.7.1 Relay access denied"), "fail", "refuses mail for example.org: 554"),
        (Host(RCPT="454 4.7.1 Relay access denied"), "fail", "refuses mail for example.org: 454"),
        (Host(RCPT="450 4.2.0 greylisted"), "warn", "puts off mail for example.org"),
        (Host(RCPT="250 ok"), "note", "takes unknown recipients at RCPT; --deep"),
    ],
)
def test_each_thing_is_found(tmp_path: Path, host: Host | None, severity: str, words: str) -> None:
    told = look(inside(tmp_path), *([host] if host else []))
    assert severity in said(told, words), told
    assert all(one.fix for one in told if one.severity == "fail")


def test_a_host_that_is_full_is_told_what_to_do(tmp_path: Path) -> None:
    (told,) = look(inside(tmp_path), Host(banner="421 4.3.2 Service not active"))
    assert "takes no more connections, or is in maintenance" in told.fix


def test_one_of_two_hosts_is_enough(tmp_path: Path) -> None:
    site = inside(tmp_path, hosts=[["10.0.0.5", "10.0.0.6"]])
    told = look(site, Host())
    assert said(told, "(others of the route work)") == ["warn"]
    assert not [one for one in told if one.severity == "fail"]
    assert said(look(inside(tmp_path, hosts=["10.0.0.5", "10.0.0.6"])), "cannot connect") == ["fail", "fail"]


def test_a_host_without_address(tmp_path: Path) -> None:
    told = look(inside(tmp_path, hosts=["nowhere.test"]))
    assert said(told, "cannot be found: nowhere.test: no address") == ["fail"]
    told = look(inside(tmp_path, hosts=["nowhere.test", "10.0.0.5"]), Host())
    assert said(told, "cannot be found") == ["warn"]


def test_tls_that_is_not_offered(tmp_path: Path) -> None:
    told = look(inside(tmp_path, tls="required"), Host())
    assert said(told, "it does not offer STARTTLS") == ["fail"]
    assert said(look(inside(tmp_path, tls="opportunistic"), Host()), "in clear text") == ["warn"]


def test_a_login(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    auth = {"username": "gw", "password_file": "password", "without_tls": True, "mechanisms": ["plain"]}
    offer = f"{OFFER.replace('250 SIZE', '250-SIZE')}\r\n250 AUTH PLAIN"
    told = look(inside(tmp_path, auth=auth), Host(EHLO=offer, AUTH="235 2.7.0 in"))
    assert said(told, "and the login works") == ["ok"]
    told = look(inside(tmp_path, auth=auth), Host(EHLO=offer, AUTH="535 5.7.8 no"))
    assert said(told, "AUTH PLAIN refused: 535 5.7.8") == ["fail"]
    assert "hunter2" not in str(told)


def test_introductions_that_are_not_offered(tmp_path: Path) -> None:
    told = look(inside(tmp_path, xclient=True, xforward=True), Host())
    assert said(told, "XCLIENT") == ["fail"]
    assert said(told, "XFORWARD") == ["warn"]


def test_lmtp(tmp_path: Path) -> None:
    site = inside(tmp_path, transport="lmtp", hosts=["unix:/run/lmtp"])
    host = Host()
    told = found(site, hop_checks(site), Network({"/run/lmtp": host}))
    assert said(told, "refuses unknown recipients") == ["ok"]
    assert host.commands[0].startswith("LHLO")


def test_by_mx_nobody_is_asked(tmp_path: Path) -> None:
    site = make_site(tmp_path, routes={"inside": {"transport": "smtp"}})
    assert said(found(site, hop_checks(site)), "goes by MX") == ["note"]


# -- Beyond RCPT


def deep(tmp_path: Path, host: Host, **more: Any) -> list[Diagnosis]:
    return look(inside(tmp_path, deep=True, **more), host)


def test_refused_at_data(tmp_path: Path) -> None:
    host = Host(RCPT="250 ok", DATA="550 5.1.1 nobody")
    assert said(deep(tmp_path, host), "refuses unknown recipients of example.org at DATA") == ["ok"]
    assert host.contents == []


def test_refused_after_the_content(tmp_path: Path) -> None:
    host = Host(RCPT="250 ok", END="550 5.1.1 nobody")
    told = deep(tmp_path, host)
    assert said(told, "takes unknown recipients until it has the content (550 5.1.1 nobody)") == ["note"]
    (content,) = host.contents
    assert b"Auto-Submitted: auto-generated" in content
    assert "MAIL FROM:<>" in [one.split(" SIZE")[0].split(" BODY")[0] for one in host.commands]


def test_never_refused(tmp_path: Path) -> None:
    host = Host(RCPT="250 ok")
    assert said(deep(tmp_path, host), "takes unknown recipients for good") == ["note"]
    anybody = {"domains": {"example.org": {"route": "inside"}}}
    told = deep(tmp_path, Host(RCPT="250 ok"), **anybody)
    assert said(told, 'recipients of example.org are "any"') == ["warn"]


def test_a_callout_to_who_knows_nobody(tmp_path: Path) -> None:
    recipients = {"people": {"kind": "callout", "route": "inside"}}
    told = look(inside(tmp_path, recipients=recipients), Host(RCPT="250 ok"))
    assert said(told, "cannot know anybody") == ["warn"]


def test_connections_that_are_taken(tmp_path: Path) -> None:
    assert said(deep(tmp_path, Host()), "takes 3 connections at one time") == ["ok"]
    host = Host(most=2)
    told = deep(tmp_path, host)
    assert said(told, "takes 2 connections at one time, and the route opens 3") == ["warn"]
    assert all(one.transport.disconnecting for one in host.sessions)


def test_a_host_that_takes_its_time_for_a_message_is_no_failure(tmp_path: Path) -> None:
    told = deep(tmp_path, Host(RCPT="250 ok", END=""))
    assert said(told, "not checked to the end: it does not say in time") == ["warn"]
    assert not [one for one in told if one.severity == "fail"]
    assert said(told, "takes 3 connections at one time") == ["ok"]


def test_a_host_that_takes_no_second_session_is_no_failure(tmp_path: Path) -> None:
    told = deep(tmp_path, Host(RCPT="250 ok", most=1))
    assert said(told, "not checked to the end: greeting refused: 421") == ["warn"]
    assert not [one for one in told if one.severity == "fail"]


# -- The listeners that run


def ask(site: Site, hosts: Mapping[Any, Host]) -> tuple[list[Diagnosis], Network]:
    network = Network(hosts)
    return found(site, relay_checks(site), network), network


def test_strangers_are_refused(tmp_path: Path) -> None:
    mx, out = Host(RCPT="550 5.7.1 no relaying"), Host(MAIL="550 5.7.1 who are you")
    told, network = ask(make_site(tmp_path), {("127.0.0.1", 25): mx, ("127.0.0.1", 587): out})
    assert said(told, "refuses to relay for strangers (127.83.17.5)") == ["ok", "ok"]
    assert [ours for _, _, ours in network.connected] == [("127.83.17.5", 0), ("127.83.17.5", 0)]
    rcpt = [one for one in mx.commands if one.startswith("RCPT")]
    assert rcpt == ["RCPT TO:<nobody@relay-test.invalid>"] * 3
    assert mx.contents == out.contents == []


def test_an_open_relay(tmp_path: Path) -> None:
    told, _ = ask(make_site(tmp_path), {("127.0.0.1", 25): Host(RCPT="250 2.1.5 ok")})
    assert said(told, "it is an open relay") == ["fail"]


def test_one_that_takes_copies_says_yes_to_all_and_relays_nothing(tmp_path: Path) -> None:
    listeners = [{"name": "copies", "endpoints": ["tcp:25"], "pipeline": "in", "rehearse": True}]
    told, network = ask(make_site(tmp_path, listeners=listeners), {("127.0.0.1", 25): Host(RCPT="250 2.1.5 ok")})
    assert (told, network.connected) == ([], [])


def test_one_that_is_open_for_our_own_domain_only(tmp_path: Path) -> None:
    host = Host(RCPT=["550 5.7.1 no", "550 5.7.1 no", "250 ok"])
    told, _ = ask(make_site(tmp_path), {("127.0.0.1", 25): host})
    assert said(told, "<postmaster@example.org>") == ["fail"]


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    told, _ = ask(make_site(tmp_path), {})
    assert said(told, "could not be shown: cannot connect") == ["note", "note"]
    assert "start the gateway" in told[0].fix
    told, _ = ask(make_site(tmp_path), {("127.0.0.1", 25): Host(MAIL="451 4.7.1 greylisted")})
    assert said(told, "could not be shown (127.83.17.5): 451 4.7.1 greylisted") == ["note"]


def test_who_trusts_all_of_this_machine_cannot_be_shown_anything(tmp_path: Path) -> None:
    listeners = [
        {
            "name": "out",
            "role": "outbound",
            "endpoints": ["tcp:25"],
            "pipeline": "in",
            "trusted_networks": ["127.0.0.0/8"],
        }
    ]
    told, network = ask(make_site(tmp_path, listeners=listeners), {("127.0.0.1", 25): Host()})
    assert said(told, "trusts every address that this machine can ask from") == ["note"]
    assert network.connected == []


def test_a_listener_that_has_no_port(tmp_path: Path) -> None:
    listeners = [{"name": "mx", "endpoints": ["unix:/run/x"], "pipeline": "in"}]
    assert said(ask(make_site(tmp_path, listeners=listeners), {})[0], "not tried") == ["note"]


# -- The servers that filters ask


def scan(site: Site, raw: Mapping[tuple[str, int], bytes]) -> list[Diagnosis]:
    def answer(reply: bytes) -> Any:
        return lambda octets: reply

    network = Network(raw={where: answer(reply) for where, reply in raw.items()})
    return found(site, server_checks(site), network)


@pytest.mark.parametrize(
    ("kind", "port", "reply"),
    [
        ("clamav", 3310, b"PONG\0"),
        ("spamassassin", 783, b"SPAMD/1.5 0 PONG\r\n"),
        ("rspamd", 11333, b"HTTP/1.1 200 OK\r\n\r\npong"),
        ("milter", 8891, b"\0\0\0\rO\0\0\0\6\0\0\0\0\0\0\0\0"),
    ],
)
def test_a_server_that_answers_as_it_should(tmp_path: Path, kind: str, port: int, reply: bytes) -> None:
    site = make_site(tmp_path, filters=[used(kind, servers=["127.0.0.1"])])
    told = scan(site, {("127.0.0.1", port): reply})
    assert [one.severity for one in told] == ["ok"]
    told = scan(site, {("127.0.0.1", port): b"220 I am something else\r\n"})
    assert said(told, "does not answer as") == ["fail"]


@pytest.mark.parametrize(
    ("own", "severity", "words"),
    [
        ({}, "fail", "mail is put off (451)"),
        ({"on_failure": "reject"}, "fail", "mail is refused"),
        ({"on_failure": "quarantine"}, "fail", "mail goes into quarantine"),
        ({"on_failure": "continue"}, "warn", "mail goes on unchecked"),
        ({"mode": "shadow"}, "warn", "in shadow mode"),
    ],
)
def test_a_server_that_is_not_there(tmp_path: Path, own: dict[str, Any], severity: str, words: str) -> None:
    site = make_site(tmp_path, filters=[used("clamav", **own)])
    assert said(scan(site, {}), words) == [severity]


def test_one_of_two_servers(tmp_path: Path) -> None:
    site = make_site(tmp_path, filters=[used("clamav", servers=["127.0.0.1:1", "127.0.0.1:2"])])
    assert sorted(one.severity for one in scan(site, {("127.0.0.1", 2): b"PONG\0"})) == ["ok", "warn"]


def test_a_server_that_hangs(tmp_path: Path) -> None:
    site = make_site(tmp_path, filters=[used("clamav")])
    assert said(scan(site, {("127.0.0.1", 3310): b""}), "no answer within 10 s") == ["fail"]


def test_a_service_by_http(tmp_path: Path) -> None:
    site = make_site(tmp_path, filters=[used("http", urls=["http://127.0.0.1:8080/judge"])])
    assert [one.severity for one in scan(site, {("127.0.0.1", 8080): b""})] == ["ok"]
    assert [one.severity for one in scan(site, {})] == ["fail"]
