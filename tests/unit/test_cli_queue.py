"""`mailgate queue`, on a real spool, with a daemon and without one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailgate.cli.common import printable, size, span
from mailgate.observe.history import read_history
from tests.unit.cli_machine import FIRST, SECOND, THIRD, DaemonThread, Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


@pytest.fixture(params=["stopped", "running"])
def gateway(request: pytest.FixtureRequest, machine: Machine) -> Iterator[Machine]:
    """A machine with three mails, whose daemon runs or does not."""
    machine.add_three()
    if request.param == "stopped":
        machine.close()
        yield machine
    else:
        daemon = DaemonThread(machine)
        yield machine
        daemon.stop()


def test_list(gateway: Machine) -> None:
    entries = gateway.queued()
    assert [(one["queue_id"], one["recipient"], one["attempts"]) for one in entries] == [
        (FIRST, "one@down.test", 1),
        (FIRST, "two@other.test", 1),
        (SECOND, "two@down.test", 1),
        (THIRD, "three@down.test", 1),
    ]
    text = gateway.run("queue", "list", "--domain", "other.test").stdout
    assert f"{FIRST}  " in text
    assert "ann@client.test > two@other.test" in text
    assert "queued, route box, 1 attempt, next attempt in 5m" in text
    assert "last reply: mx.test: 451 4.3.0 later" in text
    assert "one@down.test" not in text
    assert "<> > three@down.test" in gateway.run("queue", "list", "--id", THIRD).stdout


def test_pages(gateway: Machine) -> None:
    page = gateway.run("queue", "list", "--limit", "3")
    assert page.stdout.count(" > ") == 3
    assert f"--after {SECOND}:0" in page.stderr
    rest = gateway.run("queue", "list", "--after", f"{SECOND}:0")
    assert rest.stdout.count(" > ") == 1
    assert rest.stderr == ""
    assert len(gateway.queued("--limit", "10000", FIRST, SECOND)) == 3


def test_nothing_to_list(gateway: Machine) -> None:
    assert gateway.run("queue", "list", "--state", "held").stdout == "No entry fits.\n"
    assert gateway.queued("--older-than", "2h") == []
    gateway.run("queue", "delete", "--all", "--yes")
    assert gateway.run("queue", "list").stdout == "Nothing is in the queue.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "--older-than", "5"),
        ("list", "--after", "x"),
        ("list", "--limit", "0"),
        ("list", "--state", "odd"),
        ("hold",),
        ("delete", "--yes"),
        ("retry", "--all", "--domain", "down.test"),
        ("explode", "--all"),
    ],
)
def test_usage(machine: Machine, arguments: tuple[str, ...]) -> None:
    assert "Usage" in machine.run("queue", *arguments, code=2).stderr


def test_show(gateway: Machine) -> None:
    text = gateway.run("queue", "show", FIRST).stdout
    assert "from ann@client.test, sent by unknown[192.0.2.1]" in text
    assert "to one@down.test: queued, route box, 1 attempt" in text
    assert "will be changed: add at the top: X-A: b" in text
    assert "Subject: hello" in text
    # A terminal is shown what the mail has, and does not obey it.
    assert "the text\\x1b[2J" in text
    shown = json.loads(gateway.run("queue", "show", FIRST, "--json").stdout)
    assert shown["text"] == "the text\x1b[2J\r\n"
    assert "no message 0000000000000000" in gateway.run("queue", "show", "0000000000000000", code=1).stderr


def test_changes(gateway: Machine) -> None:
    assert "1 of 1 recipient(s) held" in gateway.run("queue", "hold", SECOND).stdout
    assert gateway.states()["two@down.test"] == "held"
    assert gateway.run("queue", "retry", SECOND).stdout == "0 of 1 recipient(s) due now\n"
    assert json.loads(gateway.run("queue", "release", "--all", "--json").stdout) == {
        "action": "release",
        "matched": 4,
        "changed": 1,
        "busy": 0,
    }
    gateway.run("queue", "retry", "--domain", "down.test")
    due = {one["recipient"]: one["next_attempt"] <= time.time() for one in gateway.queued()}
    assert due == {"one@down.test": True, "two@other.test": False, "two@down.test": True, "three@down.test": True}
    assert gateway.run("queue", "hold", "--recipient", "x@y.test", code=1).stdout == "No entry fits.\n"


def test_delete_asks(gateway: Machine) -> None:
    refused = gateway.run("queue", "delete", FIRST, code=1, given="n\n")
    assert "Delete 2 recipient(s) of 1 message(s)?" in refused.stderr
    gateway.run("queue", "delete", FIRST, code=1)
    assert len(gateway.states()) == 4
    gateway.run("queue", "delete", FIRST, given="y\n")
    assert set(gateway.states()) == {"two@down.test", "three@down.test"}
    assert "No entry fits" in gateway.run("queue", "delete", FIRST, code=1).stdout
    gateway.run("queue", "delete", SECOND, "--yes")
    assert set(gateway.states()) == {"three@down.test"}


# -- without a daemon


def test_what_was_changed_without_a_daemon_is_in_the_history(machine: Machine) -> None:
    machine.add(FIRST, "one@down.test")
    machine.close()
    machine.run("queue", "hold", FIRST)
    machine.run("queue", "delete", "--all", "--yes")
    (story,) = read_history(machine.places.history, FIRST).stories
    assert [(one["event"], one["action"]) for one in story.entries] == [
        ("operator_acted", "hold"),
        ("operator_acted", "delete"),
    ]
    assert "an administrator asked: hold one@down.test" in machine.run("why", FIRST).stdout


def test_what_a_killed_daemon_was_delivering_can_be_deleted(machine: Machine) -> None:
    machine.add(FIRST, "one@down.test", deferred=False)
    machine.close()
    assert machine.states() == {"one@down.test": "leased"}
    machine.run("queue", "delete", FIRST, "--yes")
    assert machine.states() == {}


def test_looking_writes_no_history(machine: Machine) -> None:
    machine.add(FIRST, "one@down.test")
    machine.close()
    machine.states()
    assert not machine.places.history.exists()


def test_a_spool_that_somebody_else_has(machine: Machine) -> None:
    machine.add(FIRST, "one@down.test")
    error = machine.run("queue", "list", code=1).stderr
    assert "no daemon answers" in error
    assert str(os.getpid()) in error


def test_no_spool_and_no_state(machine: Machine) -> None:
    assert "there is no spool" in machine.run("queue", "list", code=1).stderr
    assert not machine.places.spool.exists()
    machine.places.state_dir.rmdir()
    assert "does not exist" in machine.run("queue", "list", code=1).stderr
    assert not machine.places.state_dir.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read"),
        ("[gateway", "mailgate.toml"),
        ("[gateway]", "state_dir is missing"),
        ("gateway = 3", "state_dir is missing"),
        ("[gateway]\nstate_dir = 3", "no path"),
        (b"\xff", "mailgate.toml"),
    ],
)
def test_a_file_that_does_not_say_where(machine: Machine, text: str | bytes | None, told: str) -> None:
    if text is None:
        machine.file.unlink()
    else:
        machine.file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert told in machine.run("queue", "list", code=1).stderr


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 x\r\nContent-Length: 2\r\n\r\n{}",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 503 x\r\nContent-Length: 9\r\n\r\nshort",
    ],
)
def test_a_daemon_that_answers_nonsense(machine: Machine, answer: bytes) -> None:
    daemon = DaemonThread(machine)
    daemon.broken = answer
    assert "mailgate: the daemon" in machine.run("queue", "list", code=1).stderr
    daemon.stop()


def test_words() -> None:
    assert [span(one) for one in (-5, 0, 59.6, 61, 3600, 90061)] == ["0s", "0s", "1m", "1m 1s", "1h", "1d 1h"]
    assert [size(one) for one in (0, 1023, 1536, 3 * 1024**2, 5 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 MiB",
        "5120.0 GiB",
    ]
    assert printable("a\n\x1b\u009b\u202ejö\ud800") == "a\\n\\x1b\\x9b\\u202ejö\\ud800"
