"""The filter dnsbl and a real DNS server: lists that work, that list the world, that are dead, and that are silent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from dns_parts import Knot
from parts import folder, free_port

pytestmark = pytest.mark.needs("knotd")

LISTED, CLEAN, SIX = "198.51.100.7", "198.51.100.8", "2001:db8::7"

LIST = """\
2.0.0.127 A 127.0.0.2
7.100.51.198 A 127.0.0.2
7.100.51.198 A 127.0.0.11
7.100.51.198 TXT "Listed, see " "https://bl.test/198.51.100.7"
2.0.0.0.0.0.f.7.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0 A 127.0.0.2
7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2 A 127.0.0.4
"""


@pytest.fixture(scope="module")
def knot() -> Iterator[Knot]:
    zones = {"bl.test": LIST, "world.test": "* A 127.0.0.2\n", "dead.test": "www A 192.0.2.1\n", "sold.test": SOLD}
    with folder("dnsbl") as directory, Knot(directory / "knot", zones) as server:
        yield server


#: A domain whose list is gone, and whose new owner answers for everything.
SOLD = "* A 192.0.2.80\n"


def ask(servers: Sequence[str], zones: Sequence[object], *clients: str, timeout: float = 5.0) -> list[Any]:
    """What is said, the hits and the silent lists, for each client."""
    task = {"servers": servers, "timeout": timeout, "options": {"zones": zones}, "clients": clients}
    done = subprocess.run(  # noqa: S603  a script of our own
        [sys.executable, str(Path(__file__).with_name("dnsbl_ask.py")), json.dumps(task)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


def test_who_is_listed_is_refused_with_the_text_of_the_list(knot: Knot) -> None:
    listed, clean, six = ask([knot.server], ["bl.test"], LISTED, CLEAN, SIX)
    text = "Listed, see https://bl.test/198.51.100.7"
    assert listed == [f"550 5.7.1 198.51.100.7 is listed by bl.test: {text}", [["bl.test", text]], []]
    assert clean == ["", [], []]
    assert six == ["550 5.7.1 2001:db8::7 is listed by bl.test", [["bl.test", ""]], []]


def test_the_answers_that_count(knot: Knot) -> None:
    zones = [{"zone": "bl.test", "replies": ["127.0.0.[3..10]"]}, {"zone": "bl.test", "replies": ["127.0.0.11"]}]
    ((reply, hits, _silent), (clean, _, _)) = ask([knot.server], zones, LISTED, CLEAN)
    assert len(hits) == 1
    assert reply.startswith("550 5.7.1 ")
    assert clean == ""


@pytest.mark.parametrize("zone", ["world.test", "dead.test", "sold.test"])
def test_lists_that_cannot_be_believed_stop_nobody(knot: Knot, zone: str) -> None:
    clients = [LISTED, *(f"198.51.100.{number}" for number in range(20, 30)), LISTED]
    answers = ask([knot.server], [zone], *clients)
    assert [(reply, hits) for reply, hits, _ in answers] == [("", [])] * len(clients)
    ((name, reason),) = answers[-1][2]
    assert (name, reason.partition(",")[0]) == (zone, "out of use")


def test_a_list_that_its_server_refuses_leaves_the_others_to_decide(knot: Knot) -> None:
    ((reply, hits, silent),) = ask([knot.server], ["bl.test", "elsewhere.example"], LISTED)
    assert reply.startswith("550 5.7.1 198.51.100.7 is listed by bl.test")
    assert len(hits) == 1
    assert silent == [["elsewhere.example", "no answer: servfail"]]


def test_no_server_at_all_is_a_failure() -> None:
    ((reply, _, _),) = ask([f"127.0.0.1:{free_port()}"], ["bl.test", "world.test"], LISTED, timeout=1.0)
    assert reply.startswith("failed: bl.test does not count: no answer: timeout")
