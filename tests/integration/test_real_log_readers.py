"""What pflogsumm and fail2ban read in the log that a gateway writes in Postfix's format."""

from __future__ import annotations

import re
import smtplib
import subprocess
from pathlib import Path

import pytest
from configurations import configuration
from parts import Gateway, free_ports, program, wait_until
from secured import Trust

ROUTES = """
[routes.box]
transport = "maildir"
path = "mail/{domain}/{local_part}"

[routes.down]
transport = "smtp"
hosts = ["127.0.0.1:%d"]
"""
USERS = """
[[listeners]]
name = "submission"
role = "outbound"
endpoints = ["tcp:%d:interface=127.0.0.1"]
pipeline = "inbound"
auth = "users"
auth_without_tls = true
xclient_from = ["127.0.0.1"]
"""
#: Whoever logs in here cannot be looked up.
GONE = """
[auth.gone]
kind = "http"
url = "http://127.0.0.1:%d/"

[[listeners]]
name = "gone"
role = "outbound"
endpoints = ["tcp:%d:interface=127.0.0.1"]
pipeline = "inbound"
auth = "gone"
auth_without_tls = true
xclient_from = ["127.0.0.1"]
"""
RECIPIENTS = """
[recipients.people]
kind = "list"
addresses = ["ann@box.test", "bob@box.test"]

[log]
postfix = "mail.log"
"""
#: Debian's, as it is installed.
FILTER = Path("/etc/fail2ban/filter.d/postfix.conf")


def as_client(port: int, address: str) -> smtplib.SMTP:
    """A session of a client at this address, as a system in front of us tells it."""
    client = smtplib.SMTP("127.0.0.1", port, timeout=60)
    client.ehlo("front.test")
    assert client.docmd("XCLIENT", f"NAME=[UNAVAILABLE] ADDR={address}")[0] == 220
    client.ehlo("client.test")
    return client


@pytest.fixture
def log(base: Path) -> Path:
    """The log of a gateway that took two messages, delivered one, put one off, and refused an unknown recipient of one
    client, the relaying of another, and the passwords of two more: one that is wrong, and one that it could not
    check."""
    port, submission, gone, down = free_ports(4)
    text = configuration(
        port, ROUTES % down, domains={"box.test": "box", "down.test": "down"}, listener='xclient_from = ["127.0.0.1"]'
    )
    text += USERS % submission + Trust.new(base / "trust").users() + GONE % (down, gone)
    text = text.replace('[domains."box.test"]\n', '[domains."box.test"]\nrecipients = "people"\n') + RECIPIENTS
    path = base / "gateway" / "state" / "mail.log"
    with Gateway(base / "gateway", text, [port]):
        with as_client(port, "192.0.2.1") as client:
            for to in ("ann@box.test", "eve@down.test"):
                client.sendmail("sue@client.test", [to], f"Subject: x\r\nMessage-ID: <{to}>\r\n\r\nhello\r\n")
        for address, to in (("198.51.100.7", "nobody@box.test"), ("198.51.100.8", "x@elsewhere.test")):
            with as_client(port, address) as client:
                client.mail("spam@client.test")
                assert client.rcpt(to)[0] == 550
        with as_client(submission, "198.51.100.9") as client, pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("ann@client.test", "wrong")
        with as_client(gone, "198.51.100.10") as client, pytest.raises(smtplib.SMTPAuthenticationError, match="454"):
            client.login("ann@client.test", "correct")
        wait_until(lambda: {b"status=sent", b"status=deferred"} <= statuses(path), "both were tried")
    return path


def statuses(path: Path) -> set[bytes]:
    return set(re.findall(rb"status=\w+", path.read_bytes())) if path.exists() else set()


@pytest.mark.needs("pflogsumm")
def test_pflogsumm_counts_what_was_done(log: Path) -> None:
    done = subprocess.run(  # noqa: S603
        [program("pflogsumm"), str(log)], capture_output=True, text=True, timeout=60, check=True
    )
    totals = {name: int(number) for number, name in re.findall(r"^ +(\d+) +([a-z ]+?) *(?:\(|$)", done.stdout, re.M)}
    assert totals["received"] == 2
    assert totals["delivered"] == 1
    assert totals["deferred"] == 1
    assert totals["rejected"] == 2
    assert totals["senders"] == totals["recipients"] == 1
    assert "Recipient address rejected: User unknown" in done.stdout
    assert "Relay access denied" in done.stdout
    assert "sue@client.test" in done.stdout


@pytest.mark.needs("fail2ban-regex")
def test_fail2ban_finds_whom_to_ban(log: Path) -> None:
    assert banned(log, "extra") == ["198.51.100.7", "198.51.100.8", "198.51.100.9"]
    # Those whose login failed, and not those for whom we could not ask.
    assert banned(log, "auth") == ["198.51.100.9"]
    assert banned(log, "normal") == ["198.51.100.7", "198.51.100.8"]


def banned(log: Path, mode: str) -> list[str]:
    """Whom the filter finds, in one of its modes."""
    assert FILTER.exists()
    done = subprocess.run(  # noqa: S603
        [program("fail2ban-regex"), "--out", "<ip>", str(log), f"{FILTER}[mode={mode}]"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return sorted(set(done.stdout.split()))
