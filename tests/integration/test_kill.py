"""What was acknowledged survives kill -9, and is delivered after the restart."""

from __future__ import annotations

import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from configurations import configuration
from load import Load
from parts import Gateway, Sink, free_port, wait_until

pytestmark = pytest.mark.needs("smtp-sink")

_ID = re.compile(rb"^Message-ID: <(\d+)@load\.test>", re.MULTILINE)

ROUTES = """
[routes.sink]
transport = "smtp"
hosts = ["127.0.0.1:{port}"]
retry = {{ first = "500ms", longest = "1s" }}
"""


def delivered(dump: Path) -> Counter[int]:
    """How often each number has reached the sink."""
    return Counter(int(number) for number in _ID.findall(dump.read_bytes())) if dump.exists() else Counter()


@pytest.mark.timeout(240)
def test_kill_under_load_loses_nothing_acknowledged(base: Path) -> None:
    port = free_port()
    with Sink(base / "sink", "-D", str(base / "sink" / "dump")) as sink:
        dump = base / "sink" / "dump"
        text = configuration(port, ROUTES.format(port=sink.port), domains={"kill.test": "sink"})
        gateway = Gateway(base / "gateway", text, [port])
        gateway.start()
        # Every seventh message is too large for the database and lies in a file.
        load = Load(port, 8, lambda number: 200_000 if number % 7 == 0 else 2_000)
        chance = random.Random(20261124)
        kills = 6
        try:
            for _ in range(kills):
                before = len(load.acknowledged)
                wait_until(lambda before=before: len(load.acknowledged) > before + 50, "mail flows")  # type: ignore[misc]
                time.sleep(chance.random())
                gateway.stop(signal.SIGKILL)
                gateway.start()
        finally:
            load.stop()
        wait_until(lambda: load.acknowledged <= set(delivered(dump)), "everything acknowledged is delivered", 120)
        counts = delivered(dump)
        # Duplicates are bounded by what was in flight to the next hop at each kill.
        twice = sum(count - 1 for count in counts.values())
        print(f"{len(load.acknowledged)} acknowledged, {kills} kills, 0 lost, {twice} delivered again")
        assert len(load.acknowledged) > kills * 50
        assert twice <= kills * 40
        assert gateway.stop() == 0


@pytest.mark.timeout(120)
def test_kill_while_the_next_hop_is_down(base: Path) -> None:
    port, next_hop = free_port(), free_port()
    text = configuration(port, ROUTES.format(port=next_hop), domains={"kill.test": "sink"})
    gateway = Gateway(base / "gateway", text, [port])
    gateway.start()
    load = Load(port, 4, lambda number: 100_000 if number % 5 == 0 else 1_000)
    wait_until(lambda: len(load.acknowledged) > 300, "mail is taken")
    gateway.stop(signal.SIGKILL)
    load.stop()
    gateway.start()
    dump = base / "sink" / "dump"
    with Sink(base / "sink", "-D", str(dump), port=next_hop):
        wait_until(lambda: load.acknowledged <= set(delivered(dump)), "everything acknowledged is delivered", 90)
    assert gateway.stop() == 0
