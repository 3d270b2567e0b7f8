"""The world of a test, whose time is the spool's time too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.memory.gateway import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # A gateway sets these for its process, which is that of the tests here.
    umask, handler = os.umask(0o077), signal.getsignal(signal.SIGHUP)
    world = World()
    world.at_work.watch(monkeypatch)
    monkeypatch.setattr(time, "time", world.reactor.seconds)
    yield world
    for gateway in list(world.gateways):
        gateway.stop()
    os.umask(umask)
    signal.signal(signal.SIGHUP, handler)
