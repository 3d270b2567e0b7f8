"""Verifying signatures: what passes, what does not, and why."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import dkim  # type: ignore[import-untyped]  # it has no types
import pytest

from mailgate.mailauth.dkim.canonical import Bodies, split_message
from mailgate.mailauth.dkim.keys import parse_key
from mailgate.mailauth.dkim.limits import VerifyLimits
from mailgate.mailauth.dkim.signature import HeaderFields, without_signature
from mailgate.mailauth.dkim.verify import Verification, verify_dkim
from mailgate.testing import MemoryResolver, wait_for
from tests.unit.dkim_parts import (
    CANONS,
    DOMAIN,
    MESSAGE,
    NOW,
    PLACE,
    SELECTOR,
    ed25519,
    pem,
    public,
    rsa,
    signed,
    verdict,
    verified,
    zone,
)

PASS = ("pass", "")


def keyed(tags: str) -> dict[str, object]:
    """The zone with the usual key, after other tags of its record."""
    return zone(f"v=DKIM1; {tags}; {rsa().record.removeprefix('v=DKIM1; ')}")


# -- what passes


@pytest.mark.parametrize("canons", CANONS)
@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_a_signature_passes_in_every_form(kind: str, canons: str) -> None:
    key = rsa() if kind == "rsa" else ed25519()
    assert verdict(signed(key=key, c=canons), zone(key.record)) == PASS


def test_the_result_tells_of_the_signature() -> None:
    (result,) = verified(signed(i="ann@mail.example.org", h="From:To:from"))
    assert (result.domain, result.selector, result.identity) == (DOMAIN, SELECTOR, "ann@mail.example.org")
    assert (result.algorithm, result.key_bits, result.body_length) == ("rsa-sha256", 1024, None)
    assert result.signed == ("from", "to", "from")
    assert len(result.signature) == 12
    assert result.signature.encode() in signed(i="ann@mail.example.org", h="From:To:from")


def test_a_message_without_signatures_has_no_results_and_asks_nothing() -> None:
    resolver = MemoryResolver(zone())
    assert wait_for(verify_dkim(resolver, MESSAGE, now=NOW)) == []
    assert wait_for(verify_dkim(resolver, b"", now=NOW)) == []
    assert resolver.asked == []


def test_answers_that_are_there_need_no_reactor() -> None:
    with pytest.raises(StopIteration) as stop:
        verify_dkim(MemoryResolver(zone()), signed(), now=NOW).send(None)
    assert [one.result for one in stop.value.value] == ["pass"]


def test_without_a_time_it_is_now() -> None:
    past, future = (str(int(time.time()) + seconds) for seconds in (-86_400, 86_400))
    results = [wait_for(verify_dkim(MemoryResolver(zone()), signed(x=x)))[0].result for x in (past, future)]
    assert results == ["permerror", "pass"]


def test_another_library_signs_what_passes_here() -> None:
    for canons in CANONS:
        header, body = canons.encode().split(b"/")
        field = dkim.sign(
            MESSAGE, SELECTOR.encode(), DOMAIN.encode(), pem(), canonicalize=(header, body), identity=b"ann@example.org"
        )
        (result,) = wait_for(verify_dkim(MemoryResolver(zone()), field + MESSAGE))
        assert (result.result, result.identity) == ("pass", "ann@example.org")


@pytest.mark.parametrize(
    ("change", "canons"),
    [
        (lambda m: m.replace(b"\r\n", b"\n"), "relaxed/relaxed"),
        (lambda m: m.replace(b"\r\n", b"\n"), "simple/simple"),
        (lambda m: m.rstrip(b"\r\n") + b"\r\n", "simple/simple"),
        (lambda m: m + b"\r\n" * 5, "simple/simple"),
        (lambda m: m.replace(b"Hello  Bob. \r\n", b"Hello Bob.\t\r\n"), "simple/relaxed"),
        (lambda m: m.replace(b"To: Bob", b"tO \t:\r\n   Bob "), "relaxed/simple"),
        (lambda m: m.replace(b"folded\r\n\tsubject", b"folded subject"), "relaxed/simple"),
        (lambda m: b"X-Added: 1\r\n" + m, "simple/simple"),
        (lambda m: b"X-Caf\xe9: 1\r\n" + m, "simple/simple"),
        (lambda m: b" begins with a space\r\n" + m, "simple/simple"),
        (lambda m: b"no field at all\r\n" + m, "simple/simple"),
        (lambda m: b"From ann Thu Jan  1 12:00:00 2026\r\n" + m, "simple/simple"),
    ],
)
def test_what_may_happen_to_a_message_on_its_way(change: Callable[[bytes], bytes], canons: str) -> None:
    changed = change(signed(c=canons))
    assert changed != signed(c=canons)
    assert verdict(changed) == PASS


@pytest.mark.parametrize(
    ("change", "canons", "why"),
    [
        (lambda m: m.replace(b"Hello", b"Hullo"), "relaxed/relaxed", "the body has changed"),
        (lambda m: m.replace(b"Hello  Bob", b"Hello Bob"), "relaxed/simple", "the body has changed"),
        (lambda m: m + b"more\r\n", "relaxed/relaxed", "the body has changed"),
        (lambda m: m.replace(b"To: Bob", b"To: Rob"), "relaxed/relaxed", "the header has changed"),
        (lambda m: m.replace(b"To: Bob", b"To:  Bob"), "simple/relaxed", "the header has changed"),
        (lambda m: m.replace(b"s=key; h=", b"h=", 1).replace(b"; bh", b";s=key; bh"), "relaxed/relaxed", "the header"),
        (lambda m: m.replace(b"To: Bob <bob@example.net>\r\n", b""), "relaxed/relaxed", "the header has changed"),
        (lambda m: m.replace(b"\r\nDate", b"\r\nSubject: other\r\nDate"), "relaxed/relaxed", "the header has changed"),
    ],
)
def test_what_breaks_a_signature(change: Callable[[bytes], bytes], canons: str, why: str) -> None:
    word, reason = verdict(change(signed(c=canons)))
    assert word == "fail"
    assert reason.startswith(why)


def test_a_field_that_does_not_exist_is_signed_as_nothing() -> None:
    message = signed(h="from:reply-to:subject:subject")
    assert verdict(message) == PASS
    assert verdict(b"Reply-To: eve@example.com\r\n" + message)[0] == "fail"
    assert verdict(b"Subject: other\r\n" + message)[0] == "fail"


# -- what is no signature


@pytest.mark.parametrize("tag", ["v", "a", "b", "bh", "d", "h", "s"])
def test_a_tag_that_is_missing(tag: str) -> None:
    assert verdict(signed(without=[tag])) == ("permerror", f"{tag}= is missing")


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"v": "2"}, "v= is not 1"),
        ({"v": "1.0"}, "v= is not 1"),
        ({"a": "rsa-sha1"}, "rsa-sha1"),
        ({"a": "rsa-md5"}, "no known algorithm"),
        ({"a": "dsa-sha256"}, "no known algorithm"),
        ({"b": "!!!!"}, "b= is no base64"),
        ({"b": "AAA"}, "b= is no base64"),
        ({"b": "AA==AAAA"}, "b= is no base64"),
        ({"b": ""}, "b= is empty"),
        ({"bh": "?"}, "bh= is no base64"),
        ({"bh": "AAAA"}, "no digest"),
        ({"d": "org"}, "d= is no domain"),
        ({"d": "exam ple.org"}, "d= is no domain"),
        ({"d": "example.org."}, "d= is no domain"),
        ({"d": "a" * 64 + ".org"}, "d= is no domain"),
        ({"d": "ab." * 90 + "org"}, "d= is no domain"),
        ({"s": ""}, "s= is no selector"),
        ({"s": "a/b"}, "s= is no selector"),
        ({"h": "to:subject"}, "From is not signed"),
        ({"h": ""}, "an empty name"),
        ({"h": "from::to"}, "an empty name"),
        ({"i": "ann"}, "i= is no address"),
        ({"i": "ann@"}, "i= is no address"),
        ({"i": "a=0D=0Ab@example.org"}, "i= is no address"),
        ({"i": "@example.com"}, "not below d="),
        ({"i": "@notexample.org"}, "not below d="),
        ({"i": "@org"}, "not below d="),
        ({"i": "a" * 600 + "@example.org"}, "i= is too long"),
        ({"l": "-1"}, "l= is no number"),
        ({"l": "1" * 77}, "l= is no number"),
        ({"l": ""}, "l= is no number"),
        ({"q": "http"}, "q= leaves"),
        ({"t": "yesterday"}, "t= is no number"),
        ({"x": "1" * 13}, "x= is no number"),
        ({"t": "1000", "x": "1000"}, "expires"),
        ({"t": "1000", "x": "999"}, "expires"),
    ],
)
def test_what_is_no_signature(tags: dict[str, Any], why: str) -> None:
    word, reason = verdict(signed(**tags))
    assert word == "permerror"
    assert why in reason


def test_a_form_that_nobody_knows() -> None:
    for canons in ("nofws", "relaxed/nofws", "relaxed/relaxed/relaxed", "relaxed / simple"):
        message = signed().replace(b"c=relaxed/relaxed", b"c=" + canons.encode())
        assert verdict(message) == ("permerror", "c= is of no known form")


def test_a_list_that_is_none() -> None:
    for bad in (b"v=1; v=1", b";;", b"v=1; junk"):
        word, reason = verdict(b"DKIM-Signature: " + bad + b"\r\n" + MESSAGE)
        assert word == "permerror"
        assert "cannot be read" in reason


def test_a_broken_signature_still_tells_whose_it_would_be() -> None:
    (result,) = verified(signed(a="rsa-sha1"))
    assert (result.domain, result.selector, result.algorithm) == (DOMAIN, SELECTOR, "rsa-sha1")
    (result,) = verified(signed(a="x" * 200, d="no domain"))
    assert (result.domain, result.algorithm) == ("", "")


def test_a_form_of_the_header_alone_means_a_simple_body() -> None:
    digest = base64.b64encode(Bodies(split_message(MESSAGE)[1]).digest("relaxed")).decode()
    assert verdict(signed(c="relaxed")) == PASS
    assert verdict(signed(c="relaxed", bh=digest)) == ("fail", "the body has changed")
    assert verdict(signed(without=["c"])) == PASS


@pytest.mark.parametrize("methods", ["dns/txt", "DNS/TXT", "http : dns/txt", "dns/txt:dns/other"])
def test_ways_to_the_key(methods: str) -> None:
    assert verdict(signed(q=methods)) == PASS


@pytest.mark.parametrize(
    ("written", "identity"),
    [
        ("@example.org", "@example.org"),
        ("Ann@Mail.Example.ORG", "Ann@mail.example.org"),
        ("ann=2Bx=3D1@example.org", "ann+x=1@example.org"),
        ("an\r\n n@example.org", "ann@example.org"),
        ("a@b@example.org", "a@b@example.org"),
    ],
)
def test_identities(written: str, identity: str) -> None:
    (result,) = verified(signed(i=written))
    assert (result.result, result.identity) == ("pass", identity)


def test_tags_may_come_in_any_order_and_others_beside_them() -> None:
    message = signed(without=["v"], z="From:x|To:y", x_y="1", V="3")
    assert verdict(message)[1] == "v= is missing"
    fields, body = split_message(MESSAGE)
    digest = base64.b64encode(Bodies(body).digest("simple")).decode()
    start = (
        f"DKIM-Signature: bh={digest}; z=From:x; h=from; unknown=1; s={SELECTOR}; d={DOMAIN}; a=rsa-sha256; b=".encode()
    )
    end = b" ; v=1;"
    octets = HeaderFields(fields).signed_octets([b"from"], "simple", (b"dkim-signature", start + end))
    signature = base64.b64encode(rsa().sign(octets))
    folded = b"\r\n\t".join(signature[at : at + 30] for at in range(0, len(signature), 30))
    assert verdict(start + b" " + folded + end + b"\r\n" + MESSAGE) == PASS


def test_a_domain_may_be_written_in_its_own_letters() -> None:
    place = f"{SELECTOR}._domainkey.xn--bcher-kva.example"
    (result,) = verified(signed(d="Bücher.example", i="ann@bücher.example"), {place: {"TXT": [rsa().record]}})
    assert (result.result, result.domain) == ("pass", "xn--bcher-kva.example")


# -- times


@pytest.mark.parametrize(
    ("tags", "word", "why"),
    [
        ({"x": NOW - 1000}, "permerror", "expired"),
        ({"x": NOW - 299}, "pass", ""),
        ({"x": NOW + 1}, "pass", ""),
        ({"t": NOW - 10**9, "x": NOW + 10}, "pass", ""),
        ({"t": NOW}, "pass", ""),
        ({"t": NOW + 11 * 3600}, "pass", ""),
        ({"t": NOW + 13 * 3600}, "permerror", "future"),
    ],
)
def test_times(tags: dict[str, float], word: str, why: str) -> None:
    written: dict[str, Any] = {tag: str(int(value)) for tag, value in tags.items()}
    found, reason = verdict(signed(**written))
    assert found == word
    assert why in reason


# -- the key


def test_a_key_of_another_kind_than_the_algorithm() -> None:
    assert verdict(signed(a="rsa-sha256"), zone(ed25519().record)) == (
        "permerror",
        "a=rsa-sha256 with a key of ed25519",
    )
    assert verdict(signed(a="ed25519-sha256")) == ("permerror", "a=ed25519-sha256 with a key of rsa")
    assert verdict(signed(key=ed25519(), a="rsa-sha256"))[0] == "fail"


def test_a_key_of_somebody_else() -> None:
    assert verdict(signed(key=rsa(2048)))[1].endswith("or another key signed it")


@pytest.mark.parametrize(
    ("tags", "word"),
    [("h=sha1", "permerror"), ("h=sha1:sha256", "pass"), ("h=sha256", "pass"), ("h=SHA256", "pass"), ("h=", "pass")],
)
def test_hashes_that_a_key_allows(tags: str, word: str) -> None:
    assert verdict(signed(), keyed(tags))[0] == word


def test_a_key_for_the_domain_itself_only() -> None:
    strict = keyed("t=s")
    assert verdict(signed(i="ann@mail.example.org"), strict) == (
        "permerror",
        "the key (t=s) is for d= only, and i= is below it",
    )
    assert verdict(signed(i="ann@example.org"), strict) == PASS
    assert verdict(signed(), strict) == PASS


def test_a_key_that_is_being_tried_out() -> None:
    assert [one.is_testing for one in verified(signed(), keyed("t=s:y"))] == [True]
    assert [one.is_testing for one in verified(signed())] == [False]


@pytest.mark.parametrize(
    ("records", "word", "why"),
    [
        ({}, "permerror", "there is no key"),
        ({PLACE: "NODATA"}, "permerror", "there is no key"),
        ({PLACE: "TIMEOUT"}, "temperror", "no answer in time"),
        ({PLACE: "SERVFAIL"}, "temperror", "DNS failed"),
        (zone("v=DKIM1; p="), "permerror", "revoked"),
        (zone("v=DKIM1; p=%%%"), "permerror", "no base64"),
        (zone("v=DKIM1; s=tlsrpt; p=" + public(1024)), "permerror", "not for mail"),
        (zone("v=DKIM1; p=" + public(16_384)), "permerror", "more than 4096 bits"),
        (zone("v=DKIM1; p=" + public(512)), "policy", "512 bits"),
        (zone("v=DKIM1; n=" + "x" * 4096), "permerror", "octets"),
        ({PLACE: {"TXT": [rsa().record, ed25519().record]}}, "permerror", "several keys"),
    ],
)
def test_keys_that_cannot_be_had(records: dict[str, object], word: str, why: str) -> None:
    found, reason = verdict(signed(), records)
    assert found == word
    assert why in reason


def test_the_least_size_of_a_key_is_for_the_site_to_say() -> None:
    assert verdict(signed(), limits=VerifyLimits(key_bits=2048)) == ("policy", "a key of 1024 bits proves nothing")
    assert verdict(signed(key=ed25519()), zone(ed25519().record), limits=VerifyLimits(key_bits=2048)) == PASS


# -- what is not signed


SIZE = len(b"Hello Bob.\r\n\r\nYours, Ann\r\n")


@pytest.mark.parametrize(
    ("length", "appended", "word", "reason"),
    [
        (SIZE, b"", "pass", ""),
        (SIZE, b"more\r\n", "pass", "10 octets of the body are not signed"),
        (5, b"", "pass", f"{SIZE - 5} octets of the body are not signed"),
        (0, b"", "pass", f"{SIZE} octets of the body are not signed"),
        (SIZE + 1, b"", "permerror", "l= is more than the body has"),
        (10**75, b"", "permerror", "l= is more than the body has"),
    ],
)
def test_a_body_that_is_signed_in_part(length: int, appended: bytes, word: str, reason: str) -> None:
    message = signed(l=str(length)) + appended
    (result,) = verified(message)
    assert (result.result, result.reason, result.body_length) == (word, reason, length)
    (result,) = verified(message, limits=VerifyLimits(allow_uncovered=False))
    assert result.result == ("policy" if "not signed" in reason else word)


def test_what_is_signed_of_a_part_must_be_so() -> None:
    assert verdict(signed(l="5").replace(b"Hello", b"Hullo")) == ("fail", "the body has changed")


def test_a_second_from_does_not_pass() -> None:
    eve = b"From: Eve <eve@example.com>\r\n"
    assert verdict(eve + signed()) == ("fail", "not each of the 2 From is signed")
    assert verdict(signed().replace(b"From:", eve + b"From:")) == ("fail", "not each of the 2 From is signed")
    assert verdict(signed().replace(b"To:", eve + b"To:"))[0] == "fail"
    assert verdict(eve.replace(b"From", b"fRoM ") + signed())[0] == "fail"
    assert verdict(signed(eve + MESSAGE, h="from:from")) == PASS


def test_a_message_without_from_does_not_pass() -> None:
    headless = MESSAGE.replace(b"From", b"Form")
    assert verdict(signed(headless)) == ("permerror", "the message has no From")


@pytest.mark.parametrize("name", ["Subject", "Date", "To"])
def test_another_field_that_readers_show(name: str) -> None:
    message = f"{name}: other\r\n".encode() + signed()
    reason = f"not each {name.lower()} is signed"
    assert verdict(message) == ("pass", reason)
    assert verdict(message, limits=VerifyLimits(allow_added=False)) == ("policy", reason)


# -- the parts


@pytest.mark.parametrize(
    ("octets", "empty"),
    [
        (b"D: v=1; b=abc; d=x", b"D: v=1; b=; d=x"),
        (b"D: v=1; b=abc", b"D: v=1; b="),
        (b"D: v=1;\r\n\tb = a\r\n b ; bh=x", b"D: v=1;\r\n\tb =; bh=x"),
        (b"D: bh=b=; b=a", b"D: bh=b=; b="),
        (b"D:b=a=b;c", b"D:b=;c"),
        (b"D: v=1", b"D: v=1"),
    ],
)
def test_a_field_without_its_signature(octets: bytes, empty: bytes) -> None:
    assert without_signature(octets) == empty


def test_a_verification_in_steps() -> None:
    fields, body = split_message(signed(signed(), c="simple/simple"))
    verification = Verification(fields, now=NOW)
    assert verification.count == 2
    assert [canon for canon, length in verification.wanted if length is None] == ["simple", "relaxed"]
    assert verification.key_names == [(DOMAIN, SELECTOR)] * 2
    keys = {(DOMAIN, SELECTOR): parse_key(rsa().record.encode())}
    assert [one.result for one in verification.results(Bodies(body), keys)] == ["pass", "pass"]
    assert [one.result for one in verification.refuse("no body")] == ["policy", "policy"]
    assert not verification.wanted
    assert not verification.key_names
