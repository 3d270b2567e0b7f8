"""What is told of a handshake, and what ties an authentication to it."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_ASN1, load_certificate
from twisted.internet.task import Clock

from mailgate.envelope import Tls
from mailgate.tls.check import PeerCheck, outcome_of
from mailgate.tls.info import channel_bindings, tls_of
from mailgate.tls.store import CertificateStore
from tests.unit.certificates import Issued, authority, issue
from tests.unit.tls_pair import Pair, PlainClient

ROOT = authority()
VERSIONS = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}


def connect(tmp_path: Path, server: Issued, context: SSL.Context, name: str = "") -> Pair:
    store = CertificateStore(server.write(tmp_path / "server.pem"), Clock())
    return Pair(store.server_creator("request"), PlainClient(context, name))


def client_context(shown: Issued | None = None, version: str = "TLSv1.3") -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(VERSIONS[version])
    # certificates signed with SHA-1 are still met
    context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
    if shown is not None:
        context.use_certificate(shown.certificate)
        context.use_privatekey(shown.key)
    return context


@pytest.mark.parametrize("version", VERSIONS)
def test_both_ends_tell_of_the_handshake(tmp_path: Path, version: str) -> None:
    server = issue(ROOT, "mx.example")
    client = issue(ROOT, "Client.Example", "*.client.example", "Ann@Client.example", "192.0.2.1", subject="Ann, Inc")
    pair = connect(tmp_path, server, client_context(client, version), "MX.example")
    assert pair.is_up
    cipher = pair.client.connection.get_cipher_name() or ""
    assert tls_of(pair.server.connection, True) == Tls(
        version=version,
        cipher=cipher,
        server_name="mx.example",
        subject="CN=Ann\\, Inc",
        fingerprint=client.fingerprint,
        names=("client.example", "*.client.example", "ann@client.example"),
        is_verified=True,
    )
    assert tls_of(pair.client.connection, False) == Tls(
        version=version,
        cipher=cipher,
        server_name="mx.example",
        subject="CN=mx.example",
        fingerprint=server.fingerprint,
        names=("mx.example",),
    )


def test_a_peer_without_a_certificate_is_never_verified(tmp_path: Path) -> None:
    pair = connect(tmp_path, issue(ROOT, "mx.example"), client_context())
    tls = tls_of(pair.server.connection, True)
    assert (tls.version, tls.subject, tls.fingerprint, tls.names, tls.server_name) == ("TLSv1.3", "", "", (), "")
    assert not tls.is_verified


@pytest.mark.parametrize("name", ["a\nb", "x\x1b[2J", "\u00e9.example", "a b", "<mx>"])
def test_a_server_name_that_is_none_is_not_passed_on(tmp_path: Path, name: str) -> None:
    pair = connect(tmp_path, issue(ROOT, "mx.example"), client_context(), name)
    assert pair.is_up
    assert tls_of(pair.server.connection, False).server_name == ""


def test_text_of_a_certificate_cannot_change_the_line_it_is_written_to(tmp_path: Path) -> None:
    client = issue(
        None, "good.example", "a\r\nb.example", "x\x1b@example", "a b", subject="Eve\r\nX: \x1b[2J\u2028\u202e"
    )
    pair = connect(tmp_path, issue(ROOT, "mx.example"), client_context(client))
    tls = tls_of(pair.server.connection, False)
    assert tls.subject == "CN=Eve??X: ?[2J??"
    assert tls.names == ("good.example",)


def patched(certificate: Issued, old: bytes, new: bytes) -> SSL.Context:
    """A client that shows the certificate with other octets in it."""
    der = certificate.certificate.public_bytes(Encoding.DER)
    assert der.count(old) == 1
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.use_certificate(load_certificate(FILETYPE_ASN1, der.replace(old, new)))
    context.use_privatekey(certificate.key)
    return context


def test_names_that_are_malformed_are_none(tmp_path: Path) -> None:
    context = patched(issue(None, "qqq.example", subject="Eve"), b"qqq.example", b"q\xffq.example")
    pair = connect(tmp_path, issue(ROOT, "mx.example"), context)
    assert pair.is_up
    tls = tls_of(pair.server.connection, False)
    assert (tls.subject, tls.names, len(tls.fingerprint)) == ("CN=Eve", (), 64)


def test_a_certificate_that_only_openssl_understands_counts_as_none(tmp_path: Path) -> None:
    version_3, version_9 = bytes.fromhex("a003020102"), bytes.fromhex("a003020108")
    pair = connect(tmp_path, issue(ROOT, "mx.example"), patched(issue(None, "x"), version_3, version_9))
    assert pair.is_up
    assert outcome_of(pair.server.connection) == PeerCheck(False, "the certificate cannot be understood")
    tls = tls_of(pair.server.connection, True)
    assert (tls.subject, tls.fingerprint, tls.is_verified) == ("", "", False)
    assert set(channel_bindings(pair.server.connection, is_server=True)) == {"tls-exporter", "tls-server-end-point"}


def signed_with_sha1() -> Issued:
    """A certificate that says so of itself; nobody looks at the signature of one that is signed by itself."""
    made = issue(None, "mx.example", key="rsa")
    with_sha256, with_sha1 = bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105")
    der = made.certificate.public_bytes(Encoding.DER).replace(with_sha256, with_sha1)
    return Issued(load_der_x509_certificate(der), made.key)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("server", "digest"),
    [
        (issue(ROOT, "mx.example"), "sha256"),
        (issue(ROOT, "mx.example", key="rsa", algorithm=SHA384()), "sha384"),
        (signed_with_sha1(), "sha256"),
    ],
)
def test_both_ends_have_the_same_channel_bindings(tmp_path: Path, version: str, server: Issued, digest: str) -> None:
    context = client_context(version=version)
    pair = connect(tmp_path, server, context)
    assert pair.is_up
    der = server.certificate.public_bytes(Encoding.DER)
    bindings = channel_bindings(pair.server.connection, is_server=True)
    assert bindings == channel_bindings(pair.client.connection, is_server=False)
    assert bindings["tls-server-end-point"] == hashlib.new(digest, der).digest()
    if version == "TLSv1.3":
        assert len(bindings["tls-exporter"]) == 32
        other = connect(tmp_path, server, context)
        assert channel_bindings(other.server.connection, is_server=True)["tls-exporter"] != bindings["tls-exporter"]
    else:
        assert list(bindings) == ["tls-server-end-point"]


def test_a_signature_without_a_hash_gives_no_end_point(tmp_path: Path) -> None:
    pair = connect(tmp_path, issue(None, "mx.example", key="ed25519"), client_context())
    assert pair.is_up
    bindings = channel_bindings(pair.server.connection, is_server=True)
    assert list(bindings) == ["tls-exporter"]
    assert channel_bindings(pair.client.connection, is_server=False) == bindings
