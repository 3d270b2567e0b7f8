"""The resolver and servers that want to harm it: each answer has a bound and a status."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import NoReturn

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.wire
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from mailgate.dns import transport
from mailgate.dns.answers import read_answer
from mailgate.dns.messages import Query
from mailgate.dns.resolver import Resolver
from mailgate.interfaces import Answer, DnsStatus
from tests.unit.dns_stand import (
    FIRST,
    SECOND,
    WAY,
    Message,
    Network,
    ask,
    connect,
    pending,
    response_to,
    serving,
    truncated,
    with_length,
)


@pytest.fixture
def network() -> Network:
    return Network()


def addresses(count: int, name: str = "x.test.") -> list[str]:
    return [f"{name} 60 A 10.{number // 65536}.{number // 256 % 256}.{number % 256}" for number in range(count)]


def by_tcp(network: Network, *answer: str, rdtype: str = "A") -> list[object]:
    """What a question comes to whose answer does not fit into a datagram; no other server has one."""
    network.servers[FIRST] = truncated
    found = pending(network.resolver().resolve("x.test", rdtype))
    network.advance(WAY)
    _, query, send, _ = connect(network)
    send(with_length(response_to(query, *answer).to_wire(max_size=65535)))
    return list(found)


# --- Huge


@pytest.mark.parametrize(
    ("count", "status"), [(499, DnsStatus.FOUND), (501, DnsStatus.SERVFAIL), (4000, DnsStatus.SERVFAIL)]
)
def test_an_answer_has_a_number_of_records(network: Network, count: int, status: DnsStatus) -> None:
    # The response has one record more, for EDNS.
    (answer,) = by_tcp(network, *addresses(count))
    assert isinstance(answer, Answer)
    assert answer.status is status
    assert len(answer.records) == (count if status is DnsStatus.FOUND else 0)


def test_of_a_message_with_too_many_records_none_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []

    def counting(*arguments: object) -> NoReturn:
        read.append(arguments)
        raise AssertionError("it is read")

    monkeypatch.setattr(dns.wire, "Parser", counting)
    query = Query(dns.name.from_text("x.test"), "A")
    wire = bytearray(query.wire(7))
    wire[2] |= 0x80
    # Every section counts, and a count is believed whether or not its records are there.
    for section in (6, 8, 10):
        for count in (501, 65535):
            big = wire[:]
            big[section : section + 2] = struct.pack("!H", count)
            message = query.read(bytes(big))
            assert message is not None
            assert message.rcode == dns.rcode.SERVFAIL
            assert read_answer(message) is None
    assert not read


def test_the_next_server_may_have_less_to_say(network: Network) -> None:
    network.servers = {FIRST: truncated, SECOND: serving("x.test. 60 A 192.0.2.9")}
    found = pending(network.resolver(FIRST, SECOND).resolve("x.test", "A"))
    network.advance(WAY)
    _, query, send, _ = connect(network)
    send(with_length(response_to(query, *addresses(3000)).to_wire(max_size=65535)))
    network.advance(WAY)
    assert [answer.status for answer in found if isinstance(answer, Answer)] == [DnsStatus.FOUND]


def test_a_text_of_sixty_thousand_octets_is_one_record(network: Network) -> None:
    strings = " ".join(f'"{"x" * 250}"' for _ in range(240))
    assert by_tcp(network, f"x.test. 60 TXT {strings}", rdtype="TXT") == [
        Answer(DnsStatus.FOUND, (b"x" * 60000,), 60.0)
    ]


def test_big_answers_take_the_room_of_several_in_the_cache(network: Network) -> None:
    def handler(query: Message) -> Message:
        name = str(query.question[0].name)
        return response_to(query, *addresses(160 if name.startswith("big") else 1, name))

    network.servers[FIRST] = handler
    resolver = network.resolver(cache_size=20)
    names = [f"{number}.test" for number in range(20)]
    for name in names:
        ask(network, resolver, name, "A")
    assert all(isinstance(resolver.resolve(name, "A"), Answer) for name in names)
    ask(network, resolver, "big.test", "A")
    kept = [name for name in (*names, "big.test") if isinstance(resolver.resolve(name, "A"), Answer)]
    assert kept == [*names[11:], "big.test"]


def test_what_is_bigger_than_the_cache_is_not_kept(network: Network) -> None:
    network.servers[FIRST] = serving(f"x.test. 60 TXT {' '.join(['x' * 250] * 9)}")
    for size, is_kept in ((2, False), (3, True)):
        resolver = network.resolver(cache_size=size)
        ask(network, resolver, "x.test", "TXT")
        assert isinstance(resolver.resolve("x.test", "TXT"), Answer) is is_kept


# --- Loops and lies


@pytest.mark.parametrize(
    ("count", "status"), [(15, DnsStatus.FOUND), (16, DnsStatus.SERVFAIL), (400, DnsStatus.SERVFAIL)]
)
def test_a_chain_of_cnames_has_a_length(network: Network, count: int, status: DnsStatus) -> None:
    chain = ["x.test. 60 CNAME n1.test."]
    chain += [f"n{number}.test. 60 CNAME n{number + 1}.test." for number in range(1, count)]
    (answer,) = by_tcp(network, *chain, f"n{count}.test. 60 A 192.0.2.9")
    assert isinstance(answer, Answer)
    assert answer.status is status


def test_pointers_that_loop_are_no_answer() -> None:
    query = Query(dns.name.from_text("x.test"), "A")
    wire = bytearray(query.wire(7))
    wire[2] |= 0x80
    head, end = bytes(wire[:12]), 12 + len(b"\1x\4test\0") + 4
    counts = head[:6] + struct.pack("!3H", 1, 0, 0)
    record = struct.pack("!HHIH", 1, 1, 60, 4) + b"\xc0\0\2\x09"
    for name in (struct.pack("!H", 0xC000 | end), b"\1a" + struct.pack("!H", 0xC000 | end), b"\xff\xff", b"\x41a\0"):
        assert query.read(counts + bytes(wire[12:end]) + name + record) is None
    assert query.read(counts + bytes(wire[12:end]) + b"\xc0\x0c" + record) is not None


def test_records_of_other_names_are_not_the_answer(network: Network) -> None:
    network.servers[FIRST] = serving("y.test. 60 A 203.0.113.66", "test. 60 A 203.0.113.66")
    assert ask(network, network.resolver(), "x.test", "A") == Answer(DnsStatus.NODATA)


@pytest.mark.parametrize("rcode", [dns.rcode.NXDOMAIN, dns.rcode.NOERROR])
@pytest.mark.parametrize(
    "authority", [(), ("y.test. 9000 SOA ns.test. hostmaster.test. 1 3600 600 86400 9000",)], ids=["none", "other"]
)
def test_a_no_without_its_soa_is_not_kept(network: Network, rcode: dns.rcode.Rcode, authority: tuple[str, ...]) -> None:
    network.servers[FIRST] = serving(rcode=rcode, authority=authority)
    resolver = network.resolver()
    answer = ask(network, resolver, "x.test", "A")
    assert (answer.is_temporary, answer.ttl) == (False, 0.0)
    assert isinstance(resolver.resolve("x.test", "A"), Deferred)


def test_a_no_behind_a_cname_is_kept_for_the_shortest_time(network: Network) -> None:
    soa = "test. 50 SOA ns.test. hostmaster.test. 1 3600 600 86400 40"
    network.servers[FIRST] = serving("x.test. 30 CNAME y.test.", rcode=dns.rcode.NXDOMAIN, authority=(soa,))
    assert ask(network, network.resolver(), "x.test", "A") == Answer(DnsStatus.NXDOMAIN, ttl=30.0)


@pytest.mark.parametrize("rcode", [rcode for rcode in range(1, 16) if rcode != dns.rcode.NXDOMAIN])
def test_other_codes_are_no_answer(network: Network, rcode: int) -> None:
    network.servers[FIRST] = serving("x.test. 60 A 192.0.2.9", rcode=dns.rcode.Rcode(rcode))
    assert ask(network, network.resolver(), "x.test", "A") == Answer(DnsStatus.SERVFAIL)


RECORDS = {
    "A": "192.0.2.1",
    "MX": "10 a.test.",
    "TXT": '"abc" "def"',
    "PTR": "a.test.",
    "SOA": "a.test. b.test. 1 2 3 4 5",
    "TLSA": "3 1 0 abcdef",
    "SRV": "1 2 3 a.test.",
    "CAA": '0 issue "x"',
    "HTTPS": "1 . alpn=h2",
    "NAPTR": '1 2 "u" "x" "!a!b!" .',
    "RRSIG": "A 13 2 60 20300101000000 20200101000000 1 test. aGVsbG8=",
}


@pytest.mark.parametrize("rdtype", RECORDS)
@given(st.data())
def test_no_broken_record_makes_trouble(rdtype: str, data: st.DataObject) -> None:
    query = Query(dns.name.from_text("x.test"), rdtype)
    response = response_to(dns.message.from_wire(query.wire(7)), f"x.test. 60 {rdtype} {RECORDS[rdtype]}")
    wire = bytearray(response.to_wire())
    for _ in range(data.draw(st.integers(0, 6))):
        wire[data.draw(st.integers(12, len(wire) - 1))] = data.draw(st.integers(0, 255))
    message = query.read(bytes(wire[: data.draw(st.integers(0, len(wire)))]))
    if message is not None:
        answer = read_answer(message)
        assert answer is None or 0 <= answer.ttl <= 86400


# --- Streams


def test_a_stream_of_other_messages_is_closed(network: Network) -> None:
    network.servers = {FIRST: truncated, SECOND: serving("x.test. 60 A 192.0.2.9")}
    found = pending(network.resolver(FIRST, SECOND).resolve("x.test", "A"))
    network.advance(WAY)
    stream, query, send, close = connect(network)
    stray = with_length(response_to(dns.message.make_query("y.test", "A", id=query.id)).to_wire())
    for _ in range(transport._MOST_STRAYS):
        send(stray)
    assert not stream.disconnected
    send(with_length(b""))
    assert stream.disconnected
    assert not found
    close()
    network.advance(WAY)
    assert [answer.status for answer in found if isinstance(answer, Answer)] == [DnsStatus.FOUND]


@pytest.mark.parametrize("said", [b"", b"\xff", b"\xff\xff", b"\xff\xff" + b"\0" * 65534])
def test_a_stream_that_never_ends_its_message_is_a_timeout(network: Network, said: bytes) -> None:
    network.servers[FIRST] = truncated
    found = pending(network.resolver(timeout=6.0).resolve("x.test", "A"))
    network.advance(WAY)
    stream, _, send, _ = connect(network)
    if said:
        send(said)
    network.pump([0.5] * 12)
    assert found == [Answer(DnsStatus.TIMEOUT)]
    assert stream.disconnected
    assert len(network.tcpClients) <= 3
    assert not network.getDelayedCalls()


def test_truncated_for_ever_is_a_timeout_after_a_few_connections(network: Network) -> None:
    network.servers[FIRST] = truncated
    found = pending(network.resolver(timeout=6.0).resolve("x.test", "A"))
    network.advance(WAY)
    answered = 0
    for _ in range(200):
        while answered < len(network.tcpClients):
            _, query, send, _ = connect(network)
            send(with_length(truncated(query)))
            answered += 1
        network.advance(0.05)
    assert found == [Answer(DnsStatus.TIMEOUT)]
    assert answered <= 3


# --- Never and late


def test_answers_that_come_too_late_are_for_nobody(network: Network) -> None:
    resolver = network.resolver(timeout=6.0)
    found = pending(resolver.resolve("x.test", "A"))
    network.pump([0.5] * 12)
    assert found == [Answer(DnsStatus.TIMEOUT)]
    socket = network.sockets[0]
    for wire in socket.sent:
        socket.receive(response_to(dns.message.from_wire(wire), "x.test. 60 A 203.0.113.66").to_wire(), FIRST)
    assert found == [Answer(DnsStatus.TIMEOUT)]
    network.advance(2)
    network.servers[FIRST] = serving("x.test. 60 A 192.0.2.9")
    assert ask(network, resolver, "x.test", "A").status is DnsStatus.FOUND


def test_those_who_stop_waiting_for_their_turn_leave_the_queue(network: Network) -> None:
    resolver = network.resolver()
    for number in range(500):
        resolver.resolve(f"{number}.test", "A")
    for number in range(5000):
        answer = resolver.resolve(f"waiting{number}.test", "A")
        assert isinstance(answer, Deferred), "the queue is full of those who have gone"
        pending(answer)
        answer.cancel()
    assert len(network.asked) == 500


FAILURES: list[tuple[Callable[[Network], None], DnsStatus]] = [
    (lambda network: network.servers.update({FIRST: serving(rcode=dns.rcode.NXDOMAIN)}), DnsStatus.NXDOMAIN),
    (lambda network: network.servers.update({FIRST: serving()}), DnsStatus.NODATA),
    (lambda network: network.servers.update({FIRST: serving(rcode=dns.rcode.SERVFAIL)}), DnsStatus.SERVFAIL),
    (lambda network: None, DnsStatus.TIMEOUT),
    (lambda network: network.refusing.add(FIRST), DnsStatus.TIMEOUT),
]


@pytest.mark.parametrize(("prepare", "status"), FAILURES, ids=["nxdomain", "nodata", "servfail", "silent", "refused"])
def test_the_failures_are_told_apart(network: Network, prepare: Callable[[Network], None], status: DnsStatus) -> None:
    prepare(network)
    resolver = Resolver(network, [FIRST], 6.0, 10, Random(1))
    found = pending(resolver.resolve("x.test", "A"))
    network.pump([0.5] * 12)
    assert found == [Answer(status)]
    assert found[0].is_temporary is (status in (DnsStatus.SERVFAIL, DnsStatus.TIMEOUT))  # type: ignore[union-attr]
