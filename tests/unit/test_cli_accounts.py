"""`mailgate accounts`, at a daemon and without one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailgate.awaiting import answered, run
from mailgate.events import AccountSuspected
from mailgate.filters.compromised_state import Suspicion
from mailgate.testing import wait_for
from tests.unit.cli_machine import DaemonThread, Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    made.open()
    yield made
    made.close()


@pytest.fixture
def daemon(machine: Machine) -> Iterator[DaemonThread]:
    made = DaemonThread(machine)
    yield made
    made.stop()


def suspect(daemon: DaemonThread, name: str) -> None:
    now = time.time()
    suspicion = Suspicion(("bounces 30 in 1h, limit 30", "odd\x1b"), now + 7200.0, name, "quarantine", now)
    assert wait_for(answered(run(daemon.suspicions.begin(name.lower(), suspicion))))


def test_suspected_accounts(machine: Machine, daemon: DaemonThread) -> None:
    assert "no account is suspected" in machine.run("accounts", "list", code=1).stderr
    for name in ("Eve", "ann@example.org"):
        suspect(daemon, name)
    first, *signals, second, _, _ = machine.run("accounts", "list").stdout.splitlines()
    assert first.startswith("ann@example.org: quarantine, since ")
    assert [one.strip() for one in signals] == ["bounces 30 in 1h, limit 30", "odd\\x1b"]
    assert second.startswith("Eve: quarantine, since ")
    told = json.loads(machine.run("accounts", "list", "--json").stdout)
    assert [one["name"] for one in told["accounts"]] == ["ann@example.org", "Eve"]

    done = machine.run("accounts", "release", "eve", "nobody", code=1)
    assert (done.stdout, done.stderr) == ("eve is not suspected any more\n", "mailgate: nobody is not suspected\n")
    (event,) = machine.events.of(AccountSuspected)
    assert (event.user, event.action, event.by) == ("Eve", "release", "an administrator")
    assert "Eve" not in machine.run("accounts", "list").stdout


def test_nobody_knows_without_a_daemon(machine: Machine) -> None:
    machine.close()
    assert "no daemon runs" in machine.run("accounts", "list", code=1).stderr
    assert "no daemon runs" in machine.run("accounts", "release", "ann", code=1).stderr
