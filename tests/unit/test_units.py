"""Durations, sizes, paths, hosts, networks, domains and endpoints as people write them."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from mailgate.config.endpoints import check_endpoint, listening
from mailgate.config.hosts import (
    HostPort,
    parse_domain,
    parse_domain_pattern,
    parse_host,
    parse_hostname,
    parse_mailbox,
    parse_network,
    parse_routing_pattern,
    parse_server,
)
from mailgate.config.units import (
    ConfigPath,
    Timeout,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("5d", 432000), ("250ms", 0.25), ("1.5m", 90), (" 2w ", 1209600), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("value", [30, 1.5, True, None, "30", "s", "", "5x", "5 m 3", "-5s", "1h-3m", "٣s", "1e3s"])
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="a duration is written like 30s, 5m, 1h30m or 5d"):
        parse_duration(value)


@pytest.mark.parametrize("text", ["99999w", "9" * 400 + "s", "3651d"])
def test_durations_end_somewhere(text: str) -> None:
    with pytest.raises(ValueError, match="too large"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "octets"), [("64KiB", 65536), ("25MB", 25_000_000), ("1GiB", 2**30), ("10B", 10), ("1.5KiB", 1536)]
)
def test_sizes(text: str, octets: int) -> None:
    assert parse_size(text) == octets


@pytest.mark.parametrize("value", [25, "25", "25mb", "25 XB", "KiB", ["1B"], "9" * 400 + "GiB"])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match=r"a size is written like|too large"):
        parse_size(value)


@given(st.integers(0, 10**11))
def test_a_written_duration_reads_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(0, 2**50))
def test_a_written_size_reads_back(octets: int) -> None:
    assert parse_size(format_size(octets)) == octets


def test_written_forms_are_short() -> None:
    assert [format_duration(value) for value in (0, 0.5, 90, 5400, 432000)] == ["0s", "500ms", "1m30s", "1h30m", "5d"]
    assert [format_size(value) for value in (0, 1000, 65536, 50 * 2**20, 2**31)] == [
        "0B",
        "1000B",
        "64KiB",
        "50MiB",
        "2GiB",
    ]


def test_a_timeout_is_not_nothing() -> None:
    assert TypeAdapter(Timeout).validate_python("1ms") == 0.001
    with pytest.raises(ValidationError, match="must be at least 1ms"):
        TypeAdapter(Timeout).validate_python("0s")


def test_paths_are_relative_to_the_file() -> None:
    adapter: TypeAdapter[Path] = TypeAdapter(ConfigPath)
    context = {"base": Path("/etc/mailgate")}
    assert adapter.validate_python("people", context=context) == Path("/etc/mailgate/people")
    assert adapter.validate_python("../x/y", context=context) == Path("/etc/mailgate/../x/y")
    assert adapter.validate_python("/srv/people", context=context) == Path("/srv/people")
    assert adapter.validate_python("people") == Path("people")


@pytest.mark.parametrize("value", ["", "~/people", "a\0b", 5, ["a"]])
def test_what_is_no_path(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ConfigPath).validate_python(value, context={"base": Path("/etc")})


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("mx.example.org", "mx.example.org", 24),
        ("MX.Example.ORG.:25", "mx.example.org", 25),
        ("10.0.0.5", "10.0.0.5", 24),
        ("10.0.0.5:2525", "10.0.0.5", 2525),
        ("[2001:DB8::1]", "2001:db8::1", 24),
        ("[2001:db8::1]:25", "2001:db8::1", 25),
        ("unix:/run/dovecot/lmtp", "/run/dovecot/lmtp", 0),
        ("mail_1:65535", "mail_1", 65535),
        ("bücher.example", "xn--bcher-kva.example", 24),
    ],
)
def test_hosts(text: str, host: str, port: int) -> None:
    assert parse_host(text, 24) == HostPort(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":25",
        "a:",
        "a:0",
        "a:65536",
        "a:x",
        "a:+5",
        "a:²",
        "a b",
        "a/b",
        "::1",
        "2001:db8::1:25",
        "[::1",
        "[::1]25",
        "[1.2.3.4]:25",
        "[]",
        "[a]:25",
        "10.0.0.256",
        "10.0.0",
        "unix:",
        "unix:run/lmtp",
        "-a.example",
        "a..b",
        "a\n.example",
        "x" * 64,
    ],
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|full path|no valid port|neither"):
        parse_host(text, 25)


@given(st.text(max_size=40))
def test_any_text_is_a_host_or_a_plain_error(text: str) -> None:
    try:
        found = parse_host(text, 25)
    except ValueError:
        return
    assert parse_host(str(found), 1) == found


@pytest.mark.parametrize("parse", [parse_domain_pattern, parse_routing_pattern, parse_mailbox, parse_hostname])
@given(text=st.text(max_size=40))
def test_any_text_is_refused_or_reads_back(parse: Callable[[str], str], text: str) -> None:
    try:
        found = parse(text)
    except ValueError:
        return
    assert parse(found) == found


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("127.0.0.1", ("127.0.0.1", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_dns_servers(text: str, server: tuple[str, int]) -> None:
    assert parse_server(text) == server


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("dns.example", "names cannot be used"),
        ("1.2.3.4:99999", "port"),
        ("", "no address"),
        ("[::1]x", "no host"),
        ("1.2.3", "no address"),
        ("[127.0.0.1]:53", "no address"),
    ],
)
def test_what_is_no_dns_server(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_server(text)


def test_networks() -> None:
    assert parse_network("10.0.0.0/8") == ip_network("10.0.0.0/8")
    assert parse_network("192.0.2.1") == ip_network("192.0.2.1/32")
    assert parse_network("2001:db8::/32") == ip_network("2001:db8::/32")
    with pytest.raises(ValueError, match=r"the network is 10\.0\.0\.0/8"):
        parse_network("10.0.0.1/8")
    for wrong in ("x", "", "::/129", "1.2.3.4/33", 5, None):
        with pytest.raises(ValueError, match="network"):
            parse_network(wrong)


def test_domains_have_one_spelling() -> None:
    assert parse_domain("Example.ORG.") == "example.org"
    assert parse_domain("Bücher.Example") == "xn--bcher-kva.example"
    assert parse_domain("[192.0.2.1]") == "[192.0.2.1]"
    assert parse_domain_pattern("*.Example.ORG") == "*.example.org"
    assert parse_routing_pattern("Ann@Example.ORG") == "ann@example.org"
    assert parse_routing_pattern("*.Lab.Example") == "*.lab.example"
    assert parse_mailbox("Ann@Example.ORG") == "Ann@example.org"
    assert parse_mailbox("@Example.ORG") == "@example.org"
    assert parse_mailbox('"a@b"@example.org') == '"a@b"@example.org'


@pytest.mark.parametrize(
    "text", ["*", "*.", ".", "", "a b", "*.*.org", "a*.org", "-a.org", "a..org", "x" * 64 + ".org"]
)
def test_what_is_no_domain_pattern(text: str) -> None:
    with pytest.raises(ValueError, match=r"no domain|every domain"):
        parse_domain_pattern(text)


@pytest.mark.parametrize("text", ["*", "@example.org", "a b@example.org", "a@", "*@example.org.."])
def test_what_is_no_routing_pattern(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|stands for everything|without the @"):
        parse_routing_pattern(text)


@pytest.mark.parametrize("text", ["ann", "ann@", "a b@example.org", "@", "a@b@example.org", "ann@*.example.org"])
def test_what_is_no_mailbox(text: str) -> None:
    with pytest.raises(ValueError, match=r"no address|no domain"):
        parse_mailbox(text)


def test_host_names_are_complete() -> None:
    assert parse_hostname("MX1.Example.org.") == "mx1.example.org"
    for wrong in ("", "mx1", "192.0.2.1", "mx_1.example.org", "-mx.example.org", "mx1.example.org\n", "a b.org"):
        with pytest.raises(ValueError, match="no full host name"):
            parse_hostname(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "tcp:25",
        "tcp:0:interface=127.0.0.1",
        r"tcp:25:interface=\:\:1",
        "tcp6:25",
        "unix:/run/mailgate.sock:mode=660",
        "systemd:domain=INET:index=0",
    ],
)
def test_endpoints(text: str) -> None:
    assert check_endpoint(text) == text


def test_the_longest_path_of_a_socket() -> None:
    path = "/" + "a" * 106
    assert check_endpoint(f"unix:{path}") == f"unix:{path}"
    assert parse_host(f"unix:{path}", 24) == HostPort(path, 0)
    with pytest.raises(ValueError, match="at most 107 octets"):
        parse_host(f"unix:{path}a", 24)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("smtp://127.0.0.1:10025", "write host:port, without smtp://"),
        ("LMTP://mail.internal", "write host:port, without LMTP://"),
        ("[mail.internal]:25", "names and IPv4 addresses stand without brackets; hosts given here are never looked"),
        ("[192.0.2.1]", "names and IPv4 addresses stand without brackets"),
    ],
)
def test_hosts_as_other_programs_write_them(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_host(text, 25)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp:25", ("", 25)),
        ("tcp6:587", ("::", 587)),
        ("tcp:25:interface=127.0.0.1", ("127.0.0.1", 25)),
        ("tcp:25:interface=\\:\\:1", ("::1", 25)),
        ("unix:/run/x", None),
        ("systemd:domain=INET:index=0", None),
        ("haproxy:tcp:25", None),
    ],
)
def test_where_an_endpoint_listens(text: str, expected: tuple[str, int] | None) -> None:
    assert listening(text) == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("25", "Unknown endpoint type"),
        ("0.0.0.0:25", "Unknown endpoint type"),
        ("", "is no endpoint"),
        ("tcp", "is no endpoint"),
        ("tcp:smtp", "is no endpoint"),
        ("tcp:65536", "a port is at most 65535"),
        ("tcp:-1", "a port is at most 65535"),
        ("tcp:25:interface=::1", r"each colon is written \\\\:"),
        ("tcp:25:iface=x", "is no endpoint"),
        ("unix:", "full path"),
        ("unix:run/x", "full path"),
        ("ssl:465:privateKey=/nonexistent", "TLS and the PROXY header are options of the listener"),
        ("tls:465", "TLS and the PROXY header are options of the listener"),
        ("haproxy:ssl:465", "TLS and the PROXY header are options of the listener"),
        ("unix:/" + "a" * 107, "at most 107 octets"),
        ("unix:/" + "ä" * 60 + ":mode=660", "at most 107 octets"),
    ],
)
def test_what_is_no_endpoint(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        check_endpoint(text)
