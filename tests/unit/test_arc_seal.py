"""Sealing: what is sealed validates, here and elsewhere; chains that are over stay as they are."""

from __future__ import annotations

import re
from typing import Any

import dkim  # type: ignore[import-untyped]  # it has none
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.mailauth.arc.chain import read_chain
from mailgate.mailauth.arc.seal import CannotSealError, seal_arc
from mailgate.mailauth.dkim.canonical import canonical_fields, split_message
from mailgate.mailauth.dkim.keys import parse_key
from mailgate.mailauth.dkim.signature import HeaderFields, read_base64, without_signature
from mailgate.mailauth.dkim.tags import parse_tags, without_space
from mailgate.mailauth.results import ArcResult, ArcSet
from tests.unit.arc_mail import MESSAGE, NOW, crafted, key_of, pem_of, resolver, sealed, validated, zone

RESULTS = "mx.one.example; spf=pass smtp.mailfrom=client.example"


def seal(message: bytes = MESSAGE, **changes: Any) -> tuple[bytes, bytes, bytes]:
    arguments: dict[str, Any] = {
        "key": key_of(changes.get("domain", "one.example")),
        "domain": "one.example",
        "selector": "s",
        "authserv_id": "mx.one.example",
        "authentication_results": RESULTS,
        "chain": changes.get("chain") or validated(message),
        "now": NOW,
    }
    return seal_arc(message, **(arguments | changes))


def test_three_fields_in_the_order_in_which_they_belong_on_top() -> None:
    seal_field, message_field, results = seal()
    assert seal_field.startswith(b"ARC-Seal: i=1; cv=none; a=rsa-sha256; d=one.example; s=s; t=1700000000;")
    assert message_field.startswith(b"ARC-Message-Signature: i=1; a=rsa-sha256; c=relaxed/relaxed;")
    assert results == (
        b"ARC-Authentication-Results: i=1; mx.one.example;\r\n\tspf=pass smtp.mailfrom=client.example\r\n"
    )
    lines = (seal_field + message_field + results).split(b"\r\n")
    assert max(map(len, lines)) <= 78
    assert all(line[:1] in b" \tA" for line in lines)


@pytest.mark.parametrize("domain", ["one.example", "ed.example"])
def test_what_is_sealed_validates(domain: str) -> None:
    message = b"".join(seal(domain=domain)) + MESSAGE
    assert validated(message).result == "pass"
    assert validated(sealed(message, "two.example", domain)).result == "pass"


@given(st.text(alphabet="ab \t\r\n.", max_size=60), st.lists(st.sampled_from(["To", "X", "Subject", "DKIM-Signature"])))
def test_whatever_the_message_is_like(body: str, names: list[str]) -> None:
    text = body.replace("\r", "").replace("\n", "\r\n")
    message = b"From: a@b.example\r\n" + b"".join(f"{one}:  x\r\n\ty \r\n".encode() for one in names) + b"\r\n"
    message += text.encode()
    result = validated(sealed(message, "one.example", "ed.example"))
    assert (result.result, result.oldest_pass) == ("pass", 0)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_others_accept_it(hops: int) -> None:
    """dkimpy knows RSA only."""
    records = {f"{name}.": sets["TXT"][0].encode() for name, sets in zone().items()}
    message = sealed(MESSAGE, *("one.example", "two.example", "three.example")[:hops])
    verdict, results, reason = dkim.arc_verify(message, dnsfunc=lambda name, timeout=5: records.get(name.decode()))
    assert (verdict, reason) == (b"pass", "success")
    assert all(one["ams-valid"] and one["as-valid"] for one in results)


def test_others_can_go_on_with_it() -> None:
    message = b"Authentication-Results: mx.two.example; arc=pass\r\n" + sealed(MESSAGE, "one.example")
    fields = dkim.arc_sign(message, b"s", b"two.example", pem_of("two.example"), b"mx.two.example", timestamp=NOW)
    result = validated(b"".join(fields) + message)
    assert (result.result, [one.domain for one in result.sets]) == ("pass", ["one.example", "two.example"])


def test_the_fields_that_it_covers() -> None:
    message = b"DKIM-Signature: v=1\r\nDKIM-Signature: v=2\r\nAuthentication-Results: x\r\n" + MESSAGE
    _, message_field, _ = seal(message)
    names = without_space(parse_tags(message_field.partition(b":")[2])[b"h"]).lower().split(b":")
    # Once more than there are, so that no second one can be added.
    assert [names.count(one) for one in (b"from", b"subject", b"date", b"to", b"cc")] == [2, 2, 2, 2, 1]
    assert names.count(b"dkim-signature") == 2
    assert not [one for one in names if one.startswith(b"arc-") or one == b"authentication-results"]
    sealed_once = b"".join(seal(message)) + message
    assert validated(b"Subject: another\r\n" + sealed_once).result == "fail"
    assert validated(b"X-Other: another\r\n" + sealed_once).result == "pass"


def test_names_of_the_callers_choice() -> None:
    _, message_field, _ = seal(headers=["From", "X-None", "to"])
    assert re.search(rb"h=From:X-None:to;", message_field)
    assert validated(b"".join(seal(headers=["From"])) + MESSAGE).result == "pass"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"headers": ["To"]}, "From must be covered"),
        ({"headers": ["From", "ARC-Seal"]}, "'arc-seal' cannot be covered"),
        ({"headers": ["From", "Authentication-Results"]}, "cannot be covered"),
        ({"headers": ["From", "a b"]}, "cannot be covered"),
        ({"headers": ["From", "a:b"]}, "cannot be covered"),
        ({"headers": ["From", ""]}, "cannot be covered"),
        ({"headers": ["From", "a\r\nb"]}, "cannot be covered"),
        ({"domain": "a b", "key": key_of("one.example")}, "no domain to seal for"),
        ({"domain": "local", "key": key_of("one.example")}, "no domain to seal for"),
        ({"selector": "a;b"}, "no selector"),
        ({"authentication_results": "mx; ("}, "a comment without an end"),
        ({"chain": ArcResult("pass", sets=(ArcSet(1, "one.example", "s"),))}, "the chain is not that of the message"),
    ],
)
def test_arguments_that_cannot_be(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        seal(**changes)


def test_a_chain_that_is_another_messages() -> None:
    message = sealed(MESSAGE, "one.example")
    for chain in (ArcResult("none"), validated(sealed(message, "two.example"))):
        with pytest.raises(ValueError, match="not that of the message, which has 1 hops"):
            seal(message, chain=chain)
    with pytest.raises(ValueError, match="not that of the message: hop 1 has more than one ARC-Seal"):
        seal(b"ARC-Seal: i=1; a=rsa-sha256; d=a.example; s=s; cv=none; b=AA==\r\n" + message, chain=validated(message))


def test_results_are_written_anew_in_our_name() -> None:
    hostile = 'evil.example; spf=pass (nobody\r\n\tneeds this) smtp.mailfrom="a\\"b\r\n c@d";; none'
    _, _, results = seal(authentication_results=hostile)
    assert results == (b'ARC-Authentication-Results: i=1; mx.one.example;\r\n\tspf=pass smtp.mailfrom="a\\"b c@d"\r\n')
    _, _, results = seal(authentication_results="spf=pass; dkim=fail")
    assert results == b"ARC-Authentication-Results: i=1; mx.one.example;\r\n\tspf=pass;\r\n\tdkim=fail\r\n"
    _, _, results = seal(authentication_results="mx; none", authserv_id="a\r\nb")
    assert results == b'ARC-Authentication-Results: i=1; "a??b"; none\r\n'


# -- chains that have failed


def test_a_broken_chain_is_marked_and_the_set_covers_itself_alone() -> None:
    message = sealed(MESSAGE, "one.example", "two.example").replace(b"Hello list", b"Hello all")
    fields = seal(message, domain="three.example", selector="s", authserv_id="mx.three.example")
    assert fields[0].startswith(b"ARC-Seal: i=3; cv=fail;")
    marked = b"".join(fields) + message
    assert validated(marked).reason == "it had failed at hop 3 (three.example)"
    # The seal holds whatever becomes of the sets before it (RFC 8617 section 5.1.2).
    own = [(one.partition(b":")[0].lower(), one.removesuffix(b"\r\n")) for one in reversed(fields)]
    tags = parse_tags(own[2][1].partition(b":")[2])
    own[2] = own[2][0], without_signature(own[2][1])
    key = parse_key(key_of("three.example").record.encode())
    assert key.verify(canonical_fields(own, "relaxed"), read_base64(tags[b"b"], "b="))


def test_after_that_nothing_is_sealed_any_more() -> None:
    message = sealed(MESSAGE, "one.example").replace(b"Hello list", b"Hello all")
    marked = b"".join(seal(message, domain="two.example")) + message
    with pytest.raises(CannotSealError, match="a seal says so"):
        seal(marked, domain="three.example")


def test_a_chain_that_cannot_even_be_read_is_marked_above_what_can() -> None:
    message = b"ARC-Seal: i=7; junk=1\r\nARC-Message-Signature: ;;\r\nARC-Authentication-Results: i=3; x\r\n" + MESSAGE
    assert seal(message)[0].startswith(b"ARC-Seal: i=8; cv=fail;")


def test_what_dns_could_not_tell_is_not_made_final() -> None:
    message = sealed(MESSAGE, "one.example")
    with pytest.raises(CannotSealError, match="could not be told"):
        seal(message, chain=validated(message, resolver(one="SERVFAIL")))


def test_the_fiftieth_hop_is_the_last() -> None:
    message = MESSAGE
    for instance in range(1, 51):
        message = crafted(message, instance=instance, cv="none" if instance == 1 else "pass")
    assert len(read_chain(HeaderFields(split_message(message)[0]))) == 50
    with pytest.raises(CannotSealError, match="50 hops already"):
        seal(message)
    with pytest.raises(CannotSealError, match="50 hops already"):
        seal(b"ARC-Seal: i=999999999; x=y\r\n" + MESSAGE)
