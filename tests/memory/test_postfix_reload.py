"""A reload that brings tables of Postfix: they are read in a thread, and then it is in force, or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from mailgate.events import ConfigRefused, ConfigReloaded
from tests.memory.configured import ZONE, configuration
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop

NEW = '\n[domains."new.test"]\nroute = "inside"\nrecipients = "boxes"\n'


class Threads(ThreadPool):
    """Those of the reactor: what is asked of them is done when a test says so."""

    def __init__(self) -> None:
        super().__init__(0, 1)
        self.asked: list[Callable[[], None]] = []

    def callInThreadWithCallback(self, onResult: Any, func: Any, *values: Any, **named: Any) -> None:  # noqa: N802,N803
        def work() -> None:
            try:
                result = func(*values, **named)
            except Exception:
                onResult(False, Failure())
            else:
                onResult(True, result)

        self.asked.append(work)

    def work(self) -> None:
        """Do what was asked."""
        asked, self.asked = self.asked, []
        for one in asked:
            one()


class Site:
    """A gateway, the threads that its reloads take, and postmap, which prints what `print` says."""

    def __init__(self, world: World, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hop = NextHop(world)
        self.threads = Threads()
        self._folder = folder
        self._world = world
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        self.print('printf "bob@new.test\\tx\\n"')
        (folder / "boxes.db").touch()
        self.gateway = MemoryGateway(world, folder / "gw", configuration(), ZONE).start()
        monkeypatch.setattr(world.reactor, "getThreadPool", lambda: self.threads)

    def print(self, script: str) -> None:
        program = self._folder / "postmap"
        program.write_text(f"#!/bin/sh\necho x >> {self._folder}/calls\n{script}\n")
        program.chmod(0o755)

    @property
    def calls(self) -> int:
        """How often postmap was run."""
        file = self._folder / "calls"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def reload(self, more: str = NEW) -> None:
        table = f'\n[recipients.boxes]\nkind = "postfix"\nmaps = ["hash:{self._folder}/boxes"]\n'
        self.gateway.file.write_text(configuration(table + more, filters='["recipients", "headers"]'))
        self.gateway.reload()
        self._world.run()

    def work(self) -> None:
        self.threads.work()
        self._world.run()

    def rcpt(self, address: str) -> str:
        client = self.gateway.connect()
        return client.say(f"EHLO c.test\r\nMAIL FROM:<ann@c.test>\r\nRCPT TO:<{address}>\r\n".encode())[-1]


@pytest.fixture
def site(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(world, tmp_path, monkeypatch)


def test_a_new_table_is_read_in_a_thread_and_the_old_configuration_serves_meanwhile(site: Site) -> None:
    site.reload()
    assert site.calls == 0
    assert site.rcpt("bob@new.test").startswith("550 5.7.1")
    assert site.rcpt("bob@example.org").startswith("250")
    assert [*site.gateway.of(ConfigReloaded), *site.gateway.of(ConfigRefused)] == []
    site.work()
    assert len(site.gateway.of(ConfigReloaded)) == 1
    assert site.rcpt("bob@new.test").startswith("250")
    assert site.rcpt("eve@new.test").startswith("550 5.1.1")
    assert site.calls == 1


def test_a_table_that_is_known_costs_no_thread_and_is_not_read_again(site: Site) -> None:
    site.reload()
    site.work()
    site.reload(NEW + '\n[domains."other.test"]\nroute = "inside"\n')
    assert site.threads.asked == []
    assert len(site.gateway.of(ConfigReloaded)) == 2
    assert site.rcpt("bob@other.test").startswith("250")
    assert site.calls == 1


def test_a_table_that_cannot_be_read_refuses_the_reload(site: Site) -> None:
    site.print("echo broken >&2; exit 1")
    site.reload()
    site.work()
    (refused,) = site.gateway.of(ConfigRefused)
    (error,) = refused.errors
    assert "recipients.boxes.maps" in error
    assert "postmap cannot read it: broken" in error
    assert site.rcpt("bob@example.org").startswith("250")
    site.print('printf "bob@new.test\\tx\\n"')
    site.reload()
    site.work()
    assert site.rcpt("bob@new.test").startswith("250")


def test_another_mistake_in_the_file_refuses_it_after_the_table_was_read(site: Site) -> None:
    site.reload(NEW.replace("[domains", '[routes.bad]\ntransport = "smtp"\ntls_ca = "none.pem"\n\n[domains'))
    site.work()
    assert len(site.gateway.of(ConfigRefused)) == 1
    assert site.rcpt("bob@new.test").startswith("550 5.7.1")


def test_reloads_that_come_while_a_table_is_read_are_one_more_afterwards(site: Site) -> None:
    site.reload()
    for name in ("second.test", "third.test"):
        site.reload(NEW + f'\n[domains."{name}"]\nroute = "inside"\n')
    assert len(site.threads.asked) == 1
    site.work()
    assert len(site.gateway.of(ConfigReloaded)) == 2
    assert site.rcpt("bob@second.test").startswith("550 5.7.1")
    assert site.rcpt("bob@third.test").startswith("250")
    assert site.calls == 1


def test_a_gateway_that_stops_meanwhile_does_not_go_by_it(site: Site) -> None:
    site.reload()
    site.gateway.stop()
    seen = len(site.gateway.seen)
    site.work()
    assert len(site.gateway.seen) == seen
