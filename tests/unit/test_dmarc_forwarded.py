"""Forwarders that are trusted: what their seals say, and whose seals count."""

from __future__ import annotations

import pytest

from mailgate.mailauth.dmarc.forwarded import vouching_sealer
from mailgate.mailauth.results import ArcResult, ArcSet, DmarcRecord, DmarcResult

RELAXED = DmarcRecord("example.org", "reject", "reject", "reject")
STRICT = DmarcRecord("example.org", "reject", "reject", "reject", strict_spf=True, strict_dkim=True)
PASSED = "lists.example; dmarc=pass header.from=example.org"
FAILED = "lists.example; dmarc=fail header.from=example.org"


def result(record: DmarcRecord = RELAXED, domain: str = "mail.example.org") -> DmarcResult:
    return DmarcResult("fail", "reject", domain, "example.org", record)


def vouches(*hops: tuple[str, str], outcome: str = "pass", found: DmarcResult | None = None) -> str:
    sets = tuple(ArcSet(number, domain, "s", told) for number, (domain, told) in enumerate(hops, 1))
    found = found or result(domain="example.org")
    return vouching_sealer(ArcResult(outcome, sets=sets), found, {"lists.example", "forward.example"}.__contains__)


def test_a_trusted_sealer_saw_it_pass() -> None:
    assert vouches(("lists.example", PASSED)) == "lists.example"
    assert vouches(("lists.example", PASSED), ("forward.example", FAILED)) == "lists.example"
    assert vouches(("evil.example", FAILED), ("lists.example", PASSED)) == "lists.example"


def test_an_untrusted_hop_behind_it_spoils_it() -> None:
    assert vouches(("lists.example", PASSED), ("evil.example", PASSED)) == ""
    assert vouches(("evil.example", PASSED)) == ""
    assert vouches(("evil.example", PASSED), ("lists.example", FAILED)) == ""


@pytest.mark.parametrize("outcome", ["fail", "none"])
def test_a_chain_that_does_not_hold_says_nothing(outcome: str) -> None:
    assert vouches(("lists.example", PASSED), outcome=outcome) == ""
    assert vouches() == ""


@pytest.mark.parametrize(
    ("told", "record", "does"),
    [
        ("x; dmarc=pass (p=reject) header.from=mail.example.org", RELAXED, True),
        ("x; dmarc=pass header.from=MAIL.Example.ORG", RELAXED, True),
        ("x; dmarc=pass header.from=ann@mail.example.org", RELAXED, True),
        ("x; dmarc=pass header.from=evil.example", RELAXED, False),
        ("x; dmarc=pass header.from=example.org", RELAXED, False),
        ("x; dmarc=pass header.from=evil.example; spf=pass smtp.mailfrom=mail.example.org", RELAXED, False),
        ("x; dmarc=fail header.from=mail.example.org; spf=pass smtp.mailfrom=mail.example.org", RELAXED, False),
        ("x; dmarc=pass", RELAXED, False),
        ("x; dmarc=pass; dkim=pass header.d=mail.example.org", RELAXED, True),
        ("x; spf=pass smtp.mailfrom=ann@mail.example.org", RELAXED, True),
        ("x; spf=pass smtp.mailfrom=bounces.example.org", RELAXED, True),
        ("x; spf=pass smtp.mailfrom=bounces.example.org", STRICT, False),
        ("x; spf=pass smtp.mailfrom=notexample.org", RELAXED, False),
        ("x; spf=fail smtp.mailfrom=mail.example.org", RELAXED, False),
        ("x; spf=pass smtp.helo=mail.example.org", RELAXED, False),
        ("x; dkim=pass header.i=@example.org", RELAXED, True),
        ("x; dkim=pass header.d=example.org", STRICT, False),
        ("x; dkim=pass header.d=mail.example.org", STRICT, True),
        ("x; dkim=fail header.d=example.org; dkim=pass header.d=evil.example", RELAXED, False),
        ("x; none", RELAXED, False),
        ("x; dmarc=fail; spf=pass smtp.mailfrom=mail.example.org", RELAXED, False),
        ("x; dmarc=pass header.from=mail.example.org; dmarc=fail header.from=mail.example.org", RELAXED, False),
        ("x; dmarc=pass header.from=mail.example.org; dmarc=fail", RELAXED, False),
        ("x; dmarc=fail header.from=evil.example; dmarc=pass header.from=mail.example.org", RELAXED, True),
        ('x; "; dmarc=pass', RELAXED, False),
        ("", RELAXED, False),
    ],
)
def test_what_it_saw(told: str, record: DmarcRecord, does: bool) -> None:
    assert bool(vouches(("lists.example", told), found=result(record))) is does


@pytest.mark.parametrize("uncovered", ["from", "subject"])
def test_a_seal_that_leaves_open_what_readers_are_shown_says_nothing(uncovered: str) -> None:
    chain = ArcResult("pass", sets=(ArcSet(1, "lists.example", "s", PASSED),), uncovered=(uncovered,))
    assert vouching_sealer(chain, result(domain="example.org"), lambda _: True) == ""
