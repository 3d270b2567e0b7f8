"""What a stored message tells of how it came: Received fields of several programs, envelopes, and forgeries."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import NULL_PATH, Address
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet
from mailgate.rehearsal.facts import Facts, facts_of, hop_of

LOCAL = NetworkSet(LOCAL_NETWORKS)
BOB = Address("bob", "box.test")

POSTFIX = "from mx.far.test (mail.far.test [192.0.2.1])\r\n\tby old.box.test (Postfix) with ESMTP id 4Q; "
DATE = "Thu, 26 Nov 2026 10:00:00 +0000 (UTC)"


def facts(*fields: str, sender: str | None = None) -> Facts:
    header = "".join(f"{one}\r\n" for one in fields).encode()
    return facts_of(header, LOCAL.__contains__, lambda domain: domain == "box.test", sender)


@pytest.mark.parametrize(
    ("value", "address", "name", "helo"),
    [
        (POSTFIX, "192.0.2.1", "mail.far.test", "mx.far.test"),
        ("from mx.far.test (unknown [IPv6:2001:db8::1]) by old.box.test", "2001:db8::1", "", "mx.far.test"),
        ("from [10.0.0.1] (unknown [192.0.2.1]) by old.box.test", "192.0.2.1", "", "[10.0.0.1]"),
        ("from by (unknown [192.0.2.1]) by old.box.test", "192.0.2.1", "", "by"),
        ("from x([10.0.0.1]) (unknown [192.0.2.1]) by old.box.test", "192.0.2.1", "", "x([10.0.0.1])"),
        ("from h.test ([192.0.2.1] helo=[10.0.0.1]) by exim.test", "192.0.2.1", None, "[10.0.0.1]"),
        ("from h.test ([192.0.2.1]:4711 helo=far.test) by exim.test", "192.0.2.1", None, "far.test"),
        ("from [192.0.2.1] (helo=far.test) by exim.test", "192.0.2.1", None, "far.test"),
        ("from [192.0.2.1] (helo=[10.0.0.1]) by exim.test", "192.0.2.1", None, "[10.0.0.1]"),
        ("from unknown (HELO far.test) (192.0.2.1) by qmail.test with SMTP", "192.0.2.1", None, "far.test"),
        ("from EX1.far.test (192.0.2.1) by EX2.box.test (10.0.0.2)", "192.0.2.1", None, "EX1.far.test"),
        ("from far.test (m.far.test [192.0.2.1] (may be forged)) by s.test", "192.0.2.1", "m.far.test", "far.test"),
        ("from far.test by old.box.test ([10.0.0.9])", None, None, "far.test"),
        ("from far.test (local) by gate.test (mailgate)", None, None, "far.test"),
        ("from far.test ([999.0.2.1]) by old.box.test", None, None, "far.test"),
    ],
)
def test_received_fields(value: str, address: str | None, name: str | None, helo: str) -> None:
    hop = hop_of(value)
    assert hop is not None
    assert (hop.address and str(hop.address), hop.name, hop.helo) == (address, name, helo)


def test_a_field_of_a_program_of_the_host_names_nobody() -> None:
    assert hop_of("by old.box.test (Postfix, from userid 0) id 4Q; Thu, 26 Nov 2026 10:00:00 +0000") is None


def test_what_else_a_field_tells() -> None:
    hop = hop_of(
        "from pc (pc.far.test [192.0.2.1]) (Authenticated sender: ann) by old.box.test (Postfix) with ESMTPSA"
        f" id 4Q for <bob@box.test>; {DATE}"
    )
    assert hop is not None
    assert (hop.login, hop.protocol, hop.recipient, hop.received) == ("ann", "ESMTPSA", "bob@box.test", 1795687200.0)
    assert hop.ident == "4Q"
    # A recipient is what the client says.
    forged = hop_of('from pc (pc.far.test [192.0.2.1]) by old for <"(Authenticated sender: ann)"@box.test>; x')
    assert forged is not None
    assert forged.login == ""


def test_the_client_is_the_first_that_is_not_inside() -> None:
    fields = (
        "Return-Path: <ann@far.test>",
        "Delivered-To: bob@box.test",
        "Received: from filter (localhost [127.0.0.1]) by old.box.test; x",
        "Received: by old.box.test (Postfix, from userid 5) id 1",
        "Received: from inner (inner [10.0.0.7]) by old.box.test; x",
        f"Received: {POSTFIX}{DATE}",
    )
    # What a client has written below is believed by nobody, and is what it has sent.
    theirs = (
        *("Received: from a (a [198.51.100.1]) by mx.far.test; x", "Delivered-To: eve@box.test"),
        *("Return-Path: <eve@box.test>", "From: ann@far.test", "To: else@box.test"),
    )
    found = facts(*fields, *theirs)
    assert (found.address, found.name, found.helo) == (IPv4Address("192.0.2.1"), "mail.far.test", "mx.far.test")
    assert (found.sender, found.recipients) == (Address("ann", "far.test"), (BOB,))
    assert found.received == 1795687200.0
    assert found.begin == len("".join(f"{one}\r\n" for one in fields))
    assert found.assumed == ()


def test_mail_from_inside_was_sent_by_the_last_host_inside() -> None:
    found = facts(
        "Received: from b (b [127.0.0.1]) by old.box.test; x",
        "Received: from printer (printer [10.0.0.7]) by old.box.test; x",
        "From: <ann@box.test>",
        "To: bob@box.test",
    )
    assert found.address == IPv4Address("10.0.0.7")
    assert found.assumed == ("no sender: that of its From field", "no recipients: those of its To and Cc fields")


def test_what_no_field_tells() -> None:
    found = facts("Return-Path: <>", "X-Original-To: bob@box.test", "From: x", "Return-Path: <e@x.test>")
    assert (found.address, found.name, found.helo, found.received) == (None, "", "", 0.0)
    assert (found.sender, found.recipients, found.assumed) == (NULL_PATH, (BOB,), ("no client",))
    assert found.begin == len("Return-Path: <>\r\nX-Original-To: bob@box.test\r\n")
    assert facts("Subject: x").recipients == ()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (("Delivered-To: real@box.test", "X-Original-To: alias@box.test"), "alias@box.test"),
        (("Envelope-To: a@box.test",), "a@box.test"),
        ((f"Received: from f (f [127.0.0.1]) by o for <real@box.test>; {DATE}",), "bob@box.test"),
    ],
)
def test_the_recipient_before_aliases_is_the_one_that_the_client_named(fields: tuple[str, ...], expected: str) -> None:
    last = f"Received: from f (f [192.0.2.1]) by o for <bob@box.test>; {DATE}"
    assert [str(one) for one in facts(*fields, last).recipients] == [expected]


def test_only_addresses_of_the_site_are_taken_from_to_and_cc() -> None:
    found = facts("To: Bob <bob@box.test>, x@else.test, broken", "Cc: bob@box.test, Cy <cy@box.test>")
    assert found.recipients == (BOB, Address("cy", "box.test"))


def test_the_sender_beside_the_message_counts_where_no_field_has_one() -> None:
    assert facts("From: a@x.test", sender="b@x.test").sender == Address("b", "x.test")
    assert facts("Return-Path: <c@x.test>", "From: a@x.test", sender="b@x.test").sender == Address("c", "x.test")


def test_an_ipv6_client() -> None:
    found = facts("Received: from h (h.test [IPv6:2001:db8::5]) by old; x", "X-A: b")
    assert found.address == IPv6Address("2001:db8::5")


def test_comments_within_comments_and_long_lists_have_bounds() -> None:
    assert facts("To: " + "(" * 60_000 + "bob@box.test").recipients == ()
    many = ", ".join(f"{number}@box.test" for number in range(6000))
    assert 500 < len(facts(f"To: {many}").recipients) <= 1000
    # The client is not looked for without an end.
    hops = ["Received: from f (f [127.0.0.1]) by o; x"] * 60
    assert str(facts(*hops, "Received: from h (h.test [192.0.2.1]) by old; x").address) == "127.0.0.1"
    far = ["X-A: b"] * 1100 + ["Received: from h (h.test [192.0.2.1]) by old; x"]
    assert facts(*far).address is None


@given(st.text(alphabet="from by helo=[]():.;<>@1a \t\r\n", max_size=200))
def test_no_field_is_too_odd(text: str) -> None:
    hop_of(text)
    hop_of(f"from {text}")


@given(st.binary(max_size=400), st.text(max_size=40))
def test_no_header_is_too_odd(header: bytes, sender: str) -> None:
    found = facts_of(b"Received: " + header + b"\r\n", LOCAL.__contains__, lambda domain: True, sender)
    assert 0 <= found.begin <= len(header) + 14
