"""Which domains belong together: walks up the tree, their bounds, and the public suffix list."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

import pytest

from mailgate.mailauth.dmarc.organization import MAX_QUERIES, Domains, organizational_domain, walk_names
from mailgate.testing import MemoryResolver, wait_for

REJECT = "v=DMARC1; p=reject"


class Scene:
    """Domains with what they publish: texts of records, or how a question for them ends."""

    def __init__(self, records: Mapping[str, str | list[str]], *, old: bool = False) -> None:
        zone: dict[str, Any] = {}
        for domain, what in records.items():
            is_text = isinstance(what, list) or what.startswith("v=")
            zone[f"_dmarc.{domain}"] = {"TXT": what if isinstance(what, list) else [what]} if is_text else what
        self.resolver = MemoryResolver(zone)
        self.domains = Domains.of(self.resolver, "rfc7489" if old else "rfc9989")

    def organization(self, domain: str) -> str:
        return wait_for(self.domains.organization_of(domain)).domain

    def is_certain(self, domain: str) -> bool:
        return wait_for(self.domains.organization_of(domain)).is_certain

    def policy(self, domain: str) -> str:
        """At which domain the record stands that counts; "" for none."""
        found = wait_for(self.domains.policy_for(domain))
        return found.record.domain if found.record else ""

    def aligned(self, author: str, identity: str, strict: bool = False) -> bool | None:
        answer: Awaitable[bool | None] = self.domains.are_aligned(author, identity, strict=strict)
        return wait_for(answer)

    @property
    def asked(self) -> list[str]:
        return [name for name, _ in self.resolver.asked]


def test_the_names_of_a_walk() -> None:
    assert list(walk_names("com")) == ["com"]
    assert list(walk_names("a.mail.example.com")) == ["a.mail.example.com", "mail.example.com", "example.com", "com"]
    long = list(walk_names("a.b.c.d.e.f.g.h.i.j.mail.example.com"))
    assert long[:3] == ["a.b.c.d.e.f.g.h.i.j.mail.example.com", "g.h.i.j.mail.example.com", "h.i.j.mail.example.com"]
    assert long[-1] == "com"
    assert len(long) == MAX_QUERIES
    assert len(list(walk_names("a.b.c.d.e.f.example.com"))) == MAX_QUERIES


def test_a_walk_asks_so_much_and_each_question_once() -> None:
    scene = Scene({})
    author = ".".join("abcdefghijklmnop") + ".example.com"
    assert scene.policy(author) == ""
    assert scene.organization(author) == author
    assert len(scene.asked) == MAX_QUERIES
    assert len(set(scene.asked)) == MAX_QUERIES


@pytest.mark.parametrize(
    ("records", "domain", "organization", "policy"),
    [
        ({}, "a.example.com", "a.example.com", ""),
        ({"example.com": REJECT}, "a.b.example.com", "example.com", "example.com"),
        ({"b.example.com": REJECT, "example.com": REJECT}, "a.b.example.com", "example.com", "example.com"),
        ({"a.b.example.com": REJECT, "example.com": REJECT}, "a.b.example.com", "example.com", "a.b.example.com"),
        (
            {"b.example.com": f"{REJECT}; psd=n", "example.com": REJECT},
            "a.b.example.com",
            "b.example.com",
            "b.example.com",
        ),
        ({"com": f"{REJECT}; psd=y"}, "a.example.com", "example.com", "com"),
        ({"com": f"{REJECT}; psd=y", "example.com": REJECT}, "a.example.com", "example.com", "example.com"),
        ({"com": f"{REJECT}; psd=y", "b.example.com": REJECT}, "a.b.example.com", "example.com", "com"),
        ({"com": f"{REJECT}; psd=y"}, "com", "com", "com"),
        ({"bank": f"{REJECT}; psd=y", "x.bank": f"{REJECT}; psd=y"}, "a.x.bank", "a.x.bank", "x.bank"),
        ({"example.com": [REJECT, "v=DMARC1; p=none"]}, "example.com", "example.com", ""),
        ({"a.example.com": [REJECT, REJECT], "example.com": REJECT}, "a.example.com", "example.com", "example.com"),
        ({"a.example.com": ["v=spf1 -all"], "example.com": REJECT}, "a.example.com", "example.com", "example.com"),
    ],
)
def test_organization_and_policy(
    records: dict[str, str | list[str]], domain: str, organization: str, policy: str
) -> None:
    scene = Scene(records)
    assert scene.organization(domain) == organization
    assert scene.policy(domain) == policy


def test_beyond_eight_labels_one_below_a_public_suffix_is_known_without_asking() -> None:
    scene = Scene({"g.h.example.com": f"{REJECT}; psd=y"})
    assert scene.organization("a.b.c.d.e.f.g.h.example.com") == "f.g.h.example.com"
    scene = Scene({"c.d.e.f.g.example.com": f"{REJECT}; psd=y"})
    assert scene.organization("mail.a.b.c.d.e.f.g.example.com") == "b.c.d.e.f.g.example.com"


@pytest.mark.parametrize(
    ("record", "problem"),
    [("v=DMARC1; adkim=s", "no valid p=, and no rua="), ("v=DMARC1; p=none; p=reject", "has p= twice")],
)
@pytest.mark.parametrize("old", [False, True])
def test_a_broken_record_is_not_passed_over(record: str, problem: str, old: bool) -> None:
    for domain in ("example.com", "a.example.com"):
        scene = Scene({"example.com": record}, old=old)
        found = wait_for(scene.domains.policy_for(domain))
        assert (found.record, found.is_broken) == (None, True)
        assert problem in found.problem
    scene = Scene({"a.example.com": record, "example.com": REJECT}, old=old)
    assert scene.policy("a.example.com") == ""


@pytest.mark.parametrize(
    ("records", "policy", "is_certain", "organization_is_certain"),
    [
        ({"example.com": "SERVFAIL"}, "", False, False),
        ({"a.example.com": "TIMEOUT", "example.com": REJECT}, "example.com", False, False),
        ({"example.com": REJECT, "com": "SERVFAIL"}, "example.com", False, False),
        ({"a.example.com": REJECT, "example.com": "SERVFAIL"}, "a.example.com", True, False),
        ({"example.com": f"{REJECT}; psd=n", "com": "SERVFAIL"}, "example.com", True, True),
    ],
)
def test_dns_that_cannot_say(
    records: dict[str, str | list[str]], policy: str, is_certain: bool, organization_is_certain: bool
) -> None:
    scene = Scene(records)
    found = wait_for(scene.domains.policy_for("a.example.com"))
    assert (found.record.domain if found.record else "", found.is_certain) == (policy, is_certain)
    assert found.problem.startswith("DNS cannot say now") is not is_certain
    assert scene.is_certain("a.example.com") is organization_is_certain


def test_an_outage_ends_a_walk() -> None:
    scene = Scene(dict.fromkeys(walk_names("a.b.c.d.e.example.com"), "TIMEOUT"))
    assert wait_for(scene.domains.policy_for("a.b.c.d.e.example.com")).is_certain is False
    assert scene.organization("a.b.c.d.e.example.com") == "a.b.c.d.e.example.com"
    assert len(scene.asked) == 2


def test_alignment() -> None:
    scene = Scene({"example.com": REJECT, "own.example.com": f"{REJECT}; psd=n"})
    assert scene.aligned("a.example.com", "a.example.com", strict=True) is True
    assert scene.aligned("a.example.com", "b.example.com") is True
    assert scene.aligned("a.example.com", "b.example.com", strict=True) is False
    assert scene.aligned("a.example.com", "example.com") is True
    assert scene.aligned("example.com", "x.own.example.com") is False
    assert scene.aligned("y.own.example.com", "x.own.example.com") is True
    assert scene.aligned("example.com", "notexample.com") is False
    assert scene.aligned("example.com", "com") is False


def test_what_cannot_be_aligned_is_not_asked_for() -> None:
    scene = Scene({"example.com": REJECT})
    assert scene.aligned("example.com", "other.example") is False
    assert scene.aligned("example.com", "example.com") is True
    assert scene.asked == []
    assert scene.aligned("example.com", "a.b.c.d.e.f.g.other.com") is False
    assert scene.asked == ["_dmarc.example.com", "_dmarc.com"]


def test_alignment_that_dns_cannot_tell() -> None:
    scene = Scene({"example.com": REJECT, "com": "TIMEOUT", "b.other.com": "SERVFAIL", "other.com": REJECT})
    assert scene.aligned("example.com", "a.example.com") is None
    assert scene.aligned("example.com", "example.com") is True
    assert scene.aligned("other.com", "other.com", strict=True) is True
    certain = Scene({"example.com": f"{REJECT}; psd=n", "b.example.com": "SERVFAIL"})
    assert certain.aligned("example.com", "b.example.com") is None
    assert certain.aligned("example.com", "c.example.com") is True


@pytest.mark.parametrize(
    ("domain", "organization"),
    [
        ("example.com", "example.com"),
        ("A.B.Example.COM", "example.com"),
        ("com", "com"),
        ("a.example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("a.example.foo.ck", "example.foo.ck"),
        ("a.www.ck", "www.ck"),
        ("a.alice.github.io", "alice.github.io"),
        ("a.unlisted.test-tld", "unlisted.test-tld"),
        ("www.xn--85x722f.xn--55qx5d.cn", "xn--85x722f.xn--55qx5d.cn"),
    ],
)
def test_the_public_suffix_list(domain: str, organization: str) -> None:
    assert organizational_domain(domain) == organization


def test_rfc_7489_asks_for_the_author_and_the_organization() -> None:
    scene = Scene({"b.example.co.uk": REJECT, "example.co.uk": REJECT}, old=True)
    assert scene.policy("a.b.example.co.uk") == "example.co.uk"
    assert scene.asked == ["_dmarc.a.b.example.co.uk", "_dmarc.example.co.uk"]
    assert scene.aligned("a.b.example.co.uk", "x.example.co.uk") is True
    assert scene.aligned("example.co.uk", "other.co.uk") is False
    assert len(scene.asked) == 2


def test_rfc_7489_ends_at_several_records() -> None:
    scene = Scene({"a.example.com": [REJECT, REJECT], "example.com": REJECT}, old=True)
    found = wait_for(scene.domains.policy_for("a.example.com"))
    assert (found.record, found.is_broken, found.is_certain) == (None, False, True)


@pytest.mark.parametrize("broken", ["a.example.com", "example.com"])
def test_rfc_7489_where_dns_cannot_say(broken: str) -> None:
    scene = Scene({"example.com": REJECT, broken: "SERVFAIL"}, old=True)
    found = wait_for(scene.domains.policy_for("a.example.com"))
    assert found.is_certain is False
    assert found.problem == f"DNS cannot say now whether _dmarc.{broken} has a record"
    assert (found.record is None) is (broken == "example.com")
