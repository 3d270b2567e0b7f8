"""Hosts that are slow, choosy, dead or not there, and DNS that knows nothing, or too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest
from twisted.internet.interfaces import IDelayedCall

from mailgate.dns.resolver import Resolver
from mailgate.events import Bounced, Deferred, Delivered
from mailgate.interfaces import DnsStatus
from tests.memory.configured import configuration
from tests.memory.faulty import FaultyHop
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop
from tests.unit.dns_stand import Network

Zone = dict[tuple[str, str], Any]

MX1, MX2, V6_1, V6_2 = map(ip_address, ("192.0.2.61", "192.0.2.62", "2001:db8::61", "2001:db8::62"))
HOME: Zone = {
    ("client.test", "MX"): [(10, "mx.client.test")],
    ("mx.client.test", "A"): [ip_address("192.0.2.50")],
}
BOTH: Zone = {("far.test", "MX"): [(10, "mx1.far.test"), (20, "mx2.far.test")]}


def gateway_with(world: World, path: Path, zone: Zone, text: str = "") -> MemoryGateway:
    return MemoryGateway(world, path / "gw", text or configuration(), HOME | zone).start()


def send(gateway: MemoryGateway, *recipients: str, content: bytes = b"Subject: x\r\n\r\nhello\r\n") -> None:
    gateway.connect("out", "10.0.0.1").mail("ann@client.test", *recipients, content=content)


# -- what DNS says


@dataclass
class Case:
    """`up` are the addresses at which a server is. `takes` is the one that has the mail at the end, "" where nobody;
    `asked` those that were connected to for it, in order, at the first attempt. Where it does not go out at once,
    `status` is that of our finding, 4yz where it is tried again."""

    zone: Zone
    up: Sequence[str] = ()
    takes: str = ""
    asked: Sequence[str] = ()
    status: str = ""
    domain: str = "far.test"
    later: Zone = field(default_factory=dict)


def mx(*hosts: str) -> Zone:
    return {("far.test", "MX"): [(10 * (number + 1), host) for number, host in enumerate(hosts)]}


CASES = {
    "MX": Case(mx("mx1.far.test") | {("mx1.far.test", "A"): [MX1]}, [str(MX1)], str(MX1), [str(MX1)]),
    "the second host, where the first is down": Case(
        BOTH | {("mx1.far.test", "A"): [MX1], ("mx2.far.test", "A"): [MX2]}, [str(MX2)], str(MX2), [str(MX1), str(MX2)]
    ),
    "the second host, where the first has no address": Case(
        BOTH | {("mx2.far.test", "A"): [MX2]}, [str(MX2)], str(MX2), [str(MX2)]
    ),
    "the second host, where nobody knows the first one's address": Case(
        BOTH | {("mx1.far.test", "A"): DnsStatus.SERVFAIL, ("mx2.far.test", "A"): [MX2]},
        [str(MX2)],
        str(MX2),
        [str(MX2)],
    ),
    "the second address, where the first is dead": Case(
        mx("mx1.far.test") | {("mx1.far.test", "A"): [MX1, MX2]}, [str(MX2)], str(MX2), [str(MX1), str(MX2)]
    ),
    "no MX, but an address": Case({("far.test", "A"): [MX1]}, [str(MX1)], str(MX1), [str(MX1)]),
    "no MX, but an IPv6 address": Case({("far.test", "AAAA"): [V6_1]}, [str(V6_1)], str(V6_1), [str(V6_1)]),
    "no MX and no address": Case({("far.test", "TXT"): ["hello"]}, status="5.1.2"),
    "no MX, and nobody knows the address": Case(
        {("far.test", "A"): DnsStatus.SERVFAIL}, [str(MX1)], str(MX1), status="4.4.4", later={("far.test", "A"): [MX1]}
    ),
    "NXDOMAIN": Case({}, status="5.1.2"),
    "null MX": Case({("far.test", "MX"): [(0, "")], ("far.test", "A"): [MX1]}, [str(MX1)], status="5.1.10"),
    "null MX beside another": Case(
        {("far.test", "MX"): [(0, ""), (10, "mx1.far.test")], ("mx1.far.test", "A"): [MX1]},
        [str(MX1)],
        str(MX1),
        [str(MX1)],
    ),
    "SERVFAIL": Case(
        {("far.test", "MX"): DnsStatus.SERVFAIL, ("far.test", "A"): [MX1]},
        [str(MX1)],
        str(MX1),
        status="4.4.3",
        later={("far.test", "MX"): []},
    ),
    "time-out": Case(
        {("far.test", "MX"): DnsStatus.TIMEOUT, ("far.test", "A"): [MX1]},
        [str(MX1)],
        str(MX1),
        status="4.4.3",
        later={("far.test", "MX"): []},
    ),
    "an MX that does not exist": Case(
        mx("mx1.far.test"), [str(MX1)], str(MX1), status="4.4.4", later={("mx1.far.test", "A"): [MX1]}
    ),
    "an MX whose addresses time out": Case(
        mx("mx1.far.test") | {("mx1.far.test", "A"): DnsStatus.TIMEOUT, ("mx1.far.test", "AAAA"): DnsStatus.TIMEOUT},
        [str(V6_1)],
        str(V6_1),
        status="4.4.4",
        later={("mx1.far.test", "AAAA"): [V6_1]},
    ),
    "IPv6 only": Case(mx("mx1.far.test") | {("mx1.far.test", "AAAA"): [V6_1]}, [str(V6_1)], str(V6_1), [str(V6_1)]),
    "IPv6, where IPv4 is dead": Case(
        mx("mx1.far.test") | {("mx1.far.test", "A"): [MX1], ("mx1.far.test", "AAAA"): [V6_1]},
        [str(V6_1)],
        str(V6_1),
        [str(MX1), str(V6_1)],
    ),
    "IPv4, where IPv6 is dead": Case(
        BOTH | {("mx1.far.test", "AAAA"): [V6_1], ("mx2.far.test", "A"): [MX2]},
        [str(MX2)],
        str(MX2),
        [str(V6_1), str(MX2)],
    ),
    "IPv6, where nobody knows the IPv4 address": Case(
        mx("mx1.far.test") | {("mx1.far.test", "A"): DnsStatus.SERVFAIL, ("mx1.far.test", "AAAA"): [V6_1]},
        [str(V6_1)],
        str(V6_1),
        [str(V6_1)],
    ),
    "all dead, in both families": Case(
        BOTH
        | {
            ("mx1.far.test", "A"): [MX1],
            ("mx1.far.test", "AAAA"): [V6_1],
            ("mx2.far.test", "A"): [MX2],
            ("mx2.far.test", "AAAA"): [V6_2],
        },
        asked=[str(MX1), str(V6_1), str(MX2), str(V6_2)],
        status="4.4.1",
    ),
    "an address literal": Case({}, ["192.0.2.61"], "192.0.2.61", ["192.0.2.61"], domain="[192.0.2.61]"),
    "an IPv6 literal": Case({}, [str(V6_1)], str(V6_1), [str(V6_1)], domain="[IPv6:2001:db8::61]"),
    "an MX that points to this host": Case(
        mx("gw.example.org", "mx2.far.test") | {("mx2.far.test", "A"): [MX2]}, [str(MX2)], status="4.4.6"
    ),
    "this host as the second MX": Case(
        mx("mx1.far.test", "gw.example.org", "mx2.far.test")
        | {("mx1.far.test", "A"): [MX1], ("mx2.far.test", "A"): [MX2]},
        [str(MX2)],
        asked=[str(MX1)],
        status="4.4.1",
    ),
    "an MX that points to loopback": Case(
        mx("mx1.far.test") | {("mx1.far.test", "A"): [ip_address("127.0.0.1")]}, ["127.0.0.1"], status="4.4.6"
    ),
    "an MX that points to loopback by IPv6": Case(
        mx("mx1.far.test") | {("mx1.far.test", "AAAA"): [ip_address("::1")]}, ["::1"], status="4.4.6"
    ),
    "an MX that points to no address": Case(
        mx("mx1.far.test") | {("mx1.far.test", "A"): [ip_address("0.0.0.0")]},  # noqa: S104  nobody listens
        ["0.0.0.0"],  # noqa: S104
        status="4.4.6",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_where_dns_sends_it(world: World, tmp_path: Path, case: Case) -> None:
    hops = {address: NextHop(world, address) for address in case.up}
    home = NextHop(world, "192.0.2.50")
    gateway = gateway_with(world, tmp_path, case.zone)
    send(gateway, f"bob@{case.domain}")
    mine = [address for _, address in world.attempts if address != "192.0.2.50"]
    assert mine == list(case.asked)
    if case.status.startswith("5"):
        # Said at once, and once.
        (bounced,) = gateway.of(Bounced)
        assert f" {case.status} " in bounced.reply
        (report,) = home.mails
        assert f"Status: {case.status}\r\n".encode() in report.octets
        assert gateway.queue() == {}
        assert not any(hop.mails for hop in hops.values())
        return
    assert (gateway.of(Bounced), home.mails) == ([], [])
    if case.status:
        (deferred,) = gateway.of(Deferred)
        assert f" {case.status} " in deferred.reply
        assert 269 < deferred.next_attempt - deferred.at < 331
        assert gateway.of(Delivered) == []
    gateway.zone.update(case.later)
    if not case.takes:
        world.run(3600)
        assert gateway.queue() == {f"bob@{case.domain}": "queued"}
        assert not any(hop.mails for hop in hops.values())
        return
    if case.later:
        gateway.resolver.update(case.later)  # type: ignore[union-attr]  # it is the one of tests
    world.run(400)
    assert [address for address, hop in hops.items() if hop.mails] == [case.takes]
    assert len(hops[case.takes].mails) == 1
    assert gateway.queue() == {}


# -- DNS itself, by the real resolver


class _Names(Network):
    """DNS servers in the world's time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def seconds(self) -> float:
        return self._world.reactor.seconds()

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> IDelayedCall:  # noqa: A002
        return self._world.reactor.callLater(delay, callable, *args, **kw)


class _Asking(MemoryGateway):
    """Its resolver is the real one."""

    names: _Names

    def make_resolver(self) -> Resolver:
        return Resolver(self.names, [("192.0.2.2", 53)], 10.0, 100, self.random)


def _answers(*lines: str) -> Any:
    """A server that answers each question with those of the records that lead there from its name."""
    parts = [line.split(None, 4) for line in lines]
    sets = [dns.rrset.from_text(name, int(ttl), rdclass, rdtype, data) for name, ttl, rdclass, rdtype, data in parts]

    def answer(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query, recursion_available=True)
        question = query.question[0]
        name = question.name
        for _ in range(20):
            found = [one for one in sets if one.name == name and one.rdtype in (question.rdtype, 5)]
            if not found or found[0] in response.answer:
                break
            response.answer.append(found[0])
            if found[0].rdtype != 5:
                break
            name = found[0][0].target
        if not response.answer:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    return answer


NAMES = {
    "a chain to the MX": (
        [
            "far.test. 60 IN CNAME far2.test.",
            "far2.test. 60 IN CNAME far3.test.",
            "far3.test. 60 IN MX 10 mx.test.",
            "mx.test. 60 IN A 192.0.2.61",
        ],
        "delivered",
    ),
    "a chain to the address": (
        [
            "far.test. 60 IN MX 10 mx.test.",
            "mx.test. 60 IN CNAME mx2.test.",
            "mx2.test. 60 IN CNAME mx3.test.",
            "mx3.test. 60 IN A 192.0.2.61",
        ],
        "delivered",
    ),
    "a chain in both, without MX": (["far.test. 60 IN CNAME far2.test.", "far2.test. 60 IN A 192.0.2.61"], "delivered"),
    "a circle": (["far.test. 60 IN CNAME far2.test.", "far2.test. 60 IN CNAME far.test."], "later"),
    "no such domain": (["other.test. 60 IN A 192.0.2.61"], "bounced"),
    "no server answers": (None, "later"),
}


@pytest.mark.parametrize(("lines", "fate"), NAMES.values(), ids=NAMES)
def test_names_of_names(world: World, tmp_path: Path, lines: list[str] | None, fate: str) -> None:
    hop, home = NextHop(world, "192.0.2.61"), NextHop(world, "192.0.2.50")
    _Asking.names = names = _Names(world)
    records = ["client.test. 60 IN MX 10 mx.client.test.", "mx.client.test. 60 IN A 192.0.2.50"]
    if lines is not None:
        names.servers["192.0.2.2", 53] = _answers(*lines, *records)
    text = configuration().replace("trusted_networks", "resolve_clients = false\ntrusted_networks")
    gateway = _Asking(world, tmp_path / "gw", text).start()
    send(gateway, "bob@far.test")
    world.run(30)
    assert len(hop.mails) == (fate == "delivered")
    assert len(home.mails) == (fate == "bounced")
    assert gateway.queue() == ({"bob@far.test": "queued"} if fate == "later" else {})
    if fate == "later":
        names.servers["192.0.2.2", 53] = _answers(*NAMES["a chain to the MX"][0] or (), *records)
        world.run(400)
        assert len(hop.mails) == 1
        assert (gateway.queue(), home.mails) == ({}, [])


# -- hosts


LONE: Zone = {("far.test", "MX"): [(10, "mx1.far.test")], ("mx1.far.test", "A"): [MX1]}


def test_a_host_that_takes_one_connection_at_a_time(world: World, tmp_path: Path) -> None:
    """It is slow, so that there is a second one, which is refused by 421. That is held against no message."""
    hop = FaultyHop(world, at_once=1, pace=0.05)
    gateway = gateway_with(world, tmp_path, LONE)
    client = gateway.connect("out", "10.0.0.1")
    for number in range(40):
        client.mail("ann@client.test", f"u{number}@far.test")
    world.run(1)
    assert hop.most > 1
    world.run(4 * 3600)
    assert sorted(mail.recipients for mail in hop.mails) == sorted((f"u{number}@far.test",) for number in range(40))
    assert gateway.queue() == {}
    assert gateway.of(Bounced) == []


def test_a_tarpit_that_comes_to_an_end(world: World, tmp_path: Path) -> None:
    """One octet a second; no reply takes longer than we wait for one. Others do not wait for it."""
    slow, quick = FaultyHop(world, pace=1.0, offers=["8BITMIME"]), NextHop(world, "192.0.2.62")
    zone = LONE | {("near.test", "MX"): [(10, "mx2.far.test")], ("mx2.far.test", "A"): [MX2]}
    gateway = gateway_with(world, tmp_path, zone)
    send(gateway, "bob@far.test")
    send(gateway, "bob@near.test")
    assert len(quick.mails) == 1
    world.run(200)
    assert len(slow.mails) == 1
    assert [event.attempt for event in gateway.of(Delivered)] == [1, 1]
    assert (gateway.queue(), gateway.of(Deferred)) == ({}, [])


@pytest.mark.parametrize(
    "endless",
    [b"220-hold on\r\n", b"220-x\r\n", b"2", b"220 " + b"y" * 10_000],
    ids=["lines", "short", "digits", "one"],
)
def test_a_tarpit_without_an_end(world: World, tmp_path: Path, endless: bytes) -> None:
    """A greeting that goes on and on, an octet a second: it is left when our patience is over, not after the last."""
    hop = FaultyHop(world, phase="BANNER", fault="endless", endless=endless)
    second = NextHop(world, "192.0.2.62")
    gateway = gateway_with(world, tmp_path, BOTH | {("mx1.far.test", "A"): [MX1], ("mx2.far.test", "A"): [MX2]})
    send(gateway, "bob@far.test")
    world.run(295)
    assert second.mails == []
    world.run(10)
    assert [mail.recipients for mail in second.mails] == [("bob@far.test",)]
    assert (gateway.of(Deferred), hop.open) == ([], 0)


def test_a_dead_host_is_not_asked_for_each_message(world: World, tmp_path: Path) -> None:
    home = NextHop(world, "192.0.2.50")
    gateway = gateway_with(world, tmp_path, LONE)
    client = gateway.connect("out", "10.0.0.1")
    for number in range(60):
        client.mail("ann@client.test", f"u{number}@far.test")
    asked = len(world.attempts)
    assert asked <= 25
    assert len(gateway.queue()) == 60
    world.run(1800)
    assert len(world.attempts) < 60 * 3
    hop = FaultyHop(world)
    world.run(4 * 3600)
    assert sorted(mail.recipients for mail in hop.mails) == sorted((f"u{number}@far.test",) for number in range(60))
    assert (gateway.queue(), home.mails, gateway.of(Bounced)) == ({}, [], [])
