"""Postfix in front of mailgate: TLS, SASL, DSN and XFORWARD as it speaks them as a client."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from configurations import configuration
from parts import Gateway, Postfix, folder, free_port, wait_until
from recorder import Recorder, Taken
from secured import HOSTNAME, PASSWORD, USER, Trust, listener

pytestmark = pytest.mark.needs("postfix", "root")

MAIL = "From: <ann@client.test>\nDate: Wed, 25 Nov 2026 12:00:00 +0000\nMessage-ID: <1@client.test>\n\nHello\n"

MECHANISMS = ["plain", "login", "cram-md5", "scram-sha-256"]


@dataclass
class Site:
    """Postfix in front of a gateway in front of a recording next hop. Mail for X.test goes by Postfix's transport X."""

    postfix: Postfix
    gateway: Gateway
    recorder: Recorder

    def send(self, way: str, *options: str) -> str:
        """One mail by Postfix's `sendmail`; the recipient."""
        recipient = f"bob@{way}.test"
        self.postfix.sendmail("-f", "ann@client.test", *options, recipient, content=MAIL)
        return recipient

    def log_of(self, recipient: str, text: str) -> None:
        """Wait until Postfix's log says this of a recipient."""

        def said() -> bool:
            lines = self.postfix.log.read_text(errors="replace").splitlines()
            return any(f"to=<{recipient}>" in line and text in line for line in lines)

        wait_until(said, f"Postfix says of {recipient}: {text}")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with folder("front") as base, Recorder() as recorder:
        trust = Trust.new(base / "trust")
        ready, inside, submission = (free_port() for _ in range(3))
        text = configuration(
            ready,
            f'\n[routes.on]\ntransport = "smtp"\nhosts = ["127.0.0.1:{recorder.port}"]\nxforward = true\n',
            domains=dict.fromkeys(("encrypt.test", "secure.test", "dsn.test", "xforward.test"), "on"),
            more=f'\n[routing]\ndefault = "on"\n\n[tls]\ncertificate = "{trust.server()}"\n'
            + trust.users()
            + listener("inside", inside, 'xforward_from = ["127.0.0.1"]', role="inbound")
            + listener(
                "submission",
                submission,
                'auth = "users"',
                'tls = "required"',
                'auth_mechanisms = ["scram-sha-256-plus", "scram-sha-256", "plain", "login", "cram-md5"]',
            ),
        )
        (base / "right").write_text(f"127.0.0.1 {USER}:{PASSWORD}\n")
        (base / "wrong").write_text(f"127.0.0.1 {USER}:wrong\n")
        by_tls: dict[str, object] = {"smtp_tls_CAfile": trust.ca, "smtp_tls_loglevel": 1}
        logs_in: dict[str, object] = by_tls | {
            "smtp_tls_security_level": "encrypt",
            "smtp_sasl_auth_enable": "yes",
            "smtp_sasl_security_options": "noanonymous",
            "smtp_sasl_password_maps": f"texthash:{base}/right",
        }
        transports: dict[str, dict[str, object]] = {
            "encrypt": {"smtp_tls_security_level": "encrypt", "smtp_tls_loglevel": 1},
            "secure": by_tls | {"smtp_tls_security_level": "secure", "smtp_tls_secure_cert_match": HOSTNAME},
            "dsn": {},
            "xforward": {"smtp_send_xforward_command": "yes"},
            "wrong": logs_in
            | {"smtp_sasl_mechanism_filter": "plain", "smtp_sasl_password_maps": f"texthash:{base}/wrong"},
            **{name: logs_in | {"smtp_sasl_mechanism_filter": name} for name in MECHANISMS},
            "any": logs_in,
        }
        ports = {name: submission if "smtp_sasl_auth_enable" in own else inside for name, own in transports.items()}
        table = base / "transport"
        table.write_text("".join(f"{name}.test {name}:[127.0.0.1]:{port}\n" for name, port in ports.items()))
        settings = {"transport_maps": f"texthash:{table}"}
        with (
            Gateway(base / "gateway", text, [ready]) as gateway,
            Postfix(base / "postfix", relay_port=ready, settings=settings, transports=transports) as postfix,
        ):
            yield Site(postfix, gateway, recorder)


def received(taken: Taken) -> str:
    """The newest Received field, unfolded."""
    return taken.content.decode().partition("\r\n\r\n")[0].replace("\r\n\t", " ").split("\r\n")[0]


@pytest.mark.parametrize(("level", "trusted"), [("encrypt", "Untrusted"), ("secure", "Verified")])
def test_postfix_sends_by_tls(site: Site, level: str, trusted: str) -> None:
    recipient = site.send(level)
    top = received(site.recorder.of(recipient))
    assert f"by {HOSTNAME} (mailgate) with ESMTPS id" in top
    assert "(using TLSv1.3 with cipher TLS_" in top
    site.log_of(recipient, "status=sent (250 2.0.0 ")
    assert f"{trusted} TLS connection established to 127.0.0.1" in site.postfix.log.read_text()


@pytest.mark.parametrize("mechanism", [*MECHANISMS, "any"])
def test_postfix_logs_in_at_its_smarthost(site: Site, mechanism: str) -> None:
    recipient = site.send(mechanism)
    assert f"by {HOSTNAME} (mailgate) with ESMTPSA id" in received(site.recorder.of(recipient))
    site.log_of(recipient, "status=sent (250 2.0.0 ")


def test_postfix_with_a_wrong_password_keeps_its_mail(site: Site) -> None:
    recipient = site.send("wrong")
    site.log_of(recipient, "status=deferred (SASL authentication failed; server 127.0.0.1[127.0.0.1] said: 535 5.7.8")

    def told() -> bool:
        return f"PLAIN as {USER}: " in site.gateway.command("why", "127.0.0.1", check=False).stdout

    wait_until(told, "the history tells of the wrong password")


def test_what_a_sender_wants_to_be_told_goes_through(site: Site) -> None:
    recipient = site.send("dsn", "-N", "success,delay", "-V", "order=1", "-R", "hdrs")
    taken = site.recorder.of(recipient)
    assert taken.parameters()["RET"] == "HDRS"
    assert taken.parameters()["ENVID"] == "order+3D1"
    words = taken.recipients[0].split()[1:]
    assert f"ORCPT=rfc822;{recipient}" in words
    (notify,) = [word for word in words if word.startswith("NOTIFY=")]
    assert set(notify.removeprefix("NOTIFY=").split(",")) == {"SUCCESS", "DELAY"}


def test_where_a_message_came_from_is_forwarded_to_the_next_hop(site: Site) -> None:
    source = ("127.0.0.77", 0)
    with smtplib.SMTP("127.0.0.1", site.postfix.port, "client.test", timeout=60, source_address=source) as client:
        client.sendmail("ann@client.test", "bob@xforward.test", MAIL)
    taken = site.recorder.of("bob@xforward.test")
    told = dict(word.split("=", 1) for line in taken.commands_of("XFORWARD") for word in line.split())
    assert told["ADDR"] == "127.0.0.77"
    assert told["HELO"] == "client.test"
    assert told["PROTO"] == "ESMTP"
    assert told["SOURCE"] == "REMOTE"
