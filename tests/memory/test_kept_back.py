"""Quarantine in a whole gateway: kept back by a listener's filters, asked about again by the same, and released."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from zope.interface import implementer

from mailgate.config.schema import Section
from mailgate.envelope import Session, Transaction
from mailgate.events import FilterFailed, OperatorActed, Quarantined, Rescanned
from mailgate.interfaces import FilterServices, IContentFilter, IFilterFactory, IMessageFilter, IMessageModifier
from mailgate.message import Edit, Message, Splice
from mailgate.pipeline.registry import Registry
from mailgate.verdict import Quarantine, Verdict
from tests.memory.configured import ZONE, configuration
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop
from tests.unit.relaying import failures_logged

HOUR = 3600.0


class Mood:
    """What the filter thinks, and how often it was asked."""

    def __init__(self) -> None:
        self.hates = b""
        self.is_broken = False
        self.asked: list[tuple[str, str, str]] = []


@implementer(IContentFilter, IMessageModifier)
class Moody:
    """Keeps back what it hates at the moment, and leaves a mark in the body of all."""

    def __init__(self, mood: Mood) -> None:
        self._mood = mood

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict | None:
        self._mood.asked.append((session.listener, str(session.client), session.helo))
        if self._mood.is_broken:
            raise RuntimeError("broken")
        hates = self._mood.hates
        return Quarantine(f"{hates.decode()} is in it") if hates and hates in message.content.read() else None

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        size = message.content.size
        return [Splice(size, size, b"-- seen\r\n", "mark")]


@implementer(IMessageFilter)
class Counting:
    """Not a content filter: asked once for each message."""

    asked = 0

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> None:
        Counting.asked += 1


@implementer(IFilterFactory)
class Factory:
    summary = "for tests"
    options = Section

    def __init__(self, name: str, made: object) -> None:
        self.name = name
        self._made = made

    def build(self, options: object, services: FilterServices) -> object:
        return self._made


class WithMoody(Registry):
    def __init__(self, mood: Mood) -> None:
        super().__init__()
        self._own = {"moody": Factory("moody", Moody(mood)), "counting": Factory("counting", Counting())}

    def find(self, kind: str) -> IFilterFactory:
        return self._own.get(kind) or super().find(kind)


@pytest.fixture
def mood() -> Mood:
    Counting.asked = 0
    return Mood()


def started(world: World, folder: Path, mood: Mood, quarantine: str = "") -> MemoryGateway:
    text = configuration(filters='["counting", "moody"]') + f"\n[quarantine]\n{quarantine}"
    return MemoryGateway(world, folder, text, ZONE, WithMoody(mood)).start()


def send(gateway: MemoryGateway, content: bytes = b"Subject: x\r\n\r\nvirus\r\n") -> str:
    (reply,) = gateway.connect().mail("ann@client.test", "bob@example.org", content=content)
    assert reply.startswith("250 ")
    return reply.rpartition(" ")[2]


def test_it_goes_when_nobody_objects_any_more(world: World, tmp_path: Path, mood: Mood) -> None:
    hop = NextHop(world)
    gateway = started(world, tmp_path / "gw", mood, 'rescan_every = "2h"\non_pass = "release"')
    mood.hates = b"virus"
    queue_id = send(gateway)
    assert gateway.queue() == {"bob@example.org": "quarantined"}
    assert (tmp_path / "gw/state/quarantine" / queue_id).read_bytes() == b"Subject: x\r\n\r\nvirus\r\n"
    world.run(2 * HOUR + 60)
    assert hop.mails == []
    mood.hates = b""
    world.run(2 * HOUR)
    (mail,) = hop.mails
    assert mail.octets.endswith(b"\r\n\r\nvirus\r\n-- seen\r\n")
    assert gateway.queue() == {}
    assert mood.asked == [mood.asked[0]] * 3  # as when it came, each time
    assert Counting.asked == 1
    (event,) = gateway.of(OperatorActed)
    assert (event.action, event.by) == ("release", "the re-scan")
    gateway.stop()


def test_a_reload_changes_when_filters_are_asked(
    world: World, tmp_path: Path, mood: Mood, monkeypatch: pytest.MonkeyPatch
) -> None:
    NextHop(world)
    gateway = started(world, tmp_path / "gw", mood)
    mood.hates = b"virus"
    send(gateway)
    world.run(100 * HOUR)
    assert len(mood.asked) == 1
    text = gateway.file.read_text().replace("[quarantine]\n", '[quarantine]\nrescan_every = "1h"\n')
    gateway.file.write_text(text)
    monkeypatch.setattr("mailgate.service.Registry", lambda: WithMoody(mood))
    gateway.reload()
    world.run(HOUR + 60)
    assert len(mood.asked) == 2
    gateway.stop()


def test_a_filter_that_is_broken_then_changes_nothing(world: World, tmp_path: Path, mood: Mood) -> None:
    hop = NextHop(world)
    hop.down()
    more = 'rescan_every = "1h"\non_pass = "release"\nrescan_queue = true'
    gateway = started(world, tmp_path / "gw", mood, more)
    mood.hates = b"virus"
    send(gateway)
    send(gateway, b"Subject: x\r\n\r\nfine\r\n")
    assert sorted(one.state for one in gateway.entries()) == ["quarantined", "queued"]
    mood.is_broken = True
    with failures_logged():
        world.run(HOUR + 60)
    assert sorted(one.state for one in gateway.entries()) == ["quarantined", "queued"]
    assert {event.result for event in gateway.of(Rescanned)} == {"unknown"}
    assert len(gateway.of(FilterFailed)) == 2
    gateway.stop()


def test_what_waits_and_is_hated_now_is_kept_back(world: World, tmp_path: Path, mood: Mood) -> None:
    hop = NextHop(world)
    hop.down()
    gateway = started(world, tmp_path / "gw", mood, 'rescan_every = "1h"\nrescan_queue = true')
    bad, fine = send(gateway, b"Subject: x\r\n\r\nlate\r\n"), send(gateway, b"Subject: x\r\n\r\nfine\r\n")
    mood.hates = b"late"
    world.run(HOUR + 60)
    assert {one.queue_id: one.state for one in gateway.entries()} == {bad: "quarantined", fine: "queued"}
    (event,) = gateway.of(Quarantined)
    assert event.reason == "asked again, moody: late is in it"
    hop.up()
    world.run(10 * HOUR)
    assert [b"fine" in mail.octets for mail in hop.mails] == [True]
    gateway.stop()
