"""`mailgate quarantine`, on a real spool, with a daemon and without one; and what `mailgate why` tells of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mailgate.address import Address
from mailgate.awaiting import as_deferred
from mailgate.envelope import EnvelopeRecipient, Kept, TraceStep
from mailgate.events import (
    MessageAccepted,
    OperatorActed,
    Quarantined,
    QuarantineExpired,
    Rescanned,
)
from mailgate.message import Content
from mailgate.quarantine.originals import Originals
from mailgate.testing import wait_for
from tests.unit.cli_machine import FIRST, SECOND, DaemonThread, Machine
from tests.unit.quarantine_stand import NO, UNKNOWN

ORIGINAL = b"Subject: hello\r\n\r\nwhat came\r\n"
KEPT = Kept(
    steps=(TraceStep("message", "av", "quarantine", NO.reason, 0.0123),), facts=("clamav.found",), has_original=True
)


def fill(machine: Machine) -> None:
    """A message for three, of whom two are not to have it yet, and another that waits."""
    recipients = tuple(
        EnvelopeRecipient(number, Address(name, "box.test"), "box", NO.reason if number < 2 else "")
        for number, name in enumerate(("one", "two", "three"))
    )
    machine.add(FIRST, recipients=recipients, listener="mx", kept=KEPT)
    machine.add(SECOND, "four@box.test", listener="mx")
    wait_for(Originals(machine.places.originals).keep(FIRST, Content(ORIGINAL)))


@pytest.fixture(params=["stopped", "running"])
def kept(request: pytest.FixtureRequest, machine: Machine) -> Iterator[Machine]:
    fill(machine)
    if request.param == "stopped":
        machine.close()
        yield machine
    else:
        daemon = DaemonThread(machine)
        yield machine
        daemon.stop()


@pytest.fixture
def daemon(machine: Machine) -> Iterator[DaemonThread]:
    fill(machine)
    daemon = DaemonThread(machine)
    yield daemon
    daemon.stop()


def listed(machine: Machine, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    return list(json.loads(machine.run("quarantine", "list", "--json", *arguments, code=code).stdout))


def test_list(kept: Machine) -> None:
    entries = listed(kept)
    assert [(one["queue_id"], one["recipient"]) for one in entries] == [
        (FIRST, "one@box.test"),
        (FIRST, "two@box.test"),
    ]
    assert (entries[0]["filter"], entries[0]["reason"], entries[0]["facts"]) == ("av", NO.reason, ["clamav.found"])
    assert entries[0]["expires"] == entries[0]["since"] + 30 * 86400
    text = kept.run("quarantine", "list", "--recipient", "two@box.test").stdout
    assert f"{FIRST}  " in text
    assert "ann@client.test > two@box.test" in text
    assert "    hello  from (no author)\n" in text
    assert "    av: has found Eicar\n" in text
    assert "is deleted in 29d" in text
    assert "the original is kept" in text
    assert "one@box.test" not in text


def test_pages(kept: Machine) -> None:
    page = kept.run("quarantine", "list", "--limit", "1")
    assert f"--after {FIRST}:0" in page.stderr
    rest = kept.run("quarantine", "list", "--after", f"{FIRST}:0")
    assert "two@box.test" in rest.stdout
    assert rest.stderr == ""


def test_nothing_to_list(kept: Machine) -> None:
    assert kept.run("quarantine", "list", SECOND, code=1).stdout == "No entry fits.\n"
    assert listed(kept, "--sender", "nobody@x.test", code=1) == []
    kept.run("quarantine", "delete", "--all", "--yes")
    assert kept.run("quarantine", "list").stdout == "Nothing is in quarantine.\n"
    assert [one["recipient"] for one in kept.queued()] == ["three@box.test", "four@box.test"]


def test_show(kept: Machine) -> None:
    text = kept.run("quarantine", "show", FIRST.lower()).stdout
    assert "kept back from one@box.test: av: has found Eicar\n" in text
    assert "kept back from two@box.test" in text
    assert "release --original" in text
    assert "facts: clamav.found" in text
    assert "message  av  quarantine    12.3 ms  has found Eicar" in text
    assert "the text\\x1b[2J" in text  # a peer's text moves no cursor
    shown = json.loads(kept.run("quarantine", "show", FIRST, "--json").stdout)
    assert shown["steps"][0]["filter"] == "av"
    assert [one["recipient"] for one in shown["entries"]] == ["one@box.test", "two@box.test"]
    assert shown["message"]["queue_id"] == FIRST


@pytest.mark.parametrize("queue_id", [SECOND, "NOPE", "../../etc/passwd", "%2e%2e", "?ids=x", "ä"])
def test_what_is_not_there_is_not_shown(kept: Machine, queue_id: str) -> None:
    assert "is in quarantine" in kept.run("quarantine", "show", queue_id, code=1).stderr


def test_release_to_one_recipient(kept: Machine) -> None:
    result = kept.run("quarantine", "release", FIRST, "--recipient", "two@box.test")
    assert result.stdout == "1 of 1 recipient(s) released\n"
    states = kept.states()
    assert (states["one@box.test"], states["two@box.test"]) == ("quarantined", "queued")
    told = json.loads(kept.run("quarantine", "release", "--all", "--json").stdout)
    assert (told["matched"], told["released"], told["still_objected"]) == (1, 1, [])
    assert kept.run("quarantine", "release", "--all", code=1).stdout == "No entry fits.\n"


def test_release_of_what_came(kept: Machine) -> None:
    told = json.loads(kept.run("quarantine", "release", FIRST, "--original", "--json").stdout)
    (new,) = told["copies"]
    assert told["released"] == 2
    shown = json.loads(kept.run("queue", "show", new, "--json").stdout)
    assert shown["text"] == "what came\r\n"
    assert [one["recipient"] for one in kept.queued()] == [
        "three@box.test",
        "four@box.test",
        "one@box.test",
        "two@box.test",
    ]
    assert listed(kept) == []


def test_a_copy_for_an_analyst(kept: Machine) -> None:
    text = kept.run("quarantine", "release", FIRST, "--to", "lab@analysts.test").stdout
    assert text.startswith("0 of 2 recipient(s) released\nsent as ")
    assert len(listed(kept)) == 2
    assert "lab@analysts.test" in kept.states()


def test_delete(kept: Machine) -> None:
    asked = kept.run("quarantine", "delete", FIRST, given="n\n", code=1)
    assert "Delete 2 recipient(s) of 1 message(s)? Nobody will be told." in asked.stderr
    assert len(listed(kept)) == 2
    done = kept.run("quarantine", "delete", FIRST, "--recipient", "one@box.test", given="y\n")
    assert done.stdout == "1 of 1 recipient(s) deleted\n"
    assert [one["recipient"] for one in listed(kept)] == ["two@box.test"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("release",),
        ("delete", "--yes"),
        ("rescan",),
        ("release", ""),
        ("delete", "--yes", "--recipient", ""),
        ("release", FIRST, "--all"),
        ("release", "--state", "queued"),
        ("delete", "--yes", "--state", "held"),
        ("list", "--state", "leased"),
        ("release", FIRST, "--to", ""),
        ("release", FIRST, "--to", "nobody"),
        ("release", FIRST, "--to", "lab@a.test", "--scan"),
    ],
)
def test_slips_do_nothing(kept: Machine, arguments: tuple[str, ...]) -> None:
    before = kept.states()
    assert "Usage" in kept.run("quarantine", *arguments, code=2).stderr
    assert kept.states() == before
    assert kept.events.of(OperatorActed) == []


def test_filters_cannot_be_asked_beside_a_stopped_gateway(machine: Machine) -> None:
    fill(machine)
    machine.close()
    for arguments in (("rescan", "--all"), ("release", FIRST, "--scan")):
        assert "only while the gateway runs" in machine.run("quarantine", *arguments, code=1).stderr
    assert len(listed(machine)) == 2


def test_release_with_another_look(daemon: DaemonThread) -> None:
    daemon.rescan.says["one@box.test"] = NO
    result = daemon.machine.run("quarantine", "release", FIRST, "--scan", code=1)
    assert result.stdout == (
        f"1 of 2 recipient(s) released\n{FIRST}  one@box.test  stays: av objects: has found Eicar\n"
    )
    daemon.rescan.says.clear()
    assert daemon.machine.run("quarantine", "release", FIRST, "--scan").stdout == "1 of 1 recipient(s) released\n"


def test_rescan(daemon: DaemonThread) -> None:
    daemon.rescan.says["one@box.test"] = UNKNOWN
    text = daemon.machine.run("quarantine", "rescan", "--all").stdout
    assert text == (
        "no content filter objects to 1 of 2 recipient(s)\n"
        f"{FIRST}  two@box.test  passes\n"
        f"{FIRST}  one@box.test  av cannot tell: no answer within 10 s\n"
    )
    assert len(listed(daemon.machine)) == 2


def test_rescan_of_the_queue(daemon: DaemonThread) -> None:
    daemon.rescan.says["four@box.test"] = NO
    told = json.loads(daemon.machine.run("quarantine", "rescan", "--queue", "--all", "--json").stdout)
    assert (told["matched"], told["quarantined"]) == (2, 1)
    (entry,) = listed(daemon.machine, SECOND)
    assert (entry["filter"], entry["reason"]) == ("av", "asked again, av: has found Eicar")
    text = daemon.machine.run("queue", "list", SECOND).stdout
    assert "a policy keeps it back until release: asked again, av: has found Eicar" in text


def test_no_release_is_undone_by_another_look(machine: Machine) -> None:
    machine.add(SECOND, "four@box.test", listener="mx")
    daemon = DaemonThread(machine)
    daemon.rescan.says["four@box.test"] = NO
    machine.run("quarantine", "rescan", "--queue", "--all")
    machine.run("queue", "release", SECOND)  # by whichever command
    released = machine.wait(as_deferred(daemon.office.review.released()))
    assert released == {(SECOND, 0)}
    assert machine.run("quarantine", "rescan", "--queue", "--all", code=1).stdout == "No entry fits.\n"
    assert machine.states() == {"four@box.test": "queued"}
    daemon.stop()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('retention = "5s"', "quarantine.retention: must be at least 1h"),
        ('rescan_every = "often"', "quarantine.rescan_every: "),
        ('on_pass = "release"', "on_pass means nothing without rescan_every"),
        ("rescan_queue = true", "rescan_queue means nothing without rescan_every"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_told(machine: Machine, line: str, told: str) -> None:
    fill(machine)
    machine.close()
    machine.file.write_text(f"{machine.file.read_text()}\n[quarantine]\n{line}\n")
    assert told in machine.run("quarantine", "list", code=1).stderr


# -- why


def test_why_tells_of_all_of_it(machine: Machine) -> None:
    at = 1_800_000_000.0
    machine.tell(
        MessageAccepted(
            at=at,
            queue_id=FIRST,
            session="S",
            client="x[192.0.2.1]",
            listener="mx",
            helo="x",
            sender="ann@client.test",
            recipients=("one@box.test", "two@box.test"),
            size=7,
        ),
        Quarantined(
            at=at, queue_id=FIRST, sender="ann@client.test", recipients=("one@box.test", "two@box.test"), reason="Eicar"
        ),
        Rescanned(
            at=at + 60, queue_id=FIRST, recipients=("one@box.test",), result="unknown", filter="av", reason="late"
        ),
        Rescanned(at=at + 70, queue_id=FIRST, recipients=("one@box.test",), result="pass"),
        OperatorActed(
            at=at + 80,
            action="release",
            queue_id=FIRST,
            recipients=("one@box.test",),
            detail="the content filters were asked again",
            by="recipient one@box.test by link",
        ),
        OperatorActed(
            at=at + 85, action="copy", queue_id=FIRST, recipients=("lab@analysts.test",), detail=f"as {SECOND}"
        ),
        QuarantineExpired(
            at=at + 90,
            queue_id=FIRST,
            sender="ann@client.test",
            recipients=("two@box.test",),
            reason="Eicar",
            seconds=86400.0,
        ),
    )
    text = machine.run("why", FIRST).stdout
    for line in (
        "one@box.test released, two@box.test deleted after its time in quarantine",
        "quarantined for one@box.test, two@box.test",
        "because: Eicar",
        "filters were asked again for one@box.test: one could not tell, so it stays",
        "av: late",
        "filters were asked again for one@box.test: none objects",
        "recipient one@box.test by link asked: release one@box.test",
        "how: the content filters were asked again",
        "an administrator asked: copy to lab@analysts.test",
        f"how: as {SECOND}",
        "deleted after 1d in quarantine: two@box.test",
        "it was there because: Eicar",
    ):
        assert line in text


def test_why_tells_what_was_done_by_command(kept: Machine) -> None:
    kept.run("quarantine", "release", FIRST, "--recipient", "one@box.test")
    if kept.events.of(OperatorActed):  # the daemon's history is not written here
        (event,) = kept.events.of(OperatorActed)
        assert (event.action, event.recipients) == ("release", ("one@box.test",))
    else:
        assert "an administrator asked: release one@box.test" in kept.run("why", FIRST).stdout
