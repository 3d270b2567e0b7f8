"""Inline delivery with a real Postfix behind: its answers are the clients', and `kill -9` of the gateway loses nothing
that was acknowledged, and doubles nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import smtplib
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from configurations import configuration
from parts import Gateway, Postfix, children_of, folder, free_port, is_alive, program, wait_until
from secured import Trust

pytestmark = pytest.mark.needs("postfix", "root")

DOMAIN = "postfix.test"
BOXES = ("bob", "ann")
CLIENTS, KILLS = 8, 3
#: Mails that are acknowledged before each kill, and seconds for them on a machine that is busy with other things.
FLOW, PATIENCE = 30, 60


def text_for(port: int, hop: int, *lines: str, gateway: str = "") -> str:
    route = "\n".join(
        ["", "[routes.inside]", 'transport = "smtp"', f'hosts = ["127.0.0.1:{hop}"]', "queue = false", *lines, ""]
    )
    return configuration(port, route, domains={DOMAIN: "inside"}, gateway=gateway)


def content(number: int) -> bytes:
    return b"From: <ann@client.test>\r\nMessage-ID: <%d@client.test>\r\nSubject: %d\r\n\r\nHello\r\n" % (number, number)


@dataclass
class Site:
    """A gateway that takes mail on `port`, and the Postfix behind it."""

    gateway: Gateway
    port: int
    postfix: Postfix

    @contextlib.contextmanager
    def client(self, source: str = "127.0.0.88") -> Iterator[smtplib.SMTP]:
        with smtplib.SMTP("127.0.0.1", self.port, "helo.client.test", timeout=60, source_address=(source, 0)) as one:
            one.ehlo()
            yield one

    def queue_of_postfix(self) -> str:
        """What `postqueue -p` prints."""
        command = [program("postqueue"), "-c", str(self.postfix.directory / "conf"), "-p"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout  # noqa: S603

    def delivered(self) -> Counter[str]:
        """How often Postfix has put each mail into a box, by its subject."""
        found: Counter[str] = Counter()
        for file in self.postfix.mail.glob("*/new/*"):
            subject = re.search(rb"\nSubject: (.*)\n", file.read_bytes().replace(b"\r", b""))
            found[subject[1].decode() if subject else ""] += 1
        return found


@contextlib.contextmanager
def site_in(base: Path, *lines: str, gateway: str = "", **settings: object) -> Iterator[Site]:
    port = free_port()
    with Postfix(base / "postfix", ["bob", "ann"], settings=settings) as postfix:
        text = text_for(port, postfix.port, *lines, gateway=gateway)
        with Gateway(base / "gateway", text, [port]) as running:
            yield Site(running, port, postfix)


def test_a_postfix_behind_answers_the_client() -> None:
    with folder("inline") as base, site_in(base) as site, site.client() as client:
        client.mail("ann@client.test")
        assert client.rcpt(f"bob@{DOMAIN}") == (250, b"2.1.5 Ok")
        code, text = client.rcpt(f"nobody@{DOMAIN}")
        assert (code, b"User unknown" in text) == (550, True)
        code, text = client.data(content(1))
        assert code == 250
        queue_id = re.search(rb"queued as (\w+) \((\w{16})\)", text)
        assert queue_id is not None
        wait_until(lambda: site.delivered() == {"1": 1}, "it is in its box")
        assert f"{queue_id[1].decode()}: client=" in site.postfix.log.read_text()

        def told() -> str:
            return site.gateway.command("why", queue_id[2].decode(), check=False).stdout

        wait_until(lambda: f"queued as {queue_id[1].decode()}" in told(), "the history joins both ids")
        assert site.gateway.command("queue", "list").stdout.strip() == "Nothing is in the queue."


def test_postfix_judges_the_client_at_rcpt() -> None:
    settings = {
        "smtpd_authorized_xclient_hosts": "127.0.0.1",
        "smtpd_client_restrictions": "check_client_access inline:{127.0.0.89=REJECT}",
    }
    with folder("inline") as base, site_in(base, "xclient = true", **settings) as site:
        with site.client("127.0.0.89") as client:
            client.mail("ann@client.test")
            code, text = client.rcpt(f"bob@{DOMAIN}")
            assert (code, b"Client host rejected" in text) == (554, True)
        with site.client("127.0.0.88") as client:
            client.sendmail("ann@client.test", [f"bob@{DOMAIN}"], content(1))
        wait_until(lambda: site.delivered() == {"1": 1}, "it is in its box")
        assert "client=unknown[127.0.0.88]" in site.postfix.log.read_text()


@pytest.mark.parametrize("is_right", [True, False])
def test_a_postfix_with_tls_is_who_it_should_be_or_gets_nothing(is_right: bool) -> None:
    with folder("inline") as base:
        trust, other = Trust.new(base / "trust"), Trust.new(base / "other")
        certificate = trust.issue("127.0.0.1")
        settings: dict[str, Any] = {
            "smtpd_tls_security_level": "encrypt",
            "smtpd_tls_cert_file": certificate,
            "smtpd_tls_key_file": certificate,
            "smtpd_tls_loglevel": 1,
        }
        authority = trust.ca if is_right else other.ca
        with site_in(base, 'tls = "verified"', f'tls_ca = "{authority}"', **settings) as site:
            with site.client() as client:
                client.mail("ann@client.test")
                code, text = client.rcpt(f"bob@{DOMAIN}")
                if is_right:
                    assert (code, text) == (250, b"2.1.5 Ok")
                    assert client.data(content(1))[0] == 250
                else:
                    assert (code, b"127.0.0.1" in text) == (451, False)
            log = site.postfix.log
            if is_right:
                wait_until(lambda: site.delivered() == {"1": 1}, "it is in its box")
                assert "TLS connection established from" in log.read_text()
                return
            wait_until(lambda: "SSL_accept error" in log.read_text(), "Postfix has seen a handshake that failed")
            assert "NOQUEUE" not in log.read_text()  # nothing was said before TLS that it would refuse
            assert "the handshake failed" in site.gateway.command("why", f"bob@{DOMAIN}").stdout
            assert site.delivered() == {}


def test_a_postfix_that_is_down() -> None:
    with folder("inline") as base, site_in(base, 'retry = { first = "1s", longest = "1s" }') as site:
        site.postfix.stop()
        with site.client() as client:
            client.mail("ann@client.test")
            assert client.rcpt(f"bob@{DOMAIN}")[0] == 451
        text = site.gateway.file.read_text().replace("queue = false", 'queue = false\nwhen_unreachable = "queue"')
        site.gateway.file.write_text(text)
        os.kill(site.gateway.pid, signal.SIGHUP)
        wait_until(lambda: bool(site.gateway.events("config_reloaded")), "the file has been read anew")
        with site.client() as client:
            client.mail("ann@client.test")
            assert client.rcpt(f"bob@{DOMAIN}")[0] == 250
            code, text_of = client.data(content(1))
            assert (code, text_of.startswith(b"2.0.0 queued as ")) == (250, True)
        site.postfix.start()
        wait_until(lambda: site.delivered() == {"1": 1}, "it is in its box", 60)


@dataclass
class Load:
    """Clients that send one mail after another, each once, and note which were acknowledged."""

    site: Site
    acknowledged: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self, first: int) -> None:
        number = first
        while not self.over.is_set():
            try:
                with self.site.client() as client:
                    for _ in range(20):
                        number += CLIENTS
                        said = [client.mail("ann@client.test"), *(client.rcpt(f"{one}@{DOMAIN}") for one in BOXES)]
                        if any(code != 250 for code, _ in said):
                            client.rset()  # it is for both, or for nobody
                        elif client.data(content(number))[0] == 250:
                            self.acknowledged.append(str(number))
            except (OSError, smtplib.SMTPException):
                self.over.wait(0.1)

    def flow(self) -> None:
        """Wait until some more are acknowledged."""
        before = len(self.acknowledged)
        wait_until(lambda: len(self.acknowledged) > before + FLOW, "mail flows", PATIENCE)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_loses_and_doubles_nothing(workers: int) -> None:
    lines = (f"connections = {CLIENTS}",)
    with folder("inline") as base, site_in(base, *lines, gateway=f"workers = {workers}") as site:
        load = Load(site)
        threads = [threading.Thread(target=load.run, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(KILLS):
                load.flow()
                workers_of = children_of(site.gateway.pid) if workers > 1 else []
                site.gateway.stop(signal.SIGKILL)
                for pid in workers_of:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                wait_until(lambda gone=workers_of: not any(map(is_alive, gone)), "the workers are gone")  # type: ignore[misc]
                site.gateway.start()
            load.flow()
        finally:
            load.over.set()
            for thread in threads:
                thread.join()
        acknowledged = set(load.acknowledged)
        wait_until(lambda: acknowledged <= site.delivered().keys(), "all that was acknowledged is in its boxes", 60)
        wait_until(lambda: "Mail queue is empty" in site.queue_of_postfix(), "Postfix has delivered to both boxes", 60)
        found = site.delivered()
        # Both boxes have each mail once; what the clients were not told of was under way when the gateway was killed.
        assert {number: count for number, count in found.items() if count != 2} == {}
        # Where there are several workers, a client may have come to the next before that was killed, too.
        assert len(found.keys() - acknowledged) <= KILLS * CLIENTS * workers
        assert site.gateway.command("queue", "list").stdout.strip() == "Nothing is in the queue."
