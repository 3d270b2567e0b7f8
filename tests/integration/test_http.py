"""HTTP of a gateway that runs, asked by curl over TLS: tokens, the quarantine, a digest, its link, and the mail."""

from __future__ import annotations

import contextlib
import datetime
import email
import json
import os
import signal
import smtplib
import socket
import subprocess
import tomllib
from collections.abc import Callable
from email.policy import SMTP
from pathlib import Path
from typing import Any

import pytest
from configurations import configuration
from parts import Gateway, children_of, free_port, is_alive, wait_until
from secured import HOSTNAME, Trust

from mailgate.quarantine.digest_file import DigestFile

pytestmark = pytest.mark.needs("curl")

ROUTES = """
[routes.box]
transport = "maildir"
path = "mail/{local_part}"
"""
FILTERS = """
[filters.virus]
kind = "signatures"
rules = ["quarantine virus header:subject eicar"]

[filters.spam]
kind = "signatures"
rules = ["quarantine spam header:subject lottery"]
"""


class Site:
    """A gateway with HTTPS, and curl."""

    def __init__(self, base: Path, build: Callable[[str, int], Gateway], *, gateway: str = "") -> None:
        self.trust = Trust.new(base / "trust")
        self.smtp, self.http = free_port(), free_port()
        text = configuration(self.smtp, ROUTES, domains={"box.test": "box"}, gateway=gateway)
        text = text.replace('"recipients", "headers"]', '"recipients", "virus", "spam", "headers"]')
        self.gateway = build(text + FILTERS + self._more(), self.smtp)
        self.secrets: dict[str, str] = {}
        for name, *scopes in (("keeper", "quarantine:read", "quarantine:write"), ("monitor", "metrics", "status")):
            given = [part for scope in scopes for part in ("--scope", scope)]
            self.secrets[name] = self._token(name, *given)

    def _more(self) -> str:
        return f"""
[tls]
certificate = "{self.trust.server()}"

[http]
endpoints = ["tcp:{self.http}:interface=127.0.0.1"]
url = "https://{HOSTNAME}:{self.http}"
request_timeout = "2s"
max_wrong_tokens = 5

[quarantine.digest]
enabled = true
at = "00:00"
from = "quarantine@box.test"
exclude = ["virus"]
"""

    def _token(self, *arguments: str) -> str:
        """The secret; the lines for it are in the file then."""
        command = [str(Path(self.gateway.command("--version", check=False).args[0])), "token", *arguments]
        made = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        tomllib.loads(made.stdout)
        with self.gateway.file.open("a") as file:
            file.write(f"\n{made.stdout}")
        return made.stderr.splitlines()[-1]

    def curl(self, target: str, *options: str, secret: str = "") -> tuple[int, str]:
        """The status, and what was answered."""
        url = target if target.startswith("https:") else f"https://{HOSTNAME}:{self.http}{target}"
        given = ["-H", f"Authorization: Bearer {secret}"] if secret else []
        done = subprocess.run(  # noqa: S603
            [
                *("curl", "-s", "--path-as-is", "--max-time", "20", "--cacert", str(self.trust.ca)),
                *("--resolve", f"{HOSTNAME}:{self.http}:127.0.0.1", "-w", "\n%{http_code}"),
                *(*given, *options, url),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        content, _, status = done.stdout.rpartition("\n")
        return int(status), content

    def json(self, target: str, name: str, *options: str) -> Any:
        """What a token is answered."""
        status, content = self.curl(target, *options, secret=self.secrets[name])
        assert status == 200, content
        return json.loads(content)

    def send(self, subject: str, *recipients: str) -> None:
        """One mail."""
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=60) as client:
            text = f"From: Eve <eve@far.test>\r\nTo: x@box.test\r\nSubject: {subject}\r\n\r\nhello\r\n"
            client.sendmail("eve@far.test", list(recipients), text)

    def mails(self, user: str) -> list[Any]:
        """What has been delivered."""
        box = self.gateway.directory / "mail" / user / "new"
        return [email.message_from_bytes(one.read_bytes(), policy=SMTP) for one in sorted(box.glob("*"))]

    def make_due(self) -> None:
        """While it does not run: as if the last digests were of three days ago."""
        file = DigestFile(self.gateway.directory / "state" / "digests.db")
        file.correct(datetime.datetime.now().astimezone().date() - datetime.timedelta(days=3))
        file.close()


def test_from_quarantine_by_a_link_to_the_mailbox(base: Path, build: Callable[[str, int], Gateway]) -> None:
    site = Site(base, build)
    site.gateway.start()
    wait_until(lambda: site.curl("/readyz")[0] == 200, "it is ready")
    site.send("you have won the lottery <b>", "ann@box.test", "bob@box.test")
    site.send("lottery and eicar", "ann@box.test")
    site.send("harmless", "ann@box.test")
    wait_until(lambda: len(site.mails("ann")) == 1, "what is harmless comes at once")
    assert site.curl("/v1/quarantine")[0] == 401
    assert site.curl("/v1/quarantine", secret="x" * 40)[0] == 401
    assert site.curl("/v1/quarantine", secret=site.secrets["monitor"])[0] == 403
    kept = site.json("/v1/quarantine", "keeper")["entries"]
    assert sorted((one["recipient"], one["filter"]) for one in kept) == [
        ("ann@box.test", "spam"),
        ("ann@box.test", "virus"),
        ("bob@box.test", "spam"),
    ]
    assert site.curl("/v1/../metrics", secret=site.secrets["keeper"])[0] == 404
    text = site.curl("/metrics", secret=site.secrets["monitor"])[1]
    assert 'mailgate_messages_accepted_total{listener="mx",tls="none"} 3.0' in text
    assert "mailgate_recipients_quarantined_total 3.0" in text
    site.gateway.stop()
    site.make_due()
    site.gateway.start()
    wait_until(lambda: len(site.mails("ann")) == 2 and len(site.mails("bob")) == 1, "the digests are there")
    (digest,) = [one for one in site.mails("ann") if "kept back" in one["Subject"]]
    text = digest.get_body(("plain",)).get_content()
    assert (digest["To"], digest["Auto-Submitted"]) == ("ann@box.test", "auto-generated")
    assert ["eicar" in text, "you have won" in text] == [False, True]
    (link,) = [line for line in text.split() if "/release/" in line]
    for _ in range(3):
        status, page = site.curl(link)
        assert (status, "&lt;b&gt;" in page, "<b>" in page) == (200, True, False)
    assert len(site.mails("ann")) == 2
    assert site.curl(link, "-d", "release=yes")[0] == 200
    wait_until(lambda: len(site.mails("ann")) == 3, "it is delivered")
    assert len(site.mails("bob")) == 1
    assert site.curl(link)[0] == 410
    assert site.curl(link, "-d", "release=yes")[0] == 410
    left = site.json("/v1/quarantine", "keeper")["entries"]
    assert sorted(one["recipient"] for one in left) == ["ann@box.test", "bob@box.test"]
    queue_id = next(one["queue_id"] for one in left if one["recipient"] == "bob@box.test")
    wait_until(lambda: "by link" in site.gateway.command("why", queue_id).stdout, "the history tells who it was")


def test_what_others_do_to_the_port(base: Path, build: Callable[[str, int], Gateway]) -> None:
    site = Site(base, build)
    site.gateway.start()
    large = base / "large"
    large.write_bytes(b"x" * (1024**2 + 1))
    assert site.curl("/v1/quarantine/delete", "--data-binary", f"@{large}", secret=site.secrets["keeper"])[0] == 413
    # A handshake that never comes, and one request that does not end.
    silent = socket.create_connection(("127.0.0.1", site.http), 20)
    slow = site.trust.context().wrap_socket(
        socket.create_connection(("127.0.0.1", site.http), 20), server_hostname=HOSTNAME
    )
    slow.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
    silent.settimeout(20)
    assert slow.recv(100)[:12] == b"HTTP/1.1 408"
    with contextlib.suppress(ConnectionResetError):
        assert silent.recv(100) == b""
    silent.close()
    slow.close()
    for _ in range(5):
        assert site.curl("/v1/status", secret="x" * 40)[0] == 401
    assert site.curl("/v1/status", secret=site.secrets["monitor"])[0] == 429
    assert site.curl("/healthz")[0] == 200


def test_several_workers_are_one(base: Path, build: Callable[[str, int], Gateway]) -> None:
    site = Site(base, build, gateway="workers = 3")
    site.gateway.start()
    wait_until(lambda: site.curl("/readyz")[0] == 200, "it is ready")
    for _ in range(12):
        site.send("harmless", "ann@box.test")

    def counted() -> bool:
        text = site.curl("/metrics", secret=site.secrets["monitor"])[1]
        wanted = ('mailgate_messages_accepted_total{listener="mx",tls="none"} 12.0', "mailgate_workers_answering 3.0")
        return all(one in text for one in wanted)

    wait_until(counted, "the workers' numbers together are those of the site")
    assert site.json("/v1/status", "monitor")["spool"] == "ok"
    first = [
        pid for pid in children_of(site.gateway.pid) if b"\x000\x003\x00" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: not is_alive(first[0]), "the worker that serves HTTP is gone")
    assert site.curl("/readyz")[0] == 200  # it waits for the one that takes its place
