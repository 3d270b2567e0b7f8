"""Postfix behind mailgate: it learns who the client was, and is spoken to by TLS, with a login, as far as it knows."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import pytest
from beside_postfix import BesidePostfix
from configurations import configuration
from dovecot_parts import Dovecot
from parts import Gateway, Postfix, folder, free_port, wait_until
from secured import Trust

pytestmark = pytest.mark.needs("postfix", "dovecot", "root")

TEXT = (
    b"From: <ann@client.test>\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@client.test>\r\n"
    b"Subject: x\r\n\r\nHello\r\n"
)

MECHANISMS = ["plain", "login", "scram-sha-256"]


@dataclass
class Site(BesidePostfix):
    """A gateway that takes mail on `port`, and the Postfix behind it: mail for X.test goes by route X to its door X."""

    gateway: Gateway
    port: int
    postfix: Postfix

    def send(self, way: str, *, source: str = "127.0.0.88", content: bytes = TEXT, mail: str = "") -> str:
        """One mail by this way, from this loopback address; its recipient.

        It goes by BDAT where `mail`, the parameters of MAIL, says BINARYMIME.
        """
        recipient = f"bob@{way}.test"
        with smtplib.SMTP("127.0.0.1", self.port, "helo.client.test", timeout=60, source_address=(source, 0)) as client:
            client.ehlo()
            assert client.mail("ann@client.test", mail.split())[0] == 250
            assert client.rcpt(recipient)[0] == 250
            if "BINARYMIME" in mail:
                client.send(b"BDAT %d LAST\r\n%s" % (len(content), content))
                assert client.getreply()[0] == 250
            else:
                assert client.data(content)[0] == 250
        return recipient

    def mails(self, recipient: str) -> list[Path]:
        """What Postfix has put into the box of a recipient."""
        return list((self.postfix.mail / recipient / "new").glob("*"))

    def mail(self, recipient: str) -> bytes:
        """The one mail of a recipient, once it is there."""
        wait_until(lambda: len(self.mails(recipient)) == 1, f"{recipient} has a mail")
        return self.mails(recipient)[0].read_bytes()

    def top(self, recipient: str) -> str:
        """The Received field that Postfix has put on that mail."""
        return " ".join(message_from_bytes(self.mail(recipient)).get_all("Received", [])[0].split())


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with folder("behind") as base, Dovecot(base / "dovecot", ["gateway@dovecot.test"]) as dovecot:
        trust, other, port = Trust.new(base / "trust"), Trust.new(base / "other"), free_port()
        pair = trust.server()
        with_tls = {"smtpd_tls_cert_file": pair, "smtpd_tls_key_file": pair, "smtpd_tls_security_level": "encrypt"}
        verified = f'tls = "verified"\ntls_ca = "{trust.ca}"\n'
        (base / "right").write_text("secret\n")
        (base / "wrong").write_text("wrong\n")
        login = verified + 'auth = {{ username = "gateway@dovecot.test", password_file = "{}", mechanisms = ["{}"] }}'
        # What is said to each door, by its name.
        routes = {
            "xclient": "xclient = true",
            "no-xclient": "xclient = true",
            "xforward": "xforward = true",
            "no-xforward": "xforward = true",
            "proxy": "proxy_protocol = true",
            "tls": f'{verified}certificate = "{trust.issue("gateway.test")}"',
            "other-ca": f'tls = "verified"\ntls_ca = "{other.ca}"',
            "other-name": f'{verified}tls_name = "other.test"',
            "other-pin": f'tls = "required"\ntls_fingerprints = ["{"00" * 32}"]',
            "no-tls": 'tls = "required"',
            "clear": "",
            "seven-bit": "",
            "wrong": login.format(base / "wrong", "plain"),
            **{name: login.format(base / "right", name) for name in MECHANISMS},
        }
        settings: dict[str, dict[str, object]] = {name: {} for name in routes}
        settings |= {
            "xclient": {
                "smtpd_authorized_xclient_hosts": "127.0.0.1",
                "smtpd_client_restrictions": "check_client_access inline:{127.0.0.89=REJECT}",
            },
            "xforward": {"smtpd_authorized_xforward_hosts": "127.0.0.1"},
            "proxy": {"smtpd_upstream_proxy_protocol": "haproxy"},
            "tls": with_tls
            | {
                "smtpd_tls_received_header": "yes",
                "smtpd_tls_CAfile": trust.ca,
                "smtpd_tls_ask_ccert": "yes",
                "smtpd_tls_loglevel": "1",
            },
            "seven-bit": {"smtpd_discard_ehlo_keywords": "8bitmime, smtputf8, dsn, chunking, pipelining"},
            **dict.fromkeys(("other-ca", "other-name", "other-pin"), with_tls),
            **dict.fromkeys(
                ("wrong", *MECHANISMS),
                with_tls
                | {
                    "smtpd_sasl_auth_enable": "yes",
                    "smtpd_sasl_type": "dovecot",
                    "smtpd_sasl_path": f"inet:127.0.0.1:{dovecot.auth_port}",
                    "smtpd_recipient_restrictions": "permit_sasl_authenticated, reject",
                },
            ),
        }
        boxes = base / "boxes"
        boxes.write_text("".join(f"bob@{name}.test bob@{name}.test/\n" for name in routes))
        shared = {
            "virtual_mailbox_domains": " ".join(f"{name}.test" for name in routes),
            "virtual_mailbox_maps": f"texthash:{boxes}",
        }
        with Postfix(base / "postfix", settings=shared, doors=settings) as postfix:
            text = configuration(
                port,
                "".join(
                    f'\n[routes.{name}]\ntransport = "smtp"\nhosts = ["127.0.0.1:{postfix.ports[name]}"]\n{lines}\n'
                    for name, lines in routes.items()
                ),
                domains={f"{name}.test": name for name in routes},
            )
            with Gateway(base / "gateway", text, [port]) as gateway:
                yield Site(gateway, port, postfix)


# -- who the client was


def test_postfix_judges_the_client_by_xclient(site: Site) -> None:
    assert "from helo.client.test (unknown [127.0.0.88])" in site.top(site.send("xclient"))
    site.log_line("client=unknown[127.0.0.88]")
    recipient = site.send("xclient", source="127.0.0.89")
    site.log_line("reject: RCPT from unknown[127.0.0.89]: 554 5.7.1")
    site.why(recipient, "given up for bob@xclient.test by route xclient")


def test_a_postfix_that_does_not_offer_xclient_gets_nothing(site: Site) -> None:
    recipient = site.send("no-xclient")
    site.why(recipient, "does not offer XCLIENT")
    assert not site.mails(recipient)


def test_postfix_notes_the_client_by_xforward(site: Site) -> None:
    assert b"Hello" in site.mail(site.send("xforward", source="127.0.0.90"))
    site.log_line("orig_client=unknown[127.0.0.90]")


def test_a_postfix_that_does_not_offer_xforward_gets_the_mail_all_the_same(site: Site) -> None:
    assert b"Hello" in site.mail(site.send("no-xforward"))


def test_postfix_learns_the_client_by_the_proxy_protocol(site: Site) -> None:
    assert "(unknown [127.0.0.91])" in site.top(site.send("proxy", source="127.0.0.91"))


# -- TLS and AUTH


def test_postfix_is_verified_and_verifies(site: Site) -> None:
    top = site.top(site.send("tls"))
    assert "using TLSv1.3" in top
    assert 'Client CN "gateway.test"' in top
    assert "with ESMTPS id" in top
    site.log_line("Trusted TLS connection established from")


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("other-ca", "is not known here"),
        ("other-name", "other.test"),
        ("other-pin", "no pinned fingerprint matches"),
        ("no-tls", "it does not offer STARTTLS"),
    ],
)
def test_a_postfix_that_does_not_prove_who_it_is_gets_nothing(site: Site, way: str, reason: str) -> None:
    recipient = site.send(way)
    site.why(recipient, f"deferred for {recipient}")
    site.why(recipient, reason)
    assert not site.mails(recipient)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_mailgate_logs_in_at_postfix(site: Site, mechanism: str) -> None:
    assert "with ESMTPSA id" in site.top(site.send(mechanism))
    site.log_line(f"sasl_method={mechanism.upper()}, sasl_username=gateway@dovecot.test")


def test_a_wrong_password_defers_and_is_told_of(site: Site) -> None:
    recipient = site.send("wrong")
    site.why(recipient, "535 5.7.8")
    site.why(recipient, f"deferred for {recipient}")
    kept = [path.read_bytes() for path in site.gateway.directory.rglob("*") if path.is_file()]
    assert not any(b"Z2F0ZXdheUBkb3ZlY290LnRlc3QA" in content for content in kept)  # what PLAIN says


# -- what Postfix does not know


def test_binary_content_is_made_fit_for_postfix(site: Site) -> None:
    binary = b"\0\r\n.\r\n\n\r\xff" + bytes(range(256)) * 40
    head = TEXT.partition(b"Subject")[0]
    kind = b"MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    mail = message_from_bytes(site.mail(site.send("clear", content=head + kind + binary, mail="BODY=BINARYMIME")))
    assert mail["Content-Transfer-Encoding"] == "base64"
    assert mail.get_payload(decode=True) == binary


def test_eight_bit_content_is_made_fit_for_a_postfix_that_takes_seven(site: Site) -> None:
    kind = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nSubject"
    text = TEXT.replace(b"Subject", kind).replace(b"Hello", "Grüße, 你好".encode())
    raw = site.mail(site.send("seven-bit", content=text, mail="BODY=8BITMIME RET=HDRS ENVID=1"))
    assert raw.isascii()
    payload = message_from_bytes(raw).get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode().rstrip() == "Grüße, 你好"
