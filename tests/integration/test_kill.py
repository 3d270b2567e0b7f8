"""`kill -9` of the running daemon, at random moments, under load: what was acknowledged is delivered, reported, or
still there.

MAILGATE_CRASH=long kills it for about ten minutes in all.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from configurations import configuration
from ledger import DOMAIN, HOME, Hop, Ledger, Load, leftovers, queued
from parts import Gateway, children_of, free_port, is_alive, wait_until

IS_LONG = os.environ.get("MAILGATE_CRASH", "short") == "long"
KILLS = 15 if IS_LONG else 3

Build = Callable[[str, int], Gateway]

#: Connections to the next hop, and how many messages may come once more for each kill: those that are under way, and
#: those that have been answered without that being written.
CONNECTIONS = 20
AGAIN = 2 * CONNECTIONS

ROUTES = """
[routes.hop]
transport = "smtp"
hosts = ["127.0.0.1:{port}"]
connections = {connections}
retry = {{ first = "500ms", longest = "1s" }}
"""


@dataclass(frozen=True)
class Scene:
    """What the load is like."""

    size: Callable[[int], int] = lambda number: 2000
    words: Callable[[int], Sequence[str]] = lambda number: ("ok",)
    reloads: bool = False


def _mixed(number: int) -> int:
    return (2000, 500, 200_000, 6000)[number % 4]


SCENES = {
    "small messages, in the database": Scene(),
    "large messages, in files": Scene(size=lambda number: 150_000 + number % 7 * 50_000),
    "mail that is put off, refused and reported": Scene(
        size=_mixed, words=lambda number: (("later",), ("no",), ("ok", "later", "no"), ("later", "slow"))[number % 4]
    ),
    "in mid-delivery": Scene(size=_mixed, words=lambda number: ("slow",)),
    "in mid-reload": Scene(
        size=_mixed, words=lambda number: (("ok",), ("slow", "later"), ("no",))[number % 3], reloads=True
    ),
}


def text_for(port: int, hop: Hop, *, connections: int = CONNECTIONS, gateway: str = "") -> str:
    routes = ROUTES.format(port=hop.port, connections=connections)
    return configuration(port, routes, domains={DOMAIN: "hop", HOME: "hop"}, gateway=gateway)


@contextlib.contextmanager
def reloading(gateway: Gateway, texts: Sequence[str]) -> Iterator[threading.Event]:
    """SIGHUP again and again, with another file each time, for as long as the event is set."""
    go_on, over = threading.Event(), threading.Event()
    draft = gateway.file.with_suffix(".draft")

    def storm() -> None:
        number = 0
        while not over.wait(0.1):
            if go_on.is_set():
                number += 1
                draft.write_text(texts[number % len(texts)])
                draft.replace(gateway.file)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(gateway.pid, signal.SIGHUP)
        gateway.file.write_text(texts[0])

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        yield go_on
    finally:
        over.set()
        thread.join()


def mail_flows(ledger: Ledger) -> None:
    """Wait until some more mail has been acknowledged."""
    before = len(ledger.acknowledged)
    wait_until(lambda: len(ledger.acknowledged) > before + 40, "mail flows")


def check(ledger: Ledger, gateway: Gateway, kills: int, most_again: int) -> None:
    """Everything has come to its end, and nothing is left; what came once more is within its bound."""
    try:
        wait_until(lambda: not ledger.missing(), "everything acknowledged is delivered or reported", 120)
    except AssertionError:
        print(sorted(ledger.missing(queued(gateway))), gateway.command("queue", "list").stdout[-3000:])
        raise
    wait_until(lambda: queued(gateway) == set(), "the queue is empty", 60)
    excused, unexcused = ledger.again()
    print(f"{len(ledger.acknowledged)} acknowledged, {kills} kills, 0 lost, {excused} delivered again")
    assert unexcused == []
    assert excused <= most_again
    assert ledger.damaged() == []
    assert ledger.wrongly_told() == set()
    assert leftovers(gateway.directory / "state" / "spool") == []
    assert gateway.stop() == 0
    assert leftovers(gateway.directory / "state" / "spool") == []
    assert not list((gateway.directory / "state" / "spool").glob("spool.db-*"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_kill_under_load_loses_nothing_acknowledged(build: Build, scene: Scene) -> None:
    ledger = Ledger()
    chance = random.Random()
    seed = chance.getrandbits(32)
    print(f"seed {seed}")
    chance.seed(seed)
    port = free_port()
    with Hop(ledger) as hop:
        text = text_for(port, hop)
        gateway = build(text, port)
        gateway.start()
        texts = [text, text_for(port, hop, connections=5), text + "\n[this is no\n"] if scene.reloads else [text]
        load = Load(port, ledger, size=scene.size, words=scene.words)
        with reloading(gateway, texts) as storm:
            try:
                for _ in range(KILLS):
                    if scene.reloads:
                        storm.set()
                    mail_flows(ledger)
                    time.sleep(chance.random())
                    storm.clear()
                    with ledger.down():
                        gateway.stop(signal.SIGKILL)
                        gateway.file.write_text(text)
                        assert ledger.missing(queued(gateway)) == set()
                    gateway.start()
            finally:
                load.stop()
                hop.slowness = 0.0  # what is left need not take its time
        assert len(ledger.acknowledged) > KILLS * 40
        # After a reload, what is under way on the old connections may be as much again.
        check(ledger, gateway, KILLS, KILLS * AGAIN * (4 if scene.reloads else 1))


@pytest.mark.timeout(300)
def test_kill_while_the_next_hop_is_down(build: Build) -> None:
    ledger = Ledger()
    port = free_port()
    hop = Hop(ledger)
    gateway = build(text_for(port, hop), port)
    gateway.start()
    load = Load(port, ledger, size=_mixed)
    wait_until(lambda: len(ledger.acknowledged) > 300, "mail is taken")
    with ledger.down():
        gateway.stop(signal.SIGKILL)
    load.stop()
    assert ledger.missing(queued(gateway)) == set()
    gateway.start()
    with hop:
        check(ledger, gateway, 1, 0)


@pytest.mark.timeout(300)
def test_kill_while_it_starts(build: Build) -> None:
    """Again and again, before it is ready and shortly after: each start finds what the last one has left."""
    ledger = Ledger()
    port = free_port()
    chance = random.Random(11)
    hop = Hop(ledger)
    gateway = build(text_for(port, hop), port)
    gateway.start()
    load = Load(port, ledger, size=_mixed, words=lambda number: ("ok", "no"))
    wait_until(lambda: len(ledger.acknowledged) > 400, "mail is taken")
    load.stop()
    gateway.stop(signal.SIGKILL)
    with hop:
        kills = 3 * KILLS
        for _ in range(kills):
            gateway.begin()
            time.sleep(0.5 + 1.5 * chance.random())
            with ledger.down():
                gateway.stop(signal.SIGKILL)
                time.sleep(0.1)
                wait_until(lambda: hop.connections == 0, "the next hop has read what came")
        assert ledger.missing(queued(gateway)) == set()
        gateway.start()
        check(ledger, gateway, kills, kills * AGAIN)


def await_another(gateway: Gateway, workers: Sequence[int]) -> None:
    """Wait until one that is none of these runs."""
    wait_until(lambda: len(set(children_of(gateway.pid)) - set(workers)) == 1, "another worker runs", 60)


def await_end(workers: Sequence[int]) -> None:
    """Wait until none of them runs any more."""
    wait_until(lambda: not any(map(is_alive, workers)), "the workers have ended", 60)


@pytest.mark.timeout(900)
def test_kill_one_worker_of_two(build: Build) -> None:
    """The other goes on, another takes its place, and nobody stops the gateway."""
    ledger = Ledger()
    port = free_port()
    chance = random.Random(12)
    with Hop(ledger) as hop:
        gateway = build(text_for(port, hop, gateway="workers = 2"), port)
        gateway.start()
        wait_until(lambda: gateway.log.read_bytes().count(b"accepts and delivers") == 2, "both workers serve")
        load = Load(port, ledger, size=_mixed, words=lambda number: (("ok",), ("slow", "later"), ("no",))[number % 3])
        kills = 10 if IS_LONG else 2 * KILLS  # with more of them so soon, the supervisor waits longer and longer
        try:
            for _ in range(kills):
                mail_flows(ledger)
                time.sleep(chance.random())
                workers = children_of(gateway.pid)
                victim = chance.choice(workers)
                with ledger.down():
                    os.kill(victim, signal.SIGKILL)
                    await_another(gateway, workers)
        finally:
            load.stop()
        check(ledger, gateway, kills, kills * AGAIN)


@pytest.mark.timeout(900)
def test_kill_the_supervisor_and_its_workers(build: Build) -> None:
    """First the supervisor alone, which its workers notice; then all at once."""
    ledger = Ledger()
    port = free_port()
    with Hop(ledger) as hop:
        gateway = build(text_for(port, hop, gateway="workers = 2"), port)
        gateway.start()
        load = Load(port, ledger, size=_mixed, words=lambda number: ("ok", "later"))
        try:
            for number in range(KILLS):
                mail_flows(ledger)
                workers = children_of(gateway.pid)
                with ledger.down():
                    gateway.stop(signal.SIGKILL)
                    for worker in workers if number % 2 else ():
                        os.kill(worker, signal.SIGKILL)
                    await_end(workers)
                    assert ledger.missing(queued(gateway)) == set()
                gateway.start()
        finally:
            load.stop()
        check(ledger, gateway, KILLS, KILLS * AGAIN)
