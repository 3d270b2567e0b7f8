"""Authorities and certificates made for a test, as values and as PEM files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import (
    AuthorityKeyIdentifier,
    BasicConstraints,
    Certificate,
    CertificateBuilder,
    DNSName,
    ExtendedKeyUsage,
    GeneralName,
    IPAddress,
    KeyUsage,
    Name,
    NameAttribute,
    ObjectIdentifier,
    RFC822Name,
    SubjectAlternativeName,
    SubjectKeyIdentifier,
    random_serial_number,
)
from cryptography.x509.oid import NameOID

from mailgate.tls.pem import PrivateKey

__all__ = ["Issued", "authority", "issue", "new_key"]

_SIGNS_CERTIFICATES = KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key and what stands between it and its root; an authority is one too."""

    certificate: Certificate
    key: PrivateKey
    chain: tuple[Certificate, ...] = ()

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        return b"".join(one.public_bytes(Encoding.PEM) for one in self.chain)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def pem(self) -> bytes:
        """The certificate, its chain and its key."""
        return self.certificate_pem + self.chain_pem + self.key_pem

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(SHA256()).hex()

    def write(self, path: Path) -> Path:
        """All of it in one file; gives back its path."""
        path.write_bytes(self.pem)
        return path

    def write_certificate(self, path: Path) -> Path:
        """The certificate alone, as one is trusted; gives back its path."""
        path.write_bytes(self.certificate_pem)
        return path


def new_key(kind: str = "ec") -> PrivateKey:
    """A private key of kind "ec", "rsa", "rsa1024" or "ed25519"."""
    match kind:
        case "ec":
            return ec.generate_private_key(ec.SECP256R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return rsa.generate_private_key(65537, 1024 if kind == "rsa1024" else 2048)


def authority(name: str = "Test authority", parent: Issued | None = None) -> Issued:
    """An authority: a root, or one below `parent`."""
    return _certificate(parent, _subject(name), [], new_key(), is_authority=True)


def issue(
    issuer: Issued | None,
    *names: str,
    subject: str = "",
    key: PrivateKey | str = "ec",
    days: tuple[float, float] = (-1, 90),
    usages: Sequence[ObjectIdentifier] = (),
    algorithm: HashAlgorithm | None = None,
) -> Issued:
    """A certificate for these DNS names, mail addresses and IP addresses, signed by itself where `issuer` is None.

    It is valid between the two `days` from now; `subject` is the common name, by default the first name.
    """
    key = new_key(key) if isinstance(key, str) else key
    common_name = subject or (names[0] if names else "nobody")
    return _certificate(issuer, _subject(common_name), names, key, days=days, usages=usages, algorithm=algorithm)


def _certificate(
    issuer: Issued | None,
    subject: Name,
    names: Sequence[str],
    key: PrivateKey,
    *,
    days: tuple[float, float] = (-1, 90),
    usages: Sequence[ObjectIdentifier] = (),
    algorithm: HashAlgorithm | None = None,
    is_authority: bool = False,
) -> Issued:
    now = datetime.now(UTC)
    signer = issuer.key if issuer is not None else key
    builder = (
        CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if is_authority:
        builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
    if names:
        builder = builder.add_extension(SubjectAlternativeName([_name(one) for one in names]), critical=False)
    if usages:
        builder = builder.add_extension(ExtendedKeyUsage(usages), critical=False)
    has_own_hash = isinstance(signer, ed25519.Ed25519PrivateKey)
    certificate = builder.sign(signer, None if has_own_hash else algorithm or SHA256())  # type: ignore[arg-type]
    is_below_root = issuer is not None and issuer.certificate.issuer != issuer.certificate.subject
    return Issued(certificate, key, (issuer.certificate, *issuer.chain) if issuer is not None and is_below_root else ())


def _subject(name: str) -> Name:
    return Name([NameAttribute(NameOID.COMMON_NAME, name)])


def _name(text: str) -> GeneralName:
    if "@" in text:
        return RFC822Name(text)
    try:
        return IPAddress(ip_address(text))
    except ValueError:
        return DNSName(text)
