"""The server's certificates: which one is shown, when files are read again, and what clients must show."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cryptography.x509 import Certificate
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from mailgate.tls.check import PeerCheck, outcome_of
from mailgate.tls.pem import KeyPair, Source, TlsError, read_key_pair
from mailgate.tls.store import CertificateStore, ClientCertificates
from tests.unit.certificates import Issued, authority, issue
from tests.unit.tls_pair import Pair, PlainClient

ROOT = authority()
OTHER_ROOT = authority("Other authority")
MIDDLE = authority("Middle", ROOT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three certificates."""
    folder = tmp_path / "tls"
    folder.mkdir()
    issue(ROOT, "first.example").write(folder / "a.pem")
    issue(ROOT, "mx1.example.org", "mail.example.org").write(folder / "b.pem")
    issue(MIDDLE, "*.example.org", "xn--bcher-kva.example").write(folder / "c.pem")
    return folder


@pytest.fixture
def logged() -> Iterator[Sequence[LogEvent]]:
    with capturedLogs() as events:
        yield events


def client_context(
    shown: Issued | None = None, *, newest: int = SSL.TLS1_3_VERSION, ciphers: str = "DEFAULT"
) -> SSL.Context:
    """A client that takes whatever server, and shows this certificate."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    # so that it could speak TLS 1.1
    context.set_cipher_list(f"{ciphers}:@SECLEVEL=0".encode())
    context.set_min_proto_version(SSL.TLS1_VERSION)
    context.set_max_proto_version(newest)
    if shown is not None:
        context.use_certificate(shown.certificate)
        context.use_privatekey(shown.key)
        for certificate in shown.chain:
            context.add_extra_chain_cert(certificate)
    return context


def connect(
    store: CertificateStore, name: str = "", mode: ClientCertificates = "none", context: SSL.Context | None = None
) -> Pair:
    return Pair(store.server_creator(mode), PlainClient(context or client_context(), name))


def shown(pair: Pair) -> Certificate:
    assert pair.is_up
    certificate = pair.client.connection.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    return certificate


def first_name(store: CertificateStore, name: str = "") -> str:
    """The common name of the certificate that a client is shown who asks for `name`."""
    return shown(connect(store, name)).subject.rfc4514_string().removeprefix("CN=")


@pytest.mark.parametrize(
    ("asked", "common_name"),
    [
        ("mx1.example.org", "mx1.example.org"),
        ("MAIL.Example.ORG", "mx1.example.org"),
        ("mail.example.org.", "mx1.example.org"),
        ("www.example.org", "*.example.org"),
        ("xn--bcher-kva.example", "*.example.org"),
        ("first.example", "first.example"),
        ("a.b.example.org", "first.example"),
        ("example.org", "first.example"),
        ("", "first.example"),
        ("\x01\x7f\u00e9", "first.example"),
        ("*" * 255, "first.example"),
    ],
)
def test_the_name_asked_for_decides(folder: Path, asked: str, common_name: str) -> None:
    assert first_name(CertificateStore(folder, Clock()), asked) == common_name


@pytest.mark.parametrize(
    ("hostname", "common_name"),
    [("Mail.Example.org", "mx1.example.org"), ("gw.example.org", "*.example.org"), ("gw.test", "first.example")],
)
def test_by_default_the_gateways_own_certificate_is_shown(folder: Path, hostname: str, common_name: str) -> None:
    store = CertificateStore(folder, Clock(), hostname=hostname)
    assert first_name(store) == first_name(store, "unknown.test") == common_name


def test_the_chain_is_sent(folder: Path) -> None:
    pair = connect(CertificateStore(folder, Clock()), "www.example.org")
    chain = pair.client.connection.get_peer_cert_chain(as_cryptography=True)
    assert chain is not None
    assert chain[1:] == [MIDDLE.certificate]


def test_the_first_file_of_two_with_one_name_is_used(folder: Path) -> None:
    issue(ROOT, "first.example", subject="later").write(folder / "z.pem")
    assert first_name(CertificateStore(folder, Clock()), "first.example") == "first.example"


def test_contexts_are_built_once(folder: Path) -> None:
    store = CertificateStore(folder, Clock())
    pairs = [connect(store, "mail.example.org") for _ in range(3)]
    assert len({id(pair.server.connection.get_context()) for pair in pairs}) == 1


def test_rsa_and_ecdsa_for_one_name(tmp_path: Path) -> None:
    issue(MIDDLE, "mx.example", key="rsa").write(tmp_path / "rsa.pem")
    issue(authority("Second", OTHER_ROOT), "mx.example").write(tmp_path / "ecdsa.pem")
    store = CertificateStore(tmp_path, Clock())
    kinds = []
    for suite in ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"):
        pair = connect(store, context=client_context(newest=SSL.TLS1_2_VERSION, ciphers=suite))
        kinds.append(type(shown(pair).public_key()).__name__)
        own = pair.server.connection.get_certificate(as_cryptography=True)
        assert own == shown(pair)
    assert kinds == ["RSAPublicKey", "ECPublicKey"]


def test_a_session_does_not_hide_which_of_two_certificates_was_shown(folder: Path) -> None:
    issue(ROOT, "mx1.example.org", "mail.example.org", key="rsa").write(folder / "rsa.pem")
    assert not is_resumed(CertificateStore(folder, Clock()), "none")


def test_a_changed_file_is_read_again_within_a_second(tmp_path: Path) -> None:
    clock = Clock()
    path = issue(ROOT, "old.example").write(tmp_path / "one.pem")
    store = CertificateStore(path, clock)
    before = connect(store)
    issue(ROOT, "replaced.example").write(path)
    clock.advance(0.9)
    assert first_name(store) == "old.example"
    clock.advance(0.1)
    assert first_name(store) == "replaced.example"
    assert before.is_up


def test_a_folder_is_seen_to_grow_and_to_shrink(folder: Path) -> None:
    clock = Clock()
    store = CertificateStore(folder, clock)
    (folder / "mx2").mkdir()
    added = issue(ROOT, "mx2.example")
    (folder / "mx2" / "fullchain.pem").write_bytes(added.certificate_pem)
    (folder / "mx2" / "privkey.pem").write_bytes(added.key_pem)
    (folder / "a.pem").unlink()
    clock.advance(1)
    assert first_name(store, "mx2.example") == "mx2.example"
    assert first_name(store) == "mx1.example.org"


def test_a_broken_change_keeps_the_old_and_is_logged_once(folder: Path, logged: Sequence[LogEvent]) -> None:
    clock = Clock()
    store = CertificateStore(folder, clock)
    renewed = issue(ROOT, "first.example", subject="renewed")
    (folder / "a.pem").write_bytes(renewed.certificate_pem)
    for _ in range(3):
        clock.advance(1)
        assert first_name(store) == "first.example"
    assert [event["error"] for event in logged] == [f"{folder / 'a.pem'}: holds no private key"]
    renewed.write(folder / "a.pem")
    clock.advance(1)
    assert first_name(store) == "renewed"
    assert len(logged) == 2


def test_one_broken_file_does_not_hold_up_the_others(folder: Path, tmp_path: Path, logged: Sequence[LogEvent]) -> None:
    clock = Clock()
    ca = ROOT.write_certificate(tmp_path / "ca.pem")
    store = CertificateStore(folder, clock, client_ca=ca)
    (folder / "a.pem").write_text("half of")
    ca.write_text("nothing")
    issue(ROOT, "mx1.example.org", subject="renewed").write(folder / "b.pem")
    (folder / "c.pem").unlink()
    (folder / "d.pem").write_text("never was one")
    issue(ROOT, "new.example").write(folder / "e.pem")
    clock.advance(1)
    assert first_name(store, "first.example") == first_name(store) == "first.example"
    assert first_name(store, "mx1.example.org") == "renewed"
    assert first_name(store, "new.example") == "new.example"
    assert first_name(store, "www.example.org") == "first.example"
    assert connect(store, "", "require", client_context(issue(ROOT, "x"))).is_up
    lines = [formatEvent(event) for event in logged]
    rest = "what was read of it before, if anything, stays in force; other files were read"
    assert lines[:3] == [f"{path}: holds no certificate; {rest}" for path in (folder / "a.pem", folder / "d.pem", ca)]
    assert re.fullmatch(r"certificate for mx1\.example\.org read again, valid until \d{4}-\d\d-\d\d", lines[3])
    assert re.fullmatch(r"certificate for new\.example read, valid until \d{4}-\d\d-\d\d", lines[4])
    assert lines[5:] == ["the certificate for *.example.org is gone"]


def test_a_folder_that_nobody_may_enter_does_not_hold_up_the_others(
    folder: Path, logged: Sequence[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    store = CertificateStore(folder, clock)
    closed = folder / "private"
    closed.mkdir()
    exists = Path.exists

    def guarded(path: Path) -> bool:
        if path.parent == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", guarded)
    issue(ROOT, "mx1.example.org", subject="renewed").write(folder / "b.pem")
    clock.advance(1)
    assert first_name(store, "mx1.example.org") == "renewed"
    assert f"{closed / 'fullchain.pem'}: cannot be read: " in formatEvent(logged[0])


def test_a_certificate_that_moves_is_not_gone(folder: Path, logged: Sequence[LogEvent]) -> None:
    clock = Clock()
    store = CertificateStore(folder, clock)
    (folder / "a.pem").rename(folder / "z.pem")
    clock.advance(1)
    assert first_name(store, "first.example") == "first.example"
    (line,) = map(formatEvent, logged)
    assert line.startswith("certificate for first.example read, valid until ")


def test_at_the_start_every_file_must_be_right(folder: Path, tmp_path: Path) -> None:
    (folder / "a.pem").write_text("half of")
    (folder / "c.pem").write_bytes(issue(ROOT, "x").certificate_pem)
    with pytest.raises(TlsError) as raised:
        CertificateStore(folder, Clock(), client_ca=tmp_path / "none.pem")
    assert raised.value.errors == (
        f"{folder / 'a.pem'}: holds no certificate",
        f"{folder / 'c.pem'}: holds no private key",
        f"{tmp_path / 'none.pem'}: cannot be read: No such file or directory",
    )


def test_a_folder_that_is_gone_keeps_the_old(folder: Path, logged: Sequence[LogEvent]) -> None:
    clock = Clock()
    store = CertificateStore(folder, clock)
    folder.rename(folder.with_name("away"))
    clock.advance(1)
    assert first_name(store) == "first.example"
    assert [event["error"] for event in logged] == [f"{folder}: cannot be read: No such file or directory"]


def test_a_handshake_under_way_survives_a_change(folder: Path) -> None:
    clock = Clock()
    store = CertificateStore(folder, clock)
    server = store.connection("request")
    server.set_accept_state()
    client = PlainClient(client_context(), "mail.example.org").clientConnectionForTLS(None)
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    server.bio_write(client.bio_read(65536))
    for name in ("a", "b", "c"):
        issue(ROOT, "new.example").write(folder / f"{name}.pem")
    clock.advance(1)
    assert first_name(store) == "new.example"
    gc.collect()
    with pytest.raises(SSL.WantReadError):
        server.do_handshake()
    client.bio_write(server.bio_read(65536))
    client.do_handshake()
    certificate = client.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    assert certificate.subject.rfc4514_string() == "CN=mx1.example.org"


@pytest.mark.parametrize(
    ("minimum", "newest", "version"),
    [
        ("1.2", SSL.TLS1_1_VERSION, None),
        ("1.2", SSL.TLS1_2_VERSION, "TLSv1.2"),
        ("1.2", SSL.TLS1_3_VERSION, "TLSv1.3"),
        ("1.3", SSL.TLS1_2_VERSION, None),
        ("1.3", SSL.TLS1_3_VERSION, "TLSv1.3"),
    ],
)
def test_old_versions_are_refused(folder: Path, minimum: str, newest: int, version: str | None) -> None:
    store = CertificateStore(folder, Clock(), minimum_version=minimum)  # type: ignore[arg-type]
    pair = connect(store, context=client_context(newest=newest))
    if version is None:
        assert not pair.is_up
        assert "unsupported protocol" in str(pair.server.lost)
    else:
        assert pair.is_up
        assert pair.server.connection.get_protocol_version_name() == version


@pytest.mark.parametrize(
    ("ours", "theirs", "is_up"),
    [
        ("", "ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("", "ECDHE-ECDSA-CHACHA20-POLY1305", True),
        ("", "ECDHE-ECDSA-AES128-SHA256", False),
        ("", "AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256:aNULL", False),
        ("ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES128-SHA256", True),
    ],
)
def test_ciphers_of_tls_1_2(folder: Path, ours: str, theirs: str, is_up: bool) -> None:
    store = CertificateStore(folder, Clock(), ciphers=ours)
    pair = connect(store, context=client_context(newest=SSL.TLS1_2_VERSION, ciphers=theirs))
    assert pair.is_up is is_up


def test_a_client_cannot_renegotiate(folder: Path) -> None:
    pair = connect(CertificateStore(folder, Clock()), context=client_context(newest=SSL.TLS1_2_VERSION))
    assert pair.is_up
    pair.client.connection.renegotiate()
    pair.client.send(b"again")
    pair.run()
    assert pair.server.connection.total_renegotiations() == 0
    assert b"again" not in pair.server.received


def test_sessions_are_resumed(folder: Path) -> None:
    store = CertificateStore(folder, Clock())
    assert is_resumed(store, "none")


def is_resumed(store: CertificateStore, mode: ClientCertificates, shown: Issued | None = None) -> bool:
    """Whether a second connection goes on with the session of the first: in TLS 1.2 it keeps its master key."""
    client = PlainClient(client_context(shown, newest=SSL.TLS1_2_VERSION), "mail.example.org")
    first = Pair(store.server_creator(mode), client)
    assert first.is_up
    client.session = first.client.connection.get_session()
    second = Pair(store.server_creator(mode), client)
    assert second.is_up
    assert outcome_of(second.server.connection) == outcome_of(first.server.connection)
    return first.client.connection.master_key() == second.client.connection.master_key()


@pytest.mark.parametrize("mode", ["request", "require"])
def test_a_client_that_comes_again_is_verified_again(folder: Path, tmp_path: Path, mode: ClientCertificates) -> None:
    ca = ROOT.write_certificate(tmp_path / "ca.pem")
    store = CertificateStore(folder, Clock(), client_ca=ca)
    assert not is_resumed(store, mode, issue(ROOT, "client.example"))


def test_a_session_of_tls_1_3_does_not_stand_for_a_certificate(folder: Path, tmp_path: Path) -> None:
    store = CertificateStore(folder, Clock(), client_ca=ROOT.write_certificate(tmp_path / "ca.pem"))
    client = PlainClient(client_context(issue(ROOT, "client.example")))
    for _ in range(2):
        pair = Pair(store.server_creator("require"), client)
        assert pair.is_up
        assert outcome_of(pair.server.connection) == PeerCheck(True, "")
        client.session = pair.client.connection.get_session()


@pytest.mark.parametrize("newest", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("name", ["", "mail.example.org"])
@pytest.mark.parametrize(
    ("mode", "client", "is_up", "reason"),
    [
        ("request", None, True, "no certificate was shown"),
        ("request", issue(ROOT, "client.example"), True, ""),
        ("request", issue(MIDDLE, "client.example"), True, ""),
        ("request", issue(OTHER_ROOT, "x"), True, "the issuer CN=Other authority is not known here"),
        ("request", issue(None, "x"), True, "the certificate is signed by itself"),
        ("request", issue(ROOT, "x", days=(-9, -2)), True, "the certificate expired on "),
        ("request", issue(ROOT, "x", days=(2, 9)), True, "the certificate is valid from "),
        ("request", issue(ROOT, "x", usages=[ExtendedKeyUsageOID.CLIENT_AUTH]), True, ""),
        ("request", issue(ROOT, "x", usages=[ExtendedKeyUsageOID.SERVER_AUTH]), True, ""),
        (
            "request",
            issue(ROOT, "x", usages=[ExtendedKeyUsageOID.CODE_SIGNING]),
            True,
            "does not hold: invalid purpose",
        ),
        ("require", issue(ROOT, "client.example"), True, ""),
        ("require", issue(ROOT, "x", usages=[ExtendedKeyUsageOID.SERVER_AUTH]), True, ""),
        ("require", issue(OTHER_ROOT, "x"), False, "the issuer CN=Other authority is not known here"),
        ("require", issue(ROOT, "x", days=(-9, -2)), False, "the certificate expired on "),
        ("require", None, False, "no certificate was shown"),
        ("none", issue(ROOT, "client.example"), True, "no certificate was asked for"),
    ],
)
def test_certificates_of_clients(
    folder: Path,
    tmp_path: Path,
    mode: ClientCertificates,
    client: Issued | None,
    is_up: bool,
    reason: str,
    name: str,
    newest: int,
) -> None:
    store = CertificateStore(folder, Clock(), client_ca=ROOT.write_certificate(tmp_path / "ca.pem"))
    pair = connect(store, name, mode, client_context(client, newest=newest))
    assert pair.is_up is is_up
    outcome = outcome_of(pair.server.connection)
    assert outcome.is_verified is (not reason)
    assert reason in outcome.reason
    assert isinstance(pair.server.lost, SSL.Error) is not is_up


@pytest.mark.parametrize("mode", ["request", "require"])
def test_without_authorities_any_certificate_will_do(folder: Path, mode: ClientCertificates) -> None:
    store = CertificateStore(folder, Clock())
    for client in (issue(None, "x"), issue(ROOT, "x"), issue(MIDDLE, "x", days=(-9, -2))):
        pair = connect(store, "", mode, client_context(client))
        assert pair.is_up
        assert not outcome_of(pair.server.connection).is_verified
    assert connect(store, "", mode).is_up is (mode == "request")


def test_one_client_that_is_refused_does_no_harm_to_the_next(folder: Path, tmp_path: Path) -> None:
    store = CertificateStore(folder, Clock(), client_ca=ROOT.write_certificate(tmp_path / "ca.pem"))
    for _ in range(3):
        assert not connect(store, "mail.example.org", "require", client_context(issue(OTHER_ROOT, "x"))).is_up
        assert connect(store, "", "require", client_context(issue(ROOT, "x"))).is_up


@pytest.mark.parametrize("name", ["", "mail.example.org"])
def test_clients_are_told_whose_certificates_we_want(folder: Path, tmp_path: Path, name: str) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(ROOT.certificate_pem + OTHER_ROOT.certificate_pem)
    pair = connect(CertificateStore(folder, Clock(), client_ca=ca), name, "request")
    wanted = pair.client.connection.get_client_ca_list(as_cryptography=True)
    assert wanted == [ROOT.certificate.subject, OTHER_ROOT.certificate.subject]


def test_an_authority_need_not_be_a_root(folder: Path, tmp_path: Path) -> None:
    store = CertificateStore(folder, Clock(), client_ca=MIDDLE.write_certificate(tmp_path / "ca.pem"))
    assert connect(store, "", "require", client_context(issue(MIDDLE, "x"))).is_up
    assert not connect(store, "", "require", client_context(issue(ROOT, "x"))).is_up


def test_authorities_that_change_are_read_again(folder: Path, tmp_path: Path) -> None:
    clock = Clock()
    ca = ROOT.write_certificate(tmp_path / "ca.pem")
    store = CertificateStore(folder, clock, client_ca=ca)
    client = client_context(issue(OTHER_ROOT, "x"))
    assert not connect(store, "", "require", client).is_up
    OTHER_ROOT.write_certificate(ca)
    clock.advance(1)
    assert connect(store, "", "require", client).is_up


def test_certificates_that_end_soon_are_told(tmp_path: Path) -> None:
    for name, days in (("a", (-9.0, -1.5)), ("b", (-9.0, 13.5)), ("c", (-9.0, 14.5))):
        issue(None, f"{name}.example", days=days).write(tmp_path / f"{name}.pem")
    issue(None, days=(-9, -1)).write(tmp_path / "d.pem")
    issue(None, "e.example", days=(0.9, 90)).write(tmp_path / "e.pem")
    for path in tmp_path.iterdir():
        path.chmod(0o640)
    clock = Clock()
    clock.advance(time.time())
    store = CertificateStore(tmp_path, clock)
    ends = [
        rf"{tmp_path}/a\.pem: the certificate for a\.example expired on \d{{4}}-\d\d-\d\d",
        rf"{tmp_path}/b\.pem: the certificate for b\.example expires on \d{{4}}-\d\d-\d\d",
        rf"{tmp_path}/d\.pem: the certificate expired on \d{{4}}-\d\d-\d\d",
        rf"{tmp_path}/e\.pem: the certificate for e\.example is not valid before \d{{4}}-\d\d-\d\d \d\d:\d\d UTC",
    ]
    warnings = store.warnings()
    assert len(warnings) == len(ends)
    assert all(re.fullmatch(end, warning) for end, warning in zip(ends, warnings, strict=True))
    clock.advance(86_400)
    assert len(store.warnings()) == 4


def test_keys_that_everybody_can_read_are_told(tmp_path: Path) -> None:
    issued = issue(None, "a.example")
    (tmp_path / "a.crt").write_bytes(issued.certificate_pem)
    key = tmp_path / "a.key"
    key.write_bytes(issued.key_pem)
    clock = Clock()
    clock.advance(time.time())
    (tmp_path / "a.crt").chmod(0o644)
    key.chmod(0o644)
    (line,) = CertificateStore(tmp_path, clock).warnings()
    assert line.startswith(f"{key}: holds secrets and has mode 0644")
    key.chmod(0o640)
    assert CertificateStore(tmp_path, clock).warnings() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ciphers": "NOPE"}, 'ciphers: OpenSSL does not take "NOPE": no cipher match'),
        ({"client_ca": Path("none.pem")}, "none.pem: cannot be read: No such file or directory"),
    ],
)
def test_settings_that_cannot_be_used(folder: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(TlsError, match=f"^{re.escape(message)}$"):
        CertificateStore(folder, Clock(), **settings)  # type: ignore[arg-type]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    weak = issue(None, "mx.example", key="rsa1024").write(tmp_path / "weak.pem")
    for path, what in (
        (empty, "holds no certificate"),
        (tmp_path / "none", "cannot be read: No such file or directory"),
        (weak, "OpenSSL refuses the certificate: ee key too small"),
    ):
        with pytest.raises(TlsError, match=f"^{re.escape(f'{path}: {what}')}$"):
            CertificateStore(path, Clock())


def test_files_that_have_not_changed_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    store = CertificateStore(folder, clock)
    read: list[Path] = []

    def reading(source: Source) -> KeyPair:
        read.append(source.certificate)
        return read_key_pair(source)

    monkeypatch.setattr("mailgate.tls.store.read_key_pair", reading)
    issue(ROOT, "mx1.example.org", subject="renewed").write(folder / "b.pem")
    clock.advance(1)
    assert first_name(store, "mx1.example.org") == "renewed"
    assert first_name(store) == "first.example"
    assert read == [folder / "b.pem"]


def test_the_creator_is_one() -> None:
    class Store(CertificateStore):
        def __init__(self) -> None:
            pass

    assert verifyObject(IOpenSSLServerConnectionCreator, Store().server_creator("none"))
