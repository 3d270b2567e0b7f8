"""Behind haproxy, the client is whom haproxy names: in Received, in the history, and for the limits."""

from __future__ import annotations

import contextlib
import smtplib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from clients import swaks
from configurations import configuration
from fronts import Haproxy, Way
from parts import Gateway, folder, free_port, wait_until
from secured import HOSTNAME, PASSWORD, USER, Trust, listener

pytestmark = pytest.mark.needs("haproxy", "swaks")

ROUTES = """
[routes.box]
transport = "maildir"
path = "mail/{local_part}"
"""


@dataclass
class Site:
    """haproxy in front of a gateway with a door in clear text and one with TLS from the first octet."""

    gateway: Gateway
    haproxy: Haproxy
    trust: Trust
    clear: int

    def top(self, user: str) -> str:
        """The header of the one mail of this user, once it is there, unfolded."""
        box = self.gateway.directory / "mail" / user / "new"
        wait_until(lambda: len(list(box.glob("*"))) == 1, f"one mail for {user}")
        return next(box.glob("*")).read_text().partition("\n\n")[0].replace("\n\t", " ")

    def history_of(self, address: str) -> str:
        """What `mailgate why` tells of a client, once it tells something."""
        told: list[str] = []

        def is_told() -> bool:
            told.append(self.gateway.command("why", address, check=False).stdout)
            return bool(told[-1])

        wait_until(is_told, f"the history tells of {address}")
        return told[-1]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with folder("proxy") as base:
        trust = Trust.new(base / "trust")
        certificate = trust.server()
        ready, clear, implicit = (free_port() for _ in range(3))
        behind = 'proxy_protocol_from = ["127.0.0.1"]'
        text = configuration(
            ready,
            ROUTES,
            domains={"box.test": "box"},
            more=f'\n[routing]\ndefault = "box"\n\n[tls]\ncertificate = "{certificate}"\n'
            + trust.users()
            + listener("clear", clear, behind, 'auth = "users"', "max_connections_per_client = 2", role="hybrid")
            + listener("implicit", implicit, behind, 'auth = "users"', 'tls = "implicit"', role="hybrid"),
        )
        ends_tls = f"ssl crt {certificate} ca-file {trust.ca} verify optional"
        ways = {
            "v1": Way(clear, "send-proxy"),
            "v2": Way(clear, "send-proxy-v2"),
            "v1-tls": Way(implicit, "send-proxy"),
            "v2-tls": Way(implicit, "send-proxy-v2 proxy-v2-options crc32c,unique-id"),
            "v2-ended": Way(
                clear, "send-proxy-v2-ssl-cn proxy-v2-options crc32c,ssl,cert-cn,authority,ssl-cipher", ends_tls
            ),
            "check-v1": Way(clear, "send-proxy check inter 200ms"),
            "check-v2": Way(clear, "send-proxy-v2 check inter 200ms"),
            "check-smtp": Way(clear, "send-proxy-v2 check inter 200ms", more="option smtpchk EHLO balancer.test"),
            "check-tls": Way(implicit, "send-proxy-v2 check inter 200ms"),
            "nobody": Way(free_port(), "send-proxy-v2 check inter 200ms"),
        }
        with Gateway(base / "gateway", text, [ready]) as gateway, Haproxy(base / "haproxy", ways) as haproxy:
            yield Site(gateway, haproxy, trust, clear)


#: Doors with how TLS begins there, in the words of swaks, and from where it comes.
SECURED = [
    ("v1-tls", "--tls-on-connect", "127.0.0.21"),
    ("v2-tls", "--tls-on-connect", "127.0.0.22"),
    ("v2-ended", "--tls-on-connect", "127.0.0.23"),
    ("v1", "--tls", "127.0.0.24"),
    ("v2", "--tls", "127.0.0.25"),
]


@pytest.mark.parametrize(("door", "source"), [("v1", "127.0.0.11"), ("v2", "127.0.0.12")])
def test_the_client_is_whom_the_header_names(site: Site, door: str, source: str) -> None:
    user = f"plain-{door}"
    done = swaks(
        site.haproxy.doors[door],
        *("--local-interface", source, "--from", "ann@client.test", "--to", f"{user}@box.test"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Received: from client.test (unknown [{source}]) by {HOSTNAME} (mailgate) with ESMTP id" in site.top(user)
    assert f"accepted from unknown[{source}] (helo client.test) by listener clear" in site.history_of(source)


@pytest.mark.parametrize(("door", "option", "source"), SECURED)
def test_the_client_is_whom_the_header_names_under_tls(site: Site, door: str, option: str, source: str) -> None:
    user = f"tls-{door}"
    done = swaks(
        site.haproxy.doors[door],
        *(option, "--tls-verify", "--tls-ca-path", str(site.trust.ca), "--local-interface", source),
        *("--auth", "PLAIN", "--auth-user", USER, "--auth-password", PASSWORD),
        *("--from", "ann@client.test", "--to", f"{user}@elsewhere.test"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    top = site.top(user)
    assert f"from client.test (unknown [{source}]) (using TLSv1.3 with cipher TLS_" in top
    assert f"by {HOSTNAME} (mailgate) with ESMTPSA id" in top
    assert f"accepted from unknown[{source}]" in site.history_of(source)


def test_tls_that_the_proxy_has_ended_is_not_offered_again(site: Site) -> None:
    with site.trust.client(site.haproxy.doors["v2-ended"], implicit=True, source="127.0.0.31") as client:
        client.ehlo()
        assert "starttls" not in client.esmtp_features
        assert "requiretls" in client.esmtp_features
        assert "PLAIN" in client.esmtp_features["auth"].split()
        # A binding to this TLS, which is haproxy's, is nothing that we could check.
        assert "SCRAM-SHA-256-PLUS" not in client.esmtp_features["auth"].split()
        assert client.docmd("STARTTLS")[0] == 503


def test_limits_count_for_the_client_and_not_for_the_proxy(site: Site) -> None:
    def connect(source: str) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", site.haproxy.doors["v2"], timeout=60, source_address=(source, 0))

    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connect("127.0.0.41"))
        with pytest.raises(smtplib.SMTPConnectError) as refused:
            connect("127.0.0.41")
        assert refused.value.smtp_code == 421
        stack.enter_context(connect("127.0.0.42"))


def test_who_is_no_proxy_is_a_client(site: Site) -> None:
    with smtplib.SMTP("127.0.0.1", site.clear, "client.test", timeout=60, source_address=("127.0.0.51", 0)) as client:
        client.sendmail("ann@client.test", "direct@box.test", "Subject: x\r\n\r\nx\r\n")
    assert "(unknown [127.0.0.51])" in site.top("direct")
    with smtplib.SMTP("127.0.0.1", site.clear, "liar.test", timeout=60, source_address=("127.0.0.52", 0)) as liar:
        assert liar.docmd("PROXY", "TCP4 192.0.2.1 192.0.2.2 1234 25")[0] == 500
        liar.sendmail("ann@client.test", "liar@box.test", "Subject: x\r\n\r\nx\r\n")
    assert "(unknown [127.0.0.52])" in site.top("liar")
    assert site.gateway.command("why", "192.0.2.1", check=False).returncode == 1


def test_a_proxy_that_sends_no_header_gets_no_greeting(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.clear), 5) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"EHLO client.test\r\n")
        assert connection.recv(100) == b""


@pytest.mark.parametrize(
    ("way", "ended"), [("check-v1", "L4OK"), ("check-v2", "L4OK"), ("check-smtp", "L7OK"), ("check-tls", "L4OK")]
)
def test_health_checks_find_the_gateway_well(site: Site, way: str, ended: str) -> None:
    wait_until(lambda: site.haproxy.health("nobody")[0].startswith("DOWN"), "a port where nobody is, is found out")
    wait_until(lambda: site.haproxy.health(way) == ("UP", ended), f"{way} is up")
    assert "Traceback" not in site.gateway.log.read_text()
    if way == "check-smtp":
        log = site.gateway.directory / "state" / "mailgate.log"
        wait_until(lambda: '"helo":"balancer.test"' in log.read_text().replace(": ", ":"), "it has said EHLO")
