"""The relay's side of TLS: whom it trusts in which mode, and what it says of those it does not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL
from service_identity.hazmat import DNSPattern
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs
from zope.interface.verify import verifyObject

from mailgate.tls.check import CheckedConnection, PeerCheck, PeerRefusedError, is_of, outcome_of
from mailgate.tls.client import ClientContexts
from mailgate.tls.info import tls_of
from mailgate.tls.pem import TlsError
from mailgate.tls.store import CertificateStore
from tests.unit.certificates import Issued, authority, issue
from tests.unit.tls_pair import Pair

ROOT = authority()
MIDDLE = authority("Middle", ROOT)
OTHER_ROOT = authority("Other\nauthority")
UNKNOWN = "the chain does not lead to a known authority: "

CASES = [
    (issue(ROOT, "mx1.example"), "mx1.example", ""),
    (issue(ROOT, "mx1.example"), "MX1.example.", ""),
    (issue(MIDDLE, "mx1.example"), "mx1.example", ""),
    (issue(ROOT, "*.mx.example"), "a.mx.example", ""),
    (issue(ROOT, "192.0.2.1"), "192.0.2.1", ""),
    (issue(ROOT, "2001:db8::1"), "2001:db8:0::1", ""),
    (issue(ROOT, "mx2.example"), "mx1.example", "the certificate is for mx2.example, not for mx1.example"),
    (issue(ROOT, "*.example"), "a.mx1.example", "the certificate is for *.example, not for a.mx1.example"),
    (
        issue(ROOT, "a.example", "b.example", "c.example", "d.example", "192.0.2.1"),
        "mx1.example",
        "the certificate is for a.example, b.example, c.example and 2 more, not for mx1.example",
    ),
    (issue(ROOT, subject="mx1.example"), "mx1.example", "the certificate is for no host, not for mx1.example"),
    (issue(ROOT, "mx1.example"), "192.0.2.1", "the certificate is for mx1.example, not for 192.0.2.1"),
    (issue(ROOT, "192.0.2.2"), "192.0.2.1", "the certificate is for 192.0.2.2, not for 192.0.2.1"),
    (issue(ROOT, "mx1.example"), "mx 1.example", "the certificate is for mx1.example, not for mx 1.example"),
    (issue(ROOT, "*"), "example", "the certificate is for *, not for example"),
    (issue(None, "mx1.example"), "mx1.example", f"{UNKNOWN}the certificate is signed by itself"),
    (issue(OTHER_ROOT, "mx1.example"), "mx1.example", f"{UNKNOWN}the issuer CN=Other?authority is not known here"),
    (issue(ROOT, "mx1.example", days=(-9, -2)), "mx1.example", r"the certificate expired on \d{4}-\d\d-\d\d"),
    (issue(ROOT, "mx1.example", days=(2, 9)), "mx1.example", r"the certificate is valid from \d{4}-\d\d-\d\d only"),
    (
        issue(issue(ROOT, "no.authority"), "mx1.example"),
        "mx1.example",
        "the issuer's certificate CN=no.authority does not hold: invalid ca",
    ),
]


@pytest.fixture
def contexts() -> ClientContexts:
    return ClientContexts(Clock())


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    return ROOT.write_certificate(tmp_path / "ca.pem")


@pytest.fixture
def logged() -> Iterator[Sequence[LogEvent]]:
    with capturedLogs() as events:
        yield events


def connect(tmp_path: Path, server: Issued, client: IOpenSSLClientConnectionCreator, **settings: object) -> Pair:
    """The client at a server with this certificate, that asks for one in its turn."""
    path = server.write(tmp_path / "server.pem")
    store = CertificateStore(path, Clock(), **settings)  # type: ignore[arg-type]
    return Pair(store.server_creator("request"), client)


@pytest.mark.parametrize(("server", "host", "reason"), CASES)
def test_a_host_is_verified(
    tmp_path: Path, contexts: ClientContexts, ca: Path, server: Issued, host: str, reason: str
) -> None:
    pair = connect(tmp_path, server, contexts.client_creator(hostname=host, verify=True, ca=ca))
    assert pair.is_up is (not reason)
    outcome = outcome_of(pair.client.connection)
    assert outcome.is_verified is (not reason)
    assert re.fullmatch(reason, outcome.reason) or reason == outcome.reason
    if reason:
        assert isinstance(pair.client.lost, PeerRefusedError)
        assert str(pair.client.lost) == outcome.reason
        # the other end is told, too
        assert "alert" in str(pair.server.lost)


@pytest.mark.parametrize(("server", "host", "reason"), CASES)
def test_opportunism_takes_any_and_records_the_same(
    tmp_path: Path, contexts: ClientContexts, ca: Path, server: Issued, host: str, reason: str
) -> None:
    pair = connect(tmp_path, server, contexts.client_creator(hostname=host, verify=False, ca=ca))
    assert pair.is_up
    outcome = outcome_of(pair.client.connection)
    assert outcome.is_verified is (not reason)
    assert re.fullmatch(reason, outcome.reason) or reason == outcome.reason


def key_print(issued: Issued) -> str:
    public = issued.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(public).hexdigest()


def with_colons(text: str) -> str:
    return ":".join(text[at : at + 2] for at in range(0, len(text), 2)).upper()


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    "server",
    [
        issue(None, "other.example"),
        issue(OTHER_ROOT, "mx1.example"),
        issue(authority("Middle", OTHER_ROOT), "mx1.example", days=(-9, -2)),
        issue(ROOT, "mx1.example", key="rsa"),
    ],
)
def test_a_pin_is_all_that_counts(tmp_path: Path, contexts: ClientContexts, server: Issued, verify: bool) -> None:
    other = "00" * 32
    for pins, is_up in (
        ([server.fingerprint], True),
        ([other, with_colons(server.fingerprint)], True),
        ([key_print(server), other], True),
        ([other, ROOT.fingerprint, key_print(MIDDLE)], False),
    ):
        client = contexts.client_creator(hostname="mx1.example", verify=verify, fingerprints=pins)
        pair = connect(tmp_path, server, client)
        assert pair.is_up is is_up
        outcome = outcome_of(pair.client.connection)
        if is_up:
            assert outcome == PeerCheck(True, "")
        else:
            reason = f"no pinned fingerprint matches: the certificate's is {server.fingerprint}"
            assert outcome == PeerCheck(False, reason)
            assert str(pair.client.lost) == reason


def test_the_fingerprint_of_an_issuer_is_no_pin(tmp_path: Path, contexts: ClientContexts) -> None:
    pins = [MIDDLE.fingerprint, key_print(MIDDLE)]
    client = contexts.client_creator(hostname="mx1.example", verify=False, fingerprints=pins)
    assert not connect(tmp_path, issue(MIDDLE, "mx1.example"), client).is_up


@pytest.mark.parametrize("text", ["", "abcd", "g" * 64, "00" * 33])
def test_a_fingerprint_that_is_none_is_refused(contexts: ClientContexts, text: str) -> None:
    with pytest.raises(TlsError, match=f'^"{text}": no SHA-256 fingerprint'):
        contexts.client_creator(hostname="mx1.example", verify=False, fingerprints=[text])


def test_the_authorities_of_the_system_are_the_default(
    tmp_path: Path, contexts: ClientContexts, ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    client = contexts.client_creator(hostname="mx1.example", verify=True)
    assert connect(tmp_path, issue(ROOT, "mx1.example"), client).is_up
    assert not connect(tmp_path, issue(OTHER_ROOT, "mx1.example"), client).is_up


def test_the_authorities_of_the_system_are_read_again_after_a_day(
    tmp_path: Path, ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    clock = Clock()
    client = ClientContexts(clock).client_creator(hostname="mx1.example", verify=True)
    OTHER_ROOT.write_certificate(ca)
    server = issue(OTHER_ROOT, "mx1.example")
    clock.advance(86_399)
    assert not connect(tmp_path, server, client).is_up
    clock.advance(1)
    assert connect(tmp_path, server, client).is_up


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("mx1.example", "mx1.example"),
        ("MX1.Example.", "mx1.example"),
        ("192.0.2.1", ""),
        ("2001:db8::1", ""),
        ("", ""),
        ("x" * 300, ""),
        ("a\x00b", ""),
        ("b\u00fccher.example", ""),
    ],
)
def test_names_are_asked_for_and_addresses_are_not(
    tmp_path: Path, contexts: ClientContexts, ca: Path, host: str, asked: str
) -> None:
    pair = connect(tmp_path, issue(ROOT, "x"), contexts.client_creator(hostname=host, verify=False, ca=ca))
    assert pair.is_up
    assert (pair.server.connection.get_servername() or b"").decode() == asked


def test_a_certificate_of_ours_is_shown(tmp_path: Path, contexts: ClientContexts, ca: Path) -> None:
    own = issue(MIDDLE, "gw.example")
    path = own.write(tmp_path / "own.pem")
    client = contexts.client_creator(hostname="mx1.example", verify=True, ca=ca, certificate=path)
    pair = connect(tmp_path, issue(ROOT, "mx1.example"), client, client_ca=ca)
    assert pair.is_up
    assert outcome_of(pair.server.connection) == PeerCheck(True, "")
    assert tls_of(pair.server.connection, True).fingerprint == own.fingerprint


@pytest.mark.parametrize(("minimum", "is_up"), [("1.2", True), ("1.3", False)])
def test_old_versions_are_refused(
    tmp_path: Path, contexts: ClientContexts, ca: Path, minimum: str, is_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    server = issue(ROOT, "mx1.example")
    context.use_certificate(server.certificate)
    context.use_privatekey(server.key)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    store = CertificateStore(server.write(tmp_path / "server.pem"), Clock())
    monkeypatch.setattr(store, "connection", lambda mode: SSL.Connection(context))
    client = contexts.client_creator(hostname="mx1.example", verify=True, ca=ca, minimum_version=minimum)  # type: ignore[arg-type]
    assert Pair(store.server_creator("none"), client).is_up is is_up


def test_a_context_serves_every_host_with_the_same_settings(contexts: ClientContexts, ca: Path) -> None:
    made = [
        contexts.client_creator(hostname=host, verify=verify, ca=ca).clientConnectionForTLS(None)  # type: ignore[arg-type]
        for host in ("a.example", "b.example")
        for verify in (True, False)
    ]
    assert len({id(connection.get_context()) for connection in made}) == 1
    assert all(isinstance(connection, CheckedConnection) for connection in made)


def test_files_that_change_are_read_again(tmp_path: Path, ca: Path, logged: Sequence[LogEvent]) -> None:
    clock = Clock()
    own = issue(ROOT, "old.example").write(tmp_path / "own.pem")
    contexts = ClientContexts(clock)
    client = contexts.client_creator(hostname="mx1.example", verify=True, ca=ca, certificate=own)
    OTHER_ROOT.write_certificate(ca)
    issue(ROOT, "new.example").write(own)
    server = issue(OTHER_ROOT, "mx1.example")
    assert not connect(tmp_path, server, client).is_up
    clock.advance(1)
    pair = connect(tmp_path, server, client)
    assert pair.is_up
    assert tls_of(pair.server.connection, False).names == ("new.example",)
    ca.write_text("nothing")
    for _ in range(2):
        clock.advance(1)
        assert connect(tmp_path, server, client).is_up
    assert [event["error"] for event in logged] == [f"{ca}: holds no certificate"]


def test_files_that_cannot_be_used_are_told(tmp_path: Path, contexts: ClientContexts, ca: Path) -> None:
    none = tmp_path / "none.pem"
    for _ in range(2):
        with pytest.raises(TlsError, match=f"^{re.escape(f'{none}: cannot be read: No such file or directory')}$"):
            contexts.client_creator(hostname="mx1.example", verify=True, ca=none)
    with pytest.raises(TlsError, match=f"^{re.escape(f'{ca}: holds no private key')}$"):
        contexts.client_creator(hostname="mx1.example", verify=True, ca=ca, certificate=ca)


def test_a_handshake_that_got_nowhere_has_verified_nobody(contexts: ClientContexts, ca: Path) -> None:
    client = contexts.client_creator(hostname="mx1.example", verify=True, ca=ca)
    assert verifyObject(IOpenSSLClientConnectionCreator, client)
    connection = client.clientConnectionForTLS(None)  # type: ignore[arg-type]
    assert outcome_of(connection) == PeerCheck(False, "no certificate was shown")


def test_of_thousands_of_names_only_those_are_understood_that_may_be_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    understood: list[bytes] = []
    from_bytes = DNSPattern.from_bytes

    def counted(name: bytes) -> DNSPattern:
        understood.append(name)
        return from_bytes(name)

    monkeypatch.setattr(DNSPattern, "from_bytes", counted)
    names = [f"{kind}n{number}.example" for number in range(2000) for kind in ("", "*.")]
    wild = issue(ROOT, "mx.other.example", *names, "*.n*.example", "*").certificate
    for host, expected in (
        ("N7.example", True),
        ("mx.n7.example", True),
        ("a.mx.n7.example", False),
        ("xn--bcher-kva.n7.example", False),
        ("mx.example", False),
        ("mx", False),
    ):
        understood.clear()
        assert is_of(wild, host) is expected
        assert len(understood) <= 2
