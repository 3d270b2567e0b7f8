"""The resolver and real DNS servers, over UDP and TCP: one that has the zones, and one that validates them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dns_parts import Knot, Unbound, ask
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
    ((status, found, *_),) = ask([knot.server], (name, rdtype))
    assert (status, found) == (DnsStatus.FOUND, records)


def test_what_is_too_big_for_a_datagram_comes_by_tcp(knot: Knot) -> None:
    ((status, found, ttl, _),) = ask([knot.server], ("big.test", "A"))
    assert status is DnsStatus.FOUND
    assert sorted(found, key=str) == sorted(f"198.51.100.{number}" for number in range(1, 201))
    assert ttl == 60.0


def test_the_kinds_of_no_are_told_apart(knot: Knot) -> None:
    questions = [("mx.test", "MX"), ("gone.test", "A"), ("away.test", "A"), ("elsewhere.example", "A"), ("a..b", "A")]
    assert [(status, ttl) for status, _, ttl, _ in ask([knot.server], *questions)] == [
        (DnsStatus.NODATA, 30.0),
        (DnsStatus.NXDOMAIN, 30.0),
        (DnsStatus.NXDOMAIN, 30.0),
        (DnsStatus.SERVFAIL, 0.0),
        (DnsStatus.NXDOMAIN, 0.0),
    ]


def test_many_questions_at_one_time(knot: Knot) -> None:
    questions = [(f"host{number}.test", "A") for number in range(700)] + [("mx.test", "A")] * 100
    statuses = [status for status, *_ in ask([knot.server], *questions)]
    assert statuses == [DnsStatus.NXDOMAIN] * 700 + [DnsStatus.FOUND] * 100


def test_a_dead_server_is_a_timeout() -> None:
    answers = ask([f"127.0.0.1:{free_port()}"], ("mx.test", "A"), ("192.0.2.1", "PTR"), timeout=1.0)
    assert [status for status, *_ in answers] == [DnsStatus.TIMEOUT] * 2


def test_the_second_server_answers_for_a_dead_one(knot: Knot) -> None:
    ((status, found, *_),) = ask([f"127.0.0.1:{free_port()}", knot.server], ("mx.test", "A"))
    assert (status, found) == (DnsStatus.FOUND, ["192.0.2.1"])


def test_the_second_server_answers_for_one_that_refuses(knot: Knot, base: Path) -> None:
    with Knot(base / "other", {"other.test": "www A 192.0.2.7\n"}) as other:
        ((status, found, *_),) = ask([other.server, knot.server], ("mx.test", "A"))
    assert (status, found) == (DnsStatus.FOUND, ["192.0.2.1"])


SIGNED = """\
@ MX 10 mx
@ TXT "v=spf1 mx -all"
mx A 192.0.2.1
mx AAAA 2001:db8::1
_25._tcp.mx TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
alias CNAME mx
outside CNAME mx.plain.example.
""" + "".join(f"big A 198.51.100.{number}\n" for number in range(1, 201))

PLAIN = """\
mx A 192.0.2.2
alias CNAME mx.signed.test.
"""

LISTS = """\
2.0.0.127 A 127.0.0.2
2.0.0.127 TXT "a test entry"
9.113.0.203 A 127.0.0.4
9.113.0.203 A 127.0.0.11
spam.example A 127.0.1.2
"""


@pytest.fixture(scope="module")
def unbound() -> Iterator[Unbound]:
    zones = {"signed.test": SIGNED, "bogus.test": SIGNED, "plain.example": PLAIN, "bl.example": LISTS}
    with (
        folder("validating") as directory,
        Knot(directory / "knot", zones, ["signed.test", "bogus.test"]) as server,
    ):
        anchor = server.trust_anchor("signed.test")
        # The key of one zone is no key of the other: its signatures prove nothing.
        wrong = anchor.replace("signed.test", "bogus.test")
        with Unbound(directory / "unbound", server, [anchor, wrong]) as resolving:
            yield resolving


@pytest.mark.needs("knotd", "keymgr", "unbound")
class TestValidating:
    def test_what_is_proved_is_secure(self, unbound: Unbound) -> None:
        questions = [("mx.signed.test", "A"), ("signed.test", "TXT"), ("_25._tcp.mx.signed.test", "TLSA")]
        questions += [("alias.signed.test", "AAAA"), ("big.signed.test", "A")]
        answers = ask([unbound.server], *questions)
        assert [(status, secure) for status, _, _, secure in answers] == [(DnsStatus.FOUND, True)] * 5
        assert answers[2].records == ["3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]
        assert len(answers[4].records) == 200

    def test_what_is_not_signed_is_not_secure(self, unbound: Unbound) -> None:
        questions = [("mx.plain.example", "A"), ("outside.signed.test", "A"), ("alias.plain.example", "A")]
        answers = ask([unbound.server], *questions)
        assert [(status, secure) for status, _, _, secure in answers] == [(DnsStatus.FOUND, False)] * 3

    def test_what_is_proved_wrong_is_no_answer(self, unbound: Unbound) -> None:
        questions = [("mx.bogus.test", "A"), ("gone.bogus.test", "A")]
        assert [status for status, *_ in ask([unbound.server], *questions)] == [DnsStatus.SERVFAIL] * 2

    def test_a_proved_no_is_secure_too(self, unbound: Unbound) -> None:
        questions = [("mx.signed.test", "MX"), ("gone.signed.test", "A"), ("mx.plain.example", "MX")]
        questions += [("gone.plain.example", "A"), ("nowhere.invalid", "A")]
        assert [(status, secure) for status, _, _, secure in ask([unbound.server], *questions)] == [
            (DnsStatus.NODATA, True),
            (DnsStatus.NXDOMAIN, True),
            (DnsStatus.NODATA, False),
            (DnsStatus.NXDOMAIN, False),
            (DnsStatus.NXDOMAIN, False),
        ]

    def test_a_list_of_clients(self, unbound: Unbound) -> None:
        questions = [("2.0.0.127.bl.example", "A"), ("2.0.0.127.bl.example", "TXT"), ("9.113.0.203.bl.example", "A")]
        questions += [("1.0.0.127.bl.example", "A"), ("spam.example.bl.example", "A")]
        answers = ask([unbound.server], *questions)
        assert [sorted(map(str, one.records)) for one in answers] == [
            ["127.0.0.2"],
            ["a test entry"],
            ["127.0.0.11", "127.0.0.4"],
            [],
            ["127.0.1.2"],
        ]
        assert answers[3].status is DnsStatus.NXDOMAIN

    def test_a_resolver_that_ends_is_a_timeout_and_the_next_one_answers(self, unbound: Unbound, base: Path) -> None:
        with Unbound(base / "second", unbound.knot) as second:
            assert ask([second.server], ("mx.plain.example", "A"))[0].status is DnsStatus.FOUND
        assert ask([second.server], ("mx.plain.example", "A"), timeout=1.0)[0].status is DnsStatus.TIMEOUT
        assert ask([second.server, unbound.server], ("mx.plain.example", "A"))[0].status is DnsStatus.FOUND
