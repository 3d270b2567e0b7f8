"""Inline delivery with a real Postfix behind: its answers are the clients', and `kill -9` of the gateway loses nothing
that was acknowledged, and doubles nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import smtplib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from configurations import configuration
from parts import Gateway, Postfix, children_of, folder, free_port, is_alive, wait_until

pytestmark = pytest.mark.needs("postfix", "root")

DOMAIN = "postfix.test"
CLIENTS, KILLS = 8, 3


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
        with smtplib.SMTP("127.0.0.1", self.port, "helo.client.test", timeout=30, source_address=(source, 0)) as one:
            one.ehlo()
            yield one

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
                        client.mail("ann@client.test")
                        client.rcpt(f"bob@{DOMAIN}")
                        client.rcpt(f"ann@{DOMAIN}")
                        if client.data(content(number))[0] == 250:
                            self.acknowledged.append(str(number))
            except (OSError, smtplib.SMTPException):
                self.over.wait(0.1)


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
                before = len(load.acknowledged)
                wait_until(lambda before=before: len(load.acknowledged) > before + 50, "mail flows")  # type: ignore[misc]
                workers_of = children_of(site.gateway.pid) if workers > 1 else []
                site.gateway.stop(signal.SIGKILL)
                for pid in workers_of:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                wait_until(lambda gone=workers_of: not any(map(is_alive, gone)), "the workers are gone")  # type: ignore[misc]
                site.gateway.start()
            before = len(load.acknowledged)
            wait_until(lambda: len(load.acknowledged) > before + 50, "mail flows")
        finally:
            load.over.set()
            for thread in threads:
                thread.join()
        acknowledged = set(load.acknowledged)
        wait_until(lambda: acknowledged <= site.delivered().keys(), "all that was acknowledged is in its boxes", 60)
        found = site.delivered()
        # Both boxes have each mail once; what the clients were not told of was under way when the gateway was killed.
        assert {number: count for number, count in found.items() if count != 2} == {}
        assert len(found.keys() - acknowledged) <= KILLS * CLIENTS
        assert site.gateway.command("queue", "list").stdout.strip() == "Nothing is in the queue."
