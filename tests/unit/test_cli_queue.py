"""`mailgate queue`, on a real spool, with a daemon and without one."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailgate.address import NULL_PATH, Address
from mailgate.cli.common import printable, size, span, when
from mailgate.envelope import Envelope, EnvelopeRecipient, MailParameters
from mailgate.events import OperatorActed
from mailgate.interfaces import Outcome, OutcomeKind
from mailgate.message import Content
from mailgate.observe.history import read_history
from mailgate.reply import Reply
from mailgate.spool.query import told as last_reply
from tests.unit.cli_machine import FIRST, SECOND, THIRD, DaemonThread, Machine


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
    (line,) = [line for line in text.splitlines() if "next attempt in 5m" in line]
    assert line.startswith("    queued, route box, 1 attempt, next attempt in 5m")
    assert line.endswith(": deferred")
    assert "    last reply: mx.test: 451 4.3.0 later\n" in text
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
    assert gateway.run("queue", "list", "--state", "held", code=1).stdout == "No entry fits.\n"
    assert gateway.run("queue", "list", "NOPE", code=1).stdout == "No entry fits.\n"
    assert json.loads(gateway.run("queue", "list", "--json", "--older-than", "2h", code=1).stdout) == []
    gateway.run("queue", "delete", "--all", "--yes")
    assert gateway.run("queue", "list").stdout == "Nothing is in the queue.\n"
    assert gateway.queued() == []


@pytest.mark.parametrize(
    "selector",
    [
        ("",),
        (FIRST, ""),
        ("--id", ""),
        ("--sender", "", "--domain", "down.test"),
        ("--recipient", "", FIRST),
        ("--domain", "", FIRST),
        ("--route", "", FIRST),
        ("--site", "", FIRST),
        ("--source", "", FIRST),
        ("--reason", "", FIRST),
        ("--state", "", FIRST),
        ("--older-than", "", FIRST),
    ],
)
@pytest.mark.parametrize("action", [("delete", "--yes"), ("hold",), ("list",)], ids=["delete", "hold", "list"])
def test_nothing_may_be_given_empty(gateway: Machine, action: tuple[str, ...], selector: tuple[str, ...]) -> None:
    before = gateway.states()
    assert "Usage" in gateway.run("queue", *action, *selector, code=2).stderr
    assert gateway.states() == before
    assert gateway.events.of(OperatorActed) == []


def test_the_null_sender(gateway: Machine) -> None:
    assert [one["recipient"] for one in gateway.queued("--sender", "<>")] == ["three@down.test"]
    assert len(gateway.queued("--sender", "ANN@client.test")) == 3
    assert "1 of 1 recipient(s) held" in gateway.run("queue", "hold", "--sender", "<>").stdout
    gateway.run("queue", "delete", "--sender", "<>", "--yes")
    assert set(gateway.states()) == {"one@down.test", "two@other.test", "two@down.test"}


def test_the_null_sender_of_what_has_just_come(machine: Machine) -> None:
    machine.add(FIRST, "one@down.test", deferred=False)
    machine.add(SECOND, "two@down.test", deferred=False, sender=NULL_PATH)
    daemon = DaemonThread(machine)
    assert [one["recipient"] for one in machine.queued("--sender", "<>")] == ["two@down.test"]
    daemon.stop()


def test_ids_in_lower_case(gateway: Machine) -> None:
    assert len(gateway.queued(FIRST.lower())) == 2
    assert "to one@down.test: queued" in gateway.run("queue", "show", FIRST.lower()).stdout
    assert "1 of 1 recipient(s) held" in gateway.run("queue", "hold", SECOND.lower()).stdout


def test_why_nothing_has_changed(gateway: Machine) -> None:
    gateway.run("queue", "hold", FIRST)
    for arguments, told in (
        (("retry", SECOND), "1 of 1 recipient(s) due now\n"),
        (("retry", FIRST), "0 of 2 recipient(s) due now; 2 are held: release them first\n"),
        (("retry", "--recipient", "one@down.test"), "0 of 1 recipient(s) due now; 1 is held: release it first\n"),
        (("hold", "--all"), "2 of 4 recipient(s) held; 2 are held already\n"),
        (("release", FIRST), "2 of 2 recipient(s) released\n"),
        (("release", "--all"), "2 of 4 recipient(s) released; 2 are not held\n"),
    ):
        assert gateway.run("queue", *arguments).stdout == told


def test_what_is_quarantined_or_under_delivery(machine: Machine) -> None:
    machine.add(FIRST, "one@down.test", deferred=False)
    kept = EnvelopeRecipient(0, Address("two", "down.test"), "box", "a virus")
    machine.add(SECOND, recipients=(kept,), deferred=False)
    daemon = DaemonThread(machine)
    try:
        assert machine.run("queue", "retry", "--all").stdout == (
            "0 of 2 recipient(s) due now; 1 is quarantined: release it first; 1 under delivery now was left alone\n"
        )
        assert machine.run("queue", "hold", "--all").stdout == (
            "0 of 2 recipient(s) held; 1 is quarantined and waits already;"
            " 1 under delivery now follows when the attempt has ended\n"
        )
    finally:
        daemon.stop()


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


def test_show_tells_what_was_asked_for(machine: Machine) -> None:
    asked = MailParameters(
        smtputf8=True,
        ret="HDRS",
        envid="QQ1",
        require_tls=True,
        priority=3,
        release_at=4_000_000_000.0,
        deliver_by=4_000_000_600.0,
        by_mode="R",
    )
    envelope = Envelope(
        queue_id=FIRST,
        sender=Address("ann", "client.test"),
        recipients=(EnvelopeRecipient(0, Address("one", "down.test"), "box", "", "", ("SUCCESS", "DELAY"), "x;y"),),
        received=time.time(),
        size=3,
        parameters=asked,
    )
    machine.wait(machine.open().accept(envelope, Content(b"\r\nx"), time.time()))
    machine.close()
    shown = machine.run("queue", "show", FIRST).stdout
    for wish in (
        "to be sent not before 2096-10-02 07:06:40 UTC (FUTURERELEASE)",
        "to be delivered by 2096-10-02 07:16:40 UTC, or else returned (DELIVERBY)",
        "priority 3 (MT-PRIORITY)",
        "to go over verified TLS only (REQUIRETLS)",
        "internationalized (SMTPUTF8)",
        "reports: RET=HDRS ENVID=QQ1 (DSN)",
        "reports about one@down.test: NOTIFY=SUCCESS,DELAY ORCPT=x;y (DSN)",
    ):
        assert f"asked for: {wish}\n" in shown


def test_changes(gateway: Machine) -> None:
    assert "1 of 1 recipient(s) held" in gateway.run("queue", "hold", SECOND).stdout
    assert gateway.states()["two@down.test"] == "held"
    assert json.loads(gateway.run("queue", "release", "--all", "--json").stdout) == {
        "action": "release",
        "matched": 4,
        "changed": 1,
        "busy": 0,
        "later": 0,
        "others": {"queued": 3},
        "suspended": {},
        "there": 0,
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


def test_a_spool_that_somebody_else_has(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.cli.desk._PATIENCE", 0.0)
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
        (None, "mailgate: FILE: cannot be read"),
        ("[gateway]\nstate_dir = ", "FILE:2: syntax: "),
        ("[gateway", "FILE:1: syntax: "),
        ("\n[gateway]", "FILE:2: gateway.state_dir: is missing"),
        ("gateway = 3", "FILE:1: gateway.state_dir: is missing"),
        ("[gateway]\nstate_dir = 3", "FILE:2: gateway.state_dir: is no path"),
        (b"\n\xff", "FILE:2: the file is not UTF-8"),
        ("x = " + "[" * 100_000, "FILE:1: lists and tables are nested too deeply"),
    ],
)
def test_a_file_that_does_not_say_where(machine: Machine, text: str | bytes | None, told: str) -> None:
    if text is None:
        machine.file.unlink()
    else:
        machine.file.write_bytes(text if isinstance(text, bytes) else text.encode())
    (line,) = machine.run("queue", "list", code=1).stderr.splitlines()
    assert line.startswith(told.replace("FILE", str(machine.file)))


def test_other_keys_may_be_wrong(machine: Machine) -> None:
    machine.add(FIRST, "one@down.test")
    machine.close()
    machine.file.write_text('[gateway]\nstate_dir = "state"\nhostname = 7\n[speed]\n')
    assert machine.states() == {"one@down.test": "queued"}


@pytest.mark.parametrize("command", [("queue", "list"), ("queue", "show", FIRST), ("why", FIRST)])
@pytest.mark.parametrize("denied", ["mailgate.toml", "state", "state/spool/spool.db", "state/history"])
def test_what_is_another_users(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], denied: str
) -> None:
    machine.add(FIRST, "one@down.test")
    machine.close()
    machine.tell()
    path = machine.file.parent / denied

    def refuse(given: Any, call: Callable[..., Any], *others: Any, **more: Any) -> Any:
        if str(given) == str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(given))
        return call(given, *others, **more)

    # The superuser, who may run this, is denied nothing.
    for owner, name in ((Path, "stat"), (Path, "read_text"), (os, "listdir")):
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda given, *o, call=call, **m: refuse(given, call, *o, **m))
    told = f"{path}: Permission denied (run this as root or as the gateway's user)\n"
    if command[0] == "why" and denied == "state/spool/spool.db":
        assert f"What is still in the queue is not told: {told}" in machine.run(*command, code=1).stderr
    elif command[0] == "queue" and denied == "state/history":
        machine.run(*command)
    else:
        assert machine.run(*command, code=1).stderr == f"mailgate: {told}"


def test_a_daemon_of_another_user(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    error = machine.run("queue", "list", code=1).stderr
    assert error.startswith(f"mailgate: {machine.places.control}: Permission denied (run this as root")


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


def test_what_waits_for_its_time_is_not_retried(machine: Machine) -> None:
    later = MailParameters(release_at=time.time() + 3600)
    machine.add(FIRST, "one@down.test")
    machine.add(SECOND, "two@down.test", parameters=later, deferred=False)
    machine.add(THIRD, "three@down.test", "four@down.test", parameters=later, deferred=False)
    machine.close()
    for arguments, told in (
        (("--all",), "1 of 4 recipient(s) due now; 3 are to be sent later, as their senders asked\n"),
        ((SECOND,), "0 of 1 recipient(s) due now; 1 is to be sent later, as its sender asked\n"),
    ):
        assert machine.run("queue", "retry", *arguments).stdout == told


def test_what_waits_for_its_time_is_shown_and_released_for_it(machine: Machine) -> None:
    until = time.time() + 100_000
    machine.add(FIRST, "one@down.test", parameters=MailParameters(release_at=until), deferred=False)
    machine.add(SECOND, "two@down.test", deferred=False)
    machine.close()
    waits = f"not before {when(until)} (FUTURERELEASE)"
    assert waits in machine.run("queue", "list", FIRST).stdout
    assert "FUTURERELEASE" not in machine.run("queue", "list", SECOND).stdout
    machine.run("queue", "hold", FIRST)
    assert (
        f"held, route box, not tried yet, {waits}: an administrator holds it until release\n"
        in machine.run("queue", "list", FIRST).stdout
    )
    told = machine.run("queue", "release", FIRST).stdout
    assert told.startswith("1 of 1 recipient(s) released; 1 is to be sent later, as its sender asked")
    assert "due now" not in told
    assert [one["not_before"] for one in machine.queued() if one["queue_id"] == FIRST] == [pytest.approx(until)]


@pytest.mark.parametrize(
    ("reply", "reason", "told"),
    [
        ("no TLS", "mx.test[192.0.2.9]:25: no TLS", "451 4.7.5 (mx.test[192.0.2.9]:25: no TLS)"),
        ("no TLS: expired", "no TLS: expired", "451 4.7.5 no TLS: expired"),
        ("later", "greeting refused", "451 4.7.5 later (greeting refused)"),
        ("later", "", "451 4.7.5 later"),
        ("", "it is gone", "451 4.7.5 (it is gone)"),
    ],
)
def test_the_last_reply_is_not_told_twice(reply: str, reason: str, told: str) -> None:
    one = EnvelopeRecipient(0, Address("one", "down.test"), "box")
    assert last_reply(Outcome(one, OutcomeKind.DEFERRED, Reply.of(451, "4.7.5", reply), "", 0.0, reason)) == told
