"""Messages of DNS: what we send is what dnspython reads, and what dnspython writes is what we read."""

from __future__ import annotations

from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.dns.answers import read_answer
from mailgate.dns.messages import Query
from mailgate.interfaces import Answer, DnsStatus
from tests.unit.dns_stand import Message, response_to

RECORDS = {
    "A": ["192.0.2.1", "192.0.2.2", "192.0.2.1"],
    "AAAA": ["2001:db8::1", "::"],
    "MX": ["10 mx.test.", "5 MX2.Test.", "0 ."],
    "TXT": ['"abc" "d"', '"\\255x"', '""'],
    "PTR": ["A.test."],
    "TLSA": ["3 1 0 abcdef"],
    "SRV": ["1 2 3 a.test."],
    "CAA": ['0 issue "x"'],
}
NAMES = ["x.test.", "y.test.", "z.x.test.", "test.", "other."]


def question(rdtype: str = "A", name: str = "x.test.") -> Query:
    return Query(dns.name.from_text(name), rdtype)


def reply(query: Query, *records: str) -> Message:
    return response_to(dns.message.from_wire(query.wire(7)), *records)


def read(query: Query, wire: bytes) -> Answer | None:
    response = query.read(wire)
    return None if response is None else read_answer(response)


@pytest.mark.parametrize(("name", "rdtype"), [("x.test.", "A"), ("MX.Test.", "TXT"), (".", "NS"), ("a.b.c.", "TYPE65")])
def test_a_question_says_all_that_it_has_to(name: str, rdtype: str) -> None:
    message = dns.message.from_wire(question(rdtype, name).wire(4711))
    assert message.id == 4711
    assert message.question == dns.message.make_query(name, rdtype).question
    assert (message.opcode(), message.flags) == (dns.opcode.QUERY, dns.flags.RD | dns.flags.AD)
    assert (message.edns, message.ednsflags, message.payload) == (0, 0, 1232)
    assert not message.options


def expected(message: Message, rdtype: str) -> Answer | None:
    """What dnspython makes of it; records are left to the tests that name them."""
    assert isinstance(message, dns.message.QueryMessage)
    try:
        chain = message.resolve_chaining()
    except dns.exception.DNSException:
        return None
    if chain.answer is not None:
        return Answer(DnsStatus.FOUND, ttl=float(min(chain.minimum_ttl, 86400)))
    has_soa = any(one.rdtype == dns.rdatatype.SOA for one in message.authority)
    if message.rcode() == dns.rcode.NOERROR and message.authority and not has_soa:
        return None
    own = any(
        one.rdtype == dns.rdatatype.SOA and chain.canonical_name.is_subdomain(one.name) for one in message.authority
    )
    status = DnsStatus.NXDOMAIN if message.rcode() == dns.rcode.NXDOMAIN else DnsStatus.NODATA
    return Answer(status, ttl=float(min(chain.minimum_ttl, 3600)) if own else 0.0)


@given(st.data(), st.sampled_from(sorted(RECORDS)))
def test_what_is_read_is_what_dnspython_reads(data: st.DataObject, rdtype: str) -> None:
    query = question(rdtype)
    message = dns.message.make_response(dns.message.from_wire(query.wire(7)))
    ttl = st.sampled_from([0, 30, 60, 100_000, 1 << 31])
    for name in data.draw(st.lists(st.sampled_from(NAMES), unique=True)):
        kind = data.draw(st.sampled_from([rdtype, "CNAME", "A", "TXT"]))
        texts = [data.draw(st.sampled_from(NAMES))] if kind == "CNAME" else RECORDS[kind]
        message.answer.append(dns.rrset.from_text(name, data.draw(ttl), "IN", kind, *texts))
    for name in data.draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=2)):
        soa = f"a.test. b.test. 1 2 3 4 {data.draw(st.sampled_from([0, 40, 9000]))}"
        kind, text = data.draw(st.sampled_from([("SOA", soa), ("NS", "ns.test.")]))
        message.authority.append(dns.rrset.from_text(name, data.draw(ttl), "IN", kind, text))
    if data.draw(st.booleans()):
        message.additional.append(dns.rrset.from_text("ns.test.", 60, "IN", "A", "192.0.2.53"))
    message.set_rcode(data.draw(st.sampled_from([dns.rcode.NOERROR, dns.rcode.NXDOMAIN])))
    wire = message.to_wire()
    answer, right = read(query, wire), expected(dns.message.from_wire(wire), rdtype)
    assert (answer is None) == (right is None)
    if answer is not None and right is not None:
        assert (answer.status, answer.ttl) == (right.status, right.ttl)
        assert bool(answer.records) == (answer.status is DnsStatus.FOUND)


@pytest.mark.parametrize(
    ("rdtype", "records"),
    [
        ("A", (ip_address("192.0.2.1"), ip_address("192.0.2.2"))),
        ("AAAA", (ip_address("2001:db8::1"), ip_address("::"))),
        ("MX", ((0, ""), (5, "mx2.test"), (10, "mx.test"))),
        ("TXT", (b"abcd", b"\xffx", b"")),
        ("PTR", ("a.test",)),
        ("TLSA", ("3 1 0 abcdef",)),
        ("SRV", ("1 2 3 a.test.",)),
    ],
)
def test_each_record_is_there_once(rdtype: str, records: tuple[object, ...]) -> None:
    query = question(rdtype)
    wire = reply(query, *(f"x.test. 60 {rdtype} {one}" for one in RECORDS[rdtype])).to_wire()
    answer = read(query, wire)
    assert answer is not None
    assert sorted(answer.records, key=repr) == sorted(records, key=repr)
    if rdtype == "MX":
        assert answer.records == records


@pytest.mark.parametrize("code", [dns.rcode.BADVERS, dns.rcode.BADCOOKIE, 3 << 4, (3 << 4) + 3])
def test_the_upper_part_of_the_return_code_counts(code: int) -> None:
    query = question()
    message = reply(query, "x.test. 60 A 192.0.2.1")
    message.use_edns(0)
    message.set_rcode(dns.rcode.Rcode(code))
    response = query.read(message.to_wire())
    assert response is not None
    assert response.rcode == code
    assert read_answer(response) is None


def test_records_of_another_class_are_none() -> None:
    query = question()
    message = reply(query)
    message.answer.append(dns.rrset.from_text("x.test.", 60, "CH", "A", "x.test. 1"))
    assert read(query, message.to_wire()) == Answer(DnsStatus.NODATA)


def test_what_does_not_end_with_its_last_record_is_no_answer() -> None:
    query = question()
    wire = reply(query, "x.test. 60 A 192.0.2.1").to_wire()
    assert query.read(wire) is not None
    assert query.read(wire + b"\0") is None
    assert query.read(wire[:-1]) is None


@pytest.mark.parametrize("opcode", [dns.opcode.UPDATE, dns.opcode.NOTIFY, dns.opcode.STATUS])
def test_other_kinds_of_messages_are_no_answer(opcode: dns.opcode.Opcode) -> None:
    query = question()
    wire = bytearray(reply(query, "x.test. 60 A 192.0.2.1").to_wire())
    wire[2] |= opcode << 3
    assert query.read(bytes(wire)) is None
    assert query.read(query.wire(7)) is None


@pytest.mark.parametrize("other", [("A", "y.test."), ("A", "xx.test."), ("A", "test."), ("AAAA", "x.test.")])
def test_an_answer_to_another_question_is_none(other: tuple[str, str]) -> None:
    assert question().read(reply(question(*other)).to_wire()) is None
