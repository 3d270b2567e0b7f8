"""Validating chains of ARC sets: what holds, what does not and why, and what hostile ones may cost."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mailgate.mailauth.arc.verify import verify_arc
from mailgate.mailauth.dkim.canonical import Canon
from mailgate.mailauth.dkim.limits import VerifyLimits
from mailgate.mailauth.results import ArcResult
from mailgate.testing import MemoryResolver, wait_for
from tests.unit.arc_mail import DOMAINS, MESSAGE, NOW, crafted, key_of, resolver, sealed, validated, zone
from tests.unit.slow_dns import SlowResolver

FOUR = DOMAINS


def reason_of(message: bytes, **arguments: Any) -> str:
    result = validated(message, **arguments)
    assert result.result == "fail", result
    return result.reason


def field(message: bytes, name: bytes, number: int = 0) -> bytes:
    """One of the fields of a name, from the top, with its last CRLF."""
    found = list(re.finditer(rb"(?m)^" + name + rb":.*\r\n(?:[ \t].*\r\n)*", message))
    return found[number][0]


# -- what holds


def test_a_message_without_a_chain_asks_nothing() -> None:
    dns = resolver()
    assert validated(MESSAGE, dns) == ArcResult("none")
    assert dns.asked == []


@pytest.mark.parametrize("hops", [1, 2, 4])
def test_a_chain_passes_and_tells_its_hops(hops: int) -> None:
    result = validated(sealed(MESSAGE, *FOUR[:hops]))
    assert (result.result, result.reason, result.oldest_pass, result.is_temporary) == ("pass", "", 0, False)
    assert [(one.instance, one.domain, one.selector) for one in result.sets] == [
        (number, domain, "s") for number, domain in enumerate(FOUR[:hops], 1)
    ]
    assert result.sets[0].authentication_results == "mx.one.example;\tspf=pass smtp.mailfrom=client.example"


def test_line_feeds_alone_are_read_as_line_ends() -> None:
    assert validated(sealed(MESSAGE, "one.example").replace(b"\r\n", b"\n")).result == "pass"


def test_it_ends_at_once_where_dns_does() -> None:
    with pytest.raises(StopIteration) as ended:
        verify_arc(resolver(), sealed(MESSAGE, "one.example"), now=NOW).send(None)
    assert ended.value.value.result == "pass"


@pytest.mark.parametrize("spelling", ["i={};", " i = {} ;", "\ti={};", "\r\n i\r\n\t=\r\n {};", " i=0{};"])
def test_the_instance_may_be_spelled_in_many_ways(spelling: str) -> None:
    for message in (crafted(results_i=spelling), crafted(message_i=spelling), crafted(seal_i=spelling)):
        assert validated(message).result == "pass"


def test_the_instance_need_not_be_the_first_tag_of_a_signature() -> None:
    message = crafted(message_i="", message_tags="c=relaxed/relaxed; i=1;", seal_i="", seal_tags=" i=1;")
    assert validated(message).result == "pass"


@pytest.mark.parametrize(
    ("tags", "form"),
    [
        ("c=relaxed;", ("relaxed", "simple")),
        ("c=relaxed/simple;", ("relaxed", "simple")),
        ("c=simple/relaxed;", ("simple", "relaxed")),
        ("c=relaxed/relaxed; v=7; x_y=z;", ("relaxed", "relaxed")),
        # Without c= as the RFC has it, and as the drafts before it.
        ("", ("simple", "simple")),
        ("", ("relaxed", "relaxed")),
    ],
)
def test_forms_and_unknown_tags(tags: str, form: tuple[Canon, Canon]) -> None:
    message = crafted(
        MESSAGE.replace(b"list.", b"list. ").replace(b": Hello", b":  Hello"), message_tags=tags, form=form
    )
    assert validated(message).result == "pass"
    spaced = message.replace(b":  Hello", b": Hello") if form[0] == "simple" else message.replace(b"list. ", b"list.  ")
    assert (validated(spaced).result == "pass") == (form == ("relaxed", "relaxed"))


@pytest.mark.parametrize("hops", [1, 3])
def test_the_oldest_message_signature_that_holds(hops: int) -> None:
    message = sealed(MESSAGE, *FOUR[:hops])
    changed = message.replace(b"Subject: Hello", b"Subject: [list] Hello")
    assert reason_of(changed).startswith(f"the message signature of hop {hops} (")
    # Whoever changes it seals it again, and vouches for what was before.
    again = sealed(crafted(changed, "ed.example", instance=hops + 1, cv="pass"), "one.example")
    result = validated(again)
    assert (result.result, result.oldest_pass) == ("pass", hops + 1)


def test_an_older_message_signature_that_has_expired_only_ends_the_search() -> None:
    message = sealed(crafted(message_tags=f"c=relaxed/relaxed; x={NOW + 60};"), "two.example")
    assert validated(message).oldest_pass == 0
    later = validated(message, now=NOW + 3600)
    assert (later.result, later.oldest_pass) == ("pass", 2)


@pytest.mark.parametrize("record", ["NXDOMAIN", "SERVFAIL"])
def test_an_older_message_signature_without_a_key_only_ends_the_search(record: str) -> None:
    # Its domain is another than that of its seal.
    first = crafted(message_domain="three.example")
    message = sealed(first, "two.example")
    assert validated(message).oldest_pass == 0
    result = validated(message, resolver(three=record))
    assert (result.result, result.oldest_pass) == ("pass", 2)


# -- what does not


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"cv": "pass"}, "the seal of hop 1 says cv=pass, not none"),
        ({"cv": "fail"}, "it had failed at hop 1 (one.example)"),
        ({"cv": "maybe"}, "the seal of hop 1: cv= is neither none, pass nor fail"),
        ({"algorithm": "rsa-sha1"}, "rsa-sha1 proves nothing any more"),
        ({"algorithm": "rsa-md5"}, "a= is of no known algorithm"),
        ({"algorithm": "ed25519-sha256"}, "a=ed25519-sha256 with a key of rsa"),
        ({"names": None}, "the message signature of hop 1 (one.example): h= is missing"),
        ({"names": "from:arc-seal"}, "h= must not name ARC-Seal"),
        ({"names": "from" + ":x" * 600}, "h= has more than 500 names"),
        ({"seal_tags": " h=from;"}, "the seal of hop 1: h= must not be there"),
        ({"seal_tags": " t=soon;"}, "the seal of hop 1: t= is no number"),
        ({"seal_tags": " d=a.example;"}, "an ARC-Seal cannot be read: the tag d twice"),
        ({"message_tags": "c=other;"}, "c= is of no known form"),
        ({"message_tags": "c=relaxed/relaxed; l=5;"}, "l= is 5, and the body has 13 octets"),
        ({"message_tags": "c=relaxed/relaxed; l=99;"}, "l= is 99, and the body has 13 octets"),
        ({"message_tags": f"c=relaxed/relaxed; x={NOW - 3600};"}, "it has expired"),
        ({"message_tags": f"c=relaxed/relaxed; t={NOW + 86400};"}, "it was made in the future"),
        ({"message_tags": "c=relaxed/relaxed;; "}, "an ARC-Message-Signature cannot be read"),
        ({"results_i": " i={}"}, "an ARC-Authentication-Results without an instance"),
        ({"results_i": " mx; i={};"}, "an ARC-Authentication-Results without an instance"),
        ({"results_i": " i=0;"}, "an ARC-Authentication-Results without an instance from 1 to 50"),
        ({"message_i": " i=51;"}, "an ARC-Message-Signature without an instance from 1 to 50"),
        ({"message_i": ""}, "an ARC-Message-Signature without an instance"),
        ({"seal_i": " i=a;"}, "an ARC-Seal without an instance"),
        ({"seal_i": " i=" + "9" * 5000 + ";"}, "an ARC-Seal without an instance"),
        ({"seal_i": " i=2;"}, "hop 1 has no ARC-Seal"),
        ({"results": "x" * 20_000}, "an ARC-Authentication-Results of 20"),
        ({"domain": "nokey.example"}, "s._domainkey.nokey.example: there is no key"),
    ],
)
def test_what_is_no_chain(arguments: dict[str, Any], reason: str) -> None:
    assert reason in reason_of(crafted(**arguments))


def test_l_that_covers_the_whole_body_is_no_objection() -> None:
    assert validated(crafted(message_tags="c=relaxed/relaxed; l=13;")).result == "pass"


@pytest.mark.parametrize("name", [b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"])
def test_incomplete_and_double_sets(name: bytes) -> None:
    message = sealed(MESSAGE, *FOUR[:3])
    for number in range(3):
        one = field(message, name, number)
        # Of three sets the top one is the third.
        assert reason_of(message.replace(one, b"")) == f"hop {3 - number} has no {name.decode()}"
        assert reason_of(one + message) == f"hop {3 - number} has more than one {name.decode()}"


@pytest.mark.parametrize("name", [b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"])
def test_one_field_alone_is_no_chain(name: bytes) -> None:
    assert reason_of(field(crafted(), name) + MESSAGE).startswith("hop 1 has no ")


def test_gaps() -> None:
    message = sealed(MESSAGE, *FOUR[:3])
    for name in (b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"):
        message = message.replace(field(message, name, 1), b"")
    assert reason_of(message).startswith("hop 2 has no")


def test_a_middle_seal_that_says_otherwise() -> None:
    message = sealed(MESSAGE, *FOUR[:2]).replace(b"cv=pass", b"cv=none")
    assert reason_of(message) == "the seal of hop 2 says cv=none, not pass"
    ended = sealed(MESSAGE, *FOUR[:2]).replace(b"cv=none", b"cv=fail")
    assert reason_of(ended) == "the seal of hop 1 says cv=fail, not none"
    assert len(validated(ended).sets) == 2


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"Hello list.", b"Hello all.", "the message signature of hop 3 (three.example): the body has changed"),
        (b"To: list@", b"To: else@", "the message signature of hop 3 (three.example): the header has changed"),
        (b"mx.one.example;", b"mx.eve.example;", "the seal of hop 3 (three.example): a field of the chain has changed"),
        (b"mx.three.example;", b"mx.eve.example;", "the seal of hop 3 (three.example): a field of the chain"),
    ],
)
def test_what_has_been_changed(old: bytes, new: bytes, reason: str) -> None:
    message = sealed(MESSAGE, *FOUR[:3])
    assert old in message
    assert reason_of(message.replace(old, new)).startswith(reason)
    assert [one.domain for one in validated(message.replace(old, new)).sets] == list(FOUR[:3])


def test_a_seal_in_the_middle_that_is_forged() -> None:
    # Hop 2 is sealed by a key that is not its own, and hop 3 believes it.
    forged = sealed(MESSAGE, "one.example")
    forged = crafted(forged, "two.example", instance=2, cv="pass")
    third = crafted(forged, "three.example", instance=3, cv="pass")
    other = {"TXT": [key_of("one.example").record]}
    assert reason_of(third, dns=resolver(two=other)).startswith("the seal of hop 2 (two.example):")


def test_a_second_from_that_nobody_has_signed() -> None:
    message = b"From: eve@evil.example\r\n" + crafted()
    assert reason_of(message).endswith("not each of the 2 From is signed")


# -- keys


@pytest.mark.parametrize("status", ["SERVFAIL", "TIMEOUT"])
@pytest.mark.parametrize("whose", ["one", "two", "three"])
def test_dns_that_cannot_say_is_temporary(status: str, whose: str) -> None:
    result = validated(sealed(MESSAGE, *FOUR[:3]), resolver(**{whose: status}))
    assert (result.result, result.is_temporary) == ("fail", True)
    assert result.reason.startswith(f"s._domainkey.{whose}.example: the key cannot be asked for")
    assert len(result.sets) == 3


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("NXDOMAIN", "there is no key"),
        ("NODATA", "there is no key"),
        ({"TXT": ["v=DKIM1; p="]}, "revoked"),
        ({"TXT": ["junk"]}, "cannot be read"),
        ({"TXT": ["v=DKIM1; s=tlsrpt; p=" + key_of("one.example").record.rpartition("=")[2]]}, ""),
    ],
)
def test_keys_that_are_not_there_are_final(record: object, reason: str) -> None:
    result = validated(sealed(MESSAGE, "one.example"), resolver(one=record))
    assert (result.result, result.is_temporary) == ("fail", False)
    assert reason in result.reason


def test_a_key_that_is_not_for_sha256() -> None:
    record = key_of("one.example").record.replace("k=rsa", "k=rsa; h=sha1")
    assert "the key is not for sha256" in reason_of(sealed(MESSAGE, "one.example"), dns=resolver(one={"TXT": [record]}))


def test_a_small_key_proves_nothing() -> None:
    reason = reason_of(sealed(MESSAGE, "one.example"), limits=VerifyLimits(key_bits=2048))
    assert reason.endswith("a key of 1024 bits proves nothing")


def test_keys_are_asked_for_once_and_those_of_a_short_chain_together() -> None:
    clock = Clock()
    dns = SlowResolver(zone(), clock)
    message = sealed(sealed(MESSAGE, *FOUR), *FOUR)
    result = wait_for(verify_arc(dns, message, now=NOW), clock)
    assert result.result == "pass"
    assert sorted(name for name, _ in dns.asked) == sorted(zone())
    assert dns.most == 4


# -- bounds


def long_chain(hops: int) -> bytes:
    message = MESSAGE
    for instance in range(1, hops + 1):
        message = crafted(message, instance=instance, cv="none" if instance == 1 else "pass")
    return message


def test_fifty_hops_and_no_more() -> None:
    fifty = long_chain(50)
    assert validated(fifty) == validated(fifty)
    assert (validated(fifty).result, len(validated(fifty).sets)) == ("pass", 50)
    more = fifty.replace(b"ARC-Seal:", b"ARC-Seal: i=51;\r\nARC-Seal:", 1)
    assert reason_of(more) == "more than 50 hops"


def test_the_limit_can_be_lower() -> None:
    message = sealed(MESSAGE, *FOUR[:3])
    assert validated(message, max_hops=3).result == "pass"
    assert reason_of(message, max_hops=2) == "more than 2 hops"


def test_a_thousand_sets_are_counted_and_not_read() -> None:
    dns = resolver()
    one = crafted()[: -len(MESSAGE)]
    assert reason_of(one * 1000 + MESSAGE, dns=dns) == "more than 50 hops"
    assert dns.asked == []


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (b"X: y\r\n" * 1100, "not looked at: the header has more than 1000 fields"),
        (b"X: " + b"y" * 300_000 + b"\r\n", "not looked at: the header has more than 262144 octets"),
    ],
)
def test_headers_beyond_reason(extra: bytes, reason: str) -> None:
    dns = resolver()
    assert reason_of(extra + crafted(), dns=dns) == reason
    assert dns.asked == []


def test_a_changed_body_costs_no_question() -> None:
    dns = resolver()
    assert reason_of(crafted() + b"P.S.\r\n", dns=dns).endswith("the body has changed")
    assert dns.asked == []


def test_a_long_chain_of_strange_domains_is_asked_about_in_parts() -> None:
    """Whoever makes it up cannot have a hundred questions asked at the same time, nor any after the first failure."""
    message = MESSAGE
    for instance in range(1, 41):
        message = crafted(message, instance=instance, cv="none" if instance == 1 else "pass")
    number = iter(range(1000))
    message = re.sub(rb"d=one\.example", lambda _: b"d=n%d.example" % next(number), message)
    clock = Clock()
    dns = SlowResolver({}, clock)
    result = wait_for(verify_arc(dns, message, now=NOW), clock)
    assert result.result == "fail"
    assert (dns.most, len(dns.asked)) == (8, 8)


PIECES = (
    *(b"ARC-Seal:", b"ARC-Message-Signature :", b"arc-authentication-results:", b" i=1;", b"\ti = 2 ;", b" cv=none;"),
    *(b" a=rsa-sha256;", b" d=one.example;", b" s=s;", b" b=AA==;", b" bh=AA==;", b" h=from;"),
    *(b"\r\n", b"\r\n ", b"\n", b"\0", b"\xff", b";;", b"=", b"x"),
)


@given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join) | st.binary(max_size=80))
def test_whatever_comes_has_a_result(header: bytes) -> None:
    assert validated(header + b"\r\n" + MESSAGE, MemoryResolver({})).result in ("none", "fail")


@given(st.data())
def test_one_octet_more_or_less_in_a_signed_chain_never_passes_as_another_message(data: st.DataObject) -> None:
    message = sealed(MESSAGE, "one.example")
    at = data.draw(st.integers(0, len(message) - 1))
    octet = data.draw(st.integers(0, 255))
    changed = message[:at] + bytes([octet]) + message[at + 1 :]
    result = validated(changed)
    if result.result == "pass":
        # White space, case of a name, or what is not signed (Received).
        before, after = (re.sub(rb"\s+", b"", one).lower() for one in (message, changed))
        assert before == after or b"Received: from a by b" not in changed or at >= message.index(b"Received")


def test_what_the_newest_message_signature_leaves_open() -> None:
    assert validated(crafted()).uncovered == ()
    assert validated(crafted(names="subject")).uncovered == ("from",)
    added = validated(crafted().replace(b"Received: ", b"Subject: Pay now\r\nReceived: "))
    assert (added.result, added.uncovered) == ("pass", ("subject",))
    oversigned = crafted(names="from:subject:subject")
    assert validated(oversigned).uncovered == ()
    assert validated(oversigned.replace(b"Received: ", b"Subject: Pay now\r\nReceived: ")).result == "fail"
