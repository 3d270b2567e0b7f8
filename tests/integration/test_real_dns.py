"""The resolver and a real DNS server, over UDP and TCP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dns_parts import Knot, ask
from parts import folder, free_port

from mailgate.interfaces import DnsStatus

pytestmark = pytest.mark.needs("knotd")

LONG = "".join(f"{number:04}" for number in range(200))

ZONE = f"""\
@ MX 20 Backup
@ MX 10 mx
@ TXT "v=spf1 " "mx -all"
mx A 192.0.2.1
mx AAAA 2001:db8::1
backup A 192.0.2.2
none MX 0 .
long TXT "{LONG[:255]}" "{LONG[255:510]}" "{LONG[510:765]}" "{LONG[765:]}"
one CNAME two
two CNAME three
three CNAME mx
away CNAME nothing
""" + "".join(f"big A 198.51.100.{number}\n" for number in range(1, 201))

REVERSE = """\
1 PTR Mx.Test.
2 PTR mx.test.
"""


@pytest.fixture(scope="module")
def knot() -> Iterator[Knot]:
    with (
        folder("dns") as directory,
        Knot(directory / "knot", {"test": ZONE, "2.0.192.in-addr.arpa": REVERSE}) as server,
    ):
        yield server


@pytest.mark.parametrize(
    ("name", "rdtype", "records"),
    [
        ("mx.test", "A", ["192.0.2.1"]),
        ("MX.TEST.", "AAAA", ["2001:db8::1"]),
        ("test", "MX", [[10, "mx.test"], [20, "backup.test"]]),
        ("none.test", "MX", [[0, ""]]),
        ("test", "TXT", ["v=spf1 mx -all"]),
        ("long.test", "TXT", [LONG]),
        ("one.test", "A", ["192.0.2.1"]),
        ("one.test", "CNAME", ["two.test"]),
        ("192.0.2.1", "PTR", ["mx.test"]),
        ("::ffff:192.0.2.1", "PTR", ["mx.test"]),
        ("192.0.2.1", "NAME", ["mx.test"]),
        ("192.0.2.2", "NAME", [""]),
        ("192.0.2.3", "NAME", [""]),
        ("localhost", "A", ["127.0.0.1"]),
    ],
)
def test_what_is_there_is_found(knot: Knot, name: str, rdtype: str, records: list[object]) -> None:
    ((status, found, _ttl),) = ask([knot.server], (name, rdtype))
    assert (status, found) == (DnsStatus.FOUND, records)


def test_what_is_too_big_for_a_datagram_comes_by_tcp(knot: Knot) -> None:
    ((status, found, ttl),) = ask([knot.server], ("big.test", "A"))
    assert status is DnsStatus.FOUND
    assert sorted(found, key=str) == sorted(f"198.51.100.{number}" for number in range(1, 201))
    assert ttl == 60.0


def test_the_kinds_of_no_are_told_apart(knot: Knot) -> None:
    questions = [("mx.test", "MX"), ("gone.test", "A"), ("away.test", "A"), ("elsewhere.example", "A"), ("a..b", "A")]
    assert [(status, ttl) for status, _, ttl in ask([knot.server], *questions)] == [
        (DnsStatus.NODATA, 30.0),
        (DnsStatus.NXDOMAIN, 30.0),
        (DnsStatus.NXDOMAIN, 30.0),
        (DnsStatus.SERVFAIL, 0.0),
        (DnsStatus.NXDOMAIN, 0.0),
    ]


def test_many_questions_at_one_time(knot: Knot) -> None:
    questions = [(f"host{number}.test", "A") for number in range(700)] + [("mx.test", "A")] * 100
    statuses = [status for status, _, _ in ask([knot.server], *questions)]
    assert statuses == [DnsStatus.NXDOMAIN] * 700 + [DnsStatus.FOUND] * 100


def test_a_dead_server_is_a_timeout() -> None:
    answers = ask([f"127.0.0.1:{free_port()}"], ("mx.test", "A"), ("192.0.2.1", "PTR"), timeout=1.0)
    assert [status for status, _, _ in answers] == [DnsStatus.TIMEOUT] * 2


def test_the_second_server_answers_for_a_dead_one(knot: Knot) -> None:
    ((status, found, _ttl),) = ask([f"127.0.0.1:{free_port()}", knot.server], ("mx.test", "A"))
    assert (status, found) == (DnsStatus.FOUND, ["192.0.2.1"])


def test_the_second_server_answers_for_one_that_refuses(knot: Knot, base: Path) -> None:
    with Knot(base / "other", {"other.test": "www A 192.0.2.7\n"}) as other:
        ((status, found, _ttl),) = ask([other.server, knot.server], ("mx.test", "A"))
    assert (status, found) == (DnsStatus.FOUND, ["192.0.2.1"])
