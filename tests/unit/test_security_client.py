"""Sessions with hosts of which something is asked: real handshakes in memory, and no word of mail to a wrong one."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace
from twisted.internet.testing import MemoryReactorClock

from mailgate.relay.attempt import ConnectFailedError
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.client.connector import IClientReactor, SmtpConnector, WithoutTls
from mailgate.relay.client.terms import Terms
from mailgate.relay.replies.classify import Classifier
from mailgate.relay.security.demand import Demand
from mailgate.tls.client import ClientContexts
from mailgate.tls.dane import usable
from mailgate.tls.store import CertificateStore
from tests.unit.certificates import Issued, authority, issue
from tests.unit.peer import MX
from tests.unit.secure_peer import Host, ask

ROOT = authority()
RIGHT = issue(ROOT, "mx.example.org")
WRONG = issue(ROOT, "other.example.org")
EXPIRED = issue(ROOT, "mx.example.org", days=(-9, -2))
ALONE = issue(None, "mx.example.org")
DOMAIN = issue(issue(authority(), "x"), "example.org")
PLAIN, STARTTLS = (), (b"STARTTLS",)

VERIFIED = Demand(level="verified", policy="sts")
TESTING = Demand(policy="sts")
ENCRYPTED = Demand(level="encrypted", policy="tlsa")
CLEAR = Demand(level="clear", policy="local")
STRANGER = "mx is none of the hosts that MTA-STS names for a.test"
REFUSED = Demand(
    level="refused",
    policy="sts",
    failure="validation-failure",
    reason=STRANGER,
)


def dane(of: Issued, usage: int = 3) -> Demand:
    digest = sha256(of.certificate.public_bytes(Encoding.DER)).hexdigest()
    records = usable([f"{usage} 0 1 {digest}"])
    return Demand(level="dane", policy="tlsa", tlsa=records, names=("mx.example.org", "example.org"))


def pinned(of: Issued) -> Demand:
    return Demand(level="pinned", policy="local", fingerprints=(of.fingerprint,))


class Bench:
    def __init__(self, folder: Path) -> None:
        self.reactor = MemoryReactorClock()
        self.folder = folder
        self.ca = ROOT.write_certificate(folder / "ca.pem")
        self.without_tls: WithoutTls = {}
        self.host = self.hosted(RIGHT)

    def hosted(self, certificate: Issued, keywords: tuple[bytes, ...] = STARTTLS, **more: Any) -> Host:
        store = CertificateStore(certificate.write(self.folder / "server.pem"), self.reactor)
        self.host = Host(store.server_creator("none"), keywords=keywords or (b"PIPELINING",), **more)
        return self.host

    def connect(self, demand: Demand, tls: Any = "opportunistic") -> SmtpConnection | ConnectFailedError:
        terms = Terms(tls=tls, tls_ca=self.ca, contexts=ClientContexts(self.reactor))
        reactor = cast(IClientReactor, self.reactor)
        connector = SmtpConnector(reactor, "gw.example", terms=terms, without_tls=self.without_tls)
        return ask(connector, self.reactor, self.host, target=replace(MX, demand=demand))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.reactor.advance(600)
    assert not one.reactor.getDelayedCalls()


@pytest.mark.parametrize("tls", ["opportunistic", "required"])
@pytest.mark.parametrize(
    ("demand", "server"),
    [
        (VERIFIED, RIGHT),
        (ENCRYPTED, ALONE),
        (ENCRYPTED, WRONG),
        (dane(ALONE), ALONE),
        (dane(EXPIRED), EXPIRED),
        (dane(WRONG), WRONG),
        (pinned(ALONE), ALONE),
        (TESTING, RIGHT),
        (TESTING, WRONG),
    ],
)
def test_whoever_comes_up_to_it_gets_a_session(bench: Bench, demand: Demand, server: Issued, tls: str) -> None:
    host = bench.hosted(server)
    session = bench.connect(demand, tls)
    assert isinstance(session, SmtpConnection), session
    assert session.tls is not None
    assert session.tls_is_verified is (demand.level in ("verified", "dane", "pinned") or server is RIGHT)
    assert len(host.sessions) == 1
    session.close()


@pytest.mark.parametrize("tls", ["opportunistic", "required"])
@pytest.mark.parametrize(
    ("demand", "server", "failure"),
    [
        (VERIFIED, WRONG, "certificate-host-mismatch"),
        (VERIFIED, EXPIRED, "certificate-expired"),
        (VERIFIED, ALONE, "certificate-not-trusted"),
        (dane(ALONE), RIGHT, "validation-failure"),
        (dane(RIGHT), ALONE, "validation-failure"),
        (pinned(ALONE), RIGHT, "certificate-host-mismatch"),
    ],
)
def test_whoever_does_not_hears_of_no_mail(
    bench: Bench, demand: Demand, server: Issued, failure: str, tls: str
) -> None:
    host = bench.hosted(server)
    error = bench.connect(demand, tls)
    assert isinstance(error, ConnectFailedError)
    assert (error.stage, error.tls_failure, error.is_ours, error.in_clear) == ("tls", failure, True, False)
    assert (error.reply.code, error.reply.status) == (451, "4.7.5")
    assert "no TLS with mx.example.org[192.0.2.1]:25" in error.reason
    assert Classifier().category(error.reply) == "tls"
    assert len(host.sessions) == 1
    assert [line for line in host.sessions[0] if line != b"QUIT"] == [b"EHLO gw.example", b"STARTTLS"]
    assert not bench.without_tls


@pytest.mark.parametrize("demand", [VERIFIED, ENCRYPTED, dane(RIGHT), pinned(RIGHT)], ids=lambda one: one.level)
@pytest.mark.parametrize(
    ("trouble", "failure"),
    [
        ({"keywords": PLAIN}, "starttls-not-supported"),
        ({"starttls": b"454 not now\r\n"}, "validation-failure"),
        ({"starttls": b"502 what?\r\n"}, "validation-failure"),
        ({"garbled": True}, "validation-failure"),
    ],
    ids=["not offered", "not now", "unknown", "garbled"],
)
def test_there_is_no_way_down_to_clear_text(
    bench: Bench, demand: Demand, trouble: dict[str, Any], failure: str
) -> None:
    bench.without_tls[MX.address, MX.port] = "it has failed before"
    host = bench.hosted(RIGHT, **trouble)
    error = bench.connect(demand)
    assert isinstance(error, ConnectFailedError)
    assert (error.stage, error.tls_failure, error.in_clear) == ("tls", failure, False)
    assert len(host.sessions) == 1
    assert not any(line.startswith(b"MAIL") for line in host.sessions[0])


def test_what_is_only_tested_goes_in_clear_text_as_before(bench: Bench) -> None:
    host = bench.hosted(RIGHT, garbled=True)
    session = bench.connect(TESTING)
    assert isinstance(session, SmtpConnection)
    assert (session.tls, session.is_fallback, len(host.sessions)) == (None, True, 2)
    session.close()


def test_a_session_tells_what_its_certificate_lacks(bench: Bench) -> None:
    found = []
    for server in (RIGHT, WRONG, EXPIRED, ALONE):
        bench.hosted(server)
        session = bench.connect(TESTING)
        assert isinstance(session, SmtpConnection)
        found.append(session.tls_failure)
        session.close()
    assert found == ["", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted"]


def test_without_tls_where_we_say_so(bench: Bench) -> None:
    session = bench.connect(CLEAR)
    assert isinstance(session, SmtpConnection)
    assert (session.tls, bench.host.sessions) == (None, [[b"EHLO gw.example"]])
    session.close()


def test_nobody_connects_to_a_host_that_is_refused(bench: Bench) -> None:
    error = bench.connect(REFUSED)
    assert isinstance(error, ConnectFailedError)
    assert (error.stage, error.tls_failure, error.reply.code) == ("tls", "validation-failure", 451)
    assert error.reason == f"no mail for mx.example.org[192.0.2.1]:25: {STRANGER}"
    assert Classifier().category(error.reply) == "tls"
    assert not bench.reactor.tcpClients


def test_the_host_is_asked_for_by_the_name_that_its_records_have(bench: Bench) -> None:
    seen: list[str] = []
    alias = replace(dane(RIGHT), names=("alias.example.org", "example.org"))
    creator = Terms(tls="required", contexts=ClientContexts(bench.reactor)).under(alias).creator(MX)
    connection: Any = creator.clientConnectionForTLS(None)  # type: ignore[arg-type]  # it is not asked
    seen.append(connection.get_servername().decode())
    assert seen == ["alias.example.org"]


@pytest.mark.parametrize("name", ["mx.example.org", "example.org"])
def test_whether_a_session_is_for_one_domain_only(bench: Bench, name: str) -> None:
    middle = authority("Middle", ROOT)
    bench.hosted(issue(middle, name))
    session = bench.connect(dane(middle, 2))
    assert isinstance(session, SmtpConnection), session
    assert session.is_for_domain is (name == "example.org")
    session.close()
