"""Next hops that go wrong, through the whole gateway: what becomes of the mail, and that nothing is lost or doubled."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mailgate.events import Bounced, Deferred, Delivered
from tests.memory.configured import configuration
from tests.memory.faulty import FAULTS, PHASES, FaultyHop
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop

#: far.test has two hosts, of which the second is always well; lone.test has one.
ZONE: dict[tuple[str, str], Any] = {
    ("client.test", "MX"): [(10, "mx.client.test")],
    ("mx.client.test", "A"): [ip_address("192.0.2.50")],
    ("far.test", "MX"): [(10, "mx1.far.test"), (20, "mx2.far.test")],
    ("mx1.far.test", "A"): [ip_address("192.0.2.61")],
    ("mx2.far.test", "A"): [ip_address("192.0.2.62")],
    ("lone.test", "MX"): [(10, "mx1.far.test")],
}

#: More than goes out in one piece, so that there is a time when some of it has come and its end has not.
LARGE = b"Subject: large\r\n\r\n" + 40_000 * b"0123456789abcdef\r\n"

# What becomes of a message, and when. "here": the faulty host has it all the same, "next": another host has it at once,
# "later": it is tried again after the first wait of the schedule, "bounce": its sender gets a report. The first word is
# for a domain with another host that is well, the second for one without; then the seconds that it takes until then.
# "twice": the host may have taken it before it went wrong, and gets it once more.
TABLE = """
    CONNECT   silent   next    later   30
    CONNECT   refused  next    later   0
    BANNER    silent   next    later   300
    BANNER    4xx      next    later   0
    BANNER    5xx      next    later   0
    BANNER    garbage  next    later   0
    BANNER    421      next    later   0
    BANNER    reset    next    later   0
    EHLO      silent   next    later   300
    EHLO      4xx      next    later   0
    EHLO      5xx      here    here    0
    EHLO      garbage  next    later   0
    EHLO      421      next    later   0
    EHLO      reset    next    later   0
    STARTTLS  silent   here    here    300
    STARTTLS  4xx      here    here    0
    STARTTLS  5xx      here    here    0
    STARTTLS  garbage  next    later   0
    STARTTLS  421      next    later   0
    STARTTLS  reset    here    here    0
    SECURE    silent   here    here    30
    SECURE    4xx      here    here    0
    SECURE    garbage  here    here    0
    SECURE    reset    here    here    0
    MAIL      silent   next    later   300
    MAIL      4xx      later   later   0
    MAIL      5xx      bounce  bounce  0
    MAIL      garbage  next    later   0
    MAIL      421      next    later   0
    MAIL      reset    next    later   0
    RCPT      silent   next    later   300
    RCPT      4xx      later   later   0
    RCPT      5xx      bounce  bounce  0
    RCPT      garbage  next    later   0
    RCPT      421      next    later   0
    RCPT      reset    next    later   0
    DATA      silent   next    later   300
    DATA      4xx      later   later   0
    DATA      5xx      bounce  bounce  0
    DATA      garbage  next    later   0
    DATA      421      next    later   0
    DATA      reset    next    later   0
    CONTENT   silent   next    later   300
    CONTENT   4xx      later   later   0
    CONTENT   5xx      bounce  bounce  0
    CONTENT   garbage  next    later   0
    CONTENT   421      next    later   0
    CONTENT   reset    next    later   0
    END       silent   later   later   600  twice
    END       4xx      later   later   0
    END       5xx      bounce  bounce  0
    END       garbage  later   later   0    twice
    END       421      later   later   0    twice
    END       reset    later   later   0    twice
    QUIT      silent   here    here    0
    QUIT      4xx      here    here    0
    QUIT      5xx      here    here    0
    QUIT      garbage  here    here    0
    QUIT      421      here    here    0
    QUIT      reset    here    here    0
"""
ROWS = [line.split() for line in TABLE.splitlines() if line]


def test_the_table_has_every_phase_and_every_fault() -> None:
    named = {(phase, fault) for phase, fault, *_ in ROWS}
    # A connection is there or not; a handshake knows no replies. RSET has a test of its own.
    expected = {(phase, fault) for phase in PHASES for fault in FAULTS if phase not in ("CONNECT", "SECURE", "RSET")}
    assert expected <= named
    assert {"CONNECT", "SECURE"} <= {phase for phase, _ in named}


class Scene:
    """A gateway, the hosts of far.test, and a client's mail to one of the domains."""

    def __init__(
        self, world: World, path: Path, phase: str = "", fault: str = "", *, tls: str = "", **more: Any
    ) -> None:
        self.world = world
        self.first = FaultyHop(world, phase=phase, fault=fault, **more)
        self.second = NextHop(world, "192.0.2.62")
        self.home = NextHop(world, "192.0.2.50")
        text = configuration()
        if tls:
            text = text.replace("[routes.internet]\n", f'[routes.internet]\ntls = "{tls}"\n')
        self.gateway = MemoryGateway(world, path / "gw", text, ZONE).start()
        self.begin = world.reactor.seconds()

    def send(self, *recipients: str, content: bytes = LARGE) -> None:
        (reply,) = self.gateway.connect("out", "10.0.0.1").mail("ann@client.test", *recipients, content=content)
        assert reply.startswith("250 ")

    def fates(self, recipient: str) -> list[int]:
        """How often its mail was delivered, deferred, bounced."""
        kinds = (Delivered, Deferred, Bounced)
        return [sum(event.recipient == recipient for event in self.gateway.of(kind)) for kind in kinds]

    def is_over(self) -> None:
        """Nothing is under way or left behind."""
        self.world.run(60)
        assert self.first.open == 0
        assert self.gateway.queue() == {}
        for name in ("content", "incoming", "set-aside"):
            assert list((self.gateway.places.spool / name).iterdir()) == []


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
@pytest.mark.parametrize("domain", ["far.test", "lone.test"], ids=["with another host", "alone"])
@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]} {row[1]}" for row in ROWS])
def test_a_next_hop_goes_wrong(world: World, tmp_path: Path, row: list[str], domain: str, pipelining: bool) -> None:
    phase, fault, with_another, alone, seconds, *twice = row
    expected = with_another if domain == "far.test" else alone
    offers = ["8BITMIME", *["PIPELINING"] * pipelining, *["STARTTLS"] * (phase in ("STARTTLS", "SECURE"))]
    scene = Scene(world, tmp_path, phase, fault, offers=offers)
    gateway, first, second, home = scene.gateway, scene.first, scene.second, scene.home
    recipient = f"bob@{domain}"
    scene.send(recipient)
    if float(seconds):
        world.run(float(seconds) - 1)
        assert scene.fates(recipient) == [0, 0, 0]
        world.run(2)
    # What has come of it.
    assert (
        scene.fates(recipient)
        == {
            "here": [1, 0, 0],
            "next": [1, 0, 0],
            "later": [0, 1, 0],
            "bounce": [0, 0, 1],
        }[expected]
    )
    assert len(second.mails) == (expected == "next")
    assert len(home.mails) == (expected == "bounce")
    if expected != "later":
        assert len(first.mails) == (expected == "here")
        scene.is_over()
        return
    (deferred,) = gateway.of(Deferred)
    assert 269 < deferred.next_attempt - deferred.at < 331
    (entry,) = gateway.entries()
    assert (entry.recipient, entry.attempts, entry.next_attempt) == (recipient, 1, deferred.next_attempt)
    assert second.sessions == 0
    copies = len(first.mails)
    assert copies == len(twice)
    first.heal()
    world.run(deferred.next_attempt - world.reactor.seconds() - 1)
    assert len(first.mails) == copies, "too early"
    world.run(15 * 60)
    assert len(first.mails) == copies + 1
    assert {mail.octets[mail.octets.index(b"Subject: ") :] for mail in first.mails} == {LARGE}
    assert [event.attempt for event in gateway.of(Delivered)] == [2]
    assert scene.fates(recipient) == [1, 1, 0]
    assert home.mails == []
    scene.is_over()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
def test_rset_goes_wrong(world: World, tmp_path: Path, fault: str, pipelining: bool) -> None:
    """The first message of the session was refused; the second is not to suffer for what RSET comes to."""
    scene = Scene(
        world,
        tmp_path,
        "RSET",
        fault,
        offers=["8BITMIME", *["PIPELINING"] * pipelining],
        answers={"no@lone.test": "550 5.1.1 nobody"},
        times=1,
    )
    scene.send("no@lone.test", content=b"Subject: 1\r\n\r\n")
    assert len(scene.home.mails) == 1
    scene.send("bob@lone.test", content=b"Subject: 2\r\n\r\n")
    assert "RSET" in scene.first.commands
    world.run(301 if fault == "silent" else 0)
    assert [mail.recipients for mail in scene.first.mails] == [("bob@lone.test",)]
    assert scene.gateway.of(Deferred) == []
    assert scene.first.sessions == 2
    scene.is_over()


@pytest.mark.parametrize("row", [row for row in ROWS if row[0] in ("STARTTLS", "SECURE")], ids=" ".join)
def test_where_tls_is_required_nothing_goes_without(world: World, tmp_path: Path, row: list[str]) -> None:
    scene = Scene(world, tmp_path, row[0], row[1], tls="required", offers=["STARTTLS", "8BITMIME"])
    # The other host does not even offer it.
    scene.send("bob@far.test")
    world.run(1000)
    assert [scene.first.mails, scene.second.mails, scene.home.mails] == [[], [], []]
    assert scene.gateway.of(Deferred) != []
    assert not any(command.startswith("MAIL") for command in scene.first.commands + scene.second.commands)
    assert scene.gateway.queue() == {"bob@far.test": "queued"} or scene.gateway.entries()[0].state == "leased"
