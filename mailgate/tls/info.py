"""What a finished handshake came to, and the values that tie an authentication to it."""

from __future__ import annotations

import re

from cryptography.hazmat.primitives.hashes import MD5, SHA1, SHA256
from cryptography.x509 import Certificate
from OpenSSL.SSL import TLS1_3_VERSION, Connection

from mailgate.envelope import Tls
from mailgate.tls.check import fingerprint
from mailgate.tls.names import MALFORMED, printable, subject_names

__all__ = ["channel_bindings", "tls_of"]

_HOSTNAME = re.compile(rb"[A-Za-z0-9_.-]{1,255}")


def tls_of(connection: Connection, is_verified: bool) -> Tls:
    """The handshake of this connection, which must be finished, as a value.

    A server name that no host could have counts as none. A certificate that OpenSSL let pass and that is malformed
    all the same counts as none, and never as verified.
    """
    server_name = connection.get_servername() or b""
    tls = Tls(
        version=connection.get_protocol_version_name(),
        cipher=connection.get_cipher_name() or "",
        server_name=server_name.decode("ascii").lower() if _HOSTNAME.fullmatch(server_name) else "",
    )
    try:
        certificate = connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            return tls
        subject = printable(certificate.subject.rfc4514_string())
    except MALFORMED:
        return tls
    return Tls(
        version=tls.version,
        cipher=tls.cipher,
        server_name=tls.server_name,
        subject=subject,
        fingerprint=fingerprint(certificate),
        names=subject_names(certificate),
        is_verified=is_verified,
    )


def channel_bindings(connection: Connection, is_server: bool) -> dict[str, bytes]:
    """Channel bindings of a finished handshake, by name; those that it has.

    `tls-exporter` (RFC 9266) is there in TLS 1.3 only: before, it is safe only with the extended master secret, of
    which OpenSSL's bindings do not tell. `tls-server-end-point` (RFC 5929 section 4) is not there where the server's
    certificate is signed without a hash of its own (Ed25519).
    """
    bindings: dict[str, bytes] = {}
    if connection.get_protocol_version() == TLS1_3_VERSION:
        bindings["tls-exporter"] = connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
    try:
        if is_server:
            certificate = connection.get_certificate(as_cryptography=True)
        else:
            certificate = connection.get_peer_certificate(as_cryptography=True)
        end_point = _end_point(certificate) if certificate is not None else b""
    except MALFORMED:
        return bindings
    return bindings | {"tls-server-end-point": end_point} if end_point else bindings


def _end_point(certificate: Certificate) -> bytes:
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None:
        return b""
    return certificate.fingerprint(SHA256() if isinstance(algorithm, MD5 | SHA1) else algorithm)
