"""MTA-STS and TLS reports through a whole gateway: policies over HTTPS, mail that goes by them or stays, and reports on
that by mail and by HTTPS. For port 443 of addresses of its own it needs the superuser."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import smtplib
import socket
import sqlite3
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest
from configurations import configuration
from dns_parts import Knot, Unbound
from parts import Gateway, folder, free_port, wait_until
from recorder import Recorder
from secured import Trust
from web_peer import QuietHandler, WebPeer

from tests.unit.certificates import Issued, authority, issue

pytestmark = pytest.mark.needs("knotd", "unbound", "root")

#: Where policies are, and where reports go over HTTPS: other addresses for each test process beside this one.
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
POLICIES, DESK = f"127.83.{_PROCESS}.1", f"127.83.{_PROCESS}.2"
ROOT = authority()
SMTP = issue(ROOT, "mx.good.test", "mx.desk.test")

#: Domains with MTA-STS: the mode and the host of each one's policy, the host of its MX record, and who gets reports.
DOMAINS = {
    "good.test": ("enforce", "mx.good.test", "mx.good.test", "mailto:tls@desk.test"),
    "stranger.test": ("enforce", "mx.stranger.test", "mx.good.test", "https://www.desk.test/tls?of=stranger"),
    "named.test": ("enforce", "*.named.test", "mx.named.test", "mailto:tls@desk.test,https://www.desk.test/tls"),
    "testing.test": ("testing", "mx.testing.test", "mx.testing.test", "https://www.desk.test/tls"),
}


def zones() -> dict[str, str]:
    found = {"desk.test": f"@ MX 10 mx.desk.test.\nmx A 127.0.0.1\nwww A {DESK}\n"}
    for domain, (_, _, host, reports) in DOMAINS.items():
        lines = [f"@ MX 10 {host}.", '_mta-sts TXT "v=STSv1; id=1;"', f"mta-sts A {POLICIES}", "mx A 127.0.0.1"]
        found[domain] = "\n".join([*lines, f'_smtp._tls TXT "v=TLSRPTv1; rua={reports}"', ""])
    return found


class PolicyHost(QuietHandler):
    """Serves the policy of the domain that it is asked for: noted in `asked`, and answered while it `may_answer`."""

    asked: ClassVar[list[str]] = []
    may_answer = threading.Event()

    def get(self) -> None:
        self.asked.append(self.headers["Host"])
        self.may_answer.wait(60)
        mode, host, *_ = DOMAINS[self.headers["Host"].removeprefix("mta-sts.")]
        body = f"version: STSv1\r\nmode: {mode}\r\nmx: {host}\r\nmax_age: 604800\r\n".encode()
        self.say(200 if self.path == "/.well-known/mta-sts.txt" else 404, body, {"Content-Type": "text/plain"})


@dataclass
class Desk:
    """Takes reports over HTTPS; what it was sent, with the target and the type of each."""

    taken: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        taken = self.taken

        class Handler(QuietHandler):
            def post(self) -> None:
                report = json.loads(gzip.decompress(self.heard()))
                taken.append((self.path, self.headers["Content-Type"], report))
                self.send_response(201)
                self.end_headers()
                self.wfile.write(b"taken " * 50_000)  # more than anybody need read

        return Handler


class NearGateway(Gateway):
    """A gateway that has its destinations on its own machine, and believes `authorities` where it asks the system."""

    authorities = Path()

    def prepare(self) -> Sequence[str]:
        _, *arguments = super().prepare()
        return [sys.executable, str(Path(__file__).with_name("near_mx.py")), *arguments]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "SSL_CERT_FILE": str(self.authorities)}


@dataclass
class World:
    gateway: NearGateway
    submission: int
    mx: Recorder
    desk: Desk
    policies: Issued
    directory: Path

    @contextmanager
    def policy_host(self) -> Iterator[None]:
        """The policy host is there."""
        peer = WebPeer(PolicyHost, self.policies.write(self.directory / "policies.pem"), address=POLICIES, port=443)
        PolicyHost.asked.clear()
        PolicyHost.may_answer.set()
        try:
            yield
        finally:
            PolicyHost.may_answer.set()
            peer.close()

    def send(self, name: str, *domains: str) -> None:
        with smtplib.SMTP("127.0.0.1", self.submission) as client:
            for domain in domains:
                client.sendmail("ann@client.test", [f"{name}@{domain}"], f"Subject: {name}\r\n\r\nx\r\n")

    def delivered(self, recipient: str) -> str:
        """Under which TLS it was."""
        return str(self._event("delivered", recipient)["tls"])

    def deferred(self, recipient: str) -> str:
        """Why it was."""
        assert not [one for one in self.gateway.events("delivered") if one["recipient"] == recipient]
        event = self._event("deferred", recipient)
        assert event["category"] == "tls", event
        return str(event["reason"])

    def _event(self, kind: str, recipient: str) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [one for one in self.gateway.events(kind) if one["recipient"] == recipient]

        wait_until(lambda: bool(found()), f"{recipient} is {kind}")
        return found()[0]

    def mailed(self) -> list[dict[str, Any]]:
        """The reports that came by mail."""
        return [_mailed(one.content) for one in self.mx.taken if one.recipients == ("TO:<tls@desk.test>",)]

    def undone(self) -> list[Any]:
        """The domains whose reports on days before yesterday are not made."""
        with closing(sqlite3.connect(self.gateway.directory / "state" / "tls-reports.db", timeout=10)) as database:
            query = "SELECT domain FROM batches WHERE outcome IS NULL AND day < ?"
            return database.execute(query, (int(time.time() // 86400) - 1,)).fetchall()

    def let_days_pass(self) -> None:
        """What was counted is of the day before yesterday."""
        with closing(sqlite3.connect(self.gateway.directory / "state" / "tls-reports.db")) as database, database:
            database.execute("UPDATE batches SET day = day - 2")
            database.execute("UPDATE days SET day = day - 2")


@pytest.fixture
def world() -> Iterator[World]:
    with folder("policies") as directory:
        ca = ROOT.write_certificate(directory / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(SMTP.write(directory / "smtp.pem"))
        desk, submission = Desk(), free_port()
        www = WebPeer(desk.handler(), issue(ROOT, "www.desk.test").write(directory / "www.pem"), address=DESK, port=443)
        with (
            Recorder(offers=["PIPELINING", "8BITMIME"], context=context) as mx,
            Knot(directory / "knot", zones()) as knot,
            Unbound(directory / "unbound", knot) as unbound,
        ):
            text = configuration(
                free_port(),
                f'''
[routes.out]
transport = "smtp"
port = {mx.port}
security = "auto"
tls_ca = "{ca}"
ipv6 = false
''',
                domains={},
                outbound=submission,
                more=f'''
[dns]
servers = ["{unbound.server}"]
[mta_sts]
ca = "{ca}"
[tls_reports]
enabled = true
from = "tls-reports@client.test"
private_networks = ["{DESK}/32"]
''',
            )
            gateway = NearGateway(directory / "gateway", text, [submission])
            gateway.authorities = ca
            policies = issue(ROOT, *(f"mta-sts.{domain}" for domain in DOMAINS))
            yield World(gateway, submission, mx, desk, policies, directory)
            if gateway.process is not None:
                gateway.stop()
        www.close()


def summaries(report: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Sessions that went well and that did not, by kind of policy."""
    return {
        one["policy"]["policy-type"]: (
            one["summary"]["total-successful-session-count"],
            one["summary"]["total-failure-session-count"],
        )
        for one in report["policies"]
    }


def _mailed(content: bytes) -> dict[str, Any]:
    """The report in a mail."""
    message = message_from_bytes(content)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "tlsrpt"
    (attached,) = (one for one in message.walk() if one.get_content_type() == "application/tlsrpt+gzip")
    assert message["TLS-Report-Domain"] in (attached.get_filename() or "").split("!")
    octets = attached.get_payload(decode=True)
    assert isinstance(octets, bytes)
    found: dict[str, Any] = json.loads(gzip.decompress(octets))
    return found


def test_mail_goes_by_policies_and_their_domains_are_told(world: World) -> None:
    with world.policy_host(), world.gateway:
        world.send("one", *DOMAINS)
        assert world.delivered("one@good.test").endswith(" MTA-STS verified")
        assert world.deferred("one@stranger.test").endswith(
            "mx.good.test is none of the hosts that MTA-STS names for stranger.test"
        )
        assert "the certificate is for mx.good.test, mx.desk.test, not for mx.named.test" in world.deferred(
            "one@named.test"
        )
        assert "verified" not in world.delivered("one@testing.test")

    # the policy host is away, and stays away: what is known holds
    with world.gateway:
        world.send("two", "good.test", "stranger.test")
        assert world.delivered("two@good.test").endswith(" MTA-STS verified")
        assert "MTA-STS names for stranger.test" in world.deferred("two@stranger.test")
    assert {one.is_tls for one in world.mx.taken} == {True}

    world.let_days_pass()
    with world.gateway:
        wait_until(lambda: not world.undone(), "all reports are made")
        wait_until(lambda: len(world.mailed()) == 2, "the reports by mail are there")
    by_mail = {one["policies"][0]["policy"]["policy-domain"]: one for one in world.mailed()}
    assert sorted(by_mail) == ["good.test", "named.test"]
    by_web = {(path, one["policies"][0]["policy"]["policy-domain"]): one for path, kind, one in world.desk.taken}
    assert {kind for _, kind, _ in world.desk.taken} == {"application/tlsrpt+gzip"}
    assert sorted(by_web) == [
        ("/tls", "named.test"),
        ("/tls", "testing.test"),
        ("/tls?of=stranger", "stranger.test"),
    ]
    assert by_web["/tls", "named.test"] == by_mail["named.test"]
    assert summaries(by_mail["good.test"]) == {"sts": (2, 0)}
    assert summaries(by_web["/tls", "testing.test"]) == {"sts": (0, 1)}
    well, badly = summaries(by_web["/tls?of=stranger", "stranger.test"])["sts"]
    assert (well, badly >= 2) == (0, True)
    (policy,) = by_mail["named.test"]["policies"]
    assert policy["policy"] == {
        "policy-type": "sts",
        "policy-domain": "named.test",
        "policy-string": ["version: STSv1", "mode: enforce", "mx: *.named.test", "max_age: 604800"],
        "mx-host": ["*.named.test"],
    }
    (failure,) = policy["failure-details"]
    assert (failure["result-type"], failure["receiving-mx-hostname"]) == ("certificate-host-mismatch", "mx.named.test")

    # nobody is told twice
    before = len(world.mailed()), len(world.desk.taken)
    with world.gateway:
        world.send("three", "good.test")
        world.delivered("three@good.test")
        assert not world.undone()
    assert (len(world.mailed()), len(world.desk.taken)) == before


def test_a_reload_while_a_policy_is_fetched_holds_up_nothing(world: World) -> None:
    gateway = world.gateway
    with world.policy_host(), gateway:
        PolicyHost.may_answer.clear()
        world.send("one", "good.test", "stranger.test")
        wait_until(lambda: len(PolicyHost.asked) == 2, "the policies are asked for")
        gateway.file.write_text(gateway.file.read_text().replace("[mta_sts]", '[mta_sts]\ntimeout = "40s"'))
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(gateway.events("config_reloaded")) == 1, "the file is read again")
        PolicyHost.may_answer.set()
        assert world.delivered("one@good.test").endswith(" MTA-STS verified")
        assert "MTA-STS names for stranger.test" in world.deferred("one@stranger.test")
        assert not [one for one in gateway.events("deferred") if one["recipient"] == "one@good.test"]
    assert len(PolicyHost.asked) == 2
    assert "Traceback" not in gateway.log.read_text()


def asked(trust: Trust, port: int, host: str, method: str = "GET") -> tuple[int, str | None, str]:
    """What a gateway's HTTPS says of the policy of a host, which must prove that name: status, type and content."""
    context = trust.context()
    connection = http.client.HTTPSConnection(host, port, timeout=60, context=context)
    connection.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 20), server_hostname=host)
    with closing(connection):
        connection.request(method, "/.well-known/mta-sts.txt")
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read().decode()


def test_our_own_policy_is_served_as_it_is_printed(tmp_path: Path) -> None:
    trust = Trust.new(tmp_path / "trust")
    port, web = free_port(), free_port()
    certificate = trust.issue("mx.own.test", "mta-sts.own.test", "mta-sts.other.test")

    def text(mode: str) -> str:
        more = f'''
[tls]
certificate = "{certificate}"
[http]
endpoints = ["tcp:{web}:interface=127.0.0.1"]
[mta_sts]
serve = true
mode = "{mode}"
mx = ["mx.own.test"]
'''
        return configuration(port, '[routes.box]\ntransport = "discard"\n', domains={"own.test": "box"}, more=more)

    with Gateway(tmp_path / "gateway", text("testing"), [port]) as gateway:
        policy = json.loads(gateway.command("mta-sts", "--json").stdout)["policy"]
        assert "mode: testing\r\nmx: mx.own.test\r\n" in policy
        assert asked(trust, web, "mta-sts.own.test") == (200, "text/plain", policy)
        assert asked(trust, web, "mta-sts.own.test", "HEAD") == (200, "text/plain", "")
        assert asked(trust, web, "mta-sts.other.test")[0] == 404
        gateway.file.write_text(text("enforce"))
        gateway.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]  # it runs
        wait_until(lambda: "mode: enforce" in asked(trust, web, "mta-sts.own.test")[2], "the new policy is served")
        policy = json.loads(gateway.command("mta-sts", "--json").stdout)["policy"]
        assert asked(trust, web, "mta-sts.own.test")[2] == policy
