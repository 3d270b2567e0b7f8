"""Whatever breaks, and wherever: an inline message is neither lost nor doubled, and its client is told the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailgate.events import Delivered, MessageAccepted
from tests.memory.configured import HOST, ZONE, configuration
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop

WORDS = ("EHLO", "MAIL", "RCPT bob@example.org", "RCPT ann@example.org", "DATA", "END")
FAULTS = (
    "",
    "450 4.0.0 not now",
    "550 5.0.0 never",
    "421 4.3.2 closing",
    "354 too early",
    "250 2.0.0 too early",
    "nonsense",
    "silent",
    "cut",
)
LEAVES = ("", "after RCPT", "within content", "after content")
CONTENT = b"Subject: x\r\n\r\nhello\r\n"


class Hop(NextHop):
    """It breaks as it is told to, and counts what it has said yes to."""

    def __init__(self, world: World, *, lmtp: bool) -> None:
        super().__init__(world, HOST, 24 if lmtp else 25, lmtp=lmtp)
        self.faults: dict[str, str] = {}
        self.promised: list[str] = []

    def reply(self, word: str, recipient: str, otherwise: str) -> str | None:
        fault = self.faults.get(f"{word} {recipient}".strip(), self.faults.get(word, ""))
        if fault == "cut":
            self.cut()
            return None
        if fault == "silent":
            return None
        if word == "END" and recipient and fault[:1] in ("", "2"):
            self.promised.append(recipient)
        return fault or super().reply(word, recipient, otherwise)


@dataclass(frozen=True)
class Case:
    word: str
    fault: str
    leaves: str
    mode: Literal["defer", "queue"]
    lmtp: bool
    warm: bool  # a connection is idle from before
    dawdles: bool = False  # for so long that the next hop's session is given up meanwhile


cases = st.builds(
    Case,
    word=st.sampled_from(WORDS),
    fault=st.sampled_from(FAULTS),
    leaves=st.sampled_from(LEAVES),
    mode=st.sampled_from(("defer", "queue")),
    lmtp=st.booleans(),
    warm=st.booleans(),
    dawdles=st.booleans(),
)


def run(world: World, case: Case, folder: Path) -> None:
    hop = Hop(world, lmtp=case.lmtp)
    transport = "lmtp" if case.lmtp else "smtp"
    inside = f'transport = "{transport}"\nhosts = ["{HOST}"]\nqueue = false\nwhen_unreachable = "{case.mode}"'
    gateway = MemoryGateway(world, folder / "gw", configuration(inside=inside), ZONE).start()
    try:
        if case.warm:
            gateway.connect().mail("eve@client.test", "warm@example.org")
            hop.promised.clear()
        hop.faults = {case.word: case.fault}
        client = gateway.connect()
        client.say(b"EHLO client.test\r\nMAIL FROM:<eve@client.test>\r\n")
        accepted: list[str] = []
        for name in ("bob@example.org", "ann@example.org"):
            client.say(f"RCPT TO:<{name}>\r\n".encode())
            if case.dawdles or not client.received:
                world.run(70.0)
            if client.received.startswith(b"2"):
                accepted.append(name)
            assert client.received[:1] in (b"2", b"4", b"5")
        answer = b""
        if case.leaves == "after RCPT":
            client.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
        elif accepted:
            assert client.say(b"DATA\r\n")[0].startswith("354")
            if case.leaves == "within content":
                client.say(b"Subject: x\r\n")
                client.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
            else:
                client.say(CONTENT + b".\r\n")
                if case.leaves == "after content" and not client.received:
                    client.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
                world.run(600.0)
                answer = client.received
        has_left = client.is_closed or case.leaves in ("after RCPT", "within content")
        world.run(700.0)
        promised, queued = set(hop.promised), {name for name, state in gateway.queue().items() if name != "warm"}
        told_delivered = {one.recipient for one in gateway.of(Delivered)} - {"warm@example.org"}
        # What the client was promised is here or there.
        if answer.startswith(b"2"):
            everybody = {one for event in gateway.of(MessageAccepted) for one in event.recipients}
            assert set(accepted) <= promised | queued | told_delivered
            assert set(accepted) <= everybody
        elif answer:
            assert not promised, "the next hop has taken it, and the client was told no"
            assert not queued
        elif not has_left:
            assert not accepted
        # And the other way round: what the next hop has taken, somebody was told of.
        assert not (promised - told_delivered)
        if case.leaves in ("after RCPT", "within content"):
            assert not promised
            assert not queued
        # The hop is well again: nobody gets a second copy, and what is queued goes out.
        hop.faults = {}
        world.run(86400.0)
        assert len(hop.promised) == len(set(hop.promised))
        assert gateway.queue() == {}
        if answer.startswith(b"2"):
            assert set(hop.promised) >= set(accepted)
    finally:
        gateway.stop()


@settings(max_examples=60)
@given(cases)
@example(Case("END", "cut", "", "queue", lmtp=False, warm=False))
@example(Case("DATA", "cut", "", "queue", lmtp=False, warm=True))
@example(Case("MAIL", "cut", "", "defer", lmtp=False, warm=True))
@example(Case("RCPT ann@example.org", "silent", "", "queue", lmtp=False, warm=False))
@example(Case("END", "", "after content", "defer", lmtp=True, warm=True))
def test_nothing_is_lost_or_doubled(case: Case) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        world = World()
        patch.setattr(time, "time", world.reactor.seconds)
        run(world, case, Path(folder))


@pytest.mark.parametrize("mode", ["defer", "queue"])
def test_an_idle_connection_that_is_dead_is_no_trouble_of_the_clients(
    world: World, tmp_path: Path, mode: Literal["defer", "queue"]
) -> None:
    hop = Hop(world, lmtp=False)
    inside = f'transport = "smtp"\nhosts = ["{HOST}"]\nqueue = false\nwhen_unreachable = "{mode}"'
    gateway = MemoryGateway(world, tmp_path / "gw", configuration(inside=inside), ZONE).start()
    gateway.connect().mail("eve@client.test", "bob@example.org")
    dead = hop.open[-1]
    dead.dataReceived = lambda data: hop.cut()  # type: ignore[method-assign]
    (answer,) = gateway.connect().mail("eve@client.test", "ann@example.org")
    assert answer.startswith("250 2.0.0 taken (")
    assert hop.sessions == 2
    assert gateway.queue() == {}
