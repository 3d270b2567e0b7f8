"""Whom reports go to: URIs of rua, and those outside the domain's organization (RFC 9990 section 4)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.mailauth.dmarc.destinations import (
    MOST_DESTINATIONS,
    Destinations,
    find_destinations,
    parse_uri,
)
from mailgate.testing import MemoryResolver

OWN = {"_dmarc.example.org": {"TXT": ["v=DMARC1; p=reject; rua=mailto:d@example.org"]}}


def find(*uris: str, zone: dict[str, Any] | None = None, domain: str = "example.org") -> Destinations:
    return asked(MemoryResolver({**OWN, **(zone or {})}), *uris, domain=domain)


def asked(resolver: MemoryResolver, *uris: str, domain: str = "example.org") -> Destinations:
    with pytest.raises(StopIteration) as end:
        find_destinations(resolver, domain, uris).send(None)
    assert isinstance(end.value.value, Destinations)
    return end.value.value


def addresses(found: Destinations) -> list[str]:
    return [str(one.address) for one in found.accepted]


@pytest.mark.parametrize(
    ("uri", "address", "limit"),
    [
        ("mailto:d@example.org", "d@example.org", 0),
        ("MAILTO:D@Example.ORG", "D@example.org", 0),
        (" mailto:d@example.org ", "d@example.org", 0),
        ("mailto:d@example.org!500", "d@example.org", 500),
        ("mailto:d@example.org!10k", "d@example.org", 10 * 1024),
        ("mailto:d@example.org!10M", "d@example.org", 10 * 1024**2),
        ("mailto:d@example.org!1g", "d@example.org", 1024**3),
        ("mailto:d@example.org!1t", "d@example.org", 1024**4),
        ("mailto:a%21b@example.org!5", "a!b@example.org", 5),
        ("mailto:d+x@example.org?subject=hello", "d+x@example.org", 0),
    ],
)
def test_uris_are_read(uri: str, address: str, limit: int) -> None:
    assert (str(parse_uri(uri).address), parse_uri(uri).limit) == (address, limit)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("https://example.org/reports", "is no mailto: URI"),
        ("d@example.org", "is no mailto: URI"),
        ("", "is no mailto: URI"),
        ("mailto:", "is no address"),
        ("mailto:example.org", "is no address"),
        ("mailto:d@example.org,e@example.org", "is no address"),
        ("mailto:d@example.org!10x", "is no address"),
        ("mailto:d%0d%0aBcc:x@example.org", "is no address"),
        ("mailto:%ff@example.org", "is no address"),
        ("mailto:d@[192.0.2.1]", "has an IP address"),
        ("mailto:d%C3%BC@example.org", "SMTPUTF8"),
        ("mailto:" + "a" * 600 + "@example.org", "is too long"),
    ],
)
def test_uris_that_no_mail_can_go_to(uri: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_uri(uri)
    found = find(uri)
    assert found.accepted == ()
    (refused,) = found.refused
    assert why in refused.reason
    assert len(refused.uri) <= 500


@given(st.text(max_size=600))
def test_any_text_is_a_uri_or_a_value_error(text: str) -> None:
    for uri in (text, f"mailto:{text}", f"mailto:{text}@example.org!{text}"):
        try:
            parse_uri(uri)
        except ValueError:
            continue


def test_the_organization_of_the_domain_is_trusted_without_asking() -> None:
    resolver = MemoryResolver(OWN)
    assert addresses(asked(resolver, "mailto:a@example.org")) == ["a@example.org"]
    assert resolver.asked == []
    assert addresses(find("mailto:a@sub.example.org", "mailto:b@EXAMPLE.org")) == ["a@sub.example.org", "b@example.org"]
    assert addresses(find("mailto:a@example.org", domain="sub.example.org")) == ["a@example.org"]


def test_others_must_have_said_so() -> None:
    zone = {"example.org._report._dmarc.taker.example": {"TXT": ["v=DMARC1"]}}
    found = find("mailto:a@taker.example", "mailto:b@other.example", "mailto:c@example.org", zone=zone)
    assert addresses(found) == ["a@taker.example", "c@example.org"]
    (refused,) = found.refused
    assert (refused.uri, refused.is_temporary) == ("mailto:b@other.example", False)
    assert refused.reason == "other.example does not say that it takes reports on example.org"


@pytest.mark.parametrize(
    ("records", "takes"),
    [
        (["v=DMARC1"], True),
        (["v=DMARC1;"], True),
        (["v = DMARC1 ; p=none"], True),
        (["other", "v=DMARC1; p=none;"], True),
        (["v=DMARC1", "v=DMARC1"], True),
        ([["v=DM", "ARC1"]], True),
        (["v=DMARC1x"], False),
        (["v=dmarc1"], False),
        ([" v=DMARC1"], False),
        (["p=none; v=DMARC1"], False),
        (["v=DMARC1; " + "x" * 5000], False),
        (["junk"] * 10 + ["v=DMARC1"], False),
    ],
)
def test_what_counts_as_having_said_so(records: list[Any], takes: bool) -> None:
    found = find("mailto:a@taker.example", zone={"example.org._report._dmarc.taker.example": {"TXT": records}})
    assert addresses(found) == (["a@taker.example"] if takes else [])


@pytest.mark.parametrize("status", ["SERVFAIL", "TIMEOUT"])
def test_where_dns_cannot_say_it_may_later(status: str) -> None:
    found = find("mailto:a@taker.example", zone={"example.org._report._dmarc.taker.example": status})
    assert found.is_temporary
    assert found.accepted == ()
    # To whom it belongs is not known, so it may be of the same organization.
    assert find("mailto:a@taker.example", zone={"_dmarc.taker.example": status}).is_temporary
    permitted = {"_dmarc.taker.example": status, "example.org._report._dmarc.taker.example": {"TXT": ["v=DMARC1"]}}
    assert addresses(find("mailto:a@taker.example", zone=permitted)) == ["a@taker.example"]


def test_a_taker_may_name_another_address_at_the_same_host() -> None:
    def taker(record: str) -> dict[str, Any]:
        return {"example.org._report._dmarc.taker.example": {"TXT": [record]}}

    uri = "mailto:a@taker.example"
    other = taker("v=DMARC1; rua=mailto:b@taker.example!5k , mailto:c@taker.example")
    assert addresses(find(uri, zone=other)) == ["b@taker.example", "c@taker.example"]
    assert find(uri, zone=other).accepted[0].limit == 5120
    for record in (
        "v=DMARC1; rua=mailto:victim@elsewhere.example",
        "v=DMARC1; rua=mailto:b@taker.example,mailto:victim@sub.taker.example",
        "v=DMARC1; rua=https://taker.example",
    ):
        found = find(uri, zone=taker(record))
        assert found.accepted == ()
        assert "names" in found.refused[0].reason
    assert addresses(find(uri, zone=taker("v=DMARC1; rua="))) == ["a@taker.example"]


def test_nobody_is_named_twice() -> None:
    zone = {"example.org._report._dmarc.taker.example": {"TXT": ["v=DMARC1"]}}
    resolver = MemoryResolver({**OWN, **zone})
    uris = ["mailto:a@taker.example", "mailto:a@TAKER.example!5m", "mailto:b@taker.example"]
    assert addresses(asked(resolver, *uris)) == ["a@taker.example", "b@taker.example"]
    assert len(resolver.asked) == len(set(resolver.asked))


def test_destinations_and_questions_are_bounded() -> None:
    many = [f"mailto:d{number}@example.org" for number in range(1000)]
    found = find(*many)
    assert addresses(found) == [f"d{number}@example.org" for number in range(MOST_DESTINATIONS)]
    assert len(found.refused) < 20
    resolver = MemoryResolver(OWN)
    found = asked(resolver, *(f"mailto:d@{number}.{'x.' * 60}example" for number in range(1000)))
    assert found.accepted == ()
    assert len(resolver.asked) <= (MOST_DESTINATIONS + 1) * 9


def test_a_name_that_dns_cannot_have_is_not_asked_for() -> None:
    long = ".".join(["x" * 60] * 3 + ["example"])
    resolver = MemoryResolver({})
    assert asked(resolver, f"mailto:d@{long}", domain=f"y.{long}".replace("x", "y")).accepted == ()
    assert all(len(name) <= 253 for name, _ in resolver.asked)
