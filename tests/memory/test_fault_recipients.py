"""Next hops that take a message for some of its recipients: each has its own fate, by SMTP and by LMTP."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mailgate.events import Bounced, Deferred, Delivered
from tests.memory.configured import ZONE, configuration
from tests.memory.faulty import FAULTS, FaultyHop
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop
from tests.memory.test_faults import LARGE, ROWS

LMTP = 'transport = "lmtp"\nhosts = ["unix:/run/lmtp"]'
NAMES = ("a", "b", "c", "d")
PEOPLE = tuple(f"{name}@example.org" for name in NAMES)


def fates(gateway: MemoryGateway, kind: type[Delivered | Deferred | Bounced]) -> set[str]:
    """The local parts of the recipients that had such an event."""
    return {event.recipient.partition("@")[0] for event in gateway.of(kind) if event.recipient in PEOPLE}


def copies(hop: FaultyHop | NextHop) -> Counter[str]:
    """How often each has got the message."""
    return Counter(one.partition("@")[0] for mail in hop.mails for one in mail.recipients)


def lmtp_box(world: World, path: Path, **how: Any) -> tuple[MemoryGateway, FaultyHop, NextHop]:
    box = FaultyHop(world, "/run/lmtp", 0, offers=["PIPELINING"], **how)
    gateway = MemoryGateway(world, path / "gw", configuration(inside=LMTP), ZONE).start()
    return gateway, box, NextHop(world, "192.0.2.50")


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row[0] not in ("STARTTLS", "SECURE")], ids=lambda row: " ".join(row[:2])
)
def test_a_mailbox_server_goes_wrong(world: World, tmp_path: Path, row: list[str]) -> None:
    """By LMTP, where no other host is: as by SMTP, but that there is no HELO to fall back to."""
    phase, fault, _, expected, seconds, *twice = row
    if (phase, fault) == ("EHLO", "5xx"):
        expected = "later"
    gateway, box, home = lmtp_box(world, tmp_path, phase=phase, fault=fault)
    gateway.connect().mail("ann@client.test", *PEOPLE, content=LARGE)
    world.run(float(seconds) + (float(seconds) > 0))
    assert fates(gateway, Delivered) == (set(NAMES) if expected == "here" else set())
    assert fates(gateway, Deferred) == (set(NAMES) if expected == "later" else set())
    assert fates(gateway, Bounced) == (set(NAMES) if expected == "bounce" else set())
    box.heal()
    world.run(1200)
    assert gateway.queue() == {}
    assert fates(gateway, Delivered) == (set(NAMES) if expected != "bounce" else set())
    assert len(home.mails) == (expected == "bounce")
    assert copies(box) == ({} if expected == "bounce" else dict.fromkeys(NAMES, 2 if twice else 1))
    assert box.open == 0


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_mailbox_server_goes_wrong_between_two_recipients(
    world: World, tmp_path: Path, fault: str, after: int
) -> None:
    gateway, box, home = lmtp_box(world, tmp_path, phase="END", fault=fault, after=after)
    gateway.connect().mail("ann@client.test", *PEOPLE)
    world.run(601 if fault == "silent" else 0)
    sure, others = set(NAMES[:after]), set(NAMES[after:])
    assert fates(gateway, Delivered) == sure
    assert fates(gateway, Bounced if fault == "5xx" else Deferred) == others
    box.heal()
    world.run(1200)
    assert gateway.queue() == {}
    # Those who have it for sure do not get it again; the others do, who may have it or not.
    unsure = 1 if fault == "4xx" else 2
    assert copies(box) == dict.fromkeys(sure, 1) | ({} if fault == "5xx" else dict.fromkeys(others, unsure))
    assert len(home.mails) == (fault == "5xx")
    if home.mails:
        report = home.mails[0].octets
        assert {name for name in NAMES if f"Final-Recipient: rfc822; {name}@".encode() in report} == others


ZONE_2 = ZONE | {("example.org", "MX"): ZONE["far.test", "MX"]}
BY_MX = 'transport = "smtp"'

# After RCPT was answered 250, 450, 550 and 250: what becomes of the two that were accepted.
PARTIAL = """
    DATA      silent   next    300
    DATA      4xx      later   0
    DATA      5xx      bounce  0
    DATA      garbage  next    0
    DATA      421      next    0
    DATA      reset    next    0
    CONTENT   silent   next    300
    CONTENT   reset    next    0
    CONTENT   421      next    0
    END       silent   later   600  twice
    END       4xx      later   0
    END       5xx      bounce  0
    END       garbage  later   0    twice
    END       421      later   0    twice
    END       reset    later   0    twice
"""


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
@pytest.mark.parametrize(
    "row", [line.split() for line in PARTIAL.splitlines() if line], ids=lambda row: " ".join(row[:2])
)
def test_a_next_hop_goes_wrong_when_it_has_taken_some(
    world: World, tmp_path: Path, row: list[str], pipelining: bool
) -> None:
    phase, fault, expected, seconds, *twice = row
    first = FaultyHop(
        world,
        phase=phase,
        fault=fault,
        offers=["8BITMIME", *["PIPELINING"] * pipelining],
        answers={"b@example.org": "450 4.2.0 busy", "c@example.org": "550 5.1.1 who?"},
    )
    second, home = NextHop(world, "192.0.2.62"), NextHop(world, "192.0.2.50")
    gateway = MemoryGateway(world, tmp_path / "gw", configuration(inside=BY_MX), ZONE_2).start()
    gateway.connect().mail("ann@client.test", *PEOPLE, content=LARGE)
    world.run(float(seconds) + 1)
    taken = {"a", "d"}
    assert fates(gateway, Delivered) == (taken if expected == "next" else set())
    assert fates(gateway, Deferred) == {"b"} | (taken if expected == "later" else set())
    assert fates(gateway, Bounced) == {"c"} | (taken if expected == "bounce" else set())
    # Nobody else is asked for those who had an answer.
    assert copies(second) == (dict.fromkeys(taken, 1) if expected == "next" else {})
    reported = b"".join(mail.octets for mail in home.mails)
    for name in NAMES:
        assert (f"Final-Recipient: rfc822; {name}@".encode() in reported) == (name in fates(gateway, Bounced))
    first.heal()
    first.answers = {}
    world.run(1200)
    assert gateway.queue() == {}
    later = {"b"} | (taken if expected == "later" else set())
    assert copies(first) == {name: 1 + (bool(twice) and name in taken) for name in later}
    assert copies(second).total() == (2 if expected == "next" else 0)


@pytest.mark.parametrize("lmtp", [False, True], ids=["SMTP", "LMTP"])
def test_nobody_is_taken(world: World, tmp_path: Path, lmtp: bool) -> None:
    place = ("/run/lmtp", 0) if lmtp else ("192.0.2.1", 25)
    answers = {PEOPLE[0]: "450 4.2.0 busy", PEOPLE[1]: "550 5.1.1 who?"}
    box = FaultyHop(world, *place, answers=answers)
    home = NextHop(world, "192.0.2.50")
    text = configuration(inside=LMTP) if lmtp else configuration()
    gateway = MemoryGateway(world, tmp_path / "gw", text, ZONE).start()
    gateway.connect().mail("ann@client.test", *PEOPLE[:2])
    assert (fates(gateway, Delivered), fates(gateway, Deferred), fates(gateway, Bounced)) == (set(), {"a"}, {"b"})
    assert (box.mails, len(home.mails)) == ([], 1)
    box.answers = {}
    world.run(400)
    assert copies(box) == {"a": 1}
    assert gateway.queue() == {}
