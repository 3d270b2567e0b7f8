"""OpenSSL contexts: what holds for every connection, whichever side we are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from cryptography.x509 import Certificate
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags

from mailgate.tls.pem import KeyPair, TlsError

__all__ = ["MinimumVersion", "new_context", "told", "trust", "use_key_pair"]

#: Versions before 1.2 are never spoken (RFC 8996).
MinimumVersion = Literal["1.2", "1.3"]

_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_OPTIONS = SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE


def new_context(method: int, minimum_version: MinimumVersion) -> SSL.Context:
    """A context without certificates that trusts nobody and keeps no sessions in memory; tickets are untouched."""
    context = SSL.Context(method)
    context.set_min_proto_version(_VERSIONS[minimum_version])
    context.set_options(_OPTIONS)
    # an idle connection then holds no buffers of 16 KiB
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return context


def use_key_pair(context: SSL.Context, pair: KeyPair) -> None:
    """Show this certificate to peers; one of each type of key may be used. TlsError where OpenSSL refuses it."""
    try:
        context.use_certificate(pair.certificate)
        context.use_privatekey(pair.key)
        for certificate in pair.chain:
            context.add_extra_chain_cert(certificate)
    except SSL.Error as error:
        raise TlsError(f"{pair.path}: OpenSSL refuses the certificate: {told(error)}") from error


def trust(context: SSL.Context, path: Path, authorities: Iterable[Certificate]) -> None:
    """Take these authorities (of the file `path`), roots or not, as ends of chains. TlsError where OpenSSL refuses."""
    store = context.get_cert_store()
    if store is None:
        raise TlsError(f"{path}: OpenSSL has no place for authorities")
    store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
    try:
        for certificate in authorities:
            store.add_cert(X509.from_cryptography(certificate))
    except SSL.Error as error:
        raise TlsError(f"{path}: OpenSSL refuses an authority: {told(error)}") from error


def told(error: SSL.Error) -> str:
    """OpenSSL's own words for the error."""
    queue = error.args[0] if error.args else ()
    return str(queue[-1][-1]) if queue else "no reason given"
