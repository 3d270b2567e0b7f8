"""Quarantine on a gateway that runs: mail comes by SMTP, is kept back, asked about again, and released to a Maildir."""

from __future__ import annotations

import json
import signal
import smtplib
import sys
from pathlib import Path
from typing import Any

import pytest
from configurations import configuration
from parts import Gateway, free_port, wait_until

#: A scanner that hates what a file beside it says, is out of order where that says so, and stuck where it says that.
SCANNER = f"""#!{sys.executable} -I
import json, pathlib, sys, time
asked = json.loads(sys.stdin.buffer.readline())
content = sys.stdin.buffer.read(asked["size"])
hated = pathlib.Path(__file__).with_name("hated").read_text().split()
if "broken" in hated:
    sys.exit(3)
if "stuck" in hated:
    time.sleep(60)
found = next((word for word in hated if word.encode() in content), "")
word = "quarantine" if found else "continue"
print(json.dumps({{"verdict": word, "reason": f"{{found}} is in it" if found else "", "facts": ["seen"]}}))
"""

ROUTES = """
[routes.box]
transport = "maildir"
path = "mail/{domain}/{local_part}"

[routes.down]
transport = "smtp"
hosts = ["127.0.0.1:%d"]

[filters.scanner]
kind = "command"
command = ["%s"]
timeout = "2s"
deadline = "5s"
on_failure = "quarantine"

[filters.banner]
text = "-- checked"
"""

BODY = "Subject: {subject}\r\nMessage-ID: <{subject}@client.test>\r\n\r\nline one\r\n{text}\r\n"


class Kept(Gateway):
    """A gateway with that scanner, and a banner that changes what passes through."""

    def __init__(self, base: Path, port: int, more: str = "") -> None:
        self.port = port
        script = base / "scan"
        script.write_text(SCANNER)
        script.chmod(0o755)
        self.hated = base / "hated"
        self.hate("")
        text = configuration(
            port,
            ROUTES % (free_port(), script),
            domains={"box.test": "box", "down.test": "down"},
            more=more,
        )
        text = text.replace('"recipients", "headers"]', '"recipients", "scanner", "banner", "headers"]')
        super().__init__(base / "gateway", text, [port])

    def hate(self, words: str) -> None:
        """From now on this is what the scanner objects to."""
        new = self.hated.with_suffix(".new")
        new.write_text(words)
        new.replace(self.hated)

    def send(self, subject: str, text: str, *recipients: str) -> str:
        """Send one mail; its queue id."""
        with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
            client.ehlo("client.test")
            client.mail("ann@client.test")
            for one in recipients:
                assert client.rcpt(one)[0] == 250
            code, answer = client.data(BODY.format(subject=subject, text=text))
            assert code == 250
            return answer.decode().rpartition(" ")[2]

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        return list(json.loads(self.command("quarantine", "list", "--json", *arguments, check=False).stdout))

    def delivered(self, name: str) -> list[bytes]:
        """What lies in a mailbox of box.test."""
        return [one.read_bytes() for one in sorted(self.directory.glob(f"mail/box.test/{name}/new/*"))]

    def kept_back(self) -> list[tuple[str, str]]:
        return [(one["queue_id"], one["recipient"]) for one in self.listed()]


@pytest.fixture
def gateway(base: Path) -> Any:
    gateway = Kept(base, free_port())
    gateway.start()
    yield gateway
    if gateway.process is not None and gateway.process.poll() is None:
        gateway.stop(signal.SIGKILL)


def octets(subject: str, text: str) -> bytes:
    return BODY.format(subject=subject, text=text).replace("\r\n", "\n").encode()


def test_kept_back_released_and_delivered(gateway: Kept) -> None:
    gateway.hate("eicar")
    fine = gateway.send("fine", "harmless", "zoe@box.test")
    bad = gateway.send("bad", "eicar", "one@box.test", "two@box.test", "three@box.test")
    wait_until(lambda: len(gateway.delivered("zoe")) == 1, "what is fine is delivered")
    assert b"-- checked" in gateway.delivered("zoe")[0]
    assert fine != bad
    wait_until(lambda: "quarantined for one" in gateway.command("why", bad).stdout, "the history is written")
    # What is acknowledged survives the worst, with its evidence and as it came.
    gateway.stop(signal.SIGKILL)
    for is_running in (False, True):
        if is_running:
            gateway.start()
        entries = gateway.listed()
        assert [(one["queue_id"], one["recipient"]) for one in entries] == [
            (bad, f"{name}@box.test") for name in ("one", "two", "three")
        ]
        assert {one["filter"] for one in entries} == {"scanner"}
        assert {one["subject"] for one in entries} == {"bad"}
        assert "command.seen" in entries[0]["facts"]
        shown = json.loads(gateway.command("quarantine", "show", bad, "--json").stdout)
        assert shown["has_original"]
        assert any(one["filter"] == "scanner" and one["verdict"] == "quarantine" for one in shown["steps"])
    # As it would have been delivered, to the one it is released for.
    gateway.command("quarantine", "release", bad, "--recipient", "two@box.test")
    wait_until(lambda: len(gateway.delivered("two")) == 1, "it is delivered to two")
    (mail,) = gateway.delivered("two")
    assert b"\neicar\n" in mail
    assert b"-- checked" in mail
    assert gateway.delivered("one") == gateway.delivered("three") == []
    # As it came, byte for byte.
    told = json.loads(
        gateway.command("quarantine", "release", bad, "--recipient", "one@box.test", "--original", "--json").stdout
    )
    wait_until(lambda: len(gateway.delivered("one")) == 1, "it is delivered to one")
    assert gateway.delivered("one")[0].endswith(octets("bad", "eicar"))
    (copy,) = told["copies"]
    # While there is an objection it stays, and says why; then it goes.
    still = gateway.command("quarantine", "release", bad, "--scan", check=False)
    assert still.returncode == 1
    assert "stays: scanner objects" in still.stdout
    assert gateway.kept_back() == [(bad, "three@box.test")]
    gateway.hate("")
    gateway.command("quarantine", "release", bad, "--scan")
    wait_until(lambda: len(gateway.delivered("three")) == 1, "it is delivered to three")
    assert gateway.listed() == []
    assert {name: len(gateway.delivered(name)) for name in ("one", "two", "three")} == {"one": 1, "two": 1, "three": 1}
    why = gateway.command("why", bad).stdout
    for line in (
        "quarantined for one@box.test, two@box.test, three@box.test",
        "asked: release two@box.test",
        f"as it came, as {copy}",
        "filters were asked again for three@box.test: there is an objection",
        "filters were asked again for three@box.test: none objects",
        "delivered to three@box.test",
    ):
        assert line in why
    assert f"{copy}" in gateway.command("why", copy).stdout
    assert gateway.stop() == 0


@pytest.mark.parametrize("trouble", ["broken", "stuck"])
def test_a_scanner_out_of_order_changes_nothing(gateway: Kept, trouble: str) -> None:
    gateway.hate("eicar")
    bad = gateway.send("bad", "eicar", "one@box.test")
    gateway.hate(trouble)
    done = gateway.command("quarantine", "release", bad, "--scan", check=False)
    assert done.returncode == 1
    assert "scanner cannot tell" in done.stdout
    assert "cannot tell" in gateway.command("quarantine", "rescan", "--all").stdout
    assert gateway.kept_back() == [(bad, "one@box.test")]
    assert "one could not tell, so it stays" in gateway.command("why", bad).stdout
    assert gateway.delivered("one") == []


def test_what_waits_in_the_queue_and_is_hated_now(gateway: Kept) -> None:
    waits = gateway.send("waits", "late-virus", "one@down.test")
    other = gateway.send("other", "harmless", "two@down.test")

    def are_deferred() -> bool:
        entries = json.loads(gateway.command("queue", "list", "--json").stdout)
        return [one["state"] for one in entries if one["attempts"]] == ["queued", "queued"]

    wait_until(are_deferred, "both were tried once")
    gateway.hate("late-virus")
    told = json.loads(gateway.command("quarantine", "rescan", "--queue", "--all", "--json").stdout)
    assert (told["matched"], told["quarantined"]) == (2, 1)
    (entry,) = gateway.listed()
    assert (entry["queue_id"], entry["filter"]) == (waits, "scanner")
    assert "asked again, scanner" in gateway.command("queue", "list", waits).stdout
    states = {one["queue_id"]: one["state"] for one in json.loads(gateway.command("queue", "list", "--json").stdout)}
    assert states == {waits: "quarantined", other: "queued"}


def test_beside_a_stopped_gateway(gateway: Kept) -> None:
    gateway.hate("eicar")
    bad = gateway.send("bad", "eicar", "one@box.test", "two@box.test")
    assert gateway.stop() == 0
    assert "only while the gateway runs" in gateway.command("quarantine", "rescan", "--all", check=False).stderr
    gateway.command("quarantine", "release", bad, "--recipient", "one@box.test", "--original")
    gateway.command("quarantine", "delete", bad, "--recipient", "two@box.test", "--yes")
    assert gateway.listed() == []
    assert list((gateway.directory / "state" / "quarantine").iterdir()) == []
    why = gateway.command("why", bad).stdout
    assert "asked: release one@box.test" in why
    assert "asked: delete two@box.test" in why
    gateway.start()
    wait_until(lambda: len(gateway.delivered("one")) == 1, "what was released is delivered by the next start")
    assert gateway.delivered("one")[0].endswith(octets("bad", "eicar"))
    assert gateway.delivered("two") == []


def test_several_workers_keep_back_as_one(base: Path) -> None:
    port = free_port()
    text = Kept(base, port)
    text.file.write_text(text.file.read_text().replace('state_dir = "state"', 'state_dir = "state"\nworkers = 2'))
    with text as gateway:
        gateway.hate("eicar")
        bad = [gateway.send(f"bad{number}", "eicar", f"u{number}@box.test") for number in range(8)]
        assert sorted(gateway.kept_back()) == sorted((one, f"u{number}@box.test") for number, one in enumerate(bad))
        gateway.hate("")
        gateway.command("quarantine", "release", "--all", "--scan")
        wait_until(
            lambda: all(len(gateway.delivered(f"u{number}")) == 1 for number in range(8)), "all of them are delivered"
        )
        assert gateway.listed() == []
