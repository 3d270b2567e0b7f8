"""Dovecot decides who may log in, and gets the mail."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from configurations import configuration
from dovecot_parts import Dovecot
from parts import Gateway, children_of, folder, free_port, wait_until
from secured import Trust, listener

pytestmark = pytest.mark.needs("dovecot", "root")

CARL, DORA = "carl@dovecot.test", "dora@dovecot.test"


@dataclass
class Site:
    """A Dovecot, asked by its unix socket and by TCP."""

    base: Path
    gateway: Gateway
    dovecot: Dovecot
    trust: Trust
    unix: int
    tcp: int

    def login(self, door: str, user: str, password: str, source: str = "") -> int:
        """The code of the answer."""
        return self.trust.log_in(getattr(self, door), user, password, source=source)

    def stop_dovecot(self) -> None:
        """End it, with the process that serves the connections of our gateway and would wait for their end."""
        (auth,) = [pid for pid in children_of(self.dovecot.pid) if Path(f"/proc/{pid}/comm").read_text() == "auth\n"]
        self.dovecot.stop()
        with contextlib.suppress(ProcessLookupError):
            os.kill(auth, signal.SIGTERM)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with folder("auth") as base:
        trust = Trust.new(base / "trust")
        ready, unix, tcp = (free_port() for _ in range(3))
        with Dovecot(base / "dovecot", [CARL, DORA], {DORA: "allow_nets=127.0.0.77"}) as dovecot:
            text = configuration(
                ready,
                f'\n[routes.box]\ntransport = "lmtp"\nhosts = ["127.0.0.1:{dovecot.port}"]\n',
                domains={"dovecot.test": "box"},
                more=f"""
[tls]
certificate = "{trust.server()}"

[auth.unix]
kind = "dovecot"
socket = "unix:{dovecot.auth_socket}"

[auth.tcp]
kind = "dovecot"
socket = "127.0.0.1:{dovecot.auth_port}"
cache_size = 0
"""
                + listener("unix", unix, 'auth = "unix"')
                + listener("tcp", tcp, 'auth = "tcp"'),
            )
            with Gateway(base / "gateway", text, [ready]) as gateway:
                yield Site(base, gateway, dovecot, trust, unix, tcp)


@pytest.mark.parametrize("door", ["unix", "tcp"])
def test_dovecot_decides(site: Site, door: str) -> None:
    assert site.login(door, CARL, "secret") == 235
    assert site.login(door, CARL.upper(), "secret") == 235
    assert site.login(door, CARL, "Secret") == 535
    assert site.login(door, "nobody@dovecot.test", "secret") == 535

    def told() -> bool:
        return f"PLAIN as {CARL}: " in site.gateway.command("why", "127.0.0.1", check=False).stdout

    wait_until(told, "the history tells of the wrong password")


def test_only_what_dovecot_can_check_is_offered(site: Site) -> None:
    with site.trust.client(site.unix) as client:
        client.ehlo()
        assert set(client.esmtp_features["auth"].split()) == {"PLAIN", "LOGIN"}


@pytest.mark.parametrize("door", ["unix", "tcp"])
def test_dovecot_knows_from_where_a_user_comes(site: Site, door: str) -> None:
    assert site.login(door, DORA, "secret", source="127.0.0.77") == 235
    assert site.login(door, DORA, "secret", source="127.0.0.78") == 535


def test_who_has_logged_in_by_dovecot_has_mail_there(site: Site) -> None:
    with site.trust.client(site.unix) as client:
        client.login(CARL, "secret")
        client.sendmail(CARL, [DORA], "Subject: hello\r\nMessage-ID: <hello@client.test>\r\n\r\nHello\r\n")
    box = site.dovecot.mail / "dovecot.test" / "dora" / "new"
    wait_until(lambda: len(list(box.glob("*"))) == 1, "Dora has it")
    mail = next(box.glob("*")).read_text()
    assert "Subject: hello" in mail
    assert "with ESMTPSA" in mail
    assert "delivered to dora@dovecot.test by route box" in site.gateway.command("why", "hello@client.test").stdout


def test_without_dovecot_nobody_logs_in_and_with_it_again(site: Site) -> None:
    assert site.login("unix", CARL, "secret") == 235
    site.stop_dovecot()
    try:
        assert site.login("tcp", CARL, "secret") == 454
        # A secret that was right a moment ago is taken for right without asking.
        assert site.login("unix", CARL, "secret") == 235
        assert site.login("unix", CARL, "wrong") == 454
    finally:
        site.dovecot.start()
    for door in ("tcp", "unix"):
        wait_until(lambda door=door: site.login(door, CARL, "secret") == 235, "Dovecot is asked again")  # type: ignore[misc]
    log = site.gateway.log.read_text()
    assert "Traceback" not in log, log
