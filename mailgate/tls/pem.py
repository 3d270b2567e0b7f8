"""Certificates and keys in PEM files, and the layouts of folders that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificates

from mailgate.tls.names import MALFORMED, dns_names

__all__ = ["KeyPair", "PrivateKey", "Source", "TlsError", "read_certificates", "read_key_pair", "sources"]

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey

#: What certbot calls the certificate with its chain, and the key.
_FULL_CHAIN, _PRIVATE_KEY = "fullchain.pem", "privkey.pem"


class TlsError(ValueError):
    """What is wrong with settings or files of TLS: `errors` are lines for an administrator, "PATH: what is wrong"."""

    def __init__(self, *errors: str) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Source:
    """Where a certificate and its key are read from: the same file twice where one holds both."""

    certificate: Path
    key: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """Each file once."""
        return (self.certificate,) if self.key == self.certificate else (self.certificate, self.key)


@dataclass(frozen=True, slots=True, eq=False)
class KeyPair:
    """A certificate with its key. `chain` begins with the certificate's issuer; `names` are DNS names, lower case."""

    path: Path
    certificate: Certificate
    chain: tuple[Certificate, ...]
    names: tuple[str, ...]
    key: PrivateKey = field(repr=False)


def sources(path: Path) -> list[Source]:
    """What `path` holds: a PEM file, or a folder of them, by file name. OSError where the folder cannot be listed.

    In a folder these count: NAME.pem with certificate, chain and key; NAME.crt beside NAME.key; NAME/fullchain.pem
    beside NAME/privkey.pem; or these two in the folder itself, and then nothing else. Hidden files do not count. One
    of two that is missing is found out when they are read.
    """
    if not path.is_dir():
        return [Source(path, path)]
    if _is_certbot(path):
        return [Source(path / _FULL_CHAIN, path / _PRIVATE_KEY)]
    found: dict[Source, None] = {}
    for entry in sorted(path.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.suffix == ".pem" and not entry.is_dir():
            found[Source(entry, entry)] = None
        elif entry.suffix in (".crt", ".key"):
            found[Source(entry.with_suffix(".crt"), entry.with_suffix(".key"))] = None
        elif _may_be_certbot(entry):
            found[Source(entry / _FULL_CHAIN, entry / _PRIVATE_KEY)] = None
    return list(found)


def _is_certbot(folder: Path) -> bool:
    return (folder / _FULL_CHAIN).exists() or (folder / _PRIVATE_KEY).exists()


def _may_be_certbot(folder: Path) -> bool:
    """Whether it is, or nobody can tell: to read it is then an error of this folder alone."""
    try:
        return _is_certbot(folder)
    except PermissionError:
        return True


def read_key_pair(source: Source) -> KeyPair:
    """The key, the certificate that belongs to it, and its chain, in whatever order they stand; TlsError."""
    certificates = read_certificates(source.certificate)
    key = _read_key(source.key)
    try:
        own = key.public_key()
        certificate = next((one for one in certificates if one.public_key() == own), None)
        names = dns_names(certificate) if certificate is not None else ()
    except MALFORMED as error:
        raise TlsError(f"{source.certificate}: holds a certificate that cannot be understood") from error
    if certificate is None:
        raise TlsError(f"{source.key}: the private key does not belong to the certificate")
    chain = _chain(certificate, [one for one in certificates if one != certificate])
    return KeyPair(source.certificate, certificate, chain, names, key)


def read_certificates(path: Path) -> list[Certificate]:
    """Every certificate of a PEM file, at least one; TlsError."""
    content = _read(path)
    if b"CERTIFICATE-----" not in content:
        raise TlsError(f"{path}: holds no certificate")
    try:
        return load_pem_x509_certificates(content)
    except MALFORMED as error:
        raise TlsError(f"{path}: holds a certificate that cannot be understood") from error


def _read_key(path: Path) -> PrivateKey:
    content = _read(path)
    if b"PRIVATE KEY-----" not in content:
        raise TlsError(f"{path}: holds no private key{_beside(path)}")
    try:
        key = load_pem_private_key(content, None)
    except TypeError as error:
        raise TlsError(f"{path}: the private key is encrypted, and nobody can be asked for its passphrase") from error
    except MALFORMED:
        # its text may quote the key
        raise TlsError(f"{path}: holds a private key that cannot be understood") from None
    if not isinstance(key, PrivateKey):
        raise TlsError(f"{path}: a private key of this kind does not serve TLS")
    return key


def _beside(path: Path) -> str:
    """What to do where the key lies in a file beside, which counts for a .crt only."""
    key, crt = path.with_suffix(".key"), path.with_suffix(".crt")
    if path.suffix != ".pem" or not key.exists():
        return ""
    return f": append {key.name} to it, or call it {crt.name}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: cannot be read: {error.strerror}") from error


def _chain(certificate: Certificate, others: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """`others`, each issuer behind what it issued (RFC 5246 section 7.4.2), then those that issued nothing here."""
    left = list(dict.fromkeys(others))
    chain = []
    last = certificate
    while (issuer := next((one for one in left if one.subject == last.issuer), None)) is not None:
        left.remove(issuer)
        chain.append(issuer)
        last = issuer
    return (*chain, *left)
