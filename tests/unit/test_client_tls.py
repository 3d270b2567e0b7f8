"""The client under TLS: real handshakes with hosts of every kind, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cachetools import TTLCache
from twisted.internet.defer import Deferred, execute
from twisted.internet.testing import MemoryReactorClock
from zope.interface.verify import verifyObject

from mailgate.envelope import MailParameters, Origin
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import ConnectFailedError, IConnection, Result
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.client.connector import IClientReactor, SmtpConnector
from mailgate.relay.client.terms import Login, Terms
from mailgate.tls.client import ClientContexts
from mailgate.tls.store import CertificateStore
from mailgate.wire.proxy import ProxyReader
from mailgate.wire.sasl import decode_response
from tests.unit.certificates import Issued, authority, issue
from tests.unit.peer import MX, envelope
from tests.unit.sasl_talk import PASSWORD
from tests.unit.secure_peer import Host, SecurableTransport, ask

ROOT = authority()
RIGHT = issue(ROOT, "mx.example.org")
WRONG = issue(ROOT, "other.example.org")
CLIENT = Origin(address="198.51.100.7", port=4711, name="client.test", helo="laptop.client.test")


class Bench:
    """A connector, and hosts with certificates."""

    def __init__(self, folder: Path) -> None:
        self.reactor = MemoryReactorClock()
        self.folder = folder
        self.ca = ROOT.write_certificate(folder / "ca.pem")
        self.contexts = ClientContexts(self.reactor)
        self.without_tls: TTLCache[tuple[str, int], str] = TTLCache(10, 3600.0, timer=self.reactor.seconds)

    def host(self, *keywords: bytes, certificate: Issued = RIGHT, **more: Any) -> Host:
        path = certificate.write(self.folder / "server.pem")
        store = CertificateStore(path, self.reactor)
        return Host(store.server_creator("request"), **({"keywords": keywords or (b"STARTTLS",)} | more))

    def connector(self, tls: Any = "opportunistic", **more: Any) -> SmtpConnector:
        work = more.pop("work", execute)
        terms = Terms(**{"tls": tls, "tls_ca": self.ca, "contexts": self.contexts, **more})
        reactor = cast(IClientReactor, self.reactor)
        return SmtpConnector(reactor, "gw.example", terms=terms, without_tls=self.without_tls, work=work)

    def begin(self, connector: SmtpConnector, found: list[Any]) -> SecurableTransport:
        """A connection whose other end the test plays."""
        connector.connect(MX).addBoth(found.append)
        factory: Any = self.reactor.tcpClients[-1][2]
        return SecurableTransport(self.reactor, factory.buildProtocol(None))

    def session(
        self, host: Host, connector: SmtpConnector, origin: Origin | None = None, *, try_tls: bool = False
    ) -> SmtpConnection:
        found = ask(connector, self.reactor, host, origin, try_tls=try_tls)
        assert isinstance(found, SmtpConnection), found
        return found

    def error(self, host: Host, connector: SmtpConnector) -> ConnectFailedError:
        found = ask(connector, self.reactor, host)
        assert isinstance(found, ConnectFailedError)
        assert host.sessions
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.reactor.advance(600)
    assert not one.reactor.getDelayedCalls()


def said(*parts: bytes) -> Callable[[bytes], bytes]:
    """An `answer` for lines that begin with the first part, then the third, ..."""
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    return lambda line: next((reply for start, reply in pairs if line.startswith(start)), b"")


# -- what the handshake comes to


@pytest.mark.parametrize("tls", ["opportunistic", "required", "verified"])
def test_starttls(bench: Bench, tls: str) -> None:
    host = bench.host(b"STARTTLS", b"SIZE 1", secure_keywords=(b"PIPELINING", b"AUTH PLAIN"))
    session = bench.session(host, bench.connector(tls))
    assert verifyObject(IConnection, session)
    assert host.sessions == [[b"EHLO gw.example", b"STARTTLS", b"EHLO gw.example"]]
    assert session.extensions.offered == {"PIPELINING": "", "AUTH": "PLAIN"}
    assert session.tls is not None
    assert session.tls_is_verified
    assert session.tls.fingerprint == RIGHT.fingerprint
    assert session.security == f"{session.tls.version} {session.tls.cipher} verified"
    assert session.security.startswith("TLSv1.3 TLS_")
    assert (session.is_usable, session.is_authenticated) == (True, False)
    session.close()


def test_a_stranger_will_do_where_nobody_is_to_be_verified(bench: Bench) -> None:
    for tls in ("opportunistic", "required"):
        session = bench.session(bench.host(certificate=WRONG), bench.connector(tls))
        assert session.tls is not None
        assert not session.tls_is_verified
        assert not session.security.endswith("verified")
        session.close()


def test_clear_text_is_not_secure(bench: Bench) -> None:
    for connector in (bench.connector("off"), bench.connector()):
        session = bench.session(bench.host(b"SIZE"), connector)
        assert (session.tls, session.tls_is_verified, session.security) == (None, False, "")
        session.close()
    assert not bench.without_tls


@pytest.mark.parametrize("tls", ["verified", "implicit"])
def test_a_name_that_is_wrong(bench: Bench, tls: str) -> None:
    host = bench.host(certificate=WRONG, implicit=tls == "implicit")
    error = bench.error(host, bench.connector(tls))
    assert (error.stage, error.reply.code, error.reply.status, error.is_ours) == ("tls", 451, "4.7.5", True)
    assert "no TLS with mx.example.org[192.0.2.1]:25: the handshake failed: " in error.reply.text
    assert "the certificate is for other.example.org, not for mx.example.org" in error.reply.text
    assert len(host.sessions) == 1
    assert host.sessions[0][-1:] in ([], [b"STARTTLS"])


def test_the_name_that_the_route_gives(bench: Bench) -> None:
    session = bench.session(bench.host(certificate=WRONG), bench.connector("verified", tls_name="other.example.org"))
    assert session.tls_is_verified
    session.close()


def test_pins(bench: Bench) -> None:
    for certificate, is_right in ((issue(None, "x", days=(-9, -1)), True), (RIGHT, False)):
        pins = (certificate.fingerprint if is_right else "0" * 64,)
        connector = bench.connector("required", tls_fingerprints=pins)
        host = bench.host(certificate=certificate)
        if is_right:
            session = bench.session(host, connector)
            assert session.tls_is_verified
            session.close()
        else:
            assert "no pinned fingerprint matches" in bench.error(host, connector).reason


def test_tls_from_the_first_octet(bench: Bench) -> None:
    host = bench.host(implicit=True, secure_keywords=(b"SIZE 7",))
    session = bench.session(host, bench.connector("implicit"))
    assert host.sessions == [[b"EHLO gw.example"]]
    assert session.tls_is_verified
    assert session.extensions.max_size == 7
    session.close()


def test_a_message_goes_under_tls(bench: Bench) -> None:
    host = bench.host(answer=said(b"DATA", b"354 go\r\n", b".", b"250 2.0.0 taken\r\n"))
    found: list[Result] = []
    one = envelope()
    content = Content(b"Subject: x\r\n\r\nhello\r\n")

    def deliver(session: SmtpConnection) -> None:
        session.deliver(one, one.recipients, content).addCallback(lambda results: found.extend(results))

    session = ask(bench.connector("verified"), bench.reactor, host, then=deliver)
    assert isinstance(session, SmtpConnection)
    assert [one.kind for one in found] == [OutcomeKind.DELIVERED]
    assert host.sessions[0][-4:] == [b"Subject: x", b"", b"hello", b"."]
    session.close()


@pytest.mark.parametrize("certificate", [RIGHT, WRONG])
def test_a_message_that_requires_tls_goes_to_those_who_have_proved_who_they_are(
    bench: Bench, certificate: Issued
) -> None:
    offer = (b"REQUIRETLS", b"AUTH PLAIN")
    answer = said(b"DATA", b"354 go\r\n", b".", b"250 2.0.0 taken\r\n", b"AUTH", b"235 2.7.0 it is you\r\n")
    host = bench.host(certificate=certificate, secure_keywords=offer, answer=answer)
    login = Login(username="gw", secret=PASSWORD, mechanisms=("plain",))
    found: list[Result] = []
    one = envelope(parameters=MailParameters(require_tls=True, auth="<>"))

    def deliver(session: SmtpConnection) -> None:
        session.deliver(one, one.recipients, Content(b"x\r\n")).addCallback(lambda results: found.extend(results))

    session = ask(bench.connector(login=login), bench.reactor, host, then=deliver)
    assert isinstance(session, SmtpConnection)
    if certificate is RIGHT:
        assert [one.kind for one in found] == [OutcomeKind.DELIVERED]
        assert b"MAIL FROM:<ann@client.test> REQUIRETLS AUTH=<>" in host.sessions[0]
    else:
        assert [(one.kind, one.reply.status, one.next_host) for one in found] == [(OutcomeKind.FAILED, "5.7.10", True)]
        assert not [line for line in host.sessions[0] if line.startswith(b"MAIL")]
    session.close()


# -- where it fails


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"garbled": True}, "wrong version number"),
        ({"starttls": b"454 4.7.0 no entropy\r\n"}, "STARTTLS refused: 454 4.7.0 no entropy"),
        ({"starttls": b"502 5.5.1 not really\r\n"}, "STARTTLS refused: 502 5.5.1 not really"),
    ],
)
def test_what_fails_where_it_may_is_done_without_and_remembered_for_a_while(
    bench: Bench, more: Any, reason: str
) -> None:
    host, connector = bench.host(**more), bench.connector()
    for _ in range(2):
        session = bench.session(host, connector)
        assert session.tls is None
        session.close()
    first, *others = host.sessions
    assert first[:2] == [b"EHLO gw.example", b"STARTTLS"]
    assert others == 2 * [[b"EHLO gw.example"]]
    assert reason in bench.without_tls["192.0.2.1", 25]
    bench.reactor.advance(3600)
    session = bench.session(bench.host(), connector)
    assert session.tls is not None
    session.close()


def test_who_breaks_a_handshake_returns_no_mail(bench: Bench) -> None:
    connector = bench.connector()
    host = bench.host(garbled=True)
    found: list[Result] = []
    one = envelope(parameters=MailParameters(require_tls=True))

    def deliver(session: SmtpConnection) -> None:
        session.deliver(one, one.recipients, Content(b"x\r\n")).addCallback(lambda results: found.extend(results))

    for _ in range(2):
        session = ask(connector, bench.reactor, host, then=deliver)
        assert isinstance(session, SmtpConnection)
        assert session.is_fallback
        session.close()
    assert [(one.kind, str(one.reply)) for one in found] == 2 * [(OutcomeKind.DEFERRED, "451 4.7.10 Encryption needed")]


def test_tls_that_has_failed_can_be_tried_again(bench: Bench) -> None:
    connector = bench.connector()
    bench.session(bench.host(garbled=True), connector).close()
    bench.reactor.advance(1800)
    again = bench.session(bench.host(garbled=True), connector, try_tls=True)
    assert (again.tls, again.is_fallback) == (None, True)
    again.close()
    bench.reactor.advance(1800)
    assert not bench.without_tls  # the second failure made the time no longer
    bench.session(bench.host(garbled=True), connector).close()
    assert bench.without_tls
    mended = bench.session(bench.host(), connector, try_tls=True)
    assert mended.tls is not None
    assert not mended.is_fallback
    assert not bench.without_tls
    mended.close()


@pytest.mark.parametrize("tls", ["required", "verified"])
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"garbled": True}, "the handshake failed: "),
        ({"starttls": b"454 4.7.0 no entropy\r\n"}, "STARTTLS refused: 454 4.7.0 no entropy"),
        ({"keywords": (b"SIZE",)}, "it does not offer STARTTLS"),
    ],
)
def test_what_fails_where_it_may_not_is_told(bench: Bench, tls: str, more: Any, reason: str) -> None:
    host = bench.host(**more)
    error = bench.error(host, bench.connector(tls))
    assert (error.stage, error.is_ours, error.is_permanent) == ("tls", True, False)
    assert reason in error.reason
    assert len(host.sessions) == 1
    assert not bench.without_tls


@pytest.mark.parametrize("tls", ["opportunistic", "required"])
@pytest.mark.parametrize("injected", [b"250 mx.evil.test\r\n", b"250-mx", b"\x16"])
def test_octets_behind_the_reply_to_starttls_are_foul_play(bench: Bench, tls: str, injected: bytes) -> None:
    host = bench.host(starttls=b"220 go ahead\r\n" + injected)
    error = bench.error(host, bench.connector(tls))
    assert (error.stage, error.reply.status) == ("tls", "4.5.0")
    assert host.sessions == [[b"EHLO gw.example", b"STARTTLS"]]
    assert not bench.without_tls


def test_a_handshake_that_never_ends(bench: Bench) -> None:
    found: list[Any] = []
    transport = bench.begin(bench.connector("required"), found)
    transport.take(b"220 hi\r\n")
    transport.take(b"250-mx\r\n250 STARTTLS\r\n")
    transport.take(b"220 go\r\n")
    bench.reactor.advance(29)
    assert not found
    bench.reactor.advance(1)
    assert found[0].value.stage == "tls"
    assert "did not answer in time" in found[0].value.reason
    assert transport.disconnected
    transport.lose()


# -- and then


def test_login_under_tls(bench: Bench) -> None:
    login = Login(username="gw", secret=PASSWORD, mechanisms=("plain", "login"))
    for outcome in (b"235 2.7.0 in\r\n", b"535 5.7.8 no\r\n"):
        host = bench.host(secure_keywords=(b"AUTH PLAIN",), answer=said(b"AUTH", outcome))
        connector = bench.connector("verified", login=login)
        if outcome.startswith(b"235"):
            session = bench.session(host, connector)
            assert session.is_authenticated
            session.close()
        else:
            error = bench.error(host, connector)
            assert (error.stage, error.reply.code, error.is_permanent) == ("auth", 535, False)
        line = host.sessions[0][3]
        assert decode_response(line.removeprefix(b"AUTH PLAIN ")) == b"\0gw\0" + PASSWORD.encode()


def test_scram_is_computed_elsewhere(bench: Bench) -> None:
    login = Login(username="gw", secret=PASSWORD, mechanisms=("scram-sha-256",))
    challenge = b"334 cj14LHM9LGk9NDA5Ng==\r\n"
    started: list[Deferred[bytes]] = []

    def work(compute: Callable[[], bytes]) -> Deferred[bytes]:
        started.append(Deferred())
        return started[-1]

    for fails in (False, True):
        found: list[Any] = []
        transport = bench.begin(bench.connector("off", login=login, work=work), found)
        transport.take(b"220 hi\r\n")
        transport.take(b"250-mx\r\n250 AUTH SCRAM-SHA-256\r\n")
        transport.sent()
        transport.take(challenge)
        computing = started.pop()
        assert not transport.sent()
        if fails:
            computing.errback(MemoryError(f"no room for {PASSWORD}"))
            (failure,) = found
            assert "MemoryError" in failure.value.reason
            assert PASSWORD not in failure.value.reason
        else:
            computing.callback(b"proof")
            assert transport.sent() == b"cHJvb2Y=\r\n"
            transport.take(b"334 x\r\n250 more\r\n")
            assert found[0].value.stage == "auth"
        transport.lose()


def test_the_header_comes_before_tls(bench: Bench) -> None:
    connector = bench.connector("implicit", proxy_protocol=True)
    for origin, source in ((CLIENT, ("198.51.100.7", 4711)), (None, None)):
        size = 16 + 7 + (12 if origin is not None else 0)
        host = bench.host(implicit=True, header_size=size)
        session = bench.session(host, connector, origin)
        header = ProxyReader().feed(host.header)
        assert header is not None
        found = header[0].source
        assert (found and (str(found[0]), found[1])) == source
        assert header[0].is_local is (origin is None)
        assert session.tls_is_verified
        session.close()


def test_the_client_is_introduced(bench: Bench) -> None:
    host = bench.host(b"XCLIENT ADDR NAME", answer=said(b"XCLIENT", b"220 mx.example.org\r\n"))
    session = bench.session(host, bench.connector("off", xclient=True), CLIENT)
    first, introduction, second = host.sessions[0]
    assert (first, second) == (b"EHLO gw.example", b"EHLO laptop.client.test")
    assert introduction.startswith(b"XCLIENT ")
    session.close()


def test_a_file_that_is_gone_is_told(bench: Bench) -> None:
    error = bench.error(bench.host(), bench.connector("required", tls_ca=bench.folder / "gone.pem"))
    assert (error.stage, error.is_ours) == ("tls", True)
    assert "gone.pem: cannot be read" in error.reason
