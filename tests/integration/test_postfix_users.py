"""Users who log in at Postfix's port 587, with mailgate behind it, by the snippets in etc/postfix: as Postfix tells
nothing of logins, their mail has a port of mailgate's to itself. And what is told where a setting was forgotten."""

from __future__ import annotations

import contextlib
import re
import smtplib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from dovecot_parts import Dovecot
from parts import folder, free_port, wait_until
from postfix_ways import DOMAIN, SNIPPETS, Site, site_of
from secured import Trust

pytestmark = pytest.mark.needs("postfix", "dovecot", "root")

BOB, ANN = f"bob@{DOMAIN}", f"ann@{DOMAIN}"
#: Where nothing but access would object, and that only to mail from outside.
DENIED = "127.0.0.66"
FORGOTTEN = "has brought mail and not said whose it is"


@dataclass
class Users:
    """A site, and its port for users."""

    site: Site
    port: int
    trust: Trust

    @contextlib.contextmanager
    def client(self, source: str) -> Iterator[smtplib.SMTP]:
        """A session from this loopback address, by TLS and without a login so far."""
        with smtplib.SMTP("127.0.0.1", self.port, "helo.client.test", timeout=60, source_address=(source, 0)) as one:
            one.starttls(context=self.trust.context())
            yield one

    def send(self, source: str, subject: str) -> str:
        """One mail of ann's, who logs in, to bob; its Message-ID."""
        ident, content = self.site.content(subject=subject)
        with self.client(source) as client:
            client.login(ANN, "secret")
            client.sendmail(ANN, BOB, content)
        return ident

    def subject(self, ident: str) -> str:
        """That of a message that has come to bob."""
        lines = self.site.mail("bob", ident).decode().split("\r\n")
        return next(line for line in lines if line.startswith("Subject:"))


def service(last: str = "") -> str:
    """The service of port 587 in users.cf, perhaps with other words for its last line."""
    found = re.search(r"(?m)^submission inet(?:.*\n  -o .*)*\n(?=\n)", (SNIPPETS / "users.cf").read_text())
    assert found is not None
    first, _, own = found[0].rstrip("\n").rpartition("\n")
    return f"{first}\n{last or own}\n"


def listener() -> str:
    """The listener of users.toml that is for their mail."""
    found = re.search(r'(?s)\[\[listeners\]\]\nname = "users".*?\n\n', (SNIPPETS / "users.toml").read_text())
    assert found is not None
    return f"\n{found[0]}"


@contextlib.contextmanager
def users_of(way: str, changes: Mapping[str, str], port: int, *, more: str = "") -> Iterator[Users]:
    with folder("users") as base, Dovecot(base / "dovecot", [ANN]) as dovecot:
        trust = Trust.new(base / "trust")
        pem = trust.issue("mx.example.org", "127.0.0.1")
        settings = {
            "smtpd_tls_cert_file": pem,
            "smtpd_tls_key_file": pem,
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": f"inet:127.0.0.1:{dovecot.auth_port}",
        }
        with site_of(way, base, changes, settings=settings, more=more) as site:
            yield Users(site, port, trust)


@pytest.fixture(scope="module")
def after() -> Iterator[Users]:
    port = free_port()
    with users_of("users", {"10024": str(free_port()), "submission inet": f"127.0.0.1:{port} inet"}, port) as users:
        yield users


@pytest.fixture(scope="module")
def before() -> Iterator[Users]:
    port, ours = free_port(), free_port()
    lines = service(f"  -o smtpd_proxy_filter=127.0.0.1:{ours}\n  -o smtpd_proxy_timeout=900s")
    changes = {"smtp      inet": lines.replace("submission inet", f"127.0.0.1:{port} inet") + "smtp      inet"}
    with users_of("before-queue", changes, port, more=listener().replace("10024", str(ours))) as users:
        yield users


def test_after_the_queue_users_are_ours_wherever_they_are(after: Users) -> None:
    ident = after.send("127.0.0.88", "hello")
    assert after.subject(ident) == "Subject: hello"
    after.site.why(ident, "by listener users", "has it from unknown[127.0.0.88] (helo ")
    stranger, _ = after.site.send(BOB, subject="hello", sender=ANN)
    assert after.subject(stranger) == "Subject: [EXTERNAL] hello"
    after.site.why(stranger, "by listener postfix", "has it from unknown[127.0.0.88] (helo helo.client.test)")


def test_after_the_queue_mail_of_the_mail_server_itself_is_ours_and_nothing_was_forgotten(after: Users) -> None:
    after.site.postfix.sendmail(
        "-f", ANN, BOB, content="From: ann\nMessage-ID: <own@mx.example.org>\nSubject: own\n\nx\n"
    )
    assert after.subject("own@mx.example.org") == "Subject: own"
    after.site.why("own@mx.example.org", "by listener postfix")
    assert FORGOTTEN not in after.site.gateway.log.read_text()


def test_before_the_queue_users_are_ours_wherever_they_are(before: Users) -> None:
    ident = before.send(DENIED, "hello")
    assert before.subject(ident) == "Subject: hello"
    before.site.why(ident, "by listener users", f"has it from unknown[{DENIED}]")
    with before.site.client(DENIED) as client:
        client.mail(ANN)
        assert client.rcpt(BOB)[0] == 550
    assert FORGOTTEN not in before.site.gateway.log.read_text()


@pytest.mark.parametrize("way", ["after", "before"])
def test_without_a_login_nobody_sends_by_the_port_of_users(way: str, request: pytest.FixtureRequest) -> None:
    users: Users = request.getfixturevalue(way)
    with users.client("127.0.0.1") as client:
        client.mail(ANN)
        assert client.rcpt(BOB)[0] == 554


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"smtp_send_xforward_command=yes": "smtp_send_xforward_command=no"}, "-o smtp_send_xforward_command=yes"),
        ({'xforward_from = ["127.0.0.1"]': 'xforward_from = ["127.0.0.2"]'}, "is not in xforward_from"),
    ],
)
def test_a_setting_that_was_forgotten_is_told_of_once(base: Path, changes: Mapping[str, str], hint: str) -> None:
    with site_of("after-queue", base, changes) as site:
        for _ in range(2):
            ident, _ = site.send(BOB)
            site.mail("bob", ident)

        def told() -> list[str]:
            return [line for line in site.gateway.log.read_text().splitlines() if FORGOTTEN in line]

        wait_until(lambda: bool(told()), "the log tells of it")
        assert len(told()) == 1
        assert hint in told()[0]
