"""SPF over real DNS servers: limits, chains and failures, with every question on its way through sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dns_parts import Checked, Knot, Unbound, check
from parts import folder, free_port

pytestmark = pytest.mark.needs("knotd", "keymgr", "unbound")

STRINGS = " ".join(f'"{"ip4:198.51.100.0/24 " * 12}"' for _ in range(8))

ZONE = f"""\
@ TXT "v=spf1 mx -all exp=why.example.org"
@ MX 10 mx
@ MX 20 mx2
mx A 192.0.2.1
mx2 A 192.0.2.2
why TXT "unused"
ten TXT "v=spf1 {" ".join(f"a:no{number}.example.org" for number in range(9))} a:yes.example.org -all"
eleven TXT "v=spf1 {" ".join(f"a:no{number}.example.org" for number in range(10))} a:yes.example.org -all"
yes A 192.0.2.1
voids2 TXT "v=spf1 a:gone1.example.org exists:gone2.example.org ip4:192.0.2.1 -all"
voids3 TXT "v=spf1 a:gone1.example.org exists:gone2.example.org mx:gone3.example.org ip4:192.0.2.1 -all"
in0 TXT "v=spf1 include:in1.example.org -all"
in1 TXT "v=spf1 include:in2.example.org -all"
in2 TXT "v=spf1 redirect=in3.example.org"
in3 TXT "v=spf1 ip4:192.0.2.1 -all"
circle TXT "v=spf1 include:circle2.example.org -all"
circle2 TXT "v=spf1 include:circle.example.org -all"
macro TXT "v=spf1 exists:%{{ir}}.%{{l}}.list.example.org -all exp=told.example.org"
1.2.0.192.ann.list A 127.0.0.2
told TXT "%{{i}} may not send for %{{s}}"
byname TXT "v=spf1 ptr:example.org -all"
alias CNAME in3
long TXT "v=spf1 " {STRINGS} " ip4:192.0.2.1 -all"
huge TXT "v=spf1 " {" ".join([STRINGS] * 3)} " ip4:192.0.2.1 -all"
lame TXT "v=spf1 include:elsewhere.example.net -all"
bogus TXT "v=spf1 include:bogus.test -all"
""" + "".join(f"no{number} A 203.0.113.{number}\n" for number in range(10))

REVERSE = "1 PTR mx.example.org.\n3 PTR mx.example.org.\n"


@pytest.fixture(scope="module")
def unbound() -> Iterator[Unbound]:
    zones = {"example.org": ZONE, "2.0.192.in-addr.arpa": REVERSE, "bogus.test": '@ TXT "v=spf1 +all"\n'}
    with folder("spf") as directory, Knot(directory / "knot", zones, ["example.org", "bogus.test"]) as knot:
        anchor = knot.trust_anchor("example.org")
        wrong = anchor.replace("example.org", "bogus.test")
        with Unbound(directory / "unbound", knot, [anchor, wrong]) as resolving:
            yield resolving


CASES = [
    ("example.org", "192.0.2.1", "pass", "mx"),
    ("example.org", "192.0.2.2", "pass", "mx"),
    ("example.org", "::ffff:192.0.2.2", "pass", "mx"),
    ("example.org", "192.0.2.3", "fail", "-all"),
    ("Example.ORG", "2001:db8::1", "fail", "-all"),
    ("ten.example.org", "192.0.2.1", "pass", "a:yes.example.org"),
    ("eleven.example.org", "192.0.2.1", "permerror", ""),
    ("voids2.example.org", "192.0.2.1", "pass", "ip4:192.0.2.1"),
    ("voids3.example.org", "192.0.2.1", "permerror", ""),
    ("in0.example.org", "192.0.2.1", "pass", "include:in1.example.org"),
    ("in0.example.org", "192.0.2.9", "fail", "-all"),
    ("circle.example.org", "192.0.2.1", "permerror", ""),
    ("macro.example.org", "192.0.2.1", "pass", "exists:%{ir}.%{l}.list.example.org"),
    ("byname.example.org", "192.0.2.1", "pass", "ptr:example.org"),
    ("byname.example.org", "192.0.2.3", "fail", "-all"),
    ("alias.example.org", "192.0.2.1", "pass", "ip4:192.0.2.1"),
    ("long.example.org", "192.0.2.1", "pass", "ip4:192.0.2.1"),
    ("huge.example.org", "192.0.2.1", "permerror", ""),
    ("mx.example.org", "192.0.2.1", "none", ""),
    ("gone.example.org", "192.0.2.1", "none", ""),
    ("bogus.example.org", "192.0.2.1", "temperror", ""),
    ("bogus.test", "192.0.2.1", "temperror", ""),
]


@pytest.fixture(scope="module")
def found(unbound: Unbound) -> list[Checked]:
    """What comes of all cases, checked at the same time."""
    return check([unbound.server], *({"ip": ip, "mail_from": f"ann@{domain}"} for domain, ip, *_ in CASES))


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{domain} {ip}" for domain, ip, *_ in CASES])
def test_results(found: list[Checked], number: int) -> None:
    *_, result, mechanism = CASES[number]
    assert (found[number].result, found[number].mechanism) == (result, mechanism), found[number].reason


def test_reports_are_judged_by_helo_and_an_explanation_is_told(unbound: Unbound) -> None:
    by_helo, failing = check(
        [unbound.server],
        {"mail_from": "", "helo": "in3.example.org"},
        {"mail_from": "bob@macro.example.org"},
    )
    assert by_helo.result == "pass"
    assert (failing.result, failing.explanation) == ("fail", "192.0.2.1 may not send for bob@macro.example.org")


def test_a_server_that_refuses_or_is_dead_is_a_temporary_error(unbound: Unbound) -> None:
    # The server of the zones itself does not resolve what is not its own.
    (refused,) = check([unbound.knot.server], {"mail_from": "ann@lame.example.org"})
    assert (refused.result, refused.reason) == ("temperror", "TXT of elsewhere.example.net: servfail")
    (dead,) = check([f"127.0.0.1:{free_port()}"], {"mail_from": "ann@example.org"}, timeout=1.0)
    assert (dead.result, dead.reason) == ("temperror", "TXT of example.org: timeout")


def test_many_checks_at_one_time(unbound: Unbound) -> None:
    checks = [{"ip": f"192.0.2.{number % 4}", "mail_from": f"ann{number}@example.org"} for number in range(300)]
    results = [found.result for found in check([unbound.server], *checks)]
    assert results == [("fail", "pass", "pass", "fail")[number % 4] for number in range(300)]
