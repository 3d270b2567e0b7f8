"""The resolver against servers in memory: what it asks, what it believes, and what it makes of it."""

from __future__ import annotations

import io
from collections.abc import Awaitable
from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError as TwistedRefused
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgate.dns.client_name import confirmed_name
from mailgate.dns.messages import Query
from mailgate.dns.resolver import system_servers
from mailgate.dns.transport import Transport
from mailgate.interfaces import Answer, DnsStatus, IResolver
from tests.unit.dns_stand import (
    FIRST,
    SECOND,
    WAY,
    Handler,
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


# --- What an answer becomes


@pytest.mark.parametrize(
    ("rdtype", "records", "expected"),
    [
        ("A", ["x.test. 60 A 192.0.2.7"], (IPv4Address("192.0.2.7"),)),
        ("AAAA", ["x.test. 60 AAAA 2001:db8::7"], (IPv6Address("2001:db8::7"),)),
        (
            "MX",
            ["x.test. 60 MX 20 B.test.", "x.test. 60 MX 5 c.test.", "x.test. 60 MX 20 a.test."],
            ((5, "c.test"), (20, "a.test"), (20, "b.test")),
        ),
        ("MX", ["x.test. 60 MX 0 ."], ((0, ""),)),
        ("TXT", ['x.test. 60 TXT "v=spf1 " "-all"'], (b"v=spf1 -all",)),
        ("TXT", ['x.test. 60 TXT "\\255"'], (b"\xff",)),
        ("PTR", ["x.test. 60 PTR Mail.Example.TEST."], ("mail.example.test",)),
        ("PTR", ["x.test. 60 PTR a\\032b.test."], ("a\\032b.test",)),
        ("CNAME", ["x.test. 60 CNAME Y.test."], ("y.test",)),
        ("SRV", ["x.test. 60 SRV 1 2 25 a.test."], ("1 2 25 a.test.",)),
    ],
)
def test_records(network: Network, rdtype: str, records: list[str], expected: tuple[object, ...]) -> None:
    network.servers[FIRST] = serving(*records)
    assert ask(network, network.resolver(), "x.test", rdtype) == Answer(DnsStatus.FOUND, expected, 60.0)


def test_a_chain_of_cnames_is_followed_and_has_the_shortest_ttl(network: Network) -> None:
    network.servers[FIRST] = serving("a.test. 50 CNAME b.test.", "b.test. 40 CNAME c.test.", "c.test. 60 A 192.0.2.3")
    expected = Answer(DnsStatus.FOUND, (IPv4Address("192.0.2.3"),), 40.0, alias="c.test")
    resolver = network.resolver()
    assert ask(network, resolver, "a.test", "A") == expected
    assert resolver.resolve("a.test", "A") == expected  # as it was kept


def test_a_circle_of_cnames_is_no_answer(network: Network) -> None:
    network.servers[FIRST] = serving("a.test. 60 CNAME b.test.", "b.test. 60 CNAME a.test.")
    assert ask(network, network.resolver(), "a.test", "A").status is DnsStatus.SERVFAIL


SOA = "test. {ttl} SOA ns.test. hostmaster.test. 1 3600 600 86400 {minimum}"


@pytest.mark.parametrize(
    ("rcode", "status"), [(dns.rcode.NXDOMAIN, DnsStatus.NXDOMAIN), (dns.rcode.NOERROR, DnsStatus.NODATA)]
)
@pytest.mark.parametrize(("ttl", "minimum", "expected"), [(900, 30, 30.0), (20, 300, 20.0), (90000, 90000, 3600.0)])
def test_no_has_two_kinds_and_the_time_of_the_soa(
    network: Network, rcode: dns.rcode.Rcode, status: DnsStatus, ttl: int, minimum: int, expected: float
) -> None:
    network.servers[FIRST] = serving(rcode=rcode, authority=(SOA.format(ttl=ttl, minimum=minimum),))
    resolver = network.resolver()
    assert ask(network, resolver, "no.test", "A") == Answer(status, ttl=expected)
    network.advance(expected - 1)
    kept = resolver.resolve("no.test", "A")
    assert isinstance(kept, Answer)
    assert kept.status is status
    assert kept.ttl == pytest.approx(1.0)
    network.advance(1)
    assert isinstance(resolver.resolve("no.test", "A"), Deferred)


def test_a_cname_into_nothing_is_nxdomain(network: Network) -> None:
    network.servers[FIRST] = serving(
        "a.test. 60 CNAME b.test.", rcode=dns.rcode.NXDOMAIN, authority=(SOA.format(ttl=60, minimum=60),)
    )
    assert ask(network, network.resolver(), "a.test", "A").status is DnsStatus.NXDOMAIN


@pytest.mark.parametrize(
    "handler",
    [
        serving(rcode=dns.rcode.SERVFAIL),
        serving(rcode=dns.rcode.REFUSED),
        serving(rcode=dns.rcode.FORMERR),
        serving(authority=("test. 60 NS ns.test.",)),
        serving("x.test. 60 A 192.0.2.1", rcode=dns.rcode.NXDOMAIN),
    ],
    ids=["servfail", "refused", "formerr", "referral", "contradiction"],
)
def test_a_server_that_has_no_answer_is_left_for_the_next(network: Network, handler: Handler) -> None:
    network.servers = {FIRST: handler, SECOND: serving("x.test. 60 A 192.0.2.9")}
    resolver = network.resolver(FIRST, SECOND, cache_size=0)
    found = pending(resolver.resolve("x.test", "A"))
    network.pump([WAY, WAY])
    assert found == [Answer(DnsStatus.FOUND, (IPv4Address("192.0.2.9"),), 60.0)]
    network.servers[SECOND] = handler
    found = pending(resolver.resolve("x.test", "A"))
    network.pump([WAY, WAY])
    assert [answer.status for answer in found if isinstance(answer, Answer)] == [DnsStatus.SERVFAIL]
    assert len(network.asked) == 4


@pytest.mark.parametrize("flags", [0, dns.flags.AD])
def test_secure_is_what_the_server_vouches_for(network: Network, flags: int) -> None:
    network.servers[FIRST] = serving("x.test. 60 A 192.0.2.9", flags=flags)
    resolver = network.resolver()
    assert ask(network, resolver, "x.test", "A").secure is bool(flags)
    kept = resolver.resolve("x.test", "A")
    assert isinstance(kept, Answer)
    assert kept.secure is bool(flags)


# --- What is asked


def test_the_question(network: Network) -> None:
    network.servers[FIRST] = serving("x.test. 0 A 192.0.2.9")
    resolver = network.resolver()
    for _ in range(20):
        ask(network, resolver, "X.Test.", "A")
    query = network.asked[0][1]
    assert query.question[0].to_text() == "x.test. IN A"
    assert (query.edns, query.payload) == (0, 1232)
    assert query.flags == dns.flags.RD | dns.flags.AD
    assert len({query.id for _, query in network.asked}) == 20


def test_names_with_other_letters_are_asked_as_a_labels(network: Network) -> None:
    network.servers[FIRST] = serving("xn--bcher-kva.test. 60 A 192.0.2.9")
    assert ask(network, network.resolver(), "Bücher.test", "A").status is DnsStatus.FOUND
    assert str(network.asked[0][1].question[0].name) == "xn--bcher-kva.test."


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a..b", ".a", "a..", "@", "x" * 64 + ".test", "x." * 130 + "test", "a b.test", "a\n.test"),
        *("a\\.test", "a\0.test", "\udcff.test", "a.\u200dtest", "ü" * 60 + ".test"),
    ],
)
def test_what_is_no_domain_name_is_nxdomain_unasked(network: Network, name: str) -> None:
    assert network.resolver().resolve(name, "A") == Answer(DnsStatus.NXDOMAIN)
    assert not network.sockets


@given(st.text(max_size=300))
def test_any_name_is_asked_for_or_nxdomain(name: str) -> None:
    answer = Network().resolver().resolve(name, "MX")
    assert isinstance(answer, Deferred) or answer == Answer(DnsStatus.NXDOMAIN)


def test_localhost_is_not_asked_for(network: Network) -> None:
    resolver = network.resolver()
    assert resolver.resolve("localhost", "A") == Answer(DnsStatus.FOUND, (IPv4Address("127.0.0.1"),))
    assert resolver.resolve("A.LocalHost.", "AAAA") == Answer(DnsStatus.FOUND, (IPv6Address("::1"),))
    assert resolver.resolve("localhost", "MX") == Answer(DnsStatus.NODATA)
    assert not network.sockets
    assert isinstance(resolver.resolve("notlocalhost", "A"), Deferred)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.10", "10.2.0.192.in-addr.arpa."),
        ("::ffff:192.0.2.10", "10.2.0.192.in-addr.arpa."),
        ("2001:db8::1", "1" + ".0" * 23 + ".8.b.d.0.1.0.0.2.ip6.arpa."),
    ],
)
def test_reverse(network: Network, address: str, name: str) -> None:
    network.servers[FIRST] = serving(f"{name} 60 PTR mx.test.")
    found = pending(network.resolver().reverse(ip_address(address)))
    network.advance(WAY)
    assert found == [Answer(DnsStatus.FOUND, ("mx.test",), 60.0)]
    assert str(network.asked[0][1].question[0]) == f"{name} IN PTR"


# --- What is believed


def test_only_the_right_answer_from_the_right_place_counts(network: Network) -> None:
    found = pending(network.resolver().resolve("x.test", "A"))
    (socket,) = network.sockets
    query = dns.message.from_wire(socket.sent[0])
    right = response_to(query, "x.test. 60 A 192.0.2.9").to_wire()
    forged = response_to(query, "x.test. 60 A 203.0.113.66").to_wire()
    other_name = dns.message.make_query("y.test", "A", id=query.id)
    other_type = dns.message.make_query("x.test", "AAAA", id=query.id)
    socket.receive(forged, SECOND)
    socket.receive(forged, (FIRST[0], 5300))
    socket.receive((query.id ^ 1).to_bytes(2, "big") + forged[2:], FIRST)
    socket.receive(response_to(other_name, "y.test. 60 A 203.0.113.66").to_wire(), FIRST)
    socket.receive(response_to(other_type, "x.test. 60 AAAA 2001:db8::66").to_wire(), FIRST)
    socket.receive(query.to_wire(), FIRST)
    for end in (0, 1, 2, 11, 12, 20, len(forged) - 1):
        socket.receive(forged[:end], FIRST)
    socket.receive(forged + b"\0", FIRST)
    no_question = dns.message.Message(id=query.id)
    no_question.flags = dns.flags.QR
    no_question.set_rcode(dns.rcode.SERVFAIL)
    socket.receive(no_question.to_wire(), FIRST)
    assert not found
    socket.receive(right, FIRST)
    socket.receive(forged, FIRST)
    assert found == [Answer(DnsStatus.FOUND, (IPv4Address("192.0.2.9"),), 60.0)]


def test_the_case_of_the_question_in_an_answer_does_not_matter(network: Network) -> None:
    network.servers[FIRST] = lambda query: (
        response_to(query, "x.test. 60 A 192.0.2.9").to_wire().replace(b"\1x\4test", b"\1X\4TeSt")
    )
    assert ask(network, network.resolver(), "x.test", "A").status is DnsStatus.FOUND


@given(st.data())
def test_no_datagram_makes_trouble(data: st.DataObject) -> None:
    query = Query(dns.name.from_text("x.test"), "MX")
    wire = bytearray(
        response_to(dns.message.from_wire(query.wire(7)), "x.test. 60 MX 1 a.x.test.", 'x.test. 60 TXT "a"').to_wire()
    )
    for _ in range(data.draw(st.integers(0, 8))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    query.read(bytes(wire[: data.draw(st.integers(0, len(wire)))]))


@given(st.binary(max_size=80))
def test_no_noise_is_an_answer(noise: bytes) -> None:
    assert Query(dns.name.from_text("x.test"), "MX").read(noise) is None


# --- Servers that are slow, dead or away


def test_a_silent_server_is_asked_three_times_and_then_it_is_a_timeout(network: Network) -> None:
    resolver = network.resolver(timeout=6.0)
    found = pending(resolver.resolve("x.test", "A"))
    network.pump([0.5] * 11)
    assert not found
    network.advance(0.5)
    assert found == [Answer(DnsStatus.TIMEOUT)]
    assert len(network.asked) == 3
    assert not network.getDelayedCalls()


def test_a_late_answer_still_counts(network: Network) -> None:
    found = pending(network.resolver(timeout=6.0).resolve("x.test", "A"))
    network.pump([0.5] * 9)
    (first, *_), socket = [query for _, query in network.asked], network.sockets[0]
    socket.receive(response_to(first, "x.test. 60 A 192.0.2.9").to_wire(), FIRST)
    assert found == [Answer(DnsStatus.FOUND, (IPv4Address("192.0.2.9"),), 60.0)]
    assert not network.getDelayedCalls()


def test_the_second_server_answers_for_the_first_and_is_then_preferred(network: Network) -> None:
    network.servers[SECOND] = lambda query: response_to(query, f"{query.question[0].name} 0 A 192.0.2.9")
    resolver = network.resolver(FIRST, SECOND, timeout=6.0)
    found = pending(resolver.resolve("x.test", "A"))
    network.pump([1.5, WAY])
    assert len(found) == 1
    assert [server for server, _ in network.asked] == [FIRST, SECOND]
    ask(network, resolver, "y.test", "A")
    assert network.asked[-1][0] == SECOND
    network.advance(30)
    resolver.resolve("z.test", "A")
    assert network.asked[-1][0] == FIRST


@pytest.mark.parametrize("how", ["refusing", "ending", "unreachable"])
def test_where_nobody_listens_the_next_server_is_asked_at_once(network: Network, how: str) -> None:
    getattr(network, how).add(FIRST)
    network.servers[SECOND] = serving("x.test. 60 A 192.0.2.9")
    found = pending(network.resolver(FIRST, SECOND).resolve("x.test", "A"))
    network.pump([WAY, WAY])
    assert found == [Answer(DnsStatus.FOUND, (IPv4Address("192.0.2.9"),), 60.0)]
    assert how == "refusing" or all(socket.peer == SECOND for socket in network.open_sockets)


@pytest.mark.parametrize("how", ["refusing", "ending", "unreachable"])
def test_a_server_that_restarts_is_waited_for(network: Network, how: str) -> None:
    getattr(network, how).add(FIRST)
    network.servers[FIRST] = lambda query: response_to(query, f"{query.question[0].name} 60 A 192.0.2.9")
    resolver = network.resolver(timeout=6.0)
    answers = [pending(resolver.resolve(f"{number}.test", "A")) for number in range(20)]
    network.pump([0.4] * 4)
    getattr(network, how).clear()
    network.pump([0.5, WAY])
    assert all(found == [Answer(DnsStatus.FOUND, (IPv4Address("192.0.2.9"),), 60.0)] for found in answers)
    assert len(network.open_sockets) <= 4


def test_a_failure_is_remembered_for_two_seconds(network: Network) -> None:
    network.servers[FIRST] = serving(rcode=dns.rcode.SERVFAIL)
    resolver = network.resolver()
    ask(network, resolver, "x.test", "A")
    kept = resolver.resolve("x.test", "A")
    assert isinstance(kept, Answer)
    assert kept.status is DnsStatus.SERVFAIL
    network.advance(2)
    assert isinstance(resolver.resolve("x.test", "A"), Deferred)


def test_one_servfail_and_one_silent_server_are_a_servfail(network: Network) -> None:
    network.servers[FIRST] = serving(rcode=dns.rcode.SERVFAIL)
    found = pending(network.resolver(FIRST, SECOND, timeout=4.0).resolve("x.test", "A"))
    network.pump([0.1] * 41)
    assert found == [Answer(DnsStatus.SERVFAIL)]
    assert [server for server, _ in network.asked].count(FIRST) == 1


# --- Cache, coalescing, bounds


def test_a_kept_answer_is_a_plain_value_whose_time_runs_out(network: Network) -> None:
    network.servers[FIRST] = serving("x.test. 60 A 192.0.2.9")
    resolver = network.resolver()
    ask(network, resolver, "x.test", "A")
    network.advance(45)
    kept = resolver.resolve("X.TEST.", "A")
    assert isinstance(kept, Answer)
    assert kept.records == (IPv4Address("192.0.2.9"),)
    assert kept.ttl == pytest.approx(15.0)
    assert isinstance(resolver.resolve("x.test", "AAAA"), Deferred)
    network.advance(15)
    assert isinstance(resolver.resolve("x.test", "A"), Deferred)


def test_an_answer_is_kept_for_a_day_at_most_and_not_at_all_with_ttl_0(network: Network) -> None:
    network.servers[FIRST] = lambda query: response_to(
        query, f"{query.question[0].name} {604800 if 'long' in str(query.question[0].name) else 0} A 192.0.2.9"
    )
    resolver = network.resolver()
    assert ask(network, resolver, "long.test", "A").ttl == 86400.0
    assert ask(network, resolver, "short.test", "A").ttl == 0.0
    assert isinstance(resolver.resolve("short.test", "A"), Deferred)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_the_cache_has_a_size(network: Network, size: int) -> None:
    network.servers[FIRST] = lambda query: response_to(query, f"{query.question[0].name} 60 A 192.0.2.9")
    resolver = network.resolver(cache_size=size)
    names = [f"{number}.test" for number in range(5)]
    for name in names:
        ask(network, resolver, name, "A")
    kept = [name for name in names if isinstance(resolver.resolve(name, "A"), Answer)]
    assert kept == names[5 - size :]


def test_equal_questions_are_asked_once(network: Network) -> None:
    network.servers[FIRST] = serving("x.test. 60 A 192.0.2.9")
    resolver = network.resolver()
    answers = [pending(resolver.resolve(name, "A")) for name in ("x.test", "X.test", "x.test.")]
    network.advance(WAY)
    assert [len(found) for found in answers] == [1, 1, 1]
    assert len(network.asked) == 1


def test_cancelling_one_who_waits_does_not_disturb_the_others(network: Network) -> None:
    network.servers[FIRST] = serving("x.test. 60 A 192.0.2.9")
    resolver = network.resolver()
    impatient, patient = resolver.resolve("x.test", "A"), resolver.resolve("x.test", "A")
    gone, there = pending(impatient), pending(patient)
    assert isinstance(impatient, Deferred)
    impatient.cancel()
    network.advance(WAY)
    assert isinstance(gone[0], Failure)
    assert gone[0].type is CancelledError
    assert there == [Answer(DnsStatus.FOUND, (IPv4Address("192.0.2.9"),), 60.0)]


def test_one_who_waits_may_cancel_another_when_the_answer_comes(network: Network) -> None:
    network.servers[FIRST] = serving("x.test. 60 A 192.0.2.9")
    resolver = network.resolver()
    first, second = resolver.resolve("x.test", "A"), resolver.resolve("x.test", "A")
    assert isinstance(first, Deferred)
    assert isinstance(second, Deferred)
    gone = pending(second)
    first.addCallback(lambda _: second.cancel())
    network.advance(WAY)
    assert isinstance(gone[0], Failure)


def test_a_question_that_nobody_waits_for_is_dropped(network: Network) -> None:
    resolver = network.resolver()
    for _ in range(2):
        answer = resolver.resolve("x.test", "A")
        assert pending(answer) == []
        assert isinstance(answer, Deferred)
        answer.cancel()
        assert not network.getDelayedCalls()
    assert len(network.asked) == 2


def test_questions_beyond_the_bound_wait_for_their_turn(network: Network) -> None:
    resolver = network.resolver(timeout=6.0)
    answers = [pending(resolver.resolve(f"{number}.test", "A")) for number in range(501)]
    assert len(network.asked) == 500
    query = network.asked[7][1]
    socket = next(socket for socket in network.sockets if query.to_wire() in socket.sent)
    socket.receive(response_to(query, rcode=dns.rcode.NXDOMAIN).to_wire(), FIRST)
    assert answers[7]
    assert len(network.asked) == 501
    assert str(network.asked[-1][1].question[0].name) == "500.test."


def test_the_wait_for_the_turn_counts(network: Network) -> None:
    resolver = network.resolver(timeout=6.0)
    answers = [pending(resolver.resolve(f"{number}.test", "A")) for number in range(2500)]
    assert resolver.resolve("one-too-many.test", "A") == Answer(DnsStatus.TIMEOUT)
    network.pump([2, 2, 2])
    assert all(found == [Answer(DnsStatus.TIMEOUT)] for found in answers)
    assert not network.getDelayedCalls()
    network.servers[FIRST] = serving("x.test. 60 A 192.0.2.9")
    assert ask(network, resolver, "x.test", "A").status is DnsStatus.FOUND


# --- TCP


def test_a_truncated_answer_is_asked_for_by_tcp(network: Network) -> None:
    network.servers[FIRST] = truncated
    found = pending(network.resolver().resolve("x.test", "TXT"))
    network.advance(WAY)
    transport, query, send, _ = connect(network)
    long = "x" * 255
    wire = with_length(response_to(query, "x.test. 60 TXT " + f'"{long}" ' * 20).to_wire(max_size=65535))
    other = with_length(response_to(dns.message.make_query("y.test", "TXT", id=query.id)).to_wire())
    for piece in (other, wire[:1], wire[1:700], wire[700:]):
        assert not found
        send(piece)
    assert found == [Answer(DnsStatus.FOUND, (long.encode() * 20,), 60.0)]
    assert transport.disconnecting or transport.disconnected


def test_a_lost_connection_is_no_answer_and_the_next_server_is_asked(network: Network) -> None:
    network.servers = {FIRST: truncated, SECOND: serving('x.test. 60 TXT "short"')}
    found = pending(network.resolver(FIRST, SECOND).resolve("x.test", "TXT"))
    network.advance(WAY)
    *_, close = connect(network)
    close()
    network.advance(WAY)
    assert found == [Answer(DnsStatus.FOUND, (b"short",), 60.0)]


def test_a_refused_connection_is_no_answer(network: Network) -> None:
    network.servers = {FIRST: truncated, SECOND: serving('x.test. 60 TXT "short"')}
    found = pending(network.resolver(FIRST, SECOND).resolve("x.test", "TXT"))
    network.advance(WAY)
    network.tcpClients[-1][2].clientConnectionFailed(network.connectors[-1], Failure(TwistedRefused()))
    network.advance(WAY)
    assert found == [Answer(DnsStatus.FOUND, (b"short",), 60.0)]


def test_truncation_over_tcp_is_not_taken_for_nodata(network: Network) -> None:
    network.servers = {FIRST: truncated, SECOND: serving('x.test. 60 TXT "short"')}
    found = pending(network.resolver(FIRST, SECOND).resolve("x.test", "TXT"))
    network.advance(WAY)
    _, query, send, _ = connect(network)
    send(with_length(truncated(query)))
    network.advance(WAY)
    assert found == [Answer(DnsStatus.FOUND, (b"short",), 60.0)]


def test_a_connection_that_nobody_waits_for_is_dropped(network: Network) -> None:
    network.servers[FIRST] = truncated
    answer = network.resolver().resolve("x.test", "TXT")
    found = pending(answer)
    network.advance(WAY)
    transport, *_ = connect(network)
    assert isinstance(answer, Deferred)
    answer.cancel()
    assert isinstance(found[0], Failure)
    assert transport.disconnecting or transport.disconnected


# --- Sockets


def test_a_few_sockets_serve_and_are_replaced_after_some_use(network: Network) -> None:
    transport = Transport(network, Random(1))
    query = Query(dns.name.from_text("x.test"), "A")
    for _ in range(5000):
        transport.exchange(FIRST, query).addErrback(lambda failure: failure.trap(CancelledError)).cancel()
        network.advance(0)
        assert len(network.open_sockets) <= 4
    assert len(network.sockets) == 8
    assert max(len(socket.sent) for socket in network.sockets) == 1000


def test_an_old_socket_is_replaced_and_closed_when_its_questions_are_done(network: Network) -> None:
    resolver = network.resolver(timeout=400.0)
    waiting = [pending(resolver.resolve(f"{number}.test", "A")) for number in range(4)]
    network.advance(120)
    for number in range(4, 60):
        resolver.resolve(f"{number}.test", "A")
    old = network.sockets[:4]
    assert len(network.sockets) == 8
    assert all(socket.is_open for socket in old)
    for socket in old:
        for wire in socket.sent:
            socket.receive(response_to(dns.message.from_wire(wire), rcode=dns.rcode.NXDOMAIN).to_wire(), FIRST)
    assert all(waiting)
    network.advance(0)
    assert not any(socket.is_open for socket in old)


def test_servers_of_the_other_family_get_sockets_of_their_own(network: Network) -> None:
    resolver = network.resolver(("2001:DB8:0::53", 53))
    network.servers["2001:db8::53", 53] = serving("x.test. 60 A 192.0.2.9")
    ask(network, resolver, "x.test", "A")
    assert network.sockets[0].interface == "::"


def test_close_ends_everything(network: Network) -> None:
    resolver = network.resolver()
    found = pending(resolver.resolve("x.test", "A"))
    resolver.close()
    assert found == [Answer(DnsStatus.TIMEOUT)]
    network.advance(0)
    assert not network.open_sockets
    assert not network.getDelayedCalls()
    assert resolver.resolve("y.test", "A") == Answer(DnsStatus.TIMEOUT)
    resolver.close()


def test_it_is_a_resolver(network: Network) -> None:
    assert verifyObject(IResolver, network.resolver())
    with pytest.raises(ValueError, match="resolver"):
        network.resolver(("resolver", 53))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 192.0.2.53\n# nameserver 192.0.2.54\nnameserver 2001:db8::53\nsearch x.test\n", 2),
        ("search x.test\n", 0),
        ("", 0),
    ],
)
def test_the_servers_of_the_system(text: str, expected: int) -> None:
    servers = system_servers(io.StringIO(text))
    assert servers == ([("192.0.2.53", 53), ("2001:db8::53", 53)] if expected else [("127.0.0.1", 53)])


def test_a_malformed_system_configuration_is_an_error() -> None:
    with pytest.raises(ValueError, match="no-address"):
        system_servers(io.StringIO("nameserver no-address\n"))


# --- The client's name


@implementer(IResolver)
class Names:
    """Answers from a table, at once or later; what is not in it is NXDOMAIN."""

    def __init__(self, table: dict[tuple[str, str], Answer], *, later: bool) -> None:
        self.table = table
        self.later = later
        self.asked: list[tuple[str, str]] = []
        self.waiting: list[tuple[Deferred[Answer], Answer]] = []

    def resolve(self, name: str, rdtype: str) -> Answer | Awaitable[Answer]:
        self.asked.append((name, rdtype))
        answer = self.table.get((name, rdtype), Answer(DnsStatus.NXDOMAIN))
        if not self.later:
            return answer
        waiting: Deferred[Answer] = Deferred()
        self.waiting.append((waiting, answer))
        return waiting

    def reverse(self, address: IPv4Address | IPv6Address) -> Answer | Awaitable[Answer]:
        return self.resolve(address.reverse_pointer, "PTR")


V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")


def of(*records: object) -> Answer:
    return Answer(DnsStatus.FOUND, records, 60.0)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("address", "names", "addresses", "expected"),
    [
        (V4, ["mx.test"], {("mx.test", "A"): of(ip_address("192.0.2.9"), V4)}, "mx.test"),
        (V6, ["mx.test"], {("mx.test", "AAAA"): of(V6)}, "mx.test"),
        (ip_address("::ffff:192.0.2.10"), ["mx.test"], {("mx.test", "A"): of(V4)}, "mx.test"),
        (V4, ["liar.test"], {("liar.test", "A"): of(ip_address("192.0.2.9"))}, ""),
        (V4, ["liar.test", "mx.test"], {("mx.test", "A"): of(V4)}, "mx.test"),
        (V4, ["slow.test", "mx.test"], {("slow.test", "A"): Answer(DnsStatus.TIMEOUT)}, ""),
        (V4, ["mx.test"], {("mx.test", "A"): Answer(DnsStatus.SERVFAIL)}, ""),
        (V4, ["a\\032b.test"], {("a\\032b.test", "A"): of(V4)}, ""),
        (V4, ["<script>.test"], {("<script>.test", "A"): of(V4)}, ""),
        (V4, [f"{n}.test" for n in range(6)], {("4.test", "A"): of(V4)}, "4.test"),
        (V4, [f"{n}.test" for n in range(6)], {("5.test", "A"): of(V4)}, ""),
        (V4, [], {}, ""),
    ],
)
def test_the_confirmed_name(
    address: IPv4Address | IPv6Address,
    names: list[str],
    addresses: dict[tuple[str, str], Answer],
    expected: str,
    later: bool,
) -> None:
    pointer = (V6 if address == V6 else V4).reverse_pointer, "PTR"
    table = {**addresses, pointer: of(*names) if names else Answer(DnsStatus.NXDOMAIN)}
    resolver = Names(table, later=later)
    name = confirmed_name(resolver, address)
    if not later:
        assert name == expected
        return
    assert not isinstance(name, str)
    result: list[str] = []
    Deferred.fromCoroutine(name).addCallback(result.append)  # type: ignore[arg-type]  # it is a coroutine
    while resolver.waiting:
        waiting, answer = resolver.waiting.pop()
        waiting.callback(answer)
    assert result == [expected]


@pytest.mark.parametrize("status", [DnsStatus.TIMEOUT, DnsStatus.SERVFAIL])
def test_no_pointer_for_now_is_no_name(status: DnsStatus) -> None:
    assert confirmed_name(Names({(V4.reverse_pointer, "PTR"): Answer(status)}, later=False), V4) == ""
