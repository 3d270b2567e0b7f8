"""How the commands find whom to ask, while a daemon starts, stops, or replaces its first worker."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli_machine import FIRST, DaemonThread, Machine

EMPTY = json.dumps({"entries": [], "after": ""}).encode()


class Waiting:
    """The time of a command that waits: `then` is done at its third pause."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses = 0
        self.then: Callable[[], object] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1
        if self.pauses == 3:
            self.then()


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    waiting = Waiting()
    monkeypatch.setattr("mailgate.cli.desk.monotonic", lambda: waiting.now)
    monkeypatch.setattr("mailgate.cli.desk.sleep", waiting.sleep)
    return waiting


class Answering(threading.Thread):
    """A daemon that answers each connection with the next of these; with b"" it ends before it has answered.

    `asked` are the request lines. It listens until the last was asked for.
    """

    def __init__(self, path: Path, *answers: bytes) -> None:
        super().__init__(daemon=True)
        self.asked: list[str] = []
        self._answers = answers
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self.start()

    def run(self) -> None:
        for number, answer in enumerate(self._answers, 1):
            with self._accept() as connection:
                if number == len(self._answers):
                    self._server.close()
                connection.sendall(answer)

    def _accept(self) -> socket.socket:
        """The next connection on which something is asked: a probe asks nothing."""
        while True:
            connection, _ = self._server.accept()
            asked = connection.recv(65536)
            if asked:
                self.asked.append(asked.decode().partition(" HTTP/")[0])
                return connection
            connection.close()


def page(octets: bytes = EMPTY) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(octets), octets)


@pytest.mark.parametrize("left", [False, True], ids=["no socket", "the socket of a dead worker"])
def test_a_daemon_that_starts_is_waited_for(machine: Machine, waiting: Waiting, left: bool) -> None:
    machine.add(FIRST, "one@down.test")
    if left:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(machine.places.control))
    daemons: list[DaemonThread] = []

    def start() -> None:
        machine.places.control.unlink(missing_ok=True)
        daemons.append(DaemonThread(machine))

    waiting.then = start
    assert machine.states() == {"one@down.test": "queued"}
    assert waiting.pauses == 3
    daemons[0].stop()


def test_a_daemon_that_makes_its_spool_is_waited_for(machine: Machine, waiting: Waiting) -> None:
    machine.places.spool.mkdir()
    (machine.places.spool / "lock").touch()
    daemons: list[DaemonThread] = []
    waiting.then = lambda: daemons.append(DaemonThread(machine))
    assert machine.states() == {}
    assert waiting.pauses == 3
    daemons[0].stop()


def test_a_daemon_that_never_answers(machine: Machine, waiting: Waiting) -> None:
    machine.add(FIRST, "one@down.test")
    (line,) = machine.run("queue", "list", code=1).stderr.splitlines()
    assert line.startswith(f"mailgate: no daemon answers at {machine.places.control}, but another process (")
    assert line.endswith(": try again when that has started, or ended")
    assert 5.0 <= waiting.now <= 5.1


def test_a_spool_that_is_never_made(machine: Machine, waiting: Waiting) -> None:
    machine.places.spool.mkdir()
    (machine.places.spool / "lock").touch()
    assert "there is no spool in" in machine.run("queue", "list", code=1).stderr
    assert 5.0 <= waiting.now <= 5.1


def test_a_daemon_that_stops_leaves_the_spool_to_the_command(machine: Machine, waiting: Waiting) -> None:
    machine.add(FIRST, "one@down.test")
    waiting.then = machine.close
    assert machine.states() == {"one@down.test": "queued"}


def test_a_spool_that_is_free_is_not_waited_for(machine: Machine, waiting: Waiting) -> None:
    machine.add(FIRST, "one@down.test")
    machine.close()
    assert machine.states() == {"one@down.test": "queued"}
    assert waiting.pauses == 0


def test_a_worker_that_ends_before_it_answers_is_asked_again(machine: Machine, waiting: Waiting) -> None:
    daemon = Answering(machine.places.control, b"", page())
    assert machine.queued() == []
    assert len(daemon.asked) == 2
    assert daemon.asked[0] == daemon.asked[1]


def test_a_worker_that_ends_in_its_answer_is_asked_again(machine: Machine, waiting: Waiting) -> None:
    daemon = Answering(machine.places.control, page()[:-5], page())
    assert machine.queued() == []
    assert len(daemon.asked) == 2


def test_it_is_asked_again_once(machine: Machine, waiting: Waiting) -> None:
    daemon = Answering(machine.places.control, b"", b"", page())
    assert "the daemon did not answer" in machine.run("queue", "list", code=1).stderr
    assert len(daemon.asked) == 2


def test_a_change_is_never_asked_for_twice(machine: Machine, waiting: Waiting) -> None:
    daemon = Answering(machine.places.control, b"", page())
    assert "the daemon did not answer" in machine.run("queue", "hold", "--all", code=1).stderr
    assert daemon.asked == ["POST /v1/queue/hold"]


def test_the_next_worker_is_waited_for(machine: Machine, waiting: Waiting) -> None:
    first = Answering(machine.places.control, b"")
    later: list[Answering] = []

    def replace() -> None:
        first.join()
        machine.places.control.unlink()
        later.append(Answering(machine.places.control, page()))

    waiting.then = replace
    assert machine.queued() == []
    assert len(later[0].asked) == 1


def test_an_answer_that_is_not_understood_is_one_line(machine: Machine, waiting: Waiting) -> None:
    Answering(machine.places.control, page(b'{"other": []}'))
    told = machine.run("queue", "suspended", code=1).stderr
    assert told.startswith("mailgate: the daemon at ")
    assert told.count("\n") == 1
    assert "may be of another version: restart it" in told
